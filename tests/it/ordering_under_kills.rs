//! Thousands of jobs of one ordering key among as many others, three worker processes that are killed in turn: strictly
//! one after the other, in order, and the others are not held up.

use std::collections::BTreeSet;

use crate::support::{Database, Ledger, Toy, ToyProcess, database, eventually};

/// Jobs of the key, and as many of none. `BACKHAUL_TEST_KEYED` says how many for a longer run; 10,000 have been done.
const KEYED: i64 = 1_000;
const WORKERS: usize = 3;
const KILLS: i64 = 6;
/// Jobs enqueued at once.
const BATCH: i64 = 500;

/// Covers row 63 and row 201 together: order and mutual exclusion through SIGKILL, at length.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_key_keeps_its_order_and_holds_nobody_up() {
    let keyed = std::env::var("BACKHAUL_TEST_KEYED").map_or(KEYED, |n| n.parse().expect("a number of jobs"));
    let db = database().await;
    let ledger = Ledger::new("long-key");
    let mut ids = Vec::new();
    // Even numbers have the key, odd ones have none.
    for from in (0..2 * keyed).step_by(usize::try_from(BATCH).expect("small")) {
        let batch = from..(from + BATCH).min(2 * keyed);
        let toys: Vec<Toy> = batch.map(|n| if n % 2 == 0 { Toy::new(n).keyed("long") } else { Toy::new(n) }).collect();
        ids.extend(db.toys(&toys).await);
    }
    let mut workers: Vec<ToyProcess> = (0..WORKERS).map(|_| ToyProcess::start(&db.url, &ledger, 16)).collect();
    let mut left = 2 * keyed;
    for kill in (1..=KILLS).rev() {
        patiently(&db, "jobs end", &mut left, 2 * keyed * kill / (KILLS + 1)).await;
        let worker = workers.remove(0);
        let id = worker.id();
        worker.kill(&ledger);
        db.has_seen_go(id).await;
        db.give_up_process(id).await;
        workers.push(ToyProcess::start(&db.url, &ledger, 16));
    }
    patiently(&db, "all jobs end", &mut left, 0).await;
    db.assert_ended_once(&ids).await;
    assert_eq!(db.one::<i64>("select count(*) from backhaul.dead_letters").await, 0);
    assert_eq!(db.one::<i64>("select count(*) from backhaul.key_holders").await, 0);
    for worker in workers {
        worker.kill(&ledger);
    }
    ledger.assert_ordered(|n| (n % 2 == 0).then_some(0));
    let ended = ledger.order("end");
    assert_eq!(ended.iter().copied().collect::<BTreeSet<_>>(), (0..2 * keyed).collect());
    let last = ended.iter().rposition(|n| n % 2 == 1).expect("there are others");
    let behind = ended[last..].iter().filter(|n| *n % 2 == 0).count();
    assert!(behind * 4 > ended.len() / 2, "the others waited for the key: {behind} of it ended after all of them");
}

/// Waits until at most `until` jobs are left, as long as they become fewer.
async fn patiently(db: &Database, what: &str, left: &mut i64, until: i64) {
    while *left > until {
        let before = *left;
        eventually(what, async || db.unfinished().await < before).await;
        *left = db.unfinished().await;
    }
}
