//! A simulator, a client, and a token.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;

use crate::{SimOptions, Simulator};

pub(crate) struct Rig {
    pub(crate) sim: Simulator,
    pub(crate) http: reqwest::Client,
    pub(crate) token: String,
}

/// A simulator without TLS.
pub(crate) async fn rig() -> Rig {
    rig_with(SimOptions { tls: false, ..SimOptions::default() }).await
}

pub(crate) async fn rig_with(options: SimOptions) -> Rig {
    // A second test in the same process finds it installed.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let sim = Simulator::start(options).await.expect("the simulator starts");
    let http = reqwest::Client::builder()
        .timeout(Duration::from_secs(20))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .expect("a client");
    let token = token(&http, &sim, "acme", "").await;
    Rig { sim, http, token }
}

pub(crate) async fn token(http: &reqwest::Client, sim: &Simulator, tenant: &str, scope: &str) -> String {
    let client_id = format!("sim-{tenant}");
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", &client_id),
        ("client_secret", "sim-secret"),
        ("scope", scope),
    ];
    let url = format!("{}/api/v2/oauth/token", sim.base_url());
    let reply = http.post(url).form(&form).send().await.expect("a token reply");
    assert_eq!(reply.status(), 200);
    let body: Value = reply.json().await.expect("JSON");
    body["access_token"].as_str().expect("a token").to_owned()
}

impl Rig {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.sim.base_url())
    }

    pub(crate) fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.url(path)).bearer_auth(&self.token)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.call(Method::GET, path).send().await.expect("an answer")).await
    }

    /// Sends JSON with further headers; answers status and body.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> (u16, Value) {
        let mut request = self.call(method, path).json(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request.send().await.expect("an answer")).await
    }

    pub(crate) async fn control(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let request = self.http.request(method, self.url(path)).json(body);
        answer(request.send().await.expect("an answer")).await
    }
}

pub(crate) async fn answer(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let bytes = response.bytes().await.expect("a body");
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}
