//! The page: what a person sees, with and without JavaScript.

use std::collections::HashSet;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};

use super::client::Cluster;

#[tokio::test]
async fn six_refreshes_meet_both_servers_in_turn_and_one_session() {
    let mut browser = Cluster::new().browser();
    let mut seen = HashSet::new();
    for (visit, server) in ["1111", "2222"].into_iter().cycle().take(6).enumerate() {
        let page = browser.get("/").await.with_status(StatusCode::OK);
        assert!(page.body.contains(&format!("This is server {server}")), "{}", page.body);
        assert_eq!(page.header("x-served-by"), Some(server));
        assert_eq!(page.visits(), visit as i64 + 1);
        assert_eq!(page.set_cookie().is_some(), visit == 0, "only the first visit sets a cookie");
        seen.insert((page.session_id().to_owned(), page.created_on().to_owned()));
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
}

#[tokio::test]
async fn the_page_shows_what_the_tutorials_page_shows() {
    let mut browser = Cluster::new().browser();
    let page = browser.get("/").await;
    for text in [
        r#"<th scope="row">Session ID</th>"#,
        r#"<th scope="row">Created on</th>"#,
        "Address <code>10.0.0.1</code>, port <code>8080</code>",
        "<code>alice</code> with password <code>wonderland</code>",
        "<code>bob</code> with password <code>builder</code>",
    ] {
        assert!(page.body.contains(text), "no {text} in {}", page.body);
    }
    assert_eq!(
        page.session_id(),
        browser.session().await["session_id"],
        "the ID of a first visit is the one that is kept"
    );
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
}

#[tokio::test(flavor = "multi_thread")]
async fn visits_at_the_same_time_all_count() {
    let cluster = Cluster::new();
    let mut browser = cluster.browser();
    browser.get("/").await;
    let visits = (0..50).map(|turn| {
        let mut browser = browser.clone();
        browser.turn = turn;
        tokio::spawn(async move { browser.get("/").await.visits() })
    });
    let mut values = HashSet::new();
    for visit in visits.collect::<Vec<_>>() {
        assert!(values.insert(visit.await.unwrap()), "a visit was counted twice under one number");
    }
    assert_eq!(browser.get("/").await.visits(), 52);
}

#[tokio::test]
async fn the_strip_shows_the_servers_of_the_last_20_visits() {
    let mut browser = Cluster::new().browser();
    for visit in 1..=23 {
        let page = browser.get("/").await;
        let strip = page.between("<ol class=\"strip\"", "</ol>");
        assert_eq!(strip.matches("<li").count(), visit.min(20));
        let last = if visit % 2 == 1 { ">1111</li>" } else { ">2222</li>" };
        assert!(strip.trim_end().ends_with(last), "{strip}");
    }
    assert_eq!(browser.get("/").await.visits(), 24, "the strip is cut, the count is not");
}

#[tokio::test]
async fn attributes_are_set_and_removed_without_javascript() {
    let mut browser = Cluster::new().browser();
    browser.get("/").await;
    let form = "name=colour&value=sea+green";
    let answer = browser.post("/attributes", form).await.with_status(StatusCode::SEE_OTHER);
    assert_eq!(answer.header("location"), Some("/"));
    browser.post("/attributes", "name=answer&value=42").await.with_status(StatusCode::SEE_OTHER);
    let page = browser.get("/").await;
    assert!(page.body.contains("<code>&#34;sea green&#34;</code>"), "{}", page.body);
    assert_eq!(browser.session().await["attributes"]["answer"], 42, "what is JSON stays JSON");

    let answer = browser.post("/attributes/remove", "name=colour").await.with_status(StatusCode::SEE_OTHER);
    assert_eq!(answer.header("location"), Some("/"));
    let page = browser.get("/").await;
    assert!(!page.body.contains("colour") && page.body.contains("answer"), "{}", page.body);
    browser.post("/attributes/remove", "name=colour").await.with_status(StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_form_that_cannot_be_carried_out_is_answered_by_a_page() {
    let mut browser = Cluster::new().browser();
    browser.get("/").await;
    let long = format!("name={}&value=1", "x".repeat(2000));
    let large = format!("name=large&value={}", "x".repeat(100_000));
    for (form, status) in [
        ("name=&value=1", StatusCode::UNPROCESSABLE_ENTITY),
        ("name=%00&value=1", StatusCode::UNPROCESSABLE_ENTITY),
        (long.as_str(), StatusCode::UNPROCESSABLE_ENTITY),
        ("value=1", StatusCode::UNPROCESSABLE_ENTITY),
        (large.as_str(), StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let answer = browser.post("/attributes", form).await.with_status(status);
        assert!(answer.body.starts_with("<!doctype html>") && answer.body.contains(status.as_str()), "{}", answer.body);
    }
    assert_eq!(browser.get("/").await.with_status(StatusCode::OK).visits(), 2);
}

#[tokio::test]
async fn names_and_values_are_text_and_never_markup() {
    let mut browser = Cluster::new().browser();
    let evil = "name=%3Cscript%3Ealert(1)%3C%2Fscript%3E&value=%22%3E%3Cimg+src%3Dx+onerror%3Dalert(1)%3E";
    browser.post("/attributes", evil).await.with_status(StatusCode::SEE_OTHER);
    let page = browser.get("/").await.with_status(StatusCode::OK);
    assert!(page.body.contains("alert(1)") && !page.body.contains("<script>") && !page.body.contains("<img src=x"));
}

#[tokio::test]
async fn no_page_holds_inline_script_or_style_or_anything_from_elsewhere() {
    let mut browser = Cluster::new().browser();
    let pages = [
        browser.get("/").await,
        browser.log_in("alice", "wrong").await.with_status(StatusCode::UNAUTHORIZED),
        browser.get("/nowhere").await.with_status(StatusCode::NOT_FOUND),
    ];
    for page in pages {
        let body = page.body.to_lowercase();
        for inline in ["<style", " style=", "javascript:", "<base", "http://", "https://", "//cdn"] {
            assert!(!body.contains(inline), "{inline} in {body}");
        }
        assert!(!body.match_indices(" on").any(|(at, _)| body[at + 3..].starts_with(|c: char| c.is_alphabetic())
            && body[at + 3..].split_once('=').is_some_and(|(name, _)| name.chars().all(char::is_alphabetic))));
        for script in body.split("<script").skip(1) {
            assert!(script.starts_with(" src=\"/static/") && script.contains("></script>"), "{script}");
        }
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(page.header("x-frame-options"), Some("DENY"));
        assert_eq!(page.header("referrer-policy"), Some("same-origin"));
        assert_eq!(page.header("strict-transport-security"), None, "not over plain HTTP");
    }
}

#[tokio::test]
async fn what_the_page_links_to_is_there() {
    let mut browser = Cluster::new().browser();
    let page = browser.get("/").await;
    for link in page.body.split(['"']).filter(|part| part.starts_with("/static/")) {
        let file = browser.get(link).await.with_status(StatusCode::OK);
        assert_eq!(file.header("cache-control"), Some("public, max-age=300"), "{link}");
        assert_eq!(file.header("vary"), None, "{link} does not depend on the session");
        assert!(!file.header("content-type").unwrap().starts_with("text/plain"), "{link}");
    }
}

#[tokio::test]
async fn over_https_browsers_are_told_to_stay_there() {
    let mut browser = Cluster::new().browser();
    let request = Request::builder().uri("/").header("x-forwarded-proto", "https").body(Body::empty()).unwrap();
    assert_eq!(browser.send(request).await.header("strict-transport-security"), Some("max-age=31536000"));
}

#[tokio::test]
async fn pages_are_compressed_for_those_who_ask() {
    let mut browser = Cluster::new().browser();
    let request =
        Request::builder().uri("/nowhere").header(header::ACCEPT, "text/html").header(header::ACCEPT_ENCODING, "gzip");
    let cluster = Cluster::new();
    let router = cluster.nodes[0].1.clone();
    let response = tower::ServiceExt::oneshot(router, request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
    assert_eq!(browser.get("/nowhere").await.header("content-encoding"), None);
}

#[tokio::test]
async fn a_request_keeps_its_id_or_gets_one() {
    let mut browser = Cluster::new().browser();
    assert_eq!(browser.get("/").await.header("x-request-id").map(str::len), Some(36));
    let request =
        Request::builder().uri("/livez").header("x-request-id", "from-the-proxy").body(Body::empty()).unwrap();
    assert_eq!(browser.send(request).await.header("x-request-id"), Some("from-the-proxy"));
}

#[tokio::test]
async fn what_is_not_there_and_what_is_not_allowed_say_so() {
    let mut browser = Cluster::new().browser();
    let page = browser.get("/nowhere").await.with_status(StatusCode::NOT_FOUND);
    assert!(page.body.contains("There is nothing at this address."));
    assert_eq!(page.header("x-served-by"), Some("1111"));
    let json = browser.api(Method::GET, "/nowhere", "").await.with_status(StatusCode::NOT_FOUND);
    assert_eq!(json.json()["status"], 404);
    let wrong = browser.api(Method::DELETE, "/api/session", "").await.with_status(StatusCode::METHOD_NOT_ALLOWED);
    assert!(wrong.header("allow").unwrap().contains("GET"));
    let request = Request::builder().method(Method::POST).uri("/attributes").header(header::CONTENT_LENGTH, "300000");
    let answer = browser.send(request.body(Body::from("x".repeat(300_000))).unwrap()).await;
    assert_eq!(answer.with_status(StatusCode::PAYLOAD_TOO_LARGE).json()["status"], 413);
}

#[tokio::test]
async fn requests_that_only_look_start_no_session_and_count_no_visit() {
    let cluster = Cluster::new();
    let looks = [
        (Method::HEAD, "accept", "text/html"),
        (Method::GET, "sec-purpose", "prefetch"),
        (Method::GET, "sec-purpose", "prefetch;prerender"),
        (Method::GET, "purpose", "prefetch"),
        (Method::GET, "x-moz", "prefetch"),
        (Method::GET, "x-purpose", "preview"),
    ];
    for (method, name, value) in looks {
        let look = || {
            let request = Request::builder().method(method.clone()).uri("/").header(name, value);
            request.body(Body::empty()).unwrap()
        };
        let mut stranger = cluster.browser();
        let sessions = cluster.store.len();
        let answer = stranger.send(look()).await.with_status(StatusCode::OK);
        assert_eq!((answer.set_cookie(), cluster.store.len()), (None, sessions), "{method} {name}: {value}");
        if method == Method::GET {
            assert!(answer.body.contains("none yet") && answer.visits() == 0, "{}", answer.body);
        }
        assert_eq!(stranger.get("/").await.visits(), 1);
        let answer = stranger.send(look()).await.with_status(StatusCode::OK);
        if method == Method::GET {
            assert_eq!(answer.visits(), 1);
        }
        assert_eq!(stranger.get("/").await.visits(), 2);
    }
    // Another purpose is a visit.
    let request = Request::get("/").header("sec-purpose", "navigation").body(Body::empty()).unwrap();
    assert!(cluster.browser().send(request).await.set_cookie().is_some());
}

#[tokio::test]
async fn health_checks_start_no_session() {
    let cluster = Cluster::new();
    for path in ["/livez", "/readyz", "/metrics", "/static/style.css", "/favicon.ico", "/api/session", "/api/cluster"] {
        let answer = cluster.browser().get(path).await;
        assert_eq!((answer.set_cookie(), cluster.store.len()), (None, 0), "{path}");
    }
}
