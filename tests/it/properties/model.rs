//! What must be true after each action, said as simply as possible.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{How, Wanted};

/// Tenant and ordering key.
pub(super) type Key = (u8, u8);

/// A job that has not ended.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) key: Option<Key>,
    pub(super) rescues: u32,
    /// Who has it, under which lease.
    pub(super) held: Option<(Uuid, i64)>,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) live: BTreeMap<i64, Live>,
    /// Jobs that died, with their keys.
    pub(super) dead: BTreeMap<i64, Option<Key>>,
    /// How often each job has ended: once a life.
    pub(super) ends: BTreeMap<i64, i64>,
    /// Cancelled while they ran, and not yet reported by who ran them: their keys are not free.
    pub(super) stopping: BTreeMap<i64, (Key, Uuid, i64)>,
    /// Leases that stand, and who has them.
    pub(super) leases: BTreeMap<i64, Uuid>,
    /// Keys that a late or a replayed job has: it takes its turn when it is met.
    pub(super) disturbed: BTreeSet<Key>,
    /// Workers that will be given up by the next rescue.
    pub(super) silent: BTreeSet<Uuid>,
}

impl Model {
    pub(super) fn enqueued(&mut self, id: i64, wanted: Wanted, late: bool) {
        let key = wanted.key.map(|key| (wanted.tenant, key));
        self.live.insert(id, Live { key, rescues: 0, held: None });
        if late {
            self.disturbed.extend(key);
        }
    }

    /// A claim gave the job to the worker. Says what is wrong with that.
    pub(super) fn claimed(&mut self, worker: Uuid, lease: i64, id: i64) -> Result<(), String> {
        let Some(job) = self.live.get(&id) else { return Err(format!("job {id} has ended, and is claimed")) };
        if let Some((other, _)) = job.held {
            return Err(format!("job {id} is {other}'s, and is claimed"));
        }
        if let Some(key) = job.key {
            let beside = self.live.iter().find(|(_, other)| other.key == Some(key) && other.held.is_some());
            if let Some((other, _)) = beside {
                return Err(format!("job {id} is claimed while {other} of its key runs"));
            }
            if let Some((other, _)) = self.stopping.iter().find(|(_, (other, ..))| *other == key) {
                return Err(format!("job {id} is claimed while {other} of its key may still be stopping"));
            }
            let first = self.live.iter().find(|(_, other)| other.key == Some(key)).map(|(id, _)| *id);
            if first != Some(id) && !self.disturbed.contains(&key) {
                return Err(format!("job {id} is claimed before {first:?}, the first of its key"));
            }
        }
        self.leases.insert(lease, worker);
        if let Some(job) = self.live.get_mut(&id) {
            job.held = Some((worker, lease));
        }
        Ok(())
    }

    /// Whether an outcome must be accepted.
    pub(super) fn accepts(&self, worker: Uuid, lease: i64, id: i64) -> bool {
        self.live.get(&id).is_some_and(|job| job.held == Some((worker, lease)))
    }

    /// An accepted outcome.
    pub(super) fn settled(&mut self, id: i64, how: How) {
        match how {
            How::Done => {
                self.live.remove(&id);
                *self.ends.entry(id).or_default() += 1;
            }
            How::Dead => self.died(id),
            How::Retry | How::Later => self.let_go(id),
        }
    }

    /// A refused outcome: the only thing that may come of it is that a cancelled job gives its key back.
    pub(super) fn refused(&mut self, worker: Uuid, lease: i64, id: i64) {
        if self.leases.get(&lease) == Some(&worker) {
            self.stopping.remove(&id);
        }
    }

    fn let_go(&mut self, id: i64) {
        if let Some(job) = self.live.get_mut(&id) {
            job.held = None;
        }
    }

    fn died(&mut self, id: i64) {
        if let Some(job) = self.live.remove(&id) {
            self.dead.insert(id, job.key);
            *self.ends.entry(id).or_default() += 1;
        }
    }

    /// Whoever is silent loses everything; what has lost three workers is dead.
    pub(super) fn rescued(&mut self) -> usize {
        let lost: Vec<(i64, u32)> = self
            .live
            .iter()
            .filter(|(_, job)| job.held.is_some_and(|(worker, _)| self.silent.contains(&worker)))
            .map(|(id, job)| (*id, job.rescues))
            .collect();
        for (id, rescues) in &lost {
            if *rescues >= 2 {
                self.died(*id);
            } else if let Some(job) = self.live.get_mut(id) {
                job.held = None;
                job.rescues += 1;
            }
        }
        let silent = std::mem::take(&mut self.silent);
        self.leases.retain(|_, worker| !silent.contains(worker));
        lost.len()
    }

    /// Returns what `backhaul.cancel` must say.
    pub(super) fn cancelled(&mut self, id: i64) -> &'static str {
        *self.ends.entry(id).or_default() += 1;
        let job = self.live.remove(&id).expect("chosen among the live ones");
        match job.held {
            Some((worker, lease)) => {
                if let Some(key) = job.key {
                    self.stopping.insert(id, (key, worker, lease));
                }
                "cancelled_running"
            }
            None => "cancelled",
        }
    }

    pub(super) fn replayed(&mut self, id: i64) {
        let key = self.dead.remove(&id).expect("chosen among the dead ones");
        self.live.insert(id, Live { key, rescues: 0, held: None });
        self.disturbed.extend(key);
    }

    /// `(job, lease)` of all jobs in hand.
    pub(super) fn running(&self) -> BTreeSet<(i64, i64)> {
        self.live.iter().filter_map(|(id, job)| job.held.map(|(_, lease)| (*id, lease))).collect()
    }
}
