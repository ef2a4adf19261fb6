use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::receiver::{House, INTERACTIONS, Letter, OTHER_SECRET, Receiver, Setup, serve, voice};
use crate::support::{Login, PATIENCE, eventually};

/// Sends one to a tenant that shares nothing with `acme` but the receiver.
async fn neighbour(receiver: &Receiver, id: &str) -> u16 {
    receiver.send(Letter::json("/webhooks/globex/cxone", &voice(id)).signed_with(OTHER_SECRET)).await.status
}

/// Covers row 211: while a tenant's queue is full its senders are told to come back, and nobody else's; when there is room
/// again they are let in.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_sends_senders_away() {
    let setup = Setup { settings: vec![("BACKHAUL__INGRESS__BACKLOG_MAX", "6".to_owned())], ..Setup::default() };
    let (house, receiver) = serve("full", setup).await;
    assert_eq!(receiver.interaction(&voice("i1")).await.status, 200);
    assert_eq!(receiver.interaction(&voice("i2")).await.status, 200);
    let away = receiver.interaction(&voice("i3")).await;
    assert_eq!((away.status, &away.body["error"]["code"]), (503, &json!("queue_full")));
    assert_eq!(away.headers["retry-after"], "5");
    assert_eq!(house.counts().await, (2, 6));
    assert_eq!(neighbour(&receiver, "i9").await, 200);
    assert_eq!(receiver.admin("/api/metrics").await["backlog"], json!({"acme": 6, "globex": 3}));
    let ready = super::receiver::answer(receiver.client.get(format!("{}/readyz", receiver.admin))).await;
    assert_eq!(ready.status, 200, "the others must not lose the replica");
    house.database.run("delete from backhaul.jobs").await;
    eventually("there is room again", async || receiver.interaction(&voice("i3")).await.status == 200).await;
    assert_eq!(house.counts().await, (4, 3));
}

/// What no worker could begin now fills no queue, however much it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_another_day_fills_no_queue() {
    let setup = Setup { settings: vec![("BACKHAUL__INGRESS__BACKLOG_MAX", "6".to_owned())], ..Setup::default() };
    let house = House::new("another-day", &setup).await;
    house
        .database
        .run(
            "select backhaul.pause('crm-sync');
             insert into backhaul.jobs (kind, tenant, priority, max_attempts, deadline_at, due_at, ordering_key, payload)
             select w.kind, 'acme', w.priority, 4, now() + interval '30 days', w.due_at, w.key, '{}'
             from generate_series(1, 20), (values
                 ('deliver', 2::smallint, now() + interval '7 days', null), ('deliver', 2, null, 'blocked'),
                 ('deliver', 4, now(), null), ('crm-sync', 2, now(), null)) w (kind, priority, due_at, key)",
        )
        .await;
    let receiver = house.serve(&setup).await;
    // Backfill that is due stands before what is live in the index, and is looked at first.
    house
        .database
        .run("delete from backhaul.jobs where priority = 4 and id > (select min(id) + 8 from backhaul.jobs)")
        .await;
    assert_eq!(receiver.interaction(&voice("i1")).await.status, 200);
    assert_eq!(receiver.interaction(&voice("i2")).await.status, 200);
    // The same where the jobs have their places.
    house.database.run("select backhaul.promote(1000, '-infinity')").await;
    eventually("they are full by their own six", async || {
        receiver.admin("/api/metrics").await["backlog"] == json!({"acme": 6})
    })
    .await;
    assert_eq!(receiver.interaction(&voice("i3")).await.status, 503);
}

