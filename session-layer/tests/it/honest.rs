//! A 2xx means that the request's changes are in the store; anything else says why not.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::post;
use http::header;
use session_layer::{Limit, Session, SessionError};
use tower::ServiceExt;

use crate::fixture::Call::{Apply, Create, Destroy, Load, Renew};
use crate::fixture::{Answer, App, Browser, Call, Captured, Fault, TestStore, layer, minutes, setup, setup_with};

async fn with_session() -> (TestStore, Browser) {
    let (store, browser) = setup();
    browser.run("insert n 0; insert text \"x\"").await.expect(200);
    store.calls();
    (store, browser)
}

// What each failure says.

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_503_with_retry_after_and_nothing_of_the_handlers_answer() {
    let (store, browser) = with_session().await;
    for (call, ops) in [(Apply, "insert a 1"), (Renew, "cycle"), (Destroy, "log_out"), (Renew, "log_in alice")] {
        store.next(call, Fault::Hang);
        let answer =
            browser.run(&format!("header x-mine 1; status 201; get n; {ops}")).await.expect(503).without_cookie();
        assert_eq!(answer.headers[header::RETRY_AFTER], "1");
        assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
        assert!(!answer.headers.contains_key("x-mine") && answer.body.is_empty(), "{answer:?}");
        assert!(answer.error.is_some_and(|error| error.is_unavailable() && !error.is_refused()));
    }
    browser.run("get n; names").await.says("0 n,text");
}

#[tokio::test(start_paused = true)]
async fn a_load_that_fails_is_a_rejection_503_before_the_handler_runs() {
    let (store, browser) = with_session().await;
    store.next(Load, Fault::Hang);
    let answer = browser.run("panic").await.expect(503).without_cookie();
    assert_eq!(answer.headers[header::RETRY_AFTER], "1");
    assert!(answer.error.is_some_and(|error| error.is_unavailable()));
    store.expect_calls(&[Load]);
}

#[tokio::test]
async fn a_definite_no_of_the_store_is_503_at_once() {
    let (store, browser) = with_session().await;
    store.next(Apply, Fault::Refuse);
    let answer = browser.run("insert a 1").await.expect(503);
    let error = answer.error.unwrap();
    assert!(error.is_refused() && error.is_unavailable());
    assert_eq!(error.to_string(), "the session store refused");
    let source = std::error::Error::source(&error).expect("the store's own error");
    assert_eq!(source.to_string(), "the session store refused");
    store.expect_calls(&[Load, Apply]);
}

/// A store that refuses, out of memory for instance, meets every request; its reason is what an operator needs.
#[tokio::test(start_paused = true)]
async fn a_refusal_is_logged_with_its_reason_at_most_every_ten_seconds() {
    let log = Captured::begin();
    let (store, browser) = with_session().await;
    for _ in 0..30 {
        store.next(Apply, Fault::Refuse);
        browser.run("insert a 1").await.expect(503);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    let text = log.text();
    let lines: Vec<_> = text.lines().filter(|line| line.contains("WARN") && line.contains("store refused")).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines.iter().all(|line| line.contains("told to")), "{lines:?}");
    assert!(lines[2].contains("unreported=9"), "{lines:?}");
}

#[tokio::test]
async fn an_attribute_that_cannot_count_is_409_and_nothing_of_the_request_is_applied() {
    let (_, browser) = with_session().await;
    for ops in
        ["insert a 1; increment text; log_in alice", "increment text; insert a 1; flush", "insert a 1; increment text"]
    {
        let answer = browser.run(ops).await.expect(409).without_cookie();
        let error = answer.error.unwrap();
        assert!(error.is_not_a_counter() && !error.is_gone());
        assert!(answer.headers.get(header::RETRY_AFTER).is_none());
    }
    browser.lazy("increment text; insert a 1").await.expect(409);
    browser.run("names; principal; get text").await.says("n,text nobody \"x\"");
    // What the request itself set is refused at once.
    browser.run("insert a \"x\"; try increment a").await.says("409");
    browser.run("insert n 999999999999999999; increment n").await.expect(200);
    browser.run("increment n").await.expect(409);
}

