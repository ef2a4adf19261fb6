//! Signed deliveries to addresses that came from payloads or settings.

use reqwest::{
    Method, Request,
    header::{self, HeaderName, HeaderValue},
};
use tracing::{Instrument, field};
use uuid::Uuid;

use super::{Client, add_headers, record, reply, trace};
use crate::{
    address::{self, PinError, Pinned, Schemes},
    call::{CallError, Reply},
    profile::CallbackProfile,
    sign,
};

/// One delivery to an address outside the profiles.
#[derive(Debug)]
pub struct Delivery<'a> {
    /// Where to, as the payload has it.
    pub url: &'a str,
    /// Stable id of what is delivered: every try sends the same one, and receivers drop repetitions by it.
    pub id: &'a str,
    /// The body, signed as it stands.
    pub body: &'a [u8],
    /// Its media type.
    pub content_type: &'static str,
    /// Further headers. The client's own and the signature's cannot be set.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// W3C trace context to send on; an ill-formed one is dropped.
    pub traceparent: Option<&'a str>,
}

impl<'a> Delivery<'a> {
    /// A JSON delivery without further headers.
    pub fn json(url: &'a str, id: &'a str, body: &'a [u8]) -> Self {
        Self { url, id, body, content_type: "application/json", headers: Vec::new(), traceparent: None }
    }
}

impl Client {
    /// Posts a signed delivery to an address on the target's allow list.
    ///
    /// The host is resolved and vetted first, and the connection is made to the vetted addresses only. The signature
    /// is that of Standard Webhooks with all of the target's secrets; its time stamp is this try's. Since receivers
    /// know repetitions by their id, a lost reply is [`CallError::Ambiguous`] with `replay_safe`.
    ///
    /// # Errors
    /// Why there is no reply. [`CallError::AddressNotAllowed`] is permanent: nothing was sent.
    pub async fn post_to_url(
        &self,
        tenant: &str,
        target: &CallbackProfile,
        delivery: Delivery<'_>,
    ) -> Result<Reply, CallError> {
        let span = tracing::info_span!(
            "outbound",
            otel.kind = "client",
            otel.name = "POST callback",
            http.request.method = "POST",
            server.address = field::Empty,
            backhaul.tenant = tenant,
            backhaul.endpoint = "callback",
            http.response.status_code = field::Empty,
            request_id = field::Empty,
            latency_ms = field::Empty,
        );
        async {
            let outcome = self.deliver(target, delivery).await;
            record(&outcome, tenant, "callback");
            outcome
        }
        .instrument(span)
        .await
    }

    async fn deliver(&self, target: &CallbackProfile, delivery: Delivery<'_>) -> Result<Reply, CallError> {
        let pinned = self.pin(delivery.url, &target.allow_hosts, Schemes::HTTP).await?;
        tracing::Span::current().record("server.address", pinned.url.host_str());
        let now = self.inner.clock.now();
        let signature = sign::signature(&target.secrets, delivery.id, now, delivery.body)
            .map_err(|what| CallError::Unconfigured(format!("the delivery cannot be signed: {what}")))?;
        let request_id = Uuid::new_v4().to_string();
        let mut request = Request::new(Method::POST, pinned.url.clone());
        let headers = request.headers_mut();
        add_headers(headers, &delivery.headers)?;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(delivery.content_type));
        let signed = [
            (sign::ID_HEADER, delivery.id),
            (sign::TIMESTAMP_HEADER, &now.timestamp().to_string()),
            (sign::SIGNATURE_HEADER, &signature),
        ];
        for (name, value) in signed {
            let value = HeaderValue::from_str(value)
                .map_err(|_| CallError::Unconfigured(format!("{name} holds characters that a header cannot")))?;
            headers.insert(HeaderName::from_static(name), value);
        }
        trace(headers, &request_id, delivery.traceparent);
        *request.body_mut() = Some(delivery.body.to_vec().into());
        let http = self.inner.exchange.http_pinned(&target.extra_roots, &pinned)?;
        let raw = self.inner.exchange.run(&http, request, true).await?;
        reply(raw, request_id, "callback".to_owned())
    }

    /// Checks, resolves and vets an address that came from a payload. Connect to nothing but what is returned.
    ///
    /// # Errors
    /// [`CallError::AddressNotAllowed`], or [`CallError::Connect`] where the name does not resolve in time.
    pub async fn pin(&self, url: &str, allow: &[address::AllowHost], schemes: Schemes) -> Result<Pinned, CallError> {
        let checked = address::check(url, allow, schemes).map_err(CallError::AddressNotAllowed)?;
        let pinning = checked.pin(&*self.inner.resolver);
        match tokio::time::timeout(self.inner.exchange.bounds.connect, pinning).await {
            Ok(Ok(pinned)) => Ok(pinned),
            Ok(Err(PinError::Refused(refusal))) => Err(CallError::AddressNotAllowed(refusal)),
            Ok(Err(error @ PinError::Lookup(_))) => Err(CallError::Connect { detail: error.to_string() }),
            Err(_) => Err(CallError::Connect { detail: "the host's name was not resolved in time".to_owned() }),
        }
    }
}
