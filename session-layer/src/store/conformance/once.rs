//! Versions, repetitions and deadlines: what a commit does, it does once and in time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::draft::{
    Draft, alive, all, apply, assert_ended, attributes, chain, create, create_with, draft, load, start,
};
use crate::id::SessionId;
use crate::store::{Action, Loaded, Renewal, Reply, SessionStore, Version};

/// No number is given twice.
pub async fn versions_rise_with_each_commit(store: Arc<impl SessionStore>) {
    let id = SessionId::random();
    let (mut last, _) = draft(Action::Create(id, start())).applied(&store).await;
    assert!(last > Version::default());
    for _ in 0..20 {
        let (next, _) = apply(id).applied(&store).await;
        assert!(next > last, "{next:?} after {last:?}");
        assert_eq!(alive(&store, &id).await.version, next);
        last = next;
    }
    for renewal in [Renewal::Keep, Renewal::Replace { start: start(), linked: true }] {
        let (mut from, mut to) = (id, id.successor());
        if !matches!(renewal, Renewal::Keep) {
            from = create(&store).await;
            to = from.successor();
            last = alive(&store, &from).await.version;
        }
        let (next, _) = draft(Action::Renew(from, to, renewal)).applied(&store).await;
        assert!(next > last, "{next:?} after {last:?}");
    }
}

/// What the request saw has been lost since: it must not build on that.
pub async fn a_session_older_than_seen_is_not_changed(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("a", "1")]).await;
    let version = alive(&store, &id).await.version;
    let newer = Version(version.0 + 1);
    assert_eq!(apply(id).set("a", "2").seen(newer).reply(&store).await, Reply::RolledBack);
    assert_eq!(
        draft(Action::Renew(id, id.successor(), Renewal::Keep)).seen(newer).reply(&store).await,
        Reply::RolledBack
    );
    assert_eq!(draft(Action::Destroy(id)).seen(newer).reply(&store).await, Reply::RolledBack);
    assert_eq!(apply(id).seen(Version(u64::MAX)).reply(&store).await, Reply::RolledBack);
    let record = alive(&store, &id).await;
    assert_eq!((record.attributes, record.version), (attributes(&[("a", "1")]), version));
    apply(id).set("a", "2").seen(version).applied(&store).await;
    apply(id).set("a", "3").seen(version).applied(&store).await;
}

/// A session that is asked to remember its versions names the last eight, in loads and in replies, also under a new ID; and none where
/// commits that did not ask came in between. A store may do without: then rollbacks are not noticed.
pub async fn a_history_names_the_last_eight_versions(store: Arc<impl SessionStore>) {
    let mut id = SessionId::random();
    let keeping = |action| {
        let mut draft = draft(action);
        draft.0.keep_history = true;
        draft
    };
    let mut versions: Vec<Version> = Vec::new();
    let mut actions = vec![Action::Create(id, start())];
    actions.extend((0..4).map(|_| Action::Apply(id)));
    let renewed = id.successor();
    actions.push(Action::Renew(id, renewed, Renewal::Keep));
    actions.extend((0..6).map(|_| Action::Apply(renewed)));
    for action in actions {
        id = *action.target().expect("no end among them");
        let reply = keeping(action).set("n", "1").reply(&store).await;
        let Reply::Applied { version, history, .. } = reply else { panic!("{reply:?}") };
        let loaded = alive(&store, &id).await.history;
        if loaded.is_empty() {
            return;
        }
        assert_eq!(history, versions);
        versions.push(version);
        versions.drain(..versions.len().saturating_sub(8));
        assert_eq!(loaded, versions);
    }
    let (between, _) = apply(id).set("n", "2").applied(&store).await;
    assert_eq!(alive(&store, &id).await.history, []);
    let reply = keeping(Action::Apply(id)).reply(&store).await;
    let Reply::Applied { version, history, .. } = reply else { panic!("{reply:?}") };
    assert_eq!(history, [between]);
    assert_eq!(alive(&store, &id).await.history, [between, version]);
    // Another session starts a history of its own.
    let other = id.successor();
    let replace = Renewal::Replace { start: start(), linked: false };
    let reply = keeping(Action::Renew(id, other, replace)).reply(&store).await;
    let Reply::Applied { version, history, .. } = reply else { panic!("{reply:?}") };
    assert_eq!(history, []);
    assert_eq!(alive(&store, &other).await.history, [version]);
}

