//! `backhaul jobs preview` and `backhaul enqueue --preview`: what a job would do, without doing it.

use std::{fmt::Write, path::Path};

use anyhow::{Result, anyhow};
use backhaul_engine::{
    Failure,
    preview::{PlannedRequest, Preview, Subject, Verdict},
};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use crate::commands::{
    database::explain_store,
    enqueue::read_payload,
    exit::{self, Coded},
    kinds::Kinds,
    session::Session,
    table::{self, Column},
};

const DIFFERENCE: [Column; 3] = [("pointer", "MEMBER"), ("before", "NOW"), ("after", "AFTERWARDS")];
const CONFLICTS: [Column; 4] =
    [("pointer", "MEMBER"), ("base", "AS FIRST READ"), ("ours", "THE JOB'S"), ("theirs", "NOW")];
const PROBLEMS: [Column; 2] = [("pointer", "MEMBER"), ("message", "PROBLEM")];

/// Failures that an argument or a setting mends.
const OF_SETTINGS: [&str; 7] = [
    "kind_unknown",
    "preview_unsupported",
    "preview_pointless",
    "profile_missing",
    "profile_invalid",
    "unconfigured",
    "enrichment_unconfigured",
];

/// Show what a job would do now, and change nothing
///
/// Asks the upstream what it has, and prints the request that the job would send and the difference that it would make.
/// A job's payload and the steps that it has done come from the database. Limits of the upstream are respected, and
/// personal data is masked. The verdict is would_change, already_applied, would_conflict or invalid; the last two end
/// with exit code 5.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul jobs preview 4711
  backhaul jobs preview 4711 --json | jq .difference
  backhaul jobs preview --kind widget-patch --tenant acme patch.json
  jq .payload case.json | backhaul jobs preview --kind crm-sync --tenant acme -")]
pub(crate) struct PreviewOne {
    /// Id of a job that waits or is dead. With --kind, a file with a payload; - reads standard input
    #[arg(value_name = "ID|FILE")]
    what: String,
    /// Preview a payload that is not enqueued, as a job of this kind
    #[arg(long)]
    kind: Option<String>,
    /// With --kind: whose work it is
    #[arg(long, default_value = "default", requires = "kind")]
    tenant: String,
    /// Show personal data that the tenant's policy lets pass, instead of masking it
    #[arg(long)]
    personal_data: bool,
    /// Print one JSON object, with what stands at the upstream
    #[arg(long)]
    json: bool,
}

/// Previews a job, or a payload that is not enqueued.
pub(crate) async fn run(session: &Session, one: PreviewOne) -> Result<()> {
    let Some(kind) = &one.kind else {
        let id = one.what.parse().map_err(|_| {
            let text = format!("{:?} is no id of a job; to preview a file, say its --kind", one.what);
            anyhow!(Coded::new(exit::USAGE, text))
        })?;
        return of_job(session, id, one.personal_data, one.json).await;
    };
    let payload = read_payload(None, Some(Path::new(&one.what)))?;
    of_payload(session, kind, &one.tenant, &payload, one.personal_data, one.json).await
}

/// Previews a payload that is not enqueued.
pub(crate) async fn of_payload(
    session: &Session,
    kind: &str,
    tenant: &str,
    payload: &Value,
    personal_data: bool,
    json: bool,
) -> Result<()> {
    let kinds = Kinds::load(session, &[])?;
    let store = session.store().await?;
    backhaul_engine::check_version(&store).await.map_err(explain_store)?;
    let subject = Subject::payload(kind, tenant, payload);
    let answer = kinds.registry().preview(&store, &subject, personal_data).await;
    tell(session, &subject, answer, json)
}

async fn of_job(session: &Session, id: i64, personal_data: bool, json: bool) -> Result<()> {
    let kinds = Kinds::load(session, &[])?;
    let store = session.store().await?;
    backhaul_engine::check_version(&store).await.map_err(explain_store)?;
    let Some(subject) = Subject::job(&store, id).await.map_err(explain_store)? else {
        let text = format!("there is no unfinished or dead job {id}; see `backhaul jobs show {id}`");
        return Err(anyhow!(Coded::new(exit::NOT_FOUND, text)));
    };
    let mut answer = kinds.registry().preview(&store, &subject, personal_data).await;
    if let (Ok(preview), Some("running")) = (&mut answer, subject.state.as_deref()) {
        preview.notes.push("the job is running now: what is shown may be outdated already".to_owned());
    }
    tell(session, &subject, answer, json)
}

