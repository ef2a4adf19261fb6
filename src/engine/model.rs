//! A model of the protocol (place, promote, claim, settle, rescue, sweep, sleep), checked exhaustively at a small size:
//! two producers with transactions of any length, two workers that may stall and be given up, one cursor.
//!
//! Each action is one transaction of the real protocol, or one statement where the order of statements matters. Broken
//! variants show that the checker would notice.

use std::collections::BTreeSet;

use stateright::{Checker, Model, Property};

const JOBS: usize = 2;
const WORKERS: usize = 2;
/// Bounds what would go on for ever: stalls of workers, and rounds of the sampler.
const STALLS_MAX: u8 = 1;
const SAMPLES_MAX: u8 = 2;

/// What is left out of the real protocol, to see the checker find it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Broken {
    Nothing,
    /// The sampler reads the horizon before the sequence.
    SamplerSwapped,
    /// A settle does not check its lease.
    SettleUnfenced,
    /// A producer looks at the cursor before it has a transaction id.
    LooksBeforeXid,
    /// A sleeping cursor is believed quiet at once.
    NoCooling,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Producer {
    Idle,
    Began {
        xid: u8,
    },
    /// Only in the broken variant: knows the cursor's state, has no transaction id yet.
    Peeked {
        awake: bool,
    },
    Looked {
        xid: u8,
        awake: bool,
    },
    /// The row is there and invisible to others.
    Placed {
        xid: u8,
        seq: Option<u8>,
    },
    Ended,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Place {
    Absent,
    Due,
    Ready(u8),
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    producers: Vec<Producer>,
    jobs: Vec<Place>,
    finished: Vec<u8>,
    next_xid: u8,
    next_seq: u8,
    position: u8,
    floor: u8,
    awake: bool,
    cooling: Option<u8>,
    settled: bool,
    /// Per worker: the job it runs, and whether its lease still stands.
    hands: Vec<Option<(usize, bool)>>,
    /// Places that standing leases hold.
    leased: BTreeSet<u8>,
    sampled: Option<u8>,
    marks: BTreeSet<(u8, u8)>,
    samples: u8,
    stalls: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Peek(usize),
    Begin(usize),
    Look(usize),
    Insert(usize),
    Commit(usize),
    RollBack(usize),
    Promote(usize),
    Claim(usize),
    Settle(usize),
    Rescue(usize),
    SampleFirst,
    SampleSecond,
    Sweep,
    Sleep,
    Cool,
    Conclude,
}

struct Protocol {
    broken: Broken,
}

impl State {
    fn xmin(&self) -> u8 {
        let open = self.producers.iter().filter_map(|producer| match producer {
            Producer::Began { xid } | Producer::Looked { xid, .. } | Producer::Placed { xid, .. } => Some(*xid),
            Producer::Idle | Producer::Peeked { .. } | Producer::Ended => None,
        });
        open.min().unwrap_or(self.next_xid)
    }

    fn take_xid(&mut self) -> u8 {
        self.next_xid += 1;
        self.next_xid - 1
    }

    fn take_seq(&mut self) -> u8 {
        self.next_seq += 1;
        self.next_seq - 1
    }

    /// Visible jobs whose place satisfies `which`.
    fn ready(&self, which: impl Fn(u8) -> bool) -> Vec<(u8, usize)> {
        let mut found: Vec<(u8, usize)> = self
            .jobs
            .iter()
            .enumerate()
            .filter_map(|(job, place)| match place {
                Place::Ready(seq) if which(*seq) => Some((*seq, job)),
                _ => None,
            })
            .collect();
        found.sort_unstable();
        found
    }

    fn beyond(&self) -> Vec<(u8, usize)> {
        self.ready(|seq| seq > self.position)
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let start = |awake| State {
            producers: vec![Producer::Idle; JOBS],
            jobs: vec![Place::Absent; JOBS],
            finished: vec![0; JOBS],
            next_xid: 1,
            next_seq: 1,
            position: 0,
            floor: 0,
            awake,
            cooling: None,
            settled: !awake,
            hands: vec![None; WORKERS],
            leased: BTreeSet::new(),
            sampled: None,
            marks: BTreeSet::new(),
            samples: 0,
            stalls: 0,
        };
        vec![start(true), start(false)]
    }

    fn actions(&self, s: &State, actions: &mut Vec<Action>) {
        for (p, producer) in s.producers.iter().enumerate() {
            match producer {
                Producer::Idle if self.broken == Broken::LooksBeforeXid => actions.push(Action::Peek(p)),
                Producer::Idle | Producer::Peeked { .. } => actions.push(Action::Begin(p)),
                Producer::Began { .. } => actions.push(Action::Look(p)),
                Producer::Looked { .. } => actions.push(Action::Insert(p)),
                Producer::Placed { .. } => actions.extend([Action::Commit(p), Action::RollBack(p)]),
                Producer::Ended => {}
            }
        }
        actions.extend(
            s.jobs.iter().enumerate().filter(|(_, place)| **place == Place::Due).map(|(j, _)| Action::Promote(j)),
        );
        for (w, hand) in s.hands.iter().enumerate() {
            match hand {
                None if s.awake && !s.beyond().is_empty() => actions.push(Action::Claim(w)),
                Some((_, true)) if s.stalls < STALLS_MAX => actions.extend([Action::Settle(w), Action::Rescue(w)]),
                Some(_) => actions.push(Action::Settle(w)),
                None => {}
            }
        }
        if s.samples < SAMPLES_MAX {
            actions.push(if s.sampled.is_none() { Action::SampleFirst } else { Action::SampleSecond });
        }
        if s.floor < s.position {
            actions.push(Action::Sweep);
        }
        if s.awake && s.beyond().is_empty() {
            actions.push(Action::Sleep);
        }
        match (s.awake, s.settled, s.cooling) {
            (false, false, None) => actions.push(Action::Cool),
            (false, false, Some(horizon)) if horizon <= s.xmin() => actions.push(Action::Conclude),
            _ => {}
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut s = last.clone();
        match action {
            Action::Peek(p) => s.producers[p] = Producer::Peeked { awake: s.awake },
            Action::Begin(p) => {
                let xid = s.take_xid();
                s.producers[p] = match s.producers[p] {
                    Producer::Peeked { awake } => Producer::Looked { xid, awake },
                    _ => Producer::Began { xid },
                };
            }
            Action::Look(p) => {
                let Producer::Began { xid } = s.producers[p] else { return None };
                s.producers[p] = Producer::Looked { xid, awake: s.awake };
            }
            Action::Insert(p) => {
                let Producer::Looked { xid, awake } = s.producers[p] else { return None };
                let seq = awake.then(|| s.take_seq());
                s.producers[p] = Producer::Placed { xid, seq };
            }
            Action::Commit(p) => {
                let Producer::Placed { seq, .. } = s.producers[p] else { return None };
                s.jobs[p] = seq.map_or(Place::Due, Place::Ready);
                s.producers[p] = Producer::Ended;
            }
            Action::RollBack(p) => s.producers[p] = Producer::Ended,
            Action::Promote(job) => {
                s.jobs[job] = Place::Ready(s.take_seq());
                if !s.awake {
                    (s.awake, s.settled, s.cooling) = (true, false, None);
                }
            }
            Action::Claim(w) => {
                let (seq, job) = *s.beyond().first()?;
                s.position = seq;
                s.leased.insert(seq);
                s.hands[w] = Some((job, true));
            }
            Action::Settle(w) => {
                let (job, held) = s.hands[w].take()?;
                if (held || self.broken == Broken::SettleUnfenced) && s.jobs[job] != Place::Gone {
                    if let Place::Ready(seq) = s.jobs[job] {
                        s.leased.remove(&seq);
                    }
                    s.jobs[job] = Place::Gone;
                    s.finished[job] += 1;
                } else if self.broken == Broken::SettleUnfenced {
                    s.finished[job] += 1;
                }
            }
            Action::Rescue(w) => {
                let (job, _) = s.hands[w]?;
                let Place::Ready(seq) = s.jobs[job] else { return None };
                s.leased.remove(&seq);
                s.jobs[job] = Place::Due;
                s.hands[w] = Some((job, false));
                s.stalls += 1;
            }
            Action::SampleFirst => {
                s.sampled = Some(if self.broken == Broken::SamplerSwapped { s.next_xid } else { s.next_seq - 1 });
            }
            Action::SampleSecond => {
                let first = s.sampled.take()?;
                s.marks.insert(match self.broken {
                    Broken::SamplerSwapped => (first, s.next_seq - 1),
                    _ => (s.next_xid, first),
                });
                s.samples += 1;
            }
            Action::Sweep => {
                let xmin = s.xmin();
                let floor =
                    s.marks.iter().filter(|(horizon, _)| *horizon <= xmin).map(|(_, seq)| *seq).max().unwrap_or(0);
                for (_, job) in s.ready(|seq| seq > s.floor && seq <= s.position && !s.leased.contains(&seq)) {
                    s.jobs[job] = Place::Ready(s.take_seq());
                    (s.awake, s.settled, s.cooling) = (true, false, None);
                }
                s.floor = floor.min(s.position);
            }
            Action::Sleep => {
                (s.awake, s.cooling) = (false, None);
                s.settled = self.broken == Broken::NoCooling;
            }
            Action::Cool => s.cooling = Some(s.next_xid),
            Action::Conclude => {
                s.awake = !s.beyond().is_empty();
                s.settled = !s.awake;
                s.cooling = None;
            }
        }
        Some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no job is behind everybody's back", |_, s: &State| {
                let forgotten = |seq: u8| {
                    !s.leased.contains(&seq) && (seq <= s.floor || (seq > s.position && !s.awake && s.settled))
                };
                s.ready(forgotten).is_empty()
            }),
            Property::always("no job ends twice", |_, s: &State| s.finished.iter().all(|&times| times <= 1)),
            Property::sometimes("everything can be done", |_, s: &State| {
                s.jobs.iter().all(|place| *place == Place::Gone)
            }),
            Property::sometimes("a straggler is adopted and done", |_, s: &State| {
                s.next_seq as usize > JOBS + 1 && s.stalls == 0 && s.jobs.iter().all(|place| *place == Place::Gone)
            }),
        ]
    }
}

fn discovered(broken: Broken, property: &'static str) -> bool {
    let checker = Protocol { broken }.checker().spawn_bfs().join();
    checker.discovery(property).is_some()
}

#[test]
fn the_protocol_loses_nothing_and_ends_nothing_twice() {
    let checker = Protocol { broken: Broken::Nothing }.checker().spawn_bfs().join();
    checker.assert_properties();
    assert!(checker.unique_state_count() > 10_000, "{}", checker.unique_state_count());
}

#[test]
fn the_checker_catches_a_sampler_that_reads_in_the_wrong_order() {
    assert!(discovered(Broken::SamplerSwapped, "no job is behind everybody's back"));
}

#[test]
fn the_checker_catches_a_settle_without_its_fence() {
    assert!(discovered(Broken::SettleUnfenced, "no job ends twice"));
}

#[test]
fn the_checker_catches_a_look_before_the_transaction_id() {
    assert!(discovered(Broken::LooksBeforeXid, "no job is behind everybody's back"));
}

#[test]
fn the_checker_catches_a_cursor_believed_quiet_too_early() {
    assert!(discovered(Broken::NoCooling, "no job is behind everybody's back"));
}
