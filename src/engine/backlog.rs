//! Claims wait while a sink is too far behind. What has run is always written down, so a job that has not started is the
//! only thing that can be held back.

use std::time::Duration;

use sqlx::FromRow;
use tracing::{error, info};

use crate::{maintenance::interval_of, metrics::Metrics, store::Store};

/// Time between looks: for so long a fleet may go beyond the limit, or rest without need.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A sink as `backhaul.judge_sinks` tells of it.
#[derive(Debug, FromRow)]
struct Judged {
    sink: String,
    /// Events that have their place in the order and are not published to it.
    behind: i64,
    /// Claims wait for it.
    holds: bool,
    /// They began or ceased to at this look, which is the fleet's only one to say so.
    changed: bool,
}

/// Whether claims have to wait for a sink of which more than `unpublished_max` events are not published; with 0 they never
/// do.
pub(crate) async fn look(store: &Store, metrics: &Metrics, unpublished_max: u64) -> Result<bool, sqlx::Error> {
    let sinks: Vec<Judged> = sqlx::query_as("select sink, behind, holds, changed from backhaul.judge_sinks($1, $2)")
        .bind(interval_of(LOOK_EVERY / 2))
        .bind(i64::try_from(unpublished_max).unwrap_or(i64::MAX))
        .fetch_all(store)
        .await?;
    for one in &sinks {
        metrics.behind(&one.sink, one.behind);
        match (one.changed, one.holds) {
            (true, true) => error!(
                alert = "sink_behind",
                sink = one.sink,
                behind = one.behind,
                unpublished_max,
                "no job is claimed until the sink has caught up; what runs goes on"
            ),
            (true, false) => info!(sink = one.sink, behind = one.behind, "claims wait for this sink no longer"),
            (false, _) => {}
        }
    }
    Ok(unpublished_max > 0 && sinks.iter().any(|one| one.holds))
}
