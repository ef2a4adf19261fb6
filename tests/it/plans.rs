//! The hot statements read what they need and no more, whatever the statistics say: pinned by what Postgres counts
//! itself, with a long backlog, never analysed, and with a snapshot that keeps every dead row alive.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::{Acquire, PgConnection, types::Json};
use uuid::Uuid;

use crate::support::{Database, Toy, database};

/// Waiting jobs. `BACKHAUL_TEST_BACKLOG` says how many for a longer run.
const BACKLOG: i64 = 60_000;

/// How many jobs of a tenant the receiver of these tests counts at most.
const COUNTED: i64 = 100;

/// What one statement read.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Read {
    /// Sequential scans of tables that grow.
    scans: i64,
    /// Index entries of `jobs` that scans returned, dead ones too.
    entries: i64,
}

/// Counters of this database, with everything this connection did so far.
async fn counters(connection: &mut PgConnection) -> Read {
    sqlx::query("select pg_stat_force_next_flush()").execute(&mut *connection).await.expect("flushes");
    let (scans, entries): (i64, i64) = sqlx::query_as(
        "select (select sum(seq_scan)::bigint from pg_stat_user_tables where schemaname = 'backhaul'
                 and relname in ('jobs', 'events_0', 'dead_letters', 'idempotency_keys', 'steps')),
            (select sum(idx_tup_read)::bigint from pg_stat_user_indexes where schemaname = 'backhaul' and relname = 'jobs')",
    )
    .fetch_one(connection)
    .await
    .expect("counts");
    Read { scans, entries }
}

struct Bench {
    connection: sqlx::pool::PoolConnection<sqlx::Postgres>,
    worker: Uuid,
}

impl Bench {
    async fn new(db: &Database) -> Self {
        let worker = Uuid::new_v4();
        sqlx::query("select backhaul.register_worker($1, 'test', 1, 'test', array['toy@1'], 1)")
            .bind(worker)
            .execute(db.store.pool())
            .await
            .expect("registers");
        Self { connection: db.store.pool().acquire().await.expect("connects"), worker }
    }

    /// One value, over the connection whose plans are looked at.
    async fn one<T>(&mut self, sql: &'static str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        sqlx::query("select pg_stat_force_next_flush()").execute(&mut *self.connection).await.expect("flushes");
        sqlx::query_scalar(sql).fetch_one(&mut *self.connection).await.expect(sql)
    }

    /// What the webhook receiver counts of a tenant's jobs, up to `COUNTED`, and where its next count begins. Reads no more.
    async fn count(&mut self, from: Option<DateTime<Utc>>, when: &str) -> (i64, DateTime<Utc>) {
        let before = counters(&mut self.connection).await;
        let counted: (i64, DateTime<Utc>) =
            sqlx::query_as("select jobs, due_from from backhaul.backlog(array['default'], array[$1], $2)")
                .bind(from)
                .bind(COUNTED)
                .fetch_one(&mut *self.connection)
                .await
                .expect("counts");
        let after = counters(&mut self.connection).await;
        assert_eq!(after.scans, before.scans, "no table that grows is scanned, {when}");
        let read = after.entries - before.entries;
        assert!(read <= 2 * COUNTED + 50, "a count of {COUNTED} read {read} entries, {when}");
        counted
    }

    async fn claim(&mut self, want: i32) -> (Vec<i64>, Vec<i64>) {
        let rows: Vec<(i64, i64)> = sqlx::query_as(
            "select id, lease from backhaul.claim($1, array['toy@1'], $2, clock_timestamp() - interval '1 second')",
        )
        .bind(self.worker)
        .bind(want)
        .fetch_all(&mut *self.connection)
        .await
        .expect("claims");
        rows.into_iter().unzip()
    }

