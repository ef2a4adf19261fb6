//! Sends one chunk, on the condition that nobody else changed the record, or on top of what they changed.

use backhaul_engine::{Begun, Failure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

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
        precondition::{Headers, Standing},
        threads::CrmThreads,
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
    /// It stands so.
    Known(Standing),
    /// It has to be read first.
    Unknown,
}

/// One request.
pub(super) struct Next {
    /// The headers that make a delta conditional; `None` for a creation.
    pub condition: Option<Headers>,
    /// Its body, with the condition where the profile carries it there.
    pub body: Map<String, Value>,
    /// Its Idempotency-Key.
    pub key: String,
}

/// What a look at the record says of the chunk.
enum Look {
    Done(Standing),
    Send(Ground, Chunk),
}

impl Push<'_> {
    /// Sends the chunk. A write whose outcome is unknown is read back first, and not repeated where it took effect.
    ///
    /// # Errors
    /// [`Failure::Conflict`] where both sides changed one item, or the record changes faster than it can be written.
    pub async fn send(&self, ground: Ground, begun: Begun) -> Result<Pushed, Failure> {
        let (mut ground, mut chunk) = (ground, self.chunk.clone());
        let (mut rounds, mut vanished) = (0, false);
        if begun == Begun::OutcomeUnknown || ground == Ground::Unknown {
            match self.look().await? {
                Look::Done(standing) => return Ok(self.done(standing, rounds)),
                Look::Send(now, left) => (ground, chunk) = (now, left),
            }
        }
        loop {
            let Next { condition, body, key } = self.next(&ground, &chunk)?;
            let (id, sent) = (&self.thread.id, body.clone());
            let (written, created) = match condition {
                Some(condition) => (self.crm.patch(id, condition, sent, &key).await, false),
                None => (self.crm.create(sent, &key).await, true),
            };
            let trouble = match written {
                Ok((standing, exchange)) => {
                    let standing = Some(standing).filter(|standing| self.crm.serves(standing));
                    let (exchange, key) = (Some(exchange), Some(key));
                    return Ok(Pushed { standing, created, vanished, rounds, exchange, key });
                }
                Err(trouble) => trouble,
            };
            let gone = !created && trouble.is_not_found();
            if !gone && !trouble.is_conflict() {
                return Err(trouble.into());
            }
            if rounds == ROUNDS_MAX {
                return Err(self.exhausted(body).await);
            }
            rounds += 1;
            if gone {
                // Somebody deleted it. What this chunk lacks is for a second pass to find.
                (ground, chunk, vanished) = (Ground::Absent, self.chunk.clone(), true);
                continue;
            }
            match self.look().await? {
                Look::Done(standing) => return Ok(Pushed { vanished, ..self.done(standing, rounds) }),
                Look::Send(now, left) => (ground, chunk) = (now, left),
            }
        }
    }

    /// The request that sends `chunk` onto `ground`.
    pub(super) fn next(&self, ground: &Ground, chunk: &Chunk) -> Result<Next, Failure> {
        let mut body = chunk.body(self.thread);
        let condition = match ground {
            Ground::Known(standing) => Some(self.crm.condition(standing, &mut body)?),
            Ground::Absent | Ground::Unknown => None,
        };
        // Of the body as it is sent, a version in it included: upstreams refuse a key that comes with another body.
        let key = idempotency_key(self.tenant, self.thread, &body, self.repair);
        Ok(Next { condition, body, key })
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
        let record = Record::parse(document).map_err(|problem| Failure::permanent("crm_reply_invalid", problem))?;
        match self.left(&record) {
            Ok(None) => Ok(Look::Done(standing)),
            Ok(Some(left)) => Ok(Look::Send(Ground::Known(standing), left)),
            Err(clash) => Err(Failure::Conflict { base: clash.base, ours: clash.ours, theirs: clash.theirs }),
        }
    }

    fn done(&self, standing: Standing, rounds: u32) -> Pushed {
        let standing = Some(standing).filter(|standing| self.crm.serves(standing));
        Pushed { standing, created: false, vanished: false, rounds, exchange: None, key: None }
    }

    /// A person who decides wants to see what stands there now; where even that cannot be read, the failure to read
    /// it is what there is to tell.
    async fn exhausted(&self, body: Map<String, Value>) -> Failure {
        match self.crm.read(&self.thread.id).await {
            Ok(theirs) => Failure::Conflict {
                base: serde_json::to_value(self.base).unwrap_or_default(),
                ours: Value::Object(body),
                theirs: theirs.map_or(Value::Null, |(document, _)| document),
            },
            Err(trouble) => trouble.into(),
        }
    }
}
