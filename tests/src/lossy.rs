//! Stands between a node and Redis, and loses what Redis answers: the command has taken effect, and nobody learns of it.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::resp;

/// Every so many lost answers one is held back instead of cut off: the connection stays, and only a watchdog can tell.
const HELD: u64 = 4;

/// A proxy that lives until it is dropped.
pub struct Lossy {
    port: u16,
    plan: Arc<Plan>,
    _tasks: JoinSet<()>,
}

struct Plan {
    /// Which answers to scripts are lost: every one whose number this divides. 0: none.
    every: AtomicU64,
    answers: AtomicU64,
    lost: AtomicU64,
    /// How many commands to sessions may still pass.
    passes: AtomicU64,
    /// From the last of them on nothing passes any more, in either direction.
    dark: watch::Sender<bool>,
}

impl Lossy {
    /// Listens on a free port of this machine and connects to `server` for each client. Nothing is lost until asked for.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("some port is free");
        let port = listener.local_addr().expect("it listens").port();
        let plan = Arc::new(Plan {
            every: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            passes: AtomicU64::new(u64::MAX),
            dark: watch::Sender::new(false),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, server, Arc::clone(&plan)));
        Self { port, plan, _tasks: tasks }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Loses every n-th answer to a script, after Redis has given it, and everything behind it on that connection. Three of four times
    /// the connection is cut, the fourth time it stays open and silent. 0: none from now on.
    pub fn lose_every(&self, n: u64) {
        self.plan.every.store(n, Ordering::SeqCst);
    }

    /// How many answers were lost.
    pub fn lost(&self) -> u64 {
        self.plan.lost.load(Ordering::SeqCst)
    }

    /// Lets `n` more commands reach the sessions; then nothing passes any more, in either direction, for good, and no connection is
    /// closed.
    pub fn go_dark_after(&self, n: u64) {
        self.plan.passes.store(n, Ordering::SeqCst);
        if n == 0 {
            self.plan.dark.send_replace(true);
        }
    }

    /// Resolves when nothing passes any more.
    pub async fn is_dark(&self) {
        let _ = self.plan.dark.subscribe().wait_for(|dark| *dark).await;
    }
}

impl Plan {
    /// Whether a command may pass; the last one that may turns out the light.
    fn pass(&self, name: &str) -> bool {
        if *self.dark.borrow() {
            return false;
        }
        if !matches!(name, "evalsha" | "hgetall") {
            return true;
        }
        let left = self.passes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left == Ok(1) {
            self.dark.send_replace(true);
        }
        left.is_ok()
    }

    /// What becomes of an answer.
    fn fate(&self, name: &str) -> Fate {
        let every = self.every.load(Ordering::SeqCst);
        if name != "evalsha" || every == 0 || !(self.answers.fetch_add(1, Ordering::SeqCst) + 1).is_multiple_of(every) {
            return Fate::Arrives;
        }
        match (self.lost.fetch_add(1, Ordering::SeqCst) + 1).is_multiple_of(HELD) {
            true => Fate::Held,
            false => Fate::Cut,
        }
    }
}

enum Fate {
    Arrives,
    Cut,
    Held,
}

async fn accept(listener: TcpListener, server: SocketAddr, plan: Arc<Plan>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let plan = Arc::clone(&plan);
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
                () = commands(from_client, to_server, &waiting, &plan) => {}
                () = replies(from_server, to_client, &waiting, &plan) => {}
            }
        });
    }
}

/// The names of the commands on their way, oldest first.
type Waiting = Mutex<VecDeque<String>>;

async fn commands(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, waiting: &Waiting, plan: &Plan) {
    let mut bytes = Vec::new();
    while let Ok(1..) = from.read_buf(&mut bytes).await {
        while let Some(length) = resp::length(&bytes) {
            let name = resp::command_name(&bytes[..length]);
            if plan.pass(&name) {
                waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(name);
                if to.write_all(&bytes[..length]).await.is_err() {
                    return;
                }
            }
            bytes.drain(..length);
        }
    }
}

async fn replies(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, waiting: &Waiting, plan: &Plan) {
    let mut bytes = Vec::new();
    while let Ok(1..) = from.read_buf(&mut bytes).await {
        while let Some(length) = resp::length(&bytes) {
            let name = resp::is_reply(&bytes)
                .then(|| waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front())
                .flatten();
            match plan.fate(name.as_deref().unwrap_or_default()) {
                Fate::Arrives if *plan.dark.borrow() => {}
                Fate::Arrives => {
                    if to.write_all(&bytes[..length]).await.is_err() {
                        return;
                    }
                }
                Fate::Cut => return,
                Fate::Held => std::future::pending().await,
            }
            bytes.drain(..length);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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

    async fn answers(client: &mut TcpStream, command: &str) -> bool {
        client.write_all(command.as_bytes()).await.unwrap();
        let mut answer = [0; 5];
        let read = tokio::time::timeout(Duration::from_millis(200), client.read_exact(&mut answer)).await;
        matches!(read, Ok(Ok(_)))
    }

    #[tokio::test]
    async fn only_answers_to_scripts_are_lost_and_every_nth_of_them() {
        let proxy = Lossy::start(server().await).await;
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.unwrap();
        proxy.lose_every(2);
        for (command, answered) in [("EVALSHA", true), ("PING", true), ("EVALSHA", false)] {
            assert_eq!(answers(&mut client, &format!("{command} x\r\n")).await, answered, "{command}");
        }
        assert_eq!(proxy.lost(), 1);
    }

    #[tokio::test]
    async fn in_the_dark_nothing_passes() {
        let proxy = Lossy::start(server().await).await;
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.unwrap();
        proxy.go_dark_after(2);
        assert!(answers(&mut client, "HGETALL x\r\n").await);
        assert!(answers(&mut client, "ROLE\r\n").await);
        assert!(!answers(&mut client, "EVALSHA x\r\n").await);
        proxy.is_dark().await;
        assert!(!answers(&mut client, "ROLE\r\n").await);
    }
}
