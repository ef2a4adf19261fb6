//! A job's lives: its first one, and one more for each time that it comes back from the dead letters.
//!
//! While a job lives, its ordering key keeps the thread's other jobs from syncing anything, so what its steps found out
//! stays true. While it is dead they sync, and what an earlier life found out may be undone by what they did since.

use serde::{Deserialize, Serialize};

/// One life of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// The job's id; 0 for a payload that is not enqueued.
    pub job: i64,
    /// How often it had come back from the dead letters.
    pub replays: u16,
}

impl Life {
    /// The name of this life's own step `name`.
    pub(super) fn step(self, name: &str) -> String {
        match self.replays {
            0 => name.to_owned(),
            replays => format!("{name}-replay-{replays}"),
        }
    }

    /// This life and those before it, newest first.
    pub(super) fn newest_first(self) -> impl Iterator<Item = Self> {
        (0..=self.replays).rev().map(move |replays| Self { replays, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_life_has_steps_of_its_own() {
        let life = Life { job: 7, replays: 2 };
        let names: Vec<String> = life.newest_first().map(|life| life.step("plan-1")).collect();
        assert_eq!(names, ["plan-1-replay-2", "plan-1-replay-1", "plan-1"]);
    }
}
