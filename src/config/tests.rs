use std::{collections::BTreeMap, fs};

use secrecy::ExposeSecret;

use super::Settings;

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn problems(pairs: &[(&str, &str)]) -> String {
    Settings::load(None, &environment(pairs)).expect_err("the settings are wrong").to_string()
}

#[test]
fn the_compiled_in_defaults_are_complete_and_valid() {
    let settings = Settings::load(None, &BTreeMap::new()).expect("the defaults are valid");
    assert!(settings.database.url.is_none());
    assert!(settings.telemetry.otlp_endpoint.is_none(), "telemetry is off unless configured");
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
    let dir = std::env::temp_dir().join(format!("backhaul-settings-{}", uuid::Uuid::new_v4()));
    fs::create_dir(&dir).expect("a temporary directory");
    let file = dir.join("settings.toml");
    fs::write(&file, "[worker]\nconcurrency = 3\ngrace_s = 7\n").expect("the file is written");
    let set = environment(&[("BACKHAUL__WORKER__CONCURRENCY", "5"), ("BACKHAUL__WORKER__KINDS", "a, b")]);
    let settings = Settings::load(Some(&file), &set).expect("valid settings");
    fs::remove_dir_all(&dir).expect("the directory goes away");
    assert_eq!(settings.worker.concurrency, 5);
    assert_eq!(settings.worker.grace.as_secs(), 7);
    assert_eq!(settings.worker.kinds, ["a", "b"]);
}

#[test]
fn all_mistakes_come_out_together() {
    let text = problems(&[
        ("BACKHAUL__WORKER__CONCURRENCY", "many"),
        ("BACKHAUL__DATABASE__POOL_MAX", "0"),
        ("BACKHAUL__TELEMETRY__LOG_FORMAT", "xml"),
        ("BACKHAUL__WORKER__CONCURENCY", "4"),
    ]);
    assert!(text.contains("in 4 places"), "{text}");
    assert!(text.contains("worker.concurrency must be a whole number from 1 to 1000"), "{text}");
    assert!(text.contains("database.pool_max must be a whole number from 4 to 200"), "{text}");
    assert!(text.contains("telemetry.log_format must be one of auto, human, json"), "{text}");
    assert!(text.contains("worker.concurency is not a setting; did you mean worker.concurrency?"), "{text}");
}

/// Covers row 11 for settings: neither an error nor a debug print holds a secret.
#[test]
fn secrets_are_never_printed() {
    let text = problems(&[("BACKHAUL__DATABASE__URL", "mysql://u:hunter2hunter2@h/d")]);
    assert!(!text.contains("hunter2"), "{text}");
    let text = problems(&[("BACKHAUL__TELEMETRY__OTLP_HEADERS", "hunter2hunter2")]);
    assert!(!text.contains("hunter2"), "{text}");
    let set = environment(&[
        ("BACKHAUL__DATABASE__URL", "postgres://u:hunter2hunter2@h/d"),
        ("BACKHAUL__TELEMETRY__OTLP_HEADERS", "authorization=hunter2hunter2"),
    ]);
    let settings = Settings::load(None, &set).expect("valid settings");
    assert!(!format!("{settings:?}").contains("hunter2"));
    assert!(settings.database.url.expect("a URL").expose_secret().contains("hunter2"));
}

#[test]
fn a_broken_file_is_reported_by_line_without_its_text() {
    let file = std::env::temp_dir().join(format!("backhaul-broken-{}.toml", uuid::Uuid::new_v4()));
    fs::write(&file, "[database]\nurl = \"hunter2\n").expect("the file is written");
    let text = Settings::load(Some(&file), &BTreeMap::new()).expect_err("broken").to_string();
    fs::remove_file(&file).expect("the file goes away");
    assert!(text.contains("line 2"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn ages_are_days_or_none() {
    let ages = |pairs| {
        let worker = Settings::load(None, &environment(pairs)).expect("valid").worker;
        (worker.dead_letters.map(|age| age.as_secs()), worker.memories.map(|age| age.as_secs()))
    };
    assert_eq!(ages(&[]), (None, None), "nothing expires unless it is asked for");
    let asked = [("BACKHAUL__WORKER__DEAD_LETTERS_DAYS", "1"), ("BACKHAUL__WORKER__MEMORIES_DAYS", "30")];
    assert_eq!(ages(&asked), (Some(86_400), Some(30 * 86_400)));
    let text = problems(&[("BACKHAUL__WORKER__MEMORIES_DAYS", "29")]);
    assert!(text.contains("worker.memories_days must be 0 or at least 30"), "{text}");
}
