//! Path templates and the ids that fill them (row 15).

use url::Url;

/// Most bytes of an id.
pub const ID_BYTES_MAX: usize = 128;

/// Checks an id against the default pattern `[A-Za-z0-9_-]{1,128}`.
///
/// # Errors
/// What is wrong with it, to be read after the id's name.
pub fn check_id(id: &str) -> Result<(), &'static str> {
    check_chars(id, |byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
        .map_err(|()| "must be 1 to 128 letters, digits, `_` and `-`")
}

/// What a path parameter may hold at most: characters that no server reads as a separator, an escape or a step.
fn check_param(value: &str) -> Result<(), &'static str> {
    if value.bytes().all(|byte| byte == b'.') {
        return Err("must not be empty or dots alone");
    }
    check_chars(value, |byte| byte.is_ascii_alphanumeric() || b"_-.~:@+=".contains(&byte))
        .map_err(|()| "must be 1 to 128 letters, digits and the signs _ - . ~ : @ + =")
}

fn check_chars(text: &str, allowed: impl Fn(u8) -> bool) -> Result<(), ()> {
    if !text.is_empty() && text.len() <= ID_BYTES_MAX && text.bytes().all(allowed) { Ok(()) } else { Err(()) }
}

/// A path template such as `/api/v2/profiles/{profileId}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template<'a> {
    parts: Vec<Part<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part<'a> {
    Text(&'a str),
    Name(&'a str),
}

impl<'a> Template<'a> {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it, to be read after its key.
    pub fn parse(text: &'a str) -> Result<Self, &'static str> {
        if !text.starts_with('/') || text.starts_with("//") {
            return Err("must begin with one `/`");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\\%\"<>".contains(&byte)) {
            return Err("must be a plain path without query, escapes and spaces");
        }
        if text.split('/').any(|segment| segment == "." || segment == "..") {
            return Err("must not hold `.` or `..` as a segment");
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or("has a `{` without `}`")?;
            if before.contains('}') || name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err("needs letters and digits between `{` and `}`");
            }
            parts.extend([Part::Text(before), Part::Name(name)]);
            rest = after;
        }
        if rest.contains('}') {
            return Err("has a `}` without `{`");
        }
        parts.push(Part::Text(rest));
        Ok(Self { parts })
    }

    /// The names of the placeholders, in order.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Name(name) => Some(*name),
            Part::Text(_) => None,
        })
    }

    /// Appends the filled template to `base`. Parameters that the template does not name are ignored, so that a
    /// profile may move an id elsewhere.
    ///
    /// # Errors
    /// The parameter's name, and what is wrong with its value.
    pub fn fill(&self, base: &Url, params: &[(&str, &str)]) -> Result<Url, (String, &'static str)> {
        let mut path = base.path().trim_end_matches('/').to_owned();
        for part in &self.parts {
            match part {
                Part::Text(text) => path.push_str(text),
                Part::Name(name) => {
                    let value = params.iter().find(|(param, _)| param == name).map(|(_, value)| *value);
                    let value = value.ok_or_else(|| ((*name).to_owned(), "is not given"))?;
                    check_param(value).map_err(|what| ((*name).to_owned(), what))?;
                    encode_segment(value, &mut path);
                }
            }
        }
        let mut url = base.clone();
        url.set_path(&path);
        // The parser resolves dot segments; a path that changed shape would leave the endpoint.
        if url.path() != path {
            return Err(("path".to_owned(), "does not stay within its endpoint"));
        }
        Ok(url)
    }
}

/// Percent-encodes all but the unreserved characters of RFC 3986, so that any text is one segment.
fn encode_segment(value: &str, path: &mut String) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Url {
        Url::parse("https://crm.example.com/api/v1/").unwrap()
    }

    /// Covers row 15.
    #[test]
    fn an_id_stays_one_segment() {
        let template = Template::parse("/threads/{threadId}").unwrap();
        let fill = |id: &str| template.fill(&base(), &[("threadId", id)]).map(|url| url.to_string());
        assert_eq!(fill("T-1_a").unwrap(), "https://crm.example.com/api/v1/threads/T-1_a");
        assert_eq!(fill("urn:a@b+c=").unwrap(), "https://crm.example.com/api/v1/threads/urn%3Aa%40b%2Bc%3D");
        for id in [
            "..%2F..%2F..%2Fwebhooks",
            "../webhooks",
            "a/b",
            "a\\b",
            ".",
            "..",
            "",
            "a b",
            "é",
            "a\n",
            "a%2fb",
            "a?b",
            "a#b",
            "a;b",
        ] {
            let (name, _) = fill(id).unwrap_err();
            assert_eq!(name, "threadId", "{id:?}");
        }
        assert!(fill(&"a".repeat(129)).is_err());
        assert_eq!(template.fill(&base(), &[]).unwrap_err(), ("threadId".to_owned(), "is not given"));
    }

    #[test]
    fn ids_match_their_pattern() {
        assert!(check_id("cfg_0f6e-1").is_ok());
        for id in ["", "a.b", "a/b", "a b", &"a".repeat(129)] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn templates_are_checked() {
        for text in ["a", "//evil", "/a?b", "/a#b", "/{", "/}", "/{}", "/{a/b}", "/../a", "/a/./b", "/a%2fb", "/a b"] {
            assert!(Template::parse(text).is_err(), "{text:?}");
        }
        let template = Template::parse("/a/{one}/b({two})").unwrap();
        assert_eq!(template.names().collect::<Vec<_>>(), ["one", "two"]);
        let url = template.fill(&base(), &[("two", "2"), ("one", "1")]).unwrap();
        assert_eq!(url.path(), "/api/v1/a/1/b(2)");
    }
}
