//! One file of JSON lines, synced before the position moves.

use std::{
    fs::{File, OpenOptions},
    future::Future,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    pin::Pin,
};

use anyhow::Context;
use backhaul_engine::{SealedEvent, Sink};
use serde::Deserialize;
use uuid::Uuid;

use crate::envelope;

/// Longest line that is looked for at the end of a file.
const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Appends events to a file. After a crash between the file and the database's position the same events come again;
/// what already stands in the file is then not written twice.
pub struct FileSink {
    name: String,
    target: String,
    path: PathBuf,
    open: Option<Open>,
}

struct Open {
    file: File,
    /// Sequence number of the last line, where this deployment wrote it.
    last: i64,
}

#[derive(Deserialize)]
struct LastLine {
    source: String,
    sequence: String,
}

impl FileSink {
    /// A sink named `name` that appends to `path`. The file and its directory are made at the first event.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { name: name.into(), target: path.display().to_string(), path, open: None }
    }

    fn append(&mut self, deployment: Uuid, events: &[SealedEvent]) -> anyhow::Result<()> {
        if self.open.is_none() {
            self.open = Some(open(&self.path, deployment).with_context(|| format!("cannot write to {}", self.target))?);
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let mut lines = Vec::with_capacity(events.len() * 512);
        for event in events.iter().filter(|event| event.seq > open.last) {
            lines.extend(envelope::line(deployment, event).with_context(|| format!("event {} is damaged", event.seq))?);
            lines.push(b'\n');
        }
        let written = open.file.write_all(&lines).and_then(|()| open.file.sync_data());
        match written {
            Ok(()) => {
                open.last = events.last().map_or(open.last, |event| event.seq.max(open.last));
                Ok(())
            }
            Err(error) => {
                // How much arrived is unknown: opening the file again finds out and cuts a torn line.
                self.open = None;
                Err(error).with_context(|| format!("cannot write to {}", self.target))
            }
        }
    }
}

impl Sink for FileSink {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &str {
        "file"
    }

    fn target(&self) -> &str {
        &self.target
    }

    fn publish<'a>(
        &'a mut self,
        deployment: Uuid,
        events: &'a [SealedEvent],
    ) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send + 'a>> {
        Box::pin(async move { tokio::task::block_in_place(|| self.append(deployment, events)) })
    }
}

fn open(path: &Path, deployment: Uuid) -> io::Result<Open> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory)?;
    }
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
    let length = file.metadata()?.len();
    let tail_from = length.saturating_sub(LINE_BYTES_MAX);
    file.seek(SeekFrom::Start(tail_from))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let whole = tail.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    if whole < tail.len() {
        // The process or the machine died in the middle of this line; its event comes again.
        file.set_len(tail_from + whole as u64)?;
    }
    let last = tail[..whole.saturating_sub(1)].rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
    let ours = format!("/backhaul/{deployment}/");
    let last = serde_json::from_slice::<LastLine>(last)
        .ok()
        .filter(|line| line.source.starts_with(&ours))
        .and_then(|line| line.sequence.rsplit('-').next().and_then(|number| number.parse().ok()))
        .unwrap_or(0);
    Ok(Open { file, last })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::example;

    fn lines(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path).expect("readable").lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_stands_in_the_file_is_not_written_twice_and_a_torn_line_is_cut() {
        let directory = std::env::temp_dir().join(format!("backhaul-file-sink-{}", Uuid::new_v4()));
        let path = directory.join("events.jsonl");
        let deployment = Uuid::from_u128(1);
        let mut sink = FileSink::new("file", &path);
        sink.append(deployment, &[example(1), example(2)]).expect("written");
        let torn = [std::fs::read(&path).expect("readable"), br#"{"specversion":"1.0","id":"#.to_vec()].concat();
        std::fs::write(&path, torn).expect("writable");

        let mut again = FileSink::new("file", &path);
        again.append(deployment, &[example(2), example(3)]).expect("written");
        let found = lines(&path);
        assert_eq!(found.len(), 3);
        assert!(found[2].contains("00000000000000000003"), "{}", found[2]);

        // Another deployment starts at 1 again, and nothing of it may be skipped.
        let mut other = FileSink::new("file", &path);
        other.append(Uuid::from_u128(2), &[example(1)]).expect("written");
        assert_eq!(lines(&path).len(), 4);
        std::fs::remove_dir_all(directory).expect("removable");
    }

    #[test]
    fn a_directory_in_the_way_is_named() {
        let mut sink = FileSink::new("file", std::env::temp_dir());
        let error = sink.append(Uuid::nil(), &[example(1)]).expect_err("a directory is no file");
        assert!(format!("{error:#}").contains("cannot write to"), "{error:#}");
    }
}
