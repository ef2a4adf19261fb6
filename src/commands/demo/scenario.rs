//! What the demo enqueues: three tenants, four kinds, and a few payloads that cannot succeed.

use serde_json::{Value, json};

use super::payloads;

/// The demo's tenants.
pub(super) const TENANTS: [&str; 3] = ["acme", "globex", "initech"];

/// Jobs of each tenant; together with the doomed ones more than 200.
const PROFILES: usize = 40;
const WIDGETS: usize = 12;
const THREADS: usize = 9;
const CHANNELS: usize = 4;
/// Updates of one thread, which must run in order.
const THREAD_VERSIONS: u64 = 2;

/// Profile whose service is down for as long as its job has tries; named in `faults.toml`.
const UNLUCKY_PROFILE: &str = "00000000-0000-4000-8000-00000000dead";

/// All jobs, in the form that `backhaul.enqueue_many` takes. `socket` is the address of the simulator's sockets.
pub(super) fn jobs(socket: &str) -> Vec<Value> {
    let mut jobs = Vec::new();
    // Tenant by tenant within each round, as producers would mix.
    for round in 0..PROFILES {
        for (tenant_at, tenant) in TENANTS.into_iter().enumerate() {
            let id = |what: u16| payloads::uuid(tenant_at, what, round);
            jobs.push(job("enrichment", tenant, &format!("profile-{round}"), payloads::enrichment(&id(1), round)));
            if round < WIDGETS {
                let payload = payloads::widget(&format!("cfg_{}", id(2)), round);
                jobs.push(job("widget-patch", tenant, &format!("widget-{round}"), payload));
            }
            if round < THREADS {
                for version in 1..=THREAD_VERSIONS {
                    let payload = payloads::thread(&id(3), version);
                    jobs.push(job("crm-sync", tenant, &format!("thread-{round}-{version}"), payload));
                }
            }
            if round < CHANNELS {
                let payload = payloads::handshake(&id(4), round, socket);
                let mut job = job("handshake", tenant, &format!("channel-{round}"), payload);
                job["priority"] = "high".into();
                jobs.push(job);
            }
        }
    }
    jobs.extend(doomed());
    jobs
}

/// Jobs that become dead letters, each for a reason of its own.
fn doomed() -> [Value; 5] {
    let mut unknown_strategy = payloads::enrichment(&payloads::uuid(0, 9, 1), 1);
    unknown_strategy["mergeStrategy"] = "REPLACE_EVERYTHING".into();

    let mut script = payloads::widget("cfg_hostile", 1);
    script["theme"]["primary"] = "url(javascript:alert(1))".into();

    // The caller saw a version that is long gone: a person has to decide, nothing is overwritten.
    let mut outdated = payloads::widget("cfg_contested", 2);
    outdated["expectedEtag"] = "\"seen-last-week\"".into();

    let mut endless = payloads::thread(&payloads::uuid(1, 9, 2), 1);
    endless["data"]["messages"][0]["text"] = "x".repeat(5_001).into();

    [
        job("enrichment", "acme", "doomed-strategy", unknown_strategy),
        job("widget-patch", "initech", "doomed-script", script),
        job("widget-patch", "acme", "doomed-outdated", outdated),
        job("crm-sync", "globex", "doomed-length", endless),
        job("enrichment", "globex", "doomed-outage", payloads::enrichment(UNLUCKY_PROFILE, 0)),
    ]
}

fn job(kind: &str, tenant: &str, key: &str, payload: Value) -> Value {
    json!({ "kind": kind, "tenant": tenant, "idempotency_key": format!("demo/{key}"), "payload": payload })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use backhaul_simulator::faults_from_toml;

    use super::*;

    #[test]
    fn there_are_200_jobs_of_four_kinds_for_three_tenants_with_a_key_each() {
        let jobs = jobs("https://127.0.0.1:1");
        assert!(jobs.len() >= 200, "{}", jobs.len());
        let mut kinds: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut keys = BTreeSet::new();
        for job in &jobs {
            let text = |member: &str| job[member].as_str().expect("text");
            kinds.entry(text("kind")).or_default().insert(text("tenant"));
            assert!(keys.insert((text("kind"), text("tenant"), text("idempotency_key"))), "{job}");
        }
        assert_eq!(kinds.keys().copied().collect::<Vec<_>>(), ["crm-sync", "enrichment", "handshake", "widget-patch"]);
        assert!(kinds.values().all(|tenants| tenants.len() == TENANTS.len()));
    }

    #[test]
    fn the_fault_script_is_valid_and_names_the_unlucky_profile() {
        let rules = faults_from_toml(super::super::FAULTS).expect("valid rules");
        assert!(rules.iter().any(|rule| rule.matching.path_contains.as_deref() == Some(UNLUCKY_PROFILE)));
    }
}
