//! A settle or a step without its lease changes nothing, as the protocol's functions see it: with leases that are claimed and
//! settled by hand, in orders that no worker could be made to take.

use serde_json::json;
use uuid::Uuid;

use crate::support::{Database, Toy, database};

/// A worker that only the database knows, with toys in its hands: its id, the lease of them all, and their ids.
async fn by_hand(db: &Database, toys: i64) -> (Uuid, i64, Vec<i64>) {
    let ids = db.toys(&(0..toys).map(Toy::new).collect::<Vec<_>>()).await;
    let worker = Uuid::new_v4();
    sqlx::query("select backhaul.register_worker($1, 'here', 1, 'test', array['toy@1'], 1)")
        .bind(worker)
        .execute(db.store.pool())
        .await
        .expect("registers");
    let claimed = claim(db, worker).await;
    assert_eq!(claimed.iter().map(|(_, id)| *id).collect::<Vec<_>>(), ids);
    (worker, claimed[0].0, ids)
}

/// Leases and ids of what there is to claim.
async fn claim(db: &Database, worker: Uuid) -> Vec<(i64, i64)> {
    sqlx::query_as("select lease, id from backhaul.claim($1, array['toy@1'], 100, '-infinity')")
        .bind(worker)
        .fetch_all(db.store.pool())
        .await
        .expect("claims")
}

/// Settles `(job, lease, what)`, each with an event that says what; returns the refused jobs.
async fn settle(db: &Database, worker: Uuid, outcomes: &[(i64, i64, &str)]) -> Vec<i64> {
    let (done, others): (Vec<_>, Vec<_>) = outcomes.iter().partition(|(.., what)| *what == "done");
    let mut leases: Vec<i64> = outcomes.iter().map(|(_, lease, _)| *lease).collect();
    leases.sort_unstable();
    leases.dedup();
    let others: Vec<_> = others
        .iter()
        .map(|(id, lease, what)| {
            json!({ "id": id, "lease": lease, "do": what, "delay_ms": 0, "attempt": 1, "reason": "x", "error": {} })
        })
        .collect();
    sqlx::query_scalar(
        "with told as (select unnest($6::bigint[]) as job, unnest($7::text[]) as type)
         select backhaul.settle($1, $2, $3, $4, $5, '{}', false, '{}',
             array_agg(job), array_agg(gen_random_uuid()), array_agg(now()), array_agg(type), array_agg('t'::text),
             array_agg('toy'::text), array_agg('job'::text), array_agg(null::text), array_agg('{}'::bytea), null, null)
         from told",
    )
    .bind(worker)
    .bind(done.iter().map(|(id, ..)| *id).collect::<Vec<_>>())
    .bind(done.iter().map(|(_, lease, _)| *lease).collect::<Vec<_>>())
    .bind((!others.is_empty()).then_some(sqlx::types::Json(others)))
    .bind(leases)
    .bind(outcomes.iter().map(|(id, ..)| *id).collect::<Vec<_>>())
    .bind(outcomes.iter().map(|(.., what)| (*what).to_owned()).collect::<Vec<_>>())
    .fetch_one(db.store.pool())
    .await
    .expect("settles")
}

/// A batch in which one outcome still has its lease and others do not: only that one is written, and only its event.
///
/// Covers row 202.
#[tokio::test]
async fn of_a_batch_only_what_is_held_is_written() {
    let db = database().await;
    let (worker, held, ids) = by_hand(&db, 3).await;
    let lost = held + 1_000;
    assert_eq!(settle(&db, worker, &[(ids[1], lost, "dead"), (ids[2], lost, "retry")]).await, ids[1..]);
    assert_eq!(db.one::<i64>("select count(*) from backhaul.events").await, 0);
    let mixed = [(ids[0], held, "done"), (ids[1], lost, "dead"), (ids[2], lost, "retry")];
    assert_eq!(settle(&db, worker, &mixed).await, ids[1..]);
    let told: Vec<(i64, String)> = db.rows("select job_id, type from backhaul.events").await;
    assert_eq!(told, [(ids[0], "done".to_owned())]);
    assert_eq!(db.unfinished().await, 2);
    assert_eq!(db.one::<i64>("select count(*) from backhaul.dead_letters").await, 0);
}

