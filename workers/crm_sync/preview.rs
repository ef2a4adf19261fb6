//! What a crm-sync job would do now: the same passes as an attempt's, with nothing sent.

mod document;

use backhaul_engine::{
    Failure, Job,
    preview::{Clash, PlannedRequest, Preview, PreviewContext, Verdict},
};
use serde_json::{Map, Value};

use self::document::{afterwards, concerned, touched};
use super::{
    CrmSync, Request,
    chunks::Chunk,
    life::Life,
    pass::{First, Pass, Question, first, passes_max, settle, unasked},
    plan::Plan,
    push::{Ground, Next, Push, Pushed},
    rebase,
    record::Record,
    run::{refuse_cycle, remembered},
    settings::CrmSyncSettings,
    snapshot::Snapshot,
    thread::Thread,
};
use crate::{
    api::{
        Session,
        precondition::Standing,
        session::configured,
        threads::{CrmThreads, SourceThreads},
    },
    env::Env,
    pointer::Pointer,
    preview::{Redaction, refused, refused_at},
};

/// Members that are what people said and who they are.
const PERSONAL: &[&str] = &["text", "name", "platformId", "attachments"];

/// A request that no attempt is known to have finished.
struct Waiting<'a> {
    chunk: &'a Chunk,
    /// An attempt has begun it, so that the next one looks before it sends.
    begun: bool,
}

/// Everything one preview works with.
struct Asking<'e> {
    crm: CrmThreads<'e>,
    source: Option<SourceThreads<'e>>,
    settings: CrmSyncSettings,
    redaction: Redaction<'e>,
    /// The life that the job's next attempt belongs to.
    life: Life,
}

pub(super) async fn preview(job: &CrmSync, env: &Env, ctx: &mut PreviewContext) -> Result<Preview, Failure> {
    let tenant = ctx.tenant().to_owned();
    let profile = env.profile(&tenant)?;
    let settings =
        CrmSyncSettings::of(profile).map_err(|problems| Failure::permanent("profile_invalid", problems.join("; ")))?;
    let request = match job.request(&settings) {
        Ok(request) => request,
        Err(refusal) => return Ok(refused(refusal.code(), refusal.problems())),
    };
    let crm = configured(profile.crm.as_ref(), "crm", &tenant)?;
    let source = profile.cxone.as_ref().map(|cxone| SourceThreads::new(Session::preview(&env.client, cxone, ctx)));
    let reveals = ctx.reveals();
    let crm = CrmThreads::new(Session::preview(&env.client, crm, ctx));
    let hidden = PERSONAL.iter().map(|member| (*member).to_owned()).chain(crm.texts()).collect();
    let redaction = Redaction::new(move |_| !reveals).hiding(if reveals { Vec::new() } else { hidden });
    let life = Life { job: ctx.job().unwrap_or(0), replays: ctx.replays() };
    Asking { crm, source, settings, redaction, life }.answer(request, ctx).await
}

