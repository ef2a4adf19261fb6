use super::*;

fn read(text: &str) -> Result<Json, JsonError> {
    Json::parse(text.as_bytes())
}

/// Covers row 90: integers beyond 2^53, and everything else, leave as they arrived.
#[test]
fn documents_keep_their_digits_and_order() {
    for text in [
        r#"{"b":9007199254740993,"a":123456789012345678901234567890,"c":1.10,"d":-0.0,"e":1E5}"#,
        r#"[1,"x",null,true,false,{},[],{"é":"ß\n\"\\"}]"#,
        "\"text\"",
        "0",
    ] {
        assert_eq!(read(text).expect("valid").to_string(), text);
    }
    assert_eq!(read(" { \"a\" : \"\\u0062\" } \n").expect("valid").to_string(), r#"{"a":"b"}"#);
}

/// Covers row 90: a member that stands twice is refused, also when it is spelt in two ways.
#[test]
fn duplicate_members_are_refused() {
    for text in [r#"{"a":1,"a":2}"#, r#"{"a":1,"\u0061":2}"#, r#"{"x":[{"y":{"a":1,"b":2,"a":1}}]}"#] {
        assert_eq!(read(text), Err(JsonError::DuplicateMember), "{text}");
    }
    assert!(read(r#"{"a":{"a":1},"b":{"a":1}}"#).is_ok());
}

/// Covers row 44: hostile nesting is refused by its depth.
#[test]
fn nesting_is_bounded() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(read(&nested(DEPTH_MAX)).is_ok());
    assert_eq!(read(&nested(DEPTH_MAX + 1)), Err(JsonError::TooDeep));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(DEPTH_MAX + 1), "}".repeat(DEPTH_MAX + 1));
    assert_eq!(read(&objects), Err(JsonError::TooDeep));
    assert_eq!(read(&nested(100_000)), Err(JsonError::TooDeep));
    assert!(matches!(read(&"[".repeat(100_000)), Err(JsonError::Syntax { .. })));
}

/// Covers row 88: what is no JSON is told by its place and never quoted.
#[test]
fn malformed_documents_are_refused() {
    let texts = [
        "",
        " ",
        "{",
        "{\"a\":}",
        "nul",
        "NaN",
        "01",
        "1.",
        "+1",
        ".5",
        "'a'",
        "{a:1}",
        "[1,]",
        "{\"a\":1,}",
        "1 2",
        "{} {}",
        "\"\n\"",
        "\"\\ud800\"",
        "\"\\x\"",
        "\u{feff}{}",
        "// c\n{}",
        "undefined",
        "tru",
    ];
    for text in texts {
        assert!(matches!(read(text), Err(JsonError::Syntax { .. })), "{text:?} gave {:?}", read(text));
    }
    assert_eq!(Json::parse(b"{\n \"a\": \"\xff\"}"), Err(JsonError::Syntax { line: 2, column: 8 }));
}

#[test]
fn what_postgres_cannot_store_is_refused() {
    for text in ["\"\\u0000\"", "{\"a\\u0000\":1}", "1e309", "19e307", "1e-309", "1e99999999999", &"9".repeat(129)] {
        assert!(matches!(read(text), Err(JsonError::Unstorable(_))), "{text}");
    }
    assert!(read("1e308").is_ok());
}

/// The reader agrees with serde_json about what JSON is, for every way of spoiling a document by one byte.
#[test]
fn spoilt_documents_are_judged_as_serde_json_judges() {
    let good = br#"{"a":[1,-2.5e3,"x\u00e9\\",true,null],"b":{"c":""}}"#;
    for at in 0..good.len() {
        for byte in [b'"', b'{', b'}', b'[', b']', b',', b':', b'\\', b'1', b'e', b' ', b'-', b'.', b'x', 0x80, 0] {
            let mut bytes = good.to_vec();
            bytes[at] = byte;
            let theirs = serde_json::from_slice::<serde_json::Value>(&bytes);
            match (Json::parse(&bytes), theirs) {
                (Ok(ours), Ok(theirs)) => {
                    let again: serde_json::Value = serde_json::from_str(&ours.to_string()).expect("valid");
                    assert_eq!(again, theirs);
                }
                (Err(JsonError::DuplicateMember | JsonError::Unstorable(_)), Ok(_)) | (Err(_), Err(_)) => {}
                (ours, theirs) => panic!("{:?}: {ours:?}, {theirs:?}", String::from_utf8_lossy(&bytes)),
            }
        }
    }
}
