//! Timeouts that a deploy raised or lowered: they reach the sessions that exist with the next request of each.

use std::time::Duration;

use session_layer::SessionLayerBuilder;
use tokio::time::advance;

use crate::fixture::Call::{Apply, Copy, Load, Touch};
use crate::fixture::{Answer, App, Browser, TestStore, layer, millis, minutes, settle};

/// What a request does that meets its session after the deploy.
const REQUESTS: [&str; 3] = ["reads", "writes", "writes blindly"];

async fn request(browser: &Browser, kind: &str) -> Answer {
    let answer = match kind {
        "reads" => browser.run("get a").await,
        "writes" => browser.run("insert b 1").await,
        _ => browser.lazy("insert b 1").await,
    };
    // The touch of a request that only reads is not waited for.
    settle().await;
    answer
}

type Change = fn(SessionLayerBuilder) -> SessionLayerBuilder;

/// A browser whose session began under one setting, and the same browser at a node with another one.
async fn deployed(old: Change, new: Change) -> (TestStore, Browser, Browser) {
    let store = TestStore::default();
    let [old, new] = [old, new].map(|change| App::new(change(layer(&store)).build().unwrap()));
    let browser = Browser::new(&old);
    browser.run("insert a 1").await.expect(200);
    store.calls();
    let at_new = browser.at(&new);
    (store, browser, at_new)
}

async fn is_alive(browser: &Browser) -> bool {
    let answer = browser.copy().run("exists").await.expect(200);
    settle().await;
    answer.body == "true"
}

