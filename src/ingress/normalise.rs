//! Phone numbers and mail addresses in the one form in which they can be compared.

use serde::Deserialize;

/// Digits of an E.164 number: at most 15 by the standard; fewer than 8 with the country's are no subscriber's.
const DIGITS_MIN: usize = 8;
const DIGITS_MAX: usize = 15;
/// Longest number as it is written, with everything between the digits.
const WRITTEN_BYTES_MAX: usize = 64;
/// Longest mail address, by RFC 5321.
const MAIL_BYTES_MAX: usize = 254;

/// How numbers without a country are read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dialling {
    /// Calling code of the country that is meant, for example `1` or `49`.
    pub calling_code: String,
    /// Digits that stand before a number within the country and fall away from abroad, for example `0` in Germany.
    #[serde(default)]
    pub trunk_prefix: String,
    /// Digits that are dialled in place of the plus.
    #[serde(default = "international")]
    pub international_prefix: String,
}

fn international() -> String {
    "00".to_owned()
}

impl Dialling {
    /// What is wrong with it, if anything.
    pub fn problem(&self) -> Option<&'static str> {
        let digits = |text: &str, most: usize| text.len() <= most && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(&self.calling_code, 3) || self.calling_code.is_empty() || self.calling_code.starts_with('0') {
            return Some("calling_code must be 1 to 3 digits, the first not 0");
        }
        let prefixes = digits(&self.trunk_prefix, 4) && digits(&self.international_prefix, 4);
        (!prefixes).then_some("prefixes must be at most 4 digits")
    }
}

/// The number as E.164 writes it, or nothing where the text is no number that could be dialled from abroad.
pub fn phone(text: &str, dialling: Option<&Dialling>) -> Option<String> {
    if text.len() > WRITTEN_BYTES_MAX {
        return None;
    }
    let text = text.trim();
    let text = text.strip_prefix("tel:").unwrap_or(text);
    let (plus, rest) = match text.strip_prefix('+') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut digits = String::with_capacity(DIGITS_MAX);
    for char in rest.chars() {
        match char {
            '0'..='9' => digits.push(char),
            // What people write between digits; anything else makes the text something else.
            ' ' | '-' | '(' | ')' | '.' | '/' | '\u{a0}' | '\u{2011}' => {}
            _ => return None,
        }
    }
    let international = match (plus, dialling) {
        (true, _) => digits,
        (false, Some(dialling)) => from_within(&digits, dialling),
        // Without a country a number can only be whole if it says so.
        (false, None) => digits.strip_prefix("00")?.to_owned(),
    };
    let whole = (DIGITS_MIN..=DIGITS_MAX).contains(&international.len()) && !international.starts_with('0');
    whole.then(|| format!("+{international}"))
}

fn from_within(digits: &str, dialling: &Dialling) -> String {
    let Dialling { calling_code, trunk_prefix, international_prefix } = dialling;
    if let Some(rest) = digits.strip_prefix(international_prefix.as_str()).filter(|_| !international_prefix.is_empty())
    {
        return rest.to_owned();
    }
    let national = digits.strip_prefix(trunk_prefix.as_str()).unwrap_or(digits);
    format!("{calling_code}{national}")
}

/// The address with its domain in lower case, or nothing where the text is no address. What stands before the `@`
/// belongs to the receiving host and is kept as it is.
pub fn mail(text: &str) -> Option<String> {
    let text = text.trim();
    let (local, domain) = text.rsplit_once('@')?;
    let fits = text.len() <= MAIL_BYTES_MAX && !local.is_empty() && local.len() <= 64;
    let plain = |part: &str| !part.chars().any(|char| char.is_whitespace() || char.is_control());
    let host = domain.contains('.')
        && domain.split('.').all(|label| !label.is_empty() && label.len() <= 63)
        && domain.chars().all(|char| char.is_alphanumeric() || matches!(char, '.' | '-'));
    (fits && host && plain(local) && !local.contains('@')).then(|| format!("{local}@{}", domain.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us() -> Dialling {
        Dialling { calling_code: "1".into(), trunk_prefix: "1".into(), international_prefix: "011".into() }
    }

    fn germany() -> Dialling {
        Dialling { calling_code: "49".into(), trunk_prefix: "0".into(), international_prefix: "00".into() }
    }

    /// Covers row 98: one number, however it is written.
    #[test]
    fn numbers_are_told_by_their_digits() {
        for text in [
            "+1 (555) 000-1001",
            "+15550001001",
            "tel:+1-555-000-1001",
            " +1.555.000.1001 ",
            "(555) 000-1001",
            "1 555 000 1001",
            "011 1 555 000 1001",
        ] {
            assert_eq!(phone(text, Some(&us())).as_deref(), Some("+15550001001"), "{text}");
        }
        for text in ["+49 30 901820", "030 901820", "030/901820", "0049 30 901820"] {
            assert_eq!(phone(text, Some(&germany())).as_deref(), Some("+4930901820"), "{text}");
        }
        assert_eq!(phone("0049 30 901820", None).as_deref(), Some("+4930901820"));
        assert_eq!(phone("030 901820", None), None);
    }

    #[test]
    fn what_is_no_number_is_none() {
        for text in [
            "",
            "anonymous",
            "12345",
            "+0123456789",
            "+1234567",
            "+1234567890123456",
            "555-CALL-NOW",
            "+1 555 000 1001 x7",
            "++15550001001",
            "1\u{0}5550001001",
        ] {
            assert_eq!(phone(text, Some(&us())), None, "{text:?}");
        }
        assert_eq!(phone(&"1 ".repeat(40), Some(&us())), None);
        assert!(us().problem().is_none());
        assert!(Dialling { calling_code: "0".into(), ..us() }.problem().is_some());
        assert!(Dialling { trunk_prefix: "x".into(), ..us() }.problem().is_some());
    }

    /// Covers row 98: a domain has no case, what stands before it may have one.
    #[test]
    fn mail_domains_are_in_lower_case() {
        assert_eq!(mail(" Ann.O'Neil@Example.COM ").as_deref(), Some("Ann.O'Neil@example.com"));
        assert_eq!(mail("x@BÜCHER.example").as_deref(), Some("x@bücher.example"));
        for text in ["", "@x.y", "a@", "a@localhost", "a b@x.y", "a@x..y", "a@b@x.y", "a@x y.z", "a@x.y\n"] {
            let kept = mail(text);
            assert!(kept.is_none() || text.trim() != text, "{text:?} gave {kept:?}");
        }
        assert_eq!(mail(&format!("{}@x.y", "a".repeat(65))), None);
    }
}
