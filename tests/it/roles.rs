//! What the roles may do, proved with logins that are members of one role each, or of none.

mod hostile;
mod worker;

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::support::{Database, Login, Toy, database};

const ROLES: [&str; 5] =
    ["backhaul_producer", "backhaul_operator", "backhaul_worker", "backhaul_reader", "backhaul_ingress"];

/// A statement and the initials of the roles that may run it.
const STATEMENTS: &[(&str, &str)] = &[
    // Reading. Payloads and the documents of a conflict are content; states, counts and codes are not.
    ("select id, payload from backhaul.jobs", "o"),
    ("select due_at, rescues from backhaul.jobs", "o"),
    ("select id, kind, reason, error, fingerprint, died_at from backhaul.dead_letters", "or"),
    ("select payload from backhaul.dead_letters", "o"),
    ("select conflict from backhaul.dead_letters", "o"),
    ("select errors from backhaul.dead_letters", "o"),
    ("select * from backhaul.job_states", "orw"),
    ("select * from backhaul.queue_depth", "orw"),
    ("select * from backhaul.outbox_events", "orw"),
    ("select * from backhaul.my_jobs", "p"),
    ("select * from backhaul.fate(1)", "po"),
    ("select * from backhaul.worker_states", "orw"),
    ("select * from backhaul.kinds", "porwi"),
    ("select * from backhaul.workers, backhaul.leases, backhaul.lanes, backhaul.cursors, backhaul.buckets", "orw"),
    ("select * from backhaul.sinks, backhaul.seals, backhaul.seal_state, backhaul.deployment", "orw"),
    ("select * from backhaul.pauses, backhaul.caps, backhaul.sinks_waited_for", "orw"),
    ("select version from backhaul.migrations", "orwi"),
    ("select * from backhaul.parked_events", "ori"),
    ("select body from backhaul.ingress_events", "o"),
    ("select * from backhaul.events", "w"),
    ("select * from backhaul.steps", "ow"),
    ("select * from backhaul.memories", "ow"),
    ("select * from backhaul.idempotency_keys", ""),
    ("select * from backhaul.key_holders", ""),
    // Producing.
    ("select * from backhaul.enqueue('toy', '{}')", "powi"),
    ("select * from backhaul.enqueue_many('[]')", "pow"),
    // Receiving.
    ("select backhaul.backlog(1), backhaul.ingress_expire(1)", "i"),
    ("select * from backhaul.job_fate(1)", "i"),
    // Operating.
    ("select backhaul.cancel(1, null, 'why')", "o"),
    ("select backhaul.reschedule(1, now(), null, 'why')", "o"),
    ("select backhaul.reprioritize(1, 'low', null, 'why')", "o"),
    ("select backhaul.open_bucket('acme', 'toy/box')", "o"),
    ("select backhaul.rescheduled_by(j) from (select null::backhaul.jobs as j) x", ""),
    ("select backhaul.dead_replay(2, null, 'why')", "o"),
    ("select backhaul.dead_discard(2, null, 'why')", "o"),
    ("select backhaul.pause('toy')", "o"),
    ("select backhaul.resume('toy')", "o"),
    ("select backhaul.set_cap('toy', '*', 1)", "o"),
    ("select backhaul.pause_sink('s'), backhaul.resume_sink('s')", "o"),
    ("select backhaul.set_weight('toy', 'acme', 2)", "o"),
    ("select backhaul.set_backfill_share('acme', 'toy/box', 0.5)", "o"),
    ("select * from backhaul.schedules", "o"),
    ("select name, cron, next_at, last_error from backhaul.schedules", "orw"),
    ("select backhaul.schedule_put('s', 'toy', '{}', '@daily')", "o"),
    ("select backhaul.schedule_pause('s')", "o"),
    ("select backhaul.schedule_resume('s')", "o"),
    ("select backhaul.schedule_trigger('s')", "o"),
    ("select backhaul.schedule_remove('s')", "o"),
    ("select * from backhaul.explain_job(1)", "orw"),
    ("select * from backhaul.erase('acme', '{ann@example.com}', null, 'why')", "o"),
    ("select actor, why from backhaul.erasures", "or"),
    ("select * from backhaul.outcomes()", "or"),
    // Working.
    ("select * from backhaul.claim(gen_random_uuid(), '{toy@1}', 1, now())", "w"),
    ("select * from backhaul.claim_alone(gen_random_uuid(), '{toy@1}')", "w"),
    (
        "select backhaul.settle(gen_random_uuid(), '{}', '{}', null, '{}', '{}', false, '{}', '{}', '{}', '{}', '{}', '{}',
             '{}', '{}', '{}', '{}', null, null)",
        "w",
    ),
    ("select * from backhaul.heartbeat(gen_random_uuid(), '{}', '{}', false)", "w"),
    ("select backhaul.register_worker(gen_random_uuid(), 'host', 1, 'build', '{}', 1)", "w"),
    ("select backhaul.leave(gen_random_uuid())", "w"),
    ("select backhaul.sweep('0', '0'), backhaul.rescue('1 hour', '0'), backhaul.unblock('0')", "w"),
    ("select backhaul.expire_keys('0', 1), backhaul.add_partitions('0'), backhaul.seal(10)", "w"),
    ("select * from backhaul.bucket_take('acme', 'toy/box', 1, false)", "ow"),
    ("select backhaul.bucket_limit('acme', 'toy/box', 100)", "w"),
    ("select * from backhaul.judge_sinks('0', 1)", "w"),
    ("select backhaul.waits_alone('{toy@1}')", "w"),
    ("select backhaul.drop_partitions('0', '1 year', 1)", "w"),
    ("select backhaul.expire_dead_letters('0', '1 year', 1), backhaul.expire_memories('0', '1 year', 1)", "w"),
    ("select backhaul.stand_alone(gen_random_uuid(), '{toy@1}', '1 s')", "w"),
    ("select * from backhaul.schedule_due('{}')", "w"),
    ("select backhaul.schedule_fire('s', '{}', now())", "w"),
    ("select backhaul.schedule_stop('s', 'why')", "w"),
    ("update backhaul.kinds set max_attempts = 5", "w"),
    ("update backhaul.sinks set position = 0", "w"),
    ("insert into backhaul.sleepers values (gen_random_uuid())", "w"),
    // What nobody but the owner may do: the inner functions, and writing past them.
    ("select backhaul.append_event('t', 1, 'acme', 'toy', null, '{}')", ""),
    ("select backhaul.bury('[]')", ""),
    ("select backhaul.give_up(d, 'ann', 'why') from (select null::backhaul.dead_letters as d) x", ""),
    ("select backhaul.hand_over('{1}')", ""),
    ("select backhaul.first_event_since(now())", ""),
    ("select backhaul.erase_job(1, gen_random_uuid(), 'ann')", ""),
    ("select * from backhaul.erase_events('acme', 'x', null, 1, null, null)", ""),
    ("delete from backhaul.erasures", ""),
    ("select backhaul.promote(1, now())", ""),
    ("select backhaul.switch_sink('s', true, null, null)", ""),
    ("select backhaul.append_control('t', 'toy', 'acme', null, null)", ""),
    ("insert into backhaul.schedules (name, kind, tenant, payload, cron) values ('s', 'toy', 'a', '{}', '@daily')", ""),
    ("update backhaul.schedules set paused = true", ""),
    ("delete from backhaul.schedules", ""),
    ("select backhaul.reserve_keys('{1}')", ""),
    ("select backhaul.remember('[]', '{}')", ""),
    ("insert into backhaul.jobs (kind, tenant, payload, max_attempts, deadline_at) values ('toy', 'a', '{}', 1, now())", ""),
    ("update backhaul.jobs set payload = '{}'", ""),
    ("delete from backhaul.jobs", ""),
    ("select * from backhaul.jobs for update", ""),
    ("delete from backhaul.dead_letters", ""),
    ("update backhaul.dead_letters set reason = 'x'", ""),
    ("insert into backhaul.events (event_id, occurred_at, type, tenant, subject, data)
      values (gen_random_uuid(), now(), 't', 'a', 's', '')", ""),
    ("update backhaul.events set data = ''", ""),
    ("delete from backhaul.events", ""),
    ("truncate backhaul.events", ""),
    ("delete from backhaul.sinks", ""),
    ("delete from backhaul.kinds", ""),
    ("update backhaul.seal_state set position = 0", ""),
    ("delete from backhaul.workers", ""),
    ("select nextval('backhaul.job_seq')", ""),
    ("select setval('backhaul.event_seq', 1)", ""),
    ("create table backhaul.mine (id int)", ""),
    ("create function backhaul.mine() returns int language sql as 'select 1'", ""),
    ("drop function backhaul.cancel", ""),
    ("alter table backhaul.jobs disable trigger all", ""),
];

