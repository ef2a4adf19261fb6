//! Cancelling ends a job once and for all, wherever it is; rescheduling moves one that is not running.

use std::time::Duration;

use backhaul_engine::WorkerOptions;
use serde_json::json;

use super::{last_event, state_is, states, text};
use crate::support::{Database, Login, Toy, ToyEnv, Worker, database, eventually, refusal};

async fn cancel(database: &Database, job: i64) -> sqlx::Result<String> {
    text(database, format!("select backhaul.cancel({job}, 'ann', 'a mistake')")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_cancelled_in_whatever_state_it_is() {
    let db = database().await;
    let env = ToyEnv::new();
    db.run("select backhaul.pause('toy', 'held')").await;
    let toy = |toy: Toy, tenant: &str| json!({"kind": "toy", "payload": toy, "tenant": tenant});
    let ids = db
        .enqueue(vec![
            toy(Toy::new(1).keyed("k").act("wait"), "acme"),
            toy(Toy::new(2).keyed("k"), "acme"),
            json!({"kind": "toy", "payload": {"n": 3}, "tenant": "acme", "run_at": "2030-01-01T00:00:00Z"}),
            toy(Toy::new(4), "held"),
            toy(Toy::new(5).act("transient"), "acme"),
            toy(Toy::new(6).act("step"), "acme"),
        ])
        .await;
    let worker = Worker::start(&db, &env);
    let expected = ["running", "blocked", "scheduled", "ready", "retrying", "retrying"];
    for (id, state) in ids.iter().zip(expected) {
        state_is(&db, *id, state).await;
    }
    let steps: i64 = db.one("select count(*) from backhaul.steps").await;
    assert_eq!(steps, 1);
    // The first last: its key would let the second go.
    for job in [5, 4, 3, 2, 1, 0] {
        let outcome = cancel(&db, ids[job]).await.expect("cancels");
        assert_eq!(outcome, if job == 0 { "cancelled_running" } else { "cancelled" }, "{job}");
        let event = last_event(&db, ids[job]).await;
        assert_eq!(event["type"], "dev.backhaul.job.cancelled");
        assert_eq!((&event["actor"], &event["why"]), (&json!("ann"), &json!("a mistake")));
        assert_eq!((&event["job_id"], &event["was_running"]), (&json!(ids[job]), &json!(job == 0)));
    }
    eventually("the worker lets go", async || db.one::<i64>("select count(*) from backhaul.leases").await == 0).await;
    worker.stop().await;
    assert_eq!(states(&db).await, []);
    assert_eq!(db.ends().await, ids.iter().map(|id| (*id, 1)).collect::<Vec<_>>());
    let left: i64 =
        db.one("select (select count(*) from backhaul.steps) + (select count(*) from backhaul.dead_letters)").await;
    assert_eq!((left, env.count(Some(2), "start"), env.count(Some(4), "start")), (0, 0, 0));
}

/// The worker hears of it with its next heartbeat, and stops the attempt where it stands.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_attempt_is_stopped_by_the_heartbeat() {
    let db = database().await;
    let env = ToyEnv::new();
    let ids = db.toys(&[Toy::new(1).act("hang"), Toy::new(2).act("wait")]).await;
    let worker = Worker::start(&db, &env);
    eventually("both run", async || env.count(None, "start") == 2).await;
    cancel(&db, ids[0]).await.expect("cancels");
    // Only a stopped attempt lets go of its lease, and a hanging one does nothing else.
    eventually("the attempt is stopped", async || {
        db.one::<i64>("select count(*) from backhaul.workers where in_flight = 1").await == 1
    })
    .await;
    env.gate.add_permits(1);
    eventually("the other ends", async || db.unfinished().await == 0).await;
    worker.stop().await;
    assert_eq!((env.count(Some(1), "end"), env.count(Some(2), "end")), (0, 1));
    assert_eq!(db.told(ids[0]).await, ["job.cancelled"]);
    assert_eq!(db.told(ids[1]).await, ["job.completed"]);
}

/// The attempt ends before the worker hears of it: its outcome is refused, with the events that came with it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_of_what_a_cancelled_job_reports() {
    let db = database().await;
    for act in ["wait", "lose"] {
        let env = ToyEnv::new();
        let options = WorkerOptions { heartbeat: Duration::from_secs(600), ..Worker::patient() };
        let worker = Worker::start_with(db.store.clone(), &env, options);
        let id = db.toys(&[Toy::new(1).act(act)]).await[0];
        eventually("it runs", async || env.count(None, "start") == 1).await;
        assert_eq!(cancel(&db, id).await.expect("cancels"), "cancelled_running");
        env.gate.add_permits(1);
        eventually("it ends", async || env.count(None, "end") == 1).await;
        eventually("its lease ends", async || db.one::<i64>("select count(*) from backhaul.leases").await == 0).await;
        worker.stop().await;
        assert_eq!(db.told(id).await, ["job.cancelled"], "{act}");
        assert_eq!(states(&db).await, [], "{act}");
    }
}

