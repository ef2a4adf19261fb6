//! Dead letters: replayed under their id with what was done, or given up; and grouped as a person would.

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use backhaul_engine::{KindSpec, register_kinds};

use super::{Write, last_event, states, text};
use crate::support::{Database, Toy, ToyEnv, Worker, database, eventually, refusal};

async fn replay(database: &Database, job: i64, more: &str) -> sqlx::Result<String> {
    text(database, format!("select backhaul.dead_replay({job}, 'ann', 'mended'{more})::text")).await
}

/// A write that died at `broken`.
async fn died(database: &Database, env: &std::sync::Arc<ToyEnv>, broken: &str) -> i64 {
    register_kinds(&database.store, &[KindSpec::of::<Write>()]).await.expect("registers");
    let job =
        json!({"kind": "write", "payload": {"n": 1, "broken": broken}, "idempotency_key": "once", "ordering_key": "o"});
    let id = database.enqueue(vec![job]).await[0];
    let worker = Write::worker(database, env);
    eventually("it dies", async || states(database).await == [(id, "dead".to_owned())]).await;
    worker.stop().await;
    id
}

async fn run_to_the_end(database: &Database, env: &std::sync::Arc<ToyEnv>) {
    let worker = Write::worker(database, env);
    eventually("it ends", async || database.unfinished().await == 0).await;
    worker.stop().await;
}

/// The Idempotency-Keys that a step's requests carried.
fn keys(env: &ToyEnv, step: &str) -> Vec<String> {
    let log = env.log.lock().expect("no panic under the lock");
    let prefix = format!("{step} ");
    let keys = log.iter().filter_map(|(_, what)| what.strip_prefix(&prefix));
    keys.filter(|key| key.contains('-')).map(str::to_owned).collect()
}

