//! Everything that is wrong with a thread, under one failure code.

use std::fmt;

use backhaul_engine::Failure;

use crate::{pointer::Pointer, problem::Problems};

/// Why a thread was refused. Holds no value of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refusal {
    code: Option<&'static str>,
    problems: Problems,
}

/// Where a reader stands. Pointers are built only for what is wrong: a thread can have 50,000 messages.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    Root,
    Member(&'a Place<'a>, &'static str),
    Item(&'a Place<'a>, usize),
}

impl Refusal {
    /// The failure code: `thread_event_unknown`, `thread_role_unmapped` or `thread_text_too_long` where all problems
    /// are of that sort, else `invalid_payload`.
    pub fn code(&self) -> &'static str {
        self.code.unwrap_or("invalid_payload")
    }

    /// The problems, each with its JSON pointer.
    pub fn problems(&self) -> &Problems {
        &self.problems
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    pub(crate) fn add(&mut self, code: &'static str, at: &Place<'_>, why: impl Into<String>) {
        self.code = match self.code {
            Some(known) if known != code => Some("invalid_payload"),
            _ => Some(code),
        };
        self.problems.add(&at.pointer(), why);
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problems.fmt(formatter)
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::permanent(refusal.code(), &refusal)
    }
}

impl<'a> Place<'a> {
    pub(crate) fn member(&'a self, name: &'static str) -> Place<'a> {
        Place::Member(self, name)
    }

    pub(crate) fn item(&'a self, index: usize) -> Place<'a> {
        Place::Item(self, index)
    }

    fn pointer(&self) -> Pointer {
        match self {
            Self::Root => Pointer::root(),
            Self::Member(parent, name) => parent.pointer().member(name),
            Self::Item(parent, index) => parent.pointer().item(*index),
        }
    }
}
