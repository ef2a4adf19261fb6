//! Free text that ends up in a page: a closed set of characters, and a deny list on the decoded value behind it.
//!
//! The set of characters is the wall. The list is there for texts that are made of harmless characters and still mean
//! something to a browser, such as a script URL.

/// Words that a browser acts on. They are looked for in the decoded, lower-cased text; those that start with a letter
/// only where no letter, digit or hyphen stands before them, so that `scroll-behavior:` passes.
const DENIED: &[&str] = &[
    "expression(",
    "javascript:",
    "vbscript:",
    "livescript:",
    "data:text",
    "data:image",
    "data:application",
    "@import",
    "@charset",
    "@font-face",
    "@namespace",
    "url(",
    "src(",
    "image(",
    "image-set(",
    "cross-fade(",
    "-webkit-image-set(",
    "element(",
    "paint(",
    "behavior:",
    "-ms-behavior:",
    "-moz-binding",
    "srcdoc=",
    "onerror=",
    "onload=",
    "<",
];

/// Whether `text` may stand in a widget document. Says what is wrong without repeating the text.
pub fn check(text: &str) -> Result<(), &'static str> {
    let allowed = |char: char| char.is_alphanumeric() || char == ' ' || "_-.,:/@#+=%&?!()[]'|*$".contains(char);
    if !text.chars().all(allowed) {
        return Err("may hold letters, digits, spaces and _-.,:/@#+=%&?!()[]'|*$ only");
    }
    if denied(text) {
        return Err("holds a word that a browser would act on");
    }
    Ok(())
}

/// Whether a denied word stands in `text` once it is decoded.
pub fn denied(text: &str) -> bool {
    let decoded = decode(text);
    // Browsers drop control characters inside words, and treat them as spaces between them: both readings count.
    let spaced: String = decoded.chars().map(|char| if ignorable(char) { ' ' } else { char }).collect();
    let dropped: String = decoded.chars().filter(|&char| !ignorable(char)).collect();
    [spaced, dropped].iter().any(|reading| {
        let tight = close_up(reading);
        DENIED.iter().any(|word| occurs(&tight, word))
    })
}

/// Removes the spaces before and after the characters that end a denied word: `url (` is `url(`.
fn close_up(text: &str) -> String {
    let mut tight = String::with_capacity(text.len());
    for char in text.chars() {
        if "(:=".contains(char) {
            let kept = tight.trim_end().len();
            tight.truncate(kept);
        }
        if !(char.is_whitespace() && tight.ends_with(['(', ':', '=', '@'])) {
            tight.push(char);
        }
    }
    tight
}

fn occurs(text: &str, word: &str) -> bool {
    let bound = word.starts_with(|char: char| char.is_ascii_alphabetic());
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        !bound || !before.is_some_and(|char| char.is_alphanumeric() || char == '-' || char == '_')
    })
}

/// Control, zero-width and soft-hyphen characters.
fn ignorable(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
}

/// The text as a browser may come to read it: percent and CSS escapes decoded, comments removed, full-width letters
/// narrowed, lower case.
fn decode(text: &str) -> String {
    let text = css_unescape(&percent_decode(text));
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(start) = rest.find("/*") {
        decoded.push_str(&rest[..start]);
        rest = rest[start + 2..].find("*/").map_or("", |end| &rest[start + 2 + end + 2..]);
    }
    decoded.push_str(rest);
    decoded.chars().map(narrow).flat_map(char::to_lowercase).collect()
}

/// The ASCII form of a full-width character; old browsers took those for the real ones.
fn narrow(char: char) -> char {
    match char {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(char) - 0xfee0).unwrap_or(char),
        '\u{3000}' => ' ',
        other => other,
    }
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let pair = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%').and_then(|pair| {
            let pair = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(pair, 16).ok()
        });
        match pair {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// CSS escapes: a backslash and up to six hexadecimal digits with one space behind them, a backslash before a line
/// end, or before any other character.
fn css_unescape(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        if char != '\\' {
            decoded.push(char);
            continue;
        }
        let mut code = String::new();
        while code.len() < 6
            && let Some(digit) = chars.next_if(char::is_ascii_hexdigit)
        {
            code.push(digit);
        }
        if let Ok(code) = u32::from_str_radix(&code, 16) {
            chars.next_if(|char| char.is_ascii_whitespace());
            decoded.push(char::from_u32(code).unwrap_or('\u{fffd}'));
        } else if let Some(char) = chars.next()
            && char != '\n'
        {
            decoded.push(char);
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers row 47, row 48: the list works on decoded values, for texts that the set of characters would let through
    /// and for those that it would not.
    #[test]
    fn denied_words_are_found_behind_escapes() {
        for text in [
            "JavaScript:alert(1)",
            "java\tscript:x",
            "javascript\n:x",
            "expression\n(1)",
            "exp/**/ression(1)",
            "e\\78pression(1)",
            "e\\000078 pression(1)",
            "@import\n'x'",
            "@ import x",
            "URL ( x )",
            "u\\rl(x)",
            "java%73cript:x",
            "ｊavascript：x",
            "java\u{200b}script:x",
            "a; behavior : url",
            "x;-moz-binding:y",
            "a behavior:b",
        ] {
            assert!(denied(text), "{text:?}");
        }
    }

    /// Covers row 51.
    #[test]
    fn harmless_words_are_not_denied() {
        for text in
            ["scroll-behavior: smooth", "overscroll-behavior:none", "metadata: text", "curl(1)", "100% wool", ""]
        {
            assert!(!denied(text), "{text:?}");
            assert_eq!(check(text), Ok(()), "{text:?}");
        }
    }
}
