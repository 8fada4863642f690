//! What the dashboard shows: who serves, who leads, and what happened.
//!
//! Each node makes the whole picture by itself, all the time, so that it has seen a failover from its beginning whenever somebody
//! comes to look. Nothing of it goes through the session store: what is to be watched failing must not be needed for watching.
//! Servers and sentinels are seen by the library's observer; the nodes ask each other over plain HTTP, at addresses from `PEERS`,
//! since a list in the environment is all that two nodes need, and a register in Redis would be gone in a failover. A node that starts
//! takes over what another one remembers: an upgrade of all of them loses no event.

mod picture; // what is shown, as values
pub(crate) use picture::{Mood, NodePicture, Picture, Role, ServerPicture, short};

mod timeline; // what happened, from what changed

mod peers; // asking the nodes
pub(crate) use peers::{PATH, PICTURE_PATH, Status};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use session_layer::store::{Observation, Observed, Observer};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::node::Node;
use peers::{Peers, Report};
use timeline::Timeline;

/// How often request rates are taken.
const TICK: Duration = Duration::from_secs(1);

/// Whom to watch.
pub(crate) struct Sources {
    /// What stands in front of the nodes, if anything is known to.
    pub(crate) front: Option<&'static str>,
    /// The nodes' addresses; none of them: this node alone.
    pub(crate) peers: Vec<String>,
    /// Redis and its sentinels, if sessions are kept there.
    pub(crate) redis: Option<Observer>,
}

impl Sources {
    /// The nodes of the embedded cluster.
    pub(crate) fn embedded(nodes: &[SocketAddr]) -> Self {
        Self { front: Some("front"), peers: nodes.iter().map(ToString::to_string).collect(), redis: None }
    }
}

/// Watches for as long as it is polled, and publishes each new picture at the node.
pub(crate) async fn watch(node: Node, sources: Sources) {
    let (reports, mut reported) = mpsc::channel(16);
    let peers = Peers::new(sources.peers, node.clone());
    let mut watcher = Watcher::new(&node, sources.front, peers.names(), sources.redis.is_some());
    // Before anything is seen, so that all of it is older.
    watcher.timeline.inherit(peers.remembered().await);
    let _asking = peers.ask(&reports);
    let mut redis = sources.redis;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = SystemTime::now();
        node.show(Arc::new(watcher.picture(now)));
        tokio::select! {
            observed = next(&mut redis) => match observed {
                Observed::Change(observation) => watcher.redis_changed(observation, SystemTime::now()),
                Observed::Event(event) => watcher.timeline.sentinel_says(&event),
            },
            Some(report) = reported.recv() => watcher.node_reported(report, SystemTime::now()),
            _ = ticks.tick() => watcher.take_rates(),
        }
    }
}

async fn next(redis: &mut Option<Observer>) -> Observed {
    match redis {
        Some(observer) => observer.next().await,
        None => std::future::pending().await,
    }
}

/// What is known so far.
struct Watcher {
    seen_by: String,
    front: Option<&'static str>,
    has_redis: bool,
    redis: Observation,
    nodes: Vec<Watched>,
    timeline: Timeline,
}

/// A node, as it last reported.
struct Watched {
    address: String,
    name: String,
    status: Option<Status>,
    /// Whether it was there at any time.
    was_there: bool,
    counted: Option<(u64, Instant)>,
    history: Vec<f32>,
}

impl Watcher {
    fn new(node: &Node, front: Option<&'static str>, names: Vec<String>, has_redis: bool) -> Self {
        let watched = |address: String| Watched {
            name: address.clone(),
            address,
            status: None,
            was_there: false,
            counted: None,
            history: vec![0.0; picture::HISTORY],
        };
        Self {
            seen_by: node.name().to_owned(),
            front,
            has_redis,
            redis: Observation::default(),
            nodes: names.into_iter().map(watched).collect(),
            timeline: Timeline::default(),
        }
    }

    fn redis_changed(&mut self, observation: Observation, now: SystemTime) {
        self.timeline.redis_changed(&self.redis, &observation, now);
        self.redis = observation;
    }

    fn node_reported(&mut self, Report { place, status }: Report, now: SystemTime) {
        let node = &mut self.nodes[place];
        if let Some(status) = &status {
            node.name.clone_from(&status.name);
        }
        let state =
            |status: &Option<Status>| status.as_ref().map_or(picture::DOWN.to_owned(), |status| status.state.clone());
        let (before, after) = (state(&node.status), state(&status));
        // At first everybody is unknown, and only who is known to have left comes back.
        let is_news = node.was_there || (after == "ready" && self.timeline.has_left(&node.name));
        if before != after && is_news {
            self.timeline.node_changed(&node.name, &after, now);
        }
        node.was_there |= status.is_some();
        node.status = status;
    }

    /// Requests per second since the last time.
    fn take_rates(&mut self) {
        let now = Instant::now();
        for node in &mut self.nodes {
            let count = node.status.as_ref().map(|status| status.requests);
            let rate = match (node.counted, count) {
                // A node that was started anew counts from zero.
                (Some((before, then)), Some(count)) if count >= before => {
                    (count - before) as f32 / (now - then).as_secs_f32().max(0.001)
                }
                _ => 0.0,
            };
            node.counted = count.map(|count| (count, now));
            node.history.remove(0);
            node.history.push((rate * 10.0).round() / 10.0);
        }
    }

    fn picture(&self, now: SystemTime) -> Picture {
        let nodes: Vec<_> = self.nodes.iter().map(Watched::picture).collect();
        Picture::new(
            picture::Seen {
                at: now,
                by: &self.seen_by,
                front: self.front,
                redis: self.has_redis.then_some(&self.redis),
            },
            nodes,
            &self.reads(),
            self.recent(),
            self.timeline.entries(),
        )
    }

