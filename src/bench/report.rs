//! The outcome of a run: every case of every round, and the figures with their verdicts.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    case::Case,
    machine::Machine,
    options::Size,
    quantiles::median,
    scenarios::Scenario,
    target::{Target, Verdict},
};

/// A whole run. Serialised, it is what `--json` writes.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub(crate) machine: Machine,
    pub(crate) size: &'static str,
    pub(crate) rounds: usize,
    pub(crate) scenarios: Vec<Outcome>,
}

/// One scenario over all rounds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    pub name: &'static str,
    pub about: &'static str,
    pub figures: Vec<Figure>,
    pub rounds: Vec<Round>,
}

/// One row of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    pub key: &'static str,
    pub what: &'static str,
    pub target: String,
    /// Median of the rounds. None where no round measured it.
    pub measured: Option<f64>,
    pub shown: String,
    pub verdict: Verdict,
    pub rounds: Vec<f64>,
}

/// What one round of a scenario gave.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Round {
    /// A fixed piece of work before and after, in milliseconds: how fast the processor was.
    pub probe_ms: [f64; 2],
    pub cases: Vec<Case>,
    /// Figures by the names of the scenario's targets.
    pub figures: BTreeMap<&'static str, f64>,
}

impl Round {
    pub(crate) fn figure(&mut self, key: &'static str, value: f64) {
        self.figures.insert(key, value);
    }

    pub(crate) fn case(&self, name: &str) -> Option<&Case> {
        self.cases.iter().find(|case| case.name == name)
    }

    /// The rate of one case as a multiple of another's. None where one is missing.
    pub(crate) fn rates(&self, of: &str, to: &str) -> Option<f64> {
        Some(self.case(of)?.rate / self.case(to)?.rate)
    }
}

impl Outcome {
    pub(crate) fn new(scenario: Scenario, size: Size, rounds: Vec<Round>) -> Self {
        let figures = scenario.targets().iter().map(|target| figure(target, size, &rounds)).collect();
        Self { name: scenario.name(), about: scenario.about(), figures, rounds }
    }
}

fn figure(target: &Target, size: Size, rounds: &[Round]) -> Figure {
    let values: Vec<f64> = rounds.iter().filter_map(|round| round.figures.get(target.key).copied()).collect();
    let measured = median(&values);
    // Nobody shall be told that a target was missed by a run that is too small to tell.
    let verdict = if size == Size::Small { Verdict::None } else { target.bound.verdict(measured) };
    Figure {
        key: target.key,
        what: target.what,
        target: target.bound.text(target.unit),
        measured,
        shown: measured.map_or_else(|| "-".to_owned(), |value| target.unit.text(value)),
        verdict,
        rounds: values,
    }
}
