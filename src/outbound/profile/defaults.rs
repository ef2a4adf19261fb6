//! What a provider is like when its profile does not say: paths, limits and switches of `contract.md` A1-A10.

use crate::{
    classify::{RateHeaders, RetryRules},
    profile::{IdemOn, OccMode},
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
    pub(super) idem: IdemOn,
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
    idem: IdemOn::Always,
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
    idem: IdemOn::Always,
    retry_500: false,
    rate_headers: RateHeaders::Inin,
};

pub(super) const CRM: Defaults = Defaults {
    name: "crm",
    endpoints: &[("threads", "/threads"), ("thread", "/threads/{threadId}")],
    buckets: &[("threads", 600), ("token", TOKEN_PER_MINUTE)],
    token_path: None,
    occ: OccMode::Etag,
    idem: IdemOn::Always,
    retry_500: true,
    rate_headers: RateHeaders::None,
};

/// The CRMs of [`super::record`]: `thread` reads a record, `threads` makes one, `record` changes it.
pub(super) const ZENDESK: Defaults = Defaults {
    name: "crm",
    // A ticket is found by its external id and changed by its own.
    endpoints: &[("threads", "/{object}"), ("thread", "/{object}"), ("record", "/{object}/{recordId}")],
    // What the smallest plan allows a minute.
    buckets: &[("threads", 200), ("token", TOKEN_PER_MINUTE)],
    token_path: None,
    occ: OccMode::UpdatedStamp,
    idem: IdemOn::Create,
    retry_500: true,
    rate_headers: RateHeaders::XRateLimit,
};

pub(super) const SALESFORCE: Defaults = Defaults {
    name: "crm",
    endpoints: &[
        ("threads", "/services/data/v61.0/sobjects/{object}"),
        ("thread", "/services/data/v61.0/sobjects/{object}/{idField}/{threadId}"),
        // A change by the external id would make a record anew that somebody has deleted.
        ("record", "/services/data/v61.0/sobjects/{object}/{recordId}"),
    ],
    buckets: &[("threads", 600), ("token", TOKEN_PER_MINUTE)],
    token_path: Some("/services/oauth2/token"),
    // Entity-tags are for accounts only.
    occ: OccMode::IfUnmodifiedSince,
    idem: IdemOn::Never,
    retry_500: true,
    rate_headers: RateHeaders::None,
};

pub(super) const HUBSPOT: Defaults = Defaults {
    name: "crm",
    endpoints: &[
        ("threads", "/crm/v3/objects/{object}"),
        ("thread", "/crm/v3/objects/{object}/{threadId}"),
        ("record", "/crm/v3/objects/{object}/{threadId}"),
    ],
    buckets: &[("threads", 600), ("token", TOKEN_PER_MINUTE)],
    token_path: None,
    occ: OccMode::None,
    idem: IdemOn::Never,
    retry_500: true,
    rate_headers: RateHeaders::None,
};

pub(super) const DATAVERSE: Defaults = Defaults {
    name: "crm",
    endpoints: &[
        ("threads", "/api/data/v9.2/{object}({idField}='{threadId}')"),
        ("thread", "/api/data/v9.2/{object}({idField}='{threadId}')"),
        ("record", "/api/data/v9.2/{object}({idField}='{threadId}')"),
    ],
    buckets: &[("threads", 600), ("token", TOKEN_PER_MINUTE)],
    token_path: None,
    occ: OccMode::Etag,
    idem: IdemOn::Never,
    retry_500: true,
    rate_headers: RateHeaders::None,
};
