//! The kinds a process can run, with their types erased.

use std::{collections::HashMap, pin::Pin, sync::Arc};

use crate::{
    context::JobContext,
    decide::Outcome,
    failure::Failure,
    job::{Job, KindSpec},
    misfit,
    preview::{Flaw, Preview, PreviewContext, Subject},
    store::Store,
};

type Running<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;
type Previewing<'a> = Pin<Box<dyn Future<Output = Result<Preview, Failure>> + Send + 'a>>;

/// One kind behind a pointer.
pub(crate) trait AnyKind: Send + Sync {
    fn spec(&self) -> &KindSpec;
    fn run<'a>(&'a self, payload: &'a str, context: &'a mut JobContext) -> Running<'a>;
    fn preview<'a>(&'a self, payload: &'a str, context: &'a mut PreviewContext) -> Previewing<'a>;
}

struct Kind<J: Job> {
    spec: KindSpec,
    env: Arc<J::Env>,
}

impl<J: Job> AnyKind for Kind<J> {
    fn spec(&self) -> &KindSpec {
        &self.spec
    }

    fn run<'a>(&'a self, payload: &'a str, context: &'a mut JobContext) -> Running<'a> {
        Box::pin(async move {
            let job: J = match serde_json::from_str(payload) {
                Ok(job) => job,
                Err(error) => return Outcome::Undecodable(misfit::of_text::<J>(payload, &error)),
            };
            match job.run(&self.env, context).await {
                Ok(()) => Outcome::Done,
                Err(failure) => Outcome::Failed(failure),
            }
        })
    }

    fn preview<'a>(&'a self, payload: &'a str, context: &'a mut PreviewContext) -> Previewing<'a> {
        Box::pin(async move {
            match serde_json::from_str::<J>(payload) {
                Ok(job) => job.preview(&self.env, context).await,
                Err(error) => {
                    let flaw = Flaw { pointer: String::new(), message: misfit::of_text::<J>(payload, &error) };
                    Ok(Preview::invalid("payload_invalid", [flaw]))
                }
            }
        })
    }
}

/// The kinds that a worker runs. Built once at start.
#[derive(Default)]
pub struct Registry {
    kinds: HashMap<(&'static str, i16), Arc<dyn AnyKind>>,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the kind `J`, whose attempts share `env`. A second call for the same kind and version replaces the first.
    pub fn add<J: Job>(&mut self, env: Arc<J::Env>) -> &mut Self {
        let kind = Kind::<J> { spec: KindSpec::of::<J>(), env };
        self.kinds.insert((J::KIND, J::VERSION), Arc::new(kind));
        self
    }

    /// Keeps only the kinds that `keep` says yes to.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.kinds.retain(|(kind, _), _| keep(kind));
    }

    /// The constants of all kinds, sorted by name.
    pub fn specs(&self) -> Vec<KindSpec> {
        let mut specs: Vec<KindSpec> = self.kinds.values().map(|kind| kind.spec().clone()).collect();
        specs.sort_by_key(|spec| (spec.kind, spec.version));
        specs
    }

    /// What the job, or the payload, would do now. With `reveals`, personal data that the tenant's policy lets pass is
    /// shown as it would be sent; without, it is masked.
    ///
    /// # Errors
    /// `kind_unknown`, `preview_unsupported`, or whatever keeps the upstream from being asked: the failure that an
    /// attempt would meet.
    pub async fn preview(&self, store: &Store, subject: &Subject, reveals: bool) -> Result<Preview, Failure> {
        let newest = self.kinds.keys().filter(|(kind, _)| *kind == subject.kind).map(|(_, version)| *version).max();
        let found = subject.version.or(newest).and_then(|version| self.get(&subject.kind, version));
        let Some(kind) = found else {
            let version = subject.version.map(|version| format!(" of version {version}")).unwrap_or_default();
            let message = format!("this program has no kind {:?}{version}", subject.kind);
            return Err(Failure::permanent("kind_unknown", message));
        };
        let mut context = PreviewContext::open(store, subject, reveals).await?;
        let timeout = kind.spec().timeout;
        match tokio::time::timeout(timeout, kind.preview(&subject.payload, &mut context)).await {
            Ok(answer) => answer.map(Preview::bounded),
            Err(_) => Err(Failure::transient("timed_out", format!("no answer within {} s", timeout.as_secs()))),
        }
    }

    pub(crate) fn get(&self, kind: &str, version: i16) -> Option<Arc<dyn AnyKind>> {
        self.kinds.get(&(kind, version)).cloned()
    }

    /// The bucket whose tokens claims take for the kind.
    pub(crate) fn first_bucket(&self, kind: &str, version: i16) -> Option<&'static str> {
        self.kinds.get(&(kind, version)).and_then(|kind| kind.spec().pacing.first().copied())
    }

    /// `kind@version` of every kind: what a claim may bring.
    pub(crate) fn labels(&self) -> Vec<String> {
        self.specs().iter().map(|spec| format!("{}@{}", spec.kind, spec.version)).collect()
    }
}
