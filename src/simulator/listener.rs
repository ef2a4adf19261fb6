//! Connections that the simulator can cut at will: a fault that drops the connection without an answer, and a stop
//! that leaves nobody waiting, both need a hand on the socket that an HTTP server does not give.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{extract::connect_info::Connected, serve::IncomingStream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};

/// Longest a client may take over its TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// TLS handshakes in progress per listener; further clients wait in the accept queue.
const HANDSHAKES_MAX: usize = 512;

/// The handle by which a request handler cuts the connection it came in on.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    cut: CancellationToken,
}

impl Connection {
    /// Drops the connection with a TCP reset. Nothing that is still unsent will be sent.
    pub(crate) fn cut(&self) {
        self.cut.cancel();
    }

    /// Resolves when the connection was cut or the simulator stops.
    pub(crate) async fn closed(&self) {
        self.cut.cancelled().await;
    }
}

impl Connected<IncomingStream<'_, Listener>> for Connection {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        stream.io().connection.clone()
    }
}

/// A plain or TLS listener that hands out [`Stream`]s.
pub(crate) struct Listener {
    ready: mpsc::Receiver<(Stream, SocketAddr)>,
    address: SocketAddr,
}

impl Listener {
    /// Starts accepting. Everything ends when `stop` is cancelled.
    pub(crate) fn start(
        tcp: TcpListener,
        tls: Option<TlsAcceptor>,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> io::Result<Self> {
        let address = tcp.local_addr()?;
        let (sender, ready) = mpsc::channel(256);
        let stop = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = accept_all(&tcp, tls, &sender, &stop) => {}
            }
        });
        Ok(Self { ready, address })
    }
}

async fn accept_all(
    tcp: &TcpListener,
    tls: Option<TlsAcceptor>,
    sender: &mpsc::Sender<(Stream, SocketAddr)>,
    stop: &CancellationToken,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let (socket, peer) = match tcp.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: give connections time to end instead of spinning.
                tracing::warn!(%error, "the simulator could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Latency matters more than packets here; a socket that refuses the option still works.
        let _ = socket.set_nodelay(true);
        let Some(acceptor) = tls.clone() else {
            if sender.send((Stream::new(Io::Plain(socket), stop), peer)).await.is_err() {
                return;
            }
            continue;
        };
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let (sender, stop) = (sender.clone(), stop.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let handshake = tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(socket));
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = handshake => outcome,
            };
            // Clients that refuse the certificate end here; that is what those listeners are for.
            if let Ok(Ok(stream)) = outcome {
                let _ = sender.send((Stream::new(Io::Tls(Box::new(stream)), &stop), peer)).await;
            }
        });
    }
}

impl axum::serve::Listener for Listener {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            // The acceptor has ended, so the simulator is stopping; the serving task is about to be aborted.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Io {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }
}

/// A connection that fails on the next read or write once it has been cut.
pub(crate) struct Stream {
    io: Io,
    connection: Connection,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Stream {
    fn new(io: Io, stop: &CancellationToken) -> Self {
        let token = stop.child_token();
        Self { io, cut: Box::pin(token.clone().cancelled_owned()), connection: Connection { cut: token } }
    }

    /// Ready with an error once the connection was cut; registers for the cut otherwise.
    fn poll_cut(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if self.cut.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        // A reset and not a polite end: the client must not take the end for an empty answer.
        let _ = self.io.tcp().set_zero_linger();
        Poll::Ready(io::Error::from(io::ErrorKind::ConnectionReset))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(error) = this.poll_cut(context) {
            return Poll::Ready(Err(error));
        }
        match &mut this.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Io::Tls(tls) => Pin::new(tls.as_mut()).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Poll::Ready(error) = this.poll_cut(context) {
            return Poll::Ready(Err(error));
        }
        match &mut this.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Io::Tls(tls) => Pin::new(tls.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(tcp) => Pin::new(tcp).poll_flush(context),
            Io::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(error) = this.poll_cut(context) {
            return Poll::Ready(Err(error));
        }
        match &mut this.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Io::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(context),
        }
    }
}
