//! One attempt of a crm-sync job.

use std::borrow::Cow;

use backhaul_engine::{AuditEvent, Done, Failure, JobContext};
use chrono::TimeDelta;
use serde_json::Value;

use super::{
    CrmSync, Request,
    life::Life,
    pass::{First, Pass, Question, first, passes_max, settle, unasked},
    plan::Plan,
    push::{Ground, Push, Pushed, Sum},
    settings::CrmSyncSettings,
    snapshot::Snapshot,
    thread::{Thread, Told},
};
use crate::{
    Env,
    api::{
        Session,
        precondition::Standing,
        session::configured,
        threads::{CrmThreads, SourceThreads},
    },
    look_again::look_again,
    memories::Memories,
    trail::Trail,
};

/// Longest pause between two looks at a change that the CRM has accepted for later.
const CONFIRM_PAUSE_MAX: TimeDelta = TimeDelta::minutes(15);
/// How far up the chain of parents a cycle is looked for.
const PARENTS_MAX: usize = 16;

/// Everything one attempt works with.
struct Sync<'e> {
    crm: CrmThreads<'e>,
    source: Option<SourceThreads<'e>>,
    settings: CrmSyncSettings,
    tenant: String,
    life: Life,
}

pub(super) async fn attempt(job: &CrmSync, env: &Env, ctx: &mut JobContext) -> Result<(), Failure> {
    let tenant = ctx.job().tenant.clone();
    let profile = env.profile(&tenant)?;
    let settings =
        CrmSyncSettings::of(profile).map_err(|problems| Failure::permanent("profile_invalid", problems.join("; ")))?;
    let request = job.request(&settings)?;
    let crm = configured(profile.crm.as_ref(), "crm", &tenant)?;
    let source = profile.cxone.as_ref().map(|cxone| SourceThreads::new(Session::new(&env.client, cxone, ctx)));
    let life = Life { job: ctx.job().id, replays: ctx.job().replays };
    let sync = Sync { crm: CrmThreads::new(Session::new(&env.client, crm, ctx)), source, settings, tenant, life };
    sync.run(request, ctx).await
}

