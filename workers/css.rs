//! Positive grammar of the style values that a widget theme may carry.
//!
//! Each property has a closed form, so nothing that is not described here can pass: no escape, no comment, no function
//! but numeric colours, no second declaration.

/// Longest colour in bytes; `hsla(360.000, 100.000%, 100.000%, 100.000%)` has 42.
const COLOUR_BYTES_MAX: usize = 64;
/// Longest list of font families, in characters.
const FONT_CHARS_MAX: usize = 256;
/// Most families in one list.
const FAMILIES_MAX: usize = 16;
/// Largest radius in its own unit.
const RADIUS_MAX: f64 = 1_000.0;

/// A colour: `#` with 3, 4, 6 or 8 hexadecimal digits, or `rgb`, `rgba`, `hsl`, `hsla` of plain numbers, with commas
/// or with spaces and a slash before the alpha.
pub fn colour(text: &str) -> Result<(), &'static str> {
    const EXPECTED: &str = "must be a colour: # with 3, 4, 6 or 8 hexadecimal digits, or rgb(), rgba(), hsl(), hsla() of \
                            numbers in range";
    let valid = text.len() <= COLOUR_BYTES_MAX
        && match text.strip_prefix('#') {
            Some(digits) => {
                matches!(digits.len(), 3 | 4 | 6 | 8) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
            }
            None => colour_function(text),
        };
    if valid { Ok(()) } else { Err(EXPECTED) }
}

fn colour_function(text: &str) -> bool {
    let Some((name, arguments)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) else { return false };
    let hue = match name.to_ascii_lowercase().as_str() {
        "rgb" | "rgba" => false,
        "hsl" | "hsla" => true,
        _ => return false,
    };
    let Some((parts, alpha)) = colour_arguments(arguments) else { return false };
    let [first, second, third] = parts;
    let channels = if hue {
        let degrees = first.strip_suffix("deg").unwrap_or(first);
        number(degrees).is_some_and(|degrees| degrees <= 360.0) && percentage(second) && percentage(third)
    } else {
        let channel = |part: &str| percentage(part) || number(part).is_some_and(|value| value <= 255.0);
        channel(first) && channel(second) && channel(third)
    };
    channels && alpha.is_none_or(|alpha| percentage(alpha) || number(alpha).is_some_and(|value| value <= 1.0))
}

/// The three channels and the alpha, in the form with commas or in the one with spaces.
fn colour_arguments(arguments: &str) -> Option<([&str; 3], Option<&str>)> {
    let (parts, alpha): (Vec<&str>, Option<&str>) = if arguments.contains(',') {
        let mut parts: Vec<&str> = arguments.split(',').map(|part| part.trim_matches(' ')).collect();
        let alpha = if parts.len() == 4 { parts.pop() } else { None };
        (parts, alpha)
    } else {
        let (channels, alpha) = match arguments.split_once('/') {
            Some((channels, alpha)) => (channels, Some(alpha.trim_matches(' '))),
            None => (arguments, None),
        };
        (channels.split(' ').filter(|part| !part.is_empty()).collect(), alpha)
    };
    Some((<[&str; 3]>::try_from(parts).ok()?, alpha))
}

fn percentage(text: &str) -> bool {
    text.strip_suffix('%').and_then(number).is_some_and(|value| value <= 100.0)
}

/// An unsigned decimal number of at most four digits before the point and three behind it.
fn number(text: &str) -> Option<f64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits =
        |part: &str, most: usize| (1..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    if digits(whole, 4) && digits(fraction, 3) { text.parse().ok() } else { None }
}

/// Font families, separated by commas, each a plain name of one or more words or a quoted name.
pub fn font(text: &str) -> Result<(), &'static str> {
    const EXPECTED: &str = "must be a list of font families separated by commas, plain words or quoted names of letters, \
                            digits, spaces, hyphens and underscores, at most 256 characters";
    let families: Vec<&str> = text.split(',').collect();
    let valid = text.chars().count() <= FONT_CHARS_MAX
        && families.len() <= FAMILIES_MAX
        && families.iter().all(|family| font_family(family.trim_matches(' ')));
    if valid { Ok(()) } else { Err(EXPECTED) }
}

