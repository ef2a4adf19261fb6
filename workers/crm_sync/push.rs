//! Sends one chunk, on the condition that nobody else changed the record, or on top of what they changed.

use backhaul_engine::{Begun, Failure};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    chunks::{Chunk, idempotency_key},
    life::Life,
    rebase::{self, Clash},
    record::Record,
    thread::Thread,
};
use crate::{
    api::{
        Exchange,
        precondition::Standing,
        threads::{CrmThreads, Write, Written},
    },
    trail::Trail,
};

/// Most times that a chunk is made anew after somebody else's change, so that there are at most four writes.
const ROUNDS_MAX: u32 = 3;

/// What became of a chunk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pushed {
    /// The marks of the record after the write; absent where the answer did not show enough of them.
    pub standing: Option<Standing>,
    /// The thread was created by it.
    pub created: bool,
    /// The plan had counted on a thread that was gone.
    pub vanished: bool,
    /// How often it was made anew.
    pub rounds: u32,
    /// The write; absent where the record already said everything.
    pub exchange: Option<Exchange>,
    /// The key of the write.
    pub key: Option<String>,
    /// Since when the CRM has promised to do it later; absent once the record shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<DateTime<Utc>>,
}

/// What became of several chunks together, for the audit event.
#[derive(Debug, Clone, Default)]
pub struct Sum {
    /// A chunk found the thread gone.
    pub vanished: bool,
    created: bool,
    rounds: u32,
    standing: Option<Standing>,
    exchange: Option<Exchange>,
    keys: Vec<String>,
}

impl Sum {
    /// Counts another chunk in.
    #[must_use]
    pub fn plus(mut self, pushed: &Pushed) -> Self {
        self.vanished |= pushed.vanished;
        self.created |= pushed.created;
        self.rounds += pushed.rounds;
        self.standing.clone_from(&pushed.standing);
        self.exchange = pushed.exchange.clone().or(self.exchange);
        self.keys.extend(pushed.key.clone());
        self
    }

    /// Adds to an event what the CRM's record went through.
    pub fn tell(&self, trail: Trail, before: Option<&Standing>) -> Trail {
        let etag = |standing: Option<&Standing>| standing.and_then(|standing| standing.etag.clone());
        let version = |standing: Option<&Standing>| standing.and_then(|standing| standing.version);
        let after = self.standing.as_ref();
        let trail = trail
            .with("status", if self.created { "created" } else { "updated" })
            .with("etag_before", etag(before))
            .with("etag_after", etag(after))
            .with("version_before", version(before))
            .with("version_after", version(after))
            .with("conflict_rounds", self.rounds)
            .with("idempotency_keys", self.keys.clone());
        match &self.exchange {
            Some(exchange) => trail.exchange(exchange),
            None => trail,
        }
    }
}

/// One chunk and what it builds on.
pub struct Push<'a> {
    /// The CRM.
    pub crm: &'a CrmThreads<'a>,
    /// Whose thread it is.
    pub tenant: &'a str,
    /// The thread as it is to be.
    pub thread: &'a Thread,
    /// The changes.
    pub chunk: &'a Chunk,
    /// What they touch, as it stood when they were planned.
    pub base: &'a Record,
    /// The life that repairs the record, where no event brought the changes.
    pub repair: Option<Life>,
}

/// What is known of the record before a write.
#[derive(Debug, Clone, PartialEq)]
pub enum Ground {
    /// There is none: create it.
    Absent,
    /// It stands so, as far as its marks tell.
    Known(Standing),
    /// It was read just now, and stands so.
    Read(Value, Standing),
    /// It has to be read first.
    Unknown,
}

/// One request.
pub(super) struct Next {
    /// What is sent.
    pub write: Write,
    /// Its Idempotency-Key.
    pub key: String,
}

/// What a look at the record says of the chunk.
enum Look {
    Done(Standing),
    Send(Ground, Chunk),
}

