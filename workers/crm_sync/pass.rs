//! Why a thread is looked at, and what it is compared with. Pure, and the same for an attempt and its preview.

use backhaul_engine::Failure;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    Request,
    delta::Delta,
    envelope,
    life::Life,
    plan::{self, Plan},
    settings::CrmSyncSettings,
    snapshot::{Reading, Snapshot, Unfinished},
    thread::Thread,
};
use crate::api::precondition::Standing;

/// How many passes a job makes, after so many tries that got nowhere. A second pass repairs what the first one could not
/// know: that the CRM had lost the thread. Where it is lost again, every further try makes one pass more.
pub(super) fn passes_max(attempt: u16) -> usize {
    2 + usize::from(attempt)
}

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
pub(super) fn first(request: Request, snapshot: Option<&Snapshot>, settings: &CrmSyncSettings) -> First {
    let thread = match request {
        Request::Reconcile(_) => return First::Ask { event: None, why: "requested" },
        Request::Event(thread) => thread,
    };
    match snapshot.filter(|snapshot| snapshot.is_synced()).map(|snapshot| snapshot.read(&thread, settings)) {
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
            (Self::Difference(thread), Some(before)) if before.is_synced() => {
                Delta::since(before, thread, settings).is_empty()
            }
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
            Self::Difference(thread) => Ok(Plan {
                made_of: self.made_of(snapshot, settings),
                ..plan::difference(read, snapshot, thread, settings)?
            }),
            Self::Repair { thread, .. } => plan::repair(read, snapshot, thread, settings),
        }
    }

    /// Whether the stored `plan`, made in the life `made_in`, is the one to go on with in the life `now`.
    ///
    /// Within one life it is. From an earlier life, a difference is taken up while it would come out the same, because
    /// what stood there when it was made tells whether somebody else has changed the same since. The record is compared
    /// anew in each life: nothing of that comparison has to last longer.
    pub(super) fn goes_on_with(
        &self,
        plan: &Plan,
        (made_in, now): (Life, Life),
        snapshot: Option<&Snapshot>,
        settings: &CrmSyncSettings,
    ) -> bool {
        made_in == now || plan.made_of.is_some() && plan.made_of == self.made_of(snapshot, settings)
    }

    /// A hash of all that a difference is made of, but for the CRM's record.
    fn made_of(&self, snapshot: Option<&Snapshot>, settings: &CrmSyncSettings) -> Option<String> {
        let Self::Difference(thread) = self else { return None };
        let before = match snapshot {
            // What the plan itself has set out to add is no reason to make another.
            Some(snapshot) if snapshot.is_synced() => {
                Snapshot { unfinished: Unfinished::default(), ..snapshot.clone() }
            }
            _ => Snapshot::empty(String::new()),
        };
        let parts = (before.after(thread, settings), before, settings.chunk);
        let digest = Sha256::digest(serde_json::to_vec(&parts).ok()?);
        Some(BASE64_URL_SAFE_NO_PAD.encode(&digest[..16]))
    }

    /// The state once everything is sent.
    pub(super) fn after(&self, before: &Snapshot, settings: &CrmSyncSettings) -> Snapshot {
        let mut next = before.after(self.thread(), settings);
        if let Self::Repair { thread, .. } = self {
            // Whatever the record showed of them, and the source does not, is removed.
            if thread.messages.is_some() {
                next.unfinished.messages.clear();
            }
            if thread.participants.is_some() {
                next.unfinished.participants.clear();
            }
        }
        next
    }
}

/// What the source is asked about.
#[derive(Clone)]
pub(super) struct Question<'a> {
    pub id: &'a str,
    /// The event that asks; `None` where a person does.
    pub event: Option<Thread>,
    /// The state that was synced last, where it counts.
    pub known: Option<&'a Snapshot>,
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
    // A person's word stands above what is remembered; an event's does not.
    let known = known.filter(|_| event.is_some());
    let Some(thread) = plan::newest(source, event) else {
        let message = "the source has no such thread";
        return Err(Failure::permanent("source_thread_not_found", message).with_status(404));
    };
    let behind = known.is_some_and(|known| match fetched {
        Some(_) => thread.version.is_some() && thread.version < known.version,
        None => known.is_ahead_of(&thread),
    });
    if behind {
        return Err(Failure::transient("source_behind", "the source shows an older version than was synced"));
    }
    Ok(thread)
}

/// The thread as the event says, where there is nobody to ask.
pub(super) fn unasked(question: Question<'_>) -> Result<Thread, Failure> {
    let Question { event, known, .. } = question;
    event
        .filter(|event| !known.is_some_and(|known| known.is_ahead_of(event)))
        .ok_or_else(|| Failure::permanent("unconfigured", "the profile has no section [cxone] to reconcile with"))
}

#[cfg(test)]
#[path = "pass_tests.rs"]
mod tests;