fn font_family(family: &str) -> bool {
    for quote in ['"', '\''] {
        if let Some(rest) = family.strip_prefix(quote) {
            let Some(name) = rest.strip_suffix(quote) else { return false };
            let plain = |char: char| char.is_alphanumeric() || matches!(char, ' ' | '-' | '_');
            return !name.trim_matches(' ').is_empty() && name.chars().all(plain);
        }
    }
    !family.is_empty() && family.split(' ').all(identifier)
}

/// A word as CSS writes one without escapes: letters, digits, hyphens, underscores, not starting with a digit.
fn identifier(word: &str) -> bool {
    let first = word.strip_prefix('-').unwrap_or(word).chars().next();
    first.is_some_and(|char| char.is_ascii_alphabetic() || char == '_')
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// A radius: one number from 0 to 1000 with the unit px, em, rem or %.
pub fn radius(text: &str) -> Result<(), &'static str> {
    const EXPECTED: &str = "must be one number from 0 to 1000 with the unit px, em, rem or %";
    let lower = text.to_ascii_lowercase();
    // rem before em: both end alike.
    let amount = ["px", "rem", "em", "%"].iter().find_map(|unit| lower.strip_suffix(unit));
    if amount.and_then(number).is_some_and(|value| value <= RADIUS_MAX) { Ok(()) } else { Err(EXPECTED) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(property: &str, text: &str) -> Result<(), &'static str> {
        match property {
            "colour" => colour(text),
            "font" => font(text),
            "radius" => radius(text),
            "text" => crate::safe_text::check(text),
            other => panic!("the corpus names an unknown property {other}"),
        }
    }

    /// Each line of a corpus is a property and a JSON string.
    fn corpus(lines: &str) -> Vec<(String, String)> {
        lines
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with("# "))
            .map(|line| {
                let (property, text) = line.split_once(' ').expect("a corpus line is a property and a JSON string");
                let text = serde_json::from_str(text).unwrap_or_else(|error| panic!("{line}: {error}"));
                (property.to_owned(), text)
            })
            .collect()
    }

    /// Covers row 47, row 48, row 49, row 50: a hostile text is refused under every property, every other line of the
    /// corpus under its own.
    #[test]
    fn hostile_values_are_refused() {
        let hostile = corpus(include_str!("corpus/css.txt"));
        assert!(hostile.len() > 60, "the corpus has {} lines", hostile.len());
        for (property, text) in &hostile {
            assert!(check(property, text).is_err(), "{property} accepted {text:?}");
            for other in ["colour", "font", "radius"].iter().filter(|_| property == "text") {
                assert!(check(other, text).is_err(), "{other} accepted {text:?}");
            }
        }
    }

    /// Covers row 51: what is declared safe passes, `scroll-behavior` included.
    #[test]
    fn safe_values_are_accepted() {
        let accepted = corpus(include_str!("corpus/css_accepted.txt"));
        assert!(accepted.len() > 30, "the corpus has {} lines", accepted.len());
        for (property, text) in accepted {
            assert_eq!(check(&property, &text), Ok(()), "{property} {text:?}");
        }
    }

    /// Covers row 45.
    #[test]
    fn sizes_are_bounded() {
        assert!(font(&"a".repeat(256)).is_ok());
        assert!(font(&"a".repeat(257)).is_err());
        assert!(font(&"a".repeat(10 * 1024 * 1024)).is_err());
        assert!(colour(&format!("rgb(1,2,{}3)", " ".repeat(100))).is_err());
        assert!(radius("1000px").is_ok());
        assert!(radius("1000.001px").is_err());
    }
}
