//! What a job is going to write, and to which profile, decided before any call.

use backhaul_engine::Failure;
use chrono::{DateTime, Utc};

use super::{
    memory::Memory,
    payload::{Request, Strategy},
    plan::{Goal, merged_tags},
    policy::Cleared,
    settings::Settings,
    write::Writer,
};
use crate::{api::profiles::Profiles, memories::Memories};

/// Longest chain of de-duplications that is followed.
const SURVIVORS_MAX: usize = 16;

/// A checked and cleared payload with what is remembered of its profile.
pub(super) struct Intent {
    pub request: Request,
    /// The profile to write to: the payload's, or the one that is left of it.
    pub target: String,
    /// What is remembered of the target.
    pub memory: Memory,
    /// What the target is to hold.
    pub goal: Goal,
    /// The source's name as it may be sent.
    source_system: String,
    /// When the source wrote the data.
    pub source_time: DateTime<Utc>,
}

impl Intent {
    pub(super) async fn form(
        request: Request,
        cleared: Cleared,
        settings: &Settings,
        memories: &mut impl Memories,
        enqueued_at: DateTime<Utc>,
    ) -> Result<Self, Failure> {
        let (target, memory) = survivor(memories, &request.profile_id).await?;
        let source_time = request.source_updated_at.unwrap_or(enqueued_at);
        let attributes = match request.strategy {
            Strategy::KeepLatest => memory.latest(cleared.attributes, source_time),
            Strategy::Overwrite | Strategy::Append => cleared.attributes,
        };
        let tags = merged_tags(&cleared.tags, &settings.default_tags);
        let goal = Goal { attributes, tags, strategy: request.strategy };
        Ok(Self { request, target, memory, goal, source_system: cleared.source_system, source_time })
    }

    /// Whether newer data of everything that the job brings was applied before, so that nothing is sent.
    pub(super) fn is_outdated(&self) -> bool {
        self.goal.attributes.is_empty() && !self.request.attributes.is_empty()
    }

    pub(super) fn writer<'w>(&'w self, profiles: &'w Profiles<'_>, key: &'w str) -> Writer<'w, 'w> {
        Writer {
            profiles,
            target: &self.target,
            goal: &self.goal,
            source_system: &self.source_system,
            source_time: self.timed().then_some(self.source_time),
            key,
        }
    }

    /// Whether the job's data has a time that later jobs are compared with. Appending never replaces a value, and
    /// without a time of its own an overwriting job says nothing about its source.
    fn timed(&self) -> bool {
        match self.request.strategy {
            Strategy::KeepLatest => true,
            Strategy::Overwrite => self.request.source_updated_at.is_some(),
            Strategy::Append => false,
        }
    }

    /// What is to be remembered once the goal is written; `None` where that is what is remembered already.
    pub(super) fn memory_after(&self) -> Option<Memory> {
        if !self.timed() || self.goal.attributes.is_empty() {
            return None;
        }
        let mut memory = self.memory.clone();
        memory.applied(self.goal.attributes.keys(), self.source_time);
        Some(memory)
    }
}

/// The profile that stands for `id` after earlier de-duplications, and what is remembered of it.
async fn survivor(memories: &mut impl Memories, id: &str) -> Result<(String, Memory), Failure> {
    let mut target = id.to_owned();
    for _ in 0..SURVIVORS_MAX {
        let memory = Memory::read(memories.recall(&target).await?);
        match &memory.survivor_profile_id {
            Some(survivor) => target.clone_from(survivor),
            None => return Ok((target, memory)),
        }
    }
    Err(Failure::permanent(
        "survivor_chain_too_long",
        format!("the profile was merged more than {SURVIVORS_MAX} times; send the id of the profile that is left"),
    ))
}
