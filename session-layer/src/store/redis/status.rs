//! What a store says about the server that it uses: for metrics, dashboards and health checks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::eviction::Eviction;

/// What a store does only where its settings ask for it and the rights of its Redis user allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// [`near_cache`](super::RedisStoreBuilder::near_cache). Off: every read asks Redis.
    NearCache,
    /// [`replica_reads`](super::RedisStoreBuilder::replica_reads). Off: the master answers every read.
    ReplicaReads,
    /// [`durable_replicas`](super::RedisStoreBuilder::durable_replicas). Off for want of rights: a login, logout or revocation does not
    /// wait for a replica, and a failover right after it may undo it. Off since there is no second connection to the master: it fails.
    DurableCommits,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::NearCache, Self::ReplicaReads, Self::DurableCommits];

    /// A word for metrics: `near_cache`, `replica_reads`, `durable_commits`.
    pub fn name(self) -> &'static str {
        match self {
            Self::NearCache => "near_cache",
            Self::ReplicaReads => "replica_reads",
            Self::DurableCommits => "durable_commits",
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NearCache => "the near cache",
            Self::ReplicaReads => "reading from replicas",
            Self::DurableCommits => "waiting for a replica at login, logout and revocation",
        })
    }
}

/// What there is to know about a store's server; see [`RedisStore::status`](super::RedisStore::status).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStatus {
    /// Why no server is used, while none is: what attempts fail with. `None` also before the first server was tried.
    pub problem: Option<String>,
    /// The server that is used, as `host:port`.
    pub server: Option<String>,
    /// Features that were asked for and are off, each with the reason.
    pub off: BTreeMap<Feature, String>,
    /// How that server evicts, if it does: sessions disappear before they end, with their lists and tombstones.
    pub eviction: Option<Eviction>,
}

/// Shared by all who find something out.
#[derive(Clone, Default)]
pub(super) struct Status(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    status: StoreStatus,
    /// What was warned of last, so that the next server is not warned of again for the same.
    warned_off: BTreeMap<Feature, String>,
    warned_eviction: Option<(String, Eviction)>,
}

impl Status {
    pub(super) fn get(&self) -> StoreStatus {
        self.lock().status.clone()
    }

    pub(super) fn problem(&self) -> Option<String> {
        self.lock().status.problem.clone()
    }

    /// No server is used from here on.
    pub(super) fn set_problem(&self, problem: &str) {
        self.lock().status = StoreStatus { problem: Some(problem.to_owned()), ..StoreStatus::default() };
    }

    /// This server is used from here on.
    pub(super) fn set_server(&self, server: String) {
        self.lock().status = StoreStatus { server: Some(server), ..StoreStatus::default() };
    }

    /// Returns whether that is news.
    pub(super) fn set_off(&self, feature: Feature, reason: &str) -> bool {
        let mut known = self.lock();
        known.status.off.insert(feature, reason.to_owned());
        known.warned_off.insert(feature, reason.to_owned()).is_none_or(|before| before != reason)
    }

    pub(super) fn set_on(&self, feature: Feature) {
        let mut known = self.lock();
        known.status.off.remove(&feature);
        known.warned_off.remove(&feature);
    }

    /// Returns whether there is something new to warn of.
    pub(super) fn set_eviction(&self, eviction: Option<Eviction>) -> bool {
        let mut known = self.lock();
        known.status.eviction.clone_from(&eviction);
        let warning = known.status.server.clone().zip(eviction);
        let is_news = warning.is_some() && warning != known.warned_eviction;
        known.warned_eviction = warning;
        is_news
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing panics between changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_that_is_off_is_news_once_until_it_works() {
        let status = Status::default();
        assert!(status.set_off(Feature::NearCache, "no +ping"));
        status.set_problem("left");
        status.set_server("b:1".into());
        assert!(!status.set_off(Feature::NearCache, "no +ping"), "the next server says the same");
        assert_eq!(status.get().off[&Feature::NearCache], "no +ping");
        assert!(status.set_off(Feature::NearCache, "no +client|tracking"));
        status.set_on(Feature::NearCache);
        assert!(status.get().off.is_empty());
        assert!(status.set_off(Feature::NearCache, "no +ping"));
    }

    #[test]
    fn eviction_is_news_once_per_server_and_policy() {
        let status = Status::default();
        let evicts = |policy: &str| Some(Eviction { policy: policy.into(), maxmemory: 1 });
        status.set_server("a:1".into());
        assert!(!status.set_eviction(None));
        assert!(status.set_eviction(evicts("allkeys-lru")) && !status.set_eviction(evicts("allkeys-lru")));
        assert!(status.set_eviction(evicts("volatile-ttl")));
        status.set_server("b:1".into());
        assert_eq!(status.get().eviction, None);
        assert!(status.set_eviction(evicts("volatile-ttl")), "a failover to a replica with such a policy");
        assert!(!status.set_eviction(None) && status.get().eviction.is_none());
    }
}
