//! What the simulated systems do where real ones differ. Every field can be changed while the simulator runs
//! (`PATCH /_sim/settings`), because one test wants a strict CRM and the next a lenient one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Behaviour of the simulated systems. JSON and TOML use the field names as they stand here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// When true a resource must have been put through the control plane; otherwise a well-formed id is enough.
    pub strict: bool,
    /// When true a write without `If-Match` (or a body version, where that counts) is answered 428.
    pub require_precondition: bool,
    /// Status of a failed precondition on a webchat configuration: 409 as the source says, or 412 as HTTP says.
    pub widget_conflict_status: u16,
    /// Status of a failed precondition on a Genesys channel.
    pub channel_conflict_status: u16,
    /// Status of a failed precondition on a CRM thread.
    pub thread_conflict_status: u16,
    /// When false an `Idempotency-Key` is recorded but not acted on, as with products that do not know the header.
    pub honour_idempotency_keys: bool,
    /// What counts as a second registration of the same webhook (answered 409).
    pub webhook_duplicates: WebhookDuplicates,
    /// Webhooks on one page of a listing; 0 puts all of them on one.
    pub webhook_page_size: usize,
    /// When true `APPEND` adds list members that already stand there.
    pub append_blindly: bool,
    /// When true profiles carry an `ETag`, and `If-Match` is checked where it is sent.
    pub profile_etags: bool,
    /// When true a profile that takes the e-mail address or phone number of another is merged into that one.
    pub deduplicate_profiles: bool,
    /// When true a CRM thread that does not exist comes into being on GET and PATCH instead of answering 404.
    pub create_threads_on_access: bool,
    /// Which ids the CRM takes for threads.
    pub thread_ids: ThreadIds,
    /// Most messages one write to a CRM thread may add, update and remove together; 0 means any number.
    pub thread_messages_max: usize,
    /// How often a channel is looked at before a write or publication of it shows, which is answered 202; 0 carries it out
    /// at once.
    pub channel_looks: u32,
    /// When true a request beyond a limit is answered with `Retry-After`; else the product's own headers have to do.
    pub retry_after: bool,
    /// How many entries the audit trail of an untouched channel holds.
    pub audit_entries: u32,
    /// How often a transaction of the audit trail is looked at before it is ready.
    pub audit_looks: u32,
    /// Life of a token in seconds, unless its client has a life of its own.
    pub token_expires_in_s: u32,
    /// Requests in any window of 60 s per (tenant, client, class); a class that is absent is unlimited.
    /// Classes are named `provider/class`, for example `cxone/profiles`.
    pub limits: BTreeMap<String, u32>,
    /// The WebSocket endpoint.
    pub socket: SocketSettings,
}

/// Which registration is a duplicate of which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookDuplicates {
    /// The same name, per tenant and kind of body.
    ByName,
    /// The same target address, per tenant and kind of body.
    ByAddress,
    /// None: every registration makes a new webhook.
    Allowed,
}

/// Which thread ids the CRM takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThreadIds {
    /// Any id of `[A-Za-z0-9_-]{1,128}`.
    Any,
    /// UUIDs only, as the CRM's documented schema says; other ids are answered 422.
    Uuid,
}

/// How the WebSocket endpoint treats origins and messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SocketSettings {
    /// When true an `Origin` that is not allowed is answered 403. A request without `Origin` is let in.
    pub enforce_origin: bool,
    /// Allowed origins, besides those that a channel was configured with.
    pub allowed_origins: Vec<String>,
    /// When true the first text message is answered.
    pub answer_messages: bool,
    /// Text of the answer; when absent a session response is sent.
    pub answer: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            strict: false,
            require_precondition: true,
            widget_conflict_status: 409,
            channel_conflict_status: 409,
            thread_conflict_status: 409,
            honour_idempotency_keys: true,
            webhook_duplicates: WebhookDuplicates::ByName,
            webhook_page_size: 0,
            append_blindly: false,
            profile_etags: false,
            deduplicate_profiles: true,
            create_threads_on_access: false,
            thread_ids: ThreadIds::Any,
            thread_messages_max: 0,
            channel_looks: 0,
            retry_after: true,
            audit_entries: 250,
            audit_looks: 2,
            token_expires_in_s: 3600,
            limits: documented_limits(),
            socket: SocketSettings::default(),
        }
    }
}

impl Default for SocketSettings {
    fn default() -> Self {
        Self {
            enforce_origin: true,
            allowed_origins: vec!["https://shop.example.com".to_owned(), "https://allowed.example".to_owned()],
            answer_messages: true,
            answer: None,
        }
    }
}

impl Settings {
    /// Refuses values that would make the simulator answer nonsense.
    ///
    /// # Errors
    /// Says which field is wrong and what it may hold.
    pub fn check(&self) -> anyhow::Result<()> {
        for (field, status) in [
            ("widget_conflict_status", self.widget_conflict_status),
            ("channel_conflict_status", self.channel_conflict_status),
            ("thread_conflict_status", self.thread_conflict_status),
        ] {
            anyhow::ensure!(matches!(status, 409 | 412), "{field} is {status}; it may be 409 or 412");
        }
        anyhow::ensure!(self.token_expires_in_s > 0, "token_expires_in_s is 0; give at least 1");
        anyhow::ensure!(self.audit_entries <= 1_000_000, "audit_entries is above 1000000");
        for (class, limit) in &self.limits {
            anyhow::ensure!(
                crate::routes::Class::parse(class).is_some(),
                "limits names the class {class:?}, which does not exist; classes look like \"cxone/profiles\""
            );
            anyhow::ensure!(
                (1..=100_000).contains(limit),
                "the limit of {class} is {limit}; it may be 1 to 100000, and leaving the class out lifts it"
            );
        }
        Ok(())
    }

    /// The settings with no rate limit at all, for throughput measurements.
    pub fn unlimited(mut self) -> Self {
        self.limits.clear();
        self
    }
}

/// The limits the documents name (about 100 to 200 a minute for profiles, 200 for Genesys webhooks, 300 per client
/// elsewhere at Genesys); the rest is generous enough not to be met by accident.
fn documented_limits() -> BTreeMap<String, u32> {
    [
        ("cxone/profiles", 200),
        ("cxone/webchat", 600),
        ("cxone/webhooks", 300),
        ("cxone/interactions", 600),
        ("genesys/channels", 300),
        ("genesys/webhooks", 200),
        ("genesys/audit", 300),
        ("crm/threads", 1200),
    ]
    .into_iter()
    .map(|(class, limit)| (class.to_owned(), limit))
    .collect()
}
