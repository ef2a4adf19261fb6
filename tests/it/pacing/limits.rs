//! Several limits of one call: a token of each or of none, and wider limits that classes share.

use super::*;

/// Sets tokens. From now on buckets earn a token in twelve days, so that their tokens can be counted.
async fn frozen(db: &Database, tokens: &str) {
    db.run(
        "create or replace function backhaul.bucket_rate(p_per_minute integer) returns double precision
         language sql immutable as $$ select 1 / 1048576.0::double precision $$",
    )
    .await;
    sqlx::query(
        "update backhaul.buckets b set tokens = t.value::double precision, refilled_at = clock_timestamp()
         from jsonb_each_text($1::jsonb) t where t.key = b.name",
    )
    .bind(tokens)
    .execute(db.store.pool())
    .await
    .expect("sets tokens");
}

async fn tokens(db: &Database) -> Vec<(String, f64)> {
    db.rows("select name, round(tokens) from backhaul.buckets where tenant = 'acme' order by name").await
}

fn as_rows(rows: &[(&str, f64)]) -> Vec<(String, f64)> {
    rows.iter().map(|(name, tokens)| ((*name).to_owned(), *tokens)).collect()
}

/// Three buckets: `toy/box` lies within `toy/wide`, and a call draws on `toy/narrow` besides.
async fn three(db: &Database) {
    db.run(
        "select backhaul.bucket_limit('acme', 'toy/wide', 60000), backhaul.bucket_limit('acme', 'toy/narrow', 60000),
                backhaul.bucket_limit('acme', 'toy/box', 60000, '{toy/wide}')",
    )
    .await;
}

