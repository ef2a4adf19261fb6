use serde_json::json;

use super::*;

fn settings() -> CrmSyncSettings {
    CrmSyncSettings::default()
}

fn body(version: Option<u64>, messages: &[&str], minute: u32) -> Value {
    let message = |id: &&str| json!({"id": id, "text": "text", "timestamp": "2026-01-02T09:00:00Z", "authorId": "p1"});
    json!({"threadId": "t1", "version": version, "updatedAt": format!("2026-01-02T10:{minute:02}:00Z"),
        "messages": messages.iter().map(message).collect::<Vec<_>>(), "participants": []})
}

fn thread(version: Option<u64>, messages: &[&str], minute: u32) -> Thread {
    let envelope = json!({"event": "THREAD_UPDATED", "timestamp": "2026-01-02T10:00:00Z",
        "data": body(version, messages, minute)});
    envelope::event(&envelope, &settings()).expect("a valid envelope")
}

fn synced(thread: &Thread) -> Snapshot {
    Snapshot::empty("salt".to_owned()).after(thread, &settings())
}

fn settled(event: Option<Thread>, known: &Snapshot, fetched: Option<&Value>) -> Result<Option<u64>, &'static str> {
    let question = Question { id: "t1", event, known: Some(known) };
    let settled = settle(question, fetched, &settings(), DateTime::UNIX_EPOCH);
    settled.map(|thread| thread.version).map_err(|failure| failure.code())
}

/// Covers row 174: an event gets no answer that is older than what was synced; a person may go back.
#[test]
fn a_source_that_lags_is_behind() {
    let known = synced(&thread(Some(7), &["m1"], 7));
    let event = || Some(thread(Some(6), &["m2"], 6));
    let lagging = body(Some(5), &[], 5);
    assert_eq!(settled(event(), &known, Some(&lagging)), Err("source_behind"));
    assert_eq!(settled(event(), &known, Some(&body(Some(7), &[], 7))), Ok(Some(7)));
    assert_eq!(settled(event(), &known, None), Err("source_behind"));
    assert_eq!(settled(None, &known, Some(&lagging)), Ok(Some(5)));
    assert_eq!(settled(None, &known, None), Err("source_thread_not_found"));
}

/// Covers row 171: without versions the source's word counts, and without its word a late event does not.
#[test]
fn without_versions_a_late_event_alone_is_behind() {
    let known = synced(&thread(None, &["m1", "m2"], 7));
    let event = |minute| Some(thread(None, &["m1"], minute));
    assert_eq!(settled(event(6), &known, Some(&body(None, &["m1"], 5))), Ok(None));
    assert_eq!(settled(event(6), &known, None), Err("source_behind"));
    assert_eq!(settled(event(8), &known, None), Ok(None));
}

/// Where there is nobody to ask, an event counts that is as new as what was synced.
#[test]
fn without_a_source_a_late_event_needs_one() {
    let known = synced(&thread(Some(7), &["m1"], 7));
    let told = |event: Option<Thread>| unasked(Question { id: "t1", event, known: Some(&known) });
    assert_eq!(told(Some(thread(Some(9), &[], 9))).map(|thread| thread.version).ok(), Some(Some(9)));
    assert!(told(Some(thread(Some(7), &["m2"], 7))).is_ok(), "another content of the same version");
    for event in [Some(thread(Some(6), &["m2"], 6)), Some(thread(None, &["m2"], 6)), None] {
        assert_eq!(told(event).expect_err("nobody can say").code(), "unconfigured");
    }
}

