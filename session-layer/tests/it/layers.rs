//! Where the layer goes among others: each row of the table at `SessionLayer`, its right way and its wrong way.

use axum::Router;
use axum::middleware::{self, Next};
use axum::response::Response;
use http::{StatusCode, header};
use session_layer::{Session, SessionError, SessionLayer};
use tokio::time::Instant;
use tower::ServiceExt;
use tower::limit::ConcurrencyLimitLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::cors::CorsLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;

use crate::fixture::Call::Create;
use crate::fixture::{Answer, Browser, Captured, Fault, Gate, TestStore, layer, millis, ops, settle, setup};

fn sessions() -> (TestStore, Browser, SessionLayer) {
    let (store, browser) = setup();
    let layer = layer(&store).build().unwrap();
    (store, browser, layer)
}

async fn run(app: &Router, browser: &Browser, ops: &str) -> Answer {
    let answer = Answer::read(app.clone().oneshot(browser.request("/run", ops)).await.unwrap()).await;
    browser.receive(&answer);
    answer
}

// Timeout: inside.

fn timeout() -> TimeoutLayer {
    TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, millis(500))
}

#[tokio::test(start_paused = true)]
async fn a_timeout_inside_cuts_a_handler_off_and_nothing_is_committed() {
    let (store, browser, sessions) = sessions();
    let app = ops().layer(timeout()).layer(sessions);
    run(&app, &browser, "insert a 1; sleep 60000").await.expect(408).without_cookie();
    store.expect_calls(&[]);
    // The commit has its own time.
    store.next(Create, Fault::Delay(millis(2_000)));
    let started = Instant::now();
    run(&app, &browser, "insert a 1").await.expect(200).with_cookie();
    assert!(started.elapsed() >= millis(2_000));
    run(&app, &browser, "get a").await.says("1");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_outside_cuts_off_the_answer_of_a_commit_that_is_applied() {
    let (store, browser, sessions) = sessions();
    let app = ops().layer(sessions).layer(timeout());
    store.next(Create, Fault::Delay(millis(2_000)));
    // The client is told that nothing happened, and gets no cookie for what did.
    run(&app, &browser, "insert a 1").await.expect(408).without_cookie();
    tokio::time::sleep(millis(3_000)).await;
    assert_eq!(store.memory.len(), 1);
}

// Catch-panic: inside.

#[tokio::test]
async fn a_panic_caught_inside_commits_nothing_and_a_cookie_for_what_was_flushed_goes_out() {
    let (store, browser, sessions) = sessions();
    let app = ops().layer(CatchPanicLayer::new()).layer(sessions);
    run(&app, &browser, "insert a 1; panic").await.expect(500).without_cookie();
    assert!(store.memory.is_empty());
    run(&app, &browser, "insert a 1; flush; insert b 1; panic").await.expect(500).with_cookie();
    run(&app, &browser, "names").await.says("a");
}

#[tokio::test]
async fn a_panic_caught_outside_loses_the_cookie_of_what_was_flushed() {
    let (store, browser, sessions) = sessions();
    let app = ops().layer(sessions).layer(CatchPanicLayer::new());
    run(&app, &browser, "insert a 1; panic").await.expect(500).without_cookie();
    assert!(store.memory.is_empty());
    run(&app, &browser, "insert a 1; flush; panic").await.expect(500).without_cookie();
    assert_eq!(store.memory.len(), 1, "a session that nobody can reach");
}

// CORS: outside.

async fn failing_cross_origin(app: &Router, browser: &Browser) -> Answer {
    let mut request = browser.request("/run", "insert a 1");
    request.headers_mut().insert(header::ORIGIN, "https://shop.example".parse().unwrap());
    Answer::read(app.clone().oneshot(request).await.unwrap()).await.expect(503)
}

#[tokio::test]
async fn cors_outside_lets_a_page_read_the_503_of_this_layer() {
    let (store, browser, sessions) = sessions();
    let app = ops().layer(sessions).layer(CorsLayer::permissive());
    store.next(Create, Fault::Refuse);
    let answer = failing_cross_origin(&app, &browser).await;
    assert_eq!(answer.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
}

#[tokio::test]
async fn cors_inside_leaves_the_503_of_this_layer_without_its_headers() {
    let (store, browser, sessions) = sessions();
    let app = ops().layer(CorsLayer::permissive()).layer(sessions);
    store.next(Create, Fault::Refuse);
    let answer = failing_cross_origin(&app, &browser).await;
    assert!(!answer.headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
}

// Compression: either.

#[tokio::test]
async fn compression_goes_on_either_side() {
    async fn long(session: Session) -> Result<String, SessionError> {
        session.insert("a", 1)?;
        Ok("text ".repeat(1000))
    }
    let (store, browser, _) = sessions();
    let routes = || Router::new().route("/run", axum::routing::post(long));
    let sessions = || layer(&store).build().unwrap();
    for app in [
        routes().layer(CompressionLayer::new()).layer(sessions()),
        routes().layer(sessions()).layer(CompressionLayer::new()),
    ] {
        let request = || {
            let mut request = browser.request("/run", "");
            request.headers_mut().insert(header::ACCEPT_ENCODING, "gzip".parse().unwrap());
            request
        };
        let response = app.clone().oneshot(request()).await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
        let vary: Vec<_> =
            response.headers().get_all(header::VARY).iter().map(|value| value.to_str().unwrap()).collect();
        assert!(vary.contains(&"cookie") && vary.contains(&"accept-encoding"), "{vary:?}");
        store.next(Create, Fault::Refuse);
        let answer = Answer::read(app.clone().oneshot(request()).await.unwrap()).await.expect(503);
        assert!(!answer.headers.contains_key(header::CONTENT_ENCODING) && answer.body.is_empty(), "{answer:?}");
    }
}

// Trace: outside.

/// What is logged about the commit of a first write.
async fn logged(app: &Router, browser: &Browser) -> String {
    let log = Captured::begin();
    run(app, browser, "insert a 1").await.expect(200).with_cookie();
    let text = log.text();
    text.lines().find(|line| line.contains("session created")).expect("the commit is logged").to_owned()
}

#[tokio::test]
async fn tracing_outside_has_the_commits_events_in_the_requests_span() {
    let (_, browser, sessions) = sessions();
    let app = ops().layer(sessions).layer(TraceLayer::new_for_http());
    let line = logged(&app, &browser).await;
    assert!(line.contains("request{method=POST"), "{line}");
}

#[tokio::test]
async fn tracing_inside_has_the_commits_events_outside_the_requests_span() {
    let (_, browser, sessions) = sessions();
    let app = ops().layer(TraceLayer::new_for_http()).layer(sessions);
    let line = logged(&app, &browser).await;
    assert!(!line.contains("request{"), "{line}");
}

// Concurrency limit: outside.

/// Whether a second request's handler runs while the first one is committing.
async fn second_runs_during_commit(add: impl FnOnce(Router, SessionLayer) -> Router) -> bool {
    let (store, browser, sessions) = sessions();
    let ran = Gate::default();
    let handler = {
        let ran = ran.clone();
        move |session: Session| async move {
            ran.pass().await;
            session.insert("a", 1)
        }
    };
    // As `axum::serve` does: otherwise each request gets its own copy of the layers, and so of the limit.
    let app: Router = add(Router::new().route("/run", axum::routing::post(handler)), sessions).with_state(());
    let committing = store.hold(Create);
    ran.open_for(2);
    let first = tokio::spawn(app.clone().oneshot(browser.request("/run", "")));
    committing.reached(1).await;
    let second = tokio::spawn(app.oneshot(browser.request("/run", "")));
    settle().await;
    let running = tokio::time::timeout(millis(10), ran.reached(2)).await.is_ok();
    committing.open();
    for request in [first, second] {
        assert_eq!(request.await.unwrap().unwrap().status(), 200);
    }
    running
}

#[tokio::test(start_paused = true)]
async fn a_concurrency_limit_outside_counts_the_commit_and_one_inside_does_not() {
    let limit = || ConcurrencyLimitLayer::new(1);
    assert!(!second_runs_during_commit(|routes, sessions| routes.layer(sessions).layer(limit())).await);
    assert!(second_runs_during_commit(|routes, sessions| routes.layer(limit()).layer(sessions)).await);
}

// from_fn: inside.

async fn counting(session: Session, request: axum::extract::Request, next: Next) -> Result<Response, SessionError> {
    session.increment("seen", 1)?;
    Ok(next.run(request).await)
}

#[tokio::test]
async fn middleware_inside_uses_the_session() {
    let (_, browser, sessions) = sessions();
    let app = ops().layer(middleware::from_fn(counting)).layer(sessions);
    run(&app, &browser, "get seen").await.says("1").with_cookie();
    run(&app, &browser, "get seen").await.says("2");
}

#[tokio::test]
async fn middleware_outside_is_told_that_there_is_no_session() {
    let (_, browser, sessions) = sessions();
    let app = ops().layer(sessions).layer(middleware::from_fn(counting));
    let answer = run(&app, &browser, "get seen").await.expect(500);
    assert!(answer.error.unwrap().is_missing_layer());
}
