//! Accepts connections and serves a router on them, until told to stop.
//!
//! `axum::serve` would do for the demo's own needs, but it never gives up on a client that opens a connection and sends
//! nothing, and it closes no connection that lingers at shutdown.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

/// How long a client may take to send a request's head, and a connection may idle. Longer than nginx and the embedded front
/// keep theirs, so that it is never the server that closes a connection under a request that is just being sent.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long requests in flight may take to finish at shutdown: longer than a handler ([`crate::node::HANDLER_TIMEOUT`]) plus
/// the session store's budget.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(20);

/// The two ends of the connection that a request came on; an extension of every request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connection {
    /// This server's end: what the page shows as address and port.
    pub(crate) local: SocketAddr,
    /// The other end: the client, or the proxy in front.
    pub(crate) peer: SocketAddr,
}

/// Listens on `address`; the error of a taken port says what to do.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, crate::Fatal> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            let (ip, port) = (address.ip(), address.port());
            let other = SocketAddr::new(ip, port.checked_add(1).unwrap_or(8080));
            format!(
                "port {port} on {ip} is taken by another program; stop that, or choose another port with the variable LISTEN, \
                 for example LISTEN={other}"
            )
            .into()
        }
        _ => format!("cannot listen on {address}: {error}; choose another address with the variable LISTEN").into(),
    })
}

/// Serves until `stop` is ready; then stops listening and lets requests in flight finish.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()>) {
    let connections = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let (stream, connection) = match accepted.and_then(|(stream, peer)| {
            stream.set_nodelay(true)?;
            let local = stream.local_addr()?;
            Ok((stream, Connection { local, peer }))
        }) {
            Ok(accepted) => accepted,
            Err(error) => {
                // A client that has gone already, or no file descriptor left: the next try may do better, but not at once.
                tracing::warn!(%error, "could not accept a connection");
                sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let service = router.clone().map_request(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(connection);
            request
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let served = connections.watch(served);
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::debug!(%error, peer = %connection.peer, "connection ended early");
            }
        });
    }
    drop(listener);
    if timeout(SHUTDOWN_DEADLINE, connections.shutdown()).await.is_err() {
        tracing::warn!("some requests did not finish in time and were cut off");
    }
}

/// Ready when the process is asked to end: Ctrl-C, or SIGTERM as from Docker.
pub(crate) async fn asked_to_stop() {
    let interrupt = async {
        tokio::signal::ctrl_c().await.expect("Ctrl-C can be listened for");
    };
    #[cfg(unix)]
    let terminate = async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .expect("SIGTERM can be listened for");
        terminate.recv().await;
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending();
    tokio::select! {
        () = interrupt => {}
        () = terminate => {}
    }
    tracing::info!("stopping");
}
