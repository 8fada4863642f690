//! A session as it is kept.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::commit::{Lifetimes, Start};
use crate::freshness::HISTORY;
use crate::record::{Attributes, Record, Version};

#[derive(Clone)]
pub(super) struct Session {
    pub(super) attributes: Attributes,
    pub(super) created_on: SystemTime,
    pub(super) lifetimes: Lifetimes,
    /// When it was created, or its principal logged in: what the absolute timeout counts from.
    pub(super) began: Instant,
    /// The version that it had then, which puts the sessions of a principal in order.
    pub(super) since: Version,
    pub(super) version: Version,
    pub(super) principal: Option<String>,
    pub(super) history: Vec<Version>,
}

impl Session {
    pub(super) fn start(start: &Start, lifetimes: Lifetimes, now: Instant) -> Self {
        Self {
            attributes: Attributes::new(),
            created_on: start.created_on,
            lifetimes,
            began: now,
            since: Version::default(),
            version: Version::default(),
            principal: start.principal.clone(),
            history: Vec::new(),
        }
    }

    /// When it ends if nobody asks for it after `now`.
    pub(super) fn until(&self, now: Instant) -> Instant {
        let idle = now + self.lifetimes.idle_timeout;
        self.ends().map_or(idle, |ends| idle.min(ends))
    }

    /// When it ends whatever happens.
    fn ends(&self) -> Option<Instant> {
        self.lifetimes.absolute_timeout.map(|timeout| self.began + timeout)
    }

    pub(super) fn record(&self, ttl: Duration) -> Record {
        Record {
            attributes: self.attributes.clone(),
            created_on: self.created_on,
            idle_timeout: self.lifetimes.idle_timeout,
            absolute_timeout: self.lifetimes.absolute_timeout,
            expires_on: self.ends().map(|ends| SystemTime::now() + ends.saturating_duration_since(Instant::now())),
            ttl,
            version: self.version,
            principal: self.principal.clone(),
            history: if self.remembers() { self.history.clone() } else { Vec::new() },
        }
    }

    /// Whether its last commit asked for a history. A commit that did not is missing from it, so that it proves nothing then.
    fn remembers(&self) -> bool {
        self.history.last() == Some(&self.version)
    }

    /// Gives it its next version, and tells those before it if they are to be kept.
    pub(super) fn advance(&mut self, keep_history: bool) -> Vec<Version> {
        let before = self.version;
        let is_new = before == Version::default();
        self.version = Version(micros_since_epoch().max(before.0 + 1));
        if !keep_history {
            return Vec::new();
        }
        let past = match self.history.last() {
            Some(last) if *last == before => std::mem::take(&mut self.history),
            _ if is_new => Vec::new(),
            _ => vec![before],
        };
        self.history = past.iter().copied().skip((past.len() + 1).saturating_sub(HISTORY)).collect();
        self.history.push(self.version);
        past
    }
}

fn micros_since_epoch() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
