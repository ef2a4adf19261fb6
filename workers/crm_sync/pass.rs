//! Why a thread is looked at, and what it is compared with. Pure, and the same for an attempt and its preview.

use backhaul_engine::Failure;
use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{
    Request,
    delta::Delta,
    envelope,
    plan::{self, Plan},
    settings::CrmSyncSettings,
    snapshot::{Reading, Snapshot},
    thread::Thread,
};
use crate::api::precondition::Standing;

/// A second pass repairs what the first one could not know: that the CRM had lost the thread.
pub(super) const PASSES_MAX: usize = 2;

/// Why and against what a pass compares.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Pass {
    Difference(Box<Thread>),
    Repair { thread: Box<Thread>, why: &'static str },
}

/// How a job begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum First {
    /// Nothing in the event is new.
    Known(Box<Thread>),
    /// Send what is new.
    Pass(Pass),
    /// Ask the source first: the event, where there is one, does not say enough.
    Ask { event: Option<Thread>, why: &'static str },
}

/// How to begin with `request`, given the state after the last sync.
pub(super) fn first(request: Request, snapshot: Option<&Snapshot>) -> First {
    let thread = match request {
        Request::Reconcile(_) => return First::Ask { event: None, why: "requested" },
        Request::Event(thread) => thread,
    };
    match snapshot.map(|snapshot| snapshot.read(&thread)) {
        None | Some(Reading::Difference) => First::Pass(Pass::Difference(thread)),
        Some(Reading::Known) => First::Known(thread),
        Some(Reading::Reconcile(why)) => First::Ask { event: Some(*thread), why },
    }
}

impl Pass {
    pub(super) fn thread(&self) -> &Thread {
        match self {
            Self::Difference(thread) | Self::Repair { thread, .. } => thread,
        }
    }

    /// Why the record itself is compared; `None` where the event's difference is sent.
    pub(super) fn why(&self) -> Option<&'static str> {
        match self {
            Self::Difference(_) => None,
            Self::Repair { why, .. } => Some(why),
        }
    }

    /// Whether only the version moves, which the CRM need not be told.
    pub(super) fn is_idle(&self, snapshot: Option<&Snapshot>, settings: &CrmSyncSettings) -> bool {
        match (self, snapshot) {
            (Self::Difference(thread), Some(before)) => Delta::since(before, thread, settings).is_empty(),
            _ => false,
        }
    }

    /// What is to be sent, given the CRM's answer to a reading.
    pub(super) fn plan(
        &self,
        read: Option<(Value, Standing)>,
        snapshot: Option<&Snapshot>,
        settings: &CrmSyncSettings,
    ) -> Result<Plan, Failure> {
        match self {
            Self::Difference(thread) => plan::difference(read, snapshot, thread, settings),
            Self::Repair { thread, .. } => plan::repair(read, snapshot, thread, settings),
        }
    }
}

/// What the source is asked about.
pub(super) struct Question<'a> {
    pub id: &'a str,
    /// The event that asks; `None` where a person does.
    pub event: Option<Thread>,
    /// The version that was synced last, where it counts.
    pub known: Option<u64>,
}

/// The thread as the source shows it, or as the event says where that is newer. `fetched` is the source's answer.
pub(super) fn settle(
    question: Question<'_>,
    fetched: Option<&Value>,
    settings: &CrmSyncSettings,
    now: DateTime<Utc>,
) -> Result<Thread, Failure> {
    let Question { id, event, known } = question;
    let source = fetched
        .map(|body| envelope::fetched(body, settings, now))
        .transpose()
        .map_err(|refusal| Failure::permanent("source_thread_invalid", format!("{}: {refusal}", refusal.code())))?;
    if source.as_ref().is_some_and(|source| source.id != id) {
        return Err(Failure::permanent("source_thread_invalid", "the source answered with another thread"));
    }
    let requested = event.is_none();
    let Some(thread) = plan::newest(source, event) else {
        let message = "the source has no such thread";
        return Err(Failure::permanent("source_thread_not_found", message).with_status(404));
    };
    // A person's word stands above what is remembered; an event's does not.
    if !requested && thread.version.is_some() && thread.version < known {
        return Err(Failure::transient("source_behind", "the source shows an older version than was synced"));
    }
    Ok(thread)
}

/// That nobody can be asked although somebody wants to.
pub(super) fn no_source() -> Failure {
    Failure::permanent("unconfigured", "the profile has no section [cxone] to reconcile with")
}
