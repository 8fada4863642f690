//! P6: a copy of a session stands in for what the master has only where that shows nobody anything older than they were told.

use std::time::Duration;

use session_layer::SessionLayerBuilder;
use session_layer::store::MemoryStore;

use crate::fixture::{App, Browser, Call, TestStore, layer, minutes, settle};

const TOKEN: &str = "__Host-session-v";

fn setup_with(change: impl FnOnce(SessionLayerBuilder) -> SessionLayerBuilder) -> (TestStore, MemoryStore, Browser) {
    let mut store = TestStore::default();
    let replica = store.replica.insert(MemoryStore::new()).clone();
    let app = App::new(change(layer(&store)).build().expect("the settings are good"));
    (store, replica, Browser::new(&app))
}

fn setup() -> (TestStore, MemoryStore, Browser) {
    setup_with(|layer| layer)
}

/// Waits until the browser was told of its session long enough ago, and its token is accepted.
async fn until_settled(store: &TestStore, browser: &Browser) {
    // Those of the wall clock, which no test can stop.
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        store.calls();
        browser.run("").await.expect(200).without_cookie();
        if store.calls().contains(&Call::Copy) {
            return;
        }
    }
    panic!("no copy was asked for in five seconds");
}

/// A browser with `n` = 1 on the master and on the replica.
async fn settled() -> (TestStore, MemoryStore, Browser) {
    let (store, replica, browser) = setup();
    browser.run("insert n 1").await.expect(200);
    replica.fail_over_to(&store.memory);
    until_settled(&store, &browser).await;
    (store, replica, browser)
}

#[tokio::test]
async fn a_read_is_answered_from_a_copy_once_the_browser_was_told_a_second_ago() {
    let (store, replica, browser) = setup();
    assert_eq!(browser.run("insert n 1").await.expect(200).set_cookies().len(), 2, "the ID and the token");
    replica.fail_over_to(&store.memory);
    store.calls();
    browser.run("get n").await.says("1").without_cookie();
    store.expect_calls(&[Call::Load]);
    until_settled(&store, &browser).await;
    browser.run("get n").await.says("1").without_cookie();
    store.expect_calls(&[Call::Copy]);
    // A change is told, and for a while the master is asked again.
    browser.run("insert n 2").await.expect(200);
    store.calls();
    browser.run("get n").await.says("2");
    store.expect_calls(&[Call::Load]);
}

#[tokio::test]
async fn what_the_browser_was_told_is_never_older_whatever_the_copy_says() {
    let (store, replica, browser) = settled().await;
    browser.run("insert n 2").await.expect(200);
    until_settled(&store, &browser).await;
    browser.run("get n").await.says("2");
    store.expect_calls(&[Call::Copy, Call::Load]);
    replica.fail_over_to(&store.memory);
    browser.run("get n").await.says("2");
    store.expect_calls(&[Call::Copy]);
}

#[tokio::test]
async fn without_a_token_or_with_a_forged_one_the_master_is_asked() {
    let (store, _, browser) = settled().await;
    let good = browser.cookie_named(TOKEN).expect("it was told");
    let stranger = browser.other();
    stranger.run("insert n 0").await;
    let foreign = stranger.cookie_named(TOKEN).expect("it was told");
    for token in ["", "junk", &foreign, &format!("{}A", &good[..good.len() - 1]), &"A".repeat(good.len())] {
        browser.set_cookie(TOKEN, token);
        store.calls();
        browser.run("get n").await.says("1");
        store.expect_calls(&[Call::Load]);
        browser.forget_cookie(TOKEN);
        browser.run("get n").await.says("1");
        store.expect_calls(&[Call::Load]);
    }
}

#[tokio::test]
async fn what_is_not_among_the_copies_is_asked_of_the_master() {
    let (store, replica, browser) = settled().await;
    replica.fail_over_to(&MemoryStore::new());
    browser.run("get n").await.says("1");
    store.expect_calls(&[Call::Copy, Call::Load]);
}

#[tokio::test]
async fn what_a_copy_shows_is_told_so_that_no_older_one_follows() {
    let (store, replica, browser) = settled().await;
    let before = replica.replica();
    browser.copy().run("insert n 2").await.expect(200);
    replica.fail_over_to(&store.memory);
    store.calls();
    assert_eq!(browser.run("get n").await.says("2").set_cookies().len(), 1, "the token");
    store.expect_calls(&[Call::Copy]);
    replica.fail_over_to(&before);
    until_settled(&store, &browser).await;
    browser.run("get n").await.says("2");
    store.expect_calls(&[Call::Copy, Call::Load]);
}

#[tokio::test]
async fn who_is_strict_sees_what_the_master_has() {
    let (store, _, browser) = settled().await;
    // Another browser's change, which the copy lacks.
    browser.copy().run("insert n 2").await.expect(200);
    store.calls();
    browser.run("get n").await.says("1");
    store.expect_calls(&[Call::Copy]);
    for (path, calls) in [("/mixed", &[Call::Copy, Call::Load][..]), ("/strict", &[Call::Load])] {
        let answer = browser.send(browser.request(path, "get n")).await.says("2");
        assert_eq!(answer.set_cookies().len(), 1, "{path}: it is told");
        store.expect_calls(calls);
    }
}

