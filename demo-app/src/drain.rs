//! Serves connections, and stops so that nobody behind a proxy notices.
//!
//! A server that is asked to stop has three kinds of connections, and the usual graceful shutdown is right for the first only:
//!
//! - **A request is being answered.** It is finished.
//! - **Idle, kept for the next request.** Closing it now races with a request that the proxy is just sending into it. The proxy
//!   cannot know whether that request was executed, and so may not repeat a POST: its visitor sees a 502. Here the connection
//!   stays open; what still comes on it is served, and the answer says `Connection: close`, after which nobody sends more. The
//!   proxy closes those it does not use, by a timeout of its own that must be shorter than [`Limits::silence`].
//! - **In the accept queue.** The kernel has accepted it, the proxy may have sent its request already, and closing the listener
//!   resets it. Here the queue is emptied first.
//!
//! When none is left, or at the deadline, [`serve`] returns. A proxy that is refused a connection from then on has sent nothing,
//! and turns to another node: no reload, no signal from the load balancer, and no failed POST.
//!
//! Without a proxy it does no harm: a browser's idle connections are closed after [`Limits::silence`], and zero closes them at
//! once. Streams without an end have to end by themselves ([`crate::node::Node::draining`]), or the deadline cuts them off.
//!
//! To use it elsewhere, copy this file; nothing in it knows sessions, and of the demo it takes the request extension
//! [`Connection`] only.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Request, Response, header};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower::ServiceExt;

use crate::server::Connection;

/// How long the other side of a connection may take for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// To send a request's head, counted from the end of the answer before it: who opens connections and says nothing on them,
    /// or a byte a second, does not keep them. Default: 15 seconds. Longer than a proxy keeps its idle connections (nginx here
    /// 2 seconds, the embedded front 10), so that outside a drain as well it is never the server that closes a connection
    /// under a request that is just being sent.
    pub(crate) head: Duration,
    /// To send anything, once the server drains, counted in the same way. Default: 4 seconds, twice what nginx keeps an idle
    /// connection (`keepalive_timeout 2s` in its `upstream`): a connection that was silent for longer is none of a proxy's.
    /// A drain with nothing left to answer takes this long at most.
    pub(crate) silence: Duration,
    /// For everything, once the server drains. Default: 20 seconds, longer than the slowest answer (a handler has 10, the
    /// commit of its session the store's budget of 5, and a refused upload is read for 2); and shorter than Docker's
    /// `stop_grace_period`, whose end is a SIGKILL.
    pub(crate) deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let [head, silence, deadline] = [15, 4, 20].map(Duration::from_secs);
        Self { head, silence, deadline }
    }
}

/// Serves until `stop` is ready, and then until no connection is left, or the deadline cuts off the rest.
pub(crate) async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: impl Future<Output = ()>) {
    let (drain, draining) = watch::channel(false);
    let connection = |stream| connection(stream, router.clone(), limits, draining.clone());
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(connection(stream))),
                Err(error) => {
                    // A client that has gone already, or no file descriptor left: the next try may do better, but not at once.
                    tracing::warn!(%error, "could not accept a connection");
                    sleep(Duration::from_millis(20)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = &mut stop => break,
        }
    }
    // First, so that nothing that is accepted from here on is answered without `Connection: close`.
    drain.send_replace(true);
    tracing::info!("draining: {} connections are open", connections.len());
    for stream in accept_queue(listener) {
        connections.spawn(connection(stream));
    }
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(limits.deadline, all).await.is_err() {
        tracing::warn!("{} connections did not end in time and are cut off", connections.len());
    }
}

/// Closes the listener, and returns what the kernel had accepted for it.
///
/// A connection that arrives between the last look and the closing is reset. That is a microsecond or two: with eight clients
/// that connected as fast as they could, 3,000 times a second, one of 150 stops reset one connection.
fn accept_queue(listener: TcpListener) -> Vec<TcpStream> {
    let mut queue = Vec::new();
    // The standard library's listener asks the kernel each time. Tokio's would say "nothing there" of a connection whose
    // notice it has not read yet.
    let listener = match listener.into_std() {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, "could not empty the accept queue");
            return queue;
        }
    };
    loop {
        match listener.accept().and_then(|(stream, _)| {
            stream.set_nonblocking(true)?;
            TcpStream::from_std(stream)
        }) {
            Ok(stream) => queue.push(stream),
            // A client that has gone already.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return queue,
            Err(error) => {
                tracing::warn!(%error, "could not empty the accept queue");
                return queue;
            }
        }
    }
}

/// Serves one connection to its end.
async fn connection(stream: TcpStream, router: Router, limits: Limits, mut draining: watch::Receiver<bool>) {
    let ends = stream
        .set_nodelay(true)
        .and_then(|()| Ok(Connection { local: stream.local_addr()?, peer: stream.peer_addr()? }));
    // Gone already.
    let Ok(ends) = ends else { return };

    let (silent, mut silence) = watch::channel(Some(Instant::now()));
    let is_draining = draining.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let busy = Busy::begin(&silent);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ends);
        let response = router.clone().oneshot(request);
        let is_draining = is_draining.clone();
        async move {
            let Ok(mut response) = response.await;
            if *is_draining.borrow() {
                // hyper reads it too, and closes after this answer.
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<Response<Answering>, Infallible>(response.map(|body| Answering { body, _busy: busy }))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    let silent_while_draining = async {
        // The sender outlives all connections.
        let _ = draining.wait_for(|draining| *draining).await;
        lasts(&mut silence, limits.silence).await;
    };
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = silent_while_draining => {
            // Closes it if it is idle; if a request has come at this very moment, that is answered first.
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, peer = %ends.peer, "connection ended early");
    }
}

/// Since when a connection has been silent; `None` while a request is being answered on it.
type Silence = watch::Sender<Option<Instant>>;

/// Resolves when the silence has lasted for this long.
async fn lasts(silence: &mut watch::Receiver<Option<Instant>>, limit: Duration) {
    loop {
        let since = *silence.borrow_and_update();
        let over = async {
            match since {
                Some(since) => sleep_until(since + limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => return,
            changed = silence.changed() => if changed.is_err() { return },
        }
    }
}

/// Interrupts a connection's silence, from a request's head to the end of its answer's body.
struct Busy(Silence);

impl Busy {
    fn begin(silence: &Silence) -> Self {
        silence.send_replace(None);
        Self(silence.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_replace(Some(Instant::now()));
    }
}

/// An answer's body, which knows when it ends.
struct Answering {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
