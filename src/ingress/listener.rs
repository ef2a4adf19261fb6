//! A listener that is patient within bounds: so many connections, so long for a head, and an end when it is told.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::app::Limits;

/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// Largest head of a request.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Pause after a failure to accept: connections need time to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound listener.
#[derive(Debug)]
pub(crate) struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds; port 0 takes any.
    ///
    /// # Errors
    /// The address is taken, or not this machine's.
    pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let tcp = TcpListener::bind(address).await?;
        let address = tcp.local_addr()?;
        Ok(Self { tcp, address })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until told to stop, then lets requests end for as long as the grace lasts.
    pub(crate) async fn serve(self, router: Router, limits: &Limits, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(limits.connections_max));
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_BYTES_MAX);
        loop {
            // Beyond the bound, clients wait in the system's queue.
            let place = stop.run_until_cancelled(Arc::clone(&places).acquire_owned()).await;
            let Some(Ok(place)) = place else { break };
            let socket = match stop.run_until_cancelled(self.tcp.accept()).await {
                None => break,
                Some(Ok((socket, _))) => socket,
                Some(Err(error)) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (builder, router, stop) = (builder.clone(), router.clone(), stop.clone());
            connections.spawn(async move {
                converse(builder, socket, router, stop).await;
                drop(place);
            });
        }
        drop(self.tcp);
        connections.close();
        if tokio::time::timeout(limits.grace, connections.wait()).await.is_err() {
            tracing::warn!("requests that took too long were cut off at the stop");
        }
    }
}

async fn converse(builder: http1::Builder, socket: TcpStream, router: Router, stop: CancellationToken) {
    // A socket that refuses the option still works.
    let _ = socket.set_nodelay(true);
    let connection = builder.serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}
