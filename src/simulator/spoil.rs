//! Turns a true answer into the wrong one that a fault rule asks for.

use axum::{
    body::{Body, Bytes},
    http::header,
    response::Response,
};
use futures::stream;
use serde_json::{Value, json};

use crate::{clock::http_date, documents::merge_patch, faults::Then, reply::Reply};

/// One piece of an endless body.
const CHUNK_BYTES: usize = 16 * 1024;
/// Where "endless" ends all the same, so that a forgotten client cannot keep the server busy for ever: 1 GiB.
const CHUNKS_MAX: u32 = 65_536;

/// The answer as the rule wants it; endless bodies are made by [`endless`].
pub(crate) fn spoil(mut reply: Reply, then: &Then, now_ms: i64) -> Reply {
    if let Some(status) = then.status {
        let committed_body = then.commits() && (200..300).contains(&status);
        if !committed_body {
            reply = Reply::error(status, "scripted_fault", "a fault rule answered this request");
        }
        reply.status = status;
    }
    if let Some(patch) = &then.merge_body
        && let Ok(mut body) = serde_json::from_slice::<Value>(&reply.body)
    {
        merge_patch(&mut body, patch);
        reply.body = Bytes::from(body.to_string());
    }
    match &then.body {
        Some(Value::String(text)) => reply.body = Bytes::from(text.clone()),
        Some(body) => {
            reply.set_header(header::CONTENT_TYPE, "application/json");
            reply.body = Bytes::from(body.to_string());
        }
        None => {}
    }
    if then.malformed_json {
        let whole = if reply.body.len() > 1 { reply.body } else { Bytes::from(json!({"cut": "here"}).to_string()) };
        reply.body = whole.slice(..whole.len() / 2);
        reply.set_header(header::CONTENT_TYPE, "application/json");
    }
    if then.empty_204 {
        reply.status = 204;
        reply.body = Bytes::new();
        reply.headers.retain(|(name, _)| *name != header::CONTENT_TYPE && *name != header::ETAG);
    }
    if let Some(location) = &then.redirect {
        reply.status = then.status.unwrap_or(302);
        reply.set_header(header::LOCATION, location.clone());
    }
    let retry_after = then.retry_after.clone().or_else(|| then.retry_after_s.map(|seconds| seconds.to_string()));
    let retry_after = retry_after
        .or_else(|| then.retry_after_date_s.map(|ahead| http_date(now_ms.saturating_add(ahead.saturating_mul(1000)))));
    if let Some(value) = retry_after {
        reply.set_header(header::RETRY_AFTER, value);
    }
    reply
}

/// The head of the answer with a body that does not end.
pub(crate) fn endless(mut reply: Reply) -> Response {
    reply.body = Bytes::new();
    reply.set_header(header::CONTENT_TYPE, "application/json");
    let chunk = Bytes::from(vec![b' '; CHUNK_BYTES]);
    let body = stream::unfold(0, move |sent| {
        let chunk = chunk.clone();
        async move { (sent < CHUNKS_MAX).then_some((Ok::<_, std::io::Error>(chunk), sent + 1)) }
    });
    let mut response = reply.into_response();
    *response.body_mut() = Body::from_stream(body);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoilt(then: Then) -> Reply {
        spoil(Reply::json(200, &json!({"mergeResult": "SUCCESS", "profileId": "p"})), &then, 784_111_777_000)
    }

    fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
        reply.headers.iter().find(|(own, _)| own.as_str() == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn answers_are_spoilt_as_asked() {
        let partial = spoilt(Then { merge_body: Some(json!({"mergeResult": "PARTIAL"})), ..Then::default() });
        assert_eq!(partial.body, r#"{"mergeResult":"PARTIAL","profileId":"p"}"#);
        let cut = spoilt(Then { malformed_json: true, ..Then::default() });
        assert!(serde_json::from_slice::<Value>(&cut.body).is_err());
        let empty = spoilt(Then { empty_204: true, ..Then::default() });
        assert_eq!((empty.status, empty.body.len(), header(&empty, "content-type")), (204, 0, None));
        let moved = spoilt(Then { redirect: Some("http://elsewhere.example/".into()), ..Then::default() });
        assert_eq!((moved.status, header(&moved, "location")), (302, Some("http://elsewhere.example/")));
    }

    #[test]
    fn retry_after_has_three_forms() {
        let busy = |then| spoilt(Then { status: Some(429), ..then });
        let seconds = busy(Then { retry_after_s: Some(3), ..Then::default() });
        assert_eq!((seconds.status, header(&seconds, "retry-after")), (429, Some("3")));
        let date = busy(Then { retry_after_date_s: Some(30), ..Then::default() });
        assert_eq!(header(&date, "retry-after"), Some("Sun, 06 Nov 1994 08:50:07 GMT"));
        let text = busy(Then { retry_after: Some("soon".into()), ..Then::default() });
        assert_eq!(header(&text, "retry-after"), Some("soon"));
    }
}
