//! What a store in memory drops, and what it does when it is full. That it answers like a store that keeps everything is checked by
//! the model of a store (`tests/it/model`).

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, advance};

use super::*;
use crate::commit::{Action, CommitId, Lifetimes, Renewal, Start};
use crate::delta::Change;
use crate::store::TOMBSTONE_LIFETIME;

const REALM: &str = "session";

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A commit for a session that lasts ten seconds and whose reply is remembered for twenty.
fn commit(action: Action) -> Commit {
    let mut commit = Commit::new(action, Instant::now() + secs(5));
    commit.realm = REALM.into();
    commit.lifetimes = Lifetimes { idle_timeout: secs(10), absolute_timeout: None };
    commit
}

fn creation(principal: Option<&str>, value: usize) -> (SessionId, Commit) {
    let id = SessionId::random();
    let start = Start { created_on: SystemTime::now(), principal: principal.map(str::to_owned) };
    let mut commit = commit(Action::Create(id, start));
    commit.changes.insert("value".to_owned(), Change::Set(Bytes::from(vec![b'1'; value])));
    (id, commit)
}

/// Creates sessions until the store refuses one, and returns their IDs.
async fn fill(store: &MemoryStore, principal: Option<&str>) -> Vec<SessionId> {
    let mut ids = Vec::new();
    loop {
        let (id, commit) = creation(principal, 100);
        match store.commit(&commit).await {
            Ok(Reply::Applied { .. }) => ids.push(id),
            other => {
                assert_full(other);
                return ids;
            }
        }
    }
}

#[track_caller]
fn assert_full(outcome: Result<Reply, StoreError>) {
    let error = outcome.expect_err("the store is full");
    assert!(!error.is_unavailable() && !error.is_corrupt(), "trying again does not help: {error}");
    let reason = std::error::Error::source(&error).expect("a reason").to_string();
    assert!(reason.contains("the memory store is full") && reason.contains("MemoryLimits"), "{reason}");
}

fn small(entries: usize, bytes: usize) -> MemoryStore {
    MemoryStore::with_limits(MemoryLimits { entries, bytes })
}

