//! A kind whose jobs do what their payload says, and tell what they did.

use std::{
    collections::HashMap,
    fs::File,
    io::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use backhaul_engine::{AuditEvent, Cause, Done, Failure, Job, JobContext};
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Semaphore;

/// A toy: `n` names it, `key` orders it, `acts` are done one a try (the last one is repeated).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Toy {
    pub(crate) n: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// `ok`, `transient`, `permanent`, `conflict`, `throttle:MS`, `panic`, `hang`, `wait` (for a permit of the gate),
    /// `wait X` (the same, then X), `lose` (`wait permanent`), `step` (a step named `a`, then a transient failure),
    /// `nul`, `nul conflict` (words that Postgres cannot store), `steps` (steps `a` and `b`), `steps then hang`, `write` (a begun step that fails once).
    #[serde(default)]
    pub(crate) acts: Vec<String>,
}

impl Toy {
    pub(crate) fn new(n: i64) -> Self {
        Self { n, ..Self::default() }
    }

    pub(crate) fn act(mut self, act: &str) -> Self {
        self.acts.push(act.to_owned());
        self
    }

    pub(crate) fn keyed(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }
}

/// What toys did, and the gate they may wait at.
#[derive(Debug)]
pub(crate) struct ToyEnv {
    /// `(n, what)` in the order in which it happened: `start`, `end`, `step a`, `unknown`, ...
    pub(crate) log: Mutex<Vec<(i64, String)>>,
    tries: Mutex<HashMap<i64, usize>>,
    /// Toys that `wait` take a permit each.
    pub(crate) gate: Semaphore,
    down: AtomicBool,
    /// Where a process of its own writes its log as well, for others to read.
    ledger: Option<File>,
}

impl ToyEnv {
    pub(crate) fn new() -> Arc<Self> {
        Self::written_to(None)
    }

    /// One whose log is also appended to a file, a line a note: process, toy, what.
    pub(crate) fn written_to(ledger: Option<File>) -> Arc<Self> {
        let (log, tries, down) = Default::default();
        Arc::new(Self { log, tries, gate: Semaphore::new(0), down, ledger })
    }

    /// Whether toys that `call` find their upstream down.
    pub(crate) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    /// The most toys of those that `which` names that ran at the same time.
    pub(crate) fn most_at_once(&self, which: impl Fn(i64) -> bool) -> usize {
        let log = self.log.lock().expect("no panic under the lock");
        let (mut now, mut most) = (0_usize, 0);
        for (_, what) in log.iter().filter(|(n, _)| which(*n)) {
            match what.as_str() {
                "start" => now += 1,
                "end" => now -= 1,
                _ => {}
            }
            most = most.max(now);
        }
        most
    }

    pub(crate) fn note(&self, n: i64, what: impl Into<String>) {
        self.note_call(n, what, "");
    }

    /// Notes `what`; the ledger has the Idempotency-Key of the call as well.
    fn note_call(&self, n: i64, what: impl Into<String>, key: &str) {
        let what = what.into();
        if let Some(mut ledger) = self.ledger.as_ref() {
            // One write, so that the lines of several processes stand in the order in which they were written.
            let line = format!("{} {n} {what} {key}", std::process::id());
            ledger.write_all(format!("{}\n", line.trim_end()).as_bytes()).expect("writable");
        }
        self.log.lock().expect("no panic under the lock").push((n, what));
    }

    /// How often `what` was noted, for one toy or for all.
    pub(crate) fn count(&self, n: Option<i64>, what: &str) -> usize {
        let log = self.log.lock().expect("no panic under the lock");
        log.iter().filter(|(toy, noted)| n.is_none_or(|n| n == *toy) && noted == what).count()
    }

    /// The toys in the order in which they noted `what`.
    pub(crate) fn order(&self, what: &str) -> Vec<i64> {
        let log = self.log.lock().expect("no panic under the lock");
        log.iter().filter(|(_, noted)| noted == what).map(|(n, _)| *n).collect()
    }
}

