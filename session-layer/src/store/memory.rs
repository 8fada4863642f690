//! Sessions in this process's memory: for tests, for development, and as the plain statement of what a store does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{Listed, Loaded, SessionStore, StoreError, is_past};
use crate::commit::{Commit, Reply, Revocation, Revoke, Revoked, Touch};
use crate::id::SessionId;

mod limits; // how much it may hold
pub use limits::{MemoryLimits, MemoryUsage};

mod state; // all that it keeps
use state::{Answer, Entry, State, age};

mod expiring; // drops what has expired, in steps

mod session; // a session as it is kept

mod attributes; // what a commit does to them

mod lists; // the sessions of principals

/// Keeps sessions in memory. Clones share what they keep, so that several app nodes in one process share their sessions.
///
/// A restart of the process ends all sessions; that is what `RedisStore` is for.
///
/// What has expired is dropped in small steps by the operations that follow. The store holds at most what its [`MemoryLimits`] allow:
/// when it is full, changes are refused with 503 ([`SessionError::is_refused`](crate::SessionError::is_refused)), while sessions can
/// still be read, prolonged and ended.
///
/// ```
/// use session_layer::{SessionLayer, store::MemoryStore};
///
/// let layer = SessionLayer::builder(MemoryStore::new()).secret([7; 32]).development(true).build()?;
/// # Ok::<(), session_layer::ConfigError>(())
/// ```
#[derive(Clone, Default)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    limits: MemoryLimits,
}

impl MemoryStore {
    /// A store without sessions.
    pub fn new() -> Self {
        Self::default()
    }

    /// A store without sessions that holds no more than this.
    pub fn with_limits(limits: MemoryLimits) -> Self {
        Self { state: Arc::default(), limits }
    }

    /// Returns how much the store holds, expired entries that were not dropped yet included. For metrics; costs nothing.
    pub fn usage(&self) -> MemoryUsage {
        self.lock().usage()
    }

    /// Returns how many sessions are alive. Looks at all of them.
    pub fn len(&self) -> usize {
        let state = self.lock();
        state.entries.values(Instant::now()).filter(|entry| matches!(entry, Entry::Session(_))).count()
    }

    /// Whether no session is alive.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of what there is at this moment, as a replica has one.
    #[cfg(any(test, feature = "test-util"))]
    pub fn replica(&self) -> Self {
        Self { state: Arc::new(Mutex::new(self.lock().clone())), limits: self.limits }
    }

    /// Goes on with what a replica has: what was changed since is lost, as in a failover.
    #[cfg(any(test, feature = "test-util"))]
    pub fn fail_over_to(&self, replica: &Self) {
        let state = replica.lock().clone();
        *self.lock() = state;
    }

    /// Loses the list of a principal, as a Redis that evicts keys does.
    #[cfg(any(test, feature = "test-util"))]
    pub fn lose_list(&self, realm: &str, principal: &str) {
        self.lock().lists.lose(realm, principal);
    }

    /// The state, for an operation that begins now.
    fn begin(&self, now: Instant) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.sweep(now);
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code below leaves the state half written when it panics, so a poisoned lock is still a good one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionStore for MemoryStore {
    async fn load(&self, id: &SessionId) -> Result<Loaded, StoreError> {
        let now = Instant::now();
        let state = self.begin(now);
        Ok(match state.entries.get(id, now) {
            None => Loaded::Absent,
            Some((Entry::Tombstone(successor), until)) => Loaded::Ended { successor: *successor, age: age(until, now) },
            Some((Entry::Session(session), until)) => Loaded::Alive(session.record(until - now)),
        })
    }

    async fn commit(&self, commit: &Commit) -> Result<Reply, StoreError> {
        let now = Instant::now();
        let mut state = self.begin(now);
        if let Some(Answer::Commit(reply)) = state.answer_to(&commit.id, now) {
            return Ok(reply.clone());
        }
        if is_past(commit.deadline) {
            return Err(StoreError::unavailable("the commit came after its deadline"));
        }
        self.limits.check(state.usage(), commit)?;
        let reply = state.commit(commit, now);
        // That a session is gone needs no record, since it stays gone: so logouts of sessions that ended cannot fill a full store.
        if !matches!(reply, Reply::Absent | Reply::Ended { .. }) || self.limits.leave_room(state.usage()) {
            state.remember(commit.id, Answer::Commit(reply.clone()), now + commit.remember);
        }
        Ok(reply)
    }

    async fn sessions_of(&self, realm: &str, principal: &str) -> Result<Vec<Listed>, StoreError> {
        let now = Instant::now();
        let state = self.begin(now);
        let mut listed: Vec<_> = state
            .listed(realm, principal, now)
            .into_iter()
            .filter_map(|(since, id)| {
                let Some((Entry::Session(session), until)) = state.entries.get(&id, now) else { return None };
                let logged_in_on = SystemTime::UNIX_EPOCH + Duration::from_micros(since.0);
                Some(Listed { handle: id.handle(), logged_in_on, record: session.record(until - now) })
            })
            .collect();
        listed.sort_by_key(|session| session.logged_in_on);
        Ok(listed)
    }

    async fn revoke(&self, revocation: &Revocation) -> Result<Revoked, StoreError> {
        let now = Instant::now();
        let mut state = self.begin(now);
        if let Some(Answer::Revocation(ended)) = state.answer_to(&revocation.id, now) {
            return Ok(Revoked { ended: *ended, confirmed: true });
        }
        if is_past(revocation.deadline) {
            return Err(StoreError::unavailable("the revocation came after its deadline"));
        }
        let doomed: Vec<_> = state
            .listed(&revocation.realm, &revocation.principal, now)
            .into_iter()
            .map(|(_, id)| id)
            .filter(|id| match revocation.which {
                Revoke::One(handle) => id.handle() == handle,
                Revoke::Others(handle) => id.handle() != handle,
                Revoke::All => true,
            })
            .collect();
        for id in &doomed {
            state.bury(*id, None, now);
        }
        state.remember(revocation.id, Answer::Revocation(doomed.len()), now + revocation.remember);
        Ok(Revoked { ended: doomed.len(), confirmed: true })
    }

    async fn touch(&self, touch: &Touch) -> Result<(), StoreError> {
        let now = Instant::now();
        let mut state = self.begin(now);
        let touched = state.entries.change(&touch.id, now, |entry, until| match entry {
            Entry::Session(session) => {
                session.lifetimes = touch.lifetimes;
                (session.until(now), session.principal.clone().map(|principal| (principal, session.since)))
            }
            Entry::Tombstone(_) => (until, None),
        });
        if let Some(Some((principal, since))) = touched {
            state.lists.enter(&touch.realm, &principal, touch.id, since);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests; // what it drops, and what it does when it is full

#[cfg(test)]
mod suite {
    use super::*;

    crate::conformance!(MemoryStore::new());

    #[tokio::test]
    async fn a_lost_list_is_whole_again_after_a_commit_or_touch() {
        let store = MemoryStore::new();
        let lose = async |realm: &str, principal: &str| store.lose_list(realm, principal);
        super::super::conformance::a_lost_list_is_whole_again_after_a_commit_or_touch(Arc::new(store.clone()), lose)
            .await;
    }
}
