use super::*;

const SHIPPED: &str = include_str!("../../../config/routes.toml");

fn problems(text: &str) -> String {
    Routes::from_toml(text).expect_err("the routes are wrong").to_string()
}

#[test]
fn the_shipped_routes_serve_the_contracts_paths() {
    let routes = Routes::from_toml(SHIPPED).expect("valid");
    let paths: Vec<(String, String)> =
        routes.sources.iter().map(|source| (source.path_of("acme"), source.bare_path())).collect();
    let expected = [
        ("/webhooks/acme/cxone", "/webhooks/cxone"),
        ("/api/webhooks/acme/cxone-threads", "/api/webhooks/cxone-threads"),
        ("/webhooks/acme/cxone-profiles", "/webhooks/cxone-profiles"),
        ("/webhooks/acme/genesys-audits", "/webhooks/genesys-audits"),
    ];
    assert_eq!(paths, expected.map(|(own, bare)| (own.to_owned(), bare.to_owned())));
}

#[test]
fn the_guides_example_is_valid() {
    let guide = include_str!("../../../docs/guide/ingress.md");
    let mut examples = guide.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let example = examples.find(|example| example.contains("[[sources]]")).expect("an example of routes");
    let routes = Routes::from_toml(example).expect("valid");
    assert_eq!(routes.sources[0].path_of("acme"), "/webhooks/acme/calls");
}

/// Covers row 79, row 80: a channel that nobody named is unknown, whatever it is called.
#[test]
fn events_and_channels_are_matched() {
    let routes = Routes::from_toml(SHIPPED).expect("valid");
    let interactions = routes.source("interactions").expect("a source");
    assert!(interactions.route("interaction.created", Some("voice")).is_ok());
    assert!(interactions.route("interaction.completed", Some("sms")).is_ok());
    for channel in ["email", "constructor", "__proto__", "Voice", ""] {
        assert_eq!(
            interactions.route("interaction.created", Some(channel)).err(),
            Some("unknown_channel"),
            "{channel}"
        );
    }
    assert_eq!(interactions.route("agent.created", Some("voice")).err(), Some("unmatched_event"));
    let threads = routes.source("threads").expect("a source");
    assert!(threads.route("THREAD_SPLIT", None).is_ok());
    assert_eq!(threads.route("THREAD_GONE", None).err(), Some("unmatched_event"));
}

/// A sender that cannot sign must name its deliveries, or a captured one could be sent again for ever.
#[test]
fn bearers_name_their_deliveries() {
    let text = SHIPPED.replace("delivery_id = [\"id\"]\n", "").replace("[\"entityid\"]", "[\"entity.id\"]");
    let found = problems(&text);
    assert!(found.contains("sources.audits: delivery_id is needed with proof = \"bearer\""), "{found}");
    assert!(found.contains("sources.audits: event_ids must be words without dots"), "{found}");
}

/// Covers row 82: a path that is more than names and places is refused at the start.
#[test]
fn scripts_are_refused_when_the_file_is_read() {
    let text = SHIPPED.replace("\"data.id\", \"eventType\"", "\"$..[?(@.id)]\", \"eventType\"");
    assert!(problems(&text).contains("sources.interactions: \"$..[?(@.id)]\" is no path"), "{}", problems(&text));
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = SHIPPED
        .replace("to = [\"threads-crm\"]", "to = [\"thread-crm\"]")
        .replace(
            "events = [\"interaction.*\"]\nchannels = [\"chat\"]",
            "events = [\"*.created\"]\nchannels = [\"chat\"]",
        )
        .replace("/api/webhooks/{tenant}/cxone-threads", "/api/webhooks/cxone-threads")
        .replace("copy = { threadId = \"data.threadId\" }", "copy = { threadId = \"data..threadId\" }")
        .replace("provider = \"cxone\"\nlist = \"webhooks\"", "provider = \"other\"\nlist = \"webhooks\"")
        .replace("calling_code = \"1\"", "calling_code = \"+1\"");
    let told = problems(&text);
    for part in [
        "dialling: calling_code must be",
        "there is no destination \"thread-crm\"; known are analytics",
        "sources.interactions.routes[1]: \"*.created\" is no event",
        "sources.threads: path must be",
        "destinations.threads-crm: \"data..threadId\" is no path",
        "sources.interactions.registration: provider must be",
    ] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
}

#[test]
fn unknown_keys_and_shapes_are_refused() {
    assert!(problems("sources = []\ndestinations = {}\n").contains("there must be 1 to"));
    assert!(
        problems(&SHIPPED.replace("keep_body", "x").replace("webhook_id = \"webhookId\"", "webhok_id = \"x\""))
            .contains("webhok_id")
    );
    assert!(problems("not toml").contains("line 1") || problems("not toml").contains("TOML"));
    let both = SHIPPED.replace("[destinations.analytics]\n", "[destinations.analytics]\ncopy = {}\n");
    assert!(problems(&both).contains("destinations.analytics: needs either fields"));
}
