use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::{get, post};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::drain::{self, Limits};
use crate::node::{Node, Readiness};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// None of them is reached, unless a test sets another.
const FAR: Limits = Limits { head: PATIENCE, silence: PATIENCE, deadline: PATIENCE };

/// A server that can be asked to stop.
struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(router: Router, limits: Limits) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("some port is free");
        let address = listener.local_addr().expect("it listens");
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(drain::serve(listener, router, limits, async { drop(stopped.await) }));
        Self { address, stop, task }
    }

    async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.expect("it listens"))
    }

    /// Asks it to stop, and waits until nobody is let in any more: from then on it drains.
    async fn drain(self) -> Draining {
        self.stop.send(()).expect("it runs");
        let refused = async {
            while TcpStream::connect(self.address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, refused).await.expect("the listener is closed");
        Draining { task: self.task }
    }
}

/// A server that was asked to stop.
struct Draining {
    task: JoinHandle<()>,
}

impl Draining {
    async fn ends(self) {
        timeout(PATIENCE, self.task).await.expect("it ends").expect("it does not panic");
    }
}

/// A connection, as a proxy holds it.
struct Client(TcpStream);

impl Client {
    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.expect("the connection is open");
    }

    /// Reads until the text has been seen.
    async fn until(&mut self, end: &str) -> String {
        let mut read = Vec::new();
        let answer = async {
            while !String::from_utf8_lossy(&read).contains(end) {
                assert_ne!(
                    self.0.read_buf(&mut read).await.expect("no reset"),
                    0,
                    "{}",
                    String::from_utf8_lossy(&read)
                );
            }
        };
        timeout(PATIENCE, answer).await.expect("an answer");
        String::from_utf8(read).expect("text")
    }

    /// Whatever still comes until the other side closes in order.
    async fn rest(&mut self) -> String {
        let mut text = String::new();
        timeout(PATIENCE, self.0.read_to_string(&mut text)).await.expect("it is closed").expect("no reset");
        text
    }

    async fn get(&mut self) -> String {
        self.send("GET / HTTP/1.1\r\nHost: here\r\n\r\n").await;
        self.until("hello").await
    }
}

fn hello() -> Router {
    Router::new().route("/", get(|| async { "hello" }))
}

