//! Pictures of Redis, for tests of the dashboard.

use std::time::{Duration, SystemTime};

use session_layer::store::{Follower, Observation, ObservedSentinel, ObservedServer, Replication, SentinelEvent, Word};

/// Three sentinels that name `master`, and servers that follow it, each two bytes behind; `down` ones do not answer.
pub(crate) fn observation(master: &str, up: &[&str], down: &[&str]) -> Observation {
    let follower = |address: &&str| Follower {
        address: (*address).to_owned(),
        online: true,
        offset: 40,
        silent_for: Duration::ZERO,
    };
    let followers: Vec<_> = up.iter().filter(|address| **address != master).map(follower).collect();
    let replication = |address: &str| {
        if address == master {
            Replication::Master { offset: 42, replicas: followers.clone() }
        } else {
            Replication::Replica { of: master.to_owned(), link_up: up.contains(&master), offset: 40 }
        }
    };
    let up = up.iter().map(|address| (*address, Some(replication(address))));
    let down = down.iter().map(|address| (*address, None));
    let mut servers: Vec<_> = up
        .chain(down)
        .map(|(address, replication)| ObservedServer { address: address.to_owned(), replication })
        .collect();
    servers.sort_by(|a, b| a.address.cmp(&b.address));
    let word = Word { master: master.to_owned(), master_down: false, epoch: 1 };
    let sentinel = |n| ObservedSentinel { address: format!("sentinel-{n}:26380"), word: Some(word.clone()) };
    Observation { master: Some(master.to_owned()), servers, sentinels: (1..=3).map(sentinel).collect() }
}

pub(crate) fn event(at: SystemTime, sentinel: u8, kind: &str, details: &str) -> SentinelEvent {
    let sentinel = format!("sentinel-{sentinel}:26380");
    SentinelEvent { at, sentinel, kind: kind.to_owned(), details: details.to_owned() }
}
