use super::*;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("an RFC 3339 time")
}

fn table(cron: &str, zone: &str) -> Timetable {
    Timetable::parse(cron, zone).expect("readable")
}

/// The next `count` occurrences after a time, in UTC.
fn next(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let table = table(cron, zone);
    let mut at = at(after);
    let mut found = Vec::new();
    for _ in 0..count {
        at = table.next(at).expect("an occurrence");
        found.push(at.format("%m-%dT%H:%M").to_string());
    }
    found
}

#[test]
fn a_line_is_read_in_its_zone() {
    assert_eq!(next("30 9 * * MON-FRI", "UTC", "2026-11-20T09:30:00Z", 2), ["11-23T09:30", "11-24T09:30"]);
    assert_eq!(next("30 9 * * *", "America/New_York", "2026-11-20T00:00:00Z", 1), ["11-20T14:30"]);
    assert_eq!(next("30 9 * * *", "Asia/Kolkata", "2026-11-20T00:00:00Z", 1), ["11-20T04:00"]);
    assert_eq!(next("@hourly", "UTC", "2026-11-20T00:10:00Z", 2), ["11-20T01:00", "11-20T02:00"]);
    assert_eq!(next("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", 1), ["02-29T00:00"]);
}

#[test]
fn what_cannot_be_read_or_never_comes_is_said_in_one_line() {
    for (cron, zone, what) in [
        ("61 * * * *", "UTC", "cannot be read"),
        ("* * * *", "UTC", "cannot be read"),
        ("* * * * * *", "UTC", "cannot be read"),
        ("every day", "UTC", "cannot be read"),
        ("", "UTC", "cannot be read"),
        ("@reboot", "UTC", "cannot be read"),
        ("* * * * *", "Mars/Olympus", "is unknown"),
        ("* * * * *", "", "is unknown"),
    ] {
        let error = Timetable::parse(cron, zone).map(|_| ()).expect_err(cron);
        assert!(error.contains(what) && !error.contains('\n'), "{cron}: {error}");
    }
    let never = table("0 0 30 2 *", "UTC").next(at("2026-01-01T00:00:00Z")).expect_err("30 February");
    assert!(never.contains("no occurrence"), "{never}");
}

/// 29 March 2026, 02:00 to 03:00 does not exist in Berlin.
#[test]
fn in_the_gap_a_fixed_time_runs_right_after_it_and_a_repeated_one_leaves_it_out() {
    let fixed = next("30 2 * * *", "Europe/Berlin", "2026-03-27T12:00:00Z", 3);
    assert_eq!(fixed, ["03-28T01:30", "03-29T01:00", "03-30T00:30"], "daily means every day");
    let repeated = next("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:10:00Z", 4);
    assert_eq!(repeated, ["03-29T00:30", "03-29T01:00", "03-29T01:30", "03-29T02:00"], "every half hour of real time");
}

/// 25 October 2026, 02:00 to 03:00 comes twice in Berlin.
#[test]
fn in_the_overlap_a_fixed_time_runs_once_and_a_repeated_one_in_both_hours() {
    let fixed = next("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2);
    assert_eq!(fixed, ["10-25T00:30", "10-26T01:30"], "not again at 01:30 UTC");
    let repeated = next("*/30 * * * *", "Europe/Berlin", "2026-10-24T23:40:00Z", 5);
    assert_eq!(repeated, ["10-25T00:00", "10-25T00:30", "10-25T01:00", "10-25T01:30", "10-25T02:00"]);
}

#[test]
fn what_is_on_time_runs_whatever_the_policy() {
    let hourly = table("0 * * * *", "UTC");
    let (first, now) = (at("2026-11-20T10:00:00Z"), at("2026-11-20T10:00:01Z"));
    for missed in [Missed::Coalesce, Missed::All, Missed::Skip] {
        let plan = hourly.plan(missed, first, now).expect("plans");
        assert_eq!(plan, Plan { runs: vec![first], next: at("2026-11-20T11:00:00Z") }, "{missed:?}");
        let early = hourly.plan(missed, first, at("2026-11-20T09:59:59Z")).expect("plans");
        assert_eq!(early, Plan { runs: vec![], next: first });
    }
}

#[test]
fn what_was_missed_runs_as_the_policy_says() {
    let hourly = table("0 * * * *", "UTC");
    let (first, now, next) = (at("2026-11-20T10:00:00Z"), at("2026-11-20T13:30:00Z"), at("2026-11-20T14:00:00Z"));
    let runs = |missed, now| {
        let plan = hourly.plan(missed, first, now).expect("plans");
        (plan.runs.iter().map(|run| run.format("%H").to_string()).collect::<Vec<_>>(), plan.next)
    };
    assert_eq!(runs(Missed::Coalesce, now), (vec!["13".to_owned()], next));
    assert_eq!(runs(Missed::All, now).0, ["10", "11", "12", "13"]);
    assert_eq!(runs(Missed::All, now).1, next);
    assert_eq!(runs(Missed::Skip, now), (vec![], next));
    // The last one is not missed yet, the ones before it are.
    assert_eq!(runs(Missed::Skip, at("2026-11-20T13:00:30Z")), (vec!["13".to_owned()], next));
}

/// A year away costs one step of coalescing, and bounded rounds of catching up.
#[test]
fn catching_up_is_bounded() {
    let minutely = table("* * * * *", "Europe/Berlin");
    let (first, now) = (at("2025-11-20T10:00:00Z"), at("2026-11-20T10:00:30Z"));
    let coalesced = minutely.plan(Missed::Coalesce, first, now).expect("plans");
    assert_eq!(coalesced, Plan { runs: vec![at("2026-11-20T10:00:00Z")], next: at("2026-11-20T10:01:00Z") });
    let all = minutely.plan(Missed::All, first, now).expect("plans");
    assert_eq!(all.runs.len(), MISSED_MAX);
    assert_eq!(all.next, first + TimeDelta::minutes(1_000), "goes on where it stopped");
    let rest = minutely.plan(Missed::All, now - TimeDelta::minutes(10), now).expect("plans");
    assert!(rest.next > now);
}

/// Forwards and backwards agree, also over the odd nights: a coalesced run is one of the occurrences.
#[test]
fn the_last_occurrence_is_one_that_going_forward_finds() {
    for cron in ["30 2 * * *", "*/20 * * * *", "15 1-3 * * *"] {
        let table = table(cron, "Europe/Berlin");
        for day in ["2026-03-28T20:00:00Z", "2026-10-24T20:00:00Z"] {
            let end = at(day) + TimeDelta::hours(12);
            let mut forward = vec![table.next(at(day)).expect("one")];
            while forward.last().is_some_and(|last| *last < end) {
                forward.push(table.next(*forward.last().expect("not empty")).expect("one"));
            }
            for pair in forward.windows(2) {
                let between = pair[0] + (pair[1] - pair[0]) / 2;
                assert_eq!(table.last(between), Some(pair[0]), "{cron} before {between}");
            }
        }
    }
}