/// The whole answer in JSON.
#[derive(Serialize)]
struct Told<'a> {
    job: Option<i64>,
    state: Option<&'a str>,
    kind: &'a str,
    tenant: &'a str,
    #[serde(flatten)]
    preview: &'a Preview,
}

fn tell(session: &Session, subject: &Subject, answer: Result<Preview, Failure>, json: bool) -> Result<()> {
    let preview = &answer.map_err(|failure| explain(session, failure))?;
    let Subject { job, kind, tenant, state, .. } = subject;
    if json {
        let told = Told { job: *job, state: state.as_deref(), kind, tenant, preview };
        table::print_json(&serde_json::to_value(told)?)?;
    } else {
        table::write_out(&text(subject, preview))?;
    }
    let why = match preview.verdict {
        Verdict::WouldChange | Verdict::AlreadyApplied => return Ok(()),
        Verdict::WouldConflict => "the job would not have its way",
        Verdict::Invalid => "the payload would be refused",
    };
    Err(anyhow!(Coded::new(exit::UNWELL, why)))
}

/// What kept the question from being answered. An attempt would have met the same.
fn explain(session: &Session, failure: Failure) -> anyhow::Error {
    let code = failure.code();
    let message = match &failure {
        Failure::Permanent(cause)
        | Failure::Transient { cause, .. }
        | Failure::Throttled { cause, .. }
        | Failure::Snoozed { cause, .. } => cause.message.as_str(),
        Failure::Conflict { .. } | Failure::LeaseLost => "",
    };
    let place = match code {
        "profile_missing" => format!(" (the profiles are in {})", session.settings.profiles.dir.display()),
        _ => String::new(),
    };
    let exit = match code {
        "store_unavailable" => exit::DATABASE,
        code if OF_SETTINGS.contains(&code) => exit::USAGE,
        _ => exit::FAILURE,
    };
    anyhow!(Coded::new(exit, format!("nothing can be previewed: {code}: {message}{place}")))
}

fn text(subject: &Subject, preview: &Preview) -> String {
    let verdict = match preview.verdict {
        Verdict::WouldChange => "would change",
        Verdict::AlreadyApplied => "already applied",
        Verdict::WouldConflict => "would conflict",
        Verdict::Invalid => "invalid",
    };
    let job = match (subject.job, &subject.state) {
        (Some(id), Some(state)) => format!("job {id} ({state})"),
        _ => "a job, not enqueued,".to_owned(),
    };
    let mut text = format!("{verdict}: {job} of kind {} for tenant {}\n", subject.kind, subject.tenant);
    if let Some(request) = &preview.request {
        push_request(&mut text, request);
    }
    let rows = |list: Value| list.as_array().cloned().unwrap_or_default();
    for (title, rows, columns) in [
        ("Difference", rows(json!(preview.difference)), &DIFFERENCE[..]),
        ("Conflicts", rows(json!(preview.conflicts)), &CONFLICTS[..]),
        ("Problems", rows(json!(preview.problems)), &PROBLEMS[..]),
    ] {
        if !rows.is_empty() {
            // A problem is a sentence, and one that breaks off helps nobody; values may be as long as they like.
            let laid_out = if title == "Problems" { table::render_whole } else { table::render };
            text.push_str(&format!("\n{title}\n{}", laid_out(&rows, columns)));
        }
    }
    text.push('\n');
    for note in &preview.notes {
        text.push_str(&format!("- {}\n", table::clean(note)));
    }
    text.push_str("- nothing was changed\n");
    text
}

fn push_request(text: &mut String, request: &PlannedRequest) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "\n{} {}", request.method, table::clean(&request.endpoint));
    for (name, value) in &request.headers {
        let _ = writeln!(text, "{name}: {}", table::clean(value));
    }
    for line in format!("{:#}", request.body).lines() {
        let _ = writeln!(text, "{}", table::clean(line));
    }
}
