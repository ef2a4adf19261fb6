//! Whether a token is good for an endpoint.

use axum::http::{Method, header};

use crate::{
    oauth::{Identity, Standing},
    reply::Reply,
    routes::{Class, Provider, Route},
};

/// Judges a request's token for an endpoint: 401 where it is not valid here, 403 where its scopes do not suffice.
pub(crate) fn refusal(
    identity: &Identity,
    method: &Method,
    route: &Route,
    class: Class,
    mount: Option<Provider>,
) -> Option<Reply> {
    let unauthorised = |reason: &str| {
        let reply = Reply::error(401, "unauthorized", reason);
        Some(reply.with_header(header::WWW_AUTHENTICATE, "Bearer error=\"invalid_token\""))
    };
    let (scopes, issued_at) = match &identity.standing {
        Standing::Refused(reason) => return unauthorised(reason),
        Standing::CrmOnly if class == Class::CrmThreads => return None,
        Standing::CrmOnly => return unauthorised("this token is for the CRM only"),
        Standing::Valid { scopes, mount } => (scopes, *mount),
    };
    if let (Some(issued_at), Some(mount)) = (issued_at, mount)
        && issued_at != mount
    {
        return unauthorised(&format!("the token was issued by {}", issued_at.as_str()));
    }
    let accepted = accepted_scopes(method, route);
    let scopes = scopes.as_deref()?;
    if accepted.is_empty() || scopes.iter().any(|scope| accepted.contains(&scope.as_str())) {
        return None;
    }
    let message = format!("the token has none of the scopes {}", accepted.join(", "));
    Some(Reply::error(403, "insufficient_scope", message))
}

/// The scopes of which one is needed. Where the documents spell one scope in several ways, each is taken.
fn accepted_scopes(method: &Method, route: &Route) -> &'static [&'static str] {
    const HOOKS: &[&str] = &["webhooks:write", "webhook:write", "webhook:webhook:write", "webhooks:manage"];
    const HOOKS_READ: &[&str] = &[
        "webhooks:write",
        "webhook:write",
        "webhook:webhook:write",
        "webhooks:manage",
        "webhooks:read",
        "webhook:read",
        "webhook:webhook:read",
        "webhook:webhook:view",
    ];
    let reads = method == Method::GET;
    match route {
        Route::Widget(_) if reads => &["digitalmessaging:webchat:view"],
        Route::Widget(_) | Route::WidgetPurge(_) => &["digitalmessaging:webchat:edit"],
        Route::Profile(_) if reads => &["profile:read"],
        Route::Profile(_) => &["profile:write"],
        Route::Webhooks | Route::Webhook(_) if reads => HOOKS_READ,
        Route::Webhooks | Route::Webhook(_) => HOOKS,
        Route::Channels | Route::Channel(_) if reads => {
            &["webchat:webchat:write", "webchat:webchat:view", "webchat:webchat:read"]
        }
        Route::Channels | Route::Channel(_) | Route::ChannelPublish(_) | Route::ChannelPublished(_) => {
            &["webchat:webchat:write"]
        }
        Route::AuditQuery | Route::AuditTransaction(_) | Route::AuditResults(_) => {
            &["auditlog:auditlog:read", "audits:audit:view"]
        }
        Route::SocialThread(_) => &["social:read", "interactions:read"],
        // The CRM's documents name no scopes; the others are not behind a token, or not there.
        Route::Threads | Route::Thread(_) | Route::Record(_) => &[],
        Route::Token | Route::Callback | Route::Socket => &[],
        Route::CxoneConfiguration | Route::OpenIdConfiguration | Route::BadId | Route::Unknown => &[],
    }
}
