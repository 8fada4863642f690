//! Stands between clients and a Redis server, and hands on command by command and reply by reply, as its rules say.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::resp;

/// What becomes of a command or a reply.
pub(crate) enum Fate {
    /// It arrives.
    Passes,
    /// It disappears, and the next one takes its turn.
    Vanishes,
    /// It does not arrive, nor does anything behind it; the connection stays open.
    Held,
    /// It does not arrive, and the connection ends in order.
    Cut,
    /// Half of it arrives, and then the connection is reset.
    Torn,
    /// This arrives instead.
    Becomes(Vec<u8>),
    /// It arrives twice, and the next one takes its turn behind that.
    Repeats,
    /// It arrives a second time in place of the next reply to a command like its own.
    Replaces,
    /// It exchanges its place with the next reply to a command like its own.
    Swaps,
}

/// What a relay does. Each method is called once per command or reply, in their order on one connection.
pub(crate) trait Rules: Send + Sync + 'static {
    /// What is remembered of a command until its reply leaves.
    type Note: Send + Clone + PartialEq;

    /// A command has come; `waiting` has the notes of those before it, oldest first, whose replies have not left yet. With
    /// `None` it vanishes.
    fn command(&self, name: String, waiting: &VecDeque<Self::Note>) -> Option<Self::Note>;

    /// The reply to a command leaves, or something that answers none.
    fn reply(&self, note: Option<&Self::Note>) -> Fate;

    /// How long what the server says is on its way.
    fn latency(&self) -> Duration;
}

/// A relay that lives until it is dropped.
pub(crate) struct Relay {
    port: u16,
    _tasks: JoinSet<()>,
}

impl Relay {
    /// Listens on a free port of this machine and connects to `server` for each client.
    pub(crate) async fn start(server: SocketAddr, rules: Arc<impl Rules>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("some port is free");
        let port = listener.local_addr().expect("it listens").port();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, server, rules));
        Self { port, _tasks: tasks }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, server: SocketAddr, rules: Arc<impl Rules>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let rules = Arc::clone(&rules);
        connections.spawn(async move {
            // A server that is not there looks to the client like a connection that is closed at once.
            let Ok(server) = TcpStream::connect(server).await else { return };
            if client.set_nodelay(true).and(server.set_nodelay(true)).is_err() {
                return;
            }
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let waiting = Mutex::new(VecDeque::new());
            let (sender, on_their_way) = mpsc::unbounded_channel();
            // Whichever side closes first, dropping both halves closes the other.
            tokio::select! {
                () = commands(from_client, to_server, &waiting, &*rules) => {}
                () = travel(from_server, sender, &*rules) => {}
                () = replies(on_their_way, to_client, &waiting, &*rules) => {}
            }
        });
    }
}

type Waiting<N> = Mutex<VecDeque<N>>;

async fn commands<R: Rules>(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, waiting: &Waiting<R::Note>, rules: &R) {
    let mut bytes = Vec::new();
    while let Ok(1..) = from.read_buf(&mut bytes).await {
        // What came together goes on together.
        let (mut end, mut passing) = (0, Vec::new());
        while let Some(length) = resp::length(&bytes[end..]) {
            let command = &bytes[end..end + length];
            let mut waiting = lock(waiting);
            if let Some(note) = rules.command(resp::command_name(command), &waiting) {
                waiting.push_back(note);
                passing.extend_from_slice(command);
            }
            end += length;
        }
        if to.write_all(&passing).await.is_err() {
            return;
        }
        bytes.drain(..end);
    }
}

/// Reads what the server says and when it is to arrive: what comes later does not wait for what came before it.
async fn travel(mut from: OwnedReadHalf, to: mpsc::UnboundedSender<(Instant, Vec<u8>)>, rules: &impl Rules) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let _ = to.send((Instant::now() + rules.latency(), buffer[..read].to_vec()));
    }
    drop(to);
    // The end arrives behind what was said before it: `replies` ends then.
    std::future::pending().await
}

