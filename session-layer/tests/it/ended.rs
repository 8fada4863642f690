//! After a logout, an expiry or a renewal was acknowledged, nothing that is still in flight brings the old session back, under the
//! old ID or a new one.

use crate::fixture::Call::{Apply, Create, Destroy, Load, Renew};
use crate::fixture::{App, Browser, Call, TestStore, layer, settle};

async fn logged_in() -> (TestStore, App, Browser) {
    let store = TestStore::default();
    let app = App::new(layer(&store).build().unwrap());
    let browser = Browser::new(&app);
    browser.run("insert cart [1]; log_in alice").await.expect(200);
    store.calls();
    (store, app, browser)
}

/// The request has loaded, and has sent the call; the call is done after the logout was answered.
#[tokio::test]
async fn no_call_that_arrives_after_a_logout_brings_the_session_back() {
    let table: &[(&str, &str, Call, u16)] = &[
        ("run", "insert a 1", Apply, 409),
        ("run", "remove cart", Apply, 409),
        ("run", "increment a", Apply, 409),
        ("run", "insert a 1; flush", Apply, 409),
        ("run", "push cart 2", Apply, 409),
        ("run", "cycle", Renew, 409),
        ("run", "log_in alice", Renew, 409),
        ("run", "log_in bob", Renew, 409),
        ("run", "log_out; insert flash 1", Renew, 409),
        ("run", "log_out", Destroy, 200),
        ("lazy", "insert a 1", Apply, 409),
        ("lazy", "increment a; flush", Apply, 409),
        ("run", "get cart", Load, 200),
        ("run", "get cart; insert a 1", Load, 409),
    ];
    for (kind, ops, call, status) in table {
        let (store, _, browser) = logged_in().await;
        let gate = store.hold(*call);
        let late = if *kind == "run" { browser.start(ops) } else { browser.start_lazy(ops) };
        gate.reached(1).await;
        browser.copy().run("log_out").await.expect(200).with_removal();
        gate.open();
        late.await.unwrap().expect(*status).without_cookie();
        assert!(store.memory.is_empty(), "{kind} {ops}");
        browser.run("exists; principal").await.says("false nobody");
    }
}

/// The call took effect before the logout; only its answer comes after it.
#[tokio::test]
async fn an_answer_that_comes_after_a_logout_sets_no_cookie_over_its_removal() {
    for ops in ["insert a 1", "insert a 1; flush", "push cart 2", "get cart"] {
        let (store, _, browser) = logged_in().await;
        let gate = store.hold_answer(if ops == "get cart" { Load } else { Apply });
        let late = browser.start(ops);
        gate.reached(1).await;
        let out = browser.copy().run("log_out").await.expect(200).with_removal();
        browser.receive(&out);
        gate.open();
        let answer = late.await.unwrap().expect(200).without_cookie();
        browser.receive(&answer);
        assert!(browser.cookie().is_none() && store.memory.is_empty(), "{ops}");
    }
}

#[tokio::test]
async fn a_touch_does_not_prolong_a_tombstone_or_bring_a_session_back() {
    tokio::time::pause();
    let (store, _, browser) = logged_in().await;
    tokio::time::advance(crate::fixture::minutes(20)).await;
    let gate = store.hold(Call::Touch);
    browser.run("get cart").await.says("[1]");
    gate.reached(1).await;
    let late = browser.copy();
    browser.run("log_out").await.expect(200);
    gate.open();
    settle().await;
    assert!(store.memory.is_empty());
    late.run("exists").await.says("false");
    tokio::time::advance(crate::fixture::minutes(5)).await;
    // The tombstone has gone when it should: the ID is unknown now.
    late.run("insert a 1").await.expect(200).with_cookie();
}

#[tokio::test]
async fn a_write_between_flush_and_answer_meets_the_logout_too() {
    let (store, app, browser) = logged_in().await;
    let late = browser.start("insert a 1; flush; hold late; insert b 1");
    app.gate("late").reached(1).await;
    browser.copy().run("log_out").await.expect(200);
    app.gate("late").open();
    late.await.unwrap().expect(409).without_cookie();
    assert!(store.memory.is_empty());
}

#[tokio::test]
async fn a_renewal_leaves_one_session_whoever_was_faster() {
    for (first, second) in [("cycle", "cycle"), ("cycle", "log_in alice"), ("log_in alice", "cycle")] {
        let (store, app, browser) = logged_in().await;
        let late = browser.start(&format!("get cart; hold late; {second}"));
        app.gate("late").reached(1).await;
        browser.run(first).await.expect(200).with_cookie();
        app.gate("late").open();
        let answer = late.await.unwrap();
        browser.receive(&answer);
        assert_eq!(store.memory.len(), 1, "{first}, {second}");
        browser.run("principal; get cart").await.says("alice [1]");
    }
}

#[tokio::test]
async fn a_session_that_was_created_by_a_flush_can_be_logged_out_before_its_answer() {
    let (store, app, browser) = logged_in().await;
    let visitor = browser.other();
    let late = visitor.start("insert a 1; flush; hold late; insert b 1");
    app.gate("late").reached(1).await;
    assert_eq!(store.memory.len(), 2);
    app.gate("late").open();
    visitor.receive(&late.await.unwrap().expect(200).with_cookie());
    visitor.run("names").await.says("a,b");
    store.calls();
    visitor.run("log_out").await.expect(200).with_removal();
    store.expect_calls(&[Load, Destroy]);
    assert!(!store.calls().contains(&Create));
}

#[tokio::test]
async fn a_handler_that_reloads_and_finds_the_session_gone_cannot_write_to_it() {
    for change in ["insert a 1", "push cart 2", "cycle", "log_in alice", "log_out; insert flash 1"] {
        let (store, app, browser) = logged_in().await;
        let late = browser.start(&format!("get cart; hold late; reload; exists; get cart; {change}"));
        app.gate("late").reached(1).await;
        browser.copy().run("log_out").await.expect(200);
        app.gate("late").open();
        late.await.unwrap().expect(409).without_cookie();
        assert!(store.memory.is_empty(), "{change}");
    }
    // Reading and logging out are no writes.
    let (_, app, browser) = logged_in().await;
    let late = browser.start("get cart; hold late; reload; exists; get cart; principal; log_out");
    app.gate("late").reached(1).await;
    browser.copy().run("log_out").await.expect(200);
    app.gate("late").open();
    late.await.unwrap().says("[1] false false none nobody").without_cookie();
}
