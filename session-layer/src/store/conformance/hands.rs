//! Checks that need a hand inside the store or on its way there; they are no part of the macro.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::draft::{alive, apply, create, draft, load, start};
use crate::id::SessionId;
use crate::store::{Action, Loaded, Renewal, SessionStore, TOMBSTONE_LIFETIME};

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
    store.touch(&id).await.unwrap();
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
    store.touch(&id).await.unwrap();
    one_more("touch");
    let to = id.successor();
    draft(Action::Renew(id, to, Renewal::Keep)).applied(&store).await;
    one_more("renew");
    draft(Action::Destroy(to)).applied(&store).await;
    one_more("destroy");
    load(&store, &to).await;
    one_more("load a tombstone");
}
