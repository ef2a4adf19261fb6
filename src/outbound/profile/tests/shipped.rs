//! The examples and the explanation that ship in config/profiles.

use super::*;

const README: &str = include_str!("../../../../config/profiles/README.md");
const EXAMPLES: [&str; 2] = [
    include_str!("../../../../config/profiles/tenant.toml.example"),
    include_str!("../../../../config/profiles/real-products.toml.example"),
];

#[test]
fn the_examples_load() {
    for text in EXAMPLES {
        // Its secret is in a file that only production has.
        let text = text.replace("client_secret_file = \"/run/secrets/genesys\"", "client_secret_env = \"G\"");
        let loader = Loader::new().env(|_| Some("test-secret".to_owned()));
        let profiles = loader.from_toml([("acme.toml".to_owned(), text)]).unwrap();
        assert_eq!(profiles.get("acme").unwrap().providers().count(), 3);
    }
}

/// Every key that a section knows stands in the README.
#[test]
fn the_readme_explains_every_key() {
    let section = |name: &str| {
        format!(
            "[{name}]\nzz = 1\n[{name}.oauth]\nzz = 1\ngrant = \"password\"\n[{name}.endpoints]\nzz = \"/\"\n\
             [{name}.buckets]\nzz = 1\n[{name}.retry]\nzz = 1\n[{name}.occ]\nzz = 1\n[{name}.idem]\nzz = 1\n\
             [{name}.ratelimit]\nzz = 1\n[[{name}.limits]]\nzz = 1\n"
        )
    };
    let flavour = "[crm]\nflavour = \"salesforce\"\n[crm.record]\nzz = 1\n[crm.record.fields]\nzz = 1";
    let text = format!(
        "zz = 1\n{}{}{}[callback]\nzz = 1\n[probe]\nzz = 1\n[webhook]\nzz = 1\n[webhook.signature]\nzz = 1",
        section("cxone"),
        section("genesys"),
        section("crm")
    );
    let found: Vec<String> = errors(&text).into_iter().chain(errors(flavour)).collect();
    let lists: Vec<&str> = found
        .iter()
        .filter_map(|error| Some(error.split_once("zz is not a key of this section; known are ")?.1))
        .collect();
    assert_eq!(lists.len(), 34, "{found:#?}");
    for key in lists.iter().flat_map(|list| list.split(", ")) {
        // Known only to refuse them with a better message.
        let refused = ["token", "client_secret", "password", "secret", "previous_secret", "bearer", "previous_bearer"]
            .contains(&key)
            && !README.contains(&format!("`{key}`"));
        assert!(refused || README.contains(&format!("`{key}`")), "{key} is not explained");
    }
    for template in found_defaults() {
        assert!(README.contains(&format!("`{template}`")), "{template} is not explained");
    }
}

fn found_defaults() -> impl Iterator<Item = &'static str> {
    let records = [&defaults::ZENDESK, &defaults::SALESFORCE, &defaults::HUBSPOT, &defaults::DATAVERSE];
    [&defaults::CXONE, &defaults::GENESYS, &defaults::CRM]
        .into_iter()
        .chain(records)
        .flat_map(|defaults| defaults.endpoints.iter().map(|(_, template)| *template))
}
