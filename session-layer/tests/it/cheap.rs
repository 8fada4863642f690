//! What a request costs the store.

use axum::routing::get;
use axum::{Router, middleware};
use http::{Request, header};
use session_layer::{LazySession, Session, SessionError};
use tower::ServiceExt;

use crate::fixture::Call::{Apply, Create, Destroy, Load, Renew, Touch};
use crate::fixture::{Browser, TestStore, layer, minutes, settle, setup};

async fn with_session() -> (TestStore, Browser) {
    let (store, browser) = setup();
    browser.run("insert a 1").await.expect(200).with_cookie();
    store.calls();
    (store, browser)
}

#[tokio::test]
async fn an_untouched_session_costs_nothing() {
    let (store, browser) = with_session().await;
    let answer = browser.send(browser.request("/untouched", "")).await.expect(200).without_cookie();
    assert!(!answer.headers.contains_key(header::VARY) && !answer.headers.contains_key(header::CACHE_CONTROL));
    store.expect_calls(&[]);
}

#[tokio::test]
async fn an_anonymous_reader_costs_nothing_and_gets_no_cookie() {
    let (store, browser) = setup();
    browser.run("get a; names; exists; principal; id; created").await.expect(200).without_cookie();
    browser.lazy("presented").await.says("false").without_cookie();
    store.expect_calls(&[]);
    assert!(store.memory.is_empty());
}

#[tokio::test]
async fn changes_that_leave_nothing_create_no_session_for_a_visitor() {
    let (store, browser) = setup();
    for ops in ["remove a", "clear", "insert a 1; remove a", "insert a 1; clear", "cycle", "log_out", "flush"] {
        browser.run(ops).await.expect(200).without_cookie();
    }
    store.expect_calls(&[]);
}

#[tokio::test]
async fn a_forged_cookie_never_reaches_the_store() {
    let (store, browser) = with_session().await;
    let good = browser.cookie().unwrap();
    let mut forged = good.clone().into_bytes();
    let last = forged.len() - 10;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    for value in [String::from_utf8(forged).unwrap(), "A".repeat(good.len()), "x".repeat(8000), String::new()] {
        browser.set_cookie("__Host-session", &value);
        browser.run("get a; exists").await.says("none false").without_cookie();
        browser.lazy("presented").await.says("false").without_cookie();
    }
    store.expect_calls(&[]);
}

#[tokio::test]
async fn reading_is_one_load() {
    let (store, browser) = with_session().await;
    browser.run("get a; get b; names; id; principal; get a").await.expect(200).without_cookie();
    store.expect_calls(&[Load]);
}

#[tokio::test]
async fn writing_after_reading_is_one_commit_more() {
    let (store, browser) = with_session().await;
    browser.run("get a; insert b 2; insert c 3; remove a; increment n").await.expect(200).without_cookie();
    store.expect_calls(&[Load, Apply]);
}

#[tokio::test]
async fn a_blind_write_is_one_commit_alone() {
    let (store, browser) = with_session().await;
    browser.lazy("insert b 2; increment n; remove a").await.expect(200).without_cookie();
    store.expect_calls(&[Apply]);
    browser.run("names; get b; get n").await.says("b,n 2 1");
}

#[tokio::test]
async fn a_first_write_is_one_commit() {
    let (store, browser) = setup();
    browser.run("get a; insert a 1").await.expect(200).with_cookie();
    store.expect_calls(&[Create]);
    browser.other().lazy("insert a 1").await.expect(200).with_cookie();
    store.expect_calls(&[Create]);
}

#[tokio::test]
async fn a_flush_is_one_commit_and_the_answer_has_nothing_left_to_do() {
    let (store, browser) = with_session().await;
    browser.run("insert b 2; flush; get b").await.says("2");
    store.expect_calls(&[Load, Apply]);
    browser.run("flush; get b").await.says("2");
    store.expect_calls(&[Load]);
    browser.run("insert b 3; flush; insert b 4").await.expect(200);
    store.expect_calls(&[Load, Apply, Apply]);
}

#[tokio::test]
async fn login_and_logout_are_one_commit_each() {
    let (store, browser) = with_session().await;
    browser.run("insert b 2; log_in alice").await.expect(200).with_cookie();
    store.expect_calls(&[Load, Renew]);
    browser.run("log_out").await.expect(200).with_removal();
    store.expect_calls(&[Load, Destroy]);
}

