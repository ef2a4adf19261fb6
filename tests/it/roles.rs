//! What the four roles may do, proved with logins that are members of one role each, or of none.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex},
};

use backhaul_engine::{Registry, SealedEvent, Sink};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::support::{Database, Login, Toy, ToyEnv, Worker, database, eventually, refusal};

const ROLES: [&str; 4] = ["backhaul_producer", "backhaul_operator", "backhaul_worker", "backhaul_reader"];

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
    ("select * from backhaul.kinds", "porw"),
    ("select * from backhaul.workers, backhaul.leases, backhaul.lanes, backhaul.cursors, backhaul.buckets", "orw"),
    ("select * from backhaul.sinks, backhaul.seals, backhaul.seal_state, backhaul.deployment", "orw"),
    ("select * from backhaul.pauses, backhaul.caps", "orw"),
    ("select version from backhaul.migrations", "orw"),
    ("select * from backhaul.events", "w"),
    ("select * from backhaul.steps", "ow"),
    ("select * from backhaul.memories", "ow"),
    ("select * from backhaul.idempotency_keys", ""),
    ("select * from backhaul.key_holders", ""),
    // Producing.
    ("select * from backhaul.enqueue('toy', '{}')", "pow"),
    ("select * from backhaul.enqueue_many('[]')", "pow"),
    // Operating.
    ("select backhaul.cancel(1, null, 'why')", "o"),
    ("select backhaul.reschedule(1, now(), null, 'why')", "o"),
    ("select backhaul.dead_replay(2, null, 'why')", "o"),
    ("select backhaul.dead_discard(2, null, 'why')", "o"),
    ("select backhaul.pause('toy')", "o"),
    ("select backhaul.resume('toy')", "o"),
    ("select backhaul.set_cap('toy', '*', 1)", "o"),
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
    ("select backhaul.expire_keys('0', 1), backhaul.keep_partitions('0', '1 year'), backhaul.seal(10)", "w"),
    ("select * from backhaul.bucket_take('acme', 'toy/box', 1, false)", "ow"),
    ("select backhaul.bucket_limit('acme', 'toy/box', 100)", "w"),
    ("select backhaul.waits_alone('{toy@1}')", "w"),
    ("select * from backhaul.schedule_due('{}')", "w"),
    ("select backhaul.schedule_fire('s', '{}', now())", "w"),
    ("select backhaul.schedule_stop('s', 'why')", "w"),
    ("update backhaul.kinds set max_attempts = 5", "w"),
    ("update backhaul.sinks set position = 0", "w"),
    ("insert into backhaul.sleepers values (gen_random_uuid())", "w"),
    // What nobody but the owner may do: the inner functions, and writing past them.
    ("select backhaul.append_event('t', 1, 'acme', 'toy', null, '{}')", ""),
    ("select backhaul.bury('[]')", ""),
    ("select backhaul.hand_over('{1}')", ""),
    ("select backhaul.promote(1, now())", ""),
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
        (&shop, vec![(ids[&shop.name], "scheduled".to_owned()), (dead, "dead".to_owned())]),
        (&crm, vec![(ids[&crm.name], "scheduled".to_owned())]),
    ] {
        let seen: Vec<(i64, String)> = sqlx::query_as("select id, state from backhaul.my_jobs order by id")
            .fetch_all(&mut login.connect().await)
            .await
            .expect("reads");
        assert_eq!(seen, expected);
    }
}

/// A sink that keeps what it gets.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<String>>>);

impl Sink for Kept {
    fn name(&self) -> &str {
        "kept"
    }

    fn kind(&self) -> &str {
        "memory"
    }

    fn target(&self) -> &str {
        "here"
    }

    fn publish<'a>(
        &'a mut self,
        _: Uuid,
        events: &'a [SealedEvent],
    ) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send + 'a>> {
        let mut kept = self.0.lock().expect("no panic under the lock");
        kept.extend(events.iter().map(|event| event.event_type.clone()));
        Box::pin(async { Ok(()) })
    }
}

