//! The jobs that are disturbed: each kind's whole way, and the ways that only some jobs take.

use serde_json::{Value, json};

use super::super::stage::Stage;

/// A payload for a resource: its number, its id, and the address of a good socket.
pub(super) type Payload = fn(&Stage, usize, &str, &str) -> Value;

/// One kind's job, for any resource.
#[derive(Clone, Copy)]
pub(super) struct Case {
    pub(super) kind: &'static str,
    /// Tables of the tenant's profile.
    pub(super) kinds: &'static str,
    pub(super) payload: Payload,
    /// Class, method, and whether the resource's id is in the body rather than in the path, of each kind of call.
    pub(super) calls: &'static [(&'static str, &'static str, bool)],
    /// What the server answers to each call of a class and method after it has carried it out.
    pub(super) answers: &'static [(&'static str, &'static str, u16)],
    /// Lines of the profile's `[probe]`.
    pub(super) probe: &'static str,
    /// The payload of a job for the same resource that is done before.
    pub(super) before: Option<Payload>,
    /// The platform has only what somebody made there.
    pub(super) strict: bool,
    /// The failure that every job ends in, after it has put things back; without one, every job is done.
    pub(super) dies_of: Option<&'static str>,
}

/// What most cases are.
const PLAIN: Case = Case {
    kind: "",
    kinds: "",
    payload: |_, _, _, _| Value::Null,
    calls: &[],
    answers: &[],
    probe: "",
    before: None,
    strict: false,
    dies_of: None,
};

pub(super) const WIDGET_PATCH: Case = Case {
    kind: "widget-patch",
    payload: |stage, _, id, _| {
        json!({"configurationId": id, "theme": {"primary": "#abc"},
            "eventListeners": [{"event": "message_sent", "action": "track_latency"}],
            "callbackUrl": format!("{}/{id}", stage.callback_url())})
    },
    calls: &[
        ("cxone/webchat", "GET", false),
        ("cxone/webchat", "PATCH", false),
        ("cxone/webchat", "POST", false),
        ("callback", "POST", false),
    ],
    ..PLAIN
};

/// Jobs come in pairs that share an e-mail address: the second one's profile is merged into the first one's.
pub(super) const ENRICHMENT: Case = Case {
    kind: "enrichment",
    payload: |_, n, id, _| {
        json!({"profileId": id, "mergeStrategy": "APPEND", "sourceSystem": "crm_main",
            "attributes": {"interests": [n], "email": format!("ann{}@example.com", n / 2)}})
    },
    calls: &[("cxone/profiles", "GET", false), ("cxone/profiles", "PATCH", false)],
    ..PLAIN
};

pub(super) const CRM_SYNC: Case = Case {
    kind: "crm-sync",
    kinds: "[kinds.crm-sync]\nchunk = 1\n",
    payload: |_, _, id, _| {
        let message = |m: usize| json!({"id": format!("m{m}"), "text": "text", "timestamp": "2026-01-02T09:00:00Z", "authorId": "p1"});
        let data = json!({"threadId": id, "version": 1, "participants": [{"id": "p1", "role": "AGENT"}],
            "messages": [message(1), message(2), message(3)]});
        json!({"threadId": id, "event": "THREAD_UPDATED", "timestamp": "2026-01-02T10:00:00Z", "data": data})
    },
    calls: &[("crm/threads", "GET", false), ("crm/threads", "POST", true), ("crm/threads", "PATCH", false)],
    ..PLAIN
};

pub(super) const HANDSHAKE: Case = Case {
    kind: "handshake",
    payload: |_, _, id, tls| {
        json!({"mode": "apply_and_probe", "channelId": id, "channel": {
                "name": "Web shop", "enabled": true, "webchatUrl": tls, "corsAllowedOrigins": ["https://allowed.example"],
                "authProviderId": "auth-1", "webchatId": "webchat-1"},
            "audit": {}, "healthCallbackUrl": "https://hooks.example.com/health"})
    },
    calls: &[
        ("genesys/channels", "GET", false),
        ("genesys/channels", "PUT", false),
        ("genesys/webhooks", "POST", true),
        ("genesys/audit", "GET", false),
    ],
    ..PLAIN
};

