//! Reads a file in batches. At no time is more than one batch of it in memory.

use std::{
    io::{BufRead, BufReader, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value};

use super::{
    Format,
    mapping::{Column, Mapping},
};
use crate::commands::exit::{self, Coded};

/// Longest row. A quotation mark that is never closed makes the rest of a CSV file one row.
const ROW_BYTES_MAX: u64 = 1024 * 1024;
/// A batch ends early when its rows are long.
const BATCH_BYTES_MAX: u64 = 4 * 1024 * 1024;
const READ_BYTES: usize = 64 * 1024;

/// One payload and the line it came from.
#[derive(Debug, PartialEq)]
pub(super) struct Row {
    pub(super) line: u64,
    pub(super) payload: Value,
}

/// Rows that go to the database together.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Batch {
    pub(super) rows: Vec<Row>,
    /// Lines that hold no payload, and why.
    pub(super) unreadable: Vec<(u64, String)>,
    /// How much of the file has been read.
    pub(super) bytes_read: u64,
}

/// The batches of a file. Ends after the first error.
pub(super) struct Rows {
    source: Source,
    mapping: Mapping,
    batch_rows: usize,
    read: Arc<AtomicU64>,
    ended: bool,
}

enum Source {
    Lines { input: BufReader<Counted>, line: u64 },
    Csv { reader: csv::Reader<Counted>, columns: Option<Vec<Column>>, budget: Arc<AtomicU64> },
}

/// What one row of a file turned out to be.
enum Found {
    Row(Row),
    Unreadable(u64, String),
    Blank,
    End,
}

impl Rows {
    pub(super) fn new(input: Box<dyn Read + Send>, format: Format, mapping: Mapping, batch_rows: usize) -> Self {
        let read = Arc::new(AtomicU64::new(0));
        let budget = Arc::new(AtomicU64::new(u64::MAX));
        let counted = Counted { input, read: Arc::clone(&read), budget: Arc::clone(&budget), last: 0, crlf: None };
        let source = match format {
            Format::Jsonl => Source::Lines { input: BufReader::with_capacity(READ_BYTES, counted), line: 0 },
            Format::Csv => Source::Csv {
                reader: csv::ReaderBuilder::new().has_headers(false).buffer_capacity(READ_BYTES).from_reader(counted),
                columns: None,
                budget,
            },
        };
        Self { source, mapping, batch_rows, read, ended: false }
    }

    fn batch(&mut self) -> Result<Option<Batch>> {
        let mut batch = Batch::default();
        let from = self.read.load(Ordering::Relaxed);
        while batch.rows.len() + batch.unreadable.len() < self.batch_rows
            && self.read.load(Ordering::Relaxed) - from < BATCH_BYTES_MAX
        {
            match self.source.next()? {
                Found::Row(mut row) => match self.mapping.complete(&mut row.payload) {
                    Ok(()) => batch.rows.push(row),
                    Err(problem) => batch.unreadable.push((row.line, problem)),
                },
                Found::Unreadable(line, problem) => batch.unreadable.push((line, problem)),
                Found::Blank => {}
                Found::End => {
                    self.ended = true;
                    break;
                }
            }
        }
        batch.bytes_read = self.read.load(Ordering::Relaxed);
        let empty = batch.rows.is_empty() && batch.unreadable.is_empty();
        Ok((!empty || !self.ended).then_some(batch))
    }
}

impl Iterator for Rows {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        if self.ended {
            return None;
        }
        let batch = self.batch();
        self.ended |= batch.is_err();
        batch.transpose()
    }
}

impl Source {
    fn next(&mut self) -> Result<Found> {
        match self {
            Self::Lines { input, line } => {
                *line += 1;
                next_line(input, *line)
            }
            Self::Csv { reader, columns, budget } => next_record(reader, columns, budget),
        }
    }
}

fn next_line(input: &mut BufReader<Counted>, line: u64) -> Result<Found> {
    let mut bytes = Vec::new();
    let read = input.by_ref().take(ROW_BYTES_MAX + 1).read_until(b'\n', &mut bytes);
    if read.with_context(|| format!("line {line} cannot be read"))? == 0 {
        return Ok(Found::End);
    }
    if bytes.len() as u64 > ROW_BYTES_MAX {
        bail!("line {line} is longer than {ROW_BYTES_MAX} bytes: is this a JSON-lines file?");
    }
    // Some editors begin a file with a byte order mark.
    let text = bytes.strip_prefix(b"\xef\xbb\xbf".as_slice()).filter(|_| line == 1).unwrap_or(&bytes);
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(Found::Blank);
    }
    Ok(match serde_json::from_slice::<Value>(text) {
        Ok(payload @ Value::Object(_)) => Found::Row(Row { line, payload }),
        Ok(_) => Found::Unreadable(line, "is not a JSON object".to_owned()),
        // The parser's own message may quote the text.
        Err(error) => Found::Unreadable(line, format!("is not JSON (column {})", error.column())),
    })
}

