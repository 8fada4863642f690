//! What happened, newest first: from what sentinels report, and from what looks different than before. No clock and no IO.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use session_layer::store::{Observation, SentinelEvent};

use super::picture;
use crate::routes::time::rfc3339;

/// As many as a page shows.
const KEPT: usize = 40;
/// Three sentinels report one and the same thing within this.
const SAME: Duration = Duration::from_secs(5);
/// How long after the master fell silent things are told by the time since then.
const INCIDENT: Duration = Duration::from_secs(60);

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) at: String,
    pub(crate) kind: Kind,
    pub(crate) text: String,
    /// Milliseconds since the master fell silent, while that is what everything is about.
    pub(crate) after_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A server does not answer.
    Silent,
    /// A sentinel calls it down.
    Down,
    /// Enough sentinels do.
    Agreed,
    /// One of them leads the failover.
    Election,
    /// A replica is told to lead.
    Promotion,
    /// There is a new master.
    Master,
    /// A server answers again.
    Back,
    /// A former master follows.
    Rejoin,
    NodeDraining,
    NodeStopped,
    NodeBack,
}

impl Kind {
    /// Which colour: `bad`, `busy` or `good`.
    pub(crate) fn mood(self) -> &'static str {
        match self {
            Kind::Silent | Kind::Down | Kind::Agreed | Kind::NodeStopped => "bad",
            Kind::Election | Kind::Promotion | Kind::NodeDraining => "busy",
            Kind::Master | Kind::Back | Kind::Rejoin | Kind::NodeBack => "good",
        }
    }
}

impl Entry {
    /// The time of day.
    pub(crate) fn time(&self) -> &str {
        self.at.split(['T', '.', 'Z']).nth(1).unwrap_or_default()
    }

