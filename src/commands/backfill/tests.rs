use std::io::{self, Cursor, Read};

use serde_json::{Value, json};

use super::{
    Format,
    mapping::Mapping,
    rows::{Batch, Rows},
    sorted,
};

fn read(text: &str, format: Format, set: &[&str], batch_rows: usize) -> Vec<Batch> {
    let set: Vec<String> = set.iter().map(|pair| (*pair).to_owned()).collect();
    let mapping = Mapping::parse(&set).expect("valid constants");
    let input = Box::new(Cursor::new(text.to_owned().into_bytes()));
    Rows::new(input, format, mapping, batch_rows).map(|batch| batch.expect("a readable file")).collect()
}

fn payloads(batches: &[Batch]) -> Vec<Value> {
    batches.iter().flat_map(|batch| &batch.rows).map(|row| row.payload.clone()).collect()
}

#[test]
fn a_csv_file_becomes_payloads() {
    let text = "\u{feff}profileId,attributes.score:number,attributes.vip:bool,tags:list,attributes.note\n\
                p1,7,true,a; b,\"says \"\"hi\"\"\nand more\"\np2,,,,\n";
    let batches = read(text, Format::Csv, &["mergeStrategy=OVERWRITE", "attributes.level=3"], 500);
    assert_eq!(
        payloads(&batches),
        [
            json!({ "profileId": "p1", "tags": ["a", "b"], "mergeStrategy": "OVERWRITE",
                    "attributes": { "score": 7, "vip": true, "note": "says \"hi\"\nand more", "level": 3 } }),
            json!({ "profileId": "p2", "mergeStrategy": "OVERWRITE", "attributes": { "level": 3 } }),
        ]
    );
}

#[test]
fn a_bad_row_is_named_by_its_line_and_stops_no_other() {
    let batches = read("a:number\n1\nx\n3,4\n5\n", Format::Csv, &[], 500);
    assert_eq!(payloads(&batches), [json!({ "a": 1 }), json!({ "a": 5 })]);
    let lines: Vec<u64> = batches.iter().flat_map(|batch| &batch.unreadable).map(|(line, _)| *line).collect();
    assert_eq!(lines, [3, 4]);

    let batches = read("{\"a\":1}\n\nnonsense secret@example.com\n[1]\n{\"a\":2}", Format::Jsonl, &[], 500);
    assert_eq!(payloads(&batches), [json!({ "a": 1 }), json!({ "a": 2 })]);
    let unreadable: Vec<_> = batches.iter().flat_map(|batch| batch.unreadable.clone()).collect();
    assert_eq!(unreadable.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [3, 4]);
    assert!(!unreadable[0].1.contains("secret@"), "a message never quotes the row");
}

/// Lines are counted as an editor counts them, however they end.
#[test]
fn line_numbers_do_not_depend_on_how_lines_end() {
    for end in ["\n", "\r\n"] {
        let text = ["a:number,b", "1,x", "bad,x", "2,\"two", "lines\"", "3", "bad,y"].join(end);
        let batches = read(&text, Format::Csv, &[], 500);
        let rows: Vec<u64> = batches.iter().flat_map(|batch| &batch.rows).map(|row| row.line).collect();
        let lines: Vec<u64> = batches.iter().flat_map(|batch| &batch.unreadable).map(|(line, _)| *line).collect();
        assert_eq!((rows, lines), (vec![2, 4], vec![3, 6, 7]), "{end:?}");
    }
}

#[test]
fn headings_that_cannot_be_meant_are_refused_at_once() {
    for (headings, part) in [("a,b,a:number", "\"a\" is there twice"), ("a;b;c", "with commas")] {
        let input = Box::new(Cursor::new(format!("{headings}\n1,2,3\n")));
        let error = Rows::new(input, Format::Csv, Mapping::default(), 10).find_map(Result::err).expect("refused");
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn a_file_is_read_in_batches_and_no_further_than_asked() {
    // Endless input: it can only be read if it is never read to its end.
    let endless = Endless { line: b"{\"a\":1}\n", at: 0 };
    let mut rows = Rows::new(Box::new(endless), Format::Jsonl, Mapping::default(), 10);
    let batch = rows.next().expect("a batch").expect("readable");
    assert_eq!(batch.rows.len(), 10);
    assert!(batch.bytes_read <= 64 * 1024, "{}", batch.bytes_read);
}

#[test]
fn a_row_without_end_is_refused_with_bounded_memory() {
    for (format, start) in [(Format::Csv, "a\n\"".as_bytes()), (Format::Jsonl, "{\"a\":\"".as_bytes())] {
        let input = Box::new(Cursor::new(start).chain(io::repeat(b'x')));
        let mut rows = Rows::new(input, format, Mapping::default(), 10);
        let error = rows.find_map(Result::err).expect("refused");
        assert!(format!("{error:#}").contains("longer than"), "{error:#}");
        assert!(rows.next().is_none(), "reading ends after the error");
    }
}

#[test]
fn the_order_of_members_does_not_change_a_row() {
    let one: Value = serde_json::from_str(r#"{"b":{"y":1,"x":2},"a":[{"d":1,"c":2}]}"#).expect("JSON");
    let two: Value = serde_json::from_str(r#"{"a":[{"c":2,"d":1}],"b":{"x":2,"y":1}}"#).expect("JSON");
    assert_eq!(sorted(&one).to_string(), sorted(&two).to_string());
}

struct Endless {
    line: &'static [u8],
    at: usize,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for slot in buffer.iter_mut() {
            *slot = self.line[self.at % self.line.len()];
            self.at += 1;
        }
        Ok(buffer.len())
    }
}