/// Reads every five minutes for so long, and ends just before or after it.
async fn stays_busy(browser: &Browser, time: Duration) {
    let steps = time.as_secs() / 300;
    for _ in 0..steps {
        advance(minutes(5)).await;
        browser.run("get a").await.expect(200);
        settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_raised_idle_timeout_logs_out_nobody_who_only_reads() {
    let seconds = Duration::from_secs;
    let (_, _, at_new) =
        deployed(|layer| layer.idle_timeout(Duration::from_secs(4)), |layer| layer.idle_timeout(minutes(2))).await;
    for _ in 0..20 {
        advance(millis(500)).await;
        at_new.run("get a").await.says("1");
        settle().await;
    }
    advance(seconds(110)).await;
    at_new.run("get a").await.says("1");
}

#[tokio::test(start_paused = true)]
async fn a_raised_idle_timeout_counts_from_the_next_request_on() {
    for kind in REQUESTS {
        let (_, _, at_new) = deployed(|layer| layer, |layer| layer.idle_timeout(minutes(11 * 60))).await;
        advance(minutes(29)).await;
        request(&at_new, kind).await.expect(200);
        advance(minutes(11 * 60) - millis(1)).await;
        assert!(is_alive(&at_new).await, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lowered_idle_timeout_counts_from_the_next_request_on() {
    for kind in REQUESTS {
        for (waits, alive) in [(minutes(5) - millis(1), true), (minutes(5), false)] {
            let (_, _, at_new) = deployed(|layer| layer, |layer| layer.idle_timeout(minutes(5))).await;
            advance(minutes(29)).await;
            request(&at_new, kind).await.expect(200);
            advance(waits).await;
            assert_eq!(is_alive(&at_new).await, alive, "{kind}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_raised_absolute_timeout_counts_from_the_start() {
    for kind in REQUESTS {
        for raised in [Some(minutes(180)), None] {
            let new: Change = if raised.is_some() {
                |layer| layer.absolute_timeout(minutes(180))
            } else {
                |layer| layer.absolute_timeout(None)
            };
            let (_, browser, at_new) = deployed(|layer| layer.absolute_timeout(minutes(60)), new).await;
            stays_busy(&browser, minutes(55)).await;
            request(&at_new, kind).await.expect(200);
            stays_busy(&at_new, minutes(120)).await;
            advance(minutes(5) - millis(1)).await;
            assert!(is_alive(&at_new).await, "{kind}");
            advance(millis(1)).await;
            assert_eq!(is_alive(&at_new).await, raised.is_none(), "{kind}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lowered_absolute_timeout_counts_from_the_start() {
    for kind in REQUESTS {
        for old in [(|layer| layer) as Change, |layer| layer.absolute_timeout(None)] {
            let (_, browser, at_new) = deployed(old, |layer| layer.absolute_timeout(minutes(60))).await;
            stays_busy(&browser, minutes(30)).await;
            request(&at_new, kind).await.expect(200);
            stays_busy(&at_new, minutes(25)).await;
            advance(minutes(5) - millis(1)).await;
            assert!(is_alive(&at_new).await, "{kind}");
            advance(millis(1)).await;
            assert!(!is_alive(&at_new).await, "{kind}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_older_than_a_lowered_absolute_timeout_ends_when_next_used() {
    for (kind, status) in [("reads", 200), ("writes", 409), ("writes blindly", 200)] {
        let (store, browser, at_new) = deployed(|layer| layer, |layer| layer.absolute_timeout(minutes(60))).await;
        stays_busy(&browser, minutes(120)).await;
        // A blind write never saw it alive, and is a new visitor's.
        let answer = request(&at_new.copy(), kind).await.expect(status);
        assert_eq!(answer.set_cookies().len(), usize::from(kind == "writes blindly"));
        assert!(!is_alive(&browser).await, "{kind}");
        assert_eq!(store.memory.len(), answer.set_cookies().len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_counts_as_the_start_of_an_absolute_timeout_that_is_set_later() {
    let (_, browser, at_new) =
        deployed(|layer| layer.absolute_timeout(None), |layer| layer.absolute_timeout(minutes(60))).await;
    stays_busy(&browser, minutes(120)).await;
    browser.run("log_in alice").await.expect(200);
    stays_busy(&browser, minutes(30)).await;
    request(&at_new, "reads").await.says("1");
    stays_busy(&at_new, minutes(25)).await;
    advance(minutes(5)).await;
    assert!(!is_alive(&at_new).await);
}

#[tokio::test(start_paused = true)]
async fn a_changed_setting_costs_a_session_one_touch() {
    let (store, _, at_new) = deployed(|layer| layer, |layer| layer.idle_timeout(minutes(60))).await;
    for calls in [&[Load, Touch][..], &[Load], &[Load]] {
        at_new.run("get a").await.says("1");
        settle().await;
        store.expect_calls(calls);
    }
    // What is committed needs none.
    let (store, _, at_new) = deployed(|layer| layer, |layer| layer.idle_timeout(minutes(60))).await;
    at_new.run("insert b 1").await.expect(200);
    at_new.run("get b").await.says("1");
    settle().await;
    store.expect_calls(&[Load, Apply, Load]);
}

/// The session has what the last request's node says, and each change of nodes costs a touch.
#[tokio::test(start_paused = true)]
async fn while_nodes_disagree_the_last_request_decides() {
    let (store, at_old, at_new) = deployed(|layer| layer, |layer| layer.idle_timeout(minutes(120))).await;
    for _ in 0..3 {
        for browser in [&at_new, &at_old] {
            advance(minutes(1)).await;
            browser.run("get a").await.says("1");
            settle().await;
            store.expect_calls(&[Load, Touch]);
        }
    }
    at_new.run("get a").await.says("1");
    settle().await;
    advance(minutes(119)).await;
    at_old.run("get a").await.says("1");
    settle().await;
    advance(minutes(30)).await;
    assert!(!is_alive(&at_new).await);
}

#[tokio::test(start_paused = true)]
async fn a_persistent_cookie_lasts_as_long_as_the_changed_setting_says() {
    for kind in REQUESTS {
        let (_, _, at_new) = deployed(
            |layer| layer.persistent_cookie(true),
            |layer| layer.persistent_cookie(true).idle_timeout(minutes(60)),
        )
        .await;
        let answer = request(&at_new, kind).await.expect(200).with_cookie();
        assert!(answer.set_cookies()[0].ends_with("; Max-Age=3600"), "{kind}: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_with_the_old_timeouts_is_touched_too() {
    // The age of what a browser was told is that of the paused clock.
    let _followed = session_layer::test_util::clock::Followed::new();
    let mut store = TestStore::default();
    store.replica = Some(store.memory.clone());
    let old = App::new(layer(&store).build().unwrap());
    let new = App::new(layer(&store).idle_timeout(minutes(60)).build().unwrap());
    let browser = Browser::new(&old);
    browser.run("insert a 1").await.expect(200);
    tokio::time::advance(Duration::from_secs(3)).await;
    store.calls();
    browser.at(&new).run("get a").await.says("1");
    settle().await;
    store.expect_calls(&[Copy, Touch]);
    advance(minutes(59)).await;
    browser.at(&new).run("get a").await.says("1");
}
