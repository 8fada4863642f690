//! The picture as values: what `/api/cluster` answers, and what the page draws.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde::Serialize;
use session_layer::store::{Observation, ObservedSentinel, Replication};

use super::timeline::Entry;
use crate::routes::time::rfc3339;

/// How many seconds of request rates are kept.
pub(crate) const HISTORY: usize = 60;
/// How many of the last requests are shown.
pub(crate) const RECENT: usize = 20;
/// The state of what does not answer.
pub(crate) const DOWN: &str = "down";

/// The cluster at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Picture {
    pub(crate) at: String,
    /// The node that saw it so.
    pub(crate) seen_by: String,
    pub(crate) mood: Mood,
    /// How it is, in a sentence.
    pub(crate) headline: String,
    /// What whoever runs the servers should change, a sentence each, as the nodes found out.
    pub(crate) warnings: Vec<String>,
    /// What stands in front of the nodes.
    pub(crate) front: Option<&'static str>,
    /// Where sessions are kept: `redis`, `sentinel` or `memory`.
    pub(crate) store: &'static str,
    pub(crate) nodes: Vec<NodePicture>,
    /// Whom the sentinels name, whether or not it answers.
    pub(crate) master: Option<String>,
    pub(crate) servers: Vec<ServerPicture>,
    pub(crate) sentinels: Vec<SentinelPicture>,
    /// Which nodes answered the last requests, the newest at the end.
    pub(crate) recent: Vec<String>,
    /// What happened, newest first.
    pub(crate) events: Vec<Entry>,
}

/// How it is, in a word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mood {
    /// Nothing is known yet.
    #[default]
    Unknown,
    /// Everything is there.
    Well,
    /// Something is missing, and everything works.
    Reduced,
    /// Sessions wait for a master.
    FailingOver,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct NodePicture {
    pub(crate) name: String,
    pub(crate) address: String,
    /// `starting`, `ready`, `draining`, or `down`.
    pub(crate) state: String,
    /// Whether it has a connection to the session store.
    pub(crate) store_up: bool,
    pub(crate) requests: Option<u64>,
    pub(crate) per_second: f32,
    /// Requests per second in each of the last seconds, the newest at the end.
    pub(crate) history: Vec<f32>,
    /// How often it has read a session from its own memory.
    pub(crate) near_cache: u64,
    /// What should be changed about its store's server.
    pub(crate) warnings: Vec<String>,
}

/// A Redis server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ServerPicture {
    pub(crate) address: String,
    pub(crate) role: Role,
    /// Whether the sentinels name it as the master.
    pub(crate) leads: bool,
    /// Of a replica: whether it hears its master.
    pub(crate) link_up: Option<bool>,
    /// Bytes of the stream of replication that it has sent or received.
    pub(crate) offset: Option<u64>,
    /// Of a replica, as its master sees it: bytes it has not confirmed yet,
    pub(crate) behind_bytes: Option<u64>,
    /// and how many seconds ago it was last heard of.
    pub(crate) silent_for_secs: Option<u64>,
    /// How often sessions were read from it, by all nodes that are there.
    pub(crate) reads: u64,
    /// Its share of all reads, those from the nodes' memory included, from 0 to 1.
    pub(crate) read_share: Option<f64>,
}

/// What a server says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    Master,
    Replica,
    /// It says nothing.
    Down,
}

/// A sentinel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SentinelPicture {
    pub(crate) address: String,
    pub(crate) up: bool,
    pub(crate) master: Option<String>,
    pub(crate) master_down: bool,
    pub(crate) epoch: Option<u64>,
}

/// Who saw what, when.
pub(super) struct Seen<'a> {
    pub(super) at: SystemTime,
    pub(super) by: &'a str,
    pub(super) front: Option<&'static str>,
    /// Nothing: sessions are kept in memory.
    pub(super) redis: Option<&'a Observation>,
}

impl Picture {
    pub(super) fn new(
        seen: Seen<'_>,
        nodes: Vec<NodePicture>,
        reads: &BTreeMap<String, u64>,
        recent: Vec<String>,
        events: Vec<Entry>,
    ) -> Self {
        let nothing = Observation::default();
        let redis = seen.redis.unwrap_or(&nothing);
        let mut picture = Self {
            at: rfc3339(seen.at).unwrap_or_default(),
            seen_by: seen.by.to_owned(),
            mood: Mood::Unknown,
            headline: String::new(),
            warnings: warnings(&nodes),
            front: seen.front,
            store: match seen.redis {
                None => "memory",
                Some(redis) if redis.sentinels.is_empty() => "redis",
                Some(_) => "sentinel",
            },
            master: redis.master.clone(),
            servers: servers(redis, reads, nodes.iter().map(|node| node.near_cache).sum()),
            sentinels: redis.sentinels.iter().map(sentinel).collect(),
            nodes,
            recent,
            events,
        };
        (picture.mood, picture.headline) = picture.judge();
        if picture.mood == Mood::Well && !picture.warnings.is_empty() {
            picture.mood = Mood::Reduced;
            picture.headline = format!("{} See the warnings.", picture.headline.replacen("All is well: ", "", 1));
        }
        picture
    }