#[tokio::test(start_paused = true)]
async fn everything_that_expired_is_dropped_by_the_operations_that_follow() {
    let store = MemoryStore::new();
    for number in 0..1000 {
        let (id, commit) = creation(Some(&format!("user {}", number % 100)), 10);
        store.commit(&commit).await.unwrap();
        if number % 4 == 0 {
            store.commit(&self::commit(Action::Renew(id, id.successor(), Renewal::Keep))).await.unwrap();
        }
    }
    assert_eq!(store.usage().entries, 1000 + 1000 + 2 * 250);
    assert_eq!((store.len(), store.lock().lists.len()), (1000, 1000));
    advance(TOMBSTONE_LIFETIME).await;
    let nobody = SessionId::random();
    let mut operations = 0;
    while store.usage() != MemoryUsage::default() {
        let before = store.usage().entries;
        store.load(&nobody).await.unwrap();
        assert!(before - store.usage().entries <= 32, "a step is small");
        operations += 1;
        assert!(operations < 200, "{:?}", store.usage());
    }
    assert_eq!(store.lock().lists.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_visitors_leaves_no_more_than_what_is_alive() {
    let store = MemoryStore::new();
    let mut most = 0;
    for _ in 0..60_000 {
        store.commit(&creation(None, 10).1).await.unwrap();
        most = most.max(store.usage().entries);
        advance(Duration::from_millis(1)).await;
    }
    // 10 s of sessions, 20 s of replies, and what one step may be behind.
    assert!(most <= 10_000 + 20_000 + 32, "{most}");
}

#[tokio::test(start_paused = true)]
async fn a_full_store_refuses_changes_and_still_reads_and_ends_sessions() {
    let store = MemoryStore::new();
    store.commit(&creation(Some("alice"), 100).1).await.unwrap();
    let one = store.usage().bytes;
    for store in [small(20, usize::MAX), small(usize::MAX, 10 * one)] {
        let ids = fill(&store, Some("alice")).await;
        assert!(ids.len() > 5);
        let mut write = commit(Action::Apply(ids[0]));
        write.changes.insert("more".to_owned(), Change::Set("1".into()));
        assert_full(store.commit(&write).await);
        assert_full(store.commit(&commit(Action::Renew(ids[0], ids[0].successor(), Renewal::Keep))).await);
        assert!(matches!(store.load(&ids[0]).await.unwrap(), Loaded::Alive(_)));
        assert_eq!(store.sessions_of(REALM, "alice").await.unwrap().len(), ids.len());
        advance(secs(8)).await;
        let lifetimes = Lifetimes { idle_timeout: secs(10), absolute_timeout: None };
        for id in &ids {
            store.touch(&Touch::new(*id, REALM, lifetimes)).await.unwrap();
        }
        advance(secs(8)).await;
        assert!(matches!(store.load(&ids[0]).await.unwrap(), Loaded::Alive(_)), "it was prolonged");
        let reply = store.commit(&commit(Action::Destroy(ids[0]))).await.unwrap();
        assert!(matches!(reply, Reply::Applied { .. }));
        let revocation = Revocation {
            id: CommitId::random(),
            realm: REALM.into(),
            principal: "alice".to_owned(),
            which: Revoke::All,
            deadline: Instant::now() + secs(5),
            remember: secs(20),
        };
        assert_eq!(store.revoke(&revocation).await.unwrap().ended, ids.len() - 1);
        assert!(matches!(store.load(&ids[1]).await.unwrap(), Loaded::Ended { .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_store_takes_sessions_again_when_others_have_expired() {
    let store = small(100, usize::MAX);
    let ids = fill(&store, None).await;
    advance(secs(25)).await;
    // The operation that finds it full sweeps too, as does each before it.
    assert!(matches!(store.load(&ids[0]).await.unwrap(), Loaded::Absent));
    let again = fill(&store, None).await;
    assert!(again.len() > 5, "{}", again.len());
}

#[tokio::test(start_paused = true)]
async fn a_refused_commit_writes_nothing_and_may_be_repeated_later() {
    let store = small(20, usize::MAX);
    let ids = fill(&store, None).await;
    let (id, late) = creation(None, 1);
    assert_full(store.commit(&late).await);
    assert_eq!(store.load(&id).await.unwrap(), Loaded::Absent);
    assert_eq!(store.len(), ids.len());
    advance(secs(25)).await;
    for _ in 0..4 {
        store.load(&id).await.unwrap();
    }
    let mut late = late;
    late.deadline = Instant::now() + secs(5);
    assert!(matches!(store.commit(&late).await.unwrap(), Reply::Applied { .. }));
}

#[tokio::test(start_paused = true)]
async fn what_is_counted_never_exceeds_the_limits() {
    let limits = MemoryLimits { entries: 200, bytes: 100_000 };
    let store = MemoryStore::with_limits(limits);
    let mut ids = Vec::new();
    for number in 0..5000_usize {
        let (id, creation) = creation((number % 3 == 0).then_some("alice"), number * 7 % 3000);
        let mut changes =
            commit(ids.get(number * 31 % ids.len().max(1)).map_or(creation.action.clone(), |id| match number % 4 {
                0 => Action::Renew(*id, id.successor(), Renewal::LogIn { principal: "bob".to_owned() }),
                _ => Action::Apply(*id),
            }));
        changes.changes.insert(format!("name {}", number % 20), Change::Set(vec![b'1'; number % 2000].into()));
        changes.changes.insert("counter".to_owned(), Change::Add(1));
        for commit in [creation, changes] {
            let _ = store.commit(&commit).await;
            let usage = store.usage();
            assert!(usage.entries <= limits.entries && usage.bytes <= limits.bytes, "{usage:?}");
        }
        ids.push(id);
        advance(Duration::from_millis(200)).await;
    }
    assert!(store.len() > 10, "some were taken all the time");
}
