//! What commands print: rows as a table for people, or as JSON for scripts.

use std::io::{self, ErrorKind, Write};

use anyhow::{Context, Result};
use serde_json::Value;

/// Longest text of one cell of a list, in characters; the rest is in `show` and in `--json`.
const CELL_CHARS_MAX: usize = 60;

/// One column: the member of the row that it shows, and its heading.
pub(crate) type Column = (&'static str, &'static str);

/// Prints `rows` as one JSON array, or as a table of `columns`. `nothing` stands in for an empty table.
pub(crate) fn print(rows: &[Value], columns: &[Column], json: bool, nothing: &str) -> Result<()> {
    if json {
        return print_json(&Value::Array(rows.to_vec()));
    }
    if rows.is_empty() {
        return write_out(&format!("{nothing}\n"));
    }
    write_out(&render(rows, columns))
}

/// Prints one JSON value, indented.
pub(crate) fn print_json(value: &Value) -> Result<()> {
    write_out(&format!("{value:#}\n"))
}

/// Prints `text`. A reader that has seen enough, as `head` has, is no error.
pub(crate) fn write_out(text: &str) -> Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done.context("cannot write to standard output"),
    }
}

/// The table as text: columns as wide as their content, numbers to the right. Long cells are cut.
pub(crate) fn render(rows: &[Value], columns: &[Column]) -> String {
    lay_out(rows, columns, CELL_CHARS_MAX)
}

/// As [`render`], with every cell whole: what is said about one thing is said to its end.
pub(crate) fn render_whole(rows: &[Value], columns: &[Column]) -> String {
    lay_out(rows, columns, usize::MAX)
}

fn lay_out(rows: &[Value], columns: &[Column], cell_chars_max: usize) -> String {
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| columns.iter().map(|(member, _)| cell(&row[*member], cell_chars_max)).collect())
        .collect();
    let width = |at: usize| {
        let content = cells.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
        content.max(columns[at].1.chars().count())
    };
    let numeric = |at: usize| {
        let mut values = rows.iter().map(|row| &row[columns[at].0]).filter(|value| !value.is_null()).peekable();
        values.peek().is_some() && values.all(Value::is_number)
    };
    let shape: Vec<(usize, bool)> = (0..columns.len()).map(|at| (width(at), numeric(at))).collect();
    let line = |texts: Vec<&str>| {
        let padded: Vec<String> = texts
            .iter()
            .zip(&shape)
            .map(
                |(text, (width, numeric))| if *numeric { format!("{text:>width$}") } else { format!("{text:<width$}") },
            )
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(columns.iter().map(|(_, heading)| *heading).collect());
    for row in &cells {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}

/// One value as a person reads it, see [`clean`] for why its control characters go.
fn cell(value: &Value, chars_max: usize) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let clean = clean(&text);
    if clean.chars().count() <= chars_max {
        return clean;
    }
    let mut cut: String = clean.chars().take(chars_max - 1).collect();
    cut.push('…');
    cut
}

/// The text with spaces for control characters, which would let a payload write on the operator's terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{render, render_whole};

    #[test]
    fn columns_are_as_wide_as_their_content_and_numbers_stand_right() {
        let rows = [json!({"id": 7, "kind": "widget-patch"}), json!({"id": 1234, "kind": null})];
        assert_eq!(render(&rows, &[("id", "id"), ("kind", "kind")]), "  id  kind\n   7  widget-patch\n1234  -\n");
    }

    #[test]
    fn a_cell_is_cut_and_cannot_write_on_the_terminal() {
        let rows = [json!({"text": format!("\u{1b}[2J{}", "x".repeat(100))})];
        let text = render(&rows, &[("text", "t")]);
        assert!(!text.contains('\u{1b}'));
        assert!(text.lines().nth(1).expect("one row").chars().count() == 60, "{text}");
        assert!(render_whole(&rows, &[("text", "t")]).contains(&"x".repeat(100)), "one thing is shown whole");
    }
}
