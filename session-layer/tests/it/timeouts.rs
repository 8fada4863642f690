//! How sessions end by themselves.

use std::time::Duration;

use tokio::time::advance;

use crate::fixture::{App, layer, millis, minutes, settle, setup, setup_with};

#[tokio::test(start_paused = true)]
async fn a_session_ends_after_its_idle_timeout_and_not_before() {
    let (store, browser) = setup();
    browser.run("insert a 1").await.expect(200);
    let copy = browser.copy();
    advance(minutes(30) - millis(1)).await;
    copy.run("exists").await.says("true");
    settle().await;
    // That was a request: thirty minutes more.
    advance(minutes(30) - millis(1)).await;
    browser.run("get a").await.says("1");
    settle().await;
    advance(minutes(30)).await;
    browser.run("exists; get a").await.says("false none").without_cookie();
    assert!(store.memory.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_store_counts_only_sessions_that_are_alive() {
    let (store, browser) = setup();
    for _ in 0..10 {
        browser.other().run("insert a 1").await.expect(200);
    }
    assert_eq!(store.memory.len(), 10);
    advance(minutes(31)).await;
    assert_eq!(store.memory.len(), 0);
    assert!(store.memory.is_empty());
}

#[tokio::test(start_paused = true)]
async fn reads_keep_a_session_alive() {
    let (_, browser) = setup();
    browser.run("insert a 1").await.expect(200);
    for _ in 0..20 {
        advance(minutes(29)).await;
        browser.run("get a").await.says("1").without_cookie();
        settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn blind_writes_keep_a_session_alive() {
    let (_, browser) = setup();
    browser.run("insert a 1").await.expect(200);
    for _ in 0..20 {
        advance(minutes(29)).await;
        browser.lazy("insert b 1").await.expect(200).without_cookie();
    }
    browser.run("get a").await.says("1");
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_after_its_absolute_timeout_however_busy_it_is() {
    let (store, browser) = setup();
    browser.run("insert a 1").await.expect(200);
    for _ in 0..71 {
        advance(minutes(10)).await;
        browser.run("get a; insert b 1").await.says("1");
    }
    browser.run("cycle").await.expect(200);
    advance(minutes(10)).await;
    browser.run("exists").await.says("false");
    assert!(store.memory.is_empty());
}

#[tokio::test(start_paused = true)]
async fn login_restarts_the_absolute_timeout() {
    let (_, browser) = setup();
    browser.run("insert a 1").await.expect(200);
    // Steps of ten minutes: login after eleven hours, twelve more from there.
    for step in 1..(11 + 12) * 6 {
        advance(minutes(10)).await;
        browser.run("get a; insert b 1").await.says("1");
        if step == 11 * 6 {
            browser.run("log_in alice").await.expect(200);
        }
    }
    advance(minutes(10)).await;
    browser.run("exists").await.says("false");
}

#[tokio::test(start_paused = true)]
async fn a_session_without_an_absolute_timeout_lives_as_long_as_it_is_used() {
    let (_, browser) = setup_with(|layer| layer.absolute_timeout(None));
    browser.run("insert a 1").await.expect(200);
    for _ in 0..200 {
        advance(minutes(20)).await;
        browser.run("get a; insert b 1").await.says("1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_touch_does_not_reach_beyond_the_absolute_timeout() {
    let (store, browser) = setup_with(|layer| layer.absolute_timeout(minutes(40)));
    browser.run("insert a 1").await.expect(200);
    advance(minutes(25)).await;
    browser.run("get a").await.says("1");
    settle().await;
    store.calls();
    // Only 15 minutes are left, whatever anybody does: nothing to prolong.
    advance(minutes(10)).await;
    browser.run("get a").await.says("1");
    settle().await;
    store.expect_calls(&[crate::fixture::Call::Load]);
    advance(minutes(5)).await;
    browser.run("exists").await.says("false");
}

#[tokio::test(start_paused = true)]
async fn a_changed_idle_timeout_reaches_a_session_at_its_next_commit() {
    let (store, browser) = setup();
    browser.run("insert a 1").await.expect(200);
    let with = |idle| App::new(layer(&store).idle_timeout(idle).build().unwrap());
    let (lowered, raised) = (with(minutes(5)), with(minutes(60)));
    advance(minutes(20)).await;
    browser.at(&lowered).run("insert b 1").await.expect(200);
    advance(minutes(4)).await;
    browser.at(&raised).run("insert b 2").await.expect(200);
    advance(minutes(59)).await;
    browser.at(&lowered).run("get b; insert b 3").await.says("2");
    advance(minutes(6)).await;
    browser.run("exists").await.says("false");
}

#[tokio::test(start_paused = true)]
async fn the_longest_timeouts_that_are_accepted_work() {
    // What cannot be added to a clock must be refused when the layer is built, not panic in a request.
    let century = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    let (_, browser) =
        setup_with(|layer| layer.idle_timeout(century).absolute_timeout(century).budget(minutes(5) - millis(1)));
    browser.run("insert a 1").await.expect(200);
    browser.run("get a; log_in alice").await.says("1");
}

#[test]
fn timeouts_that_no_clock_can_hold_are_refused() {
    let build = |change: fn(session_layer::SessionLayerBuilder) -> session_layer::SessionLayerBuilder| {
        change(layer(&Default::default())).build().map(|_| ()).map_err(|error| error.setting())
    };
    assert_eq!(build(|layer| layer.idle_timeout(Duration::MAX).absolute_timeout(None)), Err("idle_timeout"));
    assert_eq!(build(|layer| layer.absolute_timeout(Duration::MAX)), Err("absolute_timeout"));
    assert_eq!(build(|layer| layer.budget(Duration::MAX)), Err("budget"));
}
