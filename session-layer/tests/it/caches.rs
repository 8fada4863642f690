//! What caches between the app and its visitors are told, and what they then do.

use std::collections::HashMap;
use std::sync::Mutex;

use axum::body::Body;
use http::{HeaderMap, HeaderName, Response, header};

use crate::fixture::{Answer, Browser, TestStore, setup, setup_with};

async fn with_session() -> (TestStore, Browser) {
    let (store, browser) = setup();
    browser.run("insert n 0").await.expect(200);
    store.calls();
    (store, browser)
}

/// What a route that runs `ops` and sets these headers itself tells caches: `Vary`, `Cache-Control`.
async fn told(ops: &str) -> (String, String) {
    let (_, browser) = with_session().await;
    let path = if ops.starts_with("lazy ") { "/lazy" } else { "/run" };
    let answer = browser.send(browser.request(path, ops.trim_start_matches("lazy "))).await;
    (answer.all(header::VARY).join(", "), answer.all(header::CACHE_CONTROL).join(", "))
}

#[tokio::test]
async fn what_was_read_from_a_session_is_kept_out_of_shared_caches() {
    let read = ("cookie".to_owned(), "no-store".to_owned());
    for ops in
        ["get n", "exists", "insert a 1", "lazy presented", "lazy increment n; flush n", "status 404", "status 500"]
    {
        assert_eq!(told(ops).await, read, "{ops}");
    }
    // "There is none" is an answer about the session as well.
    let (_, browser) = setup();
    let answer = browser.run("exists").await.says("false");
    assert_eq!(
        (&answer.headers[header::VARY], &answer.headers[header::CACHE_CONTROL]),
        (&"cookie".parse().unwrap(), &"no-store".parse().unwrap())
    );
    // What was only written says nothing about it.
    assert_eq!(told("lazy insert a 1").await, (String::new(), String::new()));
}

#[tokio::test]
async fn vary_is_merged_into_what_the_handler_says() {
    for (own, vary) in [
        ("accept-encoding", "accept-encoding, cookie"),
        ("cookie", "cookie"),
        ("accept,Cookie", "accept,Cookie"),
        ("*", "*"),
        ("x-cookie", "x-cookie, cookie"),
    ] {
        assert_eq!(told(&format!("header vary {own}; get n")).await.0, vary);
    }
}

#[tokio::test]
async fn a_handler_may_say_how_to_cache_what_it_read_unless_a_cookie_is_sent() {
    assert_eq!(told("header cache-control private; get n").await.1, "private");
    assert_eq!(told("header cache-control max-age=60; get n; insert a 1").await.1, "max-age=60");
    assert_eq!(told("header cache-control max-age=60; header cache-control public; cycle").await.1, "no-store");
    assert_eq!(told("header cache-control max-age=60; log_out").await.1, "no-store");
    let (_, browser) = setup();
    let answer = browser.lazy("header cache-control max-age=60; insert a 1").await.with_cookie();
    assert_eq!(answer.all(header::CACHE_CONTROL), ["no-store"]);
}

/// A shared cache in front of an app. It goes by the first of the headers that are meant for it, and by `Cache-Control` if there is
/// none (RFC 9213, section 2.2), and keeps one response for each value of the headers that `Vary` names.
struct Cache {
    targets: Vec<&'static str>,
    stored: Mutex<HashMap<String, Stored>>,
}

#[derive(Clone)]
struct Stored {
    /// What the request had in the headers that `Vary` names.
    varied: Vec<(String, Option<String>)>,
    headers: HeaderMap,
    body: String,
}

impl Stored {
    fn is_for(&self, request: &HeaderMap) -> bool {
        self.varied.iter().all(|(name, value)| text(request, name) == *value)
    }
}

/// All values of a header.
fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<_> = headers.get_all(name).iter().map(|value| value.to_str().expect("ASCII")).collect();
    (!values.is_empty()).then(|| values.join(","))
}

