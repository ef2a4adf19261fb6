//! Tokens of the upstream limits that the whole fleet shares.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
    /// The bucket whose token the claim already took, with those of the limits it lies within.
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
    /// Waits for one token of the bucket `provider/class` and of the limits it lies within, or fails as throttled when
    /// one of them is closed or its next token is more than five seconds away. Returns at once where there is no limit.
    pub async fn take(&self, bucket: &str) -> Result<(), Failure> {
        self.take_all(bucket, &[]).await
    }

    /// As [`Pacer::take`], with a token of each bucket in `more`: of all at once or of none. What fails as throttled is
    /// the bucket with the longest wait.
    pub async fn take_all(&self, bucket: &str, more: &[String]) -> Result<(), Failure> {
        let mut waited = Duration::ZERO;
        loop {
            // The claim has paid for the bucket and what it lies within; the rest it could not know.
            let prepaid = self.take_prepaid(bucket);
            let (first, rest) = match more.split_first() {
                Some((first, rest)) if prepaid.is_some() => (first.as_str(), rest),
                None if prepaid.is_some() => return Ok(()),
                _ => (bucket, more),
            };
            let answer = self.ask(first, rest).await?;
            if answer.granted > 0 {
                return Ok(());
            }
            // Good for the next look, unless it grows old meanwhile.
            self.put_back(prepaid);
            let wait = Duration::from_millis(u64::try_from(answer.wait_ms.unwrap_or(100)).unwrap_or(100).max(1));
            let why = answer.why.unwrap_or_default();
            if why != "limit" || waited + wait > WAIT_MAX {
                let refused = answer.refused.as_deref().unwrap_or(bucket);
                return Err(Failure::paced(refused, self.clock.now() + wait, format!("{refused}: {why}")));
            }
            tokio::time::sleep(wait).await;
            waited += wait;
        }
    }

    async fn ask(&self, bucket: &str, more: &[String]) -> Result<Answer, Failure> {
        sqlx::query_as("select granted, wait_ms, why, refused from backhaul.bucket_take($1, $2, 1, $3, $4, true, $5)")
            .bind(&self.tenant)
            .bind(bucket)
            .bind(self.ticket.backfill)
            .bind(self.ticket.probe)
            .bind(more)
            .fetch_one(&self.store)
            .await
            .map_err(|error| unreachable_store(&self.clock, error))
    }

    fn prepaid(&self) -> MutexGuard<'_, Option<String>> {
        self.ticket.prepaid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_prepaid(&self, bucket: &str) -> Option<String> {
        let prepaid = self.prepaid().take_if(|paid| paid == bucket);
        prepaid.filter(|_| self.ticket.claimed_at.elapsed() < PREPAID_FOR)
    }

    fn put_back(&self, prepaid: Option<String>) {
        if prepaid.is_some() {
            *self.prepaid() = prepaid;
        }
    }
}

/// What `backhaul.bucket_take` answers.
#[derive(sqlx::FromRow)]
struct Answer {
    granted: i32,
    wait_ms: Option<i64>,
    why: Option<String>,
    refused: Option<String>,
}

/// States a limit of `per_minute` requests for a tenant's bucket `provider/class`, and the wider limits that its calls
/// draw on as well, by their bucket names. Said by every worker at start.
pub async fn set_limit(
    store: &Store,
    tenant: &str,
    bucket: &str,
    per_minute: u32,
    within: &[String],
) -> Result<(), crate::StoreError> {
    sqlx::query("select backhaul.bucket_limit($1, $2, $3, $4)")
        .bind(tenant)
        .bind(bucket)
        .bind(i32::try_from(per_minute).unwrap_or(i32::MAX))
        .bind(within)
        .execute(store)
        .await?;
    Ok(())
}