/// Covers row 63 for a cancelled job: the next of its key starts once nothing of it runs any more, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_cancelled_job_goes_to_the_next_when_its_attempt_has_ended() {
    let db = database().await;
    let env = ToyEnv::new();
    // The heartbeat stays away, so that it is the attempt's own end that lets the next one go.
    let options = WorkerOptions { heartbeat: Duration::from_secs(600), ..Worker::patient() };
    let worker = Worker::start_with(db.store.clone(), &env, options);
    let toys: Vec<Toy> = (1..=3).map(|n| Toy::new(n).keyed("k")).collect();
    let ids = db.toys(&[toys[0].clone().act("wait"), toys[1].clone(), toys[2].clone(), Toy::new(4)]).await;
    state_is(&db, ids[2], "blocked").await;
    assert_eq!(cancel(&db, ids[0]).await.expect("cancels"), "cancelled_running");
    // Upkeep looks for keys that nobody holds; this one is held, and not for some time but until the worker tells.
    db.run("select backhaul.unblock('0')").await;
    db.run("update backhaul.key_holders set stopping_until = 'infinity' where stopping_until is not null").await;
    let more = db.toys(&[Toy::new(5)]).await[0];
    eventually("others run", async || env.count(Some(5), "end") == 1).await;
    let keyed = states(&db).await.into_iter().filter(|(id, _)| *id != more).collect::<Vec<_>>();
    assert_eq!(keyed, [(ids[1], "blocked".to_owned()), (ids[2], "blocked".to_owned())]);
    env.gate.add_permits(1);
    eventually("all end", async || db.unfinished().await == 0).await;
    worker.stop().await;
    let log = env.log.lock().expect("no panic under the lock").clone();
    let keyed: Vec<(i64, &str)> = log.iter().filter(|(n, _)| *n < 4).map(|(n, what)| (*n, what.as_str())).collect();
    assert_eq!(keyed, [(1, "start"), (1, "end"), (2, "start"), (2, "end"), (3, "start"), (3, "end")]);
    let held: i64 = db.one("select count(*) from backhaul.key_holders").await;
    assert_eq!(held, 0);
}

/// As above where the worker never reports: it died, or its lease was taken.
#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_cancelled_job_outlives_no_dead_worker() {
    let db = database().await;
    let env = ToyEnv::new();
    let worker = Worker::start_with(db.store.clone(), &env, Worker::patient());
    let ids = db.toys(&[Toy::new(1).keyed("k").act("hang"), Toy::new(2).keyed("k")]).await;
    state_is(&db, ids[1], "blocked").await;
    worker.kill().await;
    assert_eq!(cancel(&db, ids[0]).await.expect("cancels"), "cancelled_running");
    db.give_up_workers().await;
    db.run("select backhaul.rescue('1 hour', '0')").await;
    // Time goes by, for whom the key was kept.
    db.run("update backhaul.key_holders set stopping_until = clock_timestamp()").await;
    db.run("select backhaul.unblock('0')").await;
    let worker = Worker::start(&db, &env);
    eventually("the next runs", async || db.unfinished().await == 0).await;
    worker.stop().await;
    assert_eq!((env.count(Some(2), "end"), db.told(ids[0]).await), (1, vec!["job.cancelled".to_owned()]));
}

