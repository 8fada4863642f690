//! Cookies that outlive the browser: sent again by their own age.

use std::time::Duration;

use axum::Router;
use session_layer::SessionLayerBuilder;
use session_layer::store::MemoryStore;
use session_layer::test_util::clock::Followed;
use tokio::time::advance;

use crate::fixture::Call::{Apply, Copy};
use crate::fixture::{Fault, TestStore, Visitor, layer, millis, minutes, ops, settle};

const IDLE: Duration = Duration::from_secs(20);

fn app(store: &TestStore, change: impl FnOnce(SessionLayerBuilder) -> SessionLayerBuilder) -> Router {
    let layer = layer(store).idle_timeout(IDLE).persistent_cookie(true);
    Router::new().nest("/cart", ops()).layer(change(layer).build().expect("the settings are good"))
}

/// A visitor with `a` = 1.
async fn visitor(app: &Router) -> Visitor {
    let mut visitor = Visitor::default();
    visitor.run(app, "insert a 1").await.expect(200);
    visitor
}

/// Does something every 1.3 seconds for three idle timeouts, and expects the session to be there all the while.
async fn stays(app: &Router, mut visitor: Visitor, path: &str, what: &str) {
    for step in 0..47 {
        advance(millis(1_300)).await;
        visitor.send(app, path, what).await;
        settle().await;
        let answer = visitor.clone().run(app, "get a").await;
        assert_eq!(answer.body, "1", "{what}, {step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_visitor_who_writes_often_keeps_the_cookie() {
    let _clock = Followed::new();
    let app = app(&TestStore::default(), |layer| layer);
    for (path, what) in [
        ("/cart/run", "increment n"),
        ("/cart/run", "increment n; flush"),
        ("/cart/run", "add n"),
        ("/cart/run", "increment n; flush; status 500"),
        ("/cart/lazy", "increment n"),
        ("/cart/lazy", "increment n; flush n"),
        ("/cart/run", "get a"),
        ("/cart/run", "get a; status 404"),
    ] {
        stays(&app, visitor(&app).await, path, what).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_visitor_who_writes_all_the_time_keeps_the_cookie() {
    let _clock = Followed::new();
    let app = app(&TestStore::default(), |layer| layer.touch_interval(Duration::from_secs(19)));
    for path in ["/cart/run", "/cart/lazy"] {
        stays(&app, visitor(&app).await, path, "increment n").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_keeps_the_cookie_while_another_client_writes() {
    let _clock = Followed::new();
    let app = app(&TestStore::default(), |layer| layer);
    let mut reader = visitor(&app).await;
    let mut writer = reader.clone();
    for step in 0..60 {
        advance(Duration::from_secs(1)).await;
        writer.lazy(&app, "increment n").await.expect(200);
        assert_eq!(reader.run(&app, "get a").await.body, "1", "{step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_copies_keeps_the_cookie() {
    let _clock = Followed::new();
    let mut store = TestStore::default();
    let replica = store.replica.insert(MemoryStore::new()).clone();
    let app = app(&store, |layer| layer.idle_timeout(minutes(30)));
    let mut reader = visitor(&app).await;
    let mut copies = 0;
    for step in 0..100 {
        advance(Duration::from_secs(45)).await;
        replica.fail_over_to(&store.memory);
        assert_eq!(reader.run(&app, "get a").await.body, "1", "{step}");
        settle().await;
        copies += store.calls().iter().filter(|call| **call == Copy).count();
    }
    assert!(copies > 0, "copies were read");
}

#[tokio::test(start_paused = true)]
async fn a_cookie_is_sent_again_within_a_twentieth_of_its_time() {
    let _clock = Followed::new();
    let app = app(&TestStore::default(), |layer| layer.idle_timeout(minutes(30)));
    let mut visitor = visitor(&app).await;
    for _ in 0..5 {
        advance(Duration::from_secs(80)).await;
        for ops in ["get a", "insert b 1", "insert b 2; flush"] {
            visitor.run(&app, ops).await.expect(200).without_cookie();
        }
        visitor.lazy(&app, "insert b 3").await.expect(200).without_cookie();
        advance(Duration::from_secs(10)).await;
        let answer = visitor.run(&app, "get a").await.with_cookie();
        assert!(answer.set_cookies()[0].ends_with("; Max-Age=1800"), "{answer:?}");
        visitor.run(&app, "get a").await.expect(200).without_cookie();
    }
}

#[tokio::test(start_paused = true)]
async fn the_setting_reaches_a_browser_with_its_next_request() {
    let _clock = Followed::new();
    let store = TestStore::default();
    let [on, longer, off] = [
        app(&store, |layer| layer),
        app(&store, |layer| layer.idle_timeout(minutes(30))),
        app(&store, |layer| layer.persistent_cookie(false)),
    ];
    let mut visitor = visitor(&on).await;
    let mut check = async |app, ends: &str| {
        let answer = visitor.run(app, "get a").await.says("1").with_cookie();
        assert!(answer.set_cookies()[0].ends_with(ends), "{answer:?}");
        visitor.run(app, "get a").await.says("1").without_cookie();
        visitor.lazy(app, "insert b 1").await.expect(200).without_cookie();
    };
    check(&longer, "; Max-Age=1800").await;
    check(&off, "; Secure").await;
    check(&on, "; Max-Age=20").await;
}

#[tokio::test(start_paused = true)]
async fn no_cookie_is_kept_for_more_than_400_days() {
    let century = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    let app = app(&TestStore::default(), |layer| layer.idle_timeout(century).absolute_timeout(None));
    let mut visitor = Visitor::default();
    let answer = visitor.run(&app, "insert a 1").await.with_cookie();
    assert!(answer.set_cookies()[0].ends_with("; Max-Age=34560000"), "{answer:?}");
    visitor.run(&app, "get a").await.says("1").without_cookie();
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ended_meanwhile_sends_no_cookie_again() {
    let _clock = Followed::new();
    let store = TestStore::default();
    let app = app(&store, |layer| layer);
    for (path, ops, status) in [
        ("/cart/run", "insert b 1; sleep 10", 409),
        ("/cart/run", "insert b 1; sleep 10; try flush", 409),
        ("/cart/run", "insert b 1; sleep 10; try flush; forgive", 200),
        ("/cart/run", "sleep 10; reload", 200),
        ("/cart/lazy", "insert b 1; sleep 10", 409),
    ] {
        let mut late = visitor(&app).await;
        let mut elsewhere = late.clone();
        advance(Duration::from_secs(2)).await;
        let answer = {
            let app = app.clone();
            tokio::spawn(async move { late.send(&app, path, ops).await })
        };
        settle().await;
        elsewhere.run(&app, "log_out").await.expect(200);
        let answer = answer.await.unwrap();
        assert!(answer.set_cookies().is_empty(), "{ops}: {answer:?}");
        assert_eq!(answer.status, status, "{ops}: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_without_answer_sends_no_cookie_again() {
    let _clock = Followed::new();
    let store = TestStore::default();
    let app = app(&store, |layer| layer);
    let mut visitor = visitor(&app).await;
    advance(Duration::from_secs(2)).await;
    store.next(Apply, Fault::Refuse);
    visitor.run(&app, "insert b 1").await.expect(503).without_cookie();
    visitor.run(&app, "get a").await.says("1").with_cookie();
}
