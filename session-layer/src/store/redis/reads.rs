//! Who answered how many reads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::url::Address;

/// How often sessions were read from where since the store began; see [`RedisStore::reads`](super::RedisStore::reads).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadShares {
    /// By server, each as `host:port`; masters and replicas of all that time.
    pub servers: BTreeMap<String, u64>,
    /// From this node's own memory.
    pub near_cache: u64,
}

/// Counts reads by server.
#[derive(Clone, Default)]
pub(super) struct Reads(Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>);

impl Reads {
    /// Where the reads from a server are counted.
    pub(super) fn counter(&self, server: &Address) -> Arc<AtomicU64> {
        Arc::clone(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(server.to_string()).or_default())
    }

    pub(super) fn shares(&self) -> ReadShares {
        let counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |(server, count): (&String, &Arc<AtomicU64>)| (server.clone(), count.load(Ordering::Relaxed));
        ReadShares { servers: counters.iter().map(count).collect(), near_cache: 0 }
    }
}