    fn judge(&self) -> (Mood, String) {
        let nodes = match &self.nodes.iter().filter(|node| node.state != "ready").collect::<Vec<_>>()[..] {
            [] => None,
            [node] => Some(format!("server {} is {}", node.name, node.state)),
            nodes => Some(format!("{} servers are not ready", nodes.len())),
        };
        if self.store == "memory" {
            return match nodes {
                None => (Mood::Well, "All is well. Sessions are kept in this process’ memory.".to_owned()),
                Some(nodes) => (Mood::Reduced, format!("{}.", capital(&nodes))),
            };
        }
        let Some(master) = &self.master else {
            return (Mood::Unknown, "Nobody has said yet where the master is.".to_owned());
        };
        let leader = self.servers.iter().find(|server| server.leads);
        if !leader.is_some_and(|leader| leader.role == Role::Master) {
            let what = match leader.map(|leader| leader.role) {
                Some(Role::Replica) => "is not master yet",
                _ => "does not answer",
            };
            let then = if self.sentinels.is_empty() { "." } else { "; the sentinels see to it." };
            return (Mood::FailingOver, format!("{} {what}{then} Requests wait.", short(master)));
        }
        let followers = self.servers.iter().filter(|server| server.link_up == Some(true)).count();
        let silent = |address: &str, up: bool| (!up).then(|| format!("{} is down", short(address)));
        let missing: Vec<_> = nodes
            .into_iter()
            .chain(self.servers.iter().filter(|server| !server.leads).filter_map(|server| match server.role {
                Role::Replica if server.link_up == Some(false) => {
                    Some(format!("{} is catching up", short(&server.address)))
                }
                Role::Master => Some(format!("{} has yet to learn that it follows", short(&server.address))),
                role => silent(&server.address, role != Role::Down),
            }))
            .chain(self.sentinels.iter().filter_map(|sentinel| silent(&sentinel.address, sentinel.up)))
            .collect();
        let leads = format!("{} leads", short(master));
        if !missing.is_empty() {
            return (Mood::Reduced, format!("{leads}; {}.", missing.join(", ")));
        }
        let replicas = match followers {
            0 => String::new(),
            1 => ", one replica follows".to_owned(),
            count => format!(", {count} replicas follow"),
        };
        let sentinels = match self.sentinels.len() {
            0 => String::new(),
            count => format!(", {count} sentinels watch"),
        };
        (Mood::Well, format!("All is well: {leads}{replicas}{sentinels}."))
    }
}

/// Each once, however many nodes say it.
fn warnings(nodes: &[NodePicture]) -> Vec<String> {
    let all: BTreeSet<_> = nodes.iter().flat_map(|node| &node.warnings).collect();
    all.into_iter().cloned().collect()
}

fn servers(redis: &Observation, reads: &BTreeMap<String, u64>, from_memory: u64) -> Vec<ServerPicture> {
    let all = reads.values().sum::<u64>() + from_memory;
    let followers: Vec<_> = redis
        .servers
        .iter()
        .filter_map(|server| match &server.replication {
            Some(Replication::Master { offset, replicas }) => Some((server.address.as_str(), *offset, replicas)),
            _ => None,
        })
        .collect();
    let picture = |server: &session_layer::store::ObservedServer| {
        let mut picture = ServerPicture {
            address: server.address.clone(),
            role: Role::Down,
            leads: redis.master.as_ref() == Some(&server.address),
            link_up: None,
            offset: None,
            behind_bytes: None,
            silent_for_secs: None,
            reads: reads.get(&server.address).copied().unwrap_or(0),
            read_share: None,
        };
        // Thousandths are enough.
        picture.read_share = (all > 0).then(|| (1000.0 * picture.reads as f64 / all as f64).round() / 1000.0);
        match &server.replication {
            Some(Replication::Master { offset, .. }) => {
                (picture.role, picture.offset) = (Role::Master, Some(*offset));
            }
            Some(Replication::Replica { of, link_up, offset }) => {
                (picture.role, picture.offset, picture.link_up) = (Role::Replica, Some(*offset), Some(*link_up));
                let master = followers.iter().find(|(master, ..)| master == of);
                let seen = master.and_then(|(_, sent, replicas)| {
                    let replica = replicas.iter().find(|replica| replica.address == server.address)?;
                    Some((sent.saturating_sub(replica.offset), replica.silent_for.as_secs()))
                });
                (picture.behind_bytes, picture.silent_for_secs) = seen.unzip();
            }
            // Down, or something that this version has not heard of.
            _ => {}
        }
        picture
    };
    redis.servers.iter().map(picture).collect()
}

