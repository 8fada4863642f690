//! More than one session layer around one handler.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{get, post};
use http::{StatusCode, header};
use session_layer::{Session, SessionError, SessionLayer};
use tower::ServiceExt;

use crate::fixture::Call::{Apply, Create, Destroy, Load, Renew};
use crate::fixture::{Answer, Browser, Captured, TestStore, layer, ops, setup};

async fn run(app: &Router, browser: &Browser, ops: &str) -> Answer {
    let answer = Answer::read(app.clone().oneshot(browser.request("/run", ops)).await.unwrap()).await;
    browser.receive(&answer);
    answer
}

/// Counts before the handler runs and after it.
async fn counting(session: Session, request: Request, next: Next) -> Result<Response, SessionError> {
    session.increment("before", 1)?;
    let response = next.run(request).await;
    session.increment("after", 1)?;
    Ok(response)
}

/// One layer around the handler and again around middleware that writes.
fn twice(store: &TestStore) -> Router {
    let sessions = layer(store).build().unwrap();
    ops().layer(sessions.clone()).layer(from_fn(counting)).layer(sessions)
}

#[tokio::test]
async fn one_layer_twice_is_one_session_one_commit_and_one_cookie() {
    let (store, browser) = setup();
    let app = twice(&store);
    run(&app, &browser, "insert a 1; get before").await.says("1").with_cookie();
    store.expect_calls(&[Create]);
    assert_eq!(store.memory.len(), 1);
    run(&app, &browser, "get a; get before; get after").await.says("1 2 1").without_cookie();
    store.expect_calls(&[Load, Apply]);
    run(&app, &browser, "insert a 2; flush; get a").await.says("2").without_cookie();
    store.expect_calls(&[Load, Apply, Apply]);
}

#[tokio::test]
async fn a_login_and_a_logout_inside_one_layer_twice_last() {
    let (store, browser) = setup();
    let app = twice(&store);
    run(&app, &browser, "insert a 1").await.expect(200);
    store.calls();
    run(&app, &browser, "log_in alice").await.expect(200).with_cookie();
    store.expect_calls(&[Load, Renew]);
    for _ in 0..2 {
        run(&app, &browser, "principal; get a").await.says("alice 1").without_cookie();
    }
    store.calls();
    let sessions = layer(&store).build().unwrap();
    let app = ops().layer(sessions.clone()).layer(sessions);
    run(&app, &browser, "log_out").await.expect(200).with_removal();
    store.expect_calls(&[Load, Destroy]);
    run(&app, &browser, "principal").await.says("nobody");
}

#[tokio::test]
async fn what_middleware_in_between_answers_decides_for_all() {
    let (store, browser) = setup();
    let sessions = layer(&store).build().unwrap();
    let fails = from_fn(async |request: Request, next: Next| {
        drop(next.run(request).await);
        StatusCode::INTERNAL_SERVER_ERROR
    });
    let app = ops().layer(sessions.clone()).layer(fails).layer(sessions);
    run(&app, &browser, "insert a 1").await.expect(500).without_cookie();
    store.expect_calls(&[]);
}

#[tokio::test]
async fn a_layer_around_part_of_an_app_and_around_all_of_it_is_one() {
    let (store, browser) = setup();
    let sessions = layer(&store).build().unwrap();
    let whole = ops().nest("/part", ops().layer(sessions.clone())).layer(sessions);
    run(&whole, &browser, "insert a 1").await.expect(200).with_cookie();
    let answer = whole.clone().oneshot(browser.request("/part/run", "get a; insert b 1")).await.unwrap();
    Answer::read(answer).await.says("1").without_cookie();
    run(&whole, &browser, "get b").await.says("1");
}

#[tokio::test]
async fn an_untouched_session_below_one_layer_twice_costs_nothing() {
    let (store, browser) = setup();
    let sessions = layer(&store).build().unwrap();
    let app = Router::new().route("/run", post(|| async {})).layer(sessions.clone()).layer(sessions);
    let answer = run(&app, &browser, "").await.expect(200).without_cookie();
    assert!(!answer.headers.contains_key(header::VARY));
    store.expect_calls(&[]);
}

#[tokio::test]
async fn a_request_made_of_an_answered_ones_extensions_is_a_new_request() {
    let (store, browser) = setup();
    let sessions = layer(&store).build().unwrap();
    let inner = ops().layer(sessions.clone());
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let keeps = post(move |request: Request| async move { sender.send(request).await.unwrap() });
    let app = Router::new().route("/run", keeps).layer(sessions);
    run(&app, &browser, "insert a 1").await.expect(200);
    let request = receiver.recv().await.unwrap();
    Answer::read(inner.oneshot(request).await.unwrap()).await.expect(200).with_cookie();
    assert_eq!(store.memory.len(), 1);
}

