//! Asks the sentinels who leads.

use std::sync::Arc;
use std::time::Duration;

use fred::types::{Resp3Frame as Frame, Value};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::client::Client;
use super::connection::{CallError, within};
use super::resolve::Resolver;
use super::url::{Address, Login};

/// How long one sentinel may take, connecting included.
const TIMEOUT: Duration = Duration::from_millis(500);
/// How long the others are waited for once most have answered: one that is down must not slow a failover.
const GRACE: Duration = Duration::from_millis(50);

pub(super) struct Sentinels {
    sentinels: Vec<Arc<Sentinel>>,
}

struct Sentinel {
    address: Address,
    resolver: Resolver,
    master: String,
    /// Kept between questions; taken out while in use, so that one that was given up is dropped.
    connection: Mutex<Option<Client>>,
}

/// What one sentinel says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    master: Address,
    /// Rises with each failover, and only a majority of the sentinels can raise it: the highest is the newest.
    epoch: u64,
}

/// What the sentinels say together.
#[derive(Debug)]
pub(super) struct Answers {
    newest: Vec<Address>,
    /// Whether most of them answered, so that they are not the cut-off part of the network.
    pub(super) majority: bool,
    complaints: Vec<String>,
}

impl Sentinels {
    pub(super) fn new(addresses: Vec<Address>, master: &str, resolver: &Resolver) -> Self {
        let sentinel = |address| {
            let (resolver, master) = (resolver.clone(), master.to_owned());
            Arc::new(Sentinel { address, resolver, master, connection: Mutex::default() })
        };
        Self { sentinels: addresses.into_iter().map(sentinel).collect() }
    }

    /// Asks all at once.
    pub(super) async fn ask(&self) -> Answers {
        let majority = self.sentinels.len() / 2 + 1;
        let mut asked = JoinSet::new();
        for sentinel in &self.sentinels {
            let sentinel = Arc::clone(sentinel);
            asked.spawn(async move { sentinel.ask().await });
        }
        let mut answers = Vec::new();
        let mut complaints = Vec::new();
        let mut until = Instant::now() + TIMEOUT;
        while let Ok(Some(answer)) = tokio::time::timeout_at(until, asked.join_next()).await {
            match answer {
                Ok(Ok(answer)) => answers.push(answer),
                Ok(Err(complaint)) => complaints.push(complaint),
                Err(stopped) => complaints.push(stopped.to_string()),
            }
            if answers.len() == majority {
                until = until.min(Instant::now() + GRACE);
            }
        }
        // The slow ones end by themselves, and keep their connection for the next question.
        asked.detach_all();
        Answers { majority: answers.len() >= majority, newest: newest(answers), complaints }
    }
}

impl Sentinel {
    async fn ask(&self) -> Result<Answer, String> {
        let complaint = |error: CallError| format!("sentinel {}: {error}", self.address);
        // Still busy with an earlier question: it is slow, and asking twice makes it no faster.
        let mut kept = self.connection.try_lock().map_err(|_| format!("sentinel {}: slow", self.address))?;
        let mut connection = kept.take();
        let answer = within(TIMEOUT, async {
            let connection = match &mut connection {
                Some(connection) => connection,
                none => {
                    let opened = Client::open(&self.address, &self.resolver, &Login::default()).await?;
                    none.insert(opened.0)
                }
            };
            self.question(connection).await
        });
        let answer = answer.await.map_err(complaint)?;
        *kept = connection;
        answer.ok_or_else(|| format!("sentinel {} watches no master named `{}`", self.address, self.master))
    }

    async fn question(&self, connection: &Client) -> Result<Option<Answer>, CallError> {
        let ask = |what| vec![Value::from_static_str(what), Value::from(self.master.as_str())];
        // In this order: should a failover end between the two, the address is at least as new as the epoch.
        let (details, address) = tokio::join!(
            connection.call("SENTINEL", ask("MASTER")),
            connection.call("SENTINEL", ask("GET-MASTER-ADDR-BY-NAME"))
        );
        let Some(master) = read_address(&address?) else { return Ok(None) };
        Ok(Some(Answer { master, epoch: details.ok().and_then(|details| read_epoch(&details)).unwrap_or(0) }))
    }
}

impl Answers {
    /// Whom the newest answers name; the one that most of them do, should they differ in how they spell it.
    pub(super) fn master(&self) -> Option<&Address> {
        let votes = |address: &Address| self.newest.iter().filter(|other| *other == address).count();
        self.newest.iter().rev().max_by_key(|address| votes(address))
    }

    /// Whether they name somebody, and it is somebody else.
    pub(super) fn deposes(&self, master: &Address) -> bool {
        !self.newest.is_empty() && !self.newest.contains(master)
    }

    /// Why there is no answer.
    pub(super) fn complaint(&self) -> String {
        self.complaints.first().map_or_else(
            || "no sentinel answered".to_owned(),
            |complaint| format!("no sentinel names a master ({complaint})"),
        )
    }
}

fn newest(answers: Vec<Answer>) -> Vec<Address> {
    let epoch = answers.iter().map(|answer| answer.epoch).max();
    answers.into_iter().filter(|answer| Some(answer.epoch) == epoch).map(|answer| answer.master).collect()
}

fn read_address(frame: &Frame) -> Option<Address> {
    let Frame::Array { data, .. } = frame else { return None };
    let [host, port] = data.as_slice() else { return None };
    Some(Address { host: text(host)?.to_owned(), port: text(port)?.parse().ok()? })
}

fn read_epoch(frame: &Frame) -> Option<u64> {
    let Frame::Array { data, .. } = frame else { return None };
    let field = data.chunks_exact(2).find(|pair| text(&pair[0]) == Some("config-epoch"))?;
    text(&field[1])?.parse().ok()
}

fn text(frame: &Frame) -> Option<&str> {
    match frame {
        Frame::BlobString { data, .. } | Frame::SimpleString { data, .. } => std::str::from_utf8(data).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(said: &[(&str, u64)]) -> Answers {
        let answer =
            |(host, epoch): &(&str, u64)| Answer { master: Address { host: (*host).into(), port: 1 }, epoch: *epoch };
        Answers { newest: newest(said.iter().map(answer).collect()), majority: true, complaints: Vec::new() }
    }

    #[track_caller]
    fn check(said: &[(&str, u64)], master: Option<&str>) {
        assert_eq!(answers(said).master().map(|address| address.host.as_str()), master, "{said:?}");
    }

    #[test]
    fn the_newest_answer_counts_however_many_are_older() {
        check(&[], None);
        check(&[("old", 3), ("old", 3), ("old", 3)], Some("old"));
        check(&[("old", 3), ("new", 4), ("old", 3)], Some("new"));
        check(&[("new", 4), ("new", 4), ("old", 3)], Some("new"));
        // One server under two names, say an address and a host name.
        check(&[("a", 4), ("b", 4), ("b", 4)], Some("b"));
    }

    #[test]
    fn a_master_is_deposed_by_newer_answers_only() {
        let master = Address { host: "a".into(), port: 1 };
        for (said, deposed) in [
            (&[][..], false),
            (&[("a", 3), ("a", 3)], false),
            (&[("a", 3), ("b", 4)], true),
            (&[("a", 4), ("b", 4), ("b", 4)], false),
            (&[("b", 0)], true),
        ] {
            assert_eq!(answers(said).deposes(&master), deposed, "{said:?}");
        }
    }
}