fn sentinel(sentinel: &ObservedSentinel) -> SentinelPicture {
    let word = sentinel.word.as_ref();
    SentinelPicture {
        address: sentinel.address.clone(),
        up: word.is_some(),
        master: word.map(|word| word.master.clone()),
        master_down: word.is_some_and(|word| word.master_down),
        epoch: word.map(|word| word.epoch),
    }
}

/// The name without the port, where there is a name: addresses differ by their port as well.
pub(crate) fn short(address: &str) -> &str {
    match address.rsplit_once(':') {
        Some((host, _))
            if !host.ends_with(|c: char| c.is_ascii_digit() && host.contains('.')) && !host.contains(':') =>
        {
            host
        }
        _ => address,
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::redis::observation;

    const ALL: [&str; 3] = ["redis-1:6380", "redis-2:6381", "redis-3:6382"];

    fn node(name: &str, state: &str) -> NodePicture {
        NodePicture {
            name: name.into(),
            address: String::new(),
            state: state.into(),
            store_up: true,
            requests: None,
            per_second: 0.0,
            history: Vec::new(),
            near_cache: 0,
            warnings: Vec::new(),
        }
    }

    #[track_caller]
    fn check(redis: Option<&Observation>, nodes: [&str; 2], mood: Mood, headline: &str) {
        let nodes = vec![node("1111", nodes[0]), node("2222", nodes[1])];
        let seen = Seen { at: SystemTime::UNIX_EPOCH, by: "1111", front: None, redis };
        let picture = Picture::new(seen, nodes, &BTreeMap::new(), Vec::new(), Vec::new());
        assert_eq!((picture.mood, picture.headline.as_str()), (mood, headline));
    }

    #[test]
    fn the_headline_says_what_is_most_important() {
        let ready = ["ready", "ready"];
        let [first, second, third] = ALL;
        let whole = observation(first, &ALL, &[]);
        check(Some(&whole), ready, Mood::Well, "All is well: redis-1 leads, 2 replicas follow, 3 sentinels watch.");
        check(Some(&whole), ["ready", "draining"], Mood::Reduced, "redis-1 leads; server 2222 is draining.");
        let one_less = observation(first, &[first, second], &[third]);
        check(Some(&one_less), ready, Mood::Reduced, "redis-1 leads; redis-3 is down.");
        let headless = observation(first, &[second, third], &[first]);
        let waiting = "redis-1 does not answer; the sentinels see to it. Requests wait.";
        check(Some(&headless), ["ready", "down"], Mood::FailingOver, waiting);
        check(Some(&Observation::default()), ready, Mood::Unknown, "Nobody has said yet where the master is.");
        check(None, ready, Mood::Well, "All is well. Sessions are kept in this process’ memory.");
        check(None, ["down", "ready"], Mood::Reduced, "Server 1111 is down.");
    }

    #[test]
    fn a_server_that_evicts_is_named_once_and_not_all_is_well() {
        let warning = "redis-1:6380 evicts sessions; set maxmemory-policy noeviction.";
        let nodes = ["1111", "2222"].map(|name| NodePicture { warnings: vec![warning.into()], ..node(name, "ready") });
        let redis = observation(ALL[0], &ALL, &[]);
        let seen = Seen { at: SystemTime::UNIX_EPOCH, by: "1111", front: None, redis: Some(&redis) };
        let picture = Picture::new(seen, nodes.into(), &BTreeMap::new(), Vec::new(), Vec::new());
        assert_eq!((picture.mood, picture.warnings.as_slice()), (Mood::Reduced, &[warning.to_owned()][..]));
        let headline = "redis-1 leads, 2 replicas follow, 3 sentinels watch. See the warnings.";
        assert_eq!(picture.headline, headline);
    }

    #[test]
    fn a_replicas_lag_is_its_masters_word() {
        let reads = BTreeMap::from([(ALL[0].to_owned(), 1), (ALL[1].to_owned(), 2)]);
        let servers = servers(&observation(ALL[0], &ALL, &[]), &reads, 1);
        let [master, replica, other] = &servers[..] else { panic!("{servers:?}") };
        assert_eq!((master.role, master.leads, master.behind_bytes), (Role::Master, true, None));
        assert_eq!((replica.role, replica.leads, replica.link_up), (Role::Replica, false, Some(true)));
        assert_eq!((replica.behind_bytes, replica.silent_for_secs), (Some(2), Some(0)));
        let shares = [master, replica, other].map(|server| (server.reads, server.read_share));
        assert_eq!(shares, [(1, Some(0.25)), (2, Some(0.5)), (0, Some(0.0))]);
    }

    #[test]
    fn names_go_without_their_port_and_addresses_keep_it() {
        assert_eq!(short("redis-1:6380"), "redis-1");
        assert_eq!(short("127.0.0.1:6380"), "127.0.0.1:6380");
        assert_eq!(short("::1:6380"), "::1:6380");
        assert_eq!(short("redis"), "redis");
    }
}
