//! Stands between a node and Redis, and counts commands and round trips.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::sleep;

use crate::relay::{Fate, Relay, Rules, lock};

/// How long each reply is held back. It makes round trips unmistakable: a command that does not need the reply before it is
/// here before that reply has left, however the client cuts its writes, and one that needs it cannot be.
const LATENCY: Duration = Duration::from_millis(20);

/// The names of the commands that crossed the wire together.
pub type RoundTrip = Vec<String>;

/// A proxy that lives until it is dropped.
pub struct Proxy {
    relay: Relay,
    counter: Arc<Counter>,
}

#[derive(Default)]
struct Counter(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    trips: Vec<RoundTrip>,
    ignored: BTreeSet<String>,
}

impl Proxy {
    /// Listens on a free port of this machine and connects to `server` for each client.
    pub async fn start(server: SocketAddr) -> Self {
        let counter = Arc::<Counter>::default();
        Self { relay: Relay::start(server, Arc::clone(&counter)).await, counter }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.relay.port()
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
        lock(&self.counter.0)
    }
}

impl Rules for Counter {
    /// Whether the command counts.
    type Note = bool;

    /// A trip begins with a command that is sent while no other that counts is on its way.
    fn command(&self, name: String, waiting: &VecDeque<bool>) -> Option<bool> {
        let mut seen = lock(&self.0);
        let counts = !seen.ignored.contains(&name);
        if counts {
            match seen.trips.last_mut() {
                Some(trip) if waiting.contains(&true) => trip.push(name),
                _ => seen.trips.push(vec![name]),
            }
        }
        Some(counts)
    }

    fn reply(&self, _: Option<&bool>) -> Fate {
        Fate::Passes
    }

    fn latency(&self) -> Duration {
        LATENCY
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::relay::tests::server;

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
