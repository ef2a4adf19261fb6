//! What kinds remember of resources from one job to the next, for attempts and for previews alike.

use std::future::Future;

use backhaul_engine::{Failure, JobContext, preview::PreviewContext};
use serde_json::Value;

/// Where memories are looked up.
pub(crate) trait Memories {
    /// What the kind remembers of `resource` for the tenant.
    fn recall(&mut self, resource: &str) -> impl Future<Output = Result<Option<Value>, Failure>> + Send;
}

impl Memories for JobContext {
    fn recall(&mut self, resource: &str) -> impl Future<Output = Result<Option<Value>, Failure>> + Send {
        self.memory(resource)
    }
}

impl Memories for PreviewContext {
    fn recall(&mut self, resource: &str) -> impl Future<Output = Result<Option<Value>, Failure>> + Send {
        self.memory(resource)
    }
}
