//! One delivery, from its first byte to the answer.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    body::Body,
    http::{HeaderMap, Request, request::Parts},
    response::Response,
};
use backhaul_outbound::Profile;
use futures::FutureExt;
use uuid::Uuid;

use crate::{
    app::App,
    body::{self, Incoming},
    delivery_key::{self, Keys},
    event::{self, Arrival, Problem, Reading},
    intake::{self, Fate, Intake, IntakeError, Outcome, Taken},
    jobs::{self, Common},
    json::{Json, JsonError},
    reply::Refusal,
    routes::Source,
    signature::{self, Verified},
    told::{Subject, Told},
};

/// Takes a delivery for `tenant`; without one, for the only tenant there is. Whatever happens, there is an answer, and
/// one line in the log.
pub(crate) async fn receive(app: Arc<App>, source: usize, tenant: Option<String>, request: Request<Body>) -> Response {
    let started = Instant::now();
    let id = Uuid::now_v7();
    let source = &app.routes.sources[source];
    let delivery = Delivery { app: &app, source, id };
    let mut subject = Subject::default();
    // A mistake of ours must not take the connection, and with it the sender's other deliveries, down.
    let (parts, body) = request.into_parts();
    let mut body = Incoming::new(body);
    let outcome =
        AssertUnwindSafe(delivery.take(tenant.as_deref(), &parts, &mut body, &mut subject)).catch_unwind().await;
    let outcome = outcome.unwrap_or_else(|_| Err((Refusal::Internal, "panicked".to_owned())));
    // What a stranger writes where a tenant's name belongs is not repeated.
    let tenant = tenant.as_deref().and_then(|name| app.profiles.get(name)).map(|profile| profile.tenant.as_str());
    let told = Told { source: &source.name, tenant, took: started.elapsed() };
    match outcome {
        Ok(taken) => told.taken(&app, &taken, &subject),
        Err((refusal, why)) => {
            let answer = told.refused(&app, id, &refusal, &why);
            body.drain().await;
            answer
        }
    }
}

/// A refusal, and what our log is told of it.
type Refused = (Refusal, String);

fn plain(refusal: Refusal) -> Refused {
    (refusal, String::new())
}

/// One delivery on its way.
struct Delivery<'a> {
    app: &'a App,
    source: &'a Source,
    id: Uuid,
}

