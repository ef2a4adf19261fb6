//! The checks, each one question to the database.

mod work;

use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;

use super::Finding;
use crate::commands::database::{explain, is_forbidden, rows_of};

/// Oldest server that Backhaul runs on, as `server_version_num` says it.
const SERVER_MIN: i64 = 150_000;
/// A snapshot that is older keeps dead rows of the queue's tables alive.
const SNAPSHOT_AGE_S_MAX: f64 = 300.0;
/// Leases are on the database's clock, so a wrong local clock is only confusing.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(5);
/// Who may look at what a producer may not.
const LOOK_AS: &str = "ask as a member of backhaul_reader or backhaul_operator";

/// Runs the checks in the order in which they depend on each other.
pub(super) async fn all(pool: &PgPool) -> Result<Vec<Finding>> {
    let mut findings = connection(pool).await.map_err(explain)?;
    let (schema, usable) = match schema(pool).await {
        Err(error) if is_forbidden(&error) => (Finding::skipped("schema", LOOK_AS), true),
        found => found.map_err(explain)?,
    };
    findings.push(schema);
    findings.extend(seen("snapshots", snapshot(pool).await)?);
    findings.extend(seen("roles", roles(pool).await)?);
    if usable {
        findings.extend(seen("workers", work::workers(pool).await)?);
        findings.extend(seen("queue", work::lanes(pool).await)?);
        findings.extend(seen("limits", work::buckets(pool).await)?);
        findings.extend(seen("credentials", work::credentials(pool).await)?);
        findings.extend(seen("sinks", work::sinks(pool).await)?);
    }
    Ok(findings)
}

/// What a check found, or that this login may not look.
fn seen(check: &'static str, found: sqlx::Result<Vec<Finding>>) -> Result<Vec<Finding>> {
    match found {
        Err(error) if is_forbidden(&error) => Ok(vec![Finding::skipped(check, LOOK_AS)]),
        found => found.map_err(explain),
    }
}

async fn one(pool: &PgPool, sql: &str) -> sqlx::Result<Value> {
    rows_of(sql).fetch_one(pool).await
}

async fn connection(pool: &PgPool) -> sqlx::Result<Vec<Finding>> {
    let server = one(
        pool,
        "select current_setting('server_version') as version, current_setting('server_version_num')::int as number,
                current_database() as database, session_user as login, clock_timestamp() as now,
                current_setting('fsync') as fsync, current_setting('max_connections')::int as connections_max,
                pg_is_in_recovery() as standby, current_setting('server_encoding') as encoding,
                -- Of all databases, and not from pg_stat_activity, which hides others' sessions from most logins.
                (select sum(numbackends) from pg_stat_database) as connections",
    )
    .await?;
    let text = |name: &str| server[name].as_str().unwrap_or_default().to_owned();
    let (version, database, login) = (text("version"), text("database"), text("login"));
    let mut findings = vec![if server["number"].as_i64().unwrap_or_default() < SERVER_MIN {
        Finding::failure("connection", format!("Postgres {version}"), "Backhaul needs Postgres 15 or later")
    } else if server["standby"] == true {
        Finding::failure("connection", "the server is a read-only standby", "connect to the primary")
    } else if text("encoding") != "UTF8" {
        let advice = "create the database with encoding UTF8: payloads are Unicode";
        Finding::failure("connection", format!("the database has encoding {}", text("encoding")), advice)
    } else {
        Finding::ok("connection", format!("Postgres {version}, database {database}, as {login}"))
    }];
    if server["fsync"] == "off" {
        findings.push(Finding::warning("durability", "fsync is off", "a power cut destroys the data; for tests only"));
    }
    let (used, max) = (server["connections"].as_i64().unwrap_or(0), server["connections_max"].as_i64().unwrap_or(1));
    findings.push(if used * 10 > max * 9 {
        let advice = "lower database.pool_max or put a pooler in between";
        Finding::warning("connections", format!("{used} of {max} are in use"), advice)
    } else {
        Finding::ok("connections", format!("{used} of {max} are in use"))
    });
    findings.extend(clock(&server["now"], Utc::now()));
    Ok(findings)
}

fn clock(database: &Value, here: DateTime<Utc>) -> Option<Finding> {
    let there: DateTime<Utc> = database.as_str()?.parse().ok()?;
    let skew = (here - there).abs().to_std().unwrap_or_default();
    (skew > CLOCK_SKEW_MAX).then(|| {
        let found = format!("this machine's clock and the database's differ by {} s", skew.as_secs());
        Finding::warning("clock", found, "jobs go by the database's clock, logs by this one: run NTP on both")
    })
}