#[tokio::test]
async fn middleware_extractors_and_spawned_tasks_share_one_load_and_one_commit() {
    async fn outer(
        session: Session,
        request: axum::extract::Request,
        next: middleware::Next,
    ) -> axum::response::Response {
        session.increment("seen", 1).unwrap();
        next.run(request).await
    }
    async fn handler(one: Session, two: Session, lazy: LazySession) -> Result<String, SessionError> {
        let three = one.clone();
        let spawned = tokio::spawn(async move {
            three.increment("seen", 1)?;
            three.get::<i64>("seen")
        });
        let seen = spawned.await.expect("no panic")?;
        lazy.increment("seen", 1)?;
        two.insert("b", 2)?;
        Ok(format!("{seen:?} {:?} {:?}", one.get::<i64>("seen")?, one.get::<i64>("b")?))
    }

    let (store, browser) = with_session().await;
    let app =
        Router::new().route("/", get(handler)).layer(middleware::from_fn(outer)).layer(layer(&store).build().unwrap());
    let cookie = format!("__Host-session={}", browser.cookie().unwrap());
    let request = Request::get("/").header(header::COOKIE, cookie).body(axum::body::Body::empty()).unwrap();
    let answer = crate::fixture::Answer::read(app.oneshot(request).await.unwrap()).await;
    answer.says("Some(2) Some(3) Some(2)");
    store.expect_calls(&[Load, Apply]);
}

#[tokio::test]
async fn extractors_that_load_at_the_same_time_share_one_load() {
    async fn handler(request: axum::extract::Request) -> String {
        let extensions = request.extensions().clone();
        let loads = (0..8).map(|_| {
            let extensions = extensions.clone();
            tokio::spawn(async move { Session::from_extensions(&extensions).await.unwrap().get::<i64>("a").unwrap() })
        });
        let mut sum = 0;
        for load in loads.collect::<Vec<_>>() {
            sum += load.await.unwrap().unwrap();
        }
        sum.to_string()
    }

    let (store, browser) = with_session().await;
    let gate = store.hold(Load);
    let app = Router::new().route("/run", axum::routing::post(handler)).layer(layer(&store).build().unwrap());
    let answer = tokio::spawn(app.oneshot(browser.request("/run", "")));
    gate.reached(1).await;
    settle().await;
    gate.open();
    crate::fixture::Answer::read(answer.await.unwrap().unwrap()).await.says("8");
    store.expect_calls(&[Load]);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_touched_only_when_more_than_the_touch_interval_is_gone() {
    let (store, browser) = with_session().await;
    // A twentieth of 30 minutes.
    tokio::time::advance(minutes(1)).await;
    browser.run("get a").await.says("1").without_cookie();
    settle().await;
    store.expect_calls(&[Load]);
    tokio::time::advance(minutes(1)).await;
    browser.run("get a").await.says("1").without_cookie();
    settle().await;
    store.expect_calls(&[Load, Touch]);
    browser.run("get a").await.says("1");
    settle().await;
    store.expect_calls(&[Load]);
}

#[tokio::test(start_paused = true)]
async fn a_write_prolongs_by_itself_and_is_not_touched_too() {
    let (store, browser) = with_session().await;
    tokio::time::advance(minutes(20)).await;
    browser.run("insert b 1").await.expect(200);
    settle().await;
    store.expect_calls(&[Load, Apply]);
    tokio::time::advance(minutes(20)).await;
    browser.run("get a").await.says("1");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_touch() {
    let (store, browser) = with_session().await;
    tokio::time::advance(minutes(20)).await;
    let gate = store.hold(Touch);
    let before = tokio::time::Instant::now();
    browser.run("get a").await.says("1");
    assert_eq!(before.elapsed(), std::time::Duration::ZERO);
    gate.reached(1).await;
    gate.open();
    settle().await;
    tokio::time::advance(minutes(20)).await;
    browser.run("get a").await.says("1");
}

#[tokio::test(start_paused = true)]
async fn a_touch_that_fails_disturbs_nobody() {
    let (store, browser) = with_session().await;
    tokio::time::advance(minutes(20)).await;
    store.next(Touch, crate::fixture::Fault::Fail);
    browser.run("get a").await.says("1").without_cookie();
    settle().await;
    browser.run("get a").await.says("1");
    settle().await;
    store.expect_calls(&[Load, Touch, Load, Touch]);
}

#[tokio::test(start_paused = true)]
async fn a_flush_prolongs_by_itself_and_is_not_followed_by_a_touch() {
    let (store, browser) = with_session().await;
    tokio::time::advance(minutes(20)).await;
    browser.run("insert b 1; flush; get b").await.says("1");
    settle().await;
    store.expect_calls(&[Load, Apply]);
}
