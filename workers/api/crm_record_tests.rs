use serde_json::json;

use super::*;

const PRODUCTS: [Product; 4] = [Product::Zendesk, Product::Salesforce, Product::Hubspot, Product::Dataverse];

fn form(product: Product) -> RecordForm {
    let field = |(at, member): (usize, &&'static str)| {
        let name = if product == Product::Zendesk { format!("{}", 900 + at) } else { format!("f_{member}") };
        (*member, name)
    };
    RecordForm {
        product,
        object: "things".to_owned(),
        id_field: if product == Product::Zendesk { "external_id" } else { "f_id" }.to_owned(),
        fields: MEMBERS.iter().enumerate().map(field).collect(),
        text_units_max: 300,
        create: Map::from_iter([("name".to_owned(), json!("new"))]),
    }
}

fn delta(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

fn first() -> Map<String, Value> {
    delta(json!({"threadId": "t1", "sourceVersion": 7, "updatedAt": "2026-01-02T10:00:00Z",
        "addedMessages": [{"id": "m1", "text": "one"}, {"id": "m2", "text": "zwei \"ü\""}],
        "updatedMessages": [], "removedMessages": [],
        "addedParticipants": [{"id": "p1", "role": "CUSTOMER"}]}))
}

/// What the product shows of a record that was written so.
fn shown(codec: Codec<'_>, record: &Map<String, Value>) -> Value {
    match codec.0.product {
        Product::Zendesk => {
            let mut ticket = record.clone();
            let mut fields = record["custom_fields"].as_array().expect("fields").clone();
            let absent = |number: u64| !fields.iter().any(|field| field["id"] == number);
            let absent: Vec<u64> = (900..906).filter(|number| absent(*number)).collect();
            fields.extend(absent.iter().map(|number| json!({"id": number, "value": null})));
            ticket.insert("custom_fields".to_owned(), json!(fields));
            ticket.insert("id".to_owned(), json!(4711));
            ticket.insert("updated_at".to_owned(), json!("2026-01-02T10:00:00Z"));
            json!({"tickets": [ticket], "count": 1})
        }
        Product::Hubspot => json!({"id": "88", "properties": record}),
        Product::Salesforce => {
            let mut shown = record.clone();
            shown.insert("Id".to_owned(), json!("a01"));
            shown.insert("LastModifiedDate".to_owned(), json!("2026-03-01T10:00:30.250+0000"));
            Value::Object(shown)
        }
        Product::Dataverse => {
            let mut shown = record.clone();
            shown.insert("@odata.etag".to_owned(), json!("W/\"842270\""));
            Value::Object(shown)
        }
    }
}

/// What is written of a thread is read again as the same thread, and a change of it names what changes and no more.
#[test]
fn a_thread_comes_back_as_it_was_written() {
    for product in PRODUCTS {
        let form = form(product);
        let codec = Codec(&form);
        let record = codec.creation("t1", &first()).expect("it fits");
        assert_eq!(record["name"], "new", "{product:?}: what every record gets");
        let read = codec.read(shown(codec, &record), "t1").expect("readable").expect("a record");
        let thread = json!({"threadId": "t1", "parentThreadId": null, "status": null, "sourceVersion": 7,
            "updatedAt": "2026-01-02T10:00:00Z", "participants": [{"id": "p1", "role": "CUSTOMER"}],
            "messages": [{"id": "m1", "text": "one"}, {"id": "m2", "text": "zwei \"ü\""}]});
        assert_eq!(read.thread, thread, "{product:?}");

        let second = delta(json!({"threadId": "t1", "sourceVersion": 8, "updatedAt": "2026-01-02T10:00:00Z",
            "updatedMessages": [{"id": "m1", "text": "uno"}], "removedMessages": ["m2"],
            "addedMessages": [{"id": "m3", "text": null}]}));
        let changed = codec.difference(&read.thread, &second).expect("it fits");
        let names: Vec<String> = match changed.get("custom_fields") {
            Some(fields) => fields.as_array().expect("a list").iter().map(|field| field["id"].to_string()).collect(),
            None => changed.keys().cloned().collect(),
        };
        let wanted = ["sourceVersion", "messages"].map(|member| form.field(member).to_owned());
        assert!(names.len() == 2 && wanted.iter().all(|name| names.contains(name)), "{product:?}: {names:?}");
        let text = changed.get(form.field("messages")).or_else(|| changed.get("custom_fields")?.pointer("/1/value"));
        let text = text.and_then(Value::as_str).expect("text");
        assert_eq!(text, r#"[{"id":"m1","text":"uno"},{"id":"m3","text":null}]"#, "{product:?}");
    }
}

/// A null that clears is told in the product's own way, and the envelope is the product's.
#[test]
fn each_product_has_its_own_envelope() {
    let unlinked = delta(json!({"parentThreadId": null}));
    let linked = json!({"parentThreadId": "t0", "messages": [], "participants": []});
    let of = |product| {
        let form = form(product);
        let codec = Codec(&form);
        Value::Object(codec.enclosed(codec.difference(&linked, &unlinked).expect("it fits")))
    };
    assert_eq!(of(Product::Zendesk), json!({"ticket": {"custom_fields": [{"id": 900, "value": null}]}}));
    assert_eq!(of(Product::Hubspot), json!({"properties": {"f_parentThreadId": ""}}));
    assert_eq!(of(Product::Salesforce), json!({"f_parentThreadId": null}));
    assert_eq!(of(Product::Dataverse), json!({"f_parentThreadId": null}));
}

#[test]
fn what_does_not_fit_is_never_sent() {
    for product in PRODUCTS {
        let form = form(product);
        let mut long = first();
        long.insert("addedMessages".to_owned(), json!([{"id": "m1", "text": "x".repeat(300)}]));
        let failure = Codec(&form).creation("t1", &long).expect_err("too long");
        assert_eq!(failure.code(), "crm_record_too_large");
    }
    let form = RecordForm { text_units_max: 1_048_576, ..form(Product::Dataverse) };
    let mut long = first();
    long.insert("addedMessages".to_owned(), json!([{"id": "m1", "text": "\u{20ac}".repeat(400_000)}]));
    let failure = Codec(&form).creation("t1", &long).expect_err("nobody could read it again");
    assert_eq!(failure.code(), "crm_record_too_large");
}

/// Numbers come as text or with decimals, marks in the record, and what is no thread is refused.
#[test]
fn replies_are_read_leniently_where_nothing_can_be_lost() {
    assert_eq!(number(Some(&json!("7"))), Some(json!(7)));
    assert_eq!(number(Some(&json!(7.0))), Some(json!(7)));
    assert_eq!(
        [json!("7.5"), json!(-1), json!("x"), json!(null)].map(|value| number(Some(&value))),
        [const { None }; 4]
    );

    let mark = |product, raw: &Value| {
        let form = form(product);
        let mut standing = Standing::default();
        Codec(&form).mark(&mut standing, raw);
        standing
    };
    let salesforce =
        mark(Product::Salesforce, &json!({"Id": "a01", "LastModifiedDate": "2026-03-01T10:00:30.250+0000"}));
    assert_eq!(salesforce.last_modified.as_deref(), Some("Sun, 01 Mar 2026 10:00:30 GMT"));
    assert_eq!(salesforce.record.as_deref(), Some("a01"));
    assert_eq!(mark(Product::Dataverse, &json!({"@odata.etag": "W/\"1\""})).etag.as_deref(), Some("W/\"1\""));
    let zendesk = mark(Product::Zendesk, &json!({"id": 4711, "updated_at": "2026-03-01T10:00:30Z"}));
    assert_eq!(
        (zendesk.record.as_deref(), zendesk.updated_at.as_deref()),
        (Some("4711"), Some("2026-03-01T10:00:30Z"))
    );

    let read = |product, body: Value| {
        let form = form(product);
        Codec(&form)
            .read(body, "t1")
            .map(|read| read.map(|read| read.thread))
            .map_err(|failure| failure.code().to_owned())
    };
    assert_eq!(read(Product::Zendesk, json!({"tickets": []})), Ok(None));
    assert_eq!(read(Product::Zendesk, json!({"tickets": [{}, {}]})), Err("crm_record_ambiguous".to_owned()));
    let by_hand = json!({"f_messages": null, "f_participants": "", "f_status": "", "f_sourceVersion": null});
    let thread = read(Product::Salesforce, by_hand).expect("readable").expect("a record");
    assert_eq!(
        (&thread["messages"], &thread["participants"], &thread["status"]),
        (&json!([]), &json!([]), &json!(null))
    );
    for body in [
        json!({"f_messages": "[]"}),
        json!({"f_messages": "Hello", "f_participants": "[]"}),
        json!({"f_messages": "{}", "f_participants": "[]"}),
        json!({"f_messages": 7, "f_participants": "[]"}),
    ] {
        assert_eq!(read(Product::Salesforce, body), Err("crm_reply_invalid".to_owned()));
    }
}
