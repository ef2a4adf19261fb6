//! What an enrichment job asks for, checked to the last member before any call, and anew on every attempt: a job that
//! waited may have become stale.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::settings::Settings;
use crate::{
    depth::depth,
    fields::{Fields, Placed, list, text, utf16_units},
    freshness,
    pointer::Pointer,
    problem::Problems,
};

/// Most attributes in one job.
pub const ATTRIBUTES_MAX: usize = 50;
/// Longest attribute name in UTF-16 units.
const NAME_UNITS_MAX: usize = 128;
/// Largest value in bytes of its JSON text.
const VALUE_BYTES_MAX: usize = 8 * 1024;
/// Deepest value; a scalar counts one.
const VALUE_DEPTH_MAX: usize = 3;
/// Most tags.
pub const TAGS_MAX: usize = 10;
/// Longest tag and longest source system in UTF-16 units.
const WORD_UNITS_MAX: usize = 64;

/// What happens to values that already stand there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Strategy {
    /// They are replaced.
    Overwrite,
    /// Lists get the members that they lack, and scalars are set where none stands.
    Append,
    /// They are replaced by values that are newer at their source.
    KeepLatest,
}

impl Strategy {
    const NAMES: [(&'static str, Strategy); 3] =
        [("OVERWRITE", Self::Overwrite), ("APPEND", Self::Append), ("KEEP_LATEST", Self::KeepLatest)];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overwrite => "OVERWRITE",
            Self::Append => "APPEND",
            Self::KeepLatest => "KEEP_LATEST",
        }
    }
}

/// A checked payload.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The profile, a lower-case UUID.
    pub profile_id: String,
    /// The attributes.
    pub attributes: Map<String, Value>,
    /// What happens to values that stand there.
    pub strategy: Strategy,
    /// Where the data comes from.
    pub source_system: String,
    /// The job's own tags.
    pub tags: Vec<String>,
    /// When the source wrote the data.
    pub source_updated_at: Option<DateTime<Utc>>,
}

/// Why a payload is refused.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// It does not have the right shape.
    Invalid(Problems),
    /// Its shape is right, but data in it is too old or lies in the future.
    Stale(Problems),
}

/// Checks `payload` against the schema and the tenant's settings at the time `now`. Reports everything that is wrong.
pub fn check(payload: &Value, settings: &Settings, now: DateTime<Utc>) -> Result<Request, Refusal> {
    let mut problems = Problems::new();
    let mut stale = Problems::new();
    let request = read(payload, settings, now, &mut problems, &mut stale);
    if !problems.is_empty() {
        for problem in stale.list() {
            problems.push(problem.clone());
        }
        return Err(Refusal::Invalid(problems));
    }
    stale.or(request).map_err(Refusal::Stale)
}

fn read(
    payload: &Value,
    settings: &Settings,
    now: DateTime<Utc>,
    problems: &mut Problems,
    stale: &mut Problems,
) -> Option<Request> {
    let mut fields = Fields::of(payload, Pointer::root(), problems);
    let profile_id = fields.required("profileId", problems).and_then(|placed| profile_id(placed, problems));
    let attributes = fields.required("attributes", problems).and_then(|placed| attributes(placed, problems));
    let strategy = fields.required("mergeStrategy", problems).and_then(|placed| strategy(&placed, problems));
    let source = fields.required("sourceSystem", problems);
    let source_system = source.and_then(|placed| text(placed, WORD_UNITS_MAX, problems));
    let tags = fields.optional("tags", problems).map(|placed| tags(&placed, problems)).unwrap_or_default();
    let source_updated_at = fields
        .optional("sourceUpdatedAt", problems)
        .and_then(|(value, at)| time(value, &at, problems).map(|time| (time, at)));
    fields.end(problems);

    // A source time in the future would keep every later job from being the latest.
    if let Some((time, at)) = &source_updated_at
        && let Err(problem) = freshness::not_ahead(*time, now, settings.window)
    {
        stale.add(at, problem);
    }
    if let (Some(attributes), Some(source)) = (attributes, source_system) {
        fresh(attributes, source, settings, now, problems, stale);
    }
    if attributes.is_some_and(Map::is_empty) && tags.is_empty() && problems.is_empty() {
        problems.add(&Pointer::root(), "changes nothing; give an attribute or a tag");
    }
    Some(Request {
        profile_id: profile_id?,
        attributes: attributes?.clone(),
        strategy: strategy?,
        source_system: source_system?.to_owned(),
        tags,
        source_updated_at: source_updated_at.map(|(time, _)| time),
    })
}

