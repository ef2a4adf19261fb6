//! What a registration should look like, and whether one does.

use serde_json::{Map, Value};

/// A registration as it should stand.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    body: Value,
    /// Members that upstreams never show, so that they cannot be compared.
    hidden: Vec<String>,
}

impl Wanted {
    /// Fills `{url}` and `{secret}` into the members of `template`. Without a secret, a member that asks for one is left
    /// out.
    pub(super) fn new(template: &Map<String, Value>, url: &str, secret: Option<&str>) -> Self {
        let (mut body, mut hidden) = (Map::new(), Vec::new());
        for (name, value) in template {
            match value.as_str() {
                Some("{url}") => drop(body.insert(name.clone(), url.into())),
                Some("{secret}") => {
                    hidden.push(name.clone());
                    if let Some(secret) = secret {
                        body.insert(name.clone(), secret.into());
                    }
                }
                _ => drop(body.insert(name.clone(), value.clone())),
            }
        }
        Self { body: Value::Object(body), hidden }
    }

    /// Whether it holds what upstreams never show.
    pub(super) fn is_secret(&self) -> bool {
        self.hidden.iter().any(|name| self.body.get(name).is_some())
    }

    /// The whole registration.
    pub(super) fn body(&self) -> &Value {
        &self.body
    }

    /// Ours among those that stand there: known by its name. Of several, the one that is right already.
    pub(super) fn find<'v>(&self, list: &'v Value) -> Option<&'v Value> {
        let entries = [list.get("entities"), list.get("webhooks"), list.get("items"), list.get("data"), Some(list)];
        let entries = entries.into_iter().flatten().find_map(Value::as_array)?;
        let mut ours = entries.iter().filter(|entry| entry.get("name") == self.body.get("name")).peekable();
        let first = ours.peek().copied();
        ours.find(|entry| self.is_met_by(entry)).or(first)
    }

    /// Whether what stands there says all that ours should. Further members are the upstream's own.
    pub(super) fn is_met_by(&self, standing: &Value) -> bool {
        let Some(wanted) = self.body.as_object() else { return false };
        let mut compared = wanted.iter().filter(|(name, _)| !self.hidden.contains(name));
        compared.all(|(name, value)| standing.get(name).is_some_and(|other| same(value, other)))
    }

    /// What stands there with ours written over it, for upstreams that replace: members we do not know stay.
    pub(super) fn over(&self, standing: &Value) -> Value {
        let mut body = standing.as_object().cloned().unwrap_or_default();
        if let Some(wanted) = self.body.as_object() {
            body.extend(wanted.clone());
        }
        Value::Object(body)
    }
}

/// Lists of events have no order.
fn same(wanted: &Value, other: &Value) -> bool {
    match (wanted, other) {
        (Value::Array(wanted), Value::Array(other)) => {
            wanted.len() == other.len() && wanted.iter().all(|item| other.contains(item))
        }
        _ => wanted == other,
    }
}

/// The webhook's id, at the first member that holds one.
pub(super) fn id_of(webhook: &Value, members: &[String]) -> Option<String> {
    members.iter().find_map(|member| match webhook.get(member)? {
        Value::String(id) if !id.is_empty() => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wanted() -> Wanted {
        let template = json!({"name": "n", "url": "{url}", "events": ["a", "b"], "secret": "{secret}"});
        Wanted::new(template.as_object().expect("an object"), "https://x/1", Some("test-secret"))
    }

    /// Covers row 93: what stands there is compared, and not taken for right because it is there.
    #[test]
    fn registrations_are_compared() {
        let wanted = wanted();
        assert_eq!(wanted.body()["secret"], "test-secret");
        assert!(wanted.is_secret());
        let right = json!({"id": "1", "name": "n", "url": "https://x/1", "events": ["b", "a"], "version": 3});
        assert!(wanted.is_met_by(&right));
        for (member, value) in
            [("url", json!("https://old/1")), ("events", json!(["a"])), ("events", json!(["a", "c"]))]
        {
            let mut other = right.clone();
            other[member] = value;
            assert!(!wanted.is_met_by(&other), "{other}");
        }
        let stands = json!({"id": "1", "name": "n", "url": "https://old", "owner": "o"});
        let repaired = wanted.over(&stands);
        assert_eq!((repaired["url"].as_str(), repaired["owner"].as_str()), (Some("https://x/1"), Some("o")));
        assert!(wanted.is_met_by(&repaired));
    }

    #[test]
    fn ours_is_found_by_its_name() {
        let wanted = wanted();
        let right = json!({"name": "n", "url": "https://x/1", "events": ["a", "b"], "webhookId": 7});
        let list = |entries: Value| json!({"entities": entries, "total": 1});
        assert_eq!(wanted.find(&list(json!([{"name": "m"}]))), None);
        assert_eq!(wanted.find(&list(json!([{"name": "n"}, right]))), Some(&right));
        assert_eq!(wanted.find(&json!([{"name": "n"}])), Some(&json!({"name": "n"})));
        assert_eq!(wanted.find(&json!("no list")), None);
        let ids = ["id".to_owned(), "webhookId".to_owned()];
        assert_eq!(id_of(&right, &ids).as_deref(), Some("7"));
        assert_eq!(id_of(&json!({"id": ""}), &ids), None);
        let bare = Wanted::new(json!({"secret": "{secret}"}).as_object().expect("an object"), "", None);
        assert_eq!(bare.body(), &json!({}));
        assert!(!bare.is_secret());
    }
}
