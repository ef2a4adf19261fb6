//! What a provider is like when its profile does not say: paths, limits and switches of `contract.md` A1-A10.

use crate::{
    classify::{RateHeaders, RetryRules},
    profile::OccMode,
};

/// The built-in part of a provider.
#[derive(Debug)]
pub(super) struct Defaults {
    pub(super) name: &'static str,
    /// Endpoint name and path template.
    pub(super) endpoints: &'static [(&'static str, &'static str)],
    /// Bucket class and requests per minute. Each token endpoint has its own bucket.
    pub(super) buckets: &'static [(&'static str, u32)],
    /// Path below `base_url` that tokens come from where neither `token_url` nor `discovery` is set.
    pub(super) token_path: Option<&'static str>,
    pub(super) occ: OccMode,
    retry_500: bool,
    rate_headers: RateHeaders,
}

impl Defaults {
    pub(super) fn retry(&self) -> RetryRules {
        RetryRules { retry_500: self.retry_500, rate_headers: self.rate_headers, ..RetryRules::default() }
    }
}

/// Token requests a minute and replica: a lifetime of minutes needs far fewer, and a loop shows at once.
const TOKEN_PER_MINUTE: u32 = 30;

pub(super) const CXONE: Defaults = Defaults {
    name: "cxone",
    endpoints: &[
        ("widget", "/api/v2/digitalmessaging/webchat/configurations/{configurationId}"),
        ("widget_purge", "/api/v2/digitalmessaging/webchat/configurations/{configurationId}/cache/purge"),
        ("profile", "/api/v2/profiles/{profileId}"),
        ("webhooks", "/api/v2/webhooks"),
        ("webhook", "/api/v2/webhooks/{webhookId}"),
        ("thread_webhooks", "/api/v2/interactions/webhooks"),
        ("thread_webhook", "/api/v2/interactions/webhooks/{webhookId}"),
        ("thread", "/api/v2/interactions/social/threads/{threadId}"),
    ],
    // 100 is the lower end of the documents' 100-200 a minute and tenant.
    buckets: &[
        ("profiles", 100),
        ("webchat", 100),
        ("webhooks", 100),
        ("interactions", 100),
        ("token", TOKEN_PER_MINUTE),
    ],
    token_path: Some("/api/v2/oauth/token"),
    occ: OccMode::Etag,
    retry_500: true,
    rate_headers: RateHeaders::None,
};

pub(super) const GENESYS: Defaults = Defaults {
    name: "genesys",
    endpoints: &[
        ("channels", "/api/v2/webchat/channels"),
        ("channel", "/api/v2/webchat/channels/{channelId}"),
        ("channel_publish", "/api/v2/webchat/channels/{channelId}/publish"),
        ("channel_live", "/api/v2/webchat/channels/{channelId}/published"),
        ("webhooks", "/api/v2/webhooks"),
        ("webhook", "/api/v2/webhooks/{webhookId}"),
        ("audit", "/api/v2/audits/query"),
        ("audit_transaction", "/api/v2/audits/query/{transactionId}"),
        ("audit_results", "/api/v2/audits/query/{transactionId}/results"),
    ],
    buckets: &[("channels", 200), ("webhooks", 200), ("audit", 200), ("token", TOKEN_PER_MINUTE)],
    // The login host differs from the API's, so that there is nothing to derive it from.
    token_path: None,
    occ: OccMode::IfMatchVersion,
    retry_500: false,
    rate_headers: RateHeaders::Inin,
};

pub(super) const CRM: Defaults = Defaults {
    name: "crm",
    endpoints: &[("threads", "/threads"), ("thread", "/threads/{threadId}")],
    buckets: &[("threads", 600), ("token", TOKEN_PER_MINUTE)],
    token_path: None,
    occ: OccMode::Etag,
    retry_500: true,
    rate_headers: RateHeaders::None,
};
