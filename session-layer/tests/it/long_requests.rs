//! Requests that run longer than the idle timeout: their session stays alive until they are answered, and its idle timeout after that.

use std::time::Duration;

use tokio::time::advance;

use crate::fixture::Call::{Load, Touch};
use crate::fixture::{App, Browser, Fault, TestStore, layer, millis, minutes, settle};

const IDLE: Duration = Duration::from_secs(2);

/// A session with an idle timeout of two seconds.
async fn with_session() -> (TestStore, App, Browser) {
    let store = TestStore::default();
    let app = App::new(layer(&store).idle_timeout(IDLE).build().unwrap());
    let browser = Browser::new(&app);
    browser.run("insert a 1").await.expect(200);
    store.calls();
    (store, app, browser)
}

#[tokio::test(start_paused = true)]
async fn a_request_keeps_its_session_alive_however_long_it_runs() {
    for millis in [3_000, 10_000, 3_600_000] {
        for (ops, names) in
            [("", "a"), ("insert b 1", "a,b"), ("log_in alice", "a"), ("cycle", "a"), ("increment b; flush", "a,b")]
        {
            let (_, _, browser) = with_session().await;
            browser.run(&format!("get a; sleep {millis}; {ops}")).await.says("1");
            settle().await;
            browser.run("names").await.says(names);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_has_its_idle_timeout_left_when_a_long_request_ends() {
    for (length, waits, alive) in [
        (600, 1_999, "true"),
        (600, 2_000, "false"),
        (3_000, 1_999, "true"),
        (3_700, 1_999, "true"),
        (3_700, 2_000, "false"),
    ] {
        let (_, _, browser) = with_session().await;
        browser.run(&format!("get a; sleep {length}")).await.says("1");
        settle().await;
        advance(millis(waits)).await;
        browser.run("exists").await.says(alive);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_loaded_with_little_time_left_is_kept_alive() {
    let (_, _, browser) = with_session().await;
    advance(IDLE - millis(8)).await;
    browser.run("get a; sleep 10000; insert b 1").await.says("1");
    browser.run("names").await.says("a,b");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_a_flush_began_is_kept_alive() {
    let (_, _, browser) = with_session().await;
    let visitor = browser.other();
    visitor.run("insert a 1; flush; sleep 10000; insert b 1").await.expect(200).with_cookie();
    visitor.run("names").await.says("a,b");
}

#[tokio::test(start_paused = true)]
async fn touches_that_fail_are_made_again_in_time() {
    for fault in [Fault::Fail, Fault::Refuse, Fault::Hang] {
        let (store, _, browser) = with_session().await;
        store.next(Touch, fault.clone());
        store.next(Touch, fault);
        browser.run("get a; sleep 10000; insert b 1").await.says("1");
        browser.run("names").await.says("a,b");
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_request_does_not_outlast_the_absolute_timeout() {
    let store = TestStore::default();
    let app = App::new(layer(&store).idle_timeout(IDLE).absolute_timeout(Duration::from_secs(5)).build().unwrap());
    let browser = Browser::new(&app);
    browser.run("insert a 1").await.expect(200);
    browser.run("get a; sleep 4900; insert b 1").await.says("1");
    browser.run("get a; sleep 200; insert c 1").await.expect(409);
    assert!(store.memory.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_long_request_does_not_keep_a_session_from_being_ended() {
    let (store, app, browser) = with_session().await;
    let long = browser.start("get a; sleep 10000; hold long; insert b 1");
    settle().await;
    browser.copy().run("log_out").await.expect(200);
    app.gate("long").reached(1).await;
    app.gate("long").open();
    long.await.unwrap().expect(409).without_cookie();
    assert!(store.memory.is_empty());
}

/// It knows of no session: whether the cookie's is alive is found out when it commits.
#[tokio::test(start_paused = true)]
async fn a_long_request_that_has_loaded_nothing_prolongs_nothing() {
    let (store, _, browser) = with_session().await;
    browser.copy().lazy("sleep 3000").await.expect(200);
    store.expect_calls(&[]);
    browser.run("exists").await.says("false");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_takes_the_prolonging_along() {
    let (store, _, browser) = with_session().await;
    let long = browser.start("get a; sleep 3600000");
    tokio::time::sleep(IDLE * 3).await;
    assert!(store.calls().contains(&Touch));
    long.abort();
    assert!(long.await.unwrap_err().is_cancelled());
    settle().await;
    tokio::time::sleep(IDLE).await;
    store.calls();
    tokio::time::sleep(IDLE * 3).await;
    store.expect_calls(&[]);
    assert!(store.memory.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_request_prolongs_its_session_four_times_in_an_idle_timeout() {
    let store = TestStore::default();
    let browser = Browser::new(&App::new(layer(&store).build().unwrap()));
    browser.run("insert a 1").await.expect(200);
    for (time, touches) in [(millis(1), 0), (minutes(1), 0), (minutes(7), 1), (minutes(8), 2), (minutes(61), 9)] {
        tokio::time::sleep(minutes(2)).await;
        browser.run("get a").await.says("1");
        settle().await;
        store.calls();
        browser.run(&format!("get a; sleep {}", time.as_millis())).await.says("1");
        settle().await;
        let calls = store.calls();
        assert_eq!(calls[0], Load);
        assert_eq!(calls.iter().filter(|call| **call == Touch).count(), touches, "{time:?}");
    }
}
