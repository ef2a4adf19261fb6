//! A sink that tests look into.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
};

use backhaul_engine::{SealedEvent, Sink};
use uuid::Uuid;

/// A sink that keeps the types of what it gets.
#[derive(Clone, Default)]
pub(crate) struct Kept(pub(crate) Arc<Mutex<Vec<String>>>);

impl Sink for Kept {
    fn name(&self) -> &str {
        "kept"
    }

    fn kind(&self) -> &str {
        "memory"
    }

    fn target(&self) -> &str {
        "here"
    }

    fn publish<'a>(
        &'a mut self,
        _: Uuid,
        events: &'a [SealedEvent],
    ) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send + 'a>> {
        let mut kept = self.0.lock().expect("no panic under the lock");
        kept.extend(events.iter().map(|event| event.event_type.clone()));
        Box::pin(async { Ok(()) })
    }
}
