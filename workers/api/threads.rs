//! Threads: at their source in CXone, and in the CRM.

use backhaul_engine::{Failure, preview::PlannedRequest};
use backhaul_outbound::{
    Call, Method,
    header::{HeaderValue, IF_NONE_MATCH},
    profile::Product,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};

use super::{
    crm_record::{Codec, Pairs, Read},
    failure::Trouble,
    precondition::{Headers, Standing},
    reply::json_without_nul,
    session::{Exchange, Session},
};

/// Bucket class of the CRM's endpoints.
const CLASS: &str = "threads";
/// Salesforce's error code where the calls of the last 24 hours are spent.
const SPENT: &str = "REQUEST_LIMIT_EXCEEDED";
/// How long nobody asks then: the window slides, so that some calls come free all the time.
const SPENT_PAUSE: TimeDelta = TimeDelta::minutes(15);
/// This client's names for general codes at the source.
const SOURCE_NAMES: &[(&str, &str)] = &[
    ("not_found", "source_thread_not_found"),
    ("gone", "source_thread_not_found"),
    ("rejected", "source_rejected"),
    ("body_too_large", "source_thread_too_large"),
];
/// This client's names for general codes at the CRM.
const CRM_NAMES: &[(&str, &str)] = &[
    ("not_found", "crm_thread_not_found"),
    ("gone", "crm_thread_not_found"),
    ("rejected", "crm_rejected"),
    ("payload_too_large", "crm_rejected"),
    ("body_too_large", "crm_thread_too_large"),
];

/// The source of threads.
#[derive(Clone)]
pub struct SourceThreads<'e> {
    session: Session<'e>,
}

impl<'e> SourceThreads<'e> {
    /// A client over `session`, whose provider is CXone.
    pub fn new(session: Session<'e>) -> Self {
        Self { session }
    }

    /// The thread as the source shows it; `None` where the source has no such thread.
    pub async fn read(&self, id: &str) -> Result<Option<Value>, Trouble> {
        match self.session.call(Call::get("thread", "interactions").params(&[("threadId", id)])).await {
            Ok(reply) => Ok(Some(json_without_nul(&reply, "source_reply_unusable")?)),
            Err(trouble) if trouble.is_not_found() => Ok(None),
            Err(trouble) => Err(trouble.named(SOURCE_NAMES)),
        }
    }
}

/// The CRM's threads, or the flat records that stand for them.
#[derive(Clone)]
pub struct CrmThreads<'e> {
    session: Session<'e>,
    records: Option<Codec<'e>>,
}

/// A write as it is going to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// Its body, with the condition where the profile carries it there.
    pub body: Value,
    /// It makes the thread.
    pub creates: bool,
    method: Method,
    endpoint: &'static str,
    params: Pairs,
    query: Pairs,
    condition: Headers,
}

/// What the answer to a write tells.
#[derive(Debug, Clone)]
pub struct Written {
    /// The marks of the record after it, as far as the answer shows them.
    pub standing: Standing,
    /// The call.
    pub exchange: Exchange,
    /// Since when the CRM has promised to do it later; `None` where it is done.
    pub accepted_at: Option<DateTime<Utc>>,
}

impl<'e> CrmThreads<'e> {
    /// A client over `session`, whose provider is the CRM.
    pub fn new(session: Session<'e>) -> Self {
        let records = session.provider().record.as_ref().map(Codec);
        Self { session, records }
    }

    /// Whether a write carries whole lists, so that it needs a reading of its own to be made from.
    pub fn writes_whole_lists(&self) -> bool {
        self.records.is_some()
    }

    /// The members of a request's body in which people's words stand, besides those that a thread has.
    pub fn texts(&self) -> Vec<String> {
        self.records.map_or_else(Vec::new, |records| records.texts())
    }

    /// The CRM's record as a thread, and the marks of its state; `None` where it has no such thread.
    pub async fn read(&self, id: &str) -> Result<Option<(Value, Standing)>, Trouble> {
        let (params, query) = match &self.records {
            None => (vec![("threadId", id.to_owned())], Vec::new()),
            Some(records) => (records.params(id, None), records.query(id)),
        };
        let (params, query) = (borrowed(&params), borrowed(&query));
        let reply = match self.session.call(Call::get("thread", CLASS).params(&params).query(&query)).await {
            Ok(reply) => reply,
            Err(trouble) if trouble.is_not_found() => return Ok(None),
            Err(trouble) => return Err(self.told(trouble)),
        };
        let body = json_without_nul(&reply, "crm_reply_unusable")?;
        let Some(records) = &self.records else {
            let standing = Standing::of(&reply, &body);
            return Ok(Some((body, standing)));
        };
        let Some(Read { thread, raw }) = records.read(body, id)? else { return Ok(None) };
        let mut standing = Standing::of(&reply, &raw);
        records.mark(&mut standing, &raw);
        Ok(Some((thread, standing)))
    }

