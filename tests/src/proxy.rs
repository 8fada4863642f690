//! Stands between a node and Redis, and counts commands and round trips.

use std::collections::{BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::resp;

/// How long each reply is held back. It makes round trips unmistakable: a command that does not need the reply before it is
/// here before that reply has left, however the client cuts its writes, and one that needs it cannot be.
const LATENCY: Duration = Duration::from_millis(20);

/// The names of the commands that crossed the wire together.
pub type RoundTrip = Vec<String>;

/// A proxy that lives until it is dropped.
pub struct Proxy {
    port: u16,
    seen: Arc<Mutex<Seen>>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    trips: Vec<RoundTrip>,
    ignored: BTreeSet<String>,
}

impl Proxy {
    /// Listens on a free port of this machine and connects to `server` for each client.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("some port is free");
        let port = listener.local_addr().expect("it listens").port();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, server, Arc::clone(&seen)));
        Self { port, seen, _tasks: tasks }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Learns which commands a client sends of its own accord, by watching it do nothing for `time`; they are not counted from
    /// now on.
    pub async fn ignore_what_idling_sends(&self, time: Duration) -> BTreeSet<String> {
        let ((), trips) = self.during(sleep(time)).await;
        let names = trips.into_iter().flatten().collect::<BTreeSet<_>>();
        self.seen().ignored.extend(names.clone());
        names
    }

    /// The round trips that began while `work` was done.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> (T, Vec<RoundTrip>) {
        self.seen().trips.clear();
        let done = work.await;
        (done, std::mem::take(&mut self.seen().trips))
    }

    /// How many round trips there were since [`during`](Self::during) was last used.
    pub fn trips(&self) -> u64 {
        self.seen().trips.len() as u64
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, server: SocketAddr, seen: Arc<Mutex<Seen>>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let seen = Arc::clone(&seen);
        connections.spawn(async move {
            // A server that is not there looks to the client like a connection that is closed at once.
            let Ok(server) = TcpStream::connect(server).await else { return };
            if client.set_nodelay(true).and(server.set_nodelay(true)).is_err() {
                return;
            }
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let waiting = Mutex::new(VecDeque::new());
            // Whichever side closes first, dropping both halves closes the other.
            tokio::select! {
                () = commands(from_client, to_server, &waiting, &seen) => {}
                () = replies(from_server, to_client, &waiting) => {}
            }
        });
    }
}

/// Commands on their way, oldest first: whether each counts.
type Waiting = Mutex<VecDeque<bool>>;

async fn commands(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, waiting: &Waiting, seen: &Mutex<Seen>) {
    let mut bytes = Vec::new();
    while let Ok(1..) = from.read_buf(&mut bytes).await {
        let mut end = 0;
        while let Some(length) = resp::length(&bytes[end..]) {
            sent(resp::command_name(&bytes[end..end + length]), &mut lock(waiting), &mut lock(seen));
            end += length;
        }
        if to.write_all(&bytes[..end]).await.is_err() {
            return;
        }
        bytes.drain(..end);
    }
}

/// A trip begins with a command that is sent while no other that counts is on its way.
fn sent(name: String, waiting: &mut VecDeque<bool>, seen: &mut Seen) {
    let counts = !seen.ignored.contains(&name);
    if counts {
        match seen.trips.last_mut() {
            Some(trip) if waiting.contains(&true) => trip.push(name),
            _ => seen.trips.push(vec![name]),
        }
    }
    waiting.push_back(counts);
}

async fn replies(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, waiting: &Waiting) {
    let mut bytes = Vec::new();
    while let Ok(1..) = from.read_buf(&mut bytes).await {
        sleep(LATENCY).await;
        let mut end = 0;
        while let Some(length) = resp::length(&bytes[end..]) {
            if resp::is_reply(&bytes[end..]) {
                lock(waiting).pop_front();
            }
            end += length;
        }
        if to.write_all(&bytes[..end]).await.is_err() {
            return;
        }
        bytes.drain(..end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every command with `+OK`.
    async fn server() -> SocketAddr {
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

    async fn write(stream: &mut TcpStream, command: &str) {
        stream.write_all(command.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
    }

    async fn read(stream: &mut TcpStream, replies: usize) {
        stream.read_exact(&mut vec![0; 5 * replies]).await.unwrap();
    }

    #[tokio::test]
    async fn commands_that_wait_for_no_reply_share_a_round_trip() {
        let proxy = Proxy::start(server().await).await;
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.unwrap();
        let ((), trips) = proxy
            .during(async {
                // In one write, in two, and cut in the middle of a command.
                write(&mut client, "*1\r\n$1\r\nA\r\n*1\r\n$1\r\nB\r\n").await;
                write(&mut client, "*1\r\n$1\r\nC\r\n*1\r\n$1\r").await;
                write(&mut client, "\nD\r\n").await;
                read(&mut client, 4).await;
                write(&mut client, "*1\r\n$1\r\nE\r\n").await;
                read(&mut client, 1).await;
                write(&mut client, "*1\r\n$1\r\nF\r\n").await;
                read(&mut client, 1).await;
            })
            .await;
        assert_eq!(trips, [&["a", "b", "c", "d"][..], &["e"], &["f"]]);
    }

    #[tokio::test]
    async fn what_idling_sends_is_not_counted() {
        let proxy = Proxy::start(server().await).await;
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.unwrap();
        let idling = async {
            write(&mut client, "ROLE\r\n").await;
            read(&mut client, 1).await;
        };
        let (names, ()) = tokio::join!(proxy.ignore_what_idling_sends(Duration::from_millis(200)), idling);
        assert_eq!(names, BTreeSet::from(["role".to_owned()]));
        let ((), trips) = proxy
            .during(async {
                write(&mut client, "ROLE\r\n").await;
                write(&mut client, "*1\r\n$3\r\nGET\r\n").await;
                read(&mut client, 2).await;
            })
            .await;
        assert_eq!(trips, [&["get"]]);
    }
}
