//! What an observer sees, as values.

use std::time::{Duration, SystemTime};

/// One picture of servers and sentinels. Addresses are `host:port`, as the sentinels spell them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observation {
    /// Who leads, by the newest word of the sentinels; without sentinels, the one server. It may be down.
    pub master: Option<String>,
    /// The servers, by address.
    pub servers: Vec<ObservedServer>,
    /// The sentinels, as the URL lists them.
    pub sentinels: Vec<ObservedSentinel>,
}

/// A Redis server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedServer {
    /// Its address.
    pub address: String,
    /// What it says of itself; `None` while it does not answer.
    pub replication: Option<Replication>,
}

/// A server's place in the replication, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replication {
    /// It takes writes.
    Master {
        /// How many bytes it has sent into the stream of replication.
        offset: u64,
        /// Who follows.
        replicas: Vec<Follower>,
    },
    /// It follows a master.
    Replica {
        /// Whom.
        of: String,
        /// Whether the link to it is up.
        link_up: bool,
        /// How many bytes of the stream it has.
        offset: u64,
    },
}

/// A replica, as its master sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follower {
    /// Its address.
    pub address: String,
    /// Whether it receives the stream (not while it is still copying everything).
    pub online: bool,
    /// How many bytes of the stream it has confirmed.
    pub offset: u64,
    /// How long ago it last confirmed any, in whole seconds.
    pub silent_for: Duration,
}

/// A sentinel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedSentinel {
    /// Its address.
    pub address: String,
    /// What it says; `None` while it does not answer.
    pub word: Option<Word>,
}

/// What a sentinel says of the master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Whom it names.
    pub master: String,
    /// Whether it thinks that the master is down.
    pub master_down: bool,
    /// Rises with each failover.
    pub epoch: u64,
}

/// What a sentinel published. Each sentinel reports by itself, so that the same thing comes up to three times from three.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentinelEvent {
    /// When it came here.
    pub at: SystemTime,
    /// From which sentinel.
    pub sentinel: String,
    /// The kind, as Redis' documentation lists them: `+sdown`, `+odown`, `+try-failover`, `+switch-master`, `-sdown`, …
    pub kind: String,
    /// What it is about: `master mymaster redis-1 6380`.
    pub details: String,
}

/// Whom the sentinel names that knows of the last failover.
pub(super) fn newest(sentinels: &[ObservedSentinel]) -> Option<String> {
    let words = sentinels.iter().filter_map(|sentinel| sentinel.word.as_ref());
    words.max_by_key(|word| word.epoch).map(|word| word.master.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_word_counts_and_silence_is_none() {
        let say = |master: &str, epoch| ObservedSentinel {
            address: "s:1".into(),
            word: Some(Word { master: master.into(), master_down: false, epoch }),
        };
        let silent = ObservedSentinel { address: "s:1".into(), word: None };
        assert_eq!(newest(&[say("old", 3), say("new", 4), say("old", 3), silent.clone()]).as_deref(), Some("new"));
        assert_eq!(newest(&[silent]), None);
    }
}