/// A database with a job (id 1) that waits and one (id 2) that is dead.
async fn with_jobs() -> Database {
    let db = database().await;
    db.toys(&[Toy::new(1), Toy::new(2)]).await;
    db.run("select backhaul.bury('[{\"id\": 2, \"reason\": \"r\", \"error\": {\"code\": \"r\", \"conflict\": {\"base\": 1}}}]')")
        .await;
    db
}

/// Whether the login has the right to do it, which says nothing of its success. Leaves nothing behind.
async fn may(connection: &mut PgConnection, sql: &'static str) -> bool {
    let mut transaction = connection.begin().await.expect("begins");
    let ran = sqlx::raw_sql(sql).execute(&mut *transaction).await;
    transaction.rollback().await.expect("rolls back");
    match ran {
        Ok(_) => true,
        Err(sqlx::Error::Database(error)) => error.code().as_deref() != Some("42501"),
        Err(error) => panic!("{error}: {sql}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_do_its_work_and_no_more() {
    let db = with_jobs().await;
    let mut wrong = Vec::new();
    for role in ROLES {
        let login = Login::of(&db, Some(role)).await;
        let mut connection = login.connect().await;
        let initial = role.trim_start_matches("backhaul_").chars().next().expect("a name");
        for (sql, allowed) in STATEMENTS {
            let (is, should) = (may(&mut connection, sql).await, allowed.contains(initial));
            if is != should {
                wrong.push(format!(
                    "{role} {} but should{}: {sql}",
                    if is { "may" } else { "may not" },
                    if should { "" } else { " not" }
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_role_there_is_nothing() {
    let db = with_jobs().await;
    let stranger = Login::of(&db, None).await;
    let mut connection = stranger.connect().await;
    for (sql, _) in STATEMENTS {
        assert!(!may(&mut connection, sql).await, "a stranger may: {sql}");
    }
}

/// Looks at the catalog, so that what a later migration adds is looked at too.
#[tokio::test(flavor = "multi_thread")]
async fn everybody_has_no_rights_on_anything_of_ours() {
    let db = database().await;
    let open: Vec<(String,)> = db
        .rows(
            "select 'function ' || oid::regprocedure from pg_proc
             where pronamespace = 'backhaul'::regnamespace
               and (proacl is null or exists (select from aclexplode(proacl) a where a.grantee = 0))
             union all
             select 'relation ' || oid::regclass from pg_class
             where relnamespace = 'backhaul'::regnamespace and exists (select from aclexplode(relacl) a where a.grantee = 0)
             union all
             select 'schema ' || nspname from pg_namespace
             where nspname = 'backhaul' and (nspacl is null or exists (select from aclexplode(nspacl) a where a.grantee = 0))",
        )
        .await;
    assert!(open.is_empty(), "open to everybody: {open:?}");
}

/// The whole list of tables that a role writes without a function in between.
#[tokio::test(flavor = "multi_thread")]
async fn roles_write_through_functions() {
    let db = database().await;
    let rights: Vec<(String, String)> = db
        .rows(
            "select r.rolname || ' ' || c.relname, string_agg(lower(p.p), ' ' order by p.p)
             from pg_class c
             cross join (values ('backhaul_producer'::name), ('backhaul_operator'), ('backhaul_worker'), ('backhaul_reader')) r (rolname)
             cross join (values ('INSERT'), ('UPDATE'), ('DELETE'), ('TRUNCATE'), ('REFERENCES'), ('TRIGGER')) p (p)
             where c.relnamespace = 'backhaul'::regnamespace and c.relkind in ('r', 'p', 'v')
               and (has_table_privilege(r.rolname, c.oid, p.p)
                    or (p.p in ('INSERT', 'UPDATE', 'REFERENCES') and has_any_column_privilege(r.rolname, c.oid, p.p)))
             group by 1 order by 1",
        )
        .await;
    let rights: Vec<(&str, &str)> = rights.iter().map(|(who, what)| (who.as_str(), what.as_str())).collect();
    assert_eq!(
        rights,
        [
            ("backhaul_worker kinds", "insert update"),
            ("backhaul_worker sinks", "insert update"),
            ("backhaul_worker sleepers", "delete insert"),
        ]
    );
}

/// A producer's view of its own jobs, whoever else enqueues for the same tenant.
#[tokio::test(flavor = "multi_thread")]
async fn a_producer_sees_its_own_jobs() {
    let db = database().await;
    let (shop, crm) =
        (Login::of(&db, Some("backhaul_producer")).await, Login::of(&db, Some("backhaul_producer")).await);
    let mut ids = BTreeMap::new();
    for login in [&shop, &crm] {
        let mut connection = login.connect().await;
        let id: i64 = sqlx::query_scalar("select job_id from backhaul.enqueue('toy', '{\"n\": 1}')")
            .fetch_one(&mut connection)
            .await
            .expect("enqueues");
        ids.insert(login.name.clone(), id);
    }
    // The owner's own, and one that died.
    let dead = db.toys(&[Toy::new(2)]).await[0];
    sqlx::query("update backhaul.jobs set enqueued_by = $1 where id = $2")
        .bind(&shop.name)
        .bind(dead)
        .execute(db.store.pool())
        .await
        .expect("writes");
    let buried =
        format!("select backhaul.bury('[{{\"id\": {dead}, \"reason\": \"r\", \"error\": {{\"code\": \"r\"}}}}]')");
    sqlx::raw_sql(AssertSqlSafe(buried)).execute(db.store.pool()).await.expect("buries");
    for (login, expected) in [
        (&shop, vec![(ids[&shop.name], "ready".to_owned()), (dead, "dead".to_owned())]),
        (&crm, vec![(ids[&crm.name], "ready".to_owned())]),
    ] {
        let seen: Vec<(i64, String)> = sqlx::query_as("select id, state from backhaul.my_jobs order by id")
            .fetch_all(&mut login.connect().await)
            .await
            .expect("reads");
        assert_eq!(seen, expected);
    }
}