#[tokio::test]
async fn limits_are_413_and_nothing_of_the_request_is_applied() {
    let (_, browser) = setup_with(|layer| layer.max_value_bytes(10).max_attributes(3).max_record_bytes(30));
    browser.run("insert a 1").await.expect(200);
    let limit = |answer: Answer| answer.expect(413).without_cookie().error.and_then(|error| error.limit().cloned());
    // A value, at once.
    browser.run("try insert b \"123456789\"; insert c \"12345678\"").await.says("413");
    browser.run("remove c").await.expect(200);
    let long = browser.lazy("insert b \"123456789\"").await;
    assert_eq!(limit(long), Some(Limit::Value("b".into())));
    // How many, and how much together, at commit.
    assert_eq!(limit(browser.run("insert b 1; insert c 1; insert d 1").await), Some(Limit::Attributes));
    assert_eq!(limit(browser.lazy("insert b 1; insert c 1; insert d 1").await), Some(Limit::Attributes));
    let much = "insert b \"12345678\"; insert c \"12345678\"; insert a \"12345678\"";
    assert_eq!(limit(browser.run(much).await), Some(Limit::Record));
    assert_eq!(limit(browser.run(&format!("{much}; flush")).await), Some(Limit::Record));
    browser.run("names").await.says("a");
    // A visitor, too.
    assert_eq!(limit(browser.other().run(much).await), Some(Limit::Record));
}

#[tokio::test]
async fn names_and_values_that_break_a_rule_are_422_at_once() {
    let (store, browser) = with_session().await;
    let name = "x".repeat(129);
    for ops in ["insert @a 1", "remove @a", "increment @a", "push @a 1", &format!("insert {name} 1"), "raw a {"] {
        browser.run(&format!("try {ops}")).await.says("422");
        browser.run(ops).await.expect(422);
    }
    for ops in ["insert @a 1", "remove @a", "increment @a", "raw a [1,", "raw a 1,2"] {
        browser.lazy(ops).await.expect(422);
    }
    store.calls();
    browser.run("names").await.says("n,text");
    let principal = "x".repeat(257);
    browser.run(&format!("try log_in {principal}; principal")).await.says("422 nobody");
}

#[tokio::test]
async fn an_outer_layer_finds_the_error_and_can_draw_a_page() {
    let (store, browser) = with_session().await;
    store.next(Apply, Fault::Refuse);
    let app = crate::fixture::ops().layer(layer(&store).build().unwrap()).layer(axum::middleware::map_response(
        |response: axum::response::Response| async {
            match response.extensions().get::<SessionError>() {
                Some(error) => (response.status(), format!("sorry: {error}")).into_response(),
                None => response,
            }
        },
    ));
    let answer = app.oneshot(browser.request("/run", "insert a 1")).await.unwrap();
    let answer = Answer::read(answer).await.expect(503);
    assert_eq!(answer.body, "sorry: the session store refused");
}

// Flushes.

#[tokio::test(start_paused = true)]
async fn a_failed_flush_replaces_an_answer_that_would_claim_success_but_no_other() {
    for (status, sent) in [(200, 503), (204, 503), (303, 503), (404, 404), (409, 409), (500, 500), (503, 503)] {
        let (store, browser) = with_session().await;
        store.next(Apply, Fault::Refuse);
        let answer = browser.run(&format!("insert a 1; try flush; status {status}")).await.expect(sent);
        assert_eq!(answer.error.is_some(), status < 400, "{status}");
        assert_eq!(answer.body, if status < 400 { "" } else { "503" });
        browser.run("names").await.says("n,text");
    }
}

#[tokio::test]
async fn changes_after_a_failed_flush_are_committed_if_the_handler_admits_the_failure() {
    let (store, browser) = with_session().await;
    store.next(Apply, Fault::Refuse);
    browser.run("insert a 1; try flush; get a; insert b 1; status 422").await.expect(422);
    browser.run("names").await.says("b,n,text");
    store.next(Apply, Fault::Refuse);
    browser.run("insert a 1; try flush; insert c 1").await.expect(503);
    browser.run("names").await.says("b,n,text");
}

#[tokio::test]
async fn what_was_flushed_stays_whatever_follows() {
    for ops in ["status 500", "status 408", "increment text", "insert lost 1; increment text; log_in alice"] {
        let (_, browser) = with_session().await;
        browser.run(&format!("insert a 1; flush; insert lost 1; {ops}")).await;
        browser.run("names; principal").await.says("a,n,text nobody");
    }
}

#[tokio::test]
async fn a_flush_shows_what_it_did() {
    let (_, browser) = with_session().await;
    browser.run("increment n 3; insert a 1; remove text; flush n a; get n; names").await.says("true 3 none 3 a,n");
    let visitor = browser.other();
    visitor.run("exists; increment n; flush n; exists; id; get n").await.expect(200).with_cookie();
    visitor.run("get n; increment n; flush n").await.says("1 2");
}

// Lost answers.