fn next_record(
    reader: &mut csv::Reader<Counted>,
    columns: &mut Option<Vec<Column>>,
    budget: &AtomicU64,
) -> Result<Found> {
    // What is in the reader's buffer belongs to this row or the next: reading may go on for one row beyond it.
    budget.store(ROW_BYTES_MAX + READ_BYTES as u64, Ordering::Relaxed);
    let mut record = csv::StringRecord::new();
    let found = match reader.read_record(&mut record) {
        Ok(found) => found,
        Err(error) => {
            let line = line_of(reader, error.position());
            return match error.into_kind() {
                csv::ErrorKind::Utf8 { .. } => Ok(Found::Unreadable(line, "is not UTF-8".to_owned())),
                // The headings decide the number, and what follows such a row may be shifted, so only the row is lost.
                csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                    Ok(Found::Unreadable(line, format!("has {len} cells, the headings are {expected_len}")))
                }
                csv::ErrorKind::Io(error) => {
                    Err(error).with_context(|| format!("the row at line {line} cannot be read"))
                }
                other => bail!("the row at line {line} cannot be read: {other:?}"),
            };
        }
    };
    if !found {
        return Ok(Found::End);
    }
    let line = line_of(reader, record.position());
    let Some(columns) = columns else {
        let first = |at: usize, text: &str| {
            if at == 0 { text.trim_start_matches('\u{feff}').to_owned() } else { text.to_owned() }
        };
        let headings = record.iter().enumerate().map(|(at, text)| Column::parse(&first(at, text)));
        *columns = Some(headings.collect::<Result<_, String>>().and_then(distinct).map_err(usage)?);
        return Ok(Found::Blank);
    };
    let mut payload = Value::Object(Map::new());
    let filled = columns.iter().zip(record.iter()).try_for_each(|(column, cell)| column.put_cell(&mut payload, cell));
    Ok(match filled {
        Ok(()) => Found::Row(Row { line, payload }),
        Err(problem) => Found::Unreadable(line, problem),
    })
}

/// The line at which a row begins, from 1. Where lines end with CR LF the reader stops between the two, and so counts
/// the headings' line once too often for every row below them.
fn line_of(reader: &csv::Reader<Counted>, position: Option<&csv::Position>) -> u64 {
    let line = position.map_or(0, csv::Position::line);
    let below = position.is_some_and(|position| position.byte() > 0);
    line + u64::from(below && reader.get_ref().crlf == Some(true))
}

/// Refuses headings that cannot be meant: two for one member, and all of them in one cell.
fn distinct(columns: Vec<Column>) -> Result<Vec<Column>, String> {
    for (at, column) in columns.iter().enumerate() {
        if columns[..at].iter().any(|earlier| earlier.is_same_member(column)) {
            return Err(format!("the heading {:?} is there twice", column.name()));
        }
    }
    match columns.as_slice() {
        [only] if only.name().contains([';', '\t', '|']) => {
            Err("the headings are one cell: separate the cells of a CSV file with commas".to_owned())
        }
        _ => Ok(columns),
    }
}

fn usage(problem: String) -> anyhow::Error {
    anyhow!(Coded::new(exit::USAGE, problem))
}

/// Counts what is read, and ends with an error when a row is longer than its budget.
struct Counted {
    input: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
    budget: Arc<AtomicU64>,
    last: u8,
    /// Whether the first line ends with CR LF; `None` before its end.
    crlf: Option<bool>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let budget = self.budget.load(Ordering::Relaxed);
        if budget == 0 {
            return Err(std::io::Error::other(format!(
                "the row is longer than {ROW_BYTES_MAX} bytes: is a quotation mark not closed?"
            )));
        }
        let count = self.input.read(buffer)?;
        if self.crlf.is_none()
            && let Some(end) = buffer[..count].iter().position(|byte| *byte == b'\n')
        {
            let before = end.checked_sub(1).map_or(self.last, |before| buffer[before]);
            self.crlf = Some(before == b'\r');
        }
        self.last = buffer[..count].last().copied().unwrap_or(self.last);
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        if budget != u64::MAX {
            self.budget.store(budget.saturating_sub(count as u64), Ordering::Relaxed);
        }
        Ok(count)
    }
}
