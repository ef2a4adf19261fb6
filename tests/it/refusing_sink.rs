//! A sink that goes on refusing is asked less and less often, and gets everything once it takes it.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use backhaul_engine::{Registry, SealedEvent, Sink};
use tokio::time::Instant;
use uuid::Uuid;

use crate::support::{Toy, ToyEnv, Worker, database, eventually};

/// Tries after which the pause is longer than a quiet relay's look for events.
const REFUSED: usize = 7;

/// Refuses the first tries, and notes when each was.
#[derive(Clone, Default)]
struct Refusing {
    tries: Arc<Mutex<Vec<Instant>>>,
}

impl Sink for Refusing {
    fn name(&self) -> &str {
        "refusing"
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
        _: &'a [SealedEvent],
    ) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send + 'a>> {
        let mut tries = self.tries.lock().expect("no panic under the lock");
        tries.push(Instant::now());
        let refuses = tries.len() <= REFUSED;
        Box::pin(async move { if refuses { Err(anyhow::anyhow!("not now")) } else { Ok(()) } })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_refuses_is_asked_less_often() {
    let db = database().await;
    let (env, sink) = (ToyEnv::new(), Refusing::default());
    let registry = {
        let env = env.clone();
        move || {
            let mut registry = Registry::new();
            registry.add::<Toy>(env.clone());
            registry
        }
    };
    let sinks = {
        let sink = sink.clone();
        move || vec![Box::new(sink.clone()) as Box<dyn Sink>]
    };
    let worker = Worker::start_kinds(db.store.clone(), registry, sinks, Worker::patient());
    db.toys(&[Toy::new(1)]).await;
    db.drained().await;
    let failing = "select failing_since is not null and last_error = 'not now' from backhaul.sinks";
    eventually("its row says so", async || db.one::<bool>(failing).await).await;
    eventually("it takes the event", async || {
        db.one::<bool>("select position > 0 and failing_since is null from backhaul.sinks").await
    })
    .await;
    worker.stop().await;
    let tries = sink.tries.lock().expect("no panic under the lock").clone();
    assert_eq!(tries.len(), REFUSED + 1);
    // From 50 ms on, doubled each time.
    let last = tries[REFUSED] - tries[REFUSED - 1];
    assert!(last >= Duration::from_millis(3_000), "{last:?} before the last try");
}
