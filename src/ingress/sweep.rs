//! Deletes what has expired: keys of deliveries, bodies of events.

use std::time::Duration;

use backhaul_engine::Store;
use tokio_util::sync::CancellationToken;

/// Rows of each table that one statement deletes; it holds their locks for some ten milliseconds.
const ROWS_MAX: i32 = 5_000;

/// Sweeps every `every` until told to stop. Several receivers may sweep at once: each skips what another holds.
pub(crate) async fn run(store: &Store, every: Duration, stop: &CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
        loop {
            let swept = sqlx::query_scalar("select backhaul.ingress_expire($1)").bind(ROWS_MAX).fetch_one(store);
            match stop.run_until_cancelled(swept).await {
                None => return,
                Some(Ok(rows)) => {
                    let rows: i32 = rows;
                    if rows < ROWS_MAX {
                        break;
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "expired deliveries could not be deleted; tried again later");
                    break;
                }
            }
        }
    }
}
