//! Numbers that belong to persons: telephones, cards, social security numbers.

use super::{Context, Label, Span};

/// Longest number of groups of digits that is looked at together: `+1 (555) 123 45 67` has five.
const GROUPS_MAX: usize = 7;
/// Longest separator between two groups of one number, as in `) - `.
const SEPARATOR_CHARS_MAX: usize = 3;

/// A run of ASCII digits.
#[derive(Debug, Clone, Copy)]
struct Group {
    start: usize,
    end: usize,
}

/// Every number in `text` that carries a label, outside of what is `taken` already, which is in order and without
/// overlaps. At each place the longest reading wins.
pub(super) fn find(text: &str, context: Context, taken: &[Span]) -> Vec<Span> {
    let mut groups = groups(text);
    // How many spans have ended where something starts. Found by halving: a payload may hold thousands of addresses.
    let ended = |start: usize| taken.partition_point(|span| span.end <= start);
    // Left in, digits at the end of an address would be read together with a number behind it, and hide that number.
    groups.retain(|group| taken.get(ended(group.start)).is_none_or(|span| group.end <= span.start));
    let mut spans = Vec::new();
    let mut first = 0;
    while first < groups.len() {
        let together = joined(text, &groups[first..]);
        let found = (1..=together).rev().find_map(|count| {
            let window = &groups[first..first + count];
            classify(text, window, context).map(|(label, start)| (count, label, start))
        });
        match found {
            Some((count, label, start)) => {
                // A plus before a number may be the last character of an address.
                let free_from = taken[..ended(groups[first].start)].last().map_or(0, |span| span.end);
                let start = start.max(free_from);
                spans.push(Span { label, start, end: groups[first + count - 1].end });
                first += count;
            }
            None => first += 1,
        }
    }
    spans
}

fn groups(text: &str) -> Vec<Group> {
    let bytes = text.as_bytes();
    let mut groups: Vec<Group> = Vec::new();
    for (at, byte) in bytes.iter().enumerate() {
        if !byte.is_ascii_digit() {
            continue;
        }
        match groups.last_mut() {
            Some(group) if group.end == at => group.end = at + 1,
            _ => groups.push(Group { start: at, end: at + 1 }),
        }
    }
    groups
}

/// How many of the first `groups` are held together by separators that occur inside numbers.
fn joined(text: &str, groups: &[Group]) -> usize {
    let separates = |between: &str| {
        between.chars().count() <= SEPARATOR_CHARS_MAX
            && between.chars().all(|char| matches!(char, ' ' | '\u{a0}' | '\u{2011}' | '-' | '.' | '/' | '(' | ')'))
    };
    let links = groups.windows(2).take(GROUPS_MAX - 1).take_while(|pair| separates(&text[pair[0].end..pair[1].start]));
    1 + links.count()
}

/// The label of the number that the groups of `window` write, and where the number begins: a plus or a bracket before
/// the first digit belongs to it.
fn classify(text: &str, window: &[Group], context: Context) -> Option<(Label, usize)> {
    let (first, last) = (window.first()?, window.last()?);
    let before = text[..first.start].chars().next_back();
    let after = text[last.end..].chars().next();
    // Digits inside a word are part of an identifier, such as a UUID or a hash.
    if before.is_some_and(is_word) || after.is_some_and(is_word) {
        return None;
    }
    // So are the digits of a decimal fraction.
    let fraction = before == Some('.') && text[..first.start - 1].ends_with(|char: char| char.is_ascii_digit());
    let decimal = after == Some('.') && text[last.end + 1..].starts_with(|char: char| char.is_ascii_digit());
    if fraction || decimal {
        return None;
    }
    let digits: String = window.iter().map(|group| &text[group.start..group.end]).collect();
    let lengths: Vec<usize> = window.iter().map(|group| group.end - group.start).collect();
    let separators: Vec<&str> = window.windows(2).map(|pair| &text[pair[0].end..pair[1].start]).collect();
    let plus = before == Some('+') || text[..first.start].ends_with("+(");
    if !plus && is_card(&digits, &separators) {
        return Some((Label::Card, first.start));
    }
    if is_written_ssn(&lengths, &separators) {
        return Some((Label::Ssn, first.start));
    }
    if is_phone(&digits, &lengths, plus, context) {
        let prefix = if text[..first.start].ends_with("+(") { 2 } else { usize::from(plus || before == Some('(')) };
        return Some((Label::Phone, first.start - prefix));
    }
    if digits.len() == 9 && lengths.len() == 1 && !plus {
        let label = if context == Context::Ssn { Label::Ssn } else { Label::PossibleSsn };
        return Some((label, first.start));
    }
    None
}

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// 13 to 19 digits of an issuer's range with a right check digit, in one run or in groups.
fn is_card(digits: &str, separators: &[&str]) -> bool {
    (13..=19).contains(&digits.len())
        && digits.starts_with(['2', '3', '4', '5', '6'])
        && separators.iter().all(|separator| matches!(*separator, " " | "-" | "\u{a0}" | "."))
        && luhn(digits)
}

/// The check digit rule of ISO/IEC 7812.
fn luhn(digits: &str) -> bool {
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(place, byte)| {
            let digit = u32::from(byte - b'0');
            match place % 2 {
                0 => digit,
                _ if digit > 4 => digit * 2 - 9,
                _ => digit * 2,
            }
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Three, two and four digits with hyphens or spaces between them.
fn is_written_ssn(lengths: &[usize], separators: &[&str]) -> bool {
    lengths == [3, 2, 4] && separators.iter().all(|separator| matches!(*separator, "-" | " " | "\u{2011}"))
}

/// E.164 with its plus or with 00; the forms in which ten-digit North American numbers are written; national numbers
/// with their leading zero in groups; and, where the member's name says telephone, any 7 to 15 digits.
fn is_phone(digits: &str, lengths: &[usize], plus: bool, context: Context) -> bool {
    let count = digits.len();
    if matches!(lengths, [4, 2, 2, ..] | [2, 2, 4, ..]) && !plus {
        return false; // A date, perhaps with an hour behind it.
    }
    if plus {
        return (8..=15).contains(&count) && !digits.starts_with('0');
    }
    if context == Context::Phone {
        return (7..=17).contains(&count);
    }
    if digits.starts_with("00") && lengths.first() != Some(&1) && (10..=17).contains(&count) {
        return lengths.len() > 1 || !digits.starts_with("000");
    }
    let area = |at: usize| digits.as_bytes().get(at).is_some_and(|digit| (b'2'..=b'9').contains(digit));
    match (count, lengths) {
        (10, [10] | [3, 3, 4] | [3, 7] | [6, 4]) => area(0),
        (11, [11] | [1, 3, 3, 4] | [1, 10]) => digits.starts_with('1') && area(1),
        (9..=12, [first, _, ..]) => digits.starts_with('0') && (2..=5).contains(first) && lengths.len() <= 6,
        _ => false,
    }
}
