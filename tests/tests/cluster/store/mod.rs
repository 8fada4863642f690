//! RedisStore on real servers: what every store does, and what only Redis can do to one.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::time::{Duration, SystemTime};

use session_layer::SessionId;
use session_layer::store::{
    Action, Change, Commit, Lifetimes, Loaded, RedisStore, Reply, SessionStore, Start, StoreError, Touch,
};
use tokio::time::Instant;

mod addresses;
mod eviction;
mod failover;
mod faults;
mod keys;
mod lists;
mod model;
mod observe;
mod rights;
mod suite;
mod trouble;
mod wire;

/// A store that is connected.
async fn connected(url: &str) -> RedisStore {
    let store = RedisStore::builder(url).build().expect("the URL is good");
    let up = tokio::time::timeout(Duration::from_secs(10), store.available()).await;
    up.expect("the store connects");
    store
}

/// A commit that nothing has been put into yet, with time enough.
fn commit(action: Action) -> Commit {
    Commit::new(action, Instant::now() + Duration::from_secs(15))
}

fn set(id: SessionId, name: &str, value: &str) -> Commit {
    let changes = BTreeMap::from([(name.to_owned(), Change::Set(value.to_owned().into()))]);
    Commit { changes, ..commit(Action::Apply(id)) }
}

fn add(id: SessionId, name: &str, by: i64) -> Commit {
    Commit { changes: BTreeMap::from([(name.to_owned(), Change::Add(by))]), ..commit(Action::Apply(id)) }
}

fn start() -> Start {
    let created_on = SystemTime::UNIX_EPOCH + Duration::from_millis(1_750_000_000_789);
    Start { created_on, principal: None }
}

fn touch(id: SessionId) -> Touch {
    Touch::new(id, "session", Lifetimes::default())
}

async fn create(store: &RedisStore) -> SessionId {
    let id = SessionId::random();
    applied(store, &commit(Action::Create(id, start()))).await;
    id
}

/// One attempt that must succeed; the counters it added to.
async fn applied(store: &RedisStore, commit: &Commit) -> BTreeMap<String, i64> {
    match store.commit(commit).await {
        Ok(Reply::Applied { counters, .. }) => counters,
        Ok(reply) => panic!("{reply:?}"),
        Err(error) => panic!("{}", cause(&error)),
    }
}

/// What is in a session, as soon as that can be read.
async fn attributes(store: &RedisStore, id: &SessionId) -> BTreeMap<String, String> {
    match patiently(store, Duration::from_secs(5), || store.load(id)).await {
        Ok(Loaded::Alive(record)) => {
            let text = |bytes: bytes::Bytes| String::from_utf8_lossy(&bytes).into_owned();
            record.attributes.into_iter().map(|(name, value)| (name, text(value))).collect()
        }
        Ok(other) => panic!("expected a session, found {other:?}"),
        Err(error) => panic!("{}", cause(&error)),
    }
}

fn cause(error: &StoreError) -> String {
    format!("{error}: {}", error.source().map(ToString::to_string).unwrap_or_default())
}

/// Repeats an attempt as the layer does: while the store says that it may help, and for no longer than `budget`.
async fn patiently<T, A: Future<Output = Result<T, StoreError>>>(
    store: &RedisStore,
    budget: Duration,
    mut attempt: impl FnMut() -> A,
) -> Result<T, StoreError> {
    let deadline = Instant::now() + budget;
    loop {
        match attempt().await {
            Err(error) if error.is_unavailable() && Instant::now() < deadline => {
                let _ = tokio::time::timeout_at(deadline, store.available()).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            answer => return answer,
        }
    }
}
