//! The report as a table for people.

use crate::{
    case::Case,
    quantiles::median,
    report::{Outcome, Report},
    target::Verdict,
};

/// The report as text: the figures with their targets, what the cases cost, and where it was measured.
pub fn render(report: &Report) -> String {
    let mut rows = vec![["scenario", "figure", "target", "measured", "rounds", ""].map(str::to_owned)];
    for outcome in &report.scenarios {
        for (place, figure) in outcome.figures.iter().enumerate() {
            let name = if place == 0 { outcome.name } else { "" };
            let rounds: Vec<String> = figure.rounds.iter().map(|value| short(*value)).collect();
            let verdict = match figure.verdict {
                Verdict::Met => "met",
                Verdict::Missed => "MISSED",
                Verdict::None => "",
            };
            rows.push([
                name.to_owned(),
                figure.what.to_owned(),
                figure.target.clone(),
                figure.shown.clone(),
                rounds.join(" "),
                verdict.to_owned(),
            ]);
        }
    }
    let headings = [
        "scenario",
        "case",
        "jobs",
        "jobs/s",
        "WAL B/job",
        "commits/job",
        "dead rows/job",
        "CPU us/job",
        "Postgres us/job",
    ];
    let mut costs = vec![headings.map(str::to_owned)];
    for outcome in &report.scenarios {
        costs.extend(cost_rows(outcome));
    }
    let rounds =
        if report.rounds == 1 { "one round".to_owned() } else { format!("medians of {} rounds", report.rounds) };
    format!("{}\n{}\nsize {}, {rounds}; {}\n", lines(&rows), lines(&costs), report.size, report.machine.text())
}

fn cost_rows(outcome: &Outcome) -> Vec<[String; 9]> {
    let Some(first) = outcome.rounds.first() else { return Vec::new() };
    let mut names: Vec<&str> = first.cases.iter().map(|case| case.name.as_str()).collect();
    names.sort_unstable();
    names
        .into_iter()
        .map(|name| {
            let cases: Vec<&Case> = outcome.rounds.iter().filter_map(|round| round.case(name)).collect();
            let middle = |of: &dyn Fn(&Case) -> Option<f64>| {
                let values: Vec<f64> = cases.iter().filter_map(|case| of(case)).collect();
                median(&values).map_or_else(|| "-".to_owned(), short)
            };
            [
                outcome.name.to_owned(),
                name.to_owned(),
                middle(&|case| Some(case.jobs as f64)),
                middle(&|case| Some(case.rate)),
                middle(&|case| Some(case.cost?.wal_bytes_per_job)),
                middle(&|case| Some(case.cost?.commits_per_job)),
                middle(&|case| Some(case.cost?.dead_rows_per_job)),
                middle(&|case| case.cpu_us_per_job),
                middle(&|case| case.postgres_cpu_us_per_job),
            ]
        })
        .collect()
}

fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Columns as wide as their content.
fn lines<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}
