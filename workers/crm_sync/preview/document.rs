//! A record as far as a job touches it, before and after. Pure.

use serde_json::{Value, json};

use crate::{
    crm_sync::{
        chunks::Chunk,
        delta::Change,
        rebase,
        record::Record,
        thread::{Thread, Told, instant},
    },
    merge::overlay,
};

/// The items of the record that `chunks` touch, by list and id, and the members beside them that a chunk can set.
pub(super) fn touched(record: Option<&Record>, chunks: &[Chunk]) -> Value {
    let mut document = json!({ "messages": {}, "participants": {} });
    let Some(record) = record else { return document };
    let view = rebase::view(record, chunks);
    for (list, items) in [("messages", view.messages), ("participants", view.participants)] {
        document[list] = Value::Object(items.unwrap_or_default().into_iter().collect());
    }
    for name in ["parentThreadId", "status", "sourceVersion", "updatedAt"] {
        if let Some(value) = record.rest.get(name) {
            document[name] = value.clone();
        }
    }
    document
}

/// The record's other members too: the CRM's version among them.
pub(super) fn concerned(touched: Value, record: &Record) -> Value {
    let mut document = Value::Object(record.rest.clone());
    if let (Some(document), Value::Object(touched)) = (document.as_object_mut(), touched) {
        document.extend(touched);
    }
    document
}

/// What the chunks make of the touched part of a record.
pub(super) fn afterwards(before: &Value, chunks: &[Chunk], thread: &Thread) -> Value {
    let mut after = before.clone();
    for chunk in chunks {
        for (list, changes) in [("messages", &chunk.messages), ("participants", &chunk.participants)] {
            let Some(items) = after[list].as_object_mut() else { continue };
            for change in changes {
                match change {
                    Change::Add(id, wire) | Change::Update(id, wire) => {
                        let standing = items.get(id).cloned().unwrap_or_default();
                        items.insert(id.clone(), overlay(&standing, wire, &[]));
                    }
                    Change::Remove(id) => drop(items.remove(id)),
                }
            }
        }
        match &chunk.parent {
            Told::Nothing => {}
            Told::Null => after["parentThreadId"] = Value::Null,
            Told::Value(parent) => after["parentThreadId"] = json!(parent),
        }
        if let Some(status) = &chunk.status {
            after["status"] = json!(status);
        }
    }
    if let Some(version) = thread.version {
        after["sourceVersion"] = json!(version);
    }
    after["updatedAt"] = json!(instant(thread.updated_at));
    after
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{crm_sync::preview::PERSONAL, preview::Redaction};

    fn chunk(messages: Vec<Change>) -> Chunk {
        Chunk { messages, participants: Vec::new(), parent: Told::Nothing, status: None }
    }

    #[test]
    fn what_chunks_make_of_a_record_is_told_item_by_item() {
        let record = Record::parse(json!({
            "messages": [{"id": "m1", "text": "one", "note": "the CRM's"}, {"id": "m2", "text": "two"}, {"id": "m3"}],
            "sourceVersion": 1, "version": 9, "owner": "ann@example.com",
        }))
        .expect("a record");
        let chunks = [
            chunk(vec![Change::Update("m1".into(), json!({"id": "m1", "text": "uno"})), Change::Remove("m2".into())]),
            Chunk {
                parent: Told::Value("p".into()),
                status: Some("MERGED".into()),
                ..chunk(vec![Change::Add("m4".into(), json!({"id": "m4", "text": null}))])
            },
        ];
        let thread = Thread {
            id: "t1".into(),
            event: None,
            version: Some(2),
            updated_at: chrono::DateTime::UNIX_EPOCH,
            parent: Told::Nothing,
            participants: None,
            messages: None,
        };
        let before = touched(Some(&record), &chunks);
        let after = afterwards(&before, &chunks, &thread);
        let told =
            |redaction: Redaction<'_>| serde_json::to_value(redaction.difference(&before, &after)).expect("JSON");
        assert_eq!(
            told(Redaction::new(|_| true).hiding(PERSONAL.iter().map(|member| (*member).to_owned()).collect())),
            json!([
                {"pointer": "/messages/m1/text", "before": "[hidden]", "after": "[hidden]"},
                {"pointer": "/messages/m4", "after": {"id": "m4", "text": null}},
                {"pointer": "/messages/m2", "before": {"id": "m2", "text": "[hidden]"}},
                {"pointer": "/parentThreadId", "after": "p"},
                {"pointer": "/sourceVersion", "before": 1, "after": 2},
                {"pointer": "/status", "after": "MERGED"},
                {"pointer": "/updatedAt", "after": "1970-01-01T00:00:00Z"},
            ])
        );
        assert_eq!(
            told(Redaction::new(|_| false))[0],
            json!({"pointer": "/messages/m1/text", "before": "one", "after": "uno"})
        );
        let shown = Redaction::new(|_| true).show(&concerned(before.clone(), &record));
        assert_eq!(
            (&shown["owner"], &shown["version"], &shown["messages"]["m3"]),
            (&json!("[EMAIL]"), &json!(9), &Value::Null)
        );
    }
}
