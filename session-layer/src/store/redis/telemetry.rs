//! What the store says about its connection. No event carries a password or anything of a session.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::connection::CallError;
use super::eviction::Eviction;
use super::server::{Server, lock};
use super::status::Feature;
use super::url::Address;

pub(super) fn connected(server: &Server, last: Option<&Address>) {
    let (address, port, peer) = (server.name.host.as_str(), server.name.port, server.address);
    match last {
        Some(last) if *last != server.name => {
            tracing::info!(server.address = address, server.port = port, %peer, previous = %last, "connected to a new Redis master");
        }
        _ => tracing::info!(server.address = address, server.port = port, %peer, "connected to the Redis master"),
    }
}

pub(super) fn left(server: &Address, reason: &str) {
    tracing::warn!(server.address = server.host.as_str(), server.port = server.port, reason, "left the Redis master");
}

pub(super) fn replica_lost(server: &Address, reason: &CallError) {
    tracing::debug!(server.address = server.host.as_str(), server.port = server.port, %reason, "cannot read from a replica");
}

pub(super) fn connection_lost(server: &Address, reason: &CallError) {
    tracing::debug!(server.address = server.host.as_str(), server.port = server.port, %reason, "lost a connection to the Redis master");
}

/// When each feature was last said to be off.
#[derive(Default)]
pub(super) struct Warnings([Limit; Feature::ALL.len()]);

impl Warnings {
    /// Returns whether the last warning of this kind was ten seconds ago.
    pub(super) fn is_due(&self, feature: Feature) -> bool {
        self.0[feature as usize].is_due()
    }
}

/// Lets one message pass in a while.
#[derive(Default)]
struct Limit(Mutex<Option<Instant>>);

impl Limit {
    fn is_due(&self) -> bool {
        let mut last = lock(&self.0);
        let due = last.is_none_or(|last| last.elapsed() >= Complaints::AGAIN);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

pub(super) fn feature_off(server: &Address, feature: Feature, reason: &str) {
    tracing::warn!(server.address = server.host.as_str(), server.port = server.port, reason, "{feature} is off");
}

pub(super) fn evicts(server: &Address, eviction: &Eviction) {
    tracing::warn!(
        server.address = server.host.as_str(),
        server.port = server.port,
        policy = eviction.policy,
        maxmemory = eviction.maxmemory,
        "Redis {eviction}"
    );
}

/// Warns once per reason, and again when it lasts.
#[derive(Default)]
pub(super) struct Complaints {
    last: Option<(String, Instant)>,
}

impl Complaints {
    const AGAIN: Duration = Duration::from_secs(10);

    pub(super) fn cannot_connect(&mut self, reason: &str) {
        if self.is_due(reason) {
            tracing::warn!(reason, "cannot use Redis; trying again several times a second");
        }
    }

    fn is_due(&mut self, reason: &str) -> bool {
        let due = self.last.as_ref().is_none_or(|(last, since)| last != reason || since.elapsed() >= Self::AGAIN);
        if due {
            self.last = Some((reason.to_owned(), Instant::now()));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_feature_that_stays_off_is_told_every_ten_seconds() {
        let limit = Limit::default();
        let mut told = 0;
        for _ in 0..1000 {
            told += u32::from(limit.is_due());
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(told, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reason_that_lasts_is_told_every_ten_seconds() {
        let mut complaints = Complaints::default();
        let mut told = 0;
        for _ in 0..1000 {
            told += u32::from(complaints.is_due("refused"));
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(told, 10);
        assert!(complaints.is_due("WRONGPASS"));
        assert!(!complaints.is_due("WRONGPASS"));
    }
}
