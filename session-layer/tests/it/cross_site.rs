//! Requests that another site started, whose cookie the browser may have held back.

use axum::body::Body;
use http::{HeaderValue, Method, Request};
use session_layer::{SameSite, SessionLayerBuilder};

use crate::fixture::Call::{Create, Renew};
use crate::fixture::{Answer, App, Browser, TestStore, layer, setup, setup_with};

const FORM: &[(&str, &str)] =
    &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];

fn of_site(mut request: Request<Body>, headers: &[(&'static str, &str)]) -> Request<Body> {
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
    }
    request
}

/// A form of another site posts to the app. The browser holds its cookie back, and keeps what the answer sets.
async fn post_from_elsewhere(browser: &Browser, path: &str, ops: &str) -> Answer {
    let answer = browser.send(of_site(browser.other().request(path, ops), FORM)).await;
    browser.receive(&answer);
    answer
}

#[tokio::test]
async fn a_form_of_another_site_does_not_log_the_visitor_out() {
    let (store, browser) = setup();
    browser.run("log_in alice").await.expect(200);
    store.calls();
    for (path, ops) in [
        ("/run", "insert a 1"),
        ("/run", "increment a"),
        ("/run", "destroy; insert farewell 1"),
        ("/run", "insert a 1; cycle"),
        ("/lazy", "insert a 1"),
    ] {
        let answer = post_from_elsewhere(&browser, path, ops).await.expect(403).without_cookie();
        assert!(answer.error.expect("outer layers can see it").is_cross_site(), "{ops}");
    }
    store.expect_calls(&[]);
    assert_eq!(store.memory.len(), 1);
    browser.run("principal").await.says("alice");
}

#[tokio::test]
async fn a_flush_in_such_a_request_fails_and_can_be_dealt_with() {
    let (store, browser) = setup();
    for ops in ["insert a 1; try flush; forgive", "try push list 1; forgive"] {
        post_from_elsewhere(&browser, "/run", ops).await.says("403").without_cookie();
    }
    post_from_elsewhere(&browser, "/run", "insert a 1; flush").await.expect(403).without_cookie();
    assert!(store.memory.is_empty());
}

#[tokio::test]
async fn reading_and_changes_that_leave_nothing_are_answered_as_usual() {
    let (store, browser) = setup();
    for ops in ["get a; exists; principal", "remove a", "insert a 1; remove a", "log_out", "clear"] {
        post_from_elsewhere(&browser, "/run", ops).await.expect(200).without_cookie();
    }
    store.expect_calls(&[]);
}

#[tokio::test]
async fn a_login_from_another_site_is_meant() {
    let (store, browser) = setup();
    post_from_elsewhere(&browser, "/run", "insert a 1; log_in alice").await.expect(200).with_cookie();
    store.expect_calls(&[Create]);
    browser.run("principal; get a").await.says("alice 1");
}

#[tokio::test]
async fn a_reset_from_another_site_is_meant() {
    let (store, browser) = setup();
    post_from_elsewhere(&browser, "/run", "reset; insert state 1").await.expect(200).with_cookie();
    store.expect_calls(&[Create]);
    browser.run("get state").await.says("1");
    post_from_elsewhere(&browser.other(), "/lazy", "reset; insert state 1").await.expect(200).with_cookie();
}

#[tokio::test]
async fn a_page_can_ask_first() {
    let (_, browser) = setup();
    post_from_elsewhere(&browser, "/run", "withheld").await.says("true").without_cookie();
    browser.run("withheld").await.says("false");
    let answer = post_from_elsewhere(&browser, "/lazy", "withheld").await.says("true");
    assert_eq!(answer.headers["vary"], "cookie");
}

#[tokio::test]
async fn the_setting_lets_such_a_request_start_a_session() {
    let (_, browser) = setup_with(|layer| layer.cross_site_start(true));
    post_from_elsewhere(&browser, "/run", "withheld; insert a 1").await.says("false").with_cookie();
    browser.run("get a").await.says("1");
}

#[tokio::test]
async fn a_cookie_that_came_along_shows_that_none_is_held_back() {
    let (store, browser) = setup();
    browser.run("insert a 1").await.expect(200);
    store.calls();
    // A browser of today would not send it; what counts is that it is there.
    let answer = browser.send(of_site(browser.request("/run", "log_in alice; insert b 1"), FORM)).await;
    browser.receive(&answer.expect(200));
    assert!(store.calls().contains(&Renew));
    // Its session has expired: a new one takes the place of a cookie that is known.
    let elsewhere = Browser::new(&App::new(layer(&TestStore::default()).build().unwrap()));
    elsewhere.set_cookie("__Host-session", &browser.cookie().unwrap());
    elsewhere.send(of_site(elsewhere.request("/run", "insert b 1"), FORM)).await.expect(200).with_cookie();
    // A value that nobody signed shows nothing.
    let junk = browser.other();
    junk.set_cookie("__Host-session", "junk");
    junk.send(of_site(junk.request("/run", "insert b 1"), FORM)).await.expect(403).without_cookie();
}

/// Which of these requests may start a session.
async fn starts(change: impl FnOnce(SessionLayerBuilder) -> SessionLayerBuilder) -> Vec<bool> {
    let requests: [(Method, &[(&str, &str)]); 8] = [
        (Method::POST, FORM),
        (Method::GET, FORM),
        (
            Method::GET,
            &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
        ),
        (Method::GET, &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")]),
        (Method::POST, &[("sec-fetch-site", "same-site")]),
        (Method::POST, &[("sec-fetch-site", "same-origin")]),
        (Method::GET, &[("sec-fetch-site", "none")]),
        (Method::POST, &[]),
    ];
    let (_, browser) = setup_with(change);
    let mut started = Vec::new();
    for (method, headers) in requests {
        let mut request = of_site(browser.request("/any", "insert a 1"), headers);
        *request.method_mut() = method;
        let answer = browser.send(request).await;
        assert!(answer.status == 200 || answer.status == 403, "{answer:?}");
        assert_eq!(answer.status == 200, !answer.set_cookies().is_empty(), "{answer:?}");
        started.push(answer.status == 200);
    }
    started
}

#[tokio::test]
async fn what_may_start_a_session_depends_on_same_site() {
    assert_eq!(starts(|layer| layer).await, [false, true, false, false, true, true, true, true]);
    let strict = starts(|layer| layer.same_site(SameSite::Strict)).await;
    assert_eq!(strict, [false, false, false, false, true, true, true, true]);
    assert_eq!(starts(|layer| layer.same_site(SameSite::None)).await, [true; 8]);
}
