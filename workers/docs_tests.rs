//! The kinds' documents say what the code does.

use std::collections::BTreeSet;

use chrono::DateTime;
use serde_json::Value;

use crate::{
    crm_sync::CrmSync, deliver::Deliver, enrichment::Enrichment, handshake::Handshake, widget_patch::WidgetPatch,
};

const CRM_SYNC: &str = include_str!("../docs/kinds/crm-sync.md");
const DELIVER: &str = include_str!("../docs/kinds/deliver.md");
const HANDSHAKE: &str = include_str!("../docs/kinds/handshake.md");
const WIDGET_PATCH: &str = include_str!("../docs/kinds/widget-patch.md");
const ENRICHMENT: &str = include_str!("../docs/kinds/enrichment.md");

/// The first block of a language in a document.
fn block<'d>(document: &'d str, language: &str) -> &'d str {
    let fence = format!("```{language}\n");
    let from = document.find(&fence).expect("the document has such a block") + fence.len();
    let to = document[from..].find("```").expect("the block ends");
    &document[from..from + to]
}

#[test]
fn the_documents_payloads_are_accepted() {
    let payload: Value = serde_json::from_str(block(WIDGET_PATCH, "json")).expect("JSON");
    let rules = crate::widget_patch::settings::Rules::default();
    assert!(WidgetPatch::new(payload).check(&rules).is_ok());

    assert!(serde_json::from_str::<Deliver>(block(DELIVER, "json")).is_ok());

    let payload: Value = serde_json::from_str(block(HANDSHAKE, "json")).expect("JSON");
    assert!(Handshake::new(payload).check().is_ok());

    let settings = crate::crm_sync::settings::CrmSyncSettings::default();
    let (first, rest) = CRM_SYNC.split_once("```json\n").expect("two payloads");
    assert!(!first.is_empty());
    for document in [CRM_SYNC, &rest[rest.find("or a request").expect("the second one")..]] {
        let job: CrmSync = serde_json::from_str(block(document, "json")).expect("JSON");
        assert!(job.request(&settings).is_ok());
    }

    let payload: Value = serde_json::from_str(block(ENRICHMENT, "json")).expect("JSON");
    let settings = crate::enrichment::settings::test_settings("");
    let request = Enrichment::new(payload).check(&settings, DateTime::UNIX_EPOCH).expect("a valid payload");
    assert!(crate::enrichment::policy::clear(&request, &settings).is_ok());
}

#[test]
fn the_documents_settings_are_accepted() {
    let table: toml::Table = block(WIDGET_PATCH, "toml").parse().expect("TOML");
    let rules: crate::widget_patch::settings::Rules =
        table["kinds"]["widget-patch"].clone().try_into().expect("the table has the right shape");
    assert_eq!(rules, crate::widget_patch::settings::Rules::default(), "the document shows the defaults");

    let table: toml::Table = block(DELIVER, "toml").parse().expect("TOML");
    let settings: crate::deliver::settings::DeliverSettings =
        table["kinds"]["deliver"].clone().try_into().expect("the table has the right shape");
    assert_eq!(settings.targets.len(), 3);

    let table: toml::Table = block(HANDSHAKE, "toml").parse().expect("TOML");
    let settings: crate::handshake::settings::HandshakeSettings =
        table["kinds"]["handshake"].clone().try_into().expect("the table has the right shape");
    assert_eq!(settings, Default::default(), "the document shows the defaults");

    let table: toml::Table = block(CRM_SYNC, "toml").parse().expect("TOML");
    let mut settings: crate::crm_sync::settings::CrmSyncSettings =
        table["kinds"]["crm-sync"].clone().try_into().expect("the table has the right shape");
    settings.roles.clear();
    assert_eq!(settings, Default::default(), "the document shows the defaults, and an example of a role");

    let table: toml::Table = block(ENRICHMENT, "toml").parse().expect("TOML");
    let table: crate::enrichment::settings::Table =
        table["kinds"]["enrichment"].clone().try_into().expect("the table has the right shape");
    assert!(table.complete("acme", &|_| Some("test-secret-test-secret".to_owned())).is_ok());
}

/// The codes that a source file gives to failures.
fn codes(source: &str) -> BTreeSet<&str> {
    let mut codes = BTreeSet::new();
    for start in ["Failure::permanent(", "Failure::transient(", "Failure::snoozed("] {
        for (at, _) in source.match_indices(start) {
            let arguments = &source[at + start.len()..];
            // A snooze names its time first.
            let code = arguments.split('"').nth(1).unwrap_or_default();
            codes.insert(code);
        }
    }
    // Clients have one table of names, or one an endpoint.
    for names in source.split("NAMES: &[").skip(1) {
        let names = names.split("];").next().unwrap_or_default();
        for pair in names.split("(\"").skip(1) {
            codes.insert(pair.split('"').nth(2).unwrap_or_default());
        }
    }
    codes
}

/// Every code has its cause and its remedy.
#[test]
fn the_documents_list_every_code() {
    // The tests of the clients stand in the same file, and their failures are no codes of the product.
    let tests_cut = |source: &'static str| source.split("#[cfg(test)]").next().unwrap_or_default();
    let widget = [
        include_str!("widget_patch.rs"),
        include_str!("widget_patch/write.rs"),
        include_str!("api/session.rs"),
        include_str!("api/widgets.rs"),
        include_str!("api/callback.rs"),
    ];
    let enrichment = [
        include_str!("enrichment.rs"),
        include_str!("enrichment/intent.rs"),
        include_str!("enrichment/write.rs"),
        include_str!("api/profiles.rs"),
        include_str!("api/session.rs"),
    ];
    let crm_sync = [
        include_str!("crm_sync/run.rs"),
        include_str!("crm_sync/pass.rs"),
        include_str!("crm_sync/plan.rs"),
        include_str!("crm_sync/push.rs"),
        include_str!("api/threads.rs"),
        include_str!("api/crm_record.rs"),
        include_str!("api/precondition.rs"),
        include_str!("api/session.rs"),
    ];
    let deliver = [include_str!("deliver.rs")];
    let handshake = [
        include_str!("handshake/run.rs"),
        include_str!("handshake/apply.rs"),
        include_str!("handshake/door.rs"),
        include_str!("handshake/history.rs"),
        include_str!("handshake/publish.rs"),
        include_str!("handshake/confirm.rs"),
        include_str!("handshake/update.rs"),
        include_str!("handshake/watch.rs"),
        include_str!("api/channels.rs"),
        include_str!("api/audit.rs"),
        include_str!("api/precondition.rs"),
        include_str!("api/session.rs"),
    ];
    let mut seen = 0;
    let kinds = [
        (WIDGET_PATCH, &widget[..]),
        (ENRICHMENT, &enrichment[..]),
        (CRM_SYNC, &crm_sync[..]),
        (DELIVER, &deliver[..]),
        (HANDSHAKE, &handshake[..]),
    ];
    for (document, sources) in kinds {
        for code in sources.iter().flat_map(|source| codes(tests_cut(source))) {
            assert!(document.contains(&format!("`{code}`")), "{code} is not in its document");
            seen += 1;
        }
    }
    assert!(seen > 50, "only {seen} codes were found");
    for code in crate::probe::outcome::CODES {
        assert!(HANDSHAKE.contains(&format!("`{code}`")), "{code} is not in its document");
    }
}