async fn replies<R: Rules>(
    mut from: mpsc::UnboundedReceiver<(Instant, Vec<u8>)>,
    mut to: OwnedWriteHalf,
    waiting: &Waiting<R::Note>,
    rules: &R,
) {
    let mut bytes = Vec::new();
    // The command that a reply answered, and the reply.
    let mut replacing: Option<(Option<R::Note>, Vec<u8>)> = None;
    let mut swapping: Option<(Option<R::Note>, Vec<u8>)> = None;
    // What came behind a reply that is to be swapped.
    let mut between = Vec::new();
    while let Some((due, more)) = from.recv().await {
        sleep_until(due).await;
        bytes.extend(more);
        let mut end = 0;
        let mut passing = Vec::new();
        while let Some(length) = resp::length(&bytes[end..]) {
            let reply = &bytes[end..end + length];
            let note = resp::is_reply(reply).then(|| lock(waiting).pop_front()).flatten();
            end += length;
            if let Some((_, earlier)) = replacing.take_if(|(like, _)| *like == note) {
                passing.extend(earlier);
                continue;
            }
            if let Some((like, first)) = &swapping {
                if *like == note {
                    passing.extend([reply, &between[..], &first[..]].concat());
                    between.clear();
                    swapping = None;
                } else {
                    between.extend_from_slice(reply);
                }
                continue;
            }
            match rules.reply(note.as_ref()) {
                Fate::Passes => passing.extend_from_slice(reply),
                Fate::Vanishes => {}
                Fate::Becomes(other) => passing.extend(other),
                Fate::Repeats => passing.extend([reply, reply].concat()),
                Fate::Replaces => {
                    passing.extend_from_slice(reply);
                    replacing = Some((note, reply.to_vec()));
                }
                Fate::Swaps => swapping = Some((note, reply.to_vec())),
                last => {
                    passing.extend_from_slice(if matches!(last, Fate::Torn) { &reply[..length / 2] } else { &[] });
                    let _ = to.write_all(&passing).await;
                    match last {
                        Fate::Held => std::future::pending().await,
                        Fate::Torn => {
                            // Closed without lingering, and without a farewell before that, it is reset.
                            let _ = to.as_ref().set_zero_linger();
                            to.forget();
                        }
                        _ => {}
                    }
                    return;
                }
            }
        }
        if to.write_all(&passing).await.is_err() {
            return;
        }
        bytes.drain(..end);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A server that answers every command with `+OK`.
    pub(crate) async fn server() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    while let Ok(1..) = stream.read_buf(&mut bytes).await {
                        while let Some(length) = resp::length(&bytes) {
                            bytes.drain(..length);
                            stream.write_all(b"+OK\r\n").await.unwrap();
                        }
                    }
                });
            }
        });
        address
    }

    /// Does to a reply what its command is called.
    struct AsNamed(Duration);

    impl Rules for AsNamed {
        type Note = String;

        fn command(&self, name: String, _: &VecDeque<String>) -> Option<String> {
            (name != "lost").then_some(name)
        }

        fn reply(&self, note: Option<&String>) -> Fate {
            match note.expect("nothing is pushed").as_str() {
                "vanish" => Fate::Vanishes,
                "hold" => Fate::Held,
                "cut" => Fate::Cut,
                "tear" => Fate::Torn,
                "change" => Fate::Becomes(b"-NO\r\n".to_vec()),
                "repeat" => Fate::Repeats,
                _ => Fate::Passes,
            }
        }

        fn latency(&self) -> Duration {
            self.0
        }
    }

    /// What comes back for some commands, and how the connection ended, if it did.
    async fn ask(latency: Duration, commands: &str) -> (String, Option<std::io::Result<usize>>) {
        let relay = Relay::start(server().await, Arc::new(AsNamed(latency))).await;
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, relay.port())).await.unwrap();
        client.write_all(commands.replace(' ', "\r\n").as_bytes()).await.unwrap();
        let mut said = Vec::new();
        let end = loop {
            match tokio::time::timeout(Duration::from_millis(300), client.read_buf(&mut said)).await {
                Ok(Ok(1..)) => {}
                Ok(end) => break Some(end),
                Err(_) => break None,
            }
        };
        (String::from_utf8(said).unwrap(), end)
    }

    #[tokio::test]
    async fn each_reply_has_its_own_fate() {
        let at_once = Duration::ZERO;
        let (said, end) = ask(at_once, "GET lost vanish change GET ").await;
        assert_eq!((said.as_str(), end.is_none()), ("+OK\r\n-NO\r\n+OK\r\n", true));
        let (said, end) = ask(at_once, "repeat GET ").await;
        assert_eq!((said.as_str(), end.is_none()), ("+OK\r\n+OK\r\n+OK\r\n", true));
        let (said, end) = ask(at_once, "GET hold GET ").await;
        assert_eq!((said.as_str(), end.is_none()), ("+OK\r\n", true));
        let (said, end) = ask(at_once, "GET cut GET ").await;
        assert_eq!((said.as_str(), end.unwrap().unwrap()), ("+OK\r\n", 0));
        // What was read before a reset may be lost with it.
        let (_, end) = ask(at_once, "GET tear GET ").await;
        assert_eq!(end.unwrap().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn replies_travel_side_by_side() {
        let latency = Duration::from_millis(200);
        let relay = Relay::start(server().await, Arc::new(AsNamed(latency))).await;
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, relay.port())).await.unwrap();
        let started = Instant::now();
        for _ in 0..20 {
            client.write_all(b"GET\r\n").await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        client.read_exact(&mut [0; 100]).await.unwrap();
        // One after the other they would take twenty times as long.
        assert!(started.elapsed() >= latency && started.elapsed() < latency * 20, "{:?}", started.elapsed());
    }
}
