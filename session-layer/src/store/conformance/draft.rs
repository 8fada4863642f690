//! What makes the next check cost a few lines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

use crate::id::{SessionHandle, SessionId};
use crate::store::{
    AboveLimit, Action, Attributes, Change, Commit, CommitId, Lifetimes, Limits, Listed, Loaded, Record, Reply,
    Revocation, Revoke, SessionLimit, SessionStore, Start, StoreError, Touch, Version,
};

/// Where the sessions of these checks are listed, but for those that are about realms.
pub(super) const REALM: &str = "session";

/// How long they last, but for those that are about time.
pub(super) const LIFETIMES: Lifetimes = Lifetimes { idle_timeout: Duration::from_secs(60), absolute_timeout: None };

/// A principal of this check alone, since checks may share a server. Leaked: a test process does not live long.
pub(super) fn somebody() -> &'static str {
    SessionId::random().encode().leak()
}

pub(super) fn login(id: SessionId, principal: &str) -> Action {
    Action::Create(id, Start { principal: Some(principal.to_owned()), ..start() })
}

pub(super) async fn log_in(store: &Arc<impl SessionStore>, principal: &str) -> SessionId {
    let id = SessionId::random();
    draft(login(id, principal)).applied(store).await;
    id
}

pub(super) async fn list(store: &Arc<impl SessionStore>, principal: &str) -> Vec<Listed> {
    list_in(store, REALM, principal).await
}

pub(super) async fn list_in(store: &Arc<impl SessionStore>, realm: &str, principal: &str) -> Vec<Listed> {
    store.sessions_of(realm, principal).await.unwrap_or_else(|error| panic!("{}", chain(&error)))
}

pub(super) async fn listed(store: &Arc<impl SessionStore>, principal: &str) -> Vec<SessionHandle> {
    listed_in(store, REALM, principal).await
}

pub(super) async fn listed_in(store: &Arc<impl SessionStore>, realm: &str, principal: &str) -> Vec<SessionHandle> {
    list_in(store, realm, principal).await.into_iter().map(|session| session.handle).collect()
}

pub(super) fn handles(ids: &[SessionId]) -> Vec<SessionHandle> {
    ids.iter().map(SessionId::handle).collect()
}

pub(super) fn revocation(principal: &str, which: Revoke) -> Revocation {
    Revocation {
        id: CommitId::random(),
        realm: REALM.into(),
        principal: principal.to_owned(),
        which,
        deadline: Instant::now() + Duration::from_secs(5),
        remember: Duration::from_secs(20),
    }
}

pub(super) async fn revoke(store: &Arc<impl SessionStore>, principal: &str, which: Revoke) -> usize {
    let revoked = store.revoke(&revocation(principal, which)).await;
    revoked.unwrap_or_else(|error| panic!("{}", chain(&error))).ended
}

/// A commit in the making.
#[derive(Clone)]
pub(super) struct Draft(pub(super) Commit);

pub(super) fn draft(action: Action) -> Draft {
    let mut commit = Commit::new(action, Instant::now() + Duration::from_secs(5));
    (commit.realm, commit.lifetimes) = (REALM.into(), LIFETIMES);
    Draft(commit)
}

pub(super) async fn touch(store: &Arc<impl SessionStore>, id: &SessionId) {
    touch_for(store, id, LIFETIMES.idle_timeout, LIFETIMES.absolute_timeout).await;
}

pub(super) async fn touch_in(store: &Arc<impl SessionStore>, realm: &str, id: &SessionId) {
    let touch = Touch::new(*id, realm, LIFETIMES);
    store.touch(&touch).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
}

pub(super) async fn touch_for(
    store: &Arc<impl SessionStore>,
    id: &SessionId,
    idle_timeout: Duration,
    absolute_timeout: Option<Duration>,
) {
    let touch = Touch::new(*id, REALM, Lifetimes { idle_timeout, absolute_timeout });
    store.touch(&touch).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
}

pub(super) fn apply(id: SessionId) -> Draft {
    draft(Action::Apply(id))
}

impl Draft {
    pub(super) fn set(mut self, name: &str, value: &str) -> Self {
        self.0.changes.insert(name.to_owned(), Change::Set(value.to_owned().into()));
        self
    }

    pub(super) fn remove(mut self, name: &str) -> Self {
        self.0.changes.insert(name.to_owned(), Change::Remove);
        self
    }

    pub(super) fn add(mut self, name: &str, by: i64) -> Self {
        self.0.changes.insert(name.to_owned(), Change::Add(by));
        self
    }

    pub(super) fn clear(mut self) -> Self {
        self.0.clear = true;
        self
    }

    pub(super) fn when(mut self, name: &str, expected: Option<&str>) -> Self {
        self.0.conditions.insert(name.to_owned(), expected.map(|value| value.to_owned().into()));
        self
    }

