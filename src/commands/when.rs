//! Times as people write them: now, so long from now, or a date.

use std::str::FromStr;

use anyhow::Result;
use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::database::explain;

/// A time, or a time from now. The database's clock says what now is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum When {
    At(DateTime<Utc>),
    After { seconds: u32 },
}

impl When {
    /// The time that is meant.
    pub(crate) async fn resolve(self, pool: &PgPool) -> Result<DateTime<Utc>> {
        match self {
            Self::At(at) => Ok(at),
            Self::After { seconds } => sqlx::query_scalar("select clock_timestamp() + make_interval(secs => $1)")
                .bind(f64::from(seconds))
                .fetch_one(pool)
                .await
                .map_err(explain),
        }
    }
}

/// As [`When::resolve`], for a time that need not be given.
pub(crate) async fn resolve(when: Option<When>, pool: &PgPool) -> Result<Option<DateTime<Utc>>> {
    match when {
        Some(when) => when.resolve(pool).await.map(Some),
        None => Ok(None),
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither now, nor as +15m, nor as 2030-01-31T08:00:00Z");
        if text == "now" {
            return Ok(Self::After { seconds: 0 });
        }
        let Some(offset) = text.strip_prefix('+') else {
            return text.parse().map(Self::At).map_err(|_| wrong());
        };
        let unit = match offset.chars().last() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3_600,
            Some('d') => 86_400,
            _ => return Err(wrong()),
        };
        let count: u32 = offset[..offset.len() - 1].parse().map_err(|_| wrong())?;
        count.checked_mul(unit).map(|seconds| Self::After { seconds }).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::When;

    #[test]
    fn times_are_read_in_all_three_forms() {
        let after = |seconds| Ok(When::After { seconds });
        assert_eq!("now".parse(), after(0));
        assert_eq!("+90s".parse(), after(90));
        assert_eq!("+3d".parse(), after(259_200));
        let at: When = "2030-01-31T08:00:00+01:00".parse().expect("a time");
        assert_eq!(at, When::At("2030-01-31T07:00:00Z".parse().expect("a time")));
        for wrong in ["", "+", "+5", "+5w", "+m", "-5m", "+99999999d", "tomorrow", "+5µ"] {
            assert!(wrong.parse::<When>().is_err(), "{wrong}");
        }
    }
}