async fn schema(pool: &PgPool) -> sqlx::Result<(Finding, bool)> {
    let present = one(pool, "select to_regclass('backhaul.migrations') is not null as present").await?;
    if present["present"] != true {
        return Ok((Finding::failure("schema", "there is none", "run `backhaul migrate`"), false));
    }
    let applied =
        one(pool, "select coalesce(max(version), 0) as version from backhaul.migrations where success").await?;
    let (found, known) = (applied["version"].as_i64().unwrap_or(0), backhaul_engine::known_version());
    Ok(match found.cmp(&known) {
        std::cmp::Ordering::Equal => (Finding::ok("schema", format!("version {found}")), true),
        std::cmp::Ordering::Less => {
            let found = format!("version {found}, this program needs {known}");
            (Finding::failure("schema", found, "run `backhaul migrate`"), false)
        }
        std::cmp::Ordering::Greater => {
            let found = format!("version {found}, this program knows {known}");
            (Finding::failure("schema", found, "run the newer program that migrated this database"), false)
        }
    })
}

/// Claims stay fast under an old snapshot, but the dead rows it keeps alive fill the disk.
async fn snapshot(pool: &PgPool) -> sqlx::Result<Vec<Finding>> {
    let all = one(pool, "select pg_has_role(session_user, 'pg_read_all_stats', 'usage') as seen").await?;
    if all["seen"] != true {
        let advice = "others' sessions are hidden: grant pg_read_all_stats to this login, or ask as the owner";
        return Ok(vec![Finding::skipped("snapshots", advice)]);
    }
    let oldest = rows_of(
        "select holder, extract(epoch from clock_timestamp() - since) as age_s, xmin_age from (
             select format('process %s of %s (%s)', pid, coalesce(nullif(application_name, ''), usename, backend_type), state)
                        as holder, xact_start as since, age(coalesce(backend_xmin, backend_xid)) as xmin_age
             from pg_stat_activity
             where coalesce(backend_xmin, backend_xid) is not null and pid <> pg_backend_pid() and datname = current_database()
             union all
             select format('prepared transaction %s', gid), prepared, age(transaction) from pg_prepared_xacts
             where database = current_database()
             union all
             select format('replication slot %s', slot_name), null, age(coalesce(catalog_xmin, xmin)) from pg_replication_slots
             where coalesce(catalog_xmin, xmin) is not null
         ) h order by xmin_age desc limit 1",
    );
    let Some(oldest) = oldest.fetch_optional(pool).await? else {
        return Ok(vec![Finding::ok("snapshots", "none is held")]);
    };
    let holder = oldest["holder"].as_str().unwrap_or_default();
    let transactions = oldest["xmin_age"].as_i64().unwrap_or(0);
    Ok(vec![match oldest["age_s"].as_f64() {
        Some(age) if age <= SNAPSHOT_AGE_S_MAX => {
            Finding::ok("snapshots", format!("the oldest is {age:.0} s old: {holder}"))
        }
        None if transactions < 1_000_000 => {
            Finding::ok("snapshots", format!("{holder} is {transactions} transactions behind"))
        }
        age => {
            let since = age.map(|age| format!(" for {age:.0} s")).unwrap_or_default();
            let found = format!("{holder} has held one{since}, over {transactions} transactions");
            Finding::warning(
                "snapshots",
                found,
                "dead rows pile up until it ends: end that transaction, or drop that slot",
            )
        }
    }])
}

async fn roles(pool: &PgPool) -> sqlx::Result<Vec<Finding>> {
    let rows = rows_of(
        "select w.name, r.oid is not null as present,
                coalesce(pg_has_role(session_user, r.oid, 'member'), false) as member
         from unnest(array['backhaul_producer', 'backhaul_operator', 'backhaul_worker', 'backhaul_reader',
                            'backhaul_ingress']) w (name)
         left join pg_roles r on r.rolname = w.name",
    );
    let rows = rows.fetch_all(pool).await?;
    let named = |wanted: &dyn Fn(&Value) -> bool| {
        let names: Vec<&str> = rows.iter().filter(|row| wanted(row)).filter_map(|row| row["name"].as_str()).collect();
        names.join(", ")
    };
    let missing = named(&|row| row["present"] != true);
    if !missing.is_empty() {
        return Ok(vec![Finding::failure("roles", format!("missing: {missing}"), "run `backhaul migrate`")]);
    }
    let superuser = one(pool, "select rolsuper as yes from pg_roles where rolname = session_user").await?;
    if superuser["yes"] == true {
        let found = "all exist; this login is a superuser and may do everything";
        return Ok(vec![Finding::ok("roles", found)]);
    }
    let member = named(&|row| row["member"] == true);
    Ok(vec![if member.is_empty() {
        let advice = "grant one of them, for example: grant backhaul_producer to <login>";
        Finding::warning("roles", "all exist; this login has none of them", advice)
    } else {
        Finding::ok("roles", format!("all exist; this login has {member}"))
    }])
}
