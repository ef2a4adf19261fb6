use reqwest::Method;
use serde_json::{Value, json};

use super::support::{answer, rig, rig_with, token};
use crate::{Settings, SimOptions};

const PROFILE: &str = "/api/v2/profiles/0b5e7c1a-0000-4000-8000-000000000001";

/// Covers row 13 on the server's side: a Basic pair that was form-encoded is read back as it was.
#[tokio::test]
async fn a_client_may_show_its_secret_in_three_ways() {
    let rig = rig().await;
    let secret = "a:b%+é";
    let client = json!({"client_id": "odd", "tenant": "acme", "secret": secret});
    assert_eq!(rig.control(Method::POST, "/_sim/clients", &client).await.0, 200);
    let url = rig.url("/oauth/token");
    let grant = [("grant_type", "client_credentials")];
    let encoded = rig.http.post(&url).basic_auth("odd", Some("a%3Ab%25%2B%C3%A9")).form(&grant);
    let raw = rig.http.post(&url).basic_auth("odd", Some(secret)).form(&grant);
    let body = [("grant_type", "client_credentials"), ("client_id", "odd"), ("client_secret", secret)];
    for request in [encoded, raw, rig.http.post(&url).form(&body)] {
        let (status, reply) = answer(request.send().await.expect("an answer")).await;
        assert_eq!((status, &reply["token_type"], &reply["expires_in"]), (200, &json!("Bearer"), &json!(3600)));
    }
    let wrong = rig.http.post(&url).basic_auth("odd", Some("guess")).form(&grant).send().await.expect("an answer");
    assert_eq!(wrong.status(), 401);
    assert_eq!(rig.sim.summary().tokens_refused, 1);
}

/// What rows 5 and 6 need of the other side: a token that is good until it is revoked.
#[tokio::test]
async fn a_revoked_or_expired_token_is_refused() {
    let mut rig = rig().await;
    assert_eq!(rig.get(PROFILE).await.0, 200);
    let other = token(&rig.http, &rig.sim, "other", "").await;
    let (_, revoked) = rig.control(Method::POST, "/_sim/tokens/revoke", &json!({"tenant": "acme"})).await;
    assert_eq!(revoked["revoked"], 1);
    assert_eq!(rig.get(PROFILE).await.0, 401);
    rig.token = other;
    assert_eq!(rig.get(PROFILE).await.0, 200, "another tenant's token stands");
    rig.control(Method::POST, "/_sim/clock/advance", &json!({"ms": 3_600_000})).await;
    assert_eq!(rig.get(PROFILE).await.0, 401, "an hour later it has expired");
    rig.token = "made-up".to_owned();
    assert_eq!(rig.get(PROFILE).await.0, 401);
    let by_tenant = rig.sim.summary().record.by_tenant;
    assert_eq!(by_tenant["acme"]["cxone/profiles"], [(200, 1), (401, 1)].into());
    assert_eq!(by_tenant["-"]["cxone/profiles"][&401], 1);
}

/// What row 10 needs of the other side: scopes that were not granted are missing from the reply, and are checked.
#[tokio::test]
async fn scopes_are_granted_and_checked() {
    let mut rig = rig().await;
    let client = json!({"client_id": "reader", "tenant": "acme", "scopes": ["profile:read"], "omit_expires_in": true});
    rig.control(Method::POST, "/_sim/clients", &client).await;
    let ask = |scope: &'static str| {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", "reader"),
            ("client_secret", "sim-secret"),
            ("scope", scope),
        ];
        rig.http.post(rig.url("/api/v2/oauth/token")).form(&form).send()
    };
    let (_, reply) = answer(ask("profile:read profile:write").await.expect("an answer")).await;
    assert_eq!((&reply["scope"], reply.get("expires_in")), (&json!("profile:read"), None));
    assert_eq!(ask("profile:write").await.expect("an answer").status(), 400);
    rig.token = reply["access_token"].as_str().expect("a token").to_owned();
    assert_eq!(rig.get(PROFILE).await.0, 200);
    let body = json!({"attributes": {}, "mergeStrategy": "OVERWRITE", "sourceSystem": "crm"});
    let (status, refusal) = rig.send(Method::PATCH, PROFILE, &[], &body).await;
    assert_eq!((status, &refusal["error"]), (403, &json!("insufficient_scope")));
    assert_eq!(rig.get("/api/v2/digitalmessaging/webchat/configurations/c").await.0, 403);
}

/// What rows 8 and 9 need of the other side: systems that do not take each other's tokens.
#[tokio::test]
async fn a_token_of_one_system_is_refused_by_another() {
    let mut rig = rig().await;
    let form = [("grant_type", "client_credentials"), ("client_id", "sim-acme"), ("client_secret", "sim-secret")];
    let reply = rig.http.post(rig.url("/genesys/oauth/token")).form(&form).send().await.expect("an answer");
    let reply: Value = reply.json().await.expect("JSON");
    rig.token = reply["access_token"].as_str().expect("a token").to_owned();
    assert_eq!(rig.get("/genesys/api/v2/webchat/channels/c1").await.0, 200);
    assert_eq!(rig.get(&format!("/cxone{PROFILE}")).await.0, 401);
    rig.token = "sim-crm-acme".to_owned();
    assert_eq!(rig.get("/crm/api/v1/threads/t1").await.0, 404);
    assert_eq!(rig.get(PROFILE).await.0, 401, "the CRM's fixed token is for the CRM");
}

#[tokio::test]
async fn limits_refuse_and_say_when_to_return() {
    let mut settings = Settings::default();
    settings.limits.insert("cxone/profiles".to_owned(), 2);
    settings.limits.insert("genesys/channels".to_owned(), 5);
    let rig = rig_with(SimOptions { tls: false, settings, ..SimOptions::default() }).await;
    assert_eq!((rig.get(PROFILE).await.0, rig.get(PROFILE).await.0), (200, 200));
    let refused = rig.call(Method::GET, PROFILE).send().await.expect("an answer");
    assert_eq!((refused.status().as_u16(), &refused.headers()["x-ratelimit-remaining"]), (429, &"0".parse().unwrap()));
    let wait: i64 = refused.headers()["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..=60).contains(&wait));
    let channel = rig.call(Method::GET, "/api/v2/webchat/channels/c1").send().await.expect("an answer");
    assert_eq!(channel.headers()["inin-ratelimit-allowed"], "5");
    assert_eq!(channel.headers()["inin-ratelimit-count"], "1");
    rig.sim.advance_clock(wait * 1000);
    assert_eq!(rig.get(PROFILE).await.0, 200, "a client that waits as told is let in");
    assert_eq!(rig.sim.summary().peak_per_minute["acme"]["cxone/profiles"], 2);
}