/// A body whose pieces come when the test sends them.
fn streamed(mut pieces: mpsc::Receiver<&'static str>) -> Body {
    struct Pieces<F>(F);
    impl<F: FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<&'static str>> + Unpin> hyper::body::Body
        for Pieces<F>
    {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            (self.0)(cx).map(|piece| piece.map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))))
        }
    }
    Body::new(Pieces(move |cx: &mut std::task::Context<'_>| pieces.poll_recv(cx)))
}

#[tokio::test]
async fn an_idle_connection_is_kept_and_what_still_comes_on_it_is_answered_with_connection_close() {
    let server = Server::start(hello(), FAR).await;
    let mut used = server.connect().await;
    assert!(!used.get().await.contains("connection: close"));
    // Opened in advance, as some proxies do.
    let mut fresh = server.connect().await;
    // Accepted in this order, so that the other one is no matter of the accept queue.
    server.connect().await.get().await;
    let draining = server.drain().await;
    for client in [&mut used, &mut fresh] {
        let answer = client.get().await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert_eq!(client.rest().await, "");
    }
    draining.ends().await;
}

#[tokio::test]
async fn a_connection_on_which_nothing_comes_is_closed_after_a_while_and_then_all_is_over() {
    let silence = Duration::from_millis(300);
    let server = Server::start(hello(), Limits { silence, ..FAR }).await;
    let mut client = server.connect().await;
    client.get().await;
    let answered = Instant::now();
    let draining = server.drain().await;
    assert_eq!(client.rest().await, "");
    assert!(answered.elapsed() >= silence, "{:?}", answered.elapsed());
    draining.ends().await;
}

#[tokio::test]
async fn without_anybody_in_front_idle_connections_are_closed_at_once() {
    let server = Server::start(hello(), Limits { silence: Duration::ZERO, ..FAR }).await;
    let mut client = server.connect().await;
    client.get().await;
    let draining = server.drain().await;
    assert_eq!(client.rest().await, "");
    draining.ends().await;
}

#[tokio::test]
async fn what_the_kernel_has_accepted_is_served() {
    // The server's runtime is this one thread, and does not run while connections are made in this blocking way.
    let server = Server::start(hello(), FAR).await;
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let mut client = std::net::TcpStream::connect(server.address).expect("the kernel accepts");
            std::io::Write::write_all(&mut client, b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").expect("and reads");
            client.set_nonblocking(true).expect("a socket");
            Client(TcpStream::from_std(client).expect("a socket"))
        })
        .collect();
    let draining = server.drain().await;
    for mut client in clients {
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
    draining.ends().await;
}

#[tokio::test]
async fn a_request_that_has_begun_is_answered() {
    let echo = Router::new().route("/", post(|body: String| async { body }));
    let server = Server::start(echo, Limits { silence: Duration::ZERO, ..FAR }).await;
    let mut client = server.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n").await;
    // Sent when the handler asks for the body.
    client.until("HTTP/1.1 100 Continue").await;
    let draining = server.drain().await;
    client.send("o").await;
    client.send("k").await;
    let answer = client.rest().await;
    assert!(answer.contains("HTTP/1.1 200 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(answer.ends_with("ok"), "{answer}");
    draining.ends().await;
}

#[tokio::test]
async fn an_answer_that_has_begun_is_finished_and_its_silence_counts_from_then() {
    let silence = Duration::from_millis(300);
    let (pieces, receiver) = mpsc::channel(1);
    let receiver = std::sync::Arc::new(std::sync::Mutex::new(Some(receiver)));
    let stream = move || {
        let receiver = receiver.lock().unwrap().take();
        async { receiver.map_or_else(|| Body::from("hello"), streamed) }
    };
    let server = Server::start(Router::new().route("/", get(stream)), Limits { silence, ..FAR }).await;
    let mut client = server.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: here\r\n\r\n").await;
    pieces.send("first").await.unwrap();
    // Its head is out without `Connection: close`: the client will keep the connection, and may use it.
    assert!(!client.until("first").await.contains("connection: close"));
    let draining = server.drain().await;
    // Longer than the silence of a connection on which nothing is answered.
    tokio::time::sleep(silence * 2).await;
    pieces.send("last").await.unwrap();
    drop(pieces);
    client.until("0\r\n\r\n").await;
    assert!(client.get().await.contains("\r\nconnection: close\r\n"));
    assert_eq!(client.rest().await, "");
    draining.ends().await;
}

#[tokio::test]
async fn the_deadline_cuts_off_what_does_not_end() {
    let deadline = Duration::from_millis(300);
    let never = Router::new().route("/", get(std::future::pending::<()>));
    let server = Server::start(never, Limits { deadline, ..FAR }).await;
    let mut client = server.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: here\r\n\r\n").await;
    let stopped = Instant::now();
    server.drain().await.ends().await;
    assert!(stopped.elapsed() >= deadline, "{:?}", stopped.elapsed());
    // In whichever way: nobody is there any more.
    let mut text = String::new();
    let _ = timeout(PATIENCE, client.0.read_to_string(&mut text)).await.expect("it is cut off");
    assert_eq!(text, "");
}

#[tokio::test]
async fn a_stream_without_end_ends_when_its_node_drains() {
    let node = Node::new("1111".to_owned(), || true);
    node.set_readiness(Readiness::Ready);
    let streaming = node.clone();
    let stream = move || async move {
        let (pieces, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            pieces.send("first").await.unwrap();
            streaming.draining().await;
            drop(pieces);
        });
        streamed(receiver)
    };
    let server = Server::start(Router::new().route("/", get(stream)), Limits { silence: Duration::ZERO, ..FAR }).await;
    let mut client = server.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: here\r\n\r\n").await;
    client.until("first").await;
    node.set_readiness(Readiness::Draining);
    let draining = server.drain().await;
    assert!(client.rest().await.ends_with("0\r\n\r\n"));
    draining.ends().await;
}

#[tokio::test]
async fn who_sends_a_head_slowly_or_not_at_all_keeps_no_connection() {
    let server = Server::start(hello(), Limits { head: Duration::from_millis(300), ..FAR }).await;
    let started = Instant::now();
    let mut silent = server.connect().await;
    let mut slow: Vec<Client> = Vec::new();
    for _ in 0..50 {
        slow.push(server.connect().await);
    }
    for client in &mut slow {
        client.send("GET / HTTP/1.1\r\nHost: here\r\n").await;
    }
    // They go on for as long as they are let.
    let slow = slow.into_iter().map(|mut client| {
        tokio::spawn(async move {
            while client.0.write_all(b"X-More: 1\r\n").await.is_ok() {
                tokio::task::yield_now().await
            }
        })
    });
    let slow: Vec<_> = slow.collect();
    // Meanwhile everybody else is served.
    assert!(server.connect().await.get().await.starts_with("HTTP/1.1 200 "));
    for client in slow {
        timeout(PATIENCE, client).await.expect("it is cut off").expect("no panic");
    }
    let _ = timeout(PATIENCE, silent.0.read_to_string(&mut String::new())).await.expect("it is cut off");
    println!("50 slow clients and a silent one were gone after {:?}", started.elapsed());
    // One that has been served is no better.
    let mut kept = server.connect().await;
    kept.get().await;
    kept.rest().await;
    assert!(server.connect().await.get().await.starts_with("HTTP/1.1 200 "));
    // Nor does anybody of them hold up the end.
    let draining = server.drain().await;
    draining.ends().await;
}