impl Sync<'_> {
    async fn run(&self, request: Request, ctx: &mut JobContext) -> Result<(), Failure> {
        let id = request.thread_id().to_owned();
        let mut snapshot = remembered(ctx, &id).await?;
        if snapshot.as_ref().is_some_and(|snapshot| snapshot.synced_by == Some(self.life)) {
            // An attempt was killed behind its last step, which has told and remembered everything.
            return Ok(());
        }
        let mut pass = match first(request, snapshot.as_ref(), &self.settings) {
            First::Known(thread) => {
                let step = self.life.step("note");
                let event = self.event(ctx, &thread, "thread.ignored", &step, "no_delta_or_stale").event();
                return ctx.step(&step, |_| async { Ok(Done::new(()).audit(event)) }).await;
            }
            First::Pass(pass) => pass,
            First::Ask { event, why } => {
                let thread = self.fetch(ctx, Question { id: &id, event, known: snapshot.as_ref() }).await?;
                Pass::Repair { thread: Box::new(thread), why }
            }
        };
        for number in 1..=passes_max(ctx.job().attempt) {
            match self.pass(ctx, number, pass, snapshot.as_ref()).await? {
                None => return Ok(()),
                Some((thread, why)) => {
                    let thread = self.fetch(ctx, Question { id: &id, event: Some(thread), known: None }).await?;
                    pass = Pass::Repair { thread: Box::new(thread), why };
                    // What this pass has added is noted there.
                    snapshot = remembered(ctx, &id).await?;
                }
            }
        }
        Err(Failure::transient("crm_thread_vanished", "the CRM lost the thread again while it was repaired"))
    }

    /// Plans, sends and remembers. `Some` asks for another pass with the thread as it is known so far.
    async fn pass(
        &self,
        ctx: &mut JobContext,
        number: usize,
        pass: Pass,
        snapshot: Option<&Snapshot>,
    ) -> Result<Option<(Thread, &'static str)>, Failure> {
        let (thread, why) = (pass.thread(), pass.why());
        refuse_cycle(ctx, thread).await?;
        if pass.is_idle(snapshot, &self.settings) {
            let step = self.life.step("advance");
            let event = self.event(ctx, thread, "thread.synced", &step, "unchanged").with("delta_size", 0).event();
            self.remember(ctx, &pass, snapshot, event, &step).await?;
            return Ok(None);
        }
        let (life, plan) = self.plan(ctx, number, &pass, snapshot).await?;
        if plan.needs_source && why.is_none() {
            return Ok(Some((thread.clone(), "crm_thread_missing")));
        }
        if plan.chunks.is_empty() {
            let step = life.step(&format!("advance-{number}"));
            let event = self.event(ctx, thread, "thread.reconciled", &step, "up_to_date").with("reason", why);
            self.remember(ctx, &pass, snapshot, event.event(), &step).await?;
            return Ok(None);
        }
        // A thread that is created anew from a difference is not whole.
        let vanished = self.push_all(ctx, (life, number), &plan, &pass, snapshot).await?;
        Ok(vanished.then(|| (thread.clone(), "crm_thread_vanished")))
    }

    /// What the pass is going to send, and the life whose steps send it: an earlier one's where its plan still holds.
    async fn plan(
        &self,
        ctx: &mut JobContext,
        number: usize,
        pass: &Pass,
        snapshot: Option<&Snapshot>,
    ) -> Result<(Life, Plan), Failure> {
        let settings = &self.settings;
        let name = format!("plan-{number}");
        for life in self.life.newest_first() {
            if let Some(plan) = ctx.step_result::<Plan>(&life.step(&name)).await? {
                if pass.goes_on_with(&plan, (life, self.life), snapshot, settings) {
                    return Ok((life, plan));
                }
                break;
            }
        }
        let plan = ctx
            .step(&self.life.step(&name), |_| async {
                let id = &pass.thread().id;
                let plan = pass.plan(self.crm.read(id).await?, snapshot, settings)?;
                Ok(match before(snapshot).setting_out(&plan.chunks) {
                    Some(state) => Done::new(plan).remember(id.clone(), stored(&state)?),
                    None => Done::new(plan),
                })
            })
            .await?;
        Ok((self.life, plan))
    }

    /// Sends the chunks in order. Answers whether the CRM had lost the thread meanwhile; then nothing is remembered yet.
    async fn push_all(
        &self,
        ctx: &mut JobContext,
        (life, number): (Life, usize),
        plan: &Plan,
        pass: &Pass,
        snapshot: Option<&Snapshot>,
    ) -> Result<bool, Failure> {
        let (thread, why) = (pass.thread(), pass.why());
        let count = plan.chunks.len();
        let event_type = if why.is_some() { "thread.reconciled" } else { "thread.synced" };
        let mut ground = plan.standing.clone().map_or(Ground::Absent, Ground::Known);
        let mut sum = Sum::default();
        for (index, chunk) in plan.chunks.iter().enumerate() {
            let step = life.step(&format!("push-{number}-{}-of-{count}", index + 1));
            let repair = why.map(|_| life);
            let push = Push { crm: &self.crm, tenant: &self.tenant, thread, chunk, base: &plan.base, repair };
            let trail = self
                .event(ctx, thread, event_type, &step, "synced")
                .with("reason", why)
                .with("delta_size", plan.delta_size)
                .with("requests", count);
            let end = End {
                before: sum.clone(),
                standing: plan.standing.as_ref(),
                told: (index + 1 == count).then_some((trail, thread.id.clone(), self.next(pass, snapshot)?)),
            };
            let (base, ends, push) = (ground.clone(), end.clone(), &push);
            let pushed: Pushed =
                ctx.write_step(&step, |_, begun| async move { Ok(ends.done(push.send(base, begun).await?)) }).await?;
            let pushed = match pushed.accepted_at {
                None => pushed,
                Some(since) => {
                    let next_look = look_again(since, ctx.now(), CONFIRM_PAUSE_MAX);
                    let step = life.step(&format!("confirm-{number}-{}-of-{count}", index + 1));
                    ctx.step(&step, |_| async { Ok(end.done(push.confirmed(pushed, next_look).await?)) }).await?
                }
            };
            ground = pushed.standing.clone().map_or(Ground::Unknown, Ground::Known);
            sum = sum.plus(&pushed);
        }
        Ok(sum.vanished)
    }

    async fn fetch(&self, ctx: &mut JobContext, question: Question<'_>) -> Result<Thread, Failure> {
        let Some(source) = &self.source else { return unasked(question) };
        let (settings, now) = (&self.settings, ctx.now());
        let fetched: Option<Value> = ctx
            .step(&self.life.step("fetch-source"), |_| async {
                let fetched = source.read(question.id).await?;
                // An answer that is of no use is not stored, so that the next try asks again.
                settle(question.clone(), fetched.as_ref(), settings, now)?;
                Ok(Done::new(fetched))
            })
            .await?;
        settle(question, fetched.as_ref(), settings, now)
    }

    /// The state to remember at the end.
    fn next(&self, pass: &Pass, snapshot: Option<&Snapshot>) -> Result<Value, Failure> {
        stored(&Snapshot { synced_by: Some(self.life), ..pass.after(&before(snapshot), &self.settings) })
    }

    async fn remember(
        &self,
        ctx: &mut JobContext,
        pass: &Pass,
        snapshot: Option<&Snapshot>,
        event: AuditEvent,
        step: &str,
    ) -> Result<(), Failure> {
        let next = self.next(pass, snapshot)?;
        ctx.step(step, |_| async { Ok(Done::new(()).audit(event).remember(pass.thread().id.clone(), next)) }).await
    }

    fn event(&self, ctx: &JobContext, thread: &Thread, event_type: &'static str, step: &str, status: &str) -> Trail {
        Trail::new(event_type, ctx.job(), &thread.id, step, status)
            .with("source_version", thread.version)
            .with("source_event", thread.event.map(super::thread::ThreadEvent::as_str))
    }
}

