//! One attempt of a crm-sync job.

use backhaul_engine::{AuditEvent, Done, Failure, JobContext};
use serde_json::Value;

use super::{
    CrmSync, Request,
    pass::{First, PASSES_MAX, Pass, Question, first, no_source, settle},
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
        session::configured,
        threads::{CrmThreads, SourceThreads},
    },
    memories::Memories,
    trail::Trail,
};

/// How far up the chain of parents a cycle is looked for.
const PARENTS_MAX: usize = 16;

/// Everything one attempt works with.
struct Sync<'e> {
    crm: CrmThreads<'e>,
    source: Option<SourceThreads<'e>>,
    settings: CrmSyncSettings,
    tenant: String,
}

pub(super) async fn attempt(job: &CrmSync, env: &Env, ctx: &mut JobContext) -> Result<(), Failure> {
    let tenant = ctx.job().tenant.clone();
    let profile = env.profile(&tenant)?;
    let settings =
        CrmSyncSettings::of(profile).map_err(|problems| Failure::permanent("profile_invalid", problems.join("; ")))?;
    let request = job.request(&settings)?;
    let crm = configured(profile.crm.as_ref(), "crm", &tenant)?;
    let source = profile.cxone.as_ref().map(|cxone| SourceThreads::new(Session::new(&env.client, cxone, ctx)));
    let sync = Sync { crm: CrmThreads::new(Session::new(&env.client, crm, ctx)), source, settings, tenant };
    sync.run(request, ctx).await
}

impl Sync<'_> {
    async fn run(&self, request: Request, ctx: &mut JobContext) -> Result<(), Failure> {
        let id = request.thread_id().to_owned();
        let snapshot = remembered(ctx, &id).await?;
        if let Request::Event(thread) = &request {
            refuse_cycle(ctx, thread).await?;
        }
        let mut pass = match first(request, snapshot.as_ref()) {
            First::Known(thread) => {
                let event = self.event(ctx, &thread, "thread.ignored", "note", "no_delta_or_stale").event();
                return ctx.step("note", |_| async { Ok(Done::new(()).audit(event)) }).await;
            }
            First::Pass(pass) => pass,
            First::Ask { event, why } => {
                let known = snapshot.as_ref().and_then(|snapshot| snapshot.version);
                let thread = self.fetch(ctx, Question { id: &id, event, known }).await?;
                Pass::Repair { thread: Box::new(thread), why }
            }
        };
        for number in 1..=PASSES_MAX {
            match self.pass(ctx, number, pass, snapshot.as_ref()).await? {
                None => return Ok(()),
                Some((thread, why)) => {
                    let thread = self.fetch(ctx, Question { id: &id, event: Some(thread), known: None }).await?;
                    pass = Pass::Repair { thread: Box::new(thread), why };
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
        if pass.is_idle(snapshot, &self.settings) {
            let event = self.event(ctx, thread, "thread.synced", "advance", "unchanged").with("delta_size", 0).event();
            self.remember(ctx, thread, snapshot, event, "advance").await?;
            return Ok(None);
        }
        let settings = &self.settings;
        let plan: Plan = ctx
            .step(&format!("plan-{number}"), |_| async {
                let read = self.crm.read(&thread.id).await?;
                Ok(Done::new(pass.plan(read, snapshot, settings)?))
            })
            .await?;
        if plan.needs_source && why.is_none() {
            return Ok(Some((thread.clone(), "crm_thread_missing")));
        }
        if plan.chunks.is_empty() {
            let step = format!("advance-{number}");
            let event = self.event(ctx, thread, "thread.reconciled", &step, "up_to_date").with("reason", why);
            self.remember(ctx, thread, snapshot, event.event(), &step).await?;
            return Ok(None);
        }
        // A thread that is created anew from a difference is not whole.
        let vanished = self.push_all(ctx, number, &plan, thread, why, snapshot).await?;
        Ok(vanished.then(|| (thread.clone(), "crm_thread_vanished")))
    }

    /// Sends the chunks in order. Answers whether the CRM had lost the thread meanwhile; then nothing is remembered yet.
    async fn push_all(
        &self,
        ctx: &mut JobContext,
        number: usize,
        plan: &Plan,
        thread: &Thread,
        why: Option<&'static str>,
        snapshot: Option<&Snapshot>,
    ) -> Result<bool, Failure> {
        let count = plan.chunks.len();
        let event_type = if why.is_some() { "thread.reconciled" } else { "thread.synced" };
        let mut ground = plan.standing.clone().map_or(Ground::Absent, Ground::Known);
        let mut sum = Sum::default();
        for (index, chunk) in plan.chunks.iter().enumerate() {
            let step = format!("push-{number}-{}-of-{count}", index + 1);
            let push = Push { crm: &self.crm, tenant: &self.tenant, thread, chunk, base: &plan.base };
            let last = index + 1 == count;
            let trail = self
                .event(ctx, thread, event_type, &step, "synced")
                .with("reason", why)
                .with("delta_size", plan.delta_size)
                .with("requests", count);
            let next = self.next(thread, snapshot)?;
            let (base, before) = (ground.clone(), sum.clone());
            let pushed: Pushed = ctx
                .write_step(&step, |_, begun| async move {
                    let pushed = push.send(base, begun).await?;
                    let sum = before.plus(&pushed);
                    let done = Done::new(pushed);
                    if !last || sum.vanished {
                        return Ok(done);
                    }
                    let event = sum.tell(trail, plan.standing.as_ref()).event();
                    Ok(done.audit(event).remember(thread.id.clone(), next))
                })
                .await?;
            ground = pushed.standing.clone().map_or(Ground::Unknown, Ground::Known);
            sum = sum.plus(&pushed);
        }
        Ok(sum.vanished)
    }

    async fn fetch(&self, ctx: &mut JobContext, question: Question<'_>) -> Result<Thread, Failure> {
        let fetched: Option<Value> = match &self.source {
            Some(source) => {
                ctx.step("fetch-source", |_| async { Ok(Done::new(source.read(question.id).await?)) }).await?
            }
            None if question.event.is_none() => return Err(no_source()),
            None => None,
        };
        settle(question, fetched.as_ref(), &self.settings, ctx.now())
    }

    /// The state to remember, with the salt of the state before, or a new one.
    fn next(&self, thread: &Thread, snapshot: Option<&Snapshot>) -> Result<Value, Failure> {
        let first;
        let before = match snapshot {
            Some(snapshot) => snapshot,
            None => {
                first = Snapshot::empty(uuid::Uuid::new_v4().simple().to_string());
                &first
            }
        };
        serde_json::to_value(before.after(thread, &self.settings))
            .map_err(|error| Failure::permanent("state_unusable", error))
    }

    async fn remember(
        &self,
        ctx: &mut JobContext,
        thread: &Thread,
        snapshot: Option<&Snapshot>,
        event: AuditEvent,
        step: &str,
    ) -> Result<(), Failure> {
        let next = self.next(thread, snapshot)?;
        ctx.step(step, |_| async { Ok(Done::new(()).audit(event).remember(thread.id.clone(), next)) }).await
    }

    fn event(&self, ctx: &JobContext, thread: &Thread, event_type: &'static str, step: &str, status: &str) -> Trail {
        Trail::new(event_type, ctx.job(), &thread.id, step, status)
            .with("source_version", thread.version)
            .with("source_event", thread.event.map(super::thread::ThreadEvent::as_str))
    }
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