/// Covers row 207: the patch was done; after the replay only the purge is tried, with its old key.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_goes_on_where_the_job_failed() {
    let db = database().await;
    let env = ToyEnv::new();
    let id = died(&db, &env, "purge").await;
    let before: Vec<(Value,)> = db.rows("select to_jsonb(d) - 'fingerprint' from backhaul.dead_letters d").await;
    env.gate.add_permits(1);
    assert_eq!(replay(&db, id, "").await.expect("replays"), id.to_string());
    let event = last_event(&db, id).await;
    assert_eq!(event["type"], "dev.backhaul.job.replayed");
    assert_eq!((&event["actor"], &event["why"]), (&json!("ann"), &json!("mended")));
    assert_eq!((&event["edited"], &event["replay"]), (&json!(false), &json!(1)));
    let job: Vec<(Value,)> = db.rows("select to_jsonb(j) from backhaul.jobs j").await;
    let (before, job) = (&before[0].0, &job[0].0);
    for column in
        ["id", "kind", "tenant", "priority", "payload", "ordering_key", "idempotency_key", "enqueued_at", "enqueued_by"]
    {
        assert_eq!(job[column], before[column], "{column}");
    }
    assert_eq!((&job["attempt"], &job["rescues"], &job["replays"]), (&json!(0), &json!(0), &json!(1)));
    run_to_the_end(&db, &env).await;
    assert_eq!(keys(&env, "patch").len(), 1, "the patch is not sent again");
    let purges = keys(&env, "purge");
    assert_eq!(purges.len(), 2);
    assert_eq!(purges[0], purges[1], "the same request has the same key");
    assert!(purges[0].ends_with(&format!("-{id}-purge")), "{purges:?}");
    assert_eq!(env.count(Some(1), "purge OutcomeUnknown"), 1, "it is told that it may have been done");
    assert_eq!(db.told(id).await, ["job.dead", "job.replayed", "job.completed"]);
    let left: i64 = db
        .one(
            "select (select count(*) from backhaul.steps) + (select count(*) from backhaul.dead_letters)
                + (select count(*) from backhaul.key_holders)",
        )
        .await;
    assert_eq!(left, 0);
    // The producer's key still answers with the job.
    let again: Vec<(i64, String)> = db
        .rows(r#"select * from backhaul.enqueue('write', '{"n": 1, "broken": "purge"}', idempotency_key => 'once')"#)
        .await;
    assert_eq!(again, [(id, "duplicate".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_failure_is_a_dead_letter_again() {
    let db = database().await;
    let env = ToyEnv::new();
    let id = died(&db, &env, "purge").await;
    let first: String = db.one("select fingerprint from backhaul.dead_letters").await;
    for replays in 1..=2_i16 {
        replay(&db, id, "").await.expect("replays");
        run_to_the_end(&db, &env).await;
        let letters: Vec<(i64, i16, i32, String)> =
            db.rows("select id, replays, jsonb_array_length(errors), fingerprint from backhaul.dead_letters").await;
        assert_eq!(letters, [(id, replays, i32::from(replays) + 1, first.clone())]);
    }
    assert_eq!((keys(&env, "patch").len(), keys(&env, "purge").len()), (1, 3));
    let told = db.told(id).await;
    assert_eq!(told, ["job.dead", "job.replayed", "job.dead", "job.replayed", "job.dead"]);
}

/// Another payload is another request: nothing that was done for the old one counts.
#[tokio::test(flavor = "multi_thread")]
async fn an_edited_payload_starts_over() {
    let db = database().await;
    let env = ToyEnv::new();
    let id = died(&db, &env, "purge").await;
    replay(&db, id, r#", '{"n": 1, "broken": "nothing"}'"#).await.expect("replays");
    assert_eq!(last_event(&db, id).await["edited"], json!(true));
    let steps: i64 = db.one("select count(*) from backhaul.steps").await;
    assert_eq!(steps, 0);
    run_to_the_end(&db, &env).await;
    assert_eq!((keys(&env, "patch").len(), keys(&env, "purge").len()), (2, 2));
    assert_eq!(env.count(Some(1), "purge OutcomeUnknown"), 0);
    assert_eq!(db.told(id).await, ["job.dead", "job.replayed", "job.completed"]);
}

/// The key that was read from the old payload would let two jobs of the new resource run at once.
#[tokio::test(flavor = "multi_thread")]
async fn an_edited_payload_waits_for_its_own_resource() {
    let db = database().await;
    let env = ToyEnv::new();
    let id = died(&db, &env, "purge").await;
    db.run(
        r#"update backhaul.kinds set ordering_paths = '{key}' where kind = 'write';
           update backhaul.dead_letters set payload = payload || '{"key": "old"}'"#,
    )
    .await;
    let edited = r#", '{"n": 1, "broken": "nothing", "key": "New"}'"#;
    let key_after = async |before: &str| {
        let mut transaction = db.store.pool().begin().await.expect("begins");
        let sql = format!(
            "update backhaul.dead_letters set ordering_key = '{before}';
             select backhaul.dead_replay({id}, 'ann', 'mended'{edited})"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await.expect("replays");
        let key: String = sqlx::query_scalar("select ordering_key from backhaul.jobs")
            .fetch_one(&mut *transaction)
            .await
            .expect("a job");
        transaction.rollback().await.expect("rolls back");
        key
    };
    assert_eq!(key_after("write/old").await, "write/new");
    assert_eq!(key_after("chosen").await, "chosen", "what its producer chose says more than the payload");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_letter_is_gone_but_for_its_trail() {
    let db = database().await;
    let env = ToyEnv::new();
    let id = died(&db, &env, "purge").await;
    let discarded = text(&db, format!("select backhaul.dead_discard({id}, 'ann', 'test data')::text")).await;
    assert_eq!(discarded.expect("discards"), id.to_string());
    let event = last_event(&db, id).await;
    assert_eq!(event["type"], "dev.backhaul.job.discarded");
    assert_eq!(
        (&event["actor"], &event["why"], &event["reason"]),
        (&json!("ann"), &json!("test data"), &json!("upstream_refused"))
    );
    let left: i64 = db
        .one(
            "select (select count(*) from backhaul.steps) + (select count(*) from backhaul.dead_letters)
                + (select count(*) from backhaul.jobs)",
        )
        .await;
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_refused_with_advice_and_change_nothing() {
    let db = database().await;
    let env = ToyEnv::new();
    let id = died(&db, &env, "purge").await;
    let waiting = db.toys(&[Toy::new(1)]).await[0];
    let long = format!(r#", jsonb_build_object('n', 1, 'broken', repeat('x', {}))"#, 300_000);
    for (job, more, sqlstate) in [
        (waiting, "", "BH020"),
        (4_711, "", "BH020"),
        (id, ", '[]'", "BH002"),
        (id, ", '\"text\"'", "BH002"),
        (id, long.as_str(), "BH003"),
    ] {
        let refused = refusal(replay(&db, job, more).await);
        assert_eq!(refused.sqlstate, sqlstate, "{refused:?}");
        assert!(!refused.hint.is_empty(), "{refused:?}");
    }
    for job in [waiting, 4_711] {
        let refused = refusal(text(&db, format!("select backhaul.dead_discard({job}, null, null)::text")).await);
        assert_eq!((refused.sqlstate.as_str(), refused.hint.is_empty()), ("BH020", false), "{refused:?}");
    }
    assert_eq!(states(&db).await, [(id, "dead".to_owned()), (waiting, "ready".to_owned())]);
    let steps: i64 = db.one("select count(*) from backhaul.steps").await;
    assert_eq!((steps, db.told(id).await), (2, vec!["job.dead".to_owned()]));
}

/// A replayed job stands in line as the oldest of its key.
#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_job_keeps_to_its_ordering_key() {
    let db = database().await;
    let env = ToyEnv::new();
    let first = db.toys(&[Toy::new(1).keyed("k").act("permanent").act("ok")]).await[0];
    let worker = Worker::start(&db, &env);
    eventually("it dies", async || states(&db).await == [(first, "dead".to_owned())]).await;
    let second = db.toys(&[Toy::new(2).keyed("k").act("wait")]).await[0];
    eventually("the next runs", async || env.count(Some(2), "start") == 1).await;
    replay(&db, first, "").await.expect("replays");
    eventually("the replayed one waits", async || {
        states(&db).await == [(first, "blocked".to_owned()), (second, "running".to_owned())]
    })
    .await;
    env.gate.add_permits(1);
    eventually("both end", async || db.unfinished().await == 0).await;
    worker.stop().await;
    assert_eq!(env.order("end"), [1, 2, 1]);
}

/// Numbers, ids and quoted words do not make another failure; the code, the status, the step and the kind do.
#[tokio::test(flavor = "multi_thread")]
async fn alike_failures_have_one_fingerprint() {
    let db = database().await;
    let print = async |kind: &str, error: Value| {
        text(&db, format!("select backhaul.fingerprint('{kind}', '{}')", error.to_string().replace('\'', "''"))).await
    };
    let error = |message: &str| json!({"code": "lost", "http_status": 404, "step": "patch", "message": message});
    let one = print("toy", error("order 17 of \"Ann\" not found")).await.expect("prints");
    assert_eq!(one.len(), 16);
    for alike in ["order 4711 of \"Bob\" not found", "order 1 of 'Zoe' not found"] {
        assert_eq!(print("toy", error(alike)).await.expect("prints"), one, "{alike}");
    }
    let ids = ["0b51f2a6-7c1d-4c59-9d2e-5d1c7f0a9b3e", "DDDDDDDD-7C1D-4C59-9D2E-5D1C7F0A9B3E"];
    let [a, b] = ids.map(|id| error(&format!("profile {id} is gone")));
    assert_eq!(print("toy", a).await.expect("prints"), print("toy", b).await.expect("prints"));
    let mut others =
        vec![("write", error("order 17 of \"Ann\" not found")), ("toy", error("order 17 of \"Ann\" refused"))];
    for (member, value) in [("code", json!("late")), ("http_status", json!(410)), ("step", json!("purge"))] {
        let mut changed = error("order 17 of \"Ann\" not found");
        changed[member] = value;
        others.push(("toy", changed));
    }
    for (kind, other) in others {
        assert_ne!(print(kind, other.clone()).await.expect("prints"), one, "{kind} {other}");
    }
}
