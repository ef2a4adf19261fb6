//! Payloads looked at before they are enqueued, by the rules of their kind.

use std::env;

use anyhow::{Result, anyhow};
use backhaul_outbound::Profiles;
use backhaul_workers::{Demands, Unfit, check_payload};
use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;

use super::{
    database::explain,
    exit::{self, Coded},
    session::Session,
    table,
};

/// What the deployment says of a kind that is about to be enqueued.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub(crate) struct Target {
    /// The database's time.
    pub(crate) now: DateTime<Utc>,
    /// The kind's deadline, from the time that a job may first run.
    pub(crate) deadline_s: f64,
}

impl Target {
    /// Looks the kind up, so that a spelling mistake is told before anything is read.
    pub(crate) async fn of(pool: &PgPool, kind: &str) -> Result<Self> {
        let found = sqlx::query_as(
            "select clock_timestamp() as now, extract(epoch from deadline)::float8 as deadline_s
             from backhaul.kinds where kind = $1 and version = 1",
        );
        if let Some(target) = found.bind(kind).fetch_optional(pool).await.map_err(explain)? {
            return Ok(target);
        }
        let known: Vec<String> = sqlx::query_scalar("select distinct kind from backhaul.kinds order by kind")
            .fetch_all(pool)
            .await
            .map_err(explain)?;
        let text = format!("unknown_kind: {kind:?}; this deployment runs {}", known.join(", "));
        Err(anyhow!(Coded::new(exit::USAGE, text)))
    }
}

/// The rules for the payloads of one kind and tenant.
pub(crate) struct Payloads<'a> {
    kind: &'a str,
    profiles: Profiles,
    tenant: &'a str,
    now: DateTime<Utc>,
}

impl<'a> Payloads<'a> {
    /// The rules at the time `now`. The tenant's own count where its profile is on this machine; producers' machines
    /// need none, and then only what no tenant would take is refused.
    pub(crate) fn of(session: &Session, kind: &'a str, tenant: &'a str, now: DateTime<Utc>) -> Self {
        let profiles = Profiles::load_dir(&session.settings.profiles.dir).unwrap_or_default();
        Self { kind, profiles, tenant, now }
    }

    /// What the rules are made of, once for many payloads.
    pub(crate) fn demands(&self) -> Demands<'_> {
        let profile = self.profiles.get(self.tenant).map(AsRef::as_ref);
        Demands::of(profile, self.now, &|name| env::var(name).ok())
    }

    /// Checks one payload. A kind that this program does not know is not judged.
    pub(crate) fn check(&self, payload: &Value, demands: &Demands<'_>) -> Result<(), Unfit> {
        check_payload(self.kind, payload, demands)
    }

    /// Refuses a payload that a worker would make a dead letter of at once. `nothing` says what is not done therefore,
    /// and `advice` what to do.
    pub(crate) fn insist(&self, payload: &Value, nothing: &str, advice: &str) -> Result<()> {
        let Err(unfit) = self.check(payload, &self.demands()) else { return Ok(()) };
        let mut text = format!("{nothing}, because a worker would refuse the payload: {}", unfit.code);
        for problem in &unfit.problems {
            let place = if problem.pointer.is_empty() { "(document)" } else { &problem.pointer };
            text.push_str(&format!("\n  {place}: {}", table::clean(&problem.message)));
        }
        Err(anyhow!(Coded::new(exit::USAGE, format!("{text}\n{advice}"))))
    }
}

/// A tenant's name, by the rule of the database.
pub(crate) fn tenant(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let valid = (1..=64).contains(&text.len())
        && text.bytes().all(plain)
        && text.starts_with(|first: char| first.is_ascii_alphanumeric());
    let wrong = "1 to 64 letters, digits, dots, hyphens and underscores, the first a letter or a digit";
    if valid { Ok(text.to_owned()) } else { Err(wrong.to_owned()) }
}