    async fn settle(&mut self, ids: &[i64], leases: &[i64]) {
        let mut distinct = leases.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let n = ids.len();
        let refused: Vec<i64> = sqlx::query_scalar(
            "select backhaul.settle($1, $2, $3, null, $4, $4, false, '{}', $2, $5, array_fill(now(), array[$6]),
                 array_fill('dev.backhaul.job.completed'::text, array[$6]), array_fill('default'::text, array[$6]),
                 array_fill('toy'::text, array[$6]), array_fill('job'::text, array[$6]),
                 array_fill(null::text, array[$6]), array_fill('{}'::bytea, array[$6]), null, null)",
        )
        .bind(self.worker)
        .bind(ids)
        .bind(leases)
        .bind(&distinct)
        .bind((0..n).map(|_| Uuid::new_v4()).collect::<Vec<_>>())
        .bind(i32::try_from(n).expect("small"))
        .fetch_one(&mut *self.connection)
        .await
        .expect("settles");
        assert_eq!(refused, [0_i64; 0]);
    }

    /// Claims and settles `rows`, and checks what either read.
    async fn check(&mut self, rows: usize, when: &str) {
        let before = counters(&mut self.connection).await;
        let (ids, leases) = self.claim(i32::try_from(rows).expect("small")).await;
        assert_eq!(ids.len(), rows, "{when}");
        let claimed = counters(&mut self.connection).await;
        self.settle(&ids, &leases).await;
        let settled = counters(&mut self.connection).await;
        let rows = i64::try_from(rows).expect("small");
        assert_eq!(settled.scans, before.scans, "no table that grows is scanned, {when}");
        // Each claimed job is found in the lane's index and fetched by its id; the rest is looking for lanes with work.
        let claim = claimed.entries - before.entries;
        assert!(claim <= 3 * rows + 50, "a claim of {rows} read {claim} entries, {when}");
        let settle = settled.entries - claimed.entries;
        assert!(settle <= 2 * rows + 50, "a settle of {rows} read {settle} entries, {when}");
    }
}

async fn backlog(db: &Database) {
    let batch: Vec<_> = (0..10_000).map(|n| json!({ "kind": "toy", "payload": Toy::new(n) })).collect();
    let jobs = std::env::var("BACKHAUL_TEST_BACKLOG").map_or(BACKLOG, |n| n.parse().expect("a number of jobs"));
    for _ in 0..jobs / 10_000 {
        sqlx::query("select count(*) from backhaul.enqueue_many($1)")
            .bind(Json(&batch))
            .execute(db.store.pool())
            .await
            .expect("enqueues");
        // Gives the first batch its places and wakes the cursor for the others.
        db.run("select backhaul.promote(20000, '-infinity')").await;
    }
}

