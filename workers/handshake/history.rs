//! The audit query: bounded, and checkpointed page by page, so that a retry goes on where the last attempt stopped.

use std::collections::HashSet;

use backhaul_engine::{Done, Failure, JobContext};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::settings::HandshakeSettings;
use crate::{
    api::audit::{Audit, Query, State, Via},
    look_again::look_again,
    trail::Trail,
};

/// Transactions that are asked for before the query is given up: one that fails says nothing of the next.
const TRANSACTIONS_MAX: usize = 3;
/// A transaction that is not ready by then never will be.
const READY_AFTER_MAX: TimeDelta = TimeDelta::hours(1);
/// Longest pause between two looks at a transaction.
const LOOK_PAUSE_MAX: TimeDelta = TimeDelta::seconds(60);

/// A query that was taken, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    transaction: String,
    at: DateTime<Utc>,
}

/// One page as its step keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    ids: Vec<String>,
    next: Option<String>,
}

/// The window, the same on every page and in every attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Window {
    start: DateTime<Utc>,
    end: DateTime<Utc>,
}

/// What the pages so far amount to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reader {
    ids: HashSet<String>,
    cursors: HashSet<String>,
    pages: usize,
}

/// What follows a page.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Page(String),
    End,
    /// A bound was met; there is more.
    Enough,
}

impl Reader {
    /// Counts a page in. An entry that two pages show counts once.
    fn take(&mut self, page: Kept, settings: &HandshakeSettings) -> Result<Next, Failure> {
        self.pages += 1;
        for id in page.ids {
            if self.ids.len() >= settings.audit_entries_max && !self.ids.contains(&id) {
                return Ok(Next::Enough);
            }
            self.ids.insert(id);
        }
        let Some(next) = page.next else { return Ok(Next::End) };
        if !self.cursors.insert(next.clone()) {
            let message =
                format!("page {} names a cursor that an earlier page named: the pages run in a circle", self.pages);
            return Err(Failure::permanent("audit_cursor_repeated", message));
        }
        let enough = self.pages >= settings.audit_pages_max || self.ids.len() >= settings.audit_entries_max;
        Ok(if enough { Next::Enough } else { Next::Page(next) })
    }
}

/// Reads the channel's audit trail of the last `days` days.
pub(super) async fn read(
    ctx: &mut JobContext,
    audit: &Audit<'_>,
    settings: &HandshakeSettings,
    channel_id: &str,
    days: u64,
) -> Result<(), Failure> {
    let now = ctx.now();
    let ahead = TimeDelta::seconds(i64::from(settings.audit_ahead_s));
    let back = TimeDelta::days(i64::try_from(days).unwrap_or(1));
    let window: Window =
        ctx.step("audit-window", |_| async { Ok(Done::new(Window { start: now - back, end: now + ahead })) }).await?;
    let (via, service) = (settings.audit_via, settings.audit_service.as_str());
    let query = Query { channel_id, start: window.start, end: window.end, via, service };
    let transaction = match via {
        Via::Get | Via::Post => None,
        Via::AsyncQuery => Some(transaction(ctx, audit, &query).await?),
    };
    let mut reader = Reader::default();
    let mut cursor: Option<String> = None;
    let truncated = loop {
        let step = format!("audit-page-{}", reader.pages + 1);
        let page: Kept = ctx
            .step(&step, |_| async {
                let page = match &transaction {
                    Some(transaction) => audit.results(transaction, cursor.as_deref()).await?,
                    None => audit.page(&query, cursor.as_deref()).await?,
                };
                Ok(Done::new(Kept { ids: page.ids, next: page.next }))
            })
            .await?;
        match reader.take(page, settings)? {
            Next::Page(next) => cursor = Some(next),
            Next::End => break false,
            Next::Enough => break true,
        }
    };
    let status = if truncated { "truncated" } else { "complete" };
    let trail = Trail::new("handshake.audited", ctx.job(), channel_id, "audit", status)
        .with("entries", reader.ids.len())
        .with("pages", reader.pages)
        .with("window_start", window.start.to_rfc3339())
        .with("window_end", window.end.to_rfc3339());
    ctx.step("audit", |_| async { Ok(Done::new(()).audit(trail.event())) }).await
}

/// Asks for the query and looks at it until it is ready. Between two looks the job lets go of its worker.
async fn transaction(ctx: &mut JobContext, audit: &Audit<'_>, query: &Query<'_>) -> Result<String, Failure> {
    for nth in 1..=TRANSACTIONS_MAX {
        let now = ctx.now();
        let asked: Asked = ctx
            .step(&format!("audit-query-{nth}"), |_| async {
                Ok(Done::new(Asked { transaction: audit.ask(query).await?, at: now }))
            })
            .await?;
        let waited = ctx.now() - asked.at;
        let next_look = look_again(asked.at, ctx.now(), LOOK_PAUSE_MAX);
        let state: State = ctx
            .step(&format!("audit-ready-{nth}"), |_| async {
                let state = audit.state(&asked.transaction).await?;
                if state != State::Pending {
                    return Ok(Done::new(state));
                }
                if waited > READY_AFTER_MAX {
                    let message = "the platform has worked on the query for an hour, and is not done";
                    return Err(Failure::permanent("audit_query_stuck", message));
                }
                let message = "the platform is working on the query";
                Err(Failure::snoozed(next_look, "audit_query_pending", message))
            })
            .await?;
        if state == State::Ready {
            return Ok(asked.transaction);
        }
    }
    let message = format!("{TRANSACTIONS_MAX} transactions failed at the platform, one after the other");
    Err(Failure::permanent("audit_query_failed", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(ids: &[&str], next: Option<&str>) -> Kept {
        Kept { ids: ids.iter().map(|id| (*id).to_owned()).collect(), next: next.map(str::to_owned) }
    }

    /// Covers row 157: the same cursor twice is an error, wherever in the row of pages.
    #[test]
    fn repeated_cursors_are_errors() {
        let settings = HandshakeSettings::default();
        let mut reader = Reader::default();
        assert_eq!(reader.take(page(&["a"], Some("c1")), &settings), Ok(Next::Page("c1".into())));
        assert_eq!(reader.take(page(&["b"], Some("c2")), &settings), Ok(Next::Page("c2".into())));
        let failure = reader.take(page(&["c"], Some("c1")), &settings).expect_err("a circle");
        assert_eq!(failure.code(), "audit_cursor_repeated");
    }

    /// Covers row 158: entries are unique by id, also where pages overlap.
    #[test]
    fn entries_count_once() {
        let settings = HandshakeSettings::default();
        let mut reader = Reader::default();
        assert!(reader.take(page(&["a", "b"], Some("c1")), &settings).is_ok());
        assert_eq!(reader.take(page(&["b", "c"], None), &settings), Ok(Next::End));
        assert_eq!((reader.ids.len(), reader.pages), (3, 2));
    }

    /// Covers row 157: pages and entries are bounded.
    #[test]
    fn queries_end() {
        let settings = HandshakeSettings { audit_pages_max: 2, ..HandshakeSettings::default() };
        let mut reader = Reader::default();
        assert!(matches!(reader.take(page(&["a"], Some("c1")), &settings), Ok(Next::Page(_))));
        assert_eq!(reader.take(page(&["b"], Some("c2")), &settings), Ok(Next::Enough));
        let settings = HandshakeSettings { audit_entries_max: 2, ..HandshakeSettings::default() };
        let mut reader = Reader::default();
        assert_eq!(reader.take(page(&["a", "b", "c"], Some("c1")), &settings), Ok(Next::Enough));
        assert_eq!(reader.ids.len(), 2);
    }
}