/// Delivered at least once, under one id.
pub(super) const DELIVER: Case = Case {
    kind: "deliver",
    payload: |stage, n, id, _| json!({"url": format!("{}/{id}", stage.callback_url()), "event": {"n": n}}),
    calls: &[("callback", "POST", false)],
    ..PLAIN
};

/// The server takes the PATCH and says that it will come to it later, so that the job looks until it shows.
pub(super) const WIDGET_LATER: Case = Case {
    calls: &[("cxone/webchat", "GET", false), ("callback", "POST", false)],
    answers: &[("cxone/webchat", "PATCH", 202)],
    ..WIDGET_PATCH
};

pub(super) const ENRICHMENT_LATER: Case =
    Case { calls: &[("cxone/profiles", "GET", false)], answers: &[("cxone/profiles", "PATCH", 202)], ..ENRICHMENT };

pub(super) const HANDSHAKE_LATER: Case = Case {
    calls: &[("genesys/channels", "GET", false), ("genesys/webhooks", "POST", true)],
    answers: &[("genesys/channels", "PUT", 202)],
    ..HANDSHAKE
};

pub(super) const CREATE_LATER: Case =
    Case { calls: &[("genesys/channels", "GET", false)], answers: &[("genesys/channels", "POST", 202)], ..CREATE };

/// The source's thread, which has three messages, is compared with a CRM that has none.
pub(super) const RECONCILE: Case = Case {
    payload: |_, _, id, _| json!({"threadId": id, "reconcile": true}),
    calls: &[
        ("cxone/interactions", "GET", false),
        ("crm/threads", "GET", false),
        ("crm/threads", "POST", true),
        ("crm/threads", "PATCH", false),
    ],
    ..CRM_SYNC
};

pub(super) const ASYNC_AUDIT: Case = Case {
    kinds: "[kinds.handshake]\naudit_via = \"async_query\"\n",
    calls: &[("genesys/channels", "GET", false), ("genesys/channels", "PUT", false), ("genesys/audit", "POST", true)],
    ..HANDSHAKE
};

/// There is no such channel yet.
pub(super) const CREATE: Case = Case {
    kinds: "[kinds.handshake]\ncreate_missing = true\n",
    payload: |stage, n, id, tls| {
        let mut payload = (HANDSHAKE.payload)(stage, n, id, tls);
        payload["mode"] = json!("apply");
        payload.as_object_mut().expect("an object").retain(|name, _| name != "audit" && name != "healthCallbackUrl");
        payload
    },
    calls: &[("genesys/channels", "GET", false), ("genesys/channels", "POST", true)],
    strict: true,
    ..HANDSHAKE
};

/// The thread as it is, under a version.
fn versioned(stage: &Stage, n: usize, id: &str, tls: &str, version: u32) -> Value {
    let mut payload = (CRM_SYNC.payload)(stage, n, id, tls);
    payload["data"]["version"] = json!(version);
    payload
}

/// A newer version that changes nothing: only the memory of it advances.
pub(super) const ADVANCE: Case =
    Case { before: Some(CRM_SYNC.payload), payload: |stage, n, id, tls| versioned(stage, n, id, tls, 2), ..CRM_SYNC };

/// A newer version has been there before: it is noted and that is all.
pub(super) const NOTE: Case = Case { before: Some(|stage, n, id, tls| versioned(stage, n, id, tls, 2)), ..CRM_SYNC };

/// The platform edits drafts: what is written is published, and published again once it is put back.
pub(super) const PUBLISH: Case = Case {
    kinds: "[kinds.handshake]\npublish = true\n",
    calls: &[
        ("genesys/channels", "GET", false),
        ("genesys/channels", "PUT", false),
        ("genesys/channels", "POST", false),
    ],
    ..ROLLBACK
};

/// The socket lets everybody in, so the old channel is put back.
pub(super) const ROLLBACK: Case = Case {
    payload: |stage, n, id, tls| (HANDSHAKE.payload)(stage, n, id, &format!("{tls}/any-origin")),
    calls: &[("genesys/channels", "GET", false), ("genesys/channels", "PUT", false)],
    probe: "rollback = true",
    dies_of: Some("origin_policy_not_enforced"),
    ..HANDSHAKE
};
