//! Checks that need a hand inside the store or on its way there; they are no part of the macro.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::draft::{
    REALM, alive, apply, assert_ended, create, draft, handles, listed, load, log_in, login, pause, revoke, somebody,
    start, touch,
};
use crate::id::SessionId;
use crate::store::{AboveLimit, Action, Loaded, Renewal, Revoke, SessionStore, TOMBSTONE_LIFETIME};

/// "Not found" would start a new session over a live one. `fail` makes the next read fail.
pub async fn a_failed_read_is_never_absent(store: Arc<impl SessionStore>, fail: impl FnOnce()) {
    let id = create(&store).await;
    fail();
    let failed = store.load(&id).await;
    assert!(failed.is_err(), "{failed:?}");
    alive(&store, &id).await;
}

/// Nobody knows what became of it. `drop_answer` has the next commit be applied and its answer be lost; then a repetition of the
/// commit is told what the first one did.
pub async fn a_dropped_answer_is_never_success(store: Arc<impl SessionStore>, drop_answer: impl FnOnce()) {
    let id = create(&store).await;
    let commit = apply(id).add("n", 1);
    drop_answer();
    let dropped = store.commit(&commit.0).await;
    assert!(dropped.is_err(), "{dropped:?}");
    let (_, counters) = commit.applied(&store).await;
    assert_eq!(counters, BTreeMap::from([("n".into(), 1)]));
}

/// It would keep an ended session's ID occupied for good. `pass` lets time pass.
pub async fn a_touch_does_not_prolong_a_tombstone(store: Arc<impl SessionStore>, pass: impl AsyncFn(Duration)) {
    let id = create(&store).await;
    draft(Action::Destroy(id)).applied(&store).await;
    pass(TOMBSTONE_LIFETIME / 2).await;
    touch(&store, &id).await;
    pass(TOMBSTONE_LIFETIME / 2 + Duration::from_secs(1)).await;
    assert_eq!(load(&store, &id).await, Loaded::Absent);
}

/// Load, commit and touch go there and back once each. `count` tells how many round trips the store has made so far.
pub async fn every_call_is_one_round_trip(store: Arc<impl SessionStore>, count: impl Fn() -> u64) {
    let id = SessionId::random();
    let mut before = count();
    let mut one_more = |what: &str| {
        let now = count();
        assert_eq!(now - before, 1, "{what}");
        before = now;
    };
    draft(Action::Create(id, start())).set("a", "1").applied(&store).await;
    one_more("create");
    load(&store, &id).await;
    one_more("load");
    apply(id).set("a", "2").add("n", 1).when("a", Some("1")).applied(&store).await;
    one_more("apply");
    touch(&store, &id).await;
    one_more("touch");
    let to = id.successor();
    draft(Action::Renew(id, to, Renewal::Keep)).applied(&store).await;
    one_more("renew");
    draft(Action::Destroy(to)).applied(&store).await;
    one_more("destroy");
    load(&store, &to).await;
    one_more("load a tombstone");
}

/// A server that evicts keys may take a list, and others may delete one or write something else there. `lose` makes that happen to
/// the list of a principal in a realm; afterwards nobody is listed there.
pub async fn a_lost_list_is_whole_again_after_a_commit_or_touch(
    store: Arc<impl SessionStore>,
    lose: impl AsyncFn(&str, &str),
) {
    let alice = somebody();
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(log_in(&store, alice).await);
        pause().await;
    }
    lose(REALM, alice).await;
    assert_eq!(listed(&store, alice).await, []);
    // In another order than that of the logins, which stays.
    touch(&store, &sessions[2]).await;
    apply(sessions[1]).set("a", "1").applied(&store).await;
    let renewed = sessions[0].successor();
    draft(Action::Renew(sessions[0], renewed, Renewal::Keep)).applied(&store).await;
    assert_eq!(listed(&store, alice).await, handles(&[renewed, sessions[1], sessions[2]]));
    lose(REALM, alice).await;
    // A login counts those that are listed. The next one after all are back keeps the limit again.
    let most = |id| draft(login(id, alice)).at_most(3, AboveLimit::EvictOldest);
    let [fourth, fifth] = [SessionId::random(), SessionId::random()];
    most(fourth).applied(&store).await;
    pause().await;
    for id in [sessions[2], renewed, sessions[1]] {
        touch(&store, &id).await;
    }
    assert_eq!(listed(&store, alice).await, handles(&[renewed, sessions[1], sessions[2], fourth]));
    most(fifth).applied(&store).await;
    assert_eq!(listed(&store, alice).await, handles(&[sessions[2], fourth, fifth]));
    // While it is gone, a session can be ended by itself, and is not listed again.
    lose(REALM, alice).await;
    draft(Action::Destroy(fourth)).applied(&store).await;
    for id in [sessions[2], fourth, fifth] {
        touch(&store, &id).await;
    }
    assert_eq!(revoke(&store, alice, Revoke::All).await, 2);
    for id in [sessions[2], fourth, fifth] {
        assert_ended(&store, &id, None).await;
    }
}
