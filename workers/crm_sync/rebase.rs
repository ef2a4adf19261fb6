//! What is left of a chunk when the record it was made for has moved on. Pure.
//!
//! The unit is one message, one participant, the parent link, the status. Ours wins where the others left it alone,
//! theirs stays where we do not touch it, and a unit that both changed differently is a conflict.

use serde_json::{Map, Value};

use super::{
    chunks::Chunk,
    delta::Change,
    record::{Items, Record, covers},
    thread::Told,
};

/// Both sides of a conflict, restricted to the units in question.
#[derive(Debug, Clone, PartialEq)]
pub struct Clash {
    /// What stood there when the job first looked.
    pub base: Value,
    /// What the job wants.
    pub ours: Value,
    /// What stands there now.
    pub theirs: Value,
}

/// The part of `record` that `chunks` touch: enough to tell later whether somebody else changed it too.
pub fn view(record: &Record, chunks: &[Chunk]) -> Record {
    Record {
        messages: touched(record.messages.as_ref(), chunks.iter().flat_map(|chunk| &chunk.messages)),
        participants: touched(record.participants.as_ref(), chunks.iter().flat_map(|chunk| &chunk.participants)),
        rest: record.rest.clone(),
    }
}

fn touched<'a>(items: Option<&Items>, changes: impl Iterator<Item = &'a Change>) -> Option<Items> {
    let items = items?;
    Some(
        changes
            .filter_map(|change| items.get_key_value(change.id()))
            .map(|(id, item)| (id.clone(), item.clone()))
            .collect(),
    )
}

/// The chunk as it is to be sent on top of `theirs`, given that it was made when `base` stood there.
///
/// # Errors
/// The units that both sides changed differently.
pub fn rebase(chunk: &Chunk, base: &Record, theirs: &Record) -> Result<Chunk, Box<Clash>> {
    let mut clashes = Sides::default();
    let rebased = Chunk {
        messages: rebase_items(
            &chunk.messages,
            base.messages.as_ref(),
            theirs.messages.as_ref(),
            "messages",
            &mut clashes,
        ),
        participants: rebase_items(
            &chunk.participants,
            base.participants.as_ref(),
            theirs.participants.as_ref(),
            "participants",
            &mut clashes,
        ),
        parent: match &chunk.parent {
            Told::Nothing => Told::Nothing,
            Told::Null => unit(None, base.parent(), theirs.parent(), "parentThreadId", &mut clashes)
                .map_or(Told::Nothing, |()| Told::Null),
            Told::Value(parent) => unit(Some(parent), base.parent(), theirs.parent(), "parentThreadId", &mut clashes)
                .map_or(Told::Nothing, |()| Told::Value(parent.clone())),
        },
        status: chunk
            .status
            .clone()
            .filter(|status| unit(Some(status), base.status(), theirs.status(), "status", &mut clashes).is_some()),
    };
    if clashes.is_empty() { Ok(rebased) } else { Err(Box::new(clashes.into_clash())) }
}

/// `Some` where the unit is still to be sent.
fn unit(
    ours: Option<&String>,
    base: Option<&String>,
    theirs: Option<&String>,
    name: &str,
    clashes: &mut Sides,
) -> Option<()> {
    let value = |text: Option<&String>| text.map_or(Value::Null, |text| text.clone().into());
    if theirs == ours {
        return None;
    }
    if theirs != base {
        clashes.add(name, value(base), value(ours), value(theirs));
        return None;
    }
    Some(())
}

fn rebase_items(
    changes: &[Change],
    base: Option<&Items>,
    theirs: Option<&Items>,
    list: &str,
    clashes: &mut Sides,
) -> Vec<Change> {
    // Without a look at the items nothing can be compared; ids keep the changes from touching anything else.
    let Some(theirs) = theirs else { return changes.to_vec() };
    let mut left = Vec::new();
    for change in changes {
        let (id, wanted) = match change {
            Change::Add(id, wire) | Change::Update(id, wire) => (id, Some(wire)),
            Change::Remove(id) => (id, None),
        };
        let (was, is) = (base.and_then(|base| base.get(id)), theirs.get(id));
        match (wanted, is) {
            (None, None) => {}
            (Some(wanted), Some(is)) if covers(is, wanted) => {}
            _ if is != was => clashes.add(
                &format!("{list}/{id}"),
                was.cloned().unwrap_or_default(),
                wanted.cloned().unwrap_or_default(),
                is.cloned().unwrap_or_default(),
            ),
            (Some(wanted), Some(_)) => left.push(Change::Update(id.clone(), wanted.clone())),
            (Some(wanted), None) => left.push(Change::Add(id.clone(), wanted.clone())),
            (None, Some(_)) => left.push(Change::Remove(id.clone())),
        }
    }
    left
}

#[derive(Default)]
struct Sides {
    base: Map<String, Value>,
    ours: Map<String, Value>,
    theirs: Map<String, Value>,
}

impl Sides {
    fn add(&mut self, name: &str, base: Value, ours: Value, theirs: Value) {
        self.base.insert(name.to_owned(), base);
        self.ours.insert(name.to_owned(), ours);
        self.theirs.insert(name.to_owned(), theirs);
    }

    fn is_empty(&self) -> bool {
        self.ours.is_empty()
    }

    fn into_clash(self) -> Clash {
        Clash { base: Value::Object(self.base), ours: Value::Object(self.ours), theirs: Value::Object(self.theirs) }
    }
}

#[cfg(test)]
#[path = "rebase_tests.rs"]
mod tests;
