//! Sessions in this process's memory: for tests, for development, and as the plain statement of what a store does.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{Listed, Loaded, SessionStore, StoreError, TOMBSTONE_LIFETIME, is_past};
use crate::commit::{AboveLimit, Action, Commit, CommitId, Renewal, Reply, Revocation, Revoke, Revoked, Touch};
use crate::id::SessionId;
use crate::record::Version;

mod attributes;
use attributes::change;

mod lists;
use lists::Lists;

mod session;
use session::Session;

/// Keeps sessions in memory. Clones share what they keep, so that several app nodes in one process share their sessions.
///
/// A restart of the process ends all sessions; that is what `RedisStore` is for.
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
}

impl MemoryStore {
    /// A store without sessions.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many sessions are alive.
    pub fn len(&self) -> usize {
        let now = Instant::now();
        // What has expired stays until a sweep comes by.
        let alive = |entry: &&Entry| entry.until > now && matches!(entry.what, What::Session(_));
        self.lock().entries.values().filter(alive).count()
    }

    /// Whether no session is alive.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of what there is at this moment, as a replica has one.
    #[cfg(any(test, feature = "test-util"))]
    pub fn replica(&self) -> Self {
        Self { state: Arc::new(Mutex::new(self.lock().clone())) }
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

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code below leaves the state half written when it panics, so a poisoned lock is still a good one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionStore for MemoryStore {
    async fn load(&self, id: &SessionId) -> Result<Loaded, StoreError> {
        let now = Instant::now();
        let mut state = self.lock();
        Ok(match state.find(id, now) {
            None => Loaded::Absent,
            Some(Entry { what: What::Tombstone(successor), until }) => {
                Loaded::Ended { successor: *successor, age: age(*until, now) }
            }
            Some(Entry { what: What::Session(session), until }) => Loaded::Alive(session.record(*until - now)),
        })
    }

    async fn commit(&self, commit: &Commit) -> Result<Reply, StoreError> {
        let now = Instant::now();
        let mut state = self.lock();
        state.sweep(now);
        // What is to be forgotten stays until a sweep comes by.
        if let Some((reply, _)) = state.replies.get(&commit.id).filter(|(_, until)| *until > now) {
            return Ok(reply.clone());
        }
        if is_past(commit.deadline) {
            return Err(StoreError::unavailable("the commit came after its deadline"));
        }
        let reply = state.commit(commit, now);
        state.replies.insert(commit.id, (reply.clone(), now + commit.remember));
        Ok(reply)
    }

    async fn sessions_of(&self, realm: &str, principal: &str) -> Result<Vec<Listed>, StoreError> {
        let now = Instant::now();
        let mut state = self.lock();
        let mut listed: Vec<_> = state
            .listed(realm, principal, now)
            .into_iter()
            .filter_map(|(since, id)| {
                let Some(Entry { what: What::Session(session), until }) = state.find(&id, now) else { return None };
                let logged_in_on = SystemTime::UNIX_EPOCH + Duration::from_micros(since.0);
                Some(Listed { handle: id.handle(), logged_in_on, record: session.record(*until - now) })
            })
            .collect();
        listed.sort_by_key(|session| session.logged_in_on);
        Ok(listed)
    }

    async fn revoke(&self, revocation: &Revocation) -> Result<Revoked, StoreError> {
        let now = Instant::now();
        let mut state = self.lock();
        state.sweep(now);
        if let Some((ended, _)) = state.revoked.get(&revocation.id).filter(|(_, until)| *until > now) {
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
            state.bury(*id, &revocation.realm, None, now);
        }
        state.revoked.insert(revocation.id, (doomed.len(), now + revocation.remember));
        Ok(Revoked { ended: doomed.len(), confirmed: true })
    }

    async fn touch(&self, touch: &Touch) -> Result<(), StoreError> {
        let now = Instant::now();
        let state = &mut *self.lock();
        if let Some(Entry { what: What::Session(session), until }) = state.find(&touch.id, now) {
            session.lifetimes = touch.lifetimes;
            *until = session.until(now);
            let since = session.since;
            if let Some(principal) = session.principal.clone() {
                state.lists.enter(&touch.realm, &principal, touch.id, since);
            }
        }
        Ok(())
    }
}

#[derive(Clone, Default)]
struct State {
    entries: HashMap<SessionId, Entry>,
    replies: HashMap<CommitId, (Reply, Instant)>,
    revoked: HashMap<CommitId, (usize, Instant)>,
    lists: Lists,
    operations_since_sweep: usize,
}

#[derive(Clone)]
struct Entry {
    what: What,
    until: Instant,
}

#[derive(Clone)]
enum What {
    Session(Session),
    Tombstone(Option<SessionId>),
}

impl State {
    fn find(&mut self, id: &SessionId, now: Instant) -> Option<&mut Entry> {
        self.entries.get_mut(id).filter(|entry| entry.until > now)
    }

    /// Drops what has expired, once per as many operations as there are entries: constant cost per operation.
    fn sweep(&mut self, now: Instant) {
        self.operations_since_sweep += 1;
        if self.operations_since_sweep > self.entries.len() + self.replies.len() {
            self.entries.retain(|_, entry| entry.until > now);
            self.replies.retain(|_, (_, until)| *until > now);
            self.revoked.retain(|_, (_, until)| *until > now);
            let entries = &self.entries;
            self.lists.sweep(|id| !entries.contains_key(id));
            self.operations_since_sweep = 0;
        }
    }

    fn commit(&mut self, commit: &Commit, now: Instant) -> Reply {
        let mut session = match self.base(commit, now) {
            Ok(session) => session,
            Err(reply) => return reply,
        };
        if let Action::Destroy(id) = commit.action {
            self.bury(id, &commit.realm, None, now);
            let (counters, history) = (BTreeMap::new(), Vec::new());
            return Reply::Applied { version: session.version, counters, confirmed: true, history };
        }
        let counters = match change(&mut session.attributes, commit) {
            Ok(counters) => counters,
            Err(reply) => return reply,
        };
        let evicted = match self.above_limit(commit, now) {
            Ok(evicted) => evicted,
            Err(reply) => return reply,
        };

        // All checks are done; from here on everything is written.
        for id in evicted {
            self.bury(id, &commit.realm, None, now);
        }
        let history = session.advance(commit.keep_history);
        let version = session.version;
        let id = match &commit.action {
            Action::Create(id, _) | Action::Apply(id) | Action::Destroy(id) => *id,
            Action::Renew(id, successor, renewal) => {
                let linked = !matches!(renewal, Renewal::Replace { linked: false, .. });
                self.bury(*id, &commit.realm, linked.then_some(*successor), now);
                *successor
            }
        };
        if commit.action.begins() {
            session.since = version;
        }
        if let Some(principal) = &session.principal {
            self.lists.enter(&commit.realm, principal, id, session.since);
        }
        let until = session.until(now);
        self.entries.insert(id, Entry { what: What::Session(session), until });
        Reply::Applied { version, counters, confirmed: true, history }
    }

    /// The sessions that must end so that this login keeps the limit of its principal.
    fn above_limit(&mut self, commit: &Commit, now: Instant) -> Result<Vec<SessionId>, Reply> {
        let (Some(principal), Some(limit)) = (commit.action.logs_in(), commit.sessions) else { return Ok(Vec::new()) };
        let mut others = self.listed(&commit.realm, principal, now);
        others.retain(|(_, id)| id != commit.action.id());
        let too_many = (others.len() + 1).saturating_sub(limit.most);
        match limit.above {
            AboveLimit::Refuse if too_many > 0 => Err(Reply::TooManySessions),
            _ => Ok(others.into_iter().take(too_many).map(|(_, id)| id).collect()),
        }
    }

    /// The live sessions of a principal, those that logged in first first.
    fn listed(&self, realm: &str, principal: &str, now: Instant) -> Vec<(Version, SessionId)> {
        let is_alive = |id: &SessionId| {
            self.entries.get(id).is_some_and(|entry| entry.until > now && matches!(entry.what, What::Session(_)))
        };
        let mut listed: Vec<_> = self.lists.of(realm, principal).filter(|(_, id)| is_alive(id)).collect();
        listed.sort_by_key(|(since, _)| *since);
        listed
    }

    /// The session as it is before its attributes are changed, or why there is none to change.
    fn base(&mut self, commit: &Commit, now: Instant) -> Result<Session, Reply> {
        if let Action::Create(id, start) = &commit.action {
            return match self.find(id, now) {
                None => Ok(Session::start(start, commit.lifetimes, now)),
                Some(_) => Err(Reply::Occupied),
            };
        }
        if let Action::Renew(_, successor, _) = &commit.action
            && self.find(successor, now).is_some()
        {
            return Err(Reply::Occupied);
        }
        let mut session = match self.find(commit.action.id(), now) {
            None => return Err(Reply::Absent),
            Some(Entry { what: What::Tombstone(successor), until }) => {
                return Err(Reply::Ended { successor: *successor, age: age(*until, now) });
            }
            Some(Entry { what: What::Session(session), .. }) => session.clone(),
        };
        if commit.action.target().is_some() {
            session.lifetimes = commit.lifetimes;
            if session.until(now) <= now && !commit.action.begins() {
                // By a setting that was lowered since.
                self.entries.remove(commit.action.id());
                return Err(Reply::Absent);
            }
        }
        if commit.seen.is_some_and(|seen| session.version < seen) {
            return Err(Reply::RolledBack);
        }
        match &commit.action {
            Action::Renew(_, _, Renewal::Replace { start, .. }) => {
                session = Session::start(start, commit.lifetimes, now);
            }
            Action::Renew(_, _, Renewal::LogIn { principal }) => {
                session.principal = Some(principal.clone());
                session.began = now;
            }
            Action::Renew(_, _, Renewal::Keep) | Action::Apply(_) | Action::Destroy(_) | Action::Create(..) => {}
        }
        Ok(session)
    }

    /// Ends a session, also in the list of its principal.
    fn bury(&mut self, id: SessionId, realm: &str, successor: Option<SessionId>, now: Instant) {
        let grave = Entry { what: What::Tombstone(successor), until: now + TOMBSTONE_LIFETIME };
        let buried = self.entries.insert(id, grave);
        if let Some(Entry { what: What::Session(Session { principal: Some(principal), .. }), .. }) = buried {
            self.lists.leave(realm, &principal, &id);
        }
    }
}

/// How long ago a session ended whose tombstone lasts until then.
fn age(until: Instant, now: Instant) -> Duration {
    TOMBSTONE_LIFETIME.saturating_sub(until.saturating_duration_since(now))
}

#[cfg(test)]
mod tests {
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