/// A body that begins and does not go on; returns once the receiver reads it.
async fn slow_stranger(receiver: &Receiver) -> BufReader<TcpStream> {
    let address = receiver.public.trim_start_matches("http://");
    let mut stream = BufReader::new(TcpStream::connect(address).await.expect("connects"));
    let head = format!(
        "POST {INTERACTIONS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\
         expect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("writes");
    assert!(first_line(&mut stream).await.contains(" 100 "), "the receiver asks for the body");
    stream.write_all(b"{").await.expect("writes");
    stream
}

async fn first_line(stream: &mut BufReader<TcpStream>) -> String {
    let mut lines = String::new();
    // The interim answer is a line and an empty one.
    while lines.trim().is_empty() {
        let read = tokio::time::timeout(PATIENCE, stream.read_line(&mut lines)).await;
        assert_ne!(read.expect("in time").expect("reads"), 0, "an answer");
    }
    lines
}

/// Whoever has not signed holds no place while a body dribbles in, and cannot keep others from being read.
#[tokio::test(flavor = "multi_thread")]
async fn slow_strangers_shut_nobody_out() {
    let setup = Setup {
        settings: vec![
            ("BACKHAUL__INGRESS__IN_FLIGHT_MAX", "2".to_owned()),
            ("BACKHAUL__INGRESS__BODY_TIMEOUT_S", "300".to_owned()),
        ],
        ..Setup::default()
    };
    let (house, receiver) = serve("slow-strangers", setup).await;
    let mut strangers = vec![slow_stranger(&receiver).await, slow_stranger(&receiver).await];
    assert_eq!(receiver.interaction(&voice("i1")).await.status, 200);
    for _ in 0..6 {
        strangers.push(slow_stranger(&receiver).await);
    }
    assert_eq!(receiver.interaction(&voice("i2")).await.status, 200);
    assert_eq!(house.counts().await, (2, 6));
    let cut = first_line(&mut strangers[0]).await;
    assert!(cut.contains(" 408 "), "the oldest made room: {cut}");
}

/// While the database is away there is an answer, at once, and nothing is lost: the repetition is taken.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_senders_are_told_to_come_back() {
    let setup =
        Setup { settings: vec![("BACKHAUL__INGRESS__STORE_TIMEOUT_MS", "1000".to_owned())], ..Setup::default() };
    let (house, receiver) = serve("store-down", setup).await;
    assert_eq!(receiver.interaction(&voice("i1")).await.status, 200);
    let mut url = url::Url::parse(&house.database.url).expect("a URL");
    let name = url.path().trim_start_matches('/').to_owned();
    url.set_path("postgres");
    let mut outside = PgConnection::connect(url.as_str()).await.expect("connects");
    let away = format!(
        "alter database {name} with allow_connections false;
         select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
    );
    sqlx::raw_sql(AssertSqlSafe(away)).execute(&mut outside).await.expect("locks the database");
    let answer = receiver.interaction(&voice("i2")).await;
    assert_eq!((answer.status, &answer.body["error"]["code"]), (503, &json!("store_unavailable")), "{answer:?}");
    assert!(answer.headers.contains_key("retry-after"));
    let health = super::receiver::answer(receiver.client.get(format!("{}/healthz", receiver.admin))).await;
    assert_eq!(health.status, 200, "the process is well");
    let back = format!("alter database {name} with allow_connections true");
    sqlx::raw_sql(AssertSqlSafe(back)).execute(&mut outside).await.expect("unlocks the database");
    eventually("it is taken", async || receiver.interaction(&voice("i2")).await.status == 200).await;
    assert_eq!(house.counts().await, (2, 6));
}

/// A stop lets what is under way end, and ends the process well.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_clean() {
    let (house, receiver) = serve("stop", Setup::default()).await;
    assert_eq!(receiver.interaction(&voice("i1")).await.status, 200);
    assert_eq!(receiver.terminate().await, Some(0));
    assert_eq!(house.counts().await, (1, 3));
}

/// A receiver needs no more rights than its role has.
#[tokio::test(flavor = "multi_thread")]
async fn the_receivers_role_is_enough() {
    let setup = Setup { settings: vec![("BACKHAUL__INGRESS__SWEEP_S", "1".to_owned())], ..Setup::default() };
    let mut house = super::receiver::House::new("role", &setup).await;
    let login = Login::of(&house.database, Some("backhaul_ingress")).await;
    house.database.url.clone_from(&login.url);
    let receiver = house.serve(&setup).await;
    assert_eq!(receiver.interaction(&voice("i1")).await.status, 200);
    let url = format!("{}/api/reconcile/t1?tenant=acme&wait_s=1", receiver.admin);
    let asked = super::receiver::answer(receiver.client.post(url).bearer_auth(super::receiver::ADMIN_TOKEN)).await;
    assert_eq!(asked.status, 202, "{asked:?}");
    let mut event = voice("i2");
    event["data"]["channelType"] = json!("email");
    assert_eq!(receiver.interaction(&event).await.body["parked"], true);
    house.database.run("update backhaul.ingress_keys set expires_at = clock_timestamp() - interval '1 second'").await;
    eventually("it sweeps", async || {
        house.database.one::<i64>("select count(*) from backhaul.ingress_keys").await == 0
    })
    .await;
    let logs = house.logs();
    assert!(!logs.contains("permission denied"), "{logs}");
    // What a registration with a secret remembers.
    let mut connection = login.connect().await;
    for sql in [
        "select backhaul.remember_registration('acme', 's', sha256('x'))",
        "select backhaul.registration_mark('acme', 's')",
    ] {
        sqlx::raw_sql(sql).execute(&mut connection).await.expect(sql);
    }
    connection.close().await.expect("closes");
    drop(receiver);
    // The login owns connections until the receiver is gone.
    house.database.store.close().await;
    drop(login);
}