/// Tenants without work cost nobody anything: neither a claim nor the look for what is due next passes over their
/// cursors, also where the session planned while there were none.
#[tokio::test(flavor = "multi_thread")]
async fn sleeping_cursors_are_not_passed_over() {
    let db = database().await;
    let mut bench = Bench::new(&db).await;
    let cursors = "select sum(idx_tup_read)::bigint + sum(seq_tup_read)::bigint from pg_stat_user_tables t
        join pg_stat_user_indexes i using (relid) where t.schemaname = 'backhaul' and t.relname = 'cursors'";
    for round in 0..3 {
        let before: i64 = bench.one(cursors).await;
        db.toys(&[Toy::new(round)]).await;
        let (ids, leases) = bench.claim(5).await;
        assert_eq!(ids.len(), 1);
        bench.settle(&ids, &leases).await;
        assert_eq!(bench.claim(5).await.0, [0_i64; 0]);
        let _: Option<DateTime<Utc>> = bench.one("select backhaul.next_due()").await;
        let read = bench.one::<i64>(cursors).await - before;
        assert!(read <= 50, "{read} cursors were read in round {round}");
        db.run(
            "insert into backhaul.lanes (kind, version, tenant) select 'toy', 1, 'idle-' || n from generate_series(1, 3000) n
             on conflict do nothing;
             insert into backhaul.cursors (lane, priority, awake, settled)
             select id, 2, false, true from backhaul.lanes where tenant <> 'default' on conflict do nothing",
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_and_settles_read_what_they_take() {
    let db = database().await;
    let mut bench = Bench::new(&db).await;
    // The trap: the session plans its statements while the table is nearly empty, and nobody looks at it again.
    db.run("alter table backhaul.jobs set (autovacuum_enabled = off)").await;
    for n in 0..8 {
        db.toys(&[Toy::new(n)]).await;
        db.run("analyze backhaul.jobs").await;
        assert_eq!(bench.count(None, "with nothing").await.0, 1);
        let (ids, leases) = bench.claim(5).await;
        bench.settle(&ids, &leases).await;
    }
    backlog(&db).await;
    assert_eq!(bench.count(None, "with a backlog").await.0, COUNTED);
    bench.check(10, "with a backlog").await;
    bench.check(1_000, "with a backlog").await;

    // Work for tomorrow, which no look at what is due today may walk over.
    db.run(
        "insert into backhaul.jobs (kind, tenant, max_attempts, deadline_at, due_at, payload)
         select 'toy', 'default', 4, now() + interval '3 days', now() + interval '1 day' + n * interval '1 ms', '{\"n\": 0}'
         from generate_series(1, 20000) n",
    )
    .await;
    assert_eq!(bench.count(None, "before 20,000 jobs of tomorrow").await.0, COUNTED);
    bench.check(10, "before 20,000 jobs of tomorrow").await;
    bench.check(1_000, "before 20,000 jobs of tomorrow").await;

    // Somebody's report, left open: from here on no dead row can be removed.
    let mut report = db.store.pool().acquire().await.expect("connects");
    let mut held = report.begin().await.expect("begins");
    sqlx::raw_sql("set transaction isolation level repeatable read; select count(*) from backhaul.kinds")
        .execute(&mut *held)
        .await
        .expect("holds a snapshot");
    for _ in 0..10 {
        let (ids, leases) = bench.claim(1_000).await;
        bench.settle(&ids, &leases).await;
    }
    // Due rows that are promoted leave dead entries too, which a count begins behind.
    db.run(
        "insert into backhaul.jobs (kind, tenant, max_attempts, deadline_at, due_at, payload)
         select 'toy', 'default', 4, now() + interval '3 days', now() - interval '1 hour', '{\"n\": 0}'
         from generate_series(1, 5000);
         select backhaul.promote(5000, '-infinity')",
    )
    .await;
    let from = Utc::now() - TimeDelta::minutes(30);
    let (jobs, from) = bench.count(Some(from), "behind 10,000 dead rows that a snapshot keeps").await;
    assert_eq!((jobs, from > Utc::now() - TimeDelta::minutes(10)), (COUNTED, true));
    bench.check(10, "behind 10,000 dead rows that a snapshot keeps").await;
    bench.check(1_000, "behind 10,000 dead rows that a snapshot keeps").await;
    held.rollback().await.expect("ends");

    db.run("analyze").await;
    bench.check(1_000, "with fresh statistics").await;
}

/// A sink's batch costs its events, however many there are before and behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_sinks_batch_reads_its_own_events() {
    let db = database().await;
    let mut bench = Bench::new(&db).await;
    let events = "select sum(idx_tup_read)::bigint + sum(seq_tup_read)::bigint from pg_stat_user_tables t
        join pg_stat_user_indexes i using (relid) where t.schemaname = 'backhaul' and t.relname in ('events_0', 'seals')";
    let append = |from: i64, to: i64| {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
            "insert into backhaul.events (event_id, occurred_at, type, tenant, subject, data)
             select gen_random_uuid(), now(), 't', 'acme', 's', '' from generate_series({from}, {to})"
        )))
        .execute(db.store.pool())
    };
    // The session plans while there is next to nothing.
    for n in 1..=8 {
        append(n, n).await.expect("appends");
        db.run("select backhaul.seal(100)").await;
        let read: i64 = bench.one("select count(*) from backhaul.sealed_after(0)").await;
        assert_eq!(read, 1, "one seal");
    }
    append(9, 30_000).await.expect("appends");
    while db.one::<i32>("select backhaul.seal(500)").await == 500 {}
    let before: i64 = bench.one(events).await;
    let (first, last): (i64, i64) = sqlx::query_as("select min(seq), max(seq) from backhaul.sealed_after(20000)")
        .fetch_one(&mut *bench.connection)
        .await
        .expect("reads");
    let read = bench.one::<i64>(events).await - before;
    assert_eq!(first, 20_001);
    assert!(last - first < 500);
    // Each event by its id, and the seal; the counters' own join multiplies by indexes.
    assert!(read <= 3 * 500 + 50, "a batch of at most 500 read {read} entries");
}