/// Whichever of the three has no token, none is taken from the others, and the longest wait is told with its bucket.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_draws_on_all_its_limits_or_on_none() {
    let db = database().await;
    three(&db).await;
    // The wait in units of what a token takes.
    const TAKE: &str = "select granted, round(wait_ms / 1048576000.0)::bigint, why, refused
                        from backhaul.bucket_take('acme', 'toy/box', 1, false, p_more => '{toy/narrow}')";
    type Answer = (i32, Option<i64>, Option<String>, Option<String>);
    let refused = |wait, by: &str| (0, Some(wait), Some("limit".to_owned()), Some(by.to_owned()));
    for (empty, standing) in [
        ("toy/box", [("toy/box", 0.0), ("toy/narrow", 5.0), ("toy/wide", 5.0)]),
        ("toy/narrow", [("toy/box", 5.0), ("toy/narrow", 0.0), ("toy/wide", 5.0)]),
        ("toy/wide", [("toy/box", 5.0), ("toy/narrow", 5.0), ("toy/wide", 0.0)]),
    ] {
        frozen(&db, &json!(std::collections::BTreeMap::from(standing)).to_string()).await;
        let answer: Answer = db.rows(TAKE).await.remove(0);
        assert_eq!(answer, refused(1, empty));
        assert_eq!(tokens(&db).await, as_rows(&standing), "{empty} is empty, and nobody lost a token");
    }
    frozen(&db, r#"{"toy/box": 5, "toy/narrow": -1, "toy/wide": -9}"#).await;
    let answer: Answer = db.rows(TAKE).await.remove(0);
    assert_eq!(answer, refused(10, "toy/wide"), "the longest wait");
    frozen(&db, r#"{"toy/box": 5, "toy/narrow": 1, "toy/wide": 3}"#).await;
    let answer: Answer = db.rows(TAKE).await.remove(0);
    assert_eq!(answer, (1, None, None, None));
    assert_eq!(tokens(&db).await, as_rows(&[("toy/box", 4.0), ("toy/narrow", 0.0), ("toy/wide", 2.0)]));
    // A claim takes many at once: as many as the poorest has.
    let granted: i32 = db.one("select granted from backhaul.bucket_take('acme', 'toy/box', 10, false)").await;
    assert_eq!(granted, 2);
    assert_eq!(tokens(&db).await, as_rows(&[("toy/box", 2.0), ("toy/narrow", 0.0), ("toy/wide", 0.0)]));
    // Closed counts as empty, and says why.
    frozen(&db, r#"{"toy/box": 5, "toy/narrow": 5, "toy/wide": 5}"#).await;
    db.run(
        "update backhaul.buckets set blocked_until = now() + interval '24 days', blocked_why = 'asked for'
         where name = 'toy/wide'",
    )
    .await;
    let answer: Answer = db.rows(TAKE).await.remove(0);
    assert_eq!(answer, (0, Some(2), Some("asked for".to_owned()), Some("toy/wide".to_owned())));
    assert_eq!(tokens(&db).await, as_rows(&[("toy/box", 5.0), ("toy/narrow", 5.0), ("toy/wide", 5.0)]));
}

/// Two classes share a wider limit. Their takers meet the same rows from both sides: nobody deadlocks, and together they
/// get no more than the wider limit lets through.
#[tokio::test(flavor = "multi_thread")]
async fn two_classes_obey_the_limit_they_share() {
    let db = database().await;
    db.run(
        "select backhaul.bucket_limit('acme', 'toy/middle', 6000), backhaul.bucket_limit('acme', 'toy/narrow', 60000),
                backhaul.bucket_limit('acme', 'toy/a', 60000, '{toy/middle}'),
                backhaul.bucket_limit('acme', 'toy/z', 60000, '{toy/middle}')",
    )
    .await;
    let mut takers = tokio::task::JoinSet::new();
    for taker in 0..4 {
        let pool = db.store.pool().clone();
        takers.spawn(async move {
            let mut log = Vec::new();
            let (class, more) = if taker % 2 == 0 {
                ("toy/a", vec!["toy/z", "toy/narrow"])
            } else {
                ("toy/z", vec!["toy/narrow", "toy/a"])
            };
            for _ in 0..150 {
                let (granted, at): (i32, f64) = sqlx::query_as(
                    "select granted, extract(epoch from clock_timestamp())::double precision
                     from backhaul.bucket_take('acme', $1, 20, false, p_more => $2)",
                )
                .bind(class)
                .bind(&more[..])
                .fetch_one(&pool)
                .await
                .expect("takes without a deadlock");
                log.push((at, i64::from(granted)));
            }
            log
        });
    }
    let mut log: Vec<(f64, i64)> = takers.join_all().await.into_iter().flatten().collect();
    log.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (burst, rate) = (55.0, (6_000.0 - 55.0) / 61.0);
    let took = log[log.len() - 1].0 - log[0].0;
    let granted: i64 = log.iter().map(|(_, granted)| granted).sum();
    assert!(granted >= 1, "something was granted");
    for seconds in [0.2, 1.0, took] {
        let most = most_in_a_window(&log, seconds);
        let allowed = burst + rate * (seconds + 0.25) + 1.0;
        assert!(most as f64 <= allowed, "{most} in {seconds} s, {allowed} allowed");
    }
}

/// What a claim pays for in advance it pays of the wider limit too, and the call does not pay again. A lane whose wider
/// limit is used up is passed over, and its class keeps its tokens.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_pays_for_the_wider_limit_too() {
    let db = database().await;
    let env = ToyEnv::new();
    three(&db).await;
    frozen(&db, r#"{"toy/box": 50, "toy/wide": 20, "toy/narrow": 0}"#).await;
    // Each calls twice: once with the claim's token, once with another.
    db.enqueue(toys("acme", 0..6, &["calls"])).await;
    let fleet: Vec<Worker> = (0..2).map(|_| worker(&db, &env)).collect();
    eventually("the calls end", async || db.unfinished().await == 0).await;
    assert_eq!(tokens(&db).await, as_rows(&[("toy/box", 38.0), ("toy/narrow", 0.0), ("toy/wide", 8.0)]));

    frozen(&db, r#"{"toy/box": 50, "toy/wide": 0, "toy/narrow": 0}"#).await;
    db.enqueue(toys("acme", 10..14, &["ok"])).await;
    db.enqueue(toys("globex", 200..220, &["ok"])).await;
    eventually("the other tenant's jobs end", async || (200..220).all(|n| env.count(Some(n), "end") == 1)).await;
    assert_eq!(env.order("start").iter().filter(|n| (10..14).contains(*n)).count(), 0, "no claim brings them");
    assert_eq!(tokens(&db).await[0], ("toy/box".to_owned(), 50.0), "and none takes their class's tokens");
    let why: Vec<(String, String)> = db
        .rows(
            "select distinct e.code, substring(e.cause from 'toy/[a-z]+') from backhaul.jobs j
             cross join lateral backhaul.explain_job(j.id) e where j.tenant = 'acme'",
        )
        .await;
    assert_eq!(why, [("paced".to_owned(), "toy/wide".to_owned())]);
    frozen(&db, r#"{"toy/wide": 4}"#).await;
    eventually("they come when there are tokens", async || db.unfinished().await == 0).await;
    assert_eq!(tokens(&db).await, as_rows(&[("toy/box", 46.0), ("toy/narrow", 0.0), ("toy/wide", 0.0)]));
    for worker in fleet {
        worker.stop().await;
    }
}

/// An idle worker wakes when the wider limit has tokens again, though the class had them all the time.
#[tokio::test(flavor = "multi_thread")]
async fn the_wait_for_a_wider_limit_has_an_end() {
    let db = database().await;
    db.run(
        "select backhaul.bucket_limit('acme', 'toy/wide', 600), backhaul.bucket_limit('acme', 'toy/box', 600, '{toy/wide}');
         update backhaul.buckets set tokens = case name when 'toy/wide' then -600 else 6 end",
    )
    .await;
    db.enqueue(toys("acme", 0..1, &["ok"])).await;
    db.run("select backhaul.promote(1, '-infinity')").await;
    let wait: f64 =
        db.one("select extract(epoch from backhaul.next_due() - clock_timestamp())::double precision").await;
    assert!((55.0..65.0).contains(&wait), "{wait} s for 600 tokens at ten a second");
}

/// Jobs that expired before they ran give back what the claim took for them, of the wider limit too.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_costs_no_token_of_any_limit() {
    let db = database().await;
    let env = ToyEnv::new();
    three(&db).await;
    db.enqueue(toys("acme", 0..30, &["ok"])).await;
    db.run("update backhaul.jobs set deadline_at = now() - interval '1 minute'").await;
    frozen(&db, r#"{"toy/box": 50, "toy/wide": 40, "toy/narrow": 0}"#).await;
    let worker = worker(&db, &env);
    db.drained().await;
    worker.stop().await;
    assert_eq!(tokens(&db).await, as_rows(&[("toy/box", 50.0), ("toy/narrow", 0.0), ("toy/wide", 40.0)]));
}
