//! What a handshake job asks for, checked to the last member before any call.

use serde_json::Value;

use crate::{
    fields::{Fields, Placed, list, text},
    origins,
    pointer::Pointer,
    problem::Problems,
};

/// Most origins of one channel.
const ORIGINS_MAX: usize = 100;
/// Longest name, id and other short text, in UTF-16 units.
const SHORT_MAX: usize = 256;
/// Longest description.
const DESCRIPTION_MAX: usize = 2_000;
/// Longest URL.
const URL_MAX: usize = 2_048;
/// Longest audit window; the default is a week.
const WINDOW_DAYS_MAX: u64 = 90;
const WINDOW_DAYS: u64 = 7;

/// What the job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Opens the channel's socket and changes nothing.
    Probe,
    /// Writes the channel.
    Apply,
    /// Writes the channel, then opens its socket.
    ApplyAndProbe,
}

/// A checked payload.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What to do.
    pub mode: Mode,
    /// The channel.
    pub channel_id: String,
    /// The members to set; a probe may leave them out, and then reads the live channel.
    pub channel: Option<Channel>,
    /// `Origin` that must be let in.
    pub allowed_origin: Option<String>,
    /// `Origin` that must be refused.
    pub foreign_origin: Option<String>,
    /// Length of the audit query's window in days, where the query is asked for.
    pub audit_days: Option<u64>,
    /// Where the health webhook is to send, where one is asked for.
    pub health_callback: Option<String>,
}

/// The members of a channel that a job sets.
#[derive(Debug, Clone, PartialEq)]
pub struct Channel {
    /// Shown to administrators.
    pub name: String,
    /// Likewise; absent leaves what stands there.
    pub description: Option<String>,
    /// Whether visitors can use it.
    pub enabled: bool,
    /// Address of the socket's host, https or wss; http and ws pass only where the profile allows a loopback host.
    pub webchat_url: String,
    /// Normalised, without duplicates, in the order given.
    pub origins: Vec<String>,
    /// Provider that signs visitors in.
    pub auth_provider_id: String,
    /// The widget's deployment.
    pub webchat_id: String,
}

impl Mode {
    /// Whether the channel is written.
    pub fn applies(self) -> bool {
        matches!(self, Self::Apply | Self::ApplyAndProbe)
    }

    /// Whether the socket is opened.
    pub fn probes(self) -> bool {
        matches!(self, Self::Probe | Self::ApplyAndProbe)
    }
}

/// Checks `payload`. Reports everything that is wrong.
///
/// # Errors
/// The problems, each with its JSON pointer and without its value.
pub fn check(payload: &Value) -> Result<Request, Problems> {
    let mut problems = Problems::new();
    let request = read(payload, &mut problems);
    problems.or(request)
}

fn read(payload: &Value, problems: &mut Problems) -> Option<Request> {
    let mut fields = Fields::of(payload, Pointer::root(), problems);
    let mode = fields.required("mode", problems).and_then(|placed| mode(&placed, problems));
    let channel_id = fields.required("channelId", problems).and_then(|placed| channel_id(placed, problems));
    let channel_at = Pointer::root().member("channel");
    let named = payload.get("channel").is_some();
    let channel = fields.optional("channel", problems).and_then(|placed| channel(placed, problems));
    let (allowed_origin, foreign_origin) =
        fields.optional("probe", problems).map(|placed| probe(placed, problems)).unwrap_or_default();
    let audit_days = fields.optional("audit", problems).map(|placed| audit_days(placed, problems));
    let health_callback = fields.optional("healthCallbackUrl", problems).and_then(|placed| url(placed, problems));
    fields.end(problems);
    let mode = mode?;
    if mode.applies() && !named {
        problems.add(&channel_at, "is required to apply");
    }
    if health_callback.is_some() && !mode.applies() {
        problems.add(&Pointer::root().member("healthCallbackUrl"), "needs a mode that applies");
    }
    let channel_id = channel_id?;
    Some(Request { mode, channel_id, channel, allowed_origin, foreign_origin, audit_days, health_callback })
}

fn mode((value, at): &Placed<'_>, problems: &mut Problems) -> Option<Mode> {
    let mode = match value.as_str() {
        Some("probe") => Some(Mode::Probe),
        Some("apply") => Some(Mode::Apply),
        Some("apply_and_probe") => Some(Mode::ApplyAndProbe),
        _ => None,
    };
    if mode.is_none() {
        problems.add(at, "must be probe, apply or apply_and_probe");
    }
    mode
}

/// The id becomes a path segment and part of the audit query's filter: nothing in it may mean anything there.
fn channel_id(placed: Placed<'_>, problems: &mut Problems) -> Option<String> {
    let at = placed.1.clone();
    let id = text(placed, 128, problems)?;
    if id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-') {
        return Some(id.to_owned());
    }
    problems.add(&at, "may hold letters, digits, _ and - only");
    None
}

