//! What a scenario must reach.

use serde::Serialize;

/// One row of the table: a figure with its bound.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// Name of the figure within its scenario.
    pub key: &'static str,
    /// What is measured, for people.
    pub what: &'static str,
    /// What it must reach.
    pub bound: Bound,
    /// Unit of the figure.
    pub unit: Unit,
}

/// Where a figure must lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// Reported beside the others, with no target of its own.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// A ratio of two measurements of the same round.
    Ratio,
    Milliseconds,
    /// Of one core, in percent.
    Percent,
    Megabytes,
    /// Plain number.
    Count,
}

/// Whether a target was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Met,
    Missed,
    /// There is no target, or no measurement.
    None,
}

impl Bound {
    pub(crate) fn verdict(self, measured: Option<f64>) -> Verdict {
        let Some(measured) = measured else { return Verdict::None };
        let met = match self {
            Self::AtLeast(least) => measured >= least,
            Self::AtMost(most) => measured <= most,
            Self::None => return Verdict::None,
        };
        if met { Verdict::Met } else { Verdict::Missed }
    }

    pub(crate) fn text(self, unit: Unit) -> String {
        match self {
            Self::AtLeast(least) => format!(">= {}", unit.text(least)),
            Self::AtMost(most) => format!("<= {}", unit.text(most)),
            Self::None => "-".to_owned(),
        }
    }
}

impl Unit {
    pub(crate) fn text(self, value: f64) -> String {
        match self {
            Self::Ratio => format!("{value:.2} x"),
            Self::Milliseconds if value.abs() < 10.0 => format!("{value:.2} ms"),
            Self::Milliseconds => format!("{value:.0} ms"),
            Self::Percent => format!("{value:.1} %"),
            Self::Megabytes => format!("{value:.0} MB"),
            Self::Count => format!("{value:.0}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_met_at_its_edge_and_not_beyond() {
        assert_eq!(Bound::AtLeast(0.5).verdict(Some(0.5)), Verdict::Met);
        assert_eq!(Bound::AtLeast(0.5).verdict(Some(0.49)), Verdict::Missed);
        assert_eq!(Bound::AtMost(10.0).verdict(Some(10.0)), Verdict::Met);
        assert_eq!(Bound::AtMost(10.0).verdict(Some(10.1)), Verdict::Missed);
        assert_eq!(Bound::AtMost(10.0).verdict(None), Verdict::None);
        assert_eq!(Bound::AtMost(10.0).text(Unit::Milliseconds), "<= 10 ms");
    }
}