impl Push<'_> {
    /// Sends the chunk. A write whose outcome is unknown is read back first, and not repeated where it took effect; so
    /// is the record of a CRM that takes whole lists only, because the write is made from it.
    ///
    /// # Errors
    /// [`Failure::Conflict`] where both sides changed one item, or the record changes faster than it can be written.
    /// [`Failure::Snoozed`] where the record has to be looked at again once this second is over.
    pub async fn send(&self, ground: Ground, begun: Begun) -> Result<Pushed, Failure> {
        let (mut ground, mut chunk) = (ground, self.chunk.clone());
        let (mut rounds, mut vanished) = (0, false);
        if begun == Begun::OutcomeUnknown || ground == Ground::Unknown || self.crm.writes_whole_lists() {
            let was_there = ground != Ground::Absent;
            match self.look().await? {
                Look::Done(standing) => return Ok(self.done(standing, rounds)),
                Look::Send(now, left) => (ground, chunk) = (now, left),
            }
            // What the chunk lacks is for a second pass to find.
            vanished = was_there && ground == Ground::Absent;
        }
        loop {
            self.let_settle(&ground)?;
            let Next { write, key } = self.next(&ground, &chunk)?;
            let created = write.creates;
            let trouble = match self.crm.send(&write, &key).await {
                Ok(Written { standing, exchange, accepted_at }) => {
                    let standing = Some(standing).filter(|standing| self.crm.serves(standing));
                    let (exchange, key) = (Some(exchange), Some(key));
                    return Ok(Pushed { standing, created, vanished, rounds, exchange, key, accepted_at });
                }
                Err(trouble) => trouble,
            };
            let gone = !created && trouble.is_not_found();
            // A CRM without conditions refuses an id that must be unique as it refuses any other value.
            let taken = created && self.crm.writes_whole_lists() && trouble.is_rejected();
            if !gone && !taken && !trouble.is_conflict() {
                return Err(trouble.into());
            }
            if rounds == ROUNDS_MAX {
                return Err(self.exhausted(&chunk).await);
            }
            rounds += 1;
            if gone {
                // Somebody deleted it. What this chunk lacks is for a second pass to find.
                (ground, chunk, vanished) = (Ground::Absent, self.chunk.clone(), true);
                continue;
            }
            match self.look().await? {
                Look::Done(standing) => return Ok(Pushed { vanished, ..self.done(standing, rounds) }),
                // Then it was not the id that was refused.
                Look::Send(Ground::Absent, _) if taken => return Err(trouble.into()),
                Look::Send(now, left) => (ground, chunk) = (now, left),
            }
            vanished |= !created && ground == Ground::Absent;
        }
    }

    /// Whether the record shows what the CRM has promised for later.
    ///
    /// # Errors
    /// [`Failure::Snoozed`] until `next_look` where it does not, and [`Failure::Conflict`] where somebody else has
    /// changed the same meanwhile.
    pub async fn confirmed(&self, pushed: Pushed, next_look: DateTime<Utc>) -> Result<Pushed, Failure> {
        match self.look().await? {
            Look::Done(standing) => {
                let standing = Some(standing).filter(|standing| self.crm.serves(standing));
                Ok(Pushed { standing, accepted_at: None, ..pushed })
            }
            Look::Send(..) => {
                let message = "the CRM has accepted the change for later and does not show it yet";
                Err(Failure::snoozed(next_look, "crm_update_pending", message))
            }
        }
    }

    /// The request that sends `chunk` onto `ground`.
    pub(super) fn next(&self, ground: &Ground, chunk: &Chunk) -> Result<Next, Failure> {
        let (id, delta) = (&self.thread.id, chunk.body(self.thread));
        let write = match ground {
            Ground::Read(thread, standing) => self.crm.change(id, standing, Some(thread), delta)?,
            Ground::Known(standing) => self.crm.change(id, standing, None, delta)?,
            Ground::Absent | Ground::Unknown => self.crm.creation(id, delta)?,
        };
        // Of the body as it is sent, a version in it included: upstreams refuse a key that comes with another body.
        let key = idempotency_key(self.tenant, self.thread, &write.body, self.repair);
        Ok(Next { write, key })
    }

    /// What is left of the chunk on top of `record`; `None` where the record says everything.
    pub(super) fn left(&self, record: &Record) -> Result<Option<Chunk>, Box<Clash>> {
        match self.chunk.is_done(record, self.thread) {
            true => Ok(None),
            false => rebase::rebase(self.chunk, self.base, record).map(Some),
        }
    }

    async fn look(&self) -> Result<Look, Failure> {
        let Some((document, standing)) = self.crm.read(&self.thread.id).await? else {
            return Ok(Look::Send(Ground::Absent, self.chunk.clone()));
        };
        // A thread with lists of its own is changed without them.
        let kept = if self.crm.writes_whole_lists() { document.clone() } else { Value::Null };
        let record = Record::parse(document).map_err(|problem| Failure::permanent("crm_reply_invalid", problem))?;
        match self.left(&record) {
            Ok(None) => Ok(Look::Done(standing)),
            Ok(Some(left)) => Ok(Look::Send(Ground::Read(kept, standing), left)),
            Err(clash) => Err(Failure::Conflict { base: clash.base, ours: clash.ours, theirs: clash.theirs }),
        }
    }

    /// Waits where a change that follows in this second would not show.
    fn let_settle(&self, ground: &Ground) -> Result<(), Failure> {
        let (Ground::Read(_, standing) | Ground::Known(standing)) = ground else { return Ok(()) };
        match self.crm.settles_at(standing) {
            None => Ok(()),
            Some(until) => {
                let message = "the record was changed in the second in which it was read, and its mark is no finer";
                Err(Failure::snoozed(until, "crm_record_just_changed", message))
            }
        }
    }

    fn done(&self, standing: Standing, rounds: u32) -> Pushed {
        let standing = Some(standing).filter(|standing| self.crm.serves(standing));
        Pushed { standing, created: false, vanished: false, rounds, exchange: None, key: None, accepted_at: None }
    }

    /// A person who decides wants to see what stands there now; where even that cannot be read, the failure to read
    /// it is what there is to tell.
    async fn exhausted(&self, chunk: &Chunk) -> Failure {
        match self.crm.read(&self.thread.id).await {
            Ok(theirs) => Failure::Conflict {
                base: serde_json::to_value(self.base).unwrap_or_default(),
                ours: Value::Object(chunk.body(self.thread)),
                theirs: theirs.map_or(Value::Null, |(document, _)| document),
            },
            Err(trouble) => trouble.into(),
        }
    }
}