/// A repetition of a commit whose answer was lost.
pub async fn a_commit_takes_effect_once(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("n", "1")]).await;
    let commit = apply(id).add("n", 1).set("a", "1");
    let first = commit.reply(&store).await;
    // Somebody else in between.
    apply(id).add("n", 10).set("a", "2").applied(&store).await;
    for _ in 0..3 {
        assert_eq!(commit.reply(&store).await, first);
    }
    assert_eq!(alive(&store, &id).await.attributes, attributes(&[("n", "12"), ("a", "2")]));
    // At the same time.
    let commit = apply(id).add("n", 100);
    let replies = all((0..8).map(|_| {
        let (store, commit) = (Arc::clone(&store), commit.clone());
        async move { commit.reply(&store).await }
    }));
    for reply in replies.await {
        assert!(matches!(&reply, Reply::Applied { counters, .. } if counters["n"] == 112), "{reply:?}");
    }
    assert_eq!(alive(&store, &id).await.attributes["n"], "112");
}

/// Whatever the action was, and although it could not be done again.
pub async fn a_repeated_commit_gets_its_first_reply(store: Arc<impl SessionStore>) {
    let id = SessionId::random();
    let to = id.successor();
    for commit in [
        draft(Action::Create(id, start())).set("a", "1"),
        apply(id).when("a", Some("1")).set("a", "2"),
        apply(id).when("b", None).set("b", "1").seen(Version(1)),
        draft(Action::Renew(id, to, Renewal::Keep)).add("n", 3),
        draft(Action::Destroy(to)),
    ] {
        let first = commit.reply(&store).await;
        assert!(matches!(first, Reply::Applied { .. }), "{first:?}");
        assert_eq!(commit.reply(&store).await, first);
    }
    assert_ended(&store, &id, Some(to)).await;
    assert_ended(&store, &to, None).await;
}

/// A copy of it may have been held up on its way, and its sender has been told no.
pub async fn a_commit_that_was_refused_stays_refused(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("n", "\"x\"")]).await;
    let add = apply(id).set("a", "1").add("n", 1);
    let compare = apply(id).set("a", "2").when("n", Some("1"));
    let is_no_counter = || Reply::NotACounter("n".into());
    let conflict = || Reply::Conflict { name: "n".into(), current: Some(Bytes::from_static(b"\"x\"")) };
    assert_eq!(add.reply(&store).await, is_no_counter());
    assert_eq!(compare.reply(&store).await, conflict());
    // Now both could be applied; but whoever sent them was told that they were not.
    apply(id).set("n", "1").applied(&store).await;
    assert_eq!(add.reply(&store).await, is_no_counter());
    assert_eq!(compare.reply(&store).await, conflict());
    assert_eq!(alive(&store, &id).await.attributes, attributes(&[("n", "1")]));
}

/// Whoever sent it has given up.
pub async fn a_commit_after_its_deadline_is_not_applied(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("a", "1")]).await;
    let late = |draft: Draft| async {
        let mut commit = draft.0;
        commit.deadline = Instant::now() - Duration::from_millis(5);
        store.commit(&commit).await.expect_err("it is late").is_unavailable()
    };
    let fresh = SessionId::random();
    assert!(late(apply(id).set("a", "2")).await);
    assert!(late(draft(Action::Renew(id, id.successor(), Renewal::Keep))).await);
    assert!(late(draft(Action::Destroy(id))).await);
    assert!(late(draft(Action::Create(fresh, start()))).await);
    assert_eq!(alive(&store, &id).await.attributes, attributes(&[("a", "1")]));
    assert_eq!(load(&store, &fresh).await, Loaded::Absent);
}

/// It was in time, its answer was not.
pub async fn an_applied_commit_is_known_after_its_deadline(store: Arc<impl SessionStore>) {
    let id = create(&store).await;
    let mut commit = apply(id).add("n", 1);
    let first = commit.reply(&store).await;
    commit.0.deadline = Instant::now() - Duration::from_millis(5);
    assert_eq!(commit.reply(&store).await, first);
}

/// Whoever repeats it so late has given up by then: its deadline comes first.
pub async fn a_commit_that_was_forgotten_is_not_applied_again(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("n", "1")]).await;
    let mut commit = apply(id).add("n", 1);
    commit.0.deadline = Instant::now() + Duration::from_millis(1500);
    commit.0.remember = Duration::from_millis(1600);
    commit.applied(&store).await;
    tokio::time::sleep(Duration::from_millis(1800)).await;
    // That it is known for longer is no mistake.
    match store.commit(&commit.0).await {
        Ok(reply) => assert!(matches!(reply, Reply::Applied { .. }), "{reply:?}"),
        Err(error) => assert!(error.is_unavailable(), "{}", chain(&error)),
    }
    assert_eq!(alive(&store, &id).await.attributes, attributes(&[("n", "2")]));
}
