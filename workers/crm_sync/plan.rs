//! What one pass over a thread is going to send. Pure; the plan is stored, so that a retry goes on with the same one.

use backhaul_engine::Failure;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    chunks::{self, Chunk},
    delta::Delta,
    rebase,
    record::Record,
    settings::CrmSyncSettings,
    snapshot::Snapshot,
    thread::Thread,
};
use crate::api::precondition::Standing;

/// The requests of one pass, and the state of the CRM they build on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The marks of the CRM's record; absent where there is no such thread.
    pub standing: Option<Standing>,
    /// What the requests touch, as it stood.
    pub base: Record,
    /// The requests, in order; none where nothing is to be sent.
    pub chunks: Vec<Chunk>,
    /// Number of items that change.
    pub delta_size: usize,
    /// The event alone does not say enough: the CRM lost a thread of which the event tells only a part.
    pub needs_source: bool,
    /// What a difference was made of; absent for a repair, and in plans of before this was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_of: Option<String>,
}

/// The plan that brings the difference between `thread` and the last sync to the CRM. `read` is the CRM's answer.
///
/// # Errors
/// The CRM's answer is not a thread.
pub fn difference(
    read: Option<(Value, Standing)>,
    snapshot: Option<&Snapshot>,
    thread: &Thread,
    settings: &CrmSyncSettings,
) -> Result<Plan, Failure> {
    let nothing = Snapshot::empty(String::new());
    let synced = snapshot.filter(|snapshot| snapshot.is_synced());
    let Some((document, standing)) = read else {
        // The CRM has nothing, whatever was synced before: everything is new.
        let delta = Delta::since(&nothing, thread, settings);
        let whole = thread.messages.is_some() && thread.participants.is_some();
        return Ok(Plan { needs_source: synced.is_some() && !whole, ..plan(None, Record::absent(), delta, settings) });
    };
    let record = parse(document)?;
    let delta = match synced {
        Some(synced) => Delta::since(synced, thread, settings),
        // A thread that the CRM had before Backhaul knew it, or before it had synced all of it.
        None => Delta::against(&record, snapshot.unwrap_or(&nothing), thread, settings),
    };
    Ok(plan(Some(standing), record, delta, settings))
}

/// The plan that makes the CRM's record say what `thread` says. `read` is the CRM's answer.
///
/// # Errors
/// The CRM's answer is not a thread.
pub fn repair(
    read: Option<(Value, Standing)>,
    snapshot: Option<&Snapshot>,
    thread: &Thread,
    settings: &CrmSyncSettings,
) -> Result<Plan, Failure> {
    let nothing = Snapshot::empty(String::new());
    let Some((document, standing)) = read else {
        return Ok(plan(None, Record::absent(), Delta::since(&nothing, thread, settings), settings));
    };
    let record = parse(document)?;
    let delta = Delta::against(&record, snapshot.unwrap_or(&nothing), thread, settings);
    let told = match (thread.version, record.source_version()) {
        (Some(ours), Some(theirs)) => ours <= theirs,
        (Some(_), None) => false,
        (None, _) => true,
    };
    let idle = delta.is_empty() && told;
    let mut plan = plan(Some(standing), record, delta, settings);
    if idle {
        plan.chunks.clear();
    }
    Ok(plan)
}

fn plan(standing: Option<Standing>, record: Record, delta: Delta, settings: &CrmSyncSettings) -> Plan {
    let delta_size = delta.len();
    let mut chunks = chunks::split(delta, settings.chunk);
    let base = rebase::view(&record, &chunks);
    for chunk in &mut chunks {
        // Against its own ground nothing can clash; this drops what already stands there, and what the CRM lost
        // becomes an addition again.
        if let Ok(left) = rebase::rebase(chunk, &base, &base) {
            *chunk = left;
        }
    }
    Plan { standing, base, chunks, delta_size, needs_source: false, made_of: None }
}

fn parse(document: Value) -> Result<Record, Failure> {
    Record::parse(document).map_err(|problem| Failure::permanent("crm_reply_invalid", problem))
}

/// Which of the source's answer and the event describes the thread as it is to be: the newer one. The source's answer
/// may lag behind the event that it sent.
pub fn newest(source: Option<Thread>, event: Option<Thread>) -> Option<Thread> {
    match (source, event) {
        (Some(source), Some(event)) if event.version > source.version => Some(event),
        (Some(mut source), Some(event)) => {
            // For the trail, which says what it was that made the source be asked.
            source.event = event.event;
            Some(source)
        }
        (source, event) => source.or(event),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