// Two different layers.

struct Admin;

const SHARED: &str = "__Host-shop";

fn shares(text: &str) -> bool {
    // Both are named by where they were built, and the one that has a kind by its kind.
    let places = text.matches("built at session-layer/tests/it/nested.rs:").count();
    text.contains(SHARED) && places == 2
}

#[tokio::test]
async fn two_layers_with_one_cookie_are_refused_before_they_set_it() {
    let (store, browser) = setup();
    let called = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let handler = {
        let called = Arc::clone(&called);
        move |session: Session| async move {
            called.store(true, std::sync::atomic::Ordering::Relaxed);
            session.insert("a", 1)
        }
    };
    let one: SessionLayer = layer(&store).cookie_name(SHARED).build().unwrap();
    let other: SessionLayer = layer(&store).cookie_name(SHARED).build().unwrap();
    let app = Router::new().route("/run", post(handler)).layer(one).layer(from_fn(counting)).layer(other);
    let log = Captured::begin();
    let answer = run(&app, &browser, "").await.expect(500).without_cookie();
    let error = answer.error.expect("outer layers can see it");
    assert!(error.is_shared_cookie() && shares(&error.to_string()), "{error}");
    let text = log.text();
    assert!(text.lines().any(|line| line.contains("ERROR") && shares(line)), "{text}");
    assert!(!called.load(std::sync::atomic::Ordering::Relaxed));
    store.expect_calls(&[]);
}

#[tokio::test]
async fn a_refused_request_commits_nothing_whatever_becomes_of_its_answer() {
    let (store, browser) = setup();
    let hides = from_fn(async |session: Session, request: Request, next: Next| {
        session.insert("a", 1).unwrap();
        drop(next.run(request).await);
        session.insert("b", 1).is_err().to_string()
    });
    let admin: SessionLayer<Admin> = layer(&store).cookie_name(SHARED).kind::<Admin>().build().unwrap();
    let outer = layer(&store).cookie_name(SHARED).commit_when(|_| true).build().unwrap();
    let app = ops().layer(admin).layer(hides).layer(outer);
    let answer = run(&app, &browser, "insert a 1").await.expect(500).without_cookie();
    let error = answer.error.unwrap();
    assert!(shares(&error.to_string()) && error.to_string().contains("SessionLayer<it::nested::Admin>"), "{error}");
    store.expect_calls(&[]);
}

#[tokio::test]
async fn a_layer_inside_another_kind_inside_itself_is_one() {
    async fn both(session: Session, admin: Session<Admin>) -> Result<String, SessionError> {
        admin.increment("n", 1)?;
        session.increment("n", 1)?;
        Ok(format!("{:?} {:?}", session.get::<u64>("n")?, admin.get::<u64>("n")?))
    }
    let (store, browser) = setup();
    let visitor = layer(&store).build().unwrap();
    let admin: SessionLayer<Admin> = layer(&store).cookie_name("__Host-admin").kind::<Admin>().build().unwrap();
    let app =
        Router::new().route("/run", post(both)).layer(admin.clone()).layer(visitor.clone()).layer(admin).layer(visitor);
    let answer = run(&app, &browser, "").await.says("Some(1) Some(1)");
    assert_eq!(answer.set_cookies().len(), 2);
    run(&app, &browser, "").await.says("Some(2) Some(2)").without_cookie();
}

#[tokio::test]
async fn inside_a_layer_its_own_sessions_are_meant_whatever_stands_between() {
    let (store, browser) = setup();
    let shop = layer(&store).build().unwrap();
    let forum = layer(&store).cookie_name("__Host-forum").build().unwrap();
    // Inside the forum's layer the shop's is meant again, since it is the innermost.
    let app = ops().layer(shop.clone()).layer(forum).layer(shop);
    let answer = run(&app, &browser, "insert a 1").await.expect(200).with_cookie();
    assert!(answer.set_cookies()[0].starts_with("__Host-session="), "{answer:?}");
}

#[tokio::test]
async fn layers_around_different_routes_may_share_a_name() {
    let store = TestStore::default();
    let part = || ops().layer(layer(&store).build().unwrap());
    let app = Router::new().nest("/one", part()).nest("/two", part()).route("/", get(|| async {}));
    let (_, browser) = setup();
    let answer = app.clone().oneshot(browser.request("/one/run", "insert a 1")).await.unwrap();
    browser.receive(&Answer::read(answer).await.expect(200).with_cookie());
    let answer = app.oneshot(browser.request("/two/run", "get a")).await.unwrap();
    Answer::read(answer).await.says("1");
}