    /// How often all nodes together have read from which server.
    fn reads(&self) -> BTreeMap<String, u64> {
        let mut sum = BTreeMap::new();
        for (server, count) in
            self.nodes.iter().filter_map(|node| node.status.as_ref()).flat_map(|status| &status.reads)
        {
            *sum.entry(server.clone()).or_default() += count;
        }
        sum
    }

    /// Which node answered the last requests. The nodes tell when each came, and on one machine or with synchronised clocks that
    /// puts them into their order.
    fn recent(&self) -> Vec<String> {
        let mut order = BTreeMap::new();
        for node in &self.nodes {
            for (turn, time) in node.status.iter().flat_map(|status| &status.recent).enumerate() {
                order.insert((*time, node.name.as_str(), turn), node.name.clone());
            }
        }
        let skip = order.len().saturating_sub(picture::RECENT);
        order.into_values().skip(skip).collect()
    }
}

impl Watched {
    fn picture(&self) -> NodePicture {
        let status = self.status.as_ref();
        NodePicture {
            name: self.name.clone(),
            address: self.address.clone(),
            state: status.map_or(picture::DOWN.to_owned(), |status| status.state.clone()),
            store_up: status.is_some_and(|status| status.store_up),
            requests: status.map(|status| status.requests),
            per_second: self.history.last().copied().unwrap_or_default(),
            history: self.history.clone(),
            near_cache: status.map_or(0, |status| status.near_cache),
            warnings: status.map_or(Vec::new(), |status| status.warnings.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(name: &str, state: &str, requests: u64, recent: &[u64]) -> Status {
        Status {
            name: name.into(),
            state: state.into(),
            store_up: true,
            requests,
            recent: recent.to_vec(),
            reads: BTreeMap::from([("redis-1:6380".to_owned(), requests)]),
            near_cache: 0,
            warnings: Vec::new(),
        }
    }

    fn watcher() -> Watcher {
        let node = Node::new("1111".to_owned(), || true);
        Watcher::new(&node, Some("nginx"), vec!["app1:1".into(), "app2:1".into()], false)
    }

    #[test]
    fn requests_of_all_nodes_are_put_into_their_order() {
        let mut watcher = watcher();
        let now = SystemTime::now();
        watcher.node_reported(Report { place: 0, status: Some(status("1111", "ready", 3, &[10, 30, 50])) }, now);
        watcher.node_reported(Report { place: 1, status: Some(status("2222", "ready", 2, &[20, 40])) }, now);
        assert_eq!(watcher.recent(), ["1111", "2222", "1111", "2222", "1111"]);
        let many: Vec<u64> = (100..200).collect();
        watcher.node_reported(Report { place: 1, status: Some(status("2222", "ready", 2, &many)) }, now);
        assert_eq!(watcher.recent(), ["2222"; picture::RECENT]);
    }

    #[test]
    fn reads_of_all_nodes_are_added_up() {
        let mut watcher = watcher();
        for (place, name, reads) in [(0, "1111", 3), (1, "2222", 4)] {
            watcher.node_reported(Report { place, status: Some(status(name, "ready", reads, &[])) }, SystemTime::now());
        }
        assert_eq!(watcher.reads(), BTreeMap::from([("redis-1:6380".to_owned(), 7)]));
    }

    #[test]
    fn a_node_that_drains_and_comes_back_is_told_and_its_first_coming_is_not() {
        let mut watcher = watcher();
        let now = SystemTime::now();
        let mut report = |state: Option<&str>| {
            let status = state.map(|state| status("2222", state, 0, &[]));
            watcher.node_reported(Report { place: 1, status }, now);
            watcher.timeline.entries().first().map(|entry| entry.text.clone())
        };
        assert_eq!(report(Some("ready")), None);
        assert_eq!(report(Some("ready")), None);
        assert_eq!(report(Some("draining")).as_deref(), Some("Server 2222 is draining"));
        assert_eq!(report(None).as_deref(), Some("Server 2222 has stopped"));
        assert_eq!(report(Some("ready")).as_deref(), Some("Server 2222 is back"));
    }

    #[test]
    fn a_node_that_was_started_anew_tells_what_another_saw_of_that_and_that_it_is_back_itself() {
        let (mut old, mut new) = (watcher(), watcher());
        let now = SystemTime::now();
        for state in [Some("ready"), Some("draining"), None] {
            old.node_reported(Report { place: 0, status: state.map(|state| status("1111", state, 0, &[])) }, now);
        }
        new.timeline.inherit(old.timeline.entries());
        for (place, name, state) in [(1, "2222", "ready"), (0, "1111", "starting"), (0, "1111", "ready")] {
            new.node_reported(Report { place, status: Some(status(name, state, 0, &[])) }, now);
        }
        let told: Vec<_> = new.timeline.entries().into_iter().map(|entry| entry.text).collect();
        assert_eq!(told, ["Server 1111 is back", "Server 1111 has stopped", "Server 1111 is draining"]);
    }

    #[tokio::test(start_paused = true)]
    async fn rates_are_what_was_counted_in_between_and_a_restart_is_no_rate() {
        let mut watcher = watcher();
        for (requests, rate) in [(100, 0.0), (150, 50.0), (150, 0.0), (5, 0.0), (10, 5.0)] {
            let report = Report { place: 0, status: Some(status("1111", "ready", requests, &[])) };
            watcher.node_reported(report, SystemTime::now());
            watcher.take_rates();
            assert_eq!(watcher.nodes[0].picture().per_second, rate, "{requests}");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }
}
