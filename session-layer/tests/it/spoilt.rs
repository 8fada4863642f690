//! What is stored is no session, or not the one that was seen; and failures that a handler has dealt with.

use crate::fixture::Call::{Apply, Load};
use crate::fixture::{Browser, Fault, TestStore, setup};

async fn with_session() -> (TestStore, Browser) {
    let (store, browser) = setup();
    browser.run("insert n 0; insert text \"x\"").await.expect(200);
    store.calls();
    (store, browser)
}

#[tokio::test]
async fn a_spoilt_session_is_no_session_and_login_works() {
    for ops in ["insert a 1", "log_in alice", "cycle; insert a 1", "log_out; insert a 1"] {
        let (store, browser) = with_session().await;
        store.next(Load, Fault::Corrupt);
        browser.run(&format!("exists; {ops}")).await.says("false").with_cookie();
        browser.run("exists").await.says("true");
    }
    let (store, browser) = with_session().await;
    store.next(Load, Fault::Corrupt);
    browser.run("exists; get n; log_out").await.says("false none").without_cookie();
}

#[tokio::test]
async fn a_blind_write_to_a_spoilt_session_starts_a_new_one() {
    let (store, browser) = with_session().await;
    store.next(Apply, Fault::Corrupt);
    browser.lazy("insert a 1").await.expect(200).with_cookie();
    browser.run("names").await.says("a");
}

#[tokio::test]
async fn a_session_that_was_spoilt_while_a_request_was_on_its_way_is_409() {
    let (store, browser) = with_session().await;
    store.next(Apply, Fault::Corrupt);
    let answer = browser.run("get n; insert a 1").await.expect(409).without_cookie();
    assert!(answer.error.is_some_and(|error| error.is_gone()));
}

#[tokio::test]
async fn a_session_that_a_failover_took_back_to_an_older_state_is_409() {
    use session_layer::store::{Loaded, SessionStore, Version};
    let (store, browser) = with_session().await;
    // This request saw a state that the store has lost since.
    let id = session_layer::SessionId::decode(&browser.run("id").await.body).unwrap();
    let Loaded::Alive(mut record) = store.memory.load(&id).await.unwrap() else { panic!("alive") };
    record.version = Version(record.version.0 + 1_000_000_000);
    store.next(Load, Fault::Answer(Loaded::Alive(record)));
    let answer = browser.run("get n; insert a 1").await.expect(409).without_cookie();
    assert!(answer.error.is_some_and(|error| error.is_gone()));
    browser.run("names").await.says("n,text");
}

// Failures that a handler has dealt with.

#[tokio::test(start_paused = true)]
async fn a_handler_that_has_dealt_with_a_failed_flush_answers_as_it_likes() {
    let (store, browser) = with_session().await;
    // The counter's place is taken: start it anew.
    browser.run("increment text; try flush; forgive; insert text 1; get text").await.says("409 1");
    browser.run("get text").await.says("1");
    store.next(Apply, Fault::Refuse);
    browser.run("insert a 1; try flush; forgive; get a").await.says("503 none").without_cookie();
    // Also one that it gave up itself.
    store.next(Apply, Fault::Hang);
    browser.run("insert a 1; flush_within 100; forgive; insert b 1").await.says("dropped");
    browser.run("names").await.says("b,n,text");
    // It forgives what was, not what comes.
    store.next(Apply, Fault::Refuse);
    browser.run("forgive; insert c 1; try flush").await.expect(503);
    store.next(Apply, Fault::Refuse);
    browser
        .run("increment n; insert x 1; try flush; forgive; insert c 1; increment text 0; flush text")
        .await
        .says("503 1");
    browser.run("names; get n").await.says("b,c,n,text 0");
}
