//! The checks, each one question to the database.

use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;

use super::Finding;
use crate::commands::database::{explain, rows_of};

/// Oldest server that Backhaul runs on, as `server_version_num` says it.
const SERVER_MIN: i64 = 150_000;
/// A snapshot that is older keeps dead rows of the queue's tables alive.
const SNAPSHOT_AGE_S_MAX: f64 = 300.0;
/// Leases are on the database's clock, so a wrong local clock is only confusing.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(5);
/// A worker that is silent for so long is about to lose its jobs.
const SILENCE_S_MAX: f64 = 30.0;

/// Runs the checks in the order in which they depend on each other.
pub(super) async fn all(pool: &PgPool) -> Result<Vec<Finding>> {
    let mut findings = connection(pool).await?;
    let (schema, usable) = schema(pool).await?;
    findings.push(schema);
    findings.push(snapshot(pool).await?);
    findings.extend(roles(pool).await?);
    if usable {
        findings.push(workers(pool).await?);
        findings.push(lanes(pool).await?);
        findings.push(buckets(pool).await?);
        findings.extend(sinks(pool).await?);
    }
    Ok(findings)
}

async fn one(pool: &PgPool, sql: &str) -> Result<Value> {
    rows_of(sql).fetch_one(pool).await.map_err(explain)
}

async fn connection(pool: &PgPool) -> Result<Vec<Finding>> {
    let server = one(
        pool,
        "select current_setting('server_version') as version, current_setting('server_version_num')::int as number,
                current_database() as database, session_user as login, clock_timestamp() as now,
                current_setting('fsync') as fsync, current_setting('max_connections')::int as connections_max,
                pg_is_in_recovery() as standby, current_setting('server_encoding') as encoding,
                (select count(*) from pg_stat_activity where backend_type = 'client backend') as connections",
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

async fn schema(pool: &PgPool) -> Result<(Finding, bool)> {
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
async fn snapshot(pool: &PgPool) -> Result<Finding> {
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
    let Some(oldest) = oldest.fetch_optional(pool).await.map_err(explain)? else {
        return Ok(Finding::ok("snapshots", "none is held"));
    };
    let holder = oldest["holder"].as_str().unwrap_or_default();
    let transactions = oldest["xmin_age"].as_i64().unwrap_or(0);
    Ok(match oldest["age_s"].as_f64() {
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
    })
}

async fn roles(pool: &PgPool) -> Result<Vec<Finding>> {
    let rows = rows_of(
        "select w.name, r.oid is not null as present,
                coalesce(pg_has_role(session_user, r.oid, 'member'), false) as member
         from unnest(array['backhaul_producer', 'backhaul_operator', 'backhaul_worker', 'backhaul_reader']) w (name)
         left join pg_roles r on r.rolname = w.name",
    );
    let rows = rows.fetch_all(pool).await.map_err(explain)?;
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

async fn workers(pool: &PgPool) -> Result<Finding> {
    let found = one(
        pool,
        &format!(
            "select count(*) as alive, coalesce(sum(concurrency), 0) as slots,
                    count(*) filter (where clock_timestamp() - heartbeat_at > interval '{SILENCE_S_MAX} s') as silent,
                    (select string_agg(k.kind, ', ' order by k.kind) from backhaul.kinds k
                     where not exists (select from backhaul.workers w where k.kind || '@' || k.version = any (w.kinds))) as orphaned
             from backhaul.workers"
        ),
    )
    .await?;
    let (alive, silent) = (found["alive"].as_i64().unwrap_or(0), found["silent"].as_i64().unwrap_or(0));
    if alive == 0 {
        return Ok(Finding::warning("workers", "none is running", "start one with `backhaul work`"));
    }
    let text = format!("{alive} with {} slots", found["slots"]);
    if silent > 0 {
        let advice = "their jobs are taken over by others; look at those processes";
        return Ok(Finding::warning("workers", format!("{text}, {silent} of them silent"), advice));
    }
    Ok(match found["orphaned"].as_str() {
        Some(kinds) => Finding::warning("workers", format!("{text}; nobody works on {kinds}"), "check worker.kinds"),
        None => Finding::ok("workers", text),
    })
}

async fn lanes(pool: &PgPool) -> Result<Finding> {
    let found = one(
        pool,
        "select count(*) filter (where state = 'ready') as ready, count(*) filter (where state = 'running') as running,
                count(*) filter (where state = 'dead') as dead,
                (select count(*) from backhaul.pauses) as paused,
                coalesce(extract(epoch from clock_timestamp() - min(enqueued_at) filter (where state = 'ready')), 0) as age_s
         from backhaul.job_states",
    )
    .await?;
    let text = format!("{} ready, {} running, {} dead", found["ready"], found["running"], found["dead"]);
    let paused = found["paused"].as_i64().unwrap_or(0);
    Ok(if paused > 0 {
        Finding::warning("queue", format!("{text}; {paused} pauses hold work back"), "select * from backhaul.pauses")
    } else {
        Finding::ok("queue", text)
    })
}

async fn buckets(pool: &PgPool) -> Result<Finding> {
    let found = one(
        pool,
        "select string_agg(format('%s of %s until %s', name, tenant, to_char(blocked_until at time zone 'utc', 'HH24:MI:SS')),
                    ', ' order by name, tenant) as closed
         from backhaul.buckets where blocked_until > clock_timestamp()",
    )
    .await?;
    Ok(match found["closed"].as_str() {
        Some(closed) => Finding::warning(
            "limits",
            format!("closed by the upstream: {closed}"),
            "jobs wait there and resume by themselves",
        ),
        None => Finding::ok("limits", "no upstream has closed one"),
    })
}

async fn sinks(pool: &PgPool) -> Result<Vec<Finding>> {
    let rows = rows_of(
        "select k.name, k.paused, k.last_error, k.failing_since is not null as failing, s.next_seq - 1 - k.position as behind,
                w.name is not null as waited_for
         from backhaul.sinks k cross join backhaul.seal_state s left join backhaul.sinks_waited_for w using (name)
         order by k.name",
    );
    let rows = rows.fetch_all(pool).await.map_err(explain)?;
    if rows.is_empty() {
        let advice = "events are kept, and delivered once a worker with a sink has started";
        return Ok(vec![Finding::warning("sinks", "none is registered", advice)]);
    }
    Ok(rows
        .iter()
        .map(|sink| {
            let name = sink["name"].as_str().unwrap_or_default();
            let behind = sink["behind"].as_i64().unwrap_or(0);
            if sink["waited_for"] == true {
                let error = sink["last_error"].as_str().map(|error| format!(": {error}")).unwrap_or_default();
                Finding::failure(
                    "sinks",
                    format!("{name} is {behind} events behind, so no worker claims jobs{error}"),
                    format!("mend its target, or go on without it: `backhaul outbox pause {name} --why TEXT`"),
                )
            } else if sink["failing"] == true {
                let error = sink["last_error"].as_str().unwrap_or("no error was noted");
                Finding::warning(
                    "sinks",
                    format!("{name} is failing, {behind} events behind: {error}"),
                    "mend its target",
                )
            } else if sink["paused"] == true {
                Finding::warning(
                    "sinks",
                    format!("{name} is paused, {behind} events behind; jobs do not wait for it"),
                    format!("`backhaul outbox resume {name}` when it may deliver"),
                )
            } else {
                Finding::ok("sinks", format!("{name} is {behind} events behind"))
            }
        })
        .collect())
}