/// A job that waits for its key leaves the line; the key stays where it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_in_the_middle_of_the_line_is_left_out() {
    let db = database().await;
    let env = ToyEnv::new();
    let toys: Vec<Toy> = (1..=3).map(|n| Toy::new(n).keyed("k")).collect();
    let ids = db.toys(&[toys[0].clone().act("wait"), toys[1].clone(), toys[2].clone()]).await;
    let worker = Worker::start(&db, &env);
    state_is(&db, ids[2], "blocked").await;
    assert_eq!(cancel(&db, ids[1]).await.expect("cancels"), "cancelled");
    env.gate.add_permits(1);
    eventually("the others end", async || db.unfinished().await == 0).await;
    worker.stop().await;
    assert_eq!(env.order("end"), [1, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_cannot_be_cancelled() {
    let db = database().await;
    let env = ToyEnv::new();
    let ids = db.toys(&[Toy::new(1), Toy::new(2).act("permanent"), Toy::new(3)]).await;
    cancel(&db, ids[2]).await.expect("cancels");
    let worker = Worker::start(&db, &env);
    eventually("all end", async || db.unfinished().await == 0).await;
    worker.stop().await;
    for job in [ids[0], ids[1], ids[2], 4_711, -1] {
        let refused = refusal(cancel(&db, job).await);
        assert_eq!(refused.sqlstate, "BH020", "{refused:?}");
        assert!(
            refused.message.starts_with("not_found: ") && refused.message.contains(&job.to_string()),
            "{refused:?}"
        );
        assert!(refused.hint.contains("discarded"), "{refused:?}");
    }
    assert_eq!(db.ends().await.iter().filter(|(_, ends)| *ends != 1).count(), 0);
}

/// Whoever is not named is the login.
#[tokio::test(flavor = "multi_thread")]
async fn the_actor_is_the_login_where_none_is_given() {
    let db = database().await;
    let id = db.toys(&[Toy::new(1)]).await[0];
    text(&db, format!("select backhaul.cancel({id}, null, null)")).await.expect("cancels");
    let event = last_event(&db, id).await;
    let login: String = db.one("select session_user::text").await;
    assert_eq!((&event["actor"], event.get("why")), (&json!(login), None));
}

/// Whatever name is given, the trail has the login beside it.
#[tokio::test(flavor = "multi_thread")]
async fn the_login_is_told_beside_the_actor() {
    let db = database().await;
    let ids = db.toys(&[Toy::new(1), Toy::new(2)]).await;
    let dead = json!([{ "id": ids[1], "reason": "r", "error": { "code": "r" } }]).to_string();
    sqlx::query("select backhaul.bury($1::jsonb)").bind(dead).execute(db.store.pool()).await.expect("buries");
    let login = Login::of(&db, Some("backhaul_operator")).await;
    let mut connection = login.connect().await;
    for sql in [
        format!("select backhaul.cancel({}, 'ann', null)", ids[0]),
        format!("select backhaul.dead_discard({}, 'ann', null)", ids[1]),
        "select backhaul.pause('toy', actor => 'ann')".to_owned(),
        "select backhaul.schedule_put('s', 'toy', '{\"n\": 1}', '@daily', actor => 'ann')".to_owned(),
        "select backhaul.erase('acme', '{kim@example.com}', 'ann', 'request 1', after => null)".to_owned(),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.clone())).execute(&mut connection).await.expect(&sql);
    }
    let told: Vec<(String, String, Option<String>)> = db
        .rows(
            "select type, payload ->> 'actor', payload ->> 'login' from backhaul.outbox_events
             where payload ? 'actor' order by event_no",
        )
        .await;
    assert_eq!(told.len(), 4, "{told:?}");
    for (event, actor, by) in told {
        assert_eq!((actor.as_str(), by.as_deref()), ("ann", Some(login.name.as_str())), "{event}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_does_not_run_moves_to_another_time() {
    let db = database().await;
    let env = ToyEnv::new();
    let far = "2030-01-01T00:00:00Z";
    let ids = db
        .enqueue(vec![
            json!({"kind": "toy", "payload": {"n": 1}, "run_at": far}),
            json!({"kind": "toy", "payload": Toy::new(2).act("wait")}),
        ])
        .await;
    let worker = Worker::start(&db, &env);
    state_is(&db, ids[1], "running").await;
    let reschedule = async |job: i64, at: &str| {
        text(&db, format!("select coalesce(backhaul.reschedule({job}, {at}, 'ann', 'early')::text, '')")).await
    };
    let refused = refusal(reschedule(ids[1], "now()").await);
    assert_eq!((refused.sqlstate.as_str(), refused.hint.is_empty()), ("BH021", false), "{refused:?}");
    for (at, sqlstate) in [("'infinity'", "BH005"), ("'-infinity'", "BH005"), ("null", "BH005")] {
        let refused = refusal(reschedule(ids[0], at).await);
        assert_eq!((refused.sqlstate.as_str(), refused.hint.is_empty()), (sqlstate, false), "{at}: {refused:?}");
    }
    assert_eq!(refusal(reschedule(4_711, "now()").await).sqlstate, "BH020");
    reschedule(ids[0], "now()").await.expect("moves");
    eventually("it runs", async || env.count(Some(1), "end") == 1).await;
    env.gate.add_permits(1);
    eventually("the other ends", async || db.unfinished().await == 0).await;
    worker.stop().await;
    assert_eq!(db.told(ids[0]).await, ["job.rescheduled", "job.completed"]);
}