/// A whole worker whose login is a member of `backhaul_worker` alone: claims, steps, retries, ordering keys, closed
/// buckets, dead letters, a job that must run alone, sealing, a sink, upkeep, and leaving.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_works_with_the_workers_role_alone() {
    let db = database().await;
    let env = ToyEnv::new();
    let login = Login::of(&db, Some("backhaul_worker")).await;
    let store = login.store().await;
    backhaul_engine::check_version(&store).await.expect("may look");
    backhaul_engine::set_limit(&store, "default", "toy/box", 100_000).await.expect("may say");
    let ids = db
        .toys(&[
            Toy::new(1),
            Toy::new(2).act("steps"),
            Toy::new(3).act("transient").act("ok"),
            Toy::new(4).act("permanent"),
            Toy::new(5).act("throttle:50").act("ok"),
            Toy::new(6).keyed("k"),
            Toy::new(7).keyed("k").act("write").act("write"),
            Toy::new(8).keyed("k"),
            Toy::new(9),
        ])
        .await;
    // The last one killed its worker twice.
    sqlx::query("update backhaul.jobs set rescues = 2, lane = null where id = $1")
        .bind(ids[8])
        .execute(db.store.pool())
        .await
        .expect("writes");
    db.run(
        "insert into backhaul.lanes (kind, version, tenant) values ('toy', 1, 'default');
         insert into backhaul.cursors (lane, priority) select id, 2 from backhaul.lanes;
         update backhaul.jobs set lane = (select id from backhaul.lanes) where rescues = 2;
         update backhaul.maintenance set ran_at = '-infinity'",
    )
    .await;
    let kept = Kept::default();
    let sinks = {
        let kept = kept.clone();
        move || vec![Box::new(kept.clone()) as Box<dyn Sink>]
    };
    let registry = {
        let env = env.clone();
        move || {
            let mut registry = Registry::new();
            registry.add::<Toy>(env.clone());
            registry
        }
    };
    let worker = Worker::start_kinds(store.clone(), registry, sinks, Worker::options());
    eventually("all end", async || db.unfinished().await == 0).await;
    eventually("upkeep is done", async || {
        db.one::<bool>("select bool_and(ran_at > '-infinity') from backhaul.maintenance").await
    })
    .await;
    worker.stop().await;
    store.close().await;
    // Its sink had everything before it ended.
    let published: bool =
        db.one("select (select position from backhaul.sinks) = (select count(*) from backhaul.events)").await;
    assert!(published);
    let dead: Vec<(i64,)> = db.rows("select id from backhaul.dead_letters").await;
    assert_eq!(dead, [(ids[3],)]);
    assert_eq!(env.order("end").len(), 12, "each toy as often as its acts say");
    let told = kept.0.lock().expect("no panic under the lock").clone();
    let completed = told.iter().filter(|event| *event == "dev.backhaul.job.completed").count();
    assert_eq!((completed, told.iter().filter(|event| *event == "dev.backhaul.job.dead").count()), (8, 1), "{told:?}");
    let left: i64 = db
        .one(
            "select (select count(*) from backhaul.workers) + (select count(*) from backhaul.leases)
                + (select count(*) from backhaul.sleepers)",
        )
        .await;
    assert_eq!(left, 0, "it signed off");
    let owners: i64 = db
        .one("select count(distinct relowner) from pg_class where relnamespace = 'backhaul'::regnamespace and relname ~ '^events_'")
        .await;
    assert_eq!(owners, 1, "a partition that a worker made belongs to the owner");
}

/// Every function that runs with its owner's rights looks names up where nobody else can put any.
#[tokio::test(flavor = "multi_thread")]
async fn functions_of_the_owner_fix_their_search_path() {
    let db = database().await;
    let loose: Vec<(String,)> = db
        .rows(
            "select oid::regprocedure::text from pg_proc
             where pronamespace = 'backhaul'::regnamespace and prosecdef
               and not coalesce('search_path=pg_catalog, pg_temp' = any (proconfig), false)",
        )
        .await;
    assert!(loose.is_empty(), "{loose:?}");
}

/// Objects of a hostile producer, in front of the real ones on its own search path. Each raises when it is used.
const TRAPS: &str = "
    create function public.trap(text, text) returns text language plpgsql as
        $$ begin raise exception 'captured, as %', current_user; end $$;
    create function public.trap(anynonarray, text) returns text language plpgsql as
        $$ begin raise exception 'captured, as %', current_user; end $$;
    create operator public.|| (leftarg = text, rightarg = text, function = public.trap);
    create function public.coalesced(text, text) returns boolean language plpgsql as
        $$ begin raise exception 'captured, as %', current_user; end $$;
    create operator public.= (leftarg = text, rightarg = text, function = public.coalesced);
    create function public.nextval(text) returns bigint language plpgsql as
        $$ begin raise exception 'captured, as %', current_user; end $$;
    create function public.clock_timestamp() returns timestamptz language plpgsql as
        $$ begin raise exception 'captured, as %', current_user; end $$;
    create function public.pg_current_xact_id() returns xid8 language plpgsql as
        $$ begin raise exception 'captured, as %', current_user; end $$;
    create temp table kinds (kind text);
    create temp table jobs (id bigint);
    set search_path = pg_temp, public, pg_catalog;";

#[tokio::test(flavor = "multi_thread")]
async fn hostile_objects_capture_nothing() {
    let db = database().await;
    let login = Login::of(&db, Some("backhaul_producer")).await;
    let grant = format!("grant create on schema public to {}", login.name);
    sqlx::raw_sql(AssertSqlSafe(grant)).execute(db.store.pool()).await.expect("grants");
    let mut hostile = login.connect().await;
    sqlx::raw_sql(TRAPS).execute(&mut hostile).await.expect("sets the traps");
    let call =
        r#"select outcome from backhaul.enqueue('toy', '{"n": 1}', idempotency_key => 'k', ordering_key => 'o')"#;
    let many =
        r#"select outcome from backhaul.enqueue_many('[{"kind": "toy", "payload": {}, "idempotency_key": "l"}]')"#;
    for (sql, expected) in [(call, "inserted"), (call, "duplicate"), (many, "inserted"), (many, "duplicate")] {
        let outcome: String = sqlx::query_scalar(sql).fetch_one(&mut hostile).await.expect(sql);
        assert_eq!(outcome, expected);
    }
    let seen: i64 =
        sqlx::query_scalar("select count(*) from backhaul.my_jobs").fetch_one(&mut hostile).await.expect("reads");
    assert_eq!(seen, 2);
    // The traps would work: without its own path the function walks into them, with the rights of its owner.
    db.run("alter function backhaul.enqueue reset search_path").await;
    hostile.close().await.expect("closes");
    let mut hostile = login.connect().await;
    sqlx::raw_sql("set search_path = public, pg_catalog").execute(&mut hostile).await.expect("sets");
    let caught = refusal(sqlx::query(call).execute(&mut hostile).await);
    assert!(caught.message.starts_with("captured"), "{caught:?}");
    hostile.close().await.expect("closes");
}