    pub(super) fn seen(mut self, version: Version) -> Self {
        self.0.seen = Some(version);
        self
    }

    pub(super) fn limits(mut self, attributes: usize, record_bytes: usize) -> Self {
        self.0.limits = Limits { attributes, record_bytes, ..Limits::default() };
        self
    }

    pub(super) fn lasting(mut self, idle_timeout: Duration, absolute_timeout: Option<Duration>) -> Self {
        self.0.lifetimes = Lifetimes { idle_timeout, absolute_timeout };
        self
    }

    pub(super) fn at_most(mut self, most: usize, above: AboveLimit) -> Self {
        self.0.sessions = Some(SessionLimit { most, above });
        self
    }

    pub(super) async fn reply(&self, store: &Arc<impl SessionStore>) -> Reply {
        store.commit(&self.0).await.unwrap_or_else(|error| panic!("{:?}: {}", self.0.action, chain(&error)))
    }

    pub(super) async fn applied(&self, store: &Arc<impl SessionStore>) -> (Version, BTreeMap<String, i64>) {
        match self.reply(store).await {
            Reply::Applied { version, counters, .. } => (version, counters),
            reply => panic!("{:?}: {reply:?}", self.0),
        }
    }
}

pub(super) fn chain(error: &StoreError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}")
}

pub(super) fn start() -> Start {
    Start { created_on: SystemTime::UNIX_EPOCH + Duration::from_millis(1_750_000_000_789), principal: None }
}

pub(super) async fn create(store: &Arc<impl SessionStore>) -> SessionId {
    create_with(store, &[]).await
}

pub(super) async fn create_with(store: &Arc<impl SessionStore>, attributes: &[(&str, &str)]) -> SessionId {
    let id = SessionId::random();
    let create = draft(Action::Create(id, start()));
    attributes.iter().fold(create, |create, (name, value)| create.set(name, value)).applied(store).await;
    id
}

pub(super) async fn create_for(
    store: &Arc<impl SessionStore>,
    idle: Duration,
    absolute: Option<Duration>,
) -> SessionId {
    let id = SessionId::random();
    draft(Action::Create(id, start())).lasting(idle, absolute).applied(store).await;
    id
}

pub(super) fn attributes(pairs: &[(&str, &str)]) -> Attributes {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), Bytes::from((*value).to_owned()))).collect()
}

pub(super) async fn load(store: &Arc<impl SessionStore>, id: &SessionId) -> Loaded {
    store.load(id).await.unwrap_or_else(|error| panic!("{}", chain(&error)))
}

/// The ID is a tombstone that names this successor.
pub(super) async fn assert_ended(store: &Arc<impl SessionStore>, id: &SessionId, expected: Option<SessionId>) {
    match load(store, id).await {
        Loaded::Ended { successor, .. } => assert_eq!(successor, expected),
        other => panic!("expected a tombstone, found {other:?}"),
    }
}

/// A commit met a tombstone that names this successor.
#[track_caller]
pub(super) fn assert_met_end(reply: &Reply, expected: Option<SessionId>) {
    match reply {
        Reply::Ended { successor, .. } => assert_eq!(*successor, expected),
        other => panic!("expected that the session had ended, got {other:?}"),
    }
}

pub(super) async fn alive(store: &Arc<impl SessionStore>, id: &SessionId) -> Record {
    match load(store, id).await {
        Loaded::Alive(record) => record,
        other => panic!("expected a session, found {other:?}"),
    }
}

#[track_caller]
pub(super) fn assert_lasts(record: &Record, expected: Duration) {
    let expires_on = record.expires_on.expect("it has an absolute timeout");
    let left = expires_on.duration_since(SystemTime::now()).unwrap();
    // Two clocks, and the time that the check itself took.
    assert!(left.abs_diff(expected) < Duration::from_secs(10), "{left:?} left of {expected:?}");
}

pub(super) async fn pause() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Waits and looks at intervals shorter than the timeouts of these checks, so that a store that prolongs at a read fails here as
/// well.
pub(super) async fn until_absent(store: &Arc<impl SessionStore>, id: &SessionId) {
    let started = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        if load(store, id).await == Loaded::Absent {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(5), "it is still there");
    }
}

pub(super) async fn until_ttl_is_below(store: &Arc<impl SessionStore>, id: &SessionId, ttl: Duration) {
    while alive(store, id).await.ttl >= ttl {
        pause().await;
    }
}

/// All at the same time, as far as the runtime has threads.
pub(super) async fn all<T: Send + 'static>(
    tasks: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: Vec<_> = tasks.map(tokio::spawn).collect();
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        results.push(task.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())));
    }
    results
}