/// The reply to a settle is lost with its connection, and the settle is sent again. Its lease lives on with other jobs,
/// but what was settled is not there any more, and may be in other hands.
///
/// Covers row 202.
#[tokio::test]
async fn a_settle_that_is_sent_twice_is_written_once() {
    let db = database().await;
    let (worker, lease, ids) = by_hand(&db, 4).await;
    let outcomes = [(ids[0], lease, "retry"), (ids[1], lease, "dead"), (ids[2], lease, "done")];
    assert!(settle(&db, worker, &outcomes).await.is_empty());
    assert_eq!(claim(&db, worker).await.iter().map(|(_, id)| *id).collect::<Vec<_>>(), ids[..1]);
    let mut refused = settle(&db, worker, &outcomes).await;
    refused.sort_unstable();
    assert_eq!(refused, ids[..3]);
    assert_eq!(settle(&db, worker, &[(ids[0], lease, "dead")]).await, ids[..1]);
    assert_eq!(db.one::<i64>("select count(*) from backhaul.events").await, 3);
    let running: Vec<(i64,)> = db.rows("select id from backhaul.job_states where state = 'running' order by id").await;
    assert_eq!(running, [(ids[0],), (ids[3],)]);
}

/// Claims do not wait for the disk, so a server that crashes may forget one whose answer has arrived. The lease of the
/// next claim is another one: what the worker still has under the forgotten lease writes nothing.
///
/// Covers row 202.
#[tokio::test]
async fn a_forgotten_lease_is_no_lease() {
    let db = database().await;
    let (worker, forgotten, ids) = by_hand(&db, 2).await;
    db.run(
        "delete from backhaul.leases;
         update backhaul.cursors set position = 0;
         do $$ begin
             -- The number of the lost lease is lost as well, wherever it was counted.
             if pg_get_serial_sequence('backhaul.leases', 'id') is not null then
                 perform setval(pg_get_serial_sequence('backhaul.leases', 'id'), 1, false);
             end if;
         end $$",
    )
    .await;
    let again = claim(&db, worker).await;
    assert_eq!(again.iter().map(|(_, id)| *id).collect::<Vec<_>>(), ids);
    let (lease, _) = again[0];
    assert_ne!(lease, forgotten);
    assert_eq!(settle(&db, worker, &[(ids[0], forgotten, "done"), (ids[1], forgotten, "dead")]).await, ids);
    assert_eq!(db.one::<i64>("select count(*) from backhaul.events").await, 0);
    assert!(settle(&db, worker, &[(ids[0], lease, "done"), (ids[1], lease, "dead")]).await.is_empty());
}

/// An attempt ran out of time while its step was on its way, and was settled; the lease lives on with its neighbours. By
/// the time the step arrives the job is in other hands, and the step is refused: whoever has the job now writes its own.
#[tokio::test]
async fn a_step_of_an_attempt_that_was_settled_is_refused() {
    let db = database().await;
    let (worker, lease, ids) = by_hand(&db, 2).await;
    let step = async |lease: i64| -> bool {
        sqlx::query_scalar(
            "select backhaul.put_step($1, $2, $3, 'one', 'done', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', null)",
        )
        .bind(worker)
        .bind(lease)
        .bind(ids[0])
        .fetch_one(db.store.pool())
        .await
        .expect("answers")
    };
    assert!(step(lease).await);
    assert!(settle(&db, worker, &[(ids[0], lease, "retry")]).await.is_empty());
    assert!(!step(lease).await, "it waits for its next try");
    let again = claim(&db, worker).await;
    assert_eq!(again.iter().map(|(_, id)| *id).collect::<Vec<_>>(), ids[..1]);
    assert!(!step(lease).await, "it is in other hands");
    assert!(step(again[0].0).await);
}
