//! Limits across the classes: what they cover, and what is refused.

use reqwest::Method;

use super::*;

const BASE: &str = "[crm]\nbase_url = \"https://crm.example.com\"\ntoken_env = \"SECRET\"\n";

#[test]
fn a_limit_covers_what_it_names() {
    let text = format!(
        "{BASE}[[crm.limits]]\nname = \"client\"\nper_minute = 300\n\
         [[crm.limits]]\nname = \"reads\"\nper_minute = 100\nmethods = [\"GET\"]\n\
         [[crm.limits]]\nname = \"one\"\nper_minute = 50\nendpoints = [\"thread\"]\n\
         [[crm.limits]]\nname = \"changes\"\nper_minute = 20\nendpoints = [\"thread\"]\nmethods = [\"PATCH\", \"PUT\"]\n"
    );
    let profiles = load(&text).unwrap();
    let crm = profiles.get("acme").unwrap().crm.as_ref().unwrap();
    assert_eq!(crm.wide_limits(), ["crm/client"]);
    assert_eq!(crm.narrow_limits("threads", &Method::GET), ["crm/reads"]);
    assert_eq!(crm.narrow_limits("thread", &Method::GET), ["crm/reads", "crm/one"]);
    assert_eq!(crm.narrow_limits("thread", &Method::PATCH), ["crm/one", "crm/changes"]);
    assert!(crm.narrow_limits("threads", &Method::POST).is_empty());
    assert_eq!(crm.limits[3].per_minute, 20);
}

#[test]
fn mistakes_in_limits_are_all_reported() {
    let text = format!(
        "{BASE}[[crm.limits]]\nname = \"threads\"\nper_minute = 0\n\
         [[crm.limits]]\nname = \"token\"\nper_minute = 1\n\
         [[crm.limits]]\nname = \"a\"\nper_minute = 1\nendpoints = [\"nowhere\"]\nmethods = []\n\
         [[crm.limits]]\nname = \"a\"\nper_minute = 1000001\nmethods = [\"GET\", \"GET\", \"TRACE\"]\n\
         [[crm.limits]]\nname = \"b\"\nper_minute = 1\n\
         [[crm.limits]]\nname = \"b\"\nper_minute = 1\n\
         [[crm.limits]]\nname = \"A/B\"\n"
    );
    assert_eq!(
        errors(&text),
        [
            "acme.toml: crm.limits[0].per_minute must lie between 1 and 1000000, not 0",
            "acme.toml: crm.limits[0].name `threads` is a class of this provider; set its limit in buckets",
            "acme.toml: crm.limits[1].name `token` is a class of this provider; set its limit in buckets",
            "acme.toml: crm.limits[2].endpoints must be a list of `thread`, `threads`",
            "acme.toml: crm.limits[2].methods must not be empty; leave it out to mean all",
            "acme.toml: crm.limits[3].per_minute must lie between 1 and 1000000, not 1000001",
            "acme.toml: crm.limits[3].methods names `GET` twice",
            "acme.toml: crm.limits[3].methods must be a list of `GET`, `POST`, `PUT`, `PATCH`, `DELETE`",
            "acme.toml: crm.limits[3].name `a` is given twice",
            "acme.toml: crm.limits[5].name `b` is given twice",
            "acme.toml: crm.limits[6].per_minute is needed: requests a minute",
            "acme.toml: crm.limits[6].name must be at most 40 of a-z, 0-9, `-` and `_`",
        ]
    );
    let many = "[[crm.limits]]\nname = \"a\"\nper_minute = 1\n".repeat(17);
    assert!(
        errors(&format!("{BASE}{many}")).contains(&"acme.toml: crm.limits has 17 entries, at most 16 are read".into())
    );
}
