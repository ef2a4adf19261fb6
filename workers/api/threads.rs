//! Threads: at their source in CXone, and in the CRM.

use backhaul_engine::{Failure, preview::PlannedRequest};
use backhaul_outbound::{
    Call, Method,
    header::{HeaderValue, IF_NONE_MATCH},
};
use serde_json::{Map, Value};

use super::{
    failure::Trouble,
    precondition::{Headers, Standing},
    reply::json_without_nul,
    session::{Exchange, Session},
};

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

/// The CRM's threads.
#[derive(Clone)]
pub struct CrmThreads<'e> {
    session: Session<'e>,
}

impl<'e> CrmThreads<'e> {
    /// A client over `session`, whose provider is the CRM.
    pub fn new(session: Session<'e>) -> Self {
        Self { session }
    }

    /// The CRM's record and the marks of its state; `None` where it has no such thread.
    pub async fn read(&self, id: &str) -> Result<Option<(Value, Standing)>, Trouble> {
        match self.session.call(Call::get("thread", "threads").params(&[("threadId", id)])).await {
            Ok(reply) => {
                let document = json_without_nul(&reply, "crm_reply_unusable")?;
                let standing = Standing::of(&reply, &document);
                Ok(Some((document, standing)))
            }
            Err(trouble) if trouble.is_not_found() => Ok(None),
            Err(trouble) => Err(trouble.named(CRM_NAMES)),
        }
    }

    /// Creates a thread on the condition that there is none.
    pub async fn create(&self, body: Map<String, Value>, key: &str) -> Result<(Standing, Exchange), Trouble> {
        self.write(self.create_call(&Value::Object(body), key)?).await
    }

    /// The request that [`CrmThreads::create`] would send.
    pub fn show_create(&self, body: Map<String, Value>, key: &str) -> Result<PlannedRequest, Failure> {
        self.session.show(&self.create_call(&Value::Object(body), key)?)
    }

    fn create_call<'c>(&self, body: &'c Value, key: &str) -> Result<Call<'c>, Failure> {
        let mut call = Call::new(Method::POST, "threads", "threads")
            .header(IF_NONE_MATCH, HeaderValue::from_static("*"))
            .json(body);
        call.headers.extend(self.session.idempotency(key, true)?);
        Ok(call)
    }

    /// Makes a delta conditional on the record as it was read: headers, or members that are added to `body`.
    ///
    /// # Errors
    /// Permanent `precondition_missing` where the mark that the profile asks for was not read.
    pub fn condition(&self, standing: &Standing, body: &mut Map<String, Value>) -> Result<Headers, Failure> {
        standing.condition(self.session.provider().occ.mode, body)
    }

    /// Sends a conditional delta.
    pub async fn patch(
        &self,
        id: &str,
        condition: Headers,
        body: Map<String, Value>,
        key: &str,
    ) -> Result<(Standing, Exchange), Trouble> {
        let params = [("threadId", id)];
        self.write(self.patch_call(&params, condition, &Value::Object(body), key)?).await
    }

    /// The request that [`CrmThreads::patch`] would send.
    pub fn show_patch(
        &self,
        id: &str,
        condition: Headers,
        body: Map<String, Value>,
        key: &str,
    ) -> Result<PlannedRequest, Failure> {
        self.session.show(&self.patch_call(&[("threadId", id)], condition, &Value::Object(body), key)?)
    }

    fn patch_call<'c>(
        &self,
        params: &'c [(&'c str, &'c str)],
        condition: Headers,
        body: &'c Value,
        key: &str,
    ) -> Result<Call<'c>, Failure> {
        let mut call = Call::new(Method::PATCH, "thread", "threads").params(params).json(body);
        call.headers.extend(condition);
        call.headers.extend(self.session.idempotency(key, false)?);
        Ok(call)
    }

    /// An empty or foreign body of a success says nothing about the state: the next write reads it.
    async fn write(&self, call: Call<'_>) -> Result<(Standing, Exchange), Trouble> {
        let reply = self.session.call(call).await.map_err(|trouble| trouble.named(CRM_NAMES))?;
        let document: Value = reply.json().unwrap_or_default();
        Ok((Standing::of(&reply, &document), Exchange::of(&reply)))
    }

    /// Whether a write can build on `standing` without another read.
    pub fn serves(&self, standing: &Standing) -> bool {
        standing.serves(self.session.provider().occ.mode)
    }
}
