//! P9: login, logout and revocation wait for a replica, and say so when none has them.

use session_layer::Sessions;
use tokio::time::sleep;

use crate::fixture::Call::{Create, Destroy, Load, Renew, Revoke};
use crate::fixture::{App, Browser, Fault, TestStore, layer, millis, settle, setup};

/// With the sessions of principals at hand.
fn setup_with_principals() -> (TestStore, Browser, Sessions) {
    let store = TestStore::default();
    let layer = layer(&store).build().expect("the settings are good");
    let sessions = layer.sessions();
    (store, Browser::new(&App::new(layer)), sessions)
}

#[tokio::test]
async fn logins_and_logouts_ask_for_a_replica_and_nothing_else_does() {
    let (store, browser) = setup();
    for (ops, durable) in [
        ("insert a 1", None),
        ("insert a 2; flush; remove a", None),
        ("cycle", None),
        ("log_in alice", Some(Renew)),
        ("insert a 3", None),
        ("cycle; insert a 4", None),
        // Somebody else's login, and a logout with a message, end a session.
        ("log_in bob", Some(Renew)),
        ("log_out; insert flash 1", Some(Renew)),
        ("log_out", Some(Destroy)),
        ("log_in alice", Some(Create)),
        ("destroy", Some(Destroy)),
    ] {
        browser.run(ops).await.expect(200);
        assert_eq!(store.durable(), Vec::from_iter(durable), "{ops}");
    }
}

#[tokio::test]
async fn what_no_replica_confirmed_is_503_with_the_cookie_of_what_was_applied() {
    let (store, browser) = setup();
    browser.run("insert a 1").await.expect(200);
    store.calls();
    store.next(Renew, Fault::Unconfirmed);
    let answer = browser.run("log_in alice; insert b 1").await.expect(503).with_cookie();
    assert!(answer.error.is_some_and(|error| error.is_not_durable()));
    // It was applied: there is nothing to try again.
    store.expect_calls(&[Load, Renew]);
    browser.run("principal; names").await.says("alice a,b");

    store.next(Destroy, Fault::Unconfirmed);
    let copy = browser.copy();
    let answer = browser.run("log_out").await.expect(503).with_removal();
    assert!(answer.error.is_some_and(|error| error.is_not_durable()));
    copy.run("exists").await.says("false");

    store.next(Create, Fault::Unconfirmed);
    browser.run("log_in alice").await.expect(503).with_cookie();
    browser.run("principal").await.says("alice");
}

#[tokio::test]
async fn a_revocation_that_no_replica_confirmed_says_so_and_is_applied() {
    let (store, browser, sessions) = setup_with_principals();
    browser.run("log_in alice").await.expect(200);
    store.calls();
    store.next(Revoke, Fault::Unconfirmed);
    assert!(sessions.revoke_all("alice").await.unwrap_err().is_not_durable());
    store.expect_calls(&[Revoke]);
    browser.run("exists").await.says("false");
    assert_eq!(sessions.revoke_all("alice").await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_lost_is_found_again_at_the_very_end_of_the_budget() {
    let (store, browser, sessions) = setup_with_principals();
    browser.run("insert n 0; log_in alice").await.expect(200);
    for call in [Renew, Revoke] {
        store.next(call, Fault::LoseAnswer);
        let request = async {
            match call {
                Renew => drop(browser.run("increment n; cycle").await.expect(200)),
                _ => assert_eq!(sessions.revoke_all("alice").await.unwrap(), 1, "as the first attempt ended"),
            }
        };
        let outage = async {
            settle().await;
            store.go_down();
            sleep(millis(4_500)).await;
            store.come_back();
        };
        tokio::join!(request, outage);
        if call == Renew {
            browser.run("get n; principal").await.says("1 alice");
        }
    }
    browser.run("exists").await.says("false");
}
