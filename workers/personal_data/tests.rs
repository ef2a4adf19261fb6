use serde_json::json;

use super::*;

fn labels(text: &str) -> Vec<Label> {
    find(text, Context::None).into_iter().map(|span| span.label).collect()
}

/// Covers row 112: embedded addresses are found with their span.
#[test]
fn addresses_inside_a_text_are_found() {
    let text = "mail a@b.co now";
    assert_eq!(find(text, Context::None), [Span { label: Label::Email, start: 5, end: 11 }]);
    for hit in
        ["  a@b.co ", "<a@b.co>", "Ann <ann+x@sub.example.com>, Bob", "a@b.co.", "jürgen@exämple.de", "mailto:a@b.co"]
    {
        assert_eq!(labels(hit), [Label::Email], "{hit}");
    }
    for miss in ["a@b", "@b.co", "a@", "a @b.co", "a@.co", "@", "", "user@localhost"] {
        assert_eq!(labels(miss), [], "{miss}");
    }
}

/// Covers row 113: short numbers are no telephones.
#[test]
fn short_numbers_are_not_personal() {
    for miss in ["42", "90210", "12345678", "1990", "100000", "2024-01-15", "2024-01-15 10:30:00", "20240115103000"] {
        assert_eq!(labels(miss), [], "{miss}");
    }
}

/// Identifiers, times and addresses of machines are not people.
#[test]
fn identifiers_and_times_are_not_personal() {
    for miss in [
        "550e8400-e29b-41d4-a716-446655440000",
        "2024-01-15T10:30:00.123456789Z",
        "1700000000",
        "192.168.10.20",
        "212.168.10.20",
        "v1.2.3",
        "order_123456789",
        "a123456789b",
        "3.141592653",
        "01.02.2024 10:30",
    ] {
        assert_eq!(labels(miss), [], "{miss}");
    }
}

/// Covers row 114: the forms in which people write telephones.
#[test]
fn written_telephones_are_found() {
    for hit in [
        "(555) 123-4567",
        "+1 555-123-4567",
        "+15551234567",
        "555-123-4567",
        "555.123.4567",
        "1-555-123-4567",
        "5551234567",
        "+49 (0)30 1234567",
        "+44 20 7946 0958",
        "0044 20 7946 0958",
        "020 7946 0958",
        "call (555) 123-4567 today",
    ] {
        assert_eq!(labels(hit), [Label::Phone], "{hit}");
    }
    let text = "call (555) 123-4567 today";
    assert_eq!(mask_all(text), "call [PHONE] today");
}

/// A member's name makes short and national forms telephones, and only where it says so as a word.
#[test]
fn the_member_name_gives_context() {
    assert_eq!(Context::of("mobilePhone"), Context::Phone);
    assert_eq!(Context::of("PHONE_NUMBER"), Context::Phone);
    assert_eq!(Context::of("tel"), Context::Phone);
    assert_eq!(Context::of("telemetry_count"), Context::None);
    assert_eq!(Context::of("hotel"), Context::None);
    assert_eq!(Context::of("customer.ssn"), Context::Ssn);
    assert_eq!(Context::of("socialSecurityNumber"), Context::Ssn);
    let found = scan(&json!({"mobile": "1234567", "count": "1234567", "ssn": 123456789}));
    let mut labels: Vec<_> = found.iter().map(|finding| (finding.pointer.as_str(), finding.span.label)).collect();
    labels.sort_unstable();
    assert_eq!(labels, [("/mobile", Label::Phone), ("/ssn", Label::Ssn)]);
}

/// Covers row 115: the number without hyphens, and cards by their check digit.
#[test]
fn security_and_card_numbers_are_found() {
    assert_eq!(labels("123-45-6789"), [Label::Ssn]);
    assert_eq!(labels("ssn 123-45-6789."), [Label::Ssn]);
    assert_eq!(labels("123456789"), [Label::PossibleSsn]);
    for card in ["4111111111111111", "4111 1111 1111 1111", "4111-1111-1111-1111", "378282246310005"] {
        assert_eq!(labels(card), [Label::Card], "{card}");
    }
    assert_eq!(labels("4111111111111112"), []);
}

/// Covers row 116: every depth, numbers, lists.
#[test]
fn the_whole_document_is_searched() {
    let found = scan(&json!({"c": {"e": "a@b.co"}, "n": 5_551_234_567_u64, "l": [[{"x": "y"}, "123-45-6789"]]}));
    let mut places: Vec<_> = found.iter().map(|finding| (finding.pointer.as_str(), finding.span.label)).collect();
    places.sort_unstable();
    assert_eq!(places, [("/c/e", Label::Email), ("/l/0/1", Label::Ssn), ("/n", Label::Phone)]);
    assert_eq!(scan(&json!(4_111_111_111_111_111.0_f64)).len(), 1);
    assert_eq!(scan(&json!([true, null, 42])), []);
}

/// Covers row 117: a value may carry several labels, and names are searched too.
#[test]
fn values_carry_sets_of_labels_and_names_are_searched() {
    assert_eq!(labels("a@b.co +15551234567"), [Label::Email, Label::Phone]);
    let found = scan(&json!({"a@b.co": 1}));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].place, Place::Name);
    assert_eq!(found[0].pointer.as_str(), "/[EMAIL]");
}

/// Covers row 118: what is masked is gone from the copy, what is allowed stays.
#[test]
fn masks_replace_what_they_name() {
    let document = json!({"a": "a@b.co and 123-45-6789", "n": 4_111_111_111_111_111_u64, "k": [1, "x"]});
    let masked = mask(&document, &|label| label != Label::Email);
    assert_eq!(masked, json!({"a": "a@b.co and [SSN]", "n": "[CARD]", "k": [1, "x"]}));
}

/// Covers row 112: a number behind an address is found, although the address ends in digits that could begin it.
#[test]
fn numbers_behind_addresses_are_found() {
    assert_eq!(labels("a@b.5-6789 4111 1111 1111 1111"), [Label::Email, Label::Card]);
    assert_eq!(labels("a@b.7 123-45-6789"), [Label::Email, Label::Ssn]);
    assert_eq!(mask_all("a@b.co+(555) 123-4567"), "[EMAIL](555) 123-4567".replace("(555) 123-4567", "[PHONE]"));
}

#[test]
fn addresses_that_run_into_each_other_are_both_found() {
    assert_eq!(mask_all("ann@example.com.@b.co"), "[EMAIL][EMAIL]");
    assert_eq!(mask_all("a@b.c@d.e"), "[EMAIL]@d.e");
}

/// A text may be made of addresses and numbers alone: each is looked up, and not compared with all the others.
#[test]
fn many_findings_take_no_square_of_their_number() {
    let text = "a@b.co 123-45-6789 ".repeat(20_000);
    let began = std::time::Instant::now();
    assert_eq!(find(&text, Context::None).len(), 40_000);
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
}
