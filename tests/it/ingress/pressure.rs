use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::receiver::{Setup, serve, voice};
use crate::support::{Login, eventually};

/// Covers row 211: while the queue is full senders are told to come back, and when there is room again they are let in.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_sends_senders_away() {
    let setup = Setup { settings: vec![("BACKHAUL__INGRESS__BACKLOG_MAX", "6".to_owned())], ..Setup::default() };
    let (house, receiver) = serve("full", setup).await;
    assert_eq!(receiver.interaction(&voice("i1")).await.status, 200);
    assert_eq!(receiver.interaction(&voice("i2")).await.status, 200);
    let away = receiver.interaction(&voice("i3")).await;
    assert_eq!((away.status, &away.body["error"]["code"]), (503, &json!("queue_full")));
    assert_eq!(away.headers["retry-after"], "5");
    let ready = super::receiver::answer(receiver.client.get(format!("{}/readyz", receiver.admin))).await;
    assert_eq!((ready.status, &ready.body["queueFull"]), (503, &json!(true)));
    assert_eq!(house.counts().await, (2, 6));
    house.database.run("delete from backhaul.jobs").await;
    eventually("there is room again", async || receiver.interaction(&voice("i3")).await.status == 200).await;
    assert_eq!(house.counts().await, (3, 3));
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
