//! Who works, what waits, and what holds it back.

use sqlx::PgPool;

use super::one;
use crate::commands::{database::rows_of, doctor::Finding};

/// Whoever is still heard of. A dead worker's row stays until another one takes its jobs over, which nobody does where
/// none lives.
pub(super) async fn workers(pool: &PgPool) -> sqlx::Result<Vec<Finding>> {
    let found = one(
        pool,
        "with waiting as (
             select kind, version, count(*) as jobs from backhaul.job_states
             where state in ('ready', 'running', 'blocked') group by kind, version
         ), orphaned as (
             select k.kind, coalesce(sum(w.jobs), 0) as jobs from backhaul.kinds k left join waiting w using (kind, version)
             where not exists (select from backhaul.worker_states s
                               where not s.silent and not s.stopping and k.kind || '@' || k.version = any (s.kinds))
             group by k.kind
         )
         select count(*) filter (where not silent) as alive, count(*) filter (where silent) as silent,
                coalesce(sum(concurrency) filter (where not silent), 0) as slots,
                to_char(max(heartbeat_at) filter (where silent and isfinite(heartbeat_at)) at time zone 'utc',
                        'YYYY-MM-DD HH24:MI:SS') as heard_of,
                (select coalesce(sum(w.jobs), 0) from waiting w) as waiting,
                (select string_agg(o.kind, ', ' order by o.kind) from orphaned o) as orphaned,
                (select string_agg(format('%s (%s)', o.kind, o.jobs), ', ' order by o.kind) from orphaned o
                 where o.jobs > 0) as stranded
         from backhaul.worker_states",
    )
    .await?;
    let count = |name: &str| found[name].as_i64().unwrap_or(0);
    let (alive, silent, waiting) = (count("alive"), count("silent"), count("waiting"));
    if alive == 0 {
        let heard_of = found["heard_of"].as_str().map(|at| format!("; one was last heard of at {at} UTC"));
        let text = format!("none is running{}", heard_of.unwrap_or_default());
        let advice = "start one with `backhaul work`; it takes over what a dead one held";
        return Ok(vec![if waiting > 0 {
            Finding::failure("workers", format!("{text}, and {waiting} jobs wait"), advice)
        } else {
            Finding::warning("workers", text, advice)
        }]);
    }
    let text = format!("{alive} with {} slots", found["slots"]);
    let mut findings = Vec::new();
    if let Some(kinds) = found["stranded"].as_str() {
        let advice = "start a worker that has them: check worker.kinds";
        findings.push(Finding::failure("workers", format!("{text}; jobs wait that nobody works on: {kinds}"), advice));
    } else if let Some(kinds) = found["orphaned"].as_str() {
        findings.push(Finding::warning("workers", format!("{text}; nobody works on {kinds}"), "check worker.kinds"));
    }
    if silent > 0 {
        let text = format!("{text}; {silent} more missed their heartbeats");
        let advice = "the others take over their jobs (worker.dead_after_ms); look at those processes";
        findings.push(Finding::warning("workers", text, advice));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("workers", text));
    }
    Ok(findings)
}

pub(super) async fn lanes(pool: &PgPool) -> sqlx::Result<Vec<Finding>> {
    let found = one(
        pool,
        "select count(*) filter (where state = 'ready') as ready, count(*) filter (where state = 'running') as running,
                count(*) filter (where state = 'dead') as dead, (select count(*) from backhaul.pauses) as paused
         from backhaul.job_states",
    )
    .await?;
    let text = format!("{} ready, {} running, {} dead", found["ready"], found["running"], found["dead"]);
    let paused = found["paused"].as_i64().unwrap_or(0);
    Ok(vec![if paused > 0 {
        let advice = "`backhaul queue status` says which, by whom and why; `backhaul queue resume` ends one";
        Finding::warning("queue", format!("{text}; {paused} pauses hold work back"), advice)
    } else {
        Finding::ok("queue", text)
    }])
}

/// Whether a bucket is closed because the upstream refuses the credential. Waiting does not mend that.
const REFUSED: &str = "blocked_why ~ '^(auth_blocked|scope_missing):'";

pub(super) async fn buckets(pool: &PgPool) -> sqlx::Result<Vec<Finding>> {
    let found = one(
        pool,
        &format!(
            "select string_agg(format('%s of %s until %s', name, tenant, to_char(blocked_until at time zone 'utc', 'HH24:MI:SS')),
                        ', ' order by name, tenant) as closed
             from backhaul.buckets where blocked_until > clock_timestamp() and not coalesce({REFUSED}, false)"
        ),
    )
    .await?;
    Ok(vec![match found["closed"].as_str() {
        Some(closed) => Finding::warning(
            "limits",
            format!("closed by the upstream: {closed}"),
            "jobs wait there and resume by themselves; one that asked for too much is opened by `backhaul queue open`",
        ),
        None => Finding::ok("limits", "no upstream has closed one"),
    }])
}

/// What an upstream refuses until a person has changed a profile.
pub(super) async fn credentials(pool: &PgPool) -> sqlx::Result<Vec<Finding>> {
    let refused = rows_of(&format!(
        "select tenant, split_part(name, '/', 1) as provider, blocked_why as why from backhaul.buckets
         where blocked_until > clock_timestamp() and {REFUSED} order by tenant, name limit 20"
    ));
    let dead = rows_of(
        "select tenant, kind, last_error ->> 'code' as code, count(*) as jobs from backhaul.job_states
         where state = 'dead' and died_at > clock_timestamp() - interval '1 hour'
           and last_error ->> 'code' in ('auth_blocked', 'scope_missing', 'forbidden')
         group by 1, 2, 3 order by 1, 2, 3 limit 20",
    );
    let (refused, dead) = (refused.fetch_all(pool).await?, dead.fetch_all(pool).await?);
    let mut findings = Vec::new();
    for row in &refused {
        let said = |name: &str| row[name].as_str().unwrap_or_default();
        findings.push(Finding::failure(
            "credentials",
            format!("refused: {} of {}: {}", said("provider"), said("tenant"), said("why")),
            format!(
                "correct client, secret and scopes of {} in the profile of {}, and start the workers again",
                said("provider"),
                said("tenant")
            ),
        ));
    }
    for row in &dead {
        let said = |name: &str| row[name].as_str().unwrap_or_default();
        let found = format!("{} {} jobs of {} died of {}", row["jobs"], said("kind"), said("tenant"), said("code"));
        let advice = format!(
            "correct the credential and its rights, then `backhaul dead replay --kind {} --tenant {} --code {}`",
            said("kind"),
            said("tenant"),
            said("code")
        );
        findings.push(Finding::warning("credentials", format!("{found} in the last hour"), advice));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("credentials", "no upstream refuses one"));
    }
    Ok(findings)
}

pub(super) async fn sinks(pool: &PgPool) -> sqlx::Result<Vec<Finding>> {
    let rows = rows_of(
        "select k.name, k.paused, k.last_error, k.failing_since is not null as failing, s.next_seq - 1 - k.position as behind,
                w.name is not null as waited_for
         from backhaul.sinks k cross join backhaul.seal_state s left join backhaul.sinks_waited_for w using (name)
         order by k.name",
    );
    let rows = rows.fetch_all(pool).await?;
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
