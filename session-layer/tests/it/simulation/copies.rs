//! A store whose sessions are also read from copies, as replicas and a near cache have them: any state that was the newest within
//! the last second. A [`Defect`] makes them older than that.
//!
//! What a node committed itself is not asked for separately: nothing that is promised depends on it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use session_layer::SessionId;
use session_layer::store::{
    Commit, Freshness, Listed, Loaded, MemoryStore, Record, Reply, Revocation, Revoked, SessionStore, StoreError, Touch,
};
use tokio::time::Instant;

use super::random::Random;
use super::run::LosesLists;
use super::world::lock;

/// The oldest that a copy may be.
pub const STALE: Duration = Duration::from_secs(1);
/// How old those of a broken store are at most.
const OLD: Duration = Duration::from_secs(20);

/// What is wrong with the copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// They are as old as they like, as on a replica whose lag nobody looks at, and older than asked for.
    Lag,
    /// A session that was changed or has ended is kept as it was, as in a cache that is not told, or loses what it is told.
    KeepWhatWasDropped,
}

#[derive(Clone)]
pub struct Copies {
    store: MemoryStore,
    defect: Option<Defect>,
    /// With when each was new, the newest last.
    states: Arc<Mutex<VecDeque<(Instant, MemoryStore)>>>,
    random: Arc<Mutex<Random>>,
}

impl Copies {
    pub fn new(defect: Option<Defect>, random: Random) -> Self {
        let store = MemoryStore::new();
        let states = VecDeque::from([(Instant::now(), store.replica())]);
        Self { store, defect, states: Arc::new(Mutex::new(states)), random: Arc::new(Mutex::new(random)) }
    }

    /// Something may have changed. The store below never waits, so nothing comes between its change and this.
    fn note(&self) {
        let mut states = lock(&self.states);
        let now = Instant::now();
        states.push_back((now, self.store.replica()));
        // One is the newest until the next one is there.
        while states.len() > 1 && states[1].0 + OLD <= now {
            states.pop_front();
        }
    }

    /// The states that were the newest at some time in so long.
    fn within(&self, age: Duration) -> Vec<MemoryStore> {
        let states = lock(&self.states);
        let now = Instant::now();
        let first = states.iter().skip(1).take_while(|(since, _)| *since + age <= now).count();
        states.iter().skip(first).map(|(_, state)| state.clone()).collect()
    }
}

impl LosesLists for Copies {
    fn lose_list(&self, realm: &str, principal: &str) {
        self.store.lose_list(realm, principal);
    }
}

async fn record(state: &MemoryStore, id: &SessionId) -> Option<Record> {
    match state.load(id).await {
        Ok(Loaded::Alive(record)) => Some(record),
        _ => None,
    }
}

impl SessionStore for Copies {
    async fn load(&self, id: &SessionId) -> Result<Loaded, StoreError> {
        self.store.load(id).await
    }

    async fn commit(&self, commit: &Commit) -> Result<Reply, StoreError> {
        let reply = self.store.commit(commit).await;
        self.note();
        reply
    }

    async fn sessions_of(&self, realm: &str, principal: &str) -> Result<Vec<Listed>, StoreError> {
        self.store.sessions_of(realm, principal).await
    }

    async fn revoke(&self, revocation: &Revocation) -> Result<Revoked, StoreError> {
        let revoked = self.store.revoke(revocation).await;
        self.note();
        revoked
    }

    async fn touch(&self, touch: &Touch) -> Result<(), StoreError> {
        let touched = self.store.touch(touch).await;
        self.note();
        touched
    }

    fn has_copies(&self) -> bool {
        true
    }

    async fn load_copy(&self, id: &SessionId, wanted: &Freshness) -> Option<Record> {
        if self.defect == Some(Defect::KeepWhatWasDropped) {
            // The oldest that will do.
            for state in self.within(OLD) {
                match record(&state, id).await {
                    Some(record) if record.version >= wanted.at_least => return Some(record),
                    _ => {}
                }
            }
            return None;
        }
        let states = self.within(if self.defect.is_some() { OLD } else { STALE });
        let chosen = lock(&self.random).below(states.len() as u64) as usize;
        let record = record(&states[chosen], id).await;
        record.filter(|record| self.defect.is_some() || record.version >= wanted.at_least)
    }
}
