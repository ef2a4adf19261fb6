//! Success ratios and latencies: of what happened, in the window, with every failure's time; of nothing there is none.

use serde_json::{Value, json};

use crate::support::{Database, Toy, ToyEnv, Worker, binary, database, run};

async fn outcomes(db: &Database, arguments: &str) -> Vec<Value> {
    let sql = format!(
        "select to_jsonb(o) || jsonb_build_object('ratio', o.success_ratio::text) from backhaul.outcomes({arguments}) o"
    );
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(db.store.pool()).await.expect("counts")
}

/// Covers row 124, row 161: three of four are 75.00 percent, none have no ratio and not 0, and the times of failed
/// attempts are recorded as those of good ones.
#[tokio::test(flavor = "multi_thread")]
async fn ratios_are_of_what_happened_and_absent_otherwise() {
    let db = database().await;
    assert_eq!(outcomes(&db, "").await, Vec::<Value>::new(), "nothing happened: no sample");
    let env = ToyEnv::new();
    let toy = |tenant: &str, toy: Toy| json!({"kind": "toy", "tenant": tenant, "payload": toy});
    db.enqueue(vec![
        toy("acme", Toy::new(1)),
        toy("acme", Toy::new(2)),
        toy("acme", Toy::new(3).act("transient").act("ok")),
        toy("acme", Toy::new(4).act("permanent")),
        toy("globex", Toy::new(5)),
    ])
    .await;
    let worker = Worker::start(&db, &env);
    db.drained_in_a_hurry().await;
    // A job that has only been tried so far says nothing of success.
    db.enqueue(vec![json!({"kind": "toy", "tenant": "initech", "payload": Toy::new(6).act("transient")})]).await;
    crate::support::eventually("it failed once", async || {
        db.one::<i64>("select count(*) from backhaul.events where tenant = 'initech'").await >= 1
    })
    .await;
    worker.stop().await;

    let rows = outcomes(&db, "").await;
    let told =
        |row: &Value| (row["tenant"].clone(), row["completed"].clone(), row["dead"].clone(), row["ratio"].clone());
    assert_eq!(
        rows.iter().map(told).collect::<Vec<_>>(),
        [
            (json!("acme"), json!(3), json!(1), json!("75.00")),
            (json!("globex"), json!(1), json!(0), json!("100.00")),
            (json!("initech"), json!(0), json!(0), Value::Null),
        ]
    );
    assert_eq!((&rows[0]["attempts"], &rows[0]["failures"]), (&json!(5), &json!(2)), "each try counts");
    let untimed: i64 = db
        .one(
            "select count(*) from backhaul.outbox_events
             where type ~ '[.]job[.](completed|retried|throttled|dead)$' and payload ->> 'latency_ms' is null",
        )
        .await;
    assert_eq!(untimed, 0);
    for row in &rows {
        assert!(row["latency_avg_ms"].is_number() && row["latency_p99_ms"].is_number(), "{row}");
        assert_eq!(row["failure_latency_avg_ms"].is_number(), row["tenant"] != "globex", "{row}");
    }
    assert_eq!(outcomes(&db, "of_tenant => 'globex'").await.len(), 1);
    assert_eq!(outcomes(&db, "of_kind => 'enrichment'").await, Vec::<Value>::new());
    let printed = run(binary().arg("stats").env("DATABASE_URL", &db.url));
    assert!(
        printed.contains("75.00") && printed.lines().any(|line| line.contains("initech") && line.contains(" - ")),
        "{printed}"
    );
}

/// The window begins where it should in a log of any length, and with numbers that nobody has.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_window_counts() {
    let db = database().await;
    db.run(
        "insert into backhaul.events (id, event_id, occurred_at, type, tenant, kind, subject, data)
         select 3 * n, gen_random_uuid(), now() - make_interval(mins => 1000 - n),
             case when n % 4 = 0 then 'dev.backhaul.job.dead' else 'dev.backhaul.job.completed' end, 'acme', 'toy', 'job/1',
             convert_to(jsonb_build_object('latency_ms', n)::text, 'UTF8')
         from generate_series(1, 1000) n",
    )
    .await;
    for minutes in [1_i64, 2, 61, 400, 998, 5_000] {
        let rows = outcomes(&db, &format!("now() - make_interval(secs => {minutes} * 60 - 30)")).await;
        let counted = minutes.min(1_000);
        let dead = (1_001 - counted..=1_000).filter(|n| n % 4 == 0).count();
        assert_eq!(rows[0]["attempts"], counted, "{minutes} minutes");
        assert_eq!(rows[0]["dead"], dead, "{minutes} minutes");
        assert_eq!(rows[0]["latency_p50_ms"], 1_000 - counted + (counted + 1) / 2, "{minutes} minutes");
    }
    assert_eq!(outcomes(&db, "now() + interval '1 minute'").await, Vec::<Value>::new());
}