fn channel((value, at): Placed<'_>, problems: &mut Problems) -> Option<Channel> {
    let mut fields = Fields::of(value, at, problems);
    let name = fields.required("name", problems).and_then(|placed| plain(placed, SHORT_MAX, problems));
    let description = fields.optional("description", problems).and_then(|placed| note(placed, problems));
    let enabled = fields.required("enabled", problems).and_then(|(value, at)| {
        if !value.is_boolean() {
            problems.add(&at, "must be true or false, not text or a number");
        }
        value.as_bool()
    });
    let webchat_url = fields.required("webchatUrl", problems).and_then(|placed| url(placed, problems));
    let origins = fields.required("corsAllowedOrigins", problems).and_then(|placed| origins_of(&placed, problems));
    let auth_provider_id =
        fields.required("authProviderId", problems).and_then(|placed| plain(placed, SHORT_MAX, problems));
    let webchat_id = fields.required("webchatId", problems).and_then(|placed| plain(placed, SHORT_MAX, problems));
    fields.end(problems);
    Some(Channel {
        name: name?,
        description,
        enabled: enabled?,
        webchat_url: webchat_url?,
        origins: origins?,
        auth_provider_id: auth_provider_id?,
        webchat_id: webchat_id?,
    })
}

fn plain(placed: Placed<'_>, units_max: usize, problems: &mut Problems) -> Option<String> {
    let at = placed.1.clone();
    let text = text(placed, units_max, problems)?;
    if text.chars().any(char::is_control) || text.trim().is_empty() {
        problems.add(&at, "holds control characters or nothing but spaces");
        return None;
    }
    Some(text.to_owned())
}

/// A description may be empty and may have lines.
fn note((value, at): Placed<'_>, problems: &mut Problems) -> Option<String> {
    if value.as_str() == Some("") {
        return Some(String::new());
    }
    text((value, at), DESCRIPTION_MAX, problems).map(str::to_owned)
}

fn origins_of(placed: &Placed<'_>, problems: &mut Problems) -> Option<Vec<String>> {
    let before = problems.list().len();
    let items = list(placed, ORIGINS_MAX, problems);
    let mut origins: Vec<String> = Vec::with_capacity(items.len());
    for item in items {
        if let Some(origin) = origin(item, problems)
            && !origins.contains(&origin)
        {
            origins.push(origin);
        }
    }
    if problems.list().len() > before {
        return None;
    }
    if origins.is_empty() {
        problems.add(&placed.1, "must name at least one origin");
        return None;
    }
    Some(origins)
}

fn origin((value, at): Placed<'_>, problems: &mut Problems) -> Option<String> {
    match value.as_str().map(origins::normalise) {
        Some(Ok(origin)) => Some(origin),
        Some(Err(why)) => {
            problems.add(&at, why);
            None
        }
        None => {
            problems.add(&at, "must be a string");
            None
        }
    }
}

fn probe((value, at): Placed<'_>, problems: &mut Problems) -> (Option<String>, Option<String>) {
    let mut fields = Fields::of(value, at.clone(), problems);
    let allowed = fields.optional("allowedOrigin", problems).and_then(|placed| origin(placed, problems));
    let foreign = fields.optional("foreignOrigin", problems).and_then(|placed| origin(placed, problems));
    fields.end(problems);
    if allowed.is_some() && allowed == foreign {
        problems.add(&at, "names one origin as both allowed and foreign");
    }
    (allowed, foreign)
}

fn audit_days((value, at): Placed<'_>, problems: &mut Problems) -> u64 {
    let mut fields = Fields::of(value, at, problems);
    let days = fields.optional("windowDays", problems).and_then(|(value, at)| {
        let days = value.as_u64().filter(|days| (1..=WINDOW_DAYS_MAX).contains(days));
        if days.is_none() {
            problems.add(&at, format!("must be a whole number from 1 to {WINDOW_DAYS_MAX}"));
        }
        days
    });
    fields.end(problems);
    days.unwrap_or(WINDOW_DAYS)
}

/// The form of a URL; whether its host may be contacted is for the tenant's address guard to say.
fn url(placed: Placed<'_>, problems: &mut Problems) -> Option<String> {
    let at = placed.1.clone();
    let text = text(placed, URL_MAX, problems)?;
    let parsed = url::Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "https" | "wss" | "http" | "ws")
            && url.host().is_some()
            && url.username().is_empty()
            && url.password().is_none()
            && url.fragment().is_none()
            && !text.chars().any(|char| char.is_control() || char.is_whitespace() || char == '\\')
    });
    if parsed.is_none() {
        problems.add(&at, "must be an https or wss URL with a host, without user, password and fragment");
        return None;
    }
    Some(text.to_owned())
}

#[cfg(test)]
#[path = "payload_tests.rs"]
mod tests;