    /// The request that creates a thread of what `delta` adds, on the condition that there is none.
    ///
    /// # Errors
    /// Permanent `crm_record_too_large` where a field of the record cannot hold it.
    pub fn creation(&self, id: &str, delta: Map<String, Value>) -> Result<Write, Failure> {
        let absent = || vec![(IF_NONE_MATCH, HeaderValue::from_static("*"))];
        let write = |body: Map<String, Value>| Write {
            body: Value::Object(body),
            creates: true,
            method: Method::POST,
            endpoint: "threads",
            params: Vec::new(),
            query: Vec::new(),
            condition: absent(),
        };
        let Some(records) = &self.records else { return Ok(write(delta)) };
        let write = write(records.enclosed(records.creation(id, &delta)?));
        let (method, condition) = match records.0.product {
            Product::Dataverse => (Method::PATCH, absent()),
            // The others have no such condition, and refuse an id that must be unique and is not.
            Product::Zendesk | Product::Salesforce | Product::Hubspot => (Method::POST, Headers::new()),
        };
        Ok(Write { method, condition, params: records.params(id, None), ..write })
    }

    /// The request that brings `delta` to the record, on condition that it still stands as it was read. `thread` is
    /// that reading; only a CRM with flat records needs it.
    ///
    /// # Errors
    /// Permanent `precondition_missing` where the mark that the profile asks for was not read, and
    /// `crm_record_too_large` as above.
    pub fn change(
        &self,
        id: &str,
        standing: &Standing,
        thread: Option<&Value>,
        mut delta: Map<String, Value>,
    ) -> Result<Write, Failure> {
        let mode = self.session.provider().occ.mode;
        let write = |method, endpoint, condition, body| Write {
            body: Value::Object(body),
            creates: false,
            method,
            endpoint,
            params: vec![("threadId", id.to_owned())],
            query: Vec::new(),
            condition,
        };
        let Some(records) = &self.records else {
            let condition = standing.condition(mode, &mut delta)?;
            return Ok(write(Method::PATCH, "thread", condition, delta));
        };
        let mut record = records.difference(thread.unwrap_or(&Value::Null), &delta)?;
        // A ticket's condition stands in the ticket.
        let condition = standing.condition(mode, &mut record)?;
        let (method, query) = records.change();
        let params = records.params(id, Some(standing));
        Ok(Write { params, query, ..write(method, "record", condition, records.enclosed(record)) })
    }

    /// Sends a write.
    pub async fn send(&self, write: &Write, key: &str) -> Result<Written, Trouble> {
        let (params, query) = (borrowed(&write.params), borrowed(&write.query));
        let call = self.call(write, &params, &query, key)?;
        let reply = self.session.call(call).await.map_err(|trouble| self.told(trouble))?;
        // An empty or foreign body of a success says nothing about the state: the next write reads it.
        let mut document: Value = reply.json().unwrap_or_default();
        if let Some(records) = &self.records {
            document = records.written(document);
        }
        let mut standing = Standing::of(&reply, &document);
        if let Some(records) = &self.records {
            records.mark(&mut standing, &document);
        }
        let accepted_at = (reply.status == 202).then(|| self.session.now());
        Ok(Written { standing, exchange: Exchange::of(&reply), accepted_at })
    }

    /// The request that [`CrmThreads::send`] would send.
    pub fn show(&self, write: &Write, key: &str) -> Result<PlannedRequest, Failure> {
        let (params, query) = (borrowed(&write.params), borrowed(&write.query));
        self.session.show(&self.call(write, &params, &query, key)?)
    }

    fn call<'c>(
        &self,
        write: &'c Write,
        params: &'c [(&'c str, &'c str)],
        query: &'c [(&'c str, &'c str)],
        key: &str,
    ) -> Result<Call<'c>, Failure> {
        let call = Call::new(write.method.clone(), write.endpoint, CLASS).params(params).query(query);
        let mut call = call.json(&write.body);
        call.headers.extend(write.condition.clone());
        call.headers.extend(self.session.idempotency(key, write.creates)?);
        Ok(call)
    }

    /// The trouble in this client's words. Salesforce says 403 where a day's calls are spent.
    fn told(&self, trouble: Trouble) -> Trouble {
        let trouble = trouble.named(CRM_NAMES);
        match self.records.map(|records| records.0.product) {
            Some(Product::Salesforce) => {
                let bucket = self.session.provider().bucket(CLASS);
                trouble.throttled_by(SPENT, bucket, self.session.now() + SPENT_PAUSE)
            }
            _ => trouble,
        }
    }

    /// Whether a write can build on `standing` without another read.
    pub fn serves(&self, standing: &Standing) -> bool {
        standing.serves(self.session.provider().occ.mode)
    }

    /// When a record that has changed in this very second can be read so that a later change shows; `None` where it can
    /// now.
    pub fn settles_at(&self, standing: &Standing) -> Option<DateTime<Utc>> {
        let fresh = standing.is_too_fresh(self.session.provider().occ.mode);
        fresh.then(|| self.session.now() + TimeDelta::seconds(1))
    }
}

fn borrowed(pairs: &Pairs) -> Vec<(&'static str, &str)> {
    pairs.iter().map(|(name, value)| (*name, value.as_str())).collect()
}
