//! `backhaul dead show`: one dead letter, and of a conflict what differs.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow};
use clap::Args;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::commands::{
    database::{explain, rows_of},
    exit::{self, Coded},
    table::{self, Column},
};

/// Most paths of a conflict that are shown.
const PATHS_MAX: usize = 200;

const FAILURES: [Column; 6] = [
    ("at", "AT"),
    ("attempt", "TRY"),
    ("step", "STEP"),
    ("code", "CODE"),
    ("http_status", "HTTP"),
    ("message", "MESSAGE"),
];

#[derive(Debug, Args)]
pub(crate) struct ShowOne {
    /// The job's id
    id: i64,
    /// Show the payload too, and a conflict's documents; they may hold personal data
    #[arg(long)]
    payload: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Prints it.
pub(super) async fn run(pool: &PgPool, show: &ShowOne) -> Result<()> {
    let found = rows_of(
        "select d.*, backhaul.priority_name(d.priority) as priority_name from backhaul.dead_letters d where id = $1",
    );
    let mut letter = found
        .bind(show.id)
        .fetch_optional(pool)
        .await
        .map_err(explain)?
        .ok_or_else(|| anyhow!(Coded::new(exit::NOT_FOUND, format!("there is no dead letter {}", show.id))))?;
    let steps = rows_of("select name, state, at from backhaul.steps where job_id = $1 order by at");
    let steps = steps.bind(show.id).fetch_all(pool).await.map_err(explain)?;
    letter["priority"] = letter["priority_name"].take();
    if let Some(members) = letter.as_object_mut() {
        members.remove("priority_name");
        if !show.payload {
            members.remove("payload");
        }
    }
    let conflict = letter["conflict"].take();
    let told = match (conflict.is_null(), show.payload) {
        (true, _) => Value::Null,
        (false, true) => conflict,
        (false, false) => json!({ "differs": differing(&conflict) }),
    };
    if show.json {
        letter["steps"] = Value::Array(steps);
        letter["conflict"] = told;
        return table::print_json(&letter);
    }
    let errors = letter["errors"].take().as_array().cloned().unwrap_or_default();
    let mut text = format!("{}\nFailures\n{}", summary(&letter), table::render_whole(&errors, &FAILURES));
    if !steps.is_empty() {
        let columns = [("name", "STEP"), ("state", "STATE"), ("at", "AT")];
        text.push_str(&format!("\nSteps, kept for a replay\n{}", table::render_whole(&steps, &columns)));
    }
    if let Some(paths) = told["differs"].as_array() {
        text.push_str("\nConflict in (--payload shows the documents)\n");
        paths.iter().filter_map(Value::as_str).for_each(|path| text.push_str(&format!("  {}\n", table::clean(path))));
    } else if !told.is_null() {
        text.push_str(&format!("\nConflict: what was read, what the job wants, what stands there now\n{told:#}\n"));
    }
    if show.payload {
        text.push_str(&format!("\nPayload\n{:#}\n", letter["payload"]));
    }
    table::write_out(&text)
}

fn summary(letter: &Value) -> String {
    let shown = [
        "id",
        "kind",
        "tenant",
        "priority",
        "reason",
        "fingerprint",
        "ordering_key",
        "replays",
        "enqueued_at",
        "enqueued_by",
        "died_at",
    ];
    let rows: Vec<Value> = shown
        .iter()
        .filter(|name| !letter[**name].is_null())
        .map(|name| json!({ "name": name, "value": letter[*name].as_str().map_or(letter[*name].to_string(), str::to_owned) }))
        .collect();
    table::render_whole(&rows, &[("name", "DEAD LETTER"), ("value", "")])
}

/// Where the documents of a conflict differ, as JSON pointers without any value. What the job wants may be a part of the
/// whole, so that a member which is absent there says nothing.
fn differing(conflict: &Value) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let [base, ours, theirs] =
        ["base", "ours", "theirs"].map(|name| conflict.get(name).filter(|value| !value.is_null()));
    walk(base, ours, theirs, &mut String::new(), &mut paths);
    paths
}

fn walk(
    base: Option<&Value>,
    ours: Option<&Value>,
    theirs: Option<&Value>,
    at: &mut String,
    paths: &mut BTreeSet<String>,
) {
    if paths.len() >= PATHS_MAX || (base == theirs && (ours.is_none() || ours == base)) {
        return;
    }
    let documents = [base, ours, theirs];
    let objects = documents.iter().flatten().all(|value| value.is_object());
    if !objects {
        paths.insert(at.clone());
        return;
    }
    let members = documents.iter().flatten().filter_map(|value| value.as_object());
    let names: BTreeSet<&String> = members.flat_map(serde_json::Map::keys).collect();
    for name in names {
        let [base, ours, theirs] = documents.map(|document| document.and_then(|document| document.get(name.as_str())));
        let length = at.len();
        at.push('/');
        at.push_str(&name.replace('~', "~0").replace('/', "~1"));
        walk(base, ours, theirs, at, paths);
        at.truncate(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_is_told_by_its_paths_without_values() {
        let conflict = json!({
            "base": { "email": "old@example.com", "same": 1, "deep": { "a": [1], "b": 2 } },
            "ours": { "email": "mine@example.com", "deep": { "b": 2 } },
            "theirs": { "email": "theirs@example.com", "same": 1, "deep": { "a": [2], "b": 2 }, "a/b": "new" },
        });
        let paths: Vec<String> = differing(&conflict).into_iter().collect();
        assert_eq!(paths, ["/a~1b", "/deep/a", "/email"]);
        assert!(differing(&json!({ "base": null, "ours": { "a": 1 }, "theirs": null })).contains("/a"));
    }
}
