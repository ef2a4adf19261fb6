//! `docs/conformance.md` names the tests of each of the mistakes that Backhaul must not make. This test reads the tests'
//! comments (`Covers row 163`) and compares: a row may gain tests, and may not lose one without the table saying so.
//!
//! `UPDATE_CONFORMANCE=1 cargo test --test it conformance` writes the table anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const ROWS: usize = 214;
/// Where tests may stand.
const FOLDERS: [&str; 3] = ["src", "workers", "tests"];
/// What the last column says of a row that no test names, unless it gives a reason.
const OPEN: &str = "**open**";
/// How a reason begins that is kept when the table is written anew.
const REASON: &str = "not ";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn document() -> PathBuf {
    root().join("docs/conformance.md")
}

/// Names of the tests by row.
type Tests = BTreeMap<usize, BTreeSet<String>>;

/// One line of the table.
#[derive(Debug, PartialEq)]
struct Row {
    number: usize,
    title: String,
    last: String,
}

impl Row {
    fn read(line: &str) -> Option<Self> {
        let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.splitn(3, " | ");
        let number = cells.next()?.trim().parse().ok()?;
        Some(Self { number, title: cells.next()?.trim().to_owned(), last: cells.next()?.trim().to_owned() })
    }

    /// The tests that the table names.
    fn named(&self) -> BTreeSet<String> {
        self.last.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).map(str::to_owned).collect()
    }

    fn written(&self, tests: &Tests) -> String {
        let last = match tests.get(&self.number) {
            Some(tests) => tests.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join("<br>"),
            None if self.last.starts_with(REASON) => self.last.clone(),
            None => OPEN.to_owned(),
        };
        format!("| {} | {} | {last} |", self.number, self.title)
    }
}

#[test]
fn no_row_loses_its_test() {
    let text = fs::read_to_string(document()).expect("docs/conformance.md is readable");
    let rows: Vec<Row> = text.lines().filter_map(Row::read).collect();
    let numbers: Vec<usize> = rows.iter().map(|row| row.number).collect();
    assert_eq!(numbers, (1..=ROWS).collect::<Vec<_>>(), "each row stands in the table once, in order");
    assert!(rows.iter().all(|row| !row.title.is_empty()), "each row has a title");
    let tests = tests();
    let strangers: Vec<&usize> = tests.keys().filter(|number| !(1..=ROWS).contains(*number)).collect();
    assert!(strangers.is_empty(), "tests name rows that do not exist: {strangers:?}");

    if std::env::var_os("UPDATE_CONFORMANCE").is_some() {
        fs::write(document(), updated(&text, &tests)).expect("docs/conformance.md is writable");
        return;
    }
    let none = BTreeSet::new();
    let lost: Vec<String> = rows
        .iter()
        .flat_map(|row| {
            let standing = tests.get(&row.number).unwrap_or(&none);
            let gone: Vec<String> = row.named().difference(standing).cloned().collect();
            gone.into_iter().map(|name| format!("row {}: {name}", row.number))
        })
        .collect();
    assert!(
        lost.is_empty(),
        "docs/conformance.md names tests that are gone, or that no longer say `Covers row N`:\n{}\n\
         Where they were renamed or replaced, write the table anew with UPDATE_CONFORMANCE=1.",
        lost.join("\n")
    );
}

/// The document with the last column as the tests have it, and the counts above the table.
fn updated(text: &str, tests: &Tests) -> String {
    let rows: Vec<Row> = text.lines().filter_map(Row::read).collect();
    let covered = rows.iter().filter(|row| tests.contains_key(&row.number)).count();
    let reasoned = rows.iter().filter(|row| !tests.contains_key(&row.number) && row.last.starts_with(REASON)).count();
    let counts = format!(
        "Covered: {covered} of {ROWS}. Not tested, with a reason: {reasoned}. Open: {}.",
        ROWS - covered - reasoned
    );
    let line = |line: &str| match Row::read(line) {
        Some(row) => row.written(tests),
        None if line.starts_with("Covered: ") => counts.clone(),
        None => line.to_owned(),
    };
    text.lines().map(|text| line(text) + "\n").collect()
}

fn tests() -> Tests {
    let mut tests = Tests::new();
    for folder in FOLDERS {
        visit(&root().join(folder), &mut tests);
    }
    tests
}

fn visit(path: &Path, tests: &mut Tests) {
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("readable").filter_map(Result::ok);
        entries.for_each(|entry| visit(&entry.path(), tests));
        return;
    }
    if path.extension().is_none_or(|ending| ending != "rs") {
        return;
    }
    let file = path.strip_prefix(root()).expect("inside the tree").to_string_lossy().replace('\\', "/");
    // The samples below are no tests.
    if file == file!() {
        return;
    }
    for (name, rows) in covered(&fs::read_to_string(path).expect("UTF-8")) {
        for row in rows {
            tests.entry(row).or_default().insert(format!("{file}::{name}"));
        }
    }
}

/// The tests of one source, each with the rows that its comments say it covers: those before it, and those in it.
fn covered(source: &str) -> Vec<(String, BTreeSet<usize>)> {
    let mut found: Vec<(String, BTreeSet<usize>)> = Vec::new();
    let (mut comment, mut is_test, mut inside) = (String::new(), false, false);
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("//") {
            comment.push(' ');
            comment.push_str(text.trim_start_matches(['/', '!']).trim());
            continue;
        }
        if line.starts_with("#[") {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            continue;
        }
        let name = function(line);
        if let Some(name) = name.filter(|_| is_test) {
            found.push((name.to_owned(), rows(&comment)));
            inside = true;
        } else if name.is_some() {
            inside = false;
        } else if let Some((_, known)) = found.last_mut().filter(|_| inside) {
            known.extend(rows(&comment));
        }
        comment.clear();
        is_test = false;
    }
    found
}

/// The name of the function that a line begins.
fn function(line: &str) -> Option<&str> {
    let words = ["pub(crate) ", "pub(super) ", "pub ", "async "];
    let line = words.iter().fold(line, |line, word| line.strip_prefix(word).unwrap_or(line));
    line.strip_prefix("fn ")?.split(['(', '<']).next()
}

/// The rows of a comment, from `Covers row` on.
fn rows(comment: &str) -> BTreeSet<usize> {
    let Some(at) = comment.find("Covers row ") else { return BTreeSet::new() };
    comment[at..]
        .split("row ")
        .skip(1)
        .filter_map(|rest| rest.split(|char: char| !char.is_ascii_digit()).next()?.parse().ok())
        .collect()
}

#[test]
fn comments_are_read() {
    let source = "
        /// What row 1 needs of others.
        fn helper() {}

        /// Covers row 2, row 3: words
        /// and more of row 4.
        #[tokio::test(flavor = \"multi_thread\")]
        async fn one() {
            // Covers row 5 too.
            let x = 1;
        }

        /// Covers row 6.
        fn no_test() {}

        #[test]
        fn bare() {}
    ";
    let found = covered(source);
    assert_eq!(found.len(), 2);
    assert_eq!(found[0], ("one".to_owned(), BTreeSet::from([2, 3, 4, 5])));
    assert_eq!(found[1], ("bare".to_owned(), BTreeSet::new()));
    let row = Row { number: 7, title: "A title".into(), last: "not built: x".into() };
    assert_eq!(Row::read(&row.written(&Tests::new())), Some(row));
}
