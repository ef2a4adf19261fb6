//! What holds for any schedule: random orders of enqueueing, claiming, finishing, dying, rescuing, cancelling and
//! replaying, spoken to the database's functions directly, beside a model that says what must come of each.
//!
//! `BACKHAUL_TEST_CASES=1000 cargo test --test it properties` tries more, and others in every run.

mod model;
mod world;

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{RngSeed, TestCaseError, TestRunner},
};

use self::world::World;
use crate::support::database;

/// Schedules in every run; each is a few dozen actions.
const CASES: u32 = 40;
/// Where the schedules of every run begin. Another number is another run.
const SEED: u64 = 20_260_401;
/// Attempts to make a failing schedule smaller.
const SHRINKS_MAX: u32 = 300;

const WORKERS: usize = 3;

/// How an attempt ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Done,
    Retry,
    Later,
    Dead,
}

impl How {
    fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retry => "retry",
            Self::Later => "later",
            Self::Dead => "dead",
        }
    }
}

/// A job to be: of one of two tenants, two priorities, and perhaps of one of two ordering keys.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    key: Option<u8>,
    tenant: u8,
    urgent: bool,
}

/// One action of somebody. Numbers choose among what is there, modulo its size.
#[derive(Debug, Clone)]
enum Action {
    Enqueue(Wanted),
    /// A producer whose transaction stays open until one of the next two.
    EnqueueSlowly(Wanted),
    CommitSlow,
    RollBackSlow,
    Claim {
        worker: usize,
        want: i32,
    },
    /// The worker reports on one job that it believes to be its own.
    Finish {
        worker: usize,
        nth: usize,
        how: How,
    },
    /// Its last report again: the answer was lost.
    Repeat {
        worker: usize,
    },
    /// It is gone, and another one takes its place.
    Kill {
        worker: usize,
    },
    /// It is not heard of any more, and goes on all the same.
    Silence {
        worker: usize,
    },
    Rescue,
    Sweep {
        rest: bool,
    },
    Cancel {
        nth: usize,
    },
    Replay {
        nth: usize,
    },
}

fn wanted() -> impl Strategy<Value = Wanted> {
    (prop_oneof![2 => Just(None), 3 => (0..2_u8).prop_map(Some)], 0..2_u8, any::<bool>())
        .prop_map(|(key, tenant, urgent)| Wanted { key, tenant, urgent })
}

fn action() -> impl Strategy<Value = Action> {
    let worker = || 0..WORKERS;
    let how = prop_oneof![4 => Just(How::Done), 2 => Just(How::Retry), 1 => Just(How::Later), 2 => Just(How::Dead)];
    prop_oneof![
        6 => wanted().prop_map(Action::Enqueue),
        1 => wanted().prop_map(Action::EnqueueSlowly),
        1 => Just(Action::CommitSlow),
        1 => Just(Action::RollBackSlow),
        7 => (worker(), 1..4_i32).prop_map(|(worker, want)| Action::Claim { worker, want }),
        7 => (worker(), 0..8_usize, how).prop_map(|(worker, nth, how)| Action::Finish { worker, nth, how }),
        1 => worker().prop_map(|worker| Action::Repeat { worker }),
        2 => worker().prop_map(|worker| Action::Kill { worker }),
        2 => worker().prop_map(|worker| Action::Silence { worker }),
        3 => Just(Action::Rescue),
        2 => any::<bool>().prop_map(|rest| Action::Sweep { rest }),
        2 => (0..8_usize).prop_map(|nth| Action::Cancel { nth }),
        2 => (0..8_usize).prop_map(|nth| Action::Replay { nth }),
    ]
}

/// No job is lost, none has two leases that live, each ends once a life, keys are held by those that run and in order,
/// and an outcome that is refused changes nothing.
///
/// Covers row 63, row 201, row 202, row 203.
#[test]
fn every_schedule_keeps_the_promises() {
    let more = std::env::var("BACKHAUL_TEST_CASES").ok().map(|cases| cases.parse().expect("a number of cases"));
    let config = ProptestConfig {
        cases: more.unwrap_or(CASES),
        rng_seed: if more.is_some() { RngSeed::Random } else { RngSeed::Fixed(SEED) },
        max_shrink_iters: SHRINKS_MAX,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let db = runtime.block_on(database());
    let outcome = TestRunner::new(config).run(&vec(action(), 10..60), |schedule| {
        runtime.block_on(async {
            let mut world = World::new(&db).await;
            for action in schedule {
                world.act(&action).await.map_err(TestCaseError::fail)?;
            }
            world.ends_well().await.map_err(TestCaseError::fail)
        })
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
