//! SIGTERM, Ctrl-C and a closed terminal, in one place.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code of a process that was told twice to stop: 128 and the number of SIGINT.
const INTERRUPTED: i32 = 130;

/// Tells when somebody wants this process to end.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    token: CancellationToken,
}

impl Stop {
    /// Starts to listen. The first signal asks for a stop, the second ends the process at once.
    pub(crate) fn listen() -> Result<Self> {
        let mut signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .into_iter()
            .map(signal)
            .collect::<Result<Vec<_>, _>>()
            .context("cannot listen to signals")?;
        let token = CancellationToken::new();
        let stop = token.clone();
        tokio::spawn(async move {
            loop {
                let received = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
                futures::future::select_all(received).await;
                if stop.is_cancelled() {
                    std::process::exit(INTERRUPTED);
                }
                stop.cancel();
            }
        });
        Ok(Self { token })
    }

    /// Returns when a stop was asked for.
    #[cfg(feature = "demo")]
    pub(crate) async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// The token that is cancelled by the first signal.
    pub(crate) fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}