    /// "+2.4 s".
    pub(crate) fn after(&self) -> Option<String> {
        self.after_ms.map(|ms| format!("+{}.{} s", ms / 1000, ms % 1000 / 100))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Timeline {
    entries: VecDeque<Entry>,
    /// When what was last told of whom.
    told: BTreeMap<(Kind, String), SystemTime>,
    /// When the master fell silent.
    incident: Option<SystemTime>,
    master: Option<String>,
}

impl Timeline {
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.entries.iter().cloned().collect()
    }

    /// What happened before this node was there, as another one has it.
    pub(crate) fn inherit(&mut self, older: Vec<Entry>) {
        self.entries.extend(older);
        self.entries.truncate(KEPT);
    }

    /// Something looks different: who answers, and who does not any more.
    pub(crate) fn redis_changed(&mut self, before: &Observation, after: &Observation, now: SystemTime) {
        self.master.clone_from(&after.master);
        for server in &after.servers {
            let Some(was) = before.servers.iter().find(|was| was.address == server.address) else { continue };
            match (&was.replication, &server.replication) {
                (Some(_), None) => self.add(Kind::Silent, &server.address, "does not answer", now),
                // Said only of those of whom the opposite was said: at first everybody is unknown.
                (None, Some(_)) if self.last(Kind::Silent, &server.address).is_some() => {
                    self.add(Kind::Back, &server.address, "answers again", now);
                }
                _ => {}
            }
        }
        for sentinel in &after.sentinels {
            let Some(was) = before.sentinels.iter().find(|was| was.address == sentinel.address) else { continue };
            match (&was.word, &sentinel.word) {
                (Some(_), None) => self.add(Kind::Silent, &sentinel.address, "does not answer", now),
                (None, Some(_)) if self.last(Kind::Silent, &sentinel.address).is_some() => {
                    self.add(Kind::Back, &sentinel.address, "answers again", now);
                }
                _ => {}
            }
        }
    }

    /// A sentinel's report; the formats are those of Redis' documentation.
    pub(crate) fn sentinel_says(&mut self, event: &SentinelEvent) {
        let words: Vec<&str> = event.details.split(' ').collect();
        let sentinel = picture::short(&event.sentinel);
        match (event.kind.as_str(), &words[..]) {
            ("+sdown", ["master" | "slave" | "sentinel", _, host, port, ..]) => {
                self.add(Kind::Down, &format!("{host}:{port}"), &format!("is down, says {sentinel}"), event.at);
            }
            ("+odown", ["master", _, host, port, ..]) => {
                self.add(Kind::Agreed, &format!("{host}:{port}"), "is down: enough sentinels agree", event.at);
            }
            ("+elected-leader", ["master", _, host, port, ..]) => {
                let text = format!("is to be replaced; {sentinel} leads the failover");
                self.add(Kind::Election, &format!("{host}:{port}"), &text, event.at);
            }
            ("+promoted-slave", ["slave", _, host, port, ..]) => {
                self.add(Kind::Promotion, &format!("{host}:{port}"), "is promoted", event.at);
            }
            ("+switch-master", [_, _, _, host, port, ..]) => {
                self.add(Kind::Master, &format!("{host}:{port}"), "is the master now", event.at);
            }
            ("+convert-to-slave", ["slave", _, host, port, ..]) => {
                self.add(Kind::Rejoin, &format!("{host}:{port}"), "is told to follow the master", event.at);
            }
            _ => {}
        }
    }

    pub(crate) fn node_changed(&mut self, name: &str, state: &str, now: SystemTime) {
        let kind = match state {
            "ready" => Kind::NodeBack,
            "draining" => Kind::NodeDraining,
            picture::DOWN => Kind::NodeStopped,
            // On its way up; that it is there is told when it serves.
            _ => return,
        };
        self.push(kind, about_node(kind, name), now);
    }

    /// Whether the last that was told of a node is that it goes or went.
    pub(crate) fn has_left(&self, name: &str) -> bool {
        let of_node = |entry: &&Entry| {
            let kinds = [Kind::NodeBack, Kind::NodeDraining, Kind::NodeStopped];
            kinds.contains(&entry.kind) && entry.text == about_node(entry.kind, name)
        };
        self.entries.iter().find(of_node).is_some_and(|entry| entry.kind != Kind::NodeBack)
    }

    fn last(&self, kind: Kind, subject: &str) -> Option<SystemTime> {
        self.told.get(&(kind, subject.to_owned())).copied()
    }

    fn add(&mut self, kind: Kind, subject: &str, what: &str, now: SystemTime) {
        let told = self.told.insert((kind, subject.to_owned()), now);
        if told.is_some_and(|then| now.duration_since(then).unwrap_or_default() < SAME) {
            return;
        }
        if kind == Kind::Down && self.is_known_to_be_down(subject) {
            return;
        }
        let is_over = |start: SystemTime| now.duration_since(start).unwrap_or_default() > INCIDENT;
        if matches!(kind, Kind::Silent | Kind::Down)
            && self.master.as_deref() == Some(subject)
            && self.incident.is_none_or(is_over)
        {
            self.incident = Some(now);
        }
        self.push(kind, format!("{} {what}", picture::short(subject)), now);
    }

    /// A master that was replaced is a replica to the sentinels, who find out anew that it is down. That is no news.
    fn is_known_to_be_down(&self, subject: &str) -> bool {
        self.last(Kind::Agreed, subject) > self.last(Kind::Back, subject)
    }

    fn push(&mut self, kind: Kind, text: String, now: SystemTime) {
        let since = self.incident.and_then(|start| now.duration_since(start).ok());
        let after_ms = since.filter(|since| *since <= INCIDENT).map(|since| since.as_millis() as u64);
        self.entries.push_front(Entry { at: rfc3339(now).unwrap_or_default(), kind, text, after_ms });
        self.entries.truncate(KEPT);
    }
}

fn about_node(kind: Kind, name: &str) -> String {
    let what = match kind {
        Kind::NodeDraining => "is draining",
        Kind::NodeStopped => "has stopped",
        _ => "is back",
    };
    format!("Server {name} {what}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::redis::{event, observation};

    fn at(ms: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_000_000 + ms)
    }

    /// A failover as sentinels report it, seen by three of them.
    #[test]
    fn a_failover_is_told_once_and_in_order_however_many_sentinels_report_it() {
        let mut timeline = Timeline::default();
        let whole = observation("redis-1:6380", &["redis-1:6380", "redis-2:6381"], &[]);
        let headless = observation("redis-1:6380", &["redis-2:6381"], &["redis-1:6380"]);
        timeline.redis_changed(&Observation::default(), &whole, at(0));
        timeline.redis_changed(&whole, &headless, at(1_000));
        for (ms, sentinel, kind, details) in [
            (2_500, 1, "+sdown", "master mymaster redis-1 6380"),
            (2_520, 2, "+sdown", "master mymaster redis-1 6380"),
            (2_530, 2, "+odown", "master mymaster redis-1 6380 #quorum 2/2"),
            (2_530, 2, "+new-epoch", "1"),
            (2_540, 3, "+sdown", "master mymaster redis-1 6380"),
            (2_600, 2, "+elected-leader", "master mymaster redis-1 6380"),
            (2_900, 2, "+promoted-slave", "slave redis-2:6381 redis-2 6381 @ mymaster redis-1 6380"),
            (3_000, 2, "+switch-master", "mymaster redis-1 6380 redis-2 6381"),
            (3_100, 1, "+switch-master", "mymaster redis-1 6380 redis-2 6381"),
            (9_000, 1, "+sdown", "slave redis-1:6380 redis-1 6380 @ mymaster redis-2 6381"),
        ] {
            timeline.sentinel_says(&event(at(ms), sentinel, kind, details));
        }
        timeline.redis_changed(&headless, &whole, at(10_000));
        let told: Vec<_> =
            timeline.entries().into_iter().rev().map(|e| (e.text.clone(), e.after().unwrap_or_default())).collect();
        let told: Vec<_> = told.iter().map(|(text, after)| (text.as_str(), after.as_str())).collect();
        assert_eq!(
            told,
            [
                ("redis-1 does not answer", "+0.0 s"),
                ("redis-1 is down, says sentinel-1", "+1.5 s"),
                ("redis-1 is down: enough sentinels agree", "+1.5 s"),
                ("redis-1 is to be replaced; sentinel-2 leads the failover", "+1.6 s"),
                ("redis-2 is promoted", "+1.9 s"),
                ("redis-2 is the master now", "+2.0 s"),
                ("redis-1 answers again", "+9.0 s"),
            ]
        );
    }

    #[test]
    fn a_replica_that_goes_and_comes_back_is_no_incident() {
        let mut timeline = Timeline::default();
        let whole = observation("redis-1:6380", &["redis-1:6380", "redis-2:6381"], &[]);
        let one_less = observation("redis-1:6380", &["redis-1:6380"], &["redis-2:6381"]);
        for round in 0..2 {
            timeline.redis_changed(&whole, &one_less, at(round * 60_000));
            timeline.redis_changed(&one_less, &whole, at(round * 60_000 + 20_000));
        }
        let entries = timeline.entries();
        assert_eq!(entries.len(), 4, "{entries:?}");
        assert!(entries.iter().all(|entry| entry.after_ms.is_none()), "{entries:?}");
    }

    #[test]
    fn what_is_unheard_of_is_left_out_and_old_entries_go() {
        let mut timeline = Timeline::default();
        for details in ["", "master", "slave x", "mymaster a b c"] {
            for kind in ["+sdown", "+odown", "+switch-master", "+nonsense", ""] {
                timeline.sentinel_says(&event(at(0), 1, kind, details));
            }
        }
        assert_eq!(timeline.entries(), []);
        for n in 0..100 {
            timeline.node_changed("1111", if n % 2 == 0 { "draining" } else { "ready" }, at(n * 1000));
        }
        assert_eq!(timeline.entries().len(), KEPT);
        assert_eq!(timeline.entries()[0].time(), "01:48:19");
    }
}