#[tokio::test]
async fn a_layer_may_be_strict_as_a_whole_and_then_needs_no_token() {
    let (store, replica, browser) = setup_with(|layer| layer.strict(true));
    assert_eq!(browser.run("insert n 1").await.expect(200).set_cookies().len(), 1);
    replica.fail_over_to(&store.memory);
    store.calls();
    browser.run("get n").await.says("1");
    store.expect_calls(&[Call::Load]);
}

#[tokio::test]
async fn what_is_written_on_the_ground_of_a_copy_is_checked_against_the_master() {
    let (store, _, browser) = settled().await;
    // Another browser's changes, which the copy lacks.
    let other = browser.copy();
    other.run("insert n 5; insert m 5").await.expect(200);
    browser.run("increment n; add m; get n").await.says("6 6");
    until_settled(&store, &browser).await;
    other.run("log_out").await.expect(200);
    assert!(browser.run("insert n 7").await.expect(409).error.expect("why").is_gone());
    assert!(browser.run("log_out").await.expect(200).set_cookies().is_empty());
    assert_eq!(store.memory.len(), 0);
}

#[tokio::test]
async fn a_session_that_is_only_read_from_copies_is_prolonged_all_the_same() {
    let (store, replica, browser) = setup_with(|layer| layer.idle_timeout(minutes(30)).touch_interval(Duration::ZERO));
    browser.run("insert n 1").await.expect(200);
    replica.fail_over_to(&store.memory);
    until_settled(&store, &browser).await;
    settle().await;
    store.calls();
    browser.run("get n").await.says("1");
    settle().await;
    store.expect_calls(&[Call::Copy, Call::Touch]);
}

#[tokio::test]
async fn answers_that_come_in_either_order_are_followed_by_nothing_older() {
    for the_older_one_last in [true, false] {
        let (store, _, browser) = settled().await;
        // Another browser's change, which the copy lacks.
        browser.copy().run("insert n 2").await.expect(200);
        let gate = store.hold_answer(Call::Load);
        let reads = tokio::spawn(browser.send(browser.request("/strict", "get n")));
        gate.reached(1).await;
        let writes = browser.start("insert n 3").await.expect("it ends").expect(200);
        gate.open();
        let reads = reads.await.expect("it ends").says("2");
        let mut answers = [&reads, &writes];
        if the_older_one_last {
            answers.reverse();
        }
        for answer in answers {
            assert_eq!(answer.set_cookies().len(), 1, "each tells what it knows: {answer:?}");
            browser.receive(answer);
        }
        store.calls();
        browser.run("get n").await.says("3");
        // By then a replica has what the other answer did not tell.
        store.expect_calls(&[Call::Load]);
    }
}

#[tokio::test]
async fn what_is_lost_beyond_doubt_is_told_once_so_that_copies_will_do_again() {
    let (store, replica, browser) = settled().await;
    let before = store.memory.replica();
    browser.run("insert n 2").await.expect(200);
    // A failover that took the change.
    store.memory.fail_over_to(&before);
    replica.fail_over_to(&before);
    store.calls();
    browser.run("get n").await.says("1");
    store.expect_calls(&[Call::Load, Call::Confirm]);
    browser.run("get n").await.says("1");
    store.expect_calls(&[Call::Load]);
    until_settled(&store, &browser).await;
    browser.run("get n").await.says("1");
    store.expect_calls(&[Call::Copy]);
}

/// Where copies are switched on: nodes that have none yet, and tell of versions since the deploy before.
#[tokio::test]
async fn what_was_changed_on_a_node_that_detects_rollbacks_is_seen_on_one_that_has_copies() {
    let (store, _, browser) = settled().await;
    let mut without_copies = store.clone();
    without_copies.replica = None;
    let detecting = layer(&without_copies).rollback_detection(true).build().expect("the settings are good");
    browser.at(&App::new(detecting)).run("insert n 2").await.expect(200);
    browser.run("get n").await.says("2");
}

/// As if the master had been asked at once, also where somebody on the request's way was content with a copy.
#[tokio::test]
async fn who_is_strict_finds_that_a_session_has_ended_which_a_copy_still_shows() {
    for path in ["/strict", "/mixed"] {
        let (_, _, browser) = settled().await;
        browser.copy().run("log_out").await.expect(200);
        browser.run("ended; exists").await.says("false true");
        let strictly = |ops| browser.send(browser.request(path, ops));
        strictly("ended; exists").await.says("true false");
        strictly("insert n 2").await.expect(409).without_cookie();
        assert!(!strictly("log_in alice").await.expect(200).set_cookies().is_empty(), "{path}");
    }
}