/// Covers row 207 for threads: a replay takes up a plan only while it would come out the same.
#[test]
fn an_earlier_life_s_plan_holds_while_nothing_changed() {
    let (first, second) = (thread(Some(1), &["m1"], 1), thread(Some(2), &["m1", "m2"], 2));
    let snapshot = synced(&first);
    let [born, again] = [0, 1].map(|replays| Life { job: 7, replays });
    let pass = Pass::Difference(Box::new(second.clone()));
    let plan = pass.plan(None, Some(&snapshot), &settings()).expect("a plan");
    let plan: Plan = serde_json::from_value(serde_json::to_value(plan).expect("JSON")).expect("a plan");
    let holds =
        |pass: &Pass, plan: &Plan, lives: (Life, Life), snapshot: Option<&Snapshot>, settings: &CrmSyncSettings| {
            pass.goes_on_with(plan, lives, snapshot, settings)
        };
    assert!(holds(&pass, &plan, (born, again), Some(&snapshot), &settings()));
    let later = Snapshot { synced_by: Some(Life { job: 8, replays: 0 }), ..snapshot.clone() };
    assert!(!holds(&pass, &plan, (born, again), Some(&later), &settings()), "somebody has synced since");
    assert!(!holds(&pass, &plan, (born, again), None, &settings()));
    let smaller = CrmSyncSettings { chunk: 10, ..settings() };
    assert!(
        !holds(&pass, &plan, (born, again), Some(&snapshot), &smaller),
        "the remedy for a request that is too large"
    );
    let other = Pass::Difference(Box::new(thread(Some(2), &["m1"], 2)));
    assert!(
        !holds(&other, &plan, (born, again), Some(&snapshot), &settings()),
        "the remedy for a text that is too long"
    );
    // In one life nothing else can have synced, and a plan that is half sent is gone on with.
    assert!(holds(&pass, &plan, (again, again), None, &settings()));

    let repair = Pass::Repair { thread: Box::new(second), why: "requested" };
    let plan = repair.plan(None, Some(&snapshot), &settings()).expect("a plan");
    assert!(!holds(&repair, &plan, (born, again), Some(&snapshot), &settings()), "the record is compared anew");
    assert!(holds(&repair, &plan, (born, born), Some(&snapshot), &settings()));
    let old = Plan { made_of: None, ..plan };
    assert!(!holds(&pass, &old, (born, again), Some(&snapshot), &settings()));
}

/// What a plan sets out to add is noted until it is synced, or until a comparison with the record has removed it.
#[test]
fn what_a_job_set_out_to_add_is_noted() {
    let (first, second) = (thread(Some(1), &["m1"], 1), thread(Some(2), &["m1", "m2", "m3"], 2));
    let snapshot = synced(&first);
    let pass = Pass::Difference(Box::new(second));
    let plan = pass.plan(None, Some(&snapshot), &settings()).expect("a plan");
    let begun = snapshot.setting_out(&plan.chunks).expect("it adds something");
    assert_eq!(begun.unfinished.messages.iter().collect::<Vec<_>>(), ["m1", "m2", "m3"]);
    assert_eq!(begun.setting_out(&[]), None);
    let (born, again) = (Life { job: 7, replays: 0 }, Life { job: 7, replays: 1 });
    assert!(pass.goes_on_with(&plan, (born, again), Some(&begun), &settings()), "its own note does not outdate a plan");
    assert_eq!(pass.after(&begun, &settings()).unfinished, Unfinished::default());

    let third = thread(Some(3), &["m3"], 3);
    let difference = Pass::Difference(Box::new(third.clone())).after(&begun, &settings());
    assert_eq!(difference.unfinished.messages.iter().collect::<Vec<_>>(), ["m1", "m2"], "nobody has looked for them");
    let mut silent = third.clone();
    silent.messages = None;
    let repair = |thread: Thread| Pass::Repair { thread: Box::new(thread), why: "version_gap" };
    assert_eq!(repair(silent).after(&begun, &settings()).unfinished, begun.unfinished);
    assert_eq!(repair(third).after(&begun, &settings()).unfinished, Unfinished::default());

    // Before the first sync the note is all there is.
    let begun = Snapshot::empty("salt".to_owned()).setting_out(&plan.chunks).expect("it adds something");
    let begins = first_of(&thread(Some(2), &[], 2), &begun);
    assert!(matches!(begins, First::Pass(Pass::Difference(_))), "{begins:?}");
    assert!(!Pass::Difference(Box::new(thread(Some(2), &[], 2))).is_idle(Some(&begun), &settings()));
}

fn first_of(thread: &Thread, snapshot: &Snapshot) -> First {
    first(Request::Event(Box::new(thread.clone())), Some(snapshot), &settings())
}
