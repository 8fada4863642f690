//! Stands between a node and Redis, and makes trouble: loses what Redis answers, when the command has taken effect and nobody learns
//! of it; says something else in its place; is slow; or falls silent.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use crate::relay::{Fate, Relay, Rules, lock};

/// Every so many lost answers one is held back instead of cut off: the connection stays, and only a watchdog can tell.
const HELD: u64 = 4;

/// How replies about sessions end up in a wrong place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MixUp {
    /// One comes twice.
    Repeat,
    /// One comes again in place of the next of its kind.
    Replace,
    /// One is left out.
    Lose,
    /// Two of a kind are exchanged.
    Swap,
}

/// A proxy that lives until it is dropped.
pub struct Lossy {
    relay: Relay,
    plan: Arc<Plan>,
}

struct Plan {
    /// Which answers to scripts are lost: every one whose number this divides. 0: none.
    every: AtomicU64,
    answers: AtomicU64,
    lost: AtomicU64,
    /// The same, and half of the answer still comes before the connection is reset.
    tear_every: AtomicU64,
    tearing: AtomicU64,
    torn: AtomicU64,
    /// How every n-th answer that is about a session is mixed up, and the n.
    mix_up: Mutex<Option<(MixUp, u64)>>,
    mixing: AtomicU64,
    mixed: AtomicU64,
    /// What the next script is answered with instead.
    error: Mutex<Option<String>>,
    latency_millis: AtomicU64,
    /// How many commands to sessions may still pass.
    passes: AtomicU64,
    /// From the last of them on nothing passes any more, in either direction.
    dark: watch::Sender<bool>,
}

impl Lossy {
    /// Listens on a free port of this machine and connects to `server` for each client. Nothing is lost until asked for.
    pub async fn start(server: SocketAddr) -> Self {
        let plan = Arc::new(Plan {
            every: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            tear_every: AtomicU64::new(0),
            tearing: AtomicU64::new(0),
            torn: AtomicU64::new(0),
            mix_up: Mutex::default(),
            mixing: AtomicU64::new(0),
            mixed: AtomicU64::new(0),
            error: Mutex::default(),
            latency_millis: AtomicU64::new(0),
            passes: AtomicU64::new(u64::MAX),
            dark: watch::Sender::new(false),
        });
        Self { relay: Relay::start(server, Arc::clone(&plan)).await, plan }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.relay.port()
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

    /// Resets the connection in the middle of every n-th answer that is about a session. 0: none from now on.
    pub fn tear_every(&self, n: u64) {
        self.plan.tear_every.store(n, Ordering::SeqCst);
    }

    /// How many answers were torn.
    pub fn torn(&self) -> u64 {
        self.plan.torn.load(Ordering::SeqCst)
    }

    /// Mixes up every n-th answer that is about a session in this way. `None`: none from now on.
    pub fn mix_up(&self, how: Option<(MixUp, u64)>) {
        *lock(&self.plan.mix_up) = how;
    }

    /// How many answers were mixed up.
    pub fn mixed_up(&self) -> u64 {
        self.plan.mixed.load(Ordering::SeqCst)
    }

    /// The next script is answered with this error, whatever Redis says to it.
    pub fn fail_next(&self, error: &str) {
        *lock(&self.plan.error) = Some(error.to_owned());
    }

    /// What Redis says is on its way for this long from now on.
    pub fn set_latency(&self, latency: Duration) {
        self.plan.latency_millis.store(latency.as_millis() as u64, Ordering::SeqCst);
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

    /// What becomes of an answer to a script.
    fn fate_of_script(&self) -> Fate {
        if let Some(error) = lock(&self.error).take() {
            return Fate::Becomes(format!("-{error}\r\n").into_bytes());
        }
        match nth(&self.answers, self.every.load(Ordering::SeqCst)) {
            false => Fate::Passes,
            true => match nth(&self.lost, HELD) {
                true => Fate::Held,
                false => Fate::Cut,
            },
        }
    }
}

/// Counts up; whether the new number is a multiple of `n`. Nothing is one of 0, and is not counted.
fn nth(counter: &AtomicU64, n: u64) -> bool {
    n != 0 && (counter.fetch_add(1, Ordering::SeqCst) + 1).is_multiple_of(n)
}

impl Rules for Plan {
    /// The command's name.
    type Note = String;

    fn command(&self, name: String, _: &VecDeque<String>) -> Option<String> {
        self.pass(&name).then_some(name)
    }

    fn reply(&self, note: Option<&String>) -> Fate {
        if *self.dark.borrow() {
            return Fate::Vanishes;
        }
        let name = note.map(String::as_str).unwrap_or_default();
        if matches!(name, "evalsha" | "hgetall") && nth(&self.tearing, self.tear_every.load(Ordering::SeqCst)) {
            self.torn.fetch_add(1, Ordering::SeqCst);
            return Fate::Torn;
        }
        if matches!(name, "evalsha" | "hgetall")
            && let Some((how, every)) = *lock(&self.mix_up)
            && nth(&self.mixing, every)
        {
            self.mixed.fetch_add(1, Ordering::SeqCst);
            return match how {
                MixUp::Repeat => Fate::Repeats,
                MixUp::Replace => Fate::Replaces,
                MixUp::Lose => Fate::Vanishes,
                MixUp::Swap => Fate::Swaps,
            };
        }
        match name {
            "evalsha" => self.fate_of_script(),
            _ => Fate::Passes,
        }
    }

    fn latency(&self) -> Duration {
        Duration::from_millis(self.latency_millis.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::relay::tests::server;

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
