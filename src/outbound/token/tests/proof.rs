//! How the client proves itself, and what the reply must grant.

use super::*;

/// Covers row 10: no business call with a token that lacks a scope, and no flood of token requests.
#[tokio::test]
async fn a_missing_scope_stops_before_the_call() {
    let server = granting(json!({"access_token": "t", "expires_in": 60, "scope": "profile:read other"})).await;
    let (client, clock) = client();
    let profile = profile(&server.url, "scopes = [\"profile:read\", \"profile:write\"]", "");
    for _ in 0..3 {
        let outcome = get(&client, &profile).await;
        assert_eq!(outcome.clone().unwrap_err(), CallError::ScopeMissing { missing: vec!["profile:write".to_owned()] });
        let rules = &profile.cxone.as_ref().unwrap().retry;
        assert_eq!(
            classify(outcome.as_ref(), rules, noon()),
            Class::AuthBlocked { code: "scope_missing", until: None }
        );
    }
    assert_eq!((server.count(TOKEN), server.count(P1)), (1, 0));
    clock.advance(MINUTE);
    get(&client, &profile).await.unwrap_err();
    assert_eq!(server.count(TOKEN), 2);
}

/// Covers row 10: a reply without a list grants what was asked; a list in any order satisfies.
#[tokio::test]
async fn scopes_that_are_granted_or_not_listed_pass() {
    for scope in [json!("b a"), json!(["a", "b"]), json!(""), json!(null)] {
        let server = granting(json!({"access_token": "t", "scope": scope})).await;
        let (client, _) = client();
        get(&client, &profile(&server.url, "scopes = [\"a\", \"b\"]", "")).await.unwrap();
        assert_eq!(server.seen()[0].form()["scope"], "a b");
    }
}

/// Covers row 13: form encoding before base64, so that the other side decodes the same id and secret.
#[tokio::test]
async fn a_basic_pair_is_form_encoded() {
    for (encode, want) in [(true, "client%3A1:a%3Ab%25%2B%C3%A9"), (false, "client:1:a:b%+é")] {
        let server = granting(json!({"access_token": "t"})).await;
        let (client, _) = client();
        let text = format!(
            "[cxone]\nbase_url = \"{}\"\ninsecure = true\n[cxone.oauth]\nclient_id = \"client:1\"\n\
             client_secret_env = \"S\"\nencode_basic = {encode}",
            server.url
        );
        let profiles = crate::profile::Loader::new()
            .env(|_| Some("a:b%+é".to_owned()))
            .from_toml([("acme.toml".to_owned(), text)])
            .unwrap();
        get(&client, profiles.get("acme").unwrap()).await.unwrap();
        let seen = &server.seen()[0];
        let pair = STANDARD.decode(seen.header("authorization").strip_prefix("Basic ").unwrap()).unwrap();
        assert_eq!(String::from_utf8(pair).unwrap(), want);
        assert_eq!(seen.header("content-type"), "application/x-www-form-urlencoded");
        assert_eq!(seen.form()["grant_type"], "client_credentials");
    }
}

#[tokio::test]
async fn the_other_ways_to_prove_oneself() {
    let server = granting(json!({"access_token": "t"})).await;
    let (client, _) = client();
    let password = "grant = \"password\"\nusername = \"key-1\"\npassword_env = \"SECRET_2\"";
    let quiet = "auth = \"body\"\nscopes = [\"a\"]\nsend_scope = false";
    for oauth in [quiet, "auth = \"json_key\"", password] {
        get(&client, &profile(&server.url, oauth, "")).await.unwrap();
    }
    let asked: Vec<Seen> = server.seen().into_iter().filter(|seen| seen.path == TOKEN).collect();
    let form = asked[0].form();
    assert_eq!((form["client_id"].as_str(), form["client_secret"].as_str()), ("client-1", "test-client-secret"));
    assert!(!form.contains_key("scope") && asked[0].header("authorization").is_empty());
    let key: serde_json::Value = serde_json::from_slice(&asked[1].body).unwrap();
    assert_eq!(key, json!({"accessKeyId": "client-1", "accessKeySecret": "test-client-secret"}));
    let form = asked[2].form();
    assert_eq!((form["grant_type"].as_str(), form["username"].as_str()), ("password", "key-1"));
    assert!(asked[2].header("authorization").starts_with("Basic "));
}

#[tokio::test]
async fn useless_token_replies_are_transient() {
    for reply in [
        json!({}),
        json!({"access_token": ""}),
        json!({"access_token": "a\nb"}),
        json!([]),
        json!({"access_token": "t", "token_type": "mac"}),
    ] {
        let server = granting(reply.clone()).await;
        let (client, _) = client();
        let failure = get(&client, &profile(&server.url, "", "")).await.unwrap_err();
        assert!(matches!(failure, CallError::TokenUnavailable { .. }), "{reply}: {failure}");
        assert_eq!(server.count(P1), 0);
    }
}

#[tokio::test]
async fn the_endpoint_is_discovered_once() {
    let server = Server::start(|seen| match seen.path.as_str() {
        "/.well-known/openid-configuration" => {
            let host = seen.header("host");
            body(200, &json!({"issuer": "x", "token_endpoint": format!("http://{host}/auth/token")}))
        }
        "/auth/token" => body(200, &json!({"access_token": "t", "expires_in": 120})),
        _ => status(200),
    })
    .await;
    let (client, clock) = client();
    let oauth = format!("discovery = \"{}/.well-known/openid-configuration\"", server.url);
    let profile = profile(&server.url, &oauth, "");
    for _ in 0..3 {
        get(&client, &profile).await.unwrap();
        clock.advance(3 * MINUTE);
    }
    assert_eq!(server.count("/.well-known/openid-configuration"), 1);
    assert_eq!((server.count("/auth/token"), server.count(TOKEN)), (3, 0));
}

/// A discovery document cannot send the secret to another machine in clear text.
#[tokio::test]
async fn a_discovered_endpoint_must_be_https() {
    let server = Server::start(|_| body(200, &json!({"token_endpoint": "http://login.example.com/token"}))).await;
    let (client, _) = client();
    let profile = profile(&server.url, &format!("discovery = \"{}/d\"", server.url), "");
    let failure = get(&client, &profile).await.unwrap_err();
    assert!(matches!(&failure, CallError::AuthBlocked { until: Some(_), detail } if detail.contains("not https")));
}
