//! Whether the upstream's limit lets a backfill through before its jobs die of their deadline.

use anyhow::Result;
use sqlx::PgPool;

use crate::commands::database::{explain, is_forbidden};

/// The limit that the jobs of a backfill draw on first.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct Pace {
    bucket: String,
    /// Requests a minute that work of priority `backfill` may make.
    per_minute: f64,
}

impl Pace {
    /// The tenant's limit of the kind's first bucket. `None` where there is none, no worker has told it yet, or the
    /// login may not see it, as a producer's may not.
    pub(super) async fn of(pool: &PgPool, kind: &str, tenant: &str) -> Result<Option<Self>> {
        let found = sqlx::query_as(
            "select b.name as bucket, b.per_minute * b.backfill_share::float8 as per_minute
             from backhaul.kinds k join backhaul.buckets b on b.tenant = $2 and b.name = k.pacing[1]
             where k.kind = $1 and k.version = 1 and b.per_minute is not null",
        );
        match found.bind(kind).bind(tenant).fetch_optional(pool).await {
            Err(error) if is_forbidden(&error) => Ok(None),
            found => found.map_err(explain),
        }
    }

    /// A warning where `rows` jobs of one request each take longer than `life_s`, the time that each of them has.
    pub(super) fn warning(&self, rows: u64, life_s: f64) -> Option<String> {
        #[expect(clippy::cast_precision_loss, reason = "a file has far fewer rows than 2^52")]
        let hours = rows as f64 / self.per_minute / 60.0;
        let life = life_s / 3_600.0;
        (hours > life).then(|| {
            let Self { bucket, per_minute } = self;
            format!(
                "{rows} rows take {hours:.1} h or more at {per_minute:.0} requests a minute of {bucket}, and each has \
                 {life:.1} h: those that are not done by then become dead letters. Give them a later --deadline"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_backfill_that_takes_too_long_is_warned_of() {
        let pace = Pace { bucket: "cxone/profiles".into(), per_minute: 25.0 };
        assert_eq!(pace.warning(36_000, 86_400.0), None, "just in time");
        let warning = pace.warning(500_000, 86_400.0).expect("too long");
        assert!(warning.contains("333.3 h") && warning.contains("24.0 h"), "{warning}");
    }
}