impl Delivery<'_> {
    async fn take(
        &self,
        tenant: Option<&str>,
        parts: &Parts,
        body: &mut Incoming,
        subject: &mut Subject,
    ) -> Result<Taken, Refused> {
        let app = self.app;
        let profile = self.profile(tenant)?;
        let bytes_max = profile.webhook.body_bytes_max;
        let packing = body::admit(&parts.headers, bytes_max).map_err(plain)?;
        let bytes = self.listen(body, bytes_max).await?;
        let received_at = app.clock.now();
        let verified = self.verify(profile, parts, &bytes, received_at)?;
        // Only now: a place is nothing that a stranger with a slow body may hold.
        let Ok(_place) = app.places.try_acquire() else {
            return Err((self.busy("too_many_requests"), "every place is taken".to_owned()));
        };
        let bytes = body::unpack(bytes, packing, bytes_max).map_err(plain)?;
        // Only who is known learns how busy we are.
        if app.backlog.is_full(&profile.tenant) {
            let waiting = app.backlog.jobs(&profile.tenant);
            return Err((self.busy("queue_full"), format!("{waiting} of the tenant's jobs wait for workers")));
        }
        let trace = traceparent(&parts.headers);
        let arrival = Arrival { id: self.id, received_at };
        let intake = Intake {
            tenant: &profile.tenant,
            source: &self.source.name,
            keys: Keys::default(),
            id: self.id,
            event_type: None,
            channel: None,
            occurred_at: None,
            received_at,
            body: self.source.keep_body.then_some(bytes.as_slice()),
            traceparent: trace,
            fate: Fate::Jobs(String::new()),
        };
        let delivery_id = signature::unsigned_id(&profile.webhook, &parts.headers);
        match self.read(profile, &bytes) {
            Ok((body, reading)) => {
                let whole = self.source.identity_body.then_some(bytes.as_slice());
                let keys = delivery_key::keys(&reading, whole, &verified, delivery_id);
                let intake = Intake { keys, ..intake };
                self.route(profile, &body, &reading, arrival, &bytes, intake, subject).await
            }
            Err((Refusal::WrongShape(problems), _)) if profile.webhook.park_invalid => {
                self.park_invalid(&bytes, &problems, intake).await
            }
            Err(refused) => Err(refused),
        }
    }

    fn verify(
        &self,
        profile: &Profile,
        parts: &Parts,
        bytes: &[u8],
        now: chrono::DateTime<chrono::Utc>,
    ) -> Result<Verified, Refused> {
        let verified = if self.source.bearer {
            signature::verify_bearer(&profile.webhook, &parts.headers)
        } else {
            let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
            let method = parts.method.as_str();
            let delivery = signature::Delivery { method, target, headers: &parts.headers, body: bytes };
            signature::verify(&profile.webhook, delivery, now)
        };
        verified.map_err(|why| (Refusal::Unauthenticated, why.to_string()))
    }

    /// The body of somebody who may be anybody.
    async fn listen(&self, body: &mut Incoming, bytes_max: usize) -> Result<Vec<u8>, Refused> {
        let reader = self.app.readers.enter();
        let reading = body.read(bytes_max, self.app.limits.body_timeout);
        match reader.crowded_out.run_until_cancelled(reading).await {
            Some(read) => read.map_err(plain),
            None => Err((Refusal::Slow, "the slowest of too many".to_owned())),
        }
    }

    /// An unknown tenant is answered like a bad signature: names of tenants are nobody's business.
    fn profile(&self, tenant: Option<&str>) -> Result<&Profile, Refused> {
        let profiles = &self.app.profiles;
        let name = match tenant {
            Some(tenant) => tenant,
            None => {
                let mut tenants = profiles.tenants();
                match (tenants.next(), tenants.next()) {
                    (Some(only), None) => only,
                    _ => return Err(plain(Refusal::NotFound)),
                }
            }
        };
        let profile = profiles.get(name).ok_or((Refusal::Unauthenticated, "unknown tenant".to_owned()))?;
        Ok(profile)
    }

    /// The body as JSON and what it says of itself.
    fn read(&self, profile: &Profile, bytes: &[u8]) -> Result<(Json, Reading), Refused> {
        let body = Json::parse(bytes).map_err(|error| match error {
            JsonError::Unstorable(_) => {
                let problems = vec![Problem::new("", error.to_string())];
                (Refusal::WrongShape(problems), error.to_string())
            }
            _ => (Refusal::NotJson(error.to_string()), error.to_string()),
        })?;
        let reading = event::read(self.source, &body).map_err(|problems| {
            let why = pointers(&problems);
            (Refusal::WrongShape(problems), why)
        })?;
        let ids = &profile.webhook.webhook_ids;
        let known = reading.webhook_id.as_ref().is_some_and(|id| ids.contains(id));
        // A bearer token is no webhook's.
        if !ids.is_empty() && !known && !self.source.bearer {
            return Err((Refusal::Unauthenticated, "the webhook is not one of the tenant's".to_owned()));
        }
        Ok((body, reading))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "each is a fact of the one delivery; a struct of them would be made for this call alone"
    )]
    async fn route(
        &self,
        profile: &Profile,
        body: &Json,
        reading: &Reading,
        arrival: Arrival,
        bytes: &[u8],
        intake: Intake<'_>,
        subject: &mut Subject,
    ) -> Result<Taken, Refused> {
        subject.channel_type.clone_from(&reading.channel);
        let intake = Intake {
            event_type: Some(&reading.event_type),
            channel: reading.channel.as_deref(),
            occurred_at: Some(reading.occurred_at),
            ..intake
        };
        let route = match self.source.route(&reading.event_type, reading.channel.as_deref()) {
            Ok(route) => route,
            Err(reason) => return self.park(reason, None, bytes, intake).await,
        };
        let (record, drifts) = event::record(&self.app.routes, self.source, route, reading, arrival, body);
        self.app.metrics.drifted(&self.source.name, &drifts);
        subject.interaction_id = record.member("interactionId").and_then(Json::as_text).map(str::to_owned);
        let jobs = jobs::of(&self.app.routes, route, &record, body);
        subject.queues = jobs.iter().map(|job| job.destination.clone()).collect();
        let problems: Vec<Problem> =
            jobs.iter().flat_map(|job| self.app.checks.check(profile, &job.kind, &job.payload)).collect();
        if !problems.is_empty() {
            if profile.webhook.park_invalid {
                return self.park("invalid", Some(&pointers(&problems)), bytes, intake).await;
            }
            let why = pointers(&problems);
            return Err((Refusal::WrongShape(problems), why));
        }
        let common = Common { tenant: &profile.tenant, event: self.id, traceparent: intake.traceparent };
        let argument = jobs::argument(&jobs, common);
        let attempt = Intake { fate: Fate::Jobs(argument), ..intake.clone() };
        match self.store(attempt).await {
            // The sender cannot mend this, and would repeat it for ever: a person has to.
            Err(IntakeError::Refused(reason)) => self.park("job_refused", Some(&reason), bytes, intake).await,
            other => self.settled(other),
        }
    }

    async fn park_invalid(&self, bytes: &[u8], problems: &[Problem], intake: Intake<'_>) -> Result<Taken, Refused> {
        let intake = Intake { keys: delivery_key::of_body(bytes).into(), ..intake };
        self.park("invalid", Some(&pointers(problems)), bytes, intake).await
    }

    /// Keeps an event that became no job, with its whole body, until a person decides.
    async fn park(
        &self,
        reason: &str,
        detail: Option<&str>,
        bytes: &[u8],
        intake: Intake<'_>,
    ) -> Result<Taken, Refused> {
        let intake = Intake { body: Some(bytes), fate: Fate::Parked { reason, detail }, ..intake };
        let (source, tenant) = (intake.source, intake.tenant);
        let taken = self.store(intake).await;
        if matches!(&taken, Ok(taken) if taken.outcome == Outcome::Parked) {
            self.app.metrics.parked(reason);
            tracing::warn!(event_id = %self.id, source, tenant, reason, detail, "event parked");
        }
        self.settled(taken)
    }

    async fn store(&self, intake: Intake<'_>) -> Result<Taken, IntakeError> {
        let tenant = intake.tenant;
        let taken = intake::take_in(&self.app.store, intake, self.app.limits.store_timeout).await?;
        self.app.backlog.add(tenant, taken.jobs);
        Ok(taken)
    }

    fn settled(&self, taken: Result<Taken, IntakeError>) -> Result<Taken, Refused> {
        taken.map_err(|error| match error {
            IntakeError::Unavailable(why) => (self.busy("store_unavailable"), why),
            IntakeError::Refused(why) => (Refusal::Internal, why),
        })
    }

    fn busy(&self, code: &'static str) -> Refusal {
        Refusal::Busy { code, retry_after_s: self.app.limits.retry_after.as_secs().max(1) }
    }
}

/// The places of problems, for the log and for parked events: no values.
fn pointers(problems: &[Problem]) -> String {
    let told: Vec<String> =
        problems.iter().take(20).map(|problem| format!("{} {}", problem.pointer, problem.message)).collect();
    told.join("; ")
}

/// The sender's trace, where it is one: version 00, ids not all zeroes.
fn traceparent(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let named = |part: &str| part.bytes().any(|byte| byte != b'0');
    matches!(parts[..], ["00", trace, span, flags]
        if hex(trace, 32) && hex(span, 16) && hex(flags, 2) && named(trace) && named(span))
    .then_some(text)
}
