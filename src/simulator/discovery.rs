//! The documents that say where things are: CXone's API, and its token endpoint.

use axum::http::Method;
use serde_json::json;

use crate::{
    app::App,
    reply::Reply,
    routes::{self, Route},
};

/// Answers with the document of `route`. Both name this simulator.
pub(crate) fn document(app: &App, route: &Route, method: &Method, query: &str) -> Reply {
    if method != Method::GET {
        return Reply::error(405, "method_not_allowed", "GET a configuration");
    }
    let Some(addresses) = app.addresses.get() else {
        return Reply::error(503, "starting", "the simulator does not listen yet");
    };
    let base = format!("http://{}/cxone", addresses.plain);
    if *route == Route::OpenIdConfiguration {
        return Reply::json(200, &json!({"issuer": base, "token_endpoint": format!("{base}/api/v2/oauth/token")}));
    }
    if !routes::form_pairs(query).iter().any(|(name, value)| name == "tenantId" && !value.is_empty()) {
        return Reply::error(400, "bad_request", "tenantId is required");
    }
    Reply::json(200, &json!({"api_endpoint": base, "area": "na1"}))
}
