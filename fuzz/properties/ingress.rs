//! The webhook receiver's readers.

use std::sync::LazyLock;

use backhaul_ingress::{
    Routes, event,
    json::{DEPTH_MAX, Json},
    path::Path,
};
use uuid::Uuid;

use super::{made_of, text};

static ROUTES: LazyLock<Routes> =
    LazyLock::new(|| Routes::from_toml(include_str!("../../config/routes.toml")).expect("the shipped routes"));

/// What the strict reader accepts, the usual one accepts too and reads alike; and every source's reading of it is made
/// of what it says.
pub(super) fn body(bytes: &[u8]) {
    let Ok(document) = Json::parse(bytes) else { return };
    let usual: serde_json::Value = serde_json::from_slice(bytes).expect("JSON");
    let written = document.to_string();
    assert_eq!(Json::parse(written.as_bytes()).as_ref(), Ok(&document), "what is written reads alike");
    let again: serde_json::Value = serde_json::from_str(&written).expect("JSON");
    assert_eq!(again, usual);
    assert_storable(&document, 1);
    for source in &ROUTES.sources {
        let Ok(reading) = event::read(source, &document) else { continue };
        assert!((1..=256).contains(&reading.event_type.len()));
        assert_eq!(reading.identity.len(), source.identity.len());
        let Ok(route) = source.route(&reading.event_type, reading.channel.as_deref()) else { continue };
        let received_at = reading.occurred_at;
        let arrival = event::Arrival { id: Uuid::nil(), received_at };
        let (record, _) = event::record(&ROUTES, source, route, &reading, arrival, &document);
        let record = record.to_string();
        assert!(Json::parse(record.as_bytes()).is_ok(), "{record}");
    }
}

fn assert_storable(value: &Json, depth: usize) {
    match value {
        Json::Text(text) => assert!(!text.contains('\0')),
        Json::List(items) => {
            assert!(depth <= DEPTH_MAX);
            items.iter().for_each(|item| assert_storable(item, depth + 1));
        }
        Json::Object(members) => {
            assert!(depth <= DEPTH_MAX);
            let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
            names.sort_unstable();
            assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
            members.iter().for_each(|(_, value)| assert_storable(value, depth + 1));
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

/// An accepted path is made of names and list places, and finds what a JSON pointer of its steps finds.
pub(super) fn path(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let (text, document) = text.split_once('\n').unwrap_or((text, r#"{"data":{"a":[{"b":1},[2]],"constructor":3}}"#));
    let Ok(path) = Path::parse(text) else { return };
    assert_eq!(path.to_string(), text);
    assert!(text.len() <= 200 && made_of(text, |it| it.is_ascii_alphanumeric() || "_-.[]".contains(it)), "{text:?}");
    let pointer = path.pointer();
    assert!(pointer.starts_with('/') && !pointer.contains(['.', '[', ']', '~']), "{pointer:?}");
    let (Ok(document), Ok(usual)) =
        (Json::parse(document.as_bytes()), serde_json::from_str::<serde_json::Value>(document))
    else {
        return;
    };
    if let Some(found) = path.find(&document) {
        let found: serde_json::Value = serde_json::from_str(&found.to_string()).expect("JSON");
        assert_eq!(usual.pointer(&pointer), Some(&found));
    }
    let mut copied = Json::object();
    path.copy(&document, &mut copied);
    assert!(Json::parse(copied.to_string().as_bytes()).is_ok());
}
