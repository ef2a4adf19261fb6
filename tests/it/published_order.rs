//! No crash of the server takes back an order that a sink has published.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
};

use backhaul_engine::{Registry, SealedEvent, Sink, WorkerOptions};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::support::{Database, PATIENCE, Server, Worker, eventually, scratch};

/// A sink that notes the place and the id of each event. The server crashes while it has the first ones in its hands: they
/// are published, and the position is not written down.
#[derive(Clone)]
struct Crashing {
    server: Arc<Server>,
    seen: Arc<Mutex<Vec<(i64, Uuid)>>>,
}

impl Sink for Crashing {
    fn name(&self) -> &str {
        "crashing"
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
        Box::pin(async {
            let first = {
                let mut seen = self.seen.lock().expect("no panic under the lock");
                let first = seen.is_empty();
                seen.extend(events.iter().map(|event| (event.seq, event.event_id)));
                first
            };
            if first {
                tokio::task::block_in_place(|| self.server.restart_at_once());
            }
            Ok(())
        })
    }
}

/// Appends one event, and leaves the transaction open.
async fn append(connection: &mut PgConnection) {
    sqlx::raw_sql("begin; select backhaul.append_event('dev.backhaul.x', 1, 'acme', 'toy', null, '{}')")
        .execute(connection)
        .await
        .expect("appends");
}

async fn commit(connection: &mut PgConnection) {
    sqlx::raw_sql("commit").execute(connection).await.expect("commits");
}

/// Seals the second of two events while the first is being committed: a seal that had to be made anew would have both, and
/// give the first place to the other one.
async fn seal_between(db: &Database) {
    let connect = async || PgConnection::connect(&db.url).await.expect("connects");
    let (mut older, mut newer, mut sealer) = (connect().await, connect().await, connect().await);
    let run = async |connection: &mut PgConnection, sql: &'static str| {
        sqlx::raw_sql(sql).execute(connection).await.expect(sql);
    };
    // The worker seals nothing meanwhile.
    run(&mut sealer, "begin; select from backhaul.seal_state for update").await;
    append(&mut older).await;
    append(&mut newer).await;
    commit(&mut newer).await;
    run(&mut sealer, "select backhaul.seal(100)").await;
    commit(&mut older).await;
    commit(&mut sealer).await;
}

/// `(place, event)` of the whole log.
async fn log(db: &Database) -> BTreeMap<i64, Uuid> {
    let rows: Vec<(i64, Uuid)> = db
        .rows(
            "select s.first_seq + u.n - 1, e.event_id from backhaul.seals s
             cross join lateral unnest(s.event_ids) with ordinality as u (id, n) join backhaul.events e on e.id = u.id",
        )
        .await;
    rows.into_iter().collect()
}

/// Seals do not wait for the disk, and the server loses what it had not written yet. What the sink has seen is on the
/// disk all the same, and what is sealed afterwards comes behind it.
#[tokio::test(flavor = "multi_thread")]
async fn no_crash_takes_back_an_order_that_a_sink_has_published() {
    let server = Arc::new(Server::start(&scratch("published-order")).await);
    let db = server.database().await;
    // A commit that does not wait for the disk gets there by itself only after as long as Postgres allows.
    db.run("alter system set wal_writer_delay = '10s'").await;
    db.run("select pg_reload_conf()").await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sinks = {
        let sink = Crashing { server: server.clone(), seen: seen.clone() };
        move || vec![Box::new(sink.clone()) as Box<dyn Sink>]
    };
    // Its own upkeep would wait for the disk now and then, and take the seal there with it.
    let rare = PATIENCE * 60;
    let options = WorkerOptions { heartbeat: rare, dead_after: rare * 3, sweep: rare, ..Worker::options() };
    let worker = Worker::start_kinds(db.store.clone(), Registry::new, sinks, options);
    eventually("the sink is known", async || db.one::<i64>("select count(*) from backhaul.sinks").await == 1).await;
    seal_between(&db).await;
    let count = || seen.lock().expect("no panic under the lock").len();
    eventually("it is published", async || count() > 0).await;
    let all_published = async |events: i64| {
        let sql = "select position from backhaul.sinks";
        let position: Option<i64> = sqlx::query_scalar(sql).fetch_one(db.store.pool()).await.ok();
        position == Some(events)
    };
    eventually("it goes on", async || all_published(2).await).await;
    db.run("select backhaul.append_event('dev.backhaul.x', n, 'acme', 'toy', null, '{}') from generate_series(1, 5) n")
        .await;
    eventually("what came later is published too", async || all_published(7).await).await;
    worker.stop().await;

    let log = log(&db).await;
    assert_eq!(log.keys().copied().collect::<Vec<_>>(), (1..=7).collect::<Vec<_>>());
    let seen = seen.lock().expect("no panic under the lock");
    for (place, event) in seen.iter() {
        assert_eq!(log[place], *event, "place {place} was another event's when it was published");
    }
    assert_eq!(seen[0].0, 1);
}