/// Sends `ops`, loses the answer of its `call` twice, and looks what became of it.
async fn applied_once(call: Call, ops: &str, expected: &str) {
    let (store, browser) = with_session().await;
    let browser = if call == Create { browser.other() } else { browser };
    let before = store.commits();
    store.next(call, Fault::LoseAnswer);
    store.next(call, Fault::LoseAnswer);
    browser.run(ops).await.expect(200);
    let after = store.commits();
    assert_eq!((after.0 - before.0, after.1 - before.1), (3, 1), "attempts, commit IDs: {ops}");
    browser.run("get n; names; principal").await.says(expected);
    assert_eq!(store.memory.len(), if call == Create { 2 } else { usize::from(call != Destroy) });
}

#[tokio::test(start_paused = true)]
async fn an_attempt_whose_answer_was_lost_is_repeated_and_takes_effect_once() {
    applied_once(Create, "increment n; insert a 1", "1 a,n nobody").await;
    applied_once(Create, "increment n; flush n", "1 n nobody").await;
    applied_once(Create, "log_in alice", "none  alice").await;
    applied_once(Apply, "increment n 5; remove text", "5 n nobody").await;
    applied_once(Apply, "increment n 5; flush n", "5 n,text nobody").await;
    applied_once(Apply, "add n", "1 n,text nobody").await;
    applied_once(Renew, "increment n; log_in alice", "1 n,text alice").await;
    applied_once(Renew, "cycle", "0 n,text nobody").await;
    applied_once(Renew, "log_out; increment n", "1 n nobody").await;
    applied_once(Destroy, "log_out", "none  nobody").await;
}

#[tokio::test(start_paused = true)]
async fn a_repeated_flush_gives_the_value_of_the_first_attempt() {
    let (store, browser) = with_session().await;
    let gate = store.hold(Apply);
    store.next(Apply, Fault::LoseAnswer);
    let slow = browser.start("increment n; flush n");
    gate.reached(1).await;
    // The other one is applied, loses its answer, and finds its own result again after the slow one has counted too.
    let lost = browser.start("increment n; flush n");
    crate::fixture::settle().await;
    gate.open();
    slow.await.unwrap().says("2");
    lost.await.unwrap().says("1");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_arrives_after_its_request_has_given_up_does_not_apply() {
    let (store, browser) = with_session().await;
    store.next(Apply, Fault::Late(crate::fixture::BUDGET + crate::fixture::millis(1)));
    browser.run("insert a 1").await.expect(503);
    tokio::time::sleep(minutes(1)).await;
    browser.run("names").await.says("n,text");
    // One that arrives in time but whose answer does not, is "not known to be applied".
    store.next(Apply, Fault::HangAfter);
    browser.run("insert a 1").await.expect(503);
    browser.run("names").await.says("a,n,text");
}

// Cookies follow what was applied.

#[tokio::test]
async fn a_session_that_a_flush_created_sends_its_cookie_with_any_answer() {
    for end in ["status 500", "status 404", "status 408", "increment text", "status 303"] {
        let (_, browser) = setup();
        browser.run(&format!("insert text \"x\"; insert a 1; flush; insert b 1; {end}")).await.with_cookie();
        let names = if end.contains("404") || end.contains("303") { "a,b,text" } else { "a,text" };
        browser.run("names").await.says(names);
    }
}

#[tokio::test]
async fn a_commit_that_fails_still_sends_the_cookie_of_what_was_flushed() {
    let (store, browser) = setup();
    store.next(Apply, Fault::Refuse);
    let answer = browser.run("insert a 1; flush; insert b 1").await.expect(503).with_cookie();
    assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
    browser.run("names").await.says("a");
}

#[tokio::test]
async fn a_handler_that_logs_in_and_then_fails_leaves_the_session_as_it_was() {
    for end in ["status 500", "status 503", "status 408"] {
        let (_, browser) = with_session().await;
        browser.run(&format!("insert a 1; log_in alice; {end}")).await.without_cookie();
        browser.run("names; principal").await.says("n,text nobody");
    }
}

#[tokio::test]
async fn a_handler_that_logs_out_and_then_fails_logs_nobody_out() {
    let (_, browser) = with_session().await;
    browser.run("log_in alice").await.expect(200);
    browser.run("log_out; status 500").await.without_cookie();
    browser.run("principal; names").await.says("alice n,text");
}

#[tokio::test]
async fn an_answer_4xx_commits_as_any_other() {
    let (_, browser) = with_session().await;
    browser.run("insert tries 1; status 401").await.expect(401);
    browser.run("get tries").await.says("1");
}

#[tokio::test]
async fn commit_when_decides_by_the_head() {
    let (_, browser) =
        setup_with(|layer| layer.commit_when(|head| head.status.is_success() != head.headers.contains_key("x-not")));
    browser.run("insert a 1; status 404").await.expect(404).without_cookie();
    browser.run("insert a 1; header x-not 1").await.expect(200).without_cookie();
    browser.run("insert a 1; header x-not 1; status 500").await.expect(500).with_cookie();
    browser.run("insert b 1").await.expect(200);
    browser.run("names").await.says("a,b");
}

#[tokio::test]
async fn commit_when_may_look_at_a_session_that_the_handler_put_into_its_answer() {
    async fn handler(session: Session) -> axum::response::Response {
        session.insert("a", 1).unwrap();
        let mut response = axum::response::Response::new(Body::empty());
        response.extensions_mut().insert(session);
        response
    }
    let (store, browser) = setup();
    let sessions = layer(&store)
        .commit_when(|head| head.extensions.get::<Session>().is_some_and(|session| session.names() == ["a"]))
        .build()
        .unwrap();
    let app = Router::new().route("/run", post(handler)).layer(sessions);
    // On a thread of its own: should it hang, then only that one.
    let request = browser.request("/run", "");
    let (done, answer) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        done.send(runtime.block_on(app.oneshot(request)).unwrap()).unwrap();
    });
    let answer = answer.recv_timeout(std::time::Duration::from_secs(20)).expect("no deadlock");
    assert!(answer.headers().contains_key(header::SET_COOKIE));
}