/// What is kept of a push.
#[derive(Clone)]
struct End<'a> {
    /// The pushes before it.
    before: Sum,
    /// The record as it was planned on.
    standing: Option<&'a Standing>,
    /// With the last push: what is told, and what is remembered of which thread.
    told: Option<(Trail, String, Value)>,
}

impl End<'_> {
    /// Nothing is told or remembered of a push that only may still take effect, or that found the thread gone.
    fn done(self, pushed: Pushed) -> Done<Pushed> {
        let (sum, pending) = (self.before.plus(&pushed), pushed.accepted_at.is_some());
        let done = Done::new(pushed);
        match self.told {
            Some((trail, id, state)) if !pending && !sum.vanished => {
                done.audit(sum.tell(trail, self.standing).event()).remember(id, state)
            }
            _ => done,
        }
    }
}

/// The state before a sync, with its salt, or a new one.
fn before(snapshot: Option<&Snapshot>) -> Cow<'_, Snapshot> {
    match snapshot {
        Some(snapshot) => Cow::Borrowed(snapshot),
        None => Cow::Owned(Snapshot::empty(uuid::Uuid::new_v4().simple().to_string())),
    }
}

fn stored(state: &Snapshot) -> Result<Value, Failure> {
    serde_json::to_value(state).map_err(|error| Failure::permanent("state_unusable", error))
}

/// The state of the thread after its last sync. A state that cannot be read is as good as none: the CRM's record is
/// compared then.
pub(super) async fn remembered(memories: &mut impl Memories, id: &str) -> Result<Option<Snapshot>, Failure> {
    Ok(memories.recall(id).await?.and_then(|state| serde_json::from_value(state).ok()))
}

/// Refuses a parent that is, at whatever distance, a child of the thread.
pub(super) async fn refuse_cycle(memories: &mut impl Memories, thread: &Thread) -> Result<(), Failure> {
    let Told::Value(parent) = &thread.parent else { return Ok(()) };
    let mut next = parent.clone();
    for _ in 0..PARENTS_MAX {
        let Some(above) = remembered(memories, &next).await?.and_then(|state| state.parent) else { return Ok(()) };
        if above == thread.id {
            return Err(Failure::permanent("thread_parent_cycle", "the parent is a child of the thread itself"));
        }
        next = above;
    }
    Ok(())
}