/// Any UUID in the usual text form; upper and lower case name one profile.
fn profile_id(placed: Placed<'_>, problems: &mut Problems) -> Option<String> {
    let at = placed.1.clone();
    let id = uuid(text(placed, 36, problems)?);
    if id.is_none() {
        problems.add(&at, "must be a UUID such as 0b51f2a6-7c1d-4c59-9d2e-5d1c7f0a9b3e");
    }
    id
}

/// The lower-case text of a UUID in its hyphenated form, whatever its version.
pub fn uuid(text: &str) -> Option<String> {
    if text.len() != 36 {
        return None; // uuid also reads forms with braces and without hyphens.
    }
    Some(uuid::Uuid::try_parse(text).ok()?.hyphenated().to_string())
}

fn attributes<'v>((value, at): Placed<'v>, problems: &mut Problems) -> Option<&'v Map<String, Value>> {
    let Some(attributes) = value.as_object() else {
        problems.add(&at, "must be an object");
        return None;
    };
    if attributes.len() > ATTRIBUTES_MAX {
        problems.add(&at, format!("has {} attributes, more than {ATTRIBUTES_MAX}", attributes.len()));
        return None;
    }
    for (name, value) in attributes {
        let at = at.member(name);
        let units = utf16_units(name);
        if !(1..=NAME_UNITS_MAX).contains(&units) {
            problems.add(&at, format!("its name has {units} UTF-16 units; 1 to {NAME_UNITS_MAX} are accepted"));
        }
        if depth(value) > VALUE_DEPTH_MAX {
            problems.add(&at, format!("is nested deeper than {VALUE_DEPTH_MAX} levels"));
        }
        let bytes = value.to_string().len();
        if bytes > VALUE_BYTES_MAX {
            problems.add(&at, format!("takes {bytes} bytes as JSON, more than {VALUE_BYTES_MAX}"));
        }
    }
    Some(attributes)
}

fn strategy((value, at): &Placed<'_>, problems: &mut Problems) -> Option<Strategy> {
    let name = value.as_str().unwrap_or_default();
    let known = Strategy::NAMES.iter().find(|(known, _)| *known == name).map(|(_, strategy)| *strategy);
    if known.is_none() {
        problems.add(at, "must be OVERWRITE, APPEND or KEEP_LATEST");
    }
    known
}

fn tags(placed: &Placed<'_>, problems: &mut Problems) -> Vec<String> {
    let items = list(placed, TAGS_MAX, problems);
    items.into_iter().filter_map(|item| text(item, WORD_UNITS_MAX, problems).map(str::to_owned)).collect()
}

fn time(value: &Value, at: &Pointer, problems: &mut Problems) -> Option<DateTime<Utc>> {
    freshness::time(value).map_err(|expected| problems.add(at, expected)).ok()
}

/// Checks the declared time-bearing attributes, and no others: names that merely contain `date` are not times.
fn fresh(
    attributes: &Map<String, Value>,
    source: &str,
    settings: &Settings,
    now: DateTime<Utc>,
    problems: &mut Problems,
    stale: &mut Problems,
) {
    let times = settings.times(source);
    let at = Pointer::root().member("attributes");
    for name in &times.required_time_fields {
        if !attributes.contains_key(name) {
            problems.add(&at.member(name), "is required: the profile declares it as this source's time");
        }
    }
    for name in times.time_fields.iter().chain(&times.required_time_fields) {
        let Some(value) = attributes.get(name) else { continue };
        let at = at.member(name);
        if let Some(time) = time(value, &at, problems)
            && let Err(problem) = freshness::fresh(time, now, settings.window)
        {
            stale.add(&at, problem);
        }
    }
}

#[cfg(test)]
#[path = "payload_tests.rs"]
mod tests;