#[tokio::test]
async fn a_handler_that_fails_with_an_error_commits_nothing_and_the_error_passes_through() {
    let (store, browser) = with_session().await;
    let service = tower::service_fn(|request: http::Request<Body>| async move {
        let session = Session::from_extensions(request.extensions()).await.unwrap();
        session.insert("a", 1).unwrap();
        session.log_in("alice").unwrap();
        Err::<http::Response<Body>, _>("the inner service's own")
    });
    let service = tower::ServiceBuilder::new().layer(layer(&store).build().unwrap()).service(service);
    let error = service.oneshot(browser.request("/", "")).await.unwrap_err();
    assert_eq!(error, "the inner service's own");
    store.expect_calls(&[Load]);
    browser.run("names").await.says("n,text");
}

// Without a layer, or without a store.

#[tokio::test]
async fn a_route_without_the_layer_says_what_to_add() {
    let answer = crate::fixture::ops().oneshot(http::Request::post("/run").body(Body::empty()).unwrap()).await.unwrap();
    let answer = Answer::read(answer).await.expect(500);
    assert_eq!(answer.body, "no session in this request: add `.layer(SessionLayer)` around its route");
    assert!(answer.error.unwrap().is_missing_layer());
}

#[tokio::test]
async fn a_handler_can_go_on_without_the_store() {
    async fn handler(session: Result<Session, SessionError>) -> String {
        session.map_or_else(|error| format!("without: {error}"), |_| "with".to_owned())
    }
    let (store, browser) = with_session().await;
    store.next(Load, Fault::Refuse);
    let app = Router::new().route("/run", post(handler)).layer(layer(&store).build().unwrap());
    let answer = app.oneshot(browser.request("/run", "")).await.unwrap();
    Answer::read(answer).await.says("without: the session store refused").without_cookie();
}

#[tokio::test]
async fn a_store_that_panics_is_503() {
    use session_layer::store::{Commit, Listed, Loaded, Reply, Revocation, Revoked, SessionStore, StoreError};
    struct Panics;
    impl SessionStore for Panics {
        async fn load(&self, _: &session_layer::SessionId) -> Result<Loaded, StoreError> {
            Ok(Loaded::Absent)
        }
        async fn commit(&self, _: &Commit) -> Result<Reply, StoreError> {
            panic!("a bug in a store")
        }
        async fn sessions_of(&self, _: &str, _: &str) -> Result<Vec<Listed>, StoreError> {
            panic!("a bug in a store")
        }
        async fn revoke(&self, _: &Revocation) -> Result<Revoked, StoreError> {
            panic!("a bug in a store")
        }
        async fn touch(&self, _: &session_layer::store::Touch) -> Result<(), StoreError> {
            Ok(())
        }
    }
    let layer = session_layer::SessionLayer::builder(Panics).secret([1; 32]).build().unwrap();
    Browser::new(&App::new(layer)).run("insert a 1").await.expect(503).without_cookie();
}