impl Cache {
    fn obeying(targets: &[&'static str]) -> Self {
        Self { targets: targets.to_vec(), stored: Mutex::default() }
    }

    fn may_store(&self, headers: &HeaderMap) -> bool {
        let said = self.targets.iter().chain(&["cache-control"]).find_map(|name| text(headers, name));
        match said {
            // `X-Accel-Expires` is a number of seconds.
            Some(said) if said.bytes().all(|b| b.is_ascii_digit()) => said != "0",
            Some(said) => said.contains("max-age=") && !said.contains("no-store") && !said.contains("private"),
            None => headers.contains_key(header::EXPIRES),
        }
    }

    async fn get(&self, browser: &Browser, ops: &str) -> Answer {
        let request = browser.request("/run", ops);
        let sent = request.headers().clone();
        let hit = self.stored.lock().unwrap().get(ops).filter(|stored| stored.is_for(&sent)).cloned();
        if let Some(Stored { headers, body, .. }) = hit {
            let mut response = Response::new(Body::from(body));
            *response.headers_mut() = headers;
            return Answer::read(response).await;
        }
        let answer = browser.send(request).await;
        if self.may_store(&answer.headers) {
            let vary = answer.all(header::VARY).join(",");
            let names = vary.split(',').map(str::trim).filter(|name| !name.is_empty());
            let varied = names.map(|name| (name.to_owned(), text(&sent, name))).collect();
            let stored = Stored { varied, headers: answer.headers.clone(), body: answer.body.clone() };
            self.stored.lock().unwrap().insert(ops.to_owned(), stored);
        }
        answer
    }
}

/// Headers that make some cache store what `Cache-Control` forbids it to.
const FOR_CACHES: &[(&str, &str)] = &[
    ("cdn-cache-control", "max-age=600"),
    ("cloudflare-cdn-cache-control", "max-age=600"),
    ("vercel-cdn-cache-control", "max-age=600"),
    ("netlify-cdn-cache-control", "max-age=600"),
    ("surrogate-control", "max-age=600"),
    ("edge-control", "max-age=600"),
    ("x-accel-expires", "600"),
    ("x-litespeed-cache-control", "max-age=600"),
    ("my-own-cache-control", "max-age=600"),
    ("expires", "Fri,31-Dec-9999"),
    ("cache-control", "max-age=600"),
];

#[tokio::test]
async fn two_visitors_behind_a_cache_never_share_a_session() {
    for (name, value) in FOR_CACHES {
        let (_, alice) = setup();
        let cache = Cache::obeying(&[name]);
        let ops = format!("header {name} {value}; insert a 1");
        let bob = alice.other();
        for browser in [&alice, &bob] {
            let answer = cache.get(browser, &ops).await.expect(200).with_cookie();
            browser.receive(&answer);
        }
        assert_ne!(alice.cookie(), bob.cookie(), "{name}");
        let ids = [alice.run("id").await.body, bob.run("id").await.body];
        assert_ne!(ids[0], ids[1], "{name}");
    }
}

#[tokio::test]
async fn the_cache_of_these_tests_stores_what_it_may() {
    for (name, value) in FOR_CACHES {
        let (_, browser) = setup();
        let cache = Cache::obeying(&[name]);
        let ops = format!("header {name} {value}; created");
        // Nothing of the session is told; so the handler's word on caching holds.
        let asked = browser.send(browser.request("/untouched", "")).await;
        assert!(!cache.may_store(&asked.headers));
        let stored = cache.get(&browser, &ops).await.expect(200).body;
        if *name != "expires" {
            assert_eq!(cache.get(&browser, &ops).await.body, stored, "{name}");
        }
    }
}

#[tokio::test]
async fn every_cookie_of_the_layer_takes_the_headers_for_caches_away() {
    for ops in ["insert a 1", "insert a 1; cycle", "log_in alice", "insert a 1; flush; status 500"] {
        for (name, value) in FOR_CACHES {
            let (_, browser) = setup();
            let answer = browser.run(&format!("header {name} {value}; {ops}")).await.with_cookie();
            assert!(*name == "cache-control" || !answer.headers.contains_key(*name), "{ops}, {name}: {answer:?}");
            assert_eq!(answer.all(header::CACHE_CONTROL), ["no-store"], "{ops}, {name}");
        }
    }
    let (_, browser) = with_session().await;
    let answer = browser.run("header cdn-cache-control max-age=60; log_out").await.with_removal();
    assert!(!answer.headers.contains_key("cdn-cache-control"));
}

#[tokio::test]
async fn headers_for_caches_stay_where_no_cookie_is_sent() {
    let (_, browser) = with_session().await;
    for ops in ["get n", "insert a 1", "exists"] {
        let answer = browser.run(&format!("header cdn-cache-control max-age=60; {ops}")).await.without_cookie();
        assert_eq!(answer.all("cdn-cache-control"), ["max-age=60"], "{ops}");
        assert_eq!(answer.all(header::VARY), ["cookie"], "{ops}");
    }
}

#[tokio::test]
async fn a_header_that_the_app_must_keep_stays_beside_a_cookie() {
    let kept = HeaderName::from_static("surrogate-control");
    let (_, browser) = setup_with(|layer| layer.keep_cache_headers([kept]));
    let said = r#"content="ESI/1.0""#;
    let ops = format!("header surrogate-control {said}; header edge-control max-age=60; insert a 1");
    let answer = browser.run(&ops).await.with_cookie();
    assert_eq!(answer.all("surrogate-control"), [said]);
    assert!(!answer.headers.contains_key("edge-control"));
    assert_eq!(answer.all(header::CACHE_CONTROL), ["no-store"]);
}

#[tokio::test]
async fn the_freshness_token_is_a_cookie_as_well() {
    let (_, browser) = setup_with(|layer| layer.rollback_detection(true));
    browser.run("insert a 1").await.expect(200);
    let answer = browser.run("header cdn-cache-control max-age=60; insert a 2").await.with_cookie();
    assert!(answer.set_cookies()[0].starts_with("__Host-session-v="), "{answer:?}");
    assert!(!answer.headers.contains_key("cdn-cache-control"));
}
