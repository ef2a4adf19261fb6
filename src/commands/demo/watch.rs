//! Watches the work until its end, and makes the trouble that no fault rule can make.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use backhaul_engine::Store;
use backhaul_simulator::Simulator;
use serde::Deserialize;

use super::{moments::Moments, workers::Fleet};
use crate::commands::database::{explain, rows_of};

const LOOK_EVERY: Duration = Duration::from_millis(150);
/// On two busy cores the demo takes well below a minute.
const DURATION_MAX: Duration = Duration::from_secs(300);
/// The tenant whose tokens are revoked.
const REVOKED: &str = "globex";

/// One look at the database.
#[derive(Debug, Default, Deserialize)]
struct Look {
    done: usize,
    dead: usize,
    retried: usize,
    unfinished: usize,
    rescued: usize,
    workers: usize,
    /// Limits that an upstream has closed, with their tenants.
    closed: Option<String>,
    sealed: i64,
    published: i64,
}

const LOOK: &str = "
    select count(*) filter (where type = 'dev.backhaul.job.completed') as done,
           count(*) filter (where type = 'dev.backhaul.job.dead') as dead,
           count(*) filter (where type = 'dev.backhaul.job.retried') as retried,
           (select count(*) from backhaul.jobs) as unfinished,
           (select count(*) from backhaul.jobs where rescues > 0) as rescued,
           (select count(*) from backhaul.workers where clock_timestamp() - heartbeat_at < interval '2 s') as workers,
           (select string_agg(format('%s of %s', name, tenant), ', ' order by tenant, name) from backhaul.buckets
            where blocked_until > clock_timestamp()) as closed,
           (select next_seq - 1 from backhaul.seal_state) as sealed,
           (select coalesce(min(position), 0) from backhaul.sinks) as published
    from backhaul.outbox_events where type like 'dev.backhaul.job.%'";

/// What has been told and done so far.
#[derive(Debug, Default)]
struct Story {
    revoked: bool,
    killed: bool,
    rescue_told: bool,
    closed: Option<String>,
}

/// The watch over one demo.
pub(super) struct Watch<'a> {
    pub(super) store: &'a Store,
    pub(super) simulator: &'a Simulator,
    pub(super) moments: &'a Moments,
    /// Jobs enqueued.
    pub(super) total: usize,
}

impl Watch<'_> {
    /// Returns when every job has ended and every event was published.
    pub(super) async fn run(&self, fleet: &mut Fleet<'_>) -> Result<()> {
        let started = Instant::now();
        let mut story = Story::default();
        loop {
            fleet.check()?;
            let look = self.look().await?;
            self.show(&look);
            self.trouble(&look, &mut story, fleet).await?;
            if look.unfinished == 0
                && look.done + look.dead >= self.total
                && look.published >= look.sealed
                && self.sealed().await?
            {
                return Ok(());
            }
            if started.elapsed() > DURATION_MAX {
                bail!("{} jobs have not ended within {} s", look.unfinished, DURATION_MAX.as_secs());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self) -> Result<Look> {
        let row = rows_of(LOOK).fetch_one(self.store.pool()).await.map_err(explain)?;
        Ok(serde_json::from_value(row)?)
    }

    /// Whether every event has got its place in the order.
    async fn sealed(&self) -> Result<bool> {
        let open = "select not exists (select from backhaul.events e, backhaul.seal_state s where e.id > s.position)";
        sqlx::query_scalar(open).fetch_one(self.store.pool()).await.map_err(explain)
    }

    fn show(&self, look: &Look) {
        let closed = look.closed.as_ref().map(|closed| format!(" · throttled: {closed}")).unwrap_or_default();
        let text = format!(
            "{} done, {} dead, {} retries · {} workers · {} events published{closed}",
            look.done, look.dead, look.retried, look.workers, look.published
        );
        self.moments.progress(look.done + look.dead, self.total, &text);
    }

    async fn trouble(&self, look: &Look, story: &mut Story, fleet: &mut Fleet<'_>) -> Result<()> {
        if look.closed != story.closed {
            match &look.closed {
                Some(closed) => {
                    self.moments.tell(&format!("429: the whole fleet holds back {closed}; other work goes on"))
                }
                None => self.moments.tell("the limits are open again"),
            }
            story.closed.clone_from(&look.closed);
        }
        let ended = look.done + look.dead;
        if !story.revoked && ended * 4 >= self.total {
            story.revoked = true;
            let tokens = self.simulator.revoke_tokens(Some(REVOKED));
            self.moments
                .tell(&format!("{tokens} access tokens of {REVOKED} expire early; its next call is answered 401"));
        }
        if !story.killed && ended * 2 >= self.total {
            story.killed = self.kill_one(fleet).await?;
        }
        if story.killed && !story.rescue_told && look.rescued > 0 {
            story.rescue_told = true;
            self.moments
                .tell(&format!("the jobs of the killed worker are taken over, {} of them again at work", look.rescued));
        }
        Ok(())
    }

    /// Kills a worker that has jobs in its hands. False: none has any at this moment.
    async fn kill_one(&self, fleet: &mut Fleet<'_>) -> Result<bool> {
        let busiest: Option<(i32, i64)> = sqlx::query_as(
            "select w.pid, sum(cardinality(l.seqs)) from backhaul.leases l join backhaul.workers w on w.id = l.worker
             where w.pid = any ($1) group by w.pid order by 2 desc limit 1",
        )
        .bind(fleet.pids())
        .fetch_optional(self.store.pool())
        .await
        .map_err(explain)?;
        let Some((pid, held)) = busiest else {
            return Ok(false);
        };
        let number = fleet.kill(pid).await?;
        self.moments.tell(&format!(
            "worker {number} (process {pid}) is killed with SIGKILL, batches of {held} jobs in its hands"
        ));
        let number = fleet.start()?;
        self.moments.tell(&format!("worker {number} starts in its stead"));
        Ok(true)
    }
}
