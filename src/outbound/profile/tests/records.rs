//! `[crm] flavour` and `[crm.record]`.

use super::*;
use crate::classify::RateHeaders;

const FIELDS: &str = "fields = { threadId = \"f_id\", parentThreadId = \"f_parent\", status = \"f_status\",
    sourceVersion = \"f_version\", updatedAt = \"f_time\", messages = \"f_messages\", participants = \"f_people\" }";

fn crm(flavour: &str, record: &str) -> String {
    format!(
        "[crm]\nbase_url = \"https://crm.example.com\"\ntoken_env = \"SECRET\"\nflavour = \"{flavour}\"\n\
         [crm.record]\n{record}\n"
    )
}

fn provider(text: &str) -> Provider {
    load(text).unwrap().get("acme").unwrap().crm.clone().unwrap()
}

/// A flavour is a set of defaults, each of which the profile can still set.
#[test]
fn a_flavour_brings_its_defaults() {
    let known = [
        ("salesforce", OccMode::IfUnmodifiedSince, RateHeaders::None, 131_072),
        ("hubspot", OccMode::None, RateHeaders::None, 65_536),
        ("dataverse", OccMode::Etag, RateHeaders::None, 1_048_576),
    ];
    for (flavour, mode, headers, units) in known {
        let crm = provider(&crm(flavour, &format!("object = \"things\"\n{FIELDS}")));
        let form = crm.record.as_ref().unwrap();
        assert_eq!((crm.occ.mode, crm.retry.rate_headers, crm.idem.on), (mode, headers, IdemOn::Never), "{flavour}");
        assert_eq!((form.text_units_max, form.object.as_str(), form.id_field.as_str()), (units, "things", "f_id"));
        assert_eq!(form.field("messages"), "f_messages");
        assert!(form.create.is_empty(), "{flavour}");
        assert_eq!(crm.endpoints.keys().collect::<Vec<_>>(), ["record", "thread", "threads"], "{flavour}");
    }
    let tickets = "create = { ticket_form_id = 3 }\nfields = { parentThreadId = 1, status = \"2\", sourceVersion = 3,
        updatedAt = 4, messages = 360000000000005, participants = 6 }";
    let zendesk = provider(&format!(
        "{}[crm.occ]\nmode = \"none\"\n[crm.endpoints]\nrecord = \"/t/{{recordId}}\"",
        crm("zendesk", tickets)
    ));
    let form = zendesk.record.as_ref().unwrap();
    assert_eq!((zendesk.idem.on, zendesk.retry.rate_headers), (IdemOn::Create, RateHeaders::XRateLimit));
    assert_eq!((zendesk.occ.mode, zendesk.endpoints["record"].as_str()), (OccMode::None, "/t/{recordId}"));
    assert_eq!((form.object.as_str(), form.id_field.as_str()), ("tickets", "external_id"));
    assert_eq!((form.field("messages"), form.field("status")), ("360000000000005", "2"));
    assert_eq!(form.create, serde_json::from_str("{\"ticket_form_id\": 3}").unwrap(), "as it is written");

    let threads =
        provider("[crm]\nbase_url = \"https://crm.example.com\"\ntoken_env = \"SECRET\"\nflavour = \"threads\"");
    assert!(threads.record.is_none() && threads.idem.on == IdemOn::Always);
}

/// What an installation has to say for itself is asked for by name, all of it at once.
#[test]
fn what_is_missing_is_named() {
    assert_eq!(
        errors(&crm("salesforce", "fields = { threadId = \"a\", status = \"a\", messages = \"b c\" }")),
        [
            "acme.toml: crm.record.object is not set; name the object type, or the entity set",
            "acme.toml: crm.record.fields.parentThreadId is not set; name the field that holds it",
            "acme.toml: crm.record.fields.status names the field a, which another member has already",
            "acme.toml: crm.record.fields.sourceVersion is not set; name the field that holds it",
            "acme.toml: crm.record.fields.updatedAt is not set; name the field that holds it",
            "acme.toml: crm.record.fields.messages must be at most 100 letters, digits, `_` and `-`",
            "acme.toml: crm.record.fields.participants is not set; name the field that holds it",
        ]
    );
    let zendesk =
        errors(&crm("zendesk", "object = \"users\"\nfields = { threadId = \"1\", messages = \"text\" }")).join("\n");
    for want in [
        "crm.record.object is not a key of this section",
        "crm.record.fields.threadId is not a key of this section",
        "crm.record.fields.messages must be the number of a custom ticket field",
        "crm.record.fields.status is not set; give the number of a custom ticket field",
    ] {
        assert!(zendesk.contains(want), "missing {want:?} in\n{zendesk}");
    }
    let base = "[crm]\nbase_url = \"https://crm.example.com\"\ntoken_env = \"SECRET\"\n";
    assert_eq!(
        errors(&format!("{base}flavour = \"hubspot\"")),
        ["acme.toml: crm.record is missing: a flavour with records needs [crm.record] with the names of its fields"]
    );
    assert_eq!(
        errors(&format!("{base}[crm.record]\nobject = \"x\"")),
        ["acme.toml: crm.record is for the flavours with records; set flavour"]
    );
    assert_eq!(
        errors(&crm("sugar", "object = \"x\"")),
        ["acme.toml: crm.flavour must be one of `threads`, `zendesk`, `salesforce`, `hubspot`, `dataverse`"]
    );
    assert!(
        errors(&crm("hubspot", "object = \"x\"\ntext_units_max = 9"))[0].contains("must lie between 255 and 1048576")
    );
}
