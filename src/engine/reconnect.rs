//! A database that goes away and comes back is waited for; a worker never exits for it.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tracing::warn;

/// Whether the same statement may succeed later: the connection broke, the server stops or starts, a deadlock or a
/// serialisation conflict was resolved against us, or the server is out of something.
pub(crate) fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["08", "53", "57", "58", "40"].iter().any(|class| code.starts_with(class))
                || code == "55P03"
                || code == "25006"
        }),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::Protocol(_)
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

/// Whether the statement was refused for a value in it: one that no column takes, that breaks a constraint, or that is
/// beyond a limit of Postgres.
pub(crate) fn is_of_a_value(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
}

/// Growing pauses with jitter, from 50 ms to 5 s, without end.
#[derive(Default)]
pub(crate) struct Pause {
    backoff: Option<ExponentialBackoff>,
}

impl Pause {
    /// Waits before the next try.
    pub(crate) async fn after(&mut self, error: &sqlx::Error, what: &str) {
        let pause = self.next();
        warn!(%error, ?pause, "the database does not answer {what}; trying again");
        tokio::time::sleep(pause).await;
    }

    /// How long to wait before the next try, for those who wait by themselves.
    pub(crate) fn next(&mut self) -> Duration {
        let backoff = self.backoff.get_or_insert_with(|| {
            ExponentialBuilder::default()
                .with_min_delay(Duration::from_millis(50))
                .with_max_delay(Duration::from_secs(5))
                .with_jitter()
                .without_max_times()
                .build()
        });
        backoff.next().unwrap_or(Duration::from_secs(5))
    }
}