impl Asking<'_> {
    async fn answer(&self, request: Request, ctx: &mut PreviewContext) -> Result<Preview, Failure> {
        let id = request.thread_id().to_owned();
        let snapshot = remembered(ctx, &id).await?;
        let mut pass = match first(request, snapshot.as_ref(), &self.settings) {
            First::Known(_) => {
                let preview = Preview::new(Verdict::AlreadyApplied);
                return Ok(preview.note("nothing in the event is new since the last sync; the CRM is not asked"));
            }
            First::Pass(pass) => pass,
            First::Ask { event, why } => {
                let thread = self.fetch(ctx, Question { id: &id, event, known: snapshot.as_ref() }).await?;
                Pass::Repair { thread: Box::new(thread), why }
            }
        };
        for number in 1..=passes_max(CrmSync::MAX_ATTEMPTS) {
            if let Err(failure) = refuse_cycle(ctx, pass.thread()).await {
                // What the source says is nobody's payload.
                return refused_at(if pass.why().is_none() { "/data/parentThreadId" } else { "" }, failure);
            }
            match self.pass(ctx, number, &pass, snapshot.as_ref()).await? {
                Ok(preview) => {
                    return Ok(match pass.why() {
                        Some(why) => preview.note(format!("the CRM's record is compared with the source: {why}")),
                        None => preview,
                    });
                }
                Err(why) => {
                    let event = Some(pass.thread().clone());
                    let thread = self.fetch(ctx, Question { id: &id, event, known: None }).await?;
                    pass = Pass::Repair { thread: Box::new(thread), why };
                }
            }
        }
        Err(Failure::transient("crm_thread_vanished", "the CRM lost the thread again while it was repaired"))
    }

    /// The source's answer, as an earlier attempt got it or as it is now.
    async fn fetch(&self, ctx: &PreviewContext, question: Question<'_>) -> Result<Thread, Failure> {
        let Some(source) = &self.source else { return unasked(question) };
        let fetched = match ctx.step_result::<Option<Value>>(&self.life.step("fetch-source"))? {
            Some(stored) => stored,
            None => source.read(question.id).await?,
        };
        settle(question, fetched.as_ref(), &self.settings, ctx.now())
    }

    /// What would come of one pass; the inner error says why another pass would follow.
    async fn pass(
        &self,
        ctx: &PreviewContext,
        number: usize,
        pass: &Pass,
        snapshot: Option<&Snapshot>,
    ) -> Result<Result<Preview, &'static str>, Failure> {
        let thread = pass.thread();
        if pass.is_idle(snapshot, &self.settings) {
            let preview = Preview::new(Verdict::AlreadyApplied);
            return Ok(Ok(preview.note("only the source's version moves on; the CRM is not asked")));
        }
        let read = self.crm.read(&thread.id).await?;
        let (life, plan) = match self.stored_plan(ctx, number, pass, snapshot)? {
            Some(stored) => stored,
            None => (self.life, pass.plan(read.clone(), snapshot, &self.settings)?),
        };
        if plan.needs_source && pass.why().is_none() {
            return Ok(Err("crm_thread_missing"));
        }
        let count = plan.chunks.len();
        let (mut waiting, mut vanished, mut promised) = (Vec::new(), false, false);
        for (index, chunk) in plan.chunks.iter().enumerate() {
            let which = format!("{number}-{}-of-{count}", index + 1);
            let step = life.step(&format!("push-{which}"));
            match ctx.step_result::<Pushed>(&step)? {
                Some(pushed) => {
                    vanished |= pushed.vanished;
                    let confirmed = ctx.step_result::<Pushed>(&life.step(&format!("confirm-{which}")))?;
                    promised |= pushed.accepted_at.is_some() && confirmed.is_none();
                }
                None => waiting.push(Waiting { chunk, begun: ctx.is_begun(&step) }),
            }
        }
        if vanished && waiting.is_empty() && !promised {
            return Ok(Err("crm_thread_vanished"));
        }
        let repair = pass.why().map(|_| life);
        let preview = self.rest((ctx.tenant(), thread, repair), &plan, &waiting, read)?;
        Ok(Ok(match promised {
            true => {
                preview.note("the CRM has accepted a request for later; the job looks again until the record shows it")
            }
            false => preview,
        }))
    }

    /// The plan that the job would go on with, and the life that made it.
    fn stored_plan(
        &self,
        ctx: &PreviewContext,
        number: usize,
        pass: &Pass,
        snapshot: Option<&Snapshot>,
    ) -> Result<Option<(Life, Plan)>, Failure> {
        for life in self.life.newest_first() {
            if let Some(plan) = ctx.step_result::<Plan>(&life.step(&format!("plan-{number}")))? {
                let holds = pass.goes_on_with(&plan, (life, self.life), snapshot, &self.settings);
                return Ok(holds.then_some((life, plan)));
            }
        }
        Ok(None)
    }

    /// What is left of the chunks that are not sent yet, on top of the record as it stands.
    fn rest(
        &self,
        (tenant, thread, repair): (&str, &Thread, Option<Life>),
        plan: &Plan,
        waiting: &[Waiting<'_>],
        read: Option<(Value, Standing)>,
    ) -> Result<Preview, Failure> {
        let (record, ground) = match read {
            None => (None, Ground::Absent),
            Some((document, standing)) => {
                let record = Record::parse(document.clone());
                let record = record.map_err(|problem| Failure::permanent("crm_reply_invalid", problem))?;
                (Some(record), Ground::Read(document, standing))
            }
        };
        let push = |chunk| Push { crm: &self.crm, tenant, thread, chunk, base: &plan.base, repair };
        let (mut left, mut conflicts) = (Vec::new(), Vec::new());
        for Waiting { chunk, .. } in waiting {
            match record.as_ref().map_or_else(|| Ok(Some((*chunk).clone())), |record| push(chunk).left(record)) {
                Ok(None) => {}
                Ok(Some(chunk)) => left.push(chunk),
                Err(clash) => conflicts.extend(self.clashes(&clash)),
            }
        }
        let before = touched(record.as_ref(), &plan.chunks);
        let current = record.as_ref().map(|record| self.redaction.show(&concerned(before.clone(), record)));
        if !conflicts.is_empty() {
            let preview = Preview { current, conflicts, ..Preview::new(Verdict::WouldConflict) };
            return Ok(preview.note("somebody else changed what the job changes since it was planned"));
        }
        let done = plan.chunks.len() - waiting.len();
        let Some(chunk) = left.first() else {
            let preview = Preview { current, ..Preview::new(Verdict::AlreadyApplied) };
            return Ok(match waiting.first() {
                None if done > 0 => preview.note("earlier attempts have sent everything that changes it"),
                // A record is read again before it is written, and then there is nothing to write.
                Some(Waiting { chunk, begun: false }) if !self.crm.writes_whole_lists() => {
                    let request = Some(self.show(&push(chunk), &ground, chunk)?);
                    let why = "the job has not sent anything yet: it would send the request, and change nothing by it";
                    Preview { request, ..preview }.note(why)
                }
                _ => preview,
            });
        };
        let request = self.show(&push(chunk), &ground, chunk)?;
        let difference = self.redaction.difference(&before, &afterwards(&before, &left, thread));
        let mut preview = Preview { current, request: Some(request), difference, ..Preview::new(Verdict::WouldChange) };
        if left.len() > 1 {
            preview =
                preview.note(format!("the request is the first of {}; each waits for the one before", left.len()));
        }
        if done > 0 {
            preview = preview.note(format!("earlier attempts have sent {done} of {} requests", plan.chunks.len()));
        }
        Ok(preview)
    }

    fn show(&self, push: &Push<'_>, ground: &Ground, chunk: &Chunk) -> Result<PlannedRequest, Failure> {
        let Next { write, key } = push.next(ground, chunk)?;
        let mut request = self.crm.show(&write, &key)?;
        request.body = self.redaction.show(&request.body);
        Ok(request)
    }

    fn clashes(&self, clash: &rebase::Clash) -> Vec<Clash> {
        let side = |side: &Value, unit: &str| {
            let value = side.get(unit).filter(|value| !value.is_null())?;
            Some(self.redaction.show(value))
        };
        let units = clash.ours.as_object().into_iter().flat_map(Map::keys);
        units
            .map(|unit| {
                let pointer = match unit.split_once('/') {
                    Some((list, id)) => Pointer::root().member(list).member(id),
                    None => Pointer::root().member(unit),
                };
                Clash {
                    pointer: pointer.as_str().to_owned(),
                    base: side(&clash.base, unit),
                    ours: side(&clash.ours, unit),
                    theirs: side(&clash.theirs, unit),
                }
            })
            .collect()
    }
}