impl Job for Toy {
    const KIND: &'static str = "toy";
    const MAX_ATTEMPTS: u16 = 4;
    const TIMEOUT: Duration = Duration::from_secs(20);
    const ORDERING_KEY: Option<&'static [&'static str]> = Some(&["key"]);
    const PACING: &'static [&'static str] = &["toy/box"];
    type Env = ToyEnv;

    async fn run(&self, env: &ToyEnv, ctx: &mut JobContext) -> Result<(), Failure> {
        let nth = {
            let mut tries = env.tries.lock().expect("no panic under the lock");
            let nth = tries.entry(self.n).or_default();
            *nth += 1;
            *nth - 1
        };
        env.note(self.n, "start");
        let act = self.acts.get(nth.min(self.acts.len().saturating_sub(1))).map_or("ok", String::as_str);
        let ended = self.act_out(act, nth, env, ctx).await;
        env.note(self.n, "end");
        ended
    }
}

impl Toy {
    async fn act_out(&self, act: &str, nth: usize, env: &ToyEnv, ctx: &mut JobContext) -> Result<(), Failure> {
        let act = match act.strip_prefix("wait ") {
            Some(then) => {
                env.gate.acquire().await.expect("the gate stays").forget();
                then
            }
            None => act,
        };
        match act {
            "ok" => Ok(()),
            "transient" => Err(Failure::transient("toy_broke", format!("try {nth}")).with_status(503)),
            "permanent" => Err(Failure::permanent("toy_lost", "cannot be mended")),
            "refused" => Err(Failure::permanent("toy_refused", "not acceptable").with_status(422)),
            "call" if env.down.load(Ordering::SeqCst) => {
                let cause = Cause { down: Some("toy"), ..Cause::new("toy_down", "nobody answers") };
                Err(Failure::Transient { cause, not_before: None })
            }
            "call" => Ok(()),
            "calls" => {
                let pacer = ctx.pacer();
                ctx.step("a", |key| async move {
                    pacer.take("toy/box").await?;
                    noted(env, self.n, "step a", key).await
                })
                .await?;
                ctx.pacer().take("toy/box").await
            }
            "conflict" => {
                Err(Failure::Conflict { base: json!({"a": 1}), ours: json!({"a": 2}), theirs: json!({"a": 3}) })
            }
            "nul" => {
                let event =
                    AuditEvent { event_type: "toy.nul", subject: "toy/\0".into(), data: json!({ "\0": ["\0"] }) };
                ctx.audit(event);
                Err(Failure::permanent("toy_nul", "a \0 from outside"))
            }
            "nul conflict" => {
                Err(Failure::Conflict { base: json!({"\0": 1}), ours: json!(["\0"]), theirs: json!("\0") })
            }
            "panic" => panic!("toy {} panics", self.n),
            "hang" => std::future::pending().await,
            "wait" => {
                env.gate.acquire().await.expect("the gate stays").forget();
                Ok(())
            }
            "lose" => {
                env.gate.acquire().await.expect("the gate stays").forget();
                Err(Failure::permanent("toy_lost", "after the gate"))
            }
            "step" => {
                ctx.step("a", |key| noted(env, self.n, "step a", key)).await?;
                Err(Failure::transient("toy_broke", "after the step"))
            }
            "steps" => {
                ctx.step("a", |key| noted(env, self.n, "step a", key)).await?;
                ctx.step("b", |key| noted(env, self.n, "step b", key)).await?;
                Ok(())
            }
            "steps then hang" => {
                Box::pin(self.act_out("steps", nth, env, ctx)).await?;
                std::future::pending().await
            }
            "write" => {
                ctx.write_step("w", |_, begun| async move {
                    env.note(self.n, format!("{begun:?}"));
                    if nth == 0 { Err(Failure::transient("toy_broke", "inside the write")) } else { Ok(Done::new(())) }
                })
                .await
            }
            // Another upstream than the kind's own.
            "call other" => {
                let cause = Cause { down: Some("other"), ..Cause::new("other_down", "nobody answers") };
                Err(Failure::Transient { cause, not_before: None })
            }
            "take other" => ctx.pacer().take("other/box").await,
            other => match other.strip_prefix("throttle:").and_then(|ms| ms.parse().ok()) {
                Some(ms) => {
                    let until = ctx.now() + TimeDelta::milliseconds(ms);
                    Err(Failure::throttled("toy/box", until, "throttled", "429"))
                }
                None => Err(Failure::permanent("toy_unknown_act", other)),
            },
        }
    }
}

async fn noted(env: &ToyEnv, n: i64, what: &str, key: String) -> Result<Done<String>, Failure> {
    env.note_call(n, what, &key);
    let event = AuditEvent { event_type: "toy.stepped", subject: format!("toy/{n}"), data: json!({ "what": what }) };
    Ok(Done::new(key).audit(event).remember(format!("toy/{n}"), json!(what)))
}
