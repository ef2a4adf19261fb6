//! What operators look at: states in a word, depths, the trail.

use serde_json::{Value, json};

use super::{state_is, states};
use crate::support::{Toy, ToyEnv, Worker, database, eventually};

/// Every state at once, each a fact about rows.
#[tokio::test(flavor = "multi_thread")]
async fn each_state_is_told_and_counted() {
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
            toy(Toy::new(6).act("conflict"), "acme"),
            toy(Toy::new(7), "acme"),
        ])
        .await;
    let worker = Worker::start(&db, &env);
    let expected = ["running", "blocked", "scheduled", "ready", "retrying", "dead"];
    for (id, state) in ids.iter().zip(expected) {
        state_is(&db, *id, state).await;
    }
    eventually("the last one ends", async || env.count(Some(7), "end") == 1).await;
    let expected: Vec<(i64, String)> = ids.iter().zip(expected).map(|(id, state)| (*id, state.to_owned())).collect();
    eventually("the others stay", async || states(&db).await == expected).await;
    let running: Vec<(bool, bool)> = db
        .rows("select worker is not null, claimed_at is not null from backhaul.job_states where state = 'running'")
        .await;
    assert_eq!(running, [(true, true)]);
    let errors: Vec<(String, Value)> =
        db.rows("select state, last_error from backhaul.job_states where last_error is not null order by id").await;
    assert_eq!(errors.len(), 2);
    assert_eq!((errors[0].1["code"].as_str(), errors[1].1["code"].as_str()), (Some("toy_broke"), Some("conflict")));
    // The documents of a conflict are for those who may read payloads.
    assert_eq!(errors[1].1.get("conflict"), None);
    let conflict: Value = db.one("select conflict from backhaul.dead_letters").await;
    assert_eq!(conflict, json!({"base": {"a": 1}, "ours": {"a": 2}, "theirs": {"a": 3}}));
    let depths: Value = db
        .one(
            "select jsonb_agg(jsonb_build_array(tenant, ready, running, scheduled, retrying, blocked, dead,
                 oldest_ready is not null) order by tenant)
             from backhaul.queue_depth",
        )
        .await;
    assert_eq!(depths, json!([["acme", 0, 1, 1, 1, 1, 1, false], ["held", 1, 0, 0, 0, 0, 0, true]]));
    env.gate.add_permits(1);
    eventually("the key is handed on", async || env.count(Some(2), "end") == 1).await;
    worker.stop().await;
}

/// A worker that died leaves its jobs running until they are taken from it; two crashes mark a job.
#[tokio::test(flavor = "multi_thread")]
async fn a_rescued_job_is_told_as_such() {
    let db = database().await;
    let env = ToyEnv::new();
    let id = db.toys(&[Toy::new(1).act("hang")]).await[0];
    let worker = Worker::start_with(db.store.clone(), &env, Worker::patient());
    eventually("it runs", async || env.count(None, "start") == 1).await;
    worker.kill().await;
    assert_eq!(states(&db).await, [(id, "running".to_owned())]);
    db.give_up_workers().await;
    db.run("select backhaul.rescue('1 hour', '0')").await;
    let after: Vec<(String, i16, i16)> = db.rows("select state, attempt, rescues from backhaul.job_states").await;
    assert_eq!(after, [("ready".to_owned(), 0, 1)], "a rescue costs no attempt");
}

/// The trail in Debezium's columns: one row an event, the data as JSON, ids that nothing else has.
#[tokio::test(flavor = "multi_thread")]
async fn the_trail_is_told_in_the_outboxs_columns() {
    let db = database().await;
    let env = ToyEnv::new();
    let job = json!({
        "kind": "toy", "payload": Toy::new(1).act("steps"), "tenant": "acme",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    });
    let id = db.enqueue(vec![job]).await[0];
    let worker = Worker::start(&db, &env);
    eventually("it ends", async || db.unfinished().await == 0).await;
    worker.stop().await;
    let rows: Vec<(Value,)> = db.rows("select to_jsonb(e) from backhaul.outbox_events e order by event_no").await;
    let types: Vec<&str> = rows.iter().filter_map(|(row,)| row["type"].as_str()).collect();
    assert_eq!(types, ["dev.backhaul.toy.stepped", "dev.backhaul.toy.stepped", "dev.backhaul.job.completed"]);
    for (row,) in &rows {
        assert_eq!(
            (&row["aggregatetype"], &row["tenant"], &row["job_id"]),
            (&json!("toy"), &json!("acme"), &json!(id))
        );
        assert_eq!(row["traceparent"], "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(row["id"].as_str().and_then(|id| id.chars().nth(14)), Some('7'), "an event's id is sortable: {row}");
        assert!(
            row["payload"].is_object() && row["aggregateid"].is_string() && row["occurred_at"].is_string(),
            "{row}"
        );
    }
    assert_eq!((&rows[0].0["aggregateid"], &rows[2].0["aggregateid"]), (&json!("toy/1"), &json!(format!("job/{id}"))));
}
