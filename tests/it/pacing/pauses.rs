//! Who is kept waiting by a pause or a spent limit, and who is not.

use serde_json::json;

use super::{bucket, toys, worker};
use crate::support::{ToyEnv, database, eventually};

/// A pause is as long as the upstream asked for, however many jobs meet it before they may go on.
#[tokio::test(flavor = "multi_thread")]
async fn who_meets_a_pause_does_not_prolong_it() {
    let db = database().await;
    let env = ToyEnv::new();
    db.run(
        "insert into backhaul.buckets (tenant, name, blocked_until, blocked_why)
         values ('acme', 'other/box', clock_timestamp() + interval '1 hour', 'throttled: 429')",
    )
    .await;
    let pause = "select extract(epoch from blocked_until)::double precision from backhaul.buckets";
    let asked: f64 = db.one(pause).await;
    db.enqueue(toys("acme", 0..20, &["take other", "ok"])).await;
    let worker = worker(&db, &env);
    let waiting = "select count(*) from backhaul.jobs where due_at > now() + interval '59 minutes'";
    eventually("all wait for its end", async || db.one::<i64>(waiting).await == 20).await;
    assert_eq!(db.one::<f64>(pause).await, asked);
    let told = "select count(*) from backhaul.outbox_events where type = 'dev.backhaul.job.throttled'";
    assert_eq!(db.one::<i64>(told).await, 20);
    db.drained_in_a_hurry().await;
    worker.stop().await;
    assert_eq!(db.one::<i64>("select count(*) from backhaul.dead_letters").await, 0);
}

/// A job may call several upstreams, and another one that is down says nothing about the one its kind is paced by.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_is_not_blamed_for_another() {
    let db = database().await;
    let env = ToyEnv::new();
    db.enqueue(toys("acme", 0..12, &["call other", "wait"])).await;
    let worker = worker(&db, &env);
    let failed = "select count(*) from backhaul.outbox_events where type = 'dev.backhaul.job.retried'";
    eventually("all have met it", async || db.one::<i64>(failed).await == 12).await;
    assert_eq!(db.one::<i64>("select count(*) from backhaul.buckets").await, 0, "no bucket was closed");
    env.gate.add_permits(12);
    db.drained_in_a_hurry().await;
    worker.stop().await;
}

/// A backfill that has used its part up waits, and closes nothing: what is urgent has the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_that_used_its_part_up_stops_nobody_else() {
    let db = database().await;
    let env = ToyEnv::new();
    db.run(
        "select backhaul.bucket_limit('acme', 'toy/box', 100);
         select backhaul.set_backfill_share('acme', 'toy/box', 0.01);
         update backhaul.buckets set tokens = 1.9, backfill_tokens = 1, refilled_at = clock_timestamp()",
    )
    .await;
    let mut jobs = toys("acme", 0..1, &["calls"]);
    jobs[0]["priority"] = json!("backfill");
    db.enqueue(jobs).await;
    let worker = worker(&db, &env);
    let waits =
        "select count(*) from backhaul.jobs where errors -> -1 ->> 'class' = 'throttled' and due_at is not null";
    eventually("its second request finds no token", async || db.one::<i64>(waits).await == 1).await;
    assert_eq!(bucket(&db).await, (false, false));
    db.enqueue(toys("acme", 100..101, &["ok"])).await;
    eventually("other work ends", async || env.count(Some(100), "end") == 1).await;
    worker.stop().await;
}
