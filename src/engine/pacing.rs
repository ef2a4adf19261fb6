//! Tokens of the upstream limits that the whole fleet shares.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{clock::Clock, failure::Failure, steps::unreachable_store, store::Store};

/// Longest wait for a token with a slot in hand; beyond it the job goes back and its lane is passed over.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// A token of the claim is good for so long. A job that waited longer for its slot takes a new one: the limit counts
/// requests when they leave, and tokens that a full worker saved up would leave all at once. The rate of a bucket leaves
/// room for this second (`backhaul.bucket_rate`).
const PREPAID_FOR: Duration = Duration::from_secs(1);

/// What a claim settled about an attempt's requests.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// The bucket whose token the claim already took.
    prepaid: Mutex<Option<String>>,
    claimed_at: Instant,
    /// The job tries an upstream that looked down: its bucket is closed to all but this job.
    pub probe: bool,
    /// The job's priority is the lowest: it may have only a part of the limit.
    backfill: bool,
}

impl Ticket {
    pub(crate) fn new(prepaid: Option<String>, probe: bool, backfill: bool) -> Self {
        Self { prepaid: Mutex::new(prepaid), claimed_at: Instant::now(), probe, backfill }
    }
}

/// Hands out the tokens of one tenant's upstream limits. Cheap to clone into a step.
#[derive(Clone)]
pub struct Pacer {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) tenant: String,
    pub(crate) ticket: Arc<Ticket>,
}

impl Pacer {
    /// Waits for one token of the bucket `provider/class`, or fails as throttled when the bucket is closed or its
    /// next token is more than five seconds away. Returns at once where the bucket has no limit.
    pub async fn take(&self, bucket: &str) -> Result<(), Failure> {
        if self.use_prepaid(bucket) {
            return Ok(());
        }
        let mut waited = Duration::ZERO;
        loop {
            let (granted, wait_ms, why): (i32, Option<i64>, Option<String>) =
                sqlx::query_as("select granted, wait_ms, why from backhaul.bucket_take($1, $2, 1, $3, $4)")
                    .bind(&self.tenant)
                    .bind(bucket)
                    .bind(self.ticket.backfill)
                    .bind(self.ticket.probe)
                    .fetch_one(&self.store)
                    .await
                    .map_err(|error| unreachable_store(&self.clock, error))?;
            if granted > 0 {
                return Ok(());
            }
            let wait = Duration::from_millis(u64::try_from(wait_ms.unwrap_or(100)).unwrap_or(100).max(1));
            let why = why.unwrap_or_default();
            if why != "limit" || waited + wait > WAIT_MAX {
                let until = self.clock.now() + wait;
                return Err(Failure::throttled(bucket, until, "rate_limited", format!("{bucket}: {why}")));
            }
            tokio::time::sleep(wait).await;
            waited += wait;
        }
    }

    fn use_prepaid(&self, bucket: &str) -> bool {
        let mut prepaid = self.ticket.prepaid.lock().unwrap_or_else(PoisonError::into_inner);
        prepaid.take_if(|paid| paid == bucket).is_some() && self.ticket.claimed_at.elapsed() < PREPAID_FOR
    }
}

/// States a limit of `per_minute` requests for a tenant's bucket `provider/class`. Said by every worker at start.
pub async fn set_limit(store: &Store, tenant: &str, bucket: &str, per_minute: u32) -> Result<(), crate::StoreError> {
    sqlx::query("select backhaul.bucket_limit($1, $2, $3)")
        .bind(tenant)
        .bind(bucket)
        .bind(i32::try_from(per_minute).unwrap_or(i32::MAX))
        .execute(store)
        .await?;
    Ok(())
}
