//! The JSON routes and their statuses.

use std::collections::HashSet;

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use session_layer::SessionId;
use session_layer::store::{Loaded, SessionStore};

use super::client::Cluster;

const COLOUR: &str = "/api/session/attributes/colour";

#[tokio::test]
async fn reading_counts_no_visit_and_starts_no_session() {
    let cluster = Cluster::new();
    let mut browser = cluster.browser();
    let answer = browser.api(Method::GET, "/api/session", "").await.with_status(StatusCode::OK);
    assert_eq!(answer.set_cookie(), None);
    assert_eq!(
        answer.json(),
        json!({
            "session_id": null, "created_on": null, "account": null, "visits": 0, "attributes": {},
            "server": { "name": "1111", "address": "10.0.0.1", "port": 8080 },
        })
    );
    assert!(cluster.store.is_empty());

    browser.get("/").await;
    for _ in 0..3 {
        assert_eq!(browser.session().await["visits"], 1);
    }
}

#[tokio::test]
async fn the_creation_time_is_the_same_on_every_server_and_rfc_3339() {
    let mut browser = Cluster::new().browser();
    let page = browser.get("/").await;
    let (one, two) = (browser.session().await, browser.session().await);
    assert_eq!(one["created_on"], two["created_on"]);
    assert_ne!(one["server"]["name"], two["server"]["name"]);
    let created_on: jiff::Timestamp = one["created_on"].as_str().unwrap().parse().unwrap();
    assert!(created_on <= jiff::Timestamp::now());
    assert_eq!(page.created_on(), created_on.strftime("%F %T UTC").to_string());
}

#[tokio::test]
async fn put_creates_and_replaces_whatever_the_content_type() {
    let mut browser = Cluster::new().browser();
    let answer = browser.api(Method::PUT, COLOUR, r#""green""#).await.with_status(StatusCode::NO_CONTENT);
    assert!(answer.set_cookie().is_some(), "a session starts if there is none");
    browser
        .api(Method::PUT, COLOUR, r#" {"r": 0.10, "big": 12345678901234567890123} "#)
        .await
        .with_status(StatusCode::NO_CONTENT);
    let session = browser.api(Method::GET, "/api/session", "").await;
    assert!(
        session.body.contains(r#"{"r":0.10,"big":12345678901234567890123}"#),
        "kept digit by digit: {}",
        session.body
    );
    let as_form = browser.post("/api/session/attributes/number", "").await.with_status(StatusCode::METHOD_NOT_ALLOWED);
    assert!(as_form.header("allow").unwrap().contains("PUT"));
}

#[tokio::test]
async fn put_refuses_what_it_cannot_keep() {
    let mut browser = Cluster::new().browser();
    for (path, body, status) in [
        (COLOUR, "".to_owned(), 422),
        (COLOUR, "green".to_owned(), 422),
        (COLOUR, "{\"a\":".to_owned(), 422),
        (COLOUR, "1 2".to_owned(), 422),
        ("/api/session/attributes/%00", "1".to_owned(), 422),
        ("/api/session/attributes/%FF", "1".to_owned(), 422),
        ("/api/session/attributes/@created", "1".to_owned(), 422),
        (&format!("/api/session/attributes/{}", "x".repeat(2000)), "1".to_owned(), 422),
        (COLOUR, format!("\"{}\"", "x".repeat(100_000)), 413),
        (COLOUR, format!("\"{}\"", "x".repeat(300_000)), 413),
        ("/api/session/attributes/", "1".to_owned(), 404),
        ("/api/session/attributes/a/b", "1".to_owned(), 404),
    ] {
        let answer = browser.api(Method::PUT, path, body).await;
        assert_eq!((answer.status.as_u16(), answer.set_cookie()), (status, None), "{path}");
        assert_eq!(answer.json()["status"], status, "{path}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
    // Nothing is stored that could not be read again, and the answer says why.
    for (body, reason) in
        [("1e999", "64-bit float"), ("\"\\ud800\"", "surrogate"), ("{\"a\":1,\"a\":2}", "the same key twice")]
    {
        let answer = browser.api(Method::PUT, COLOUR, body).await.with_status(StatusCode::UNPROCESSABLE_ENTITY);
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("\"colour\"") && detail.contains(reason), "{detail}");
    }
    // Bytes that are not UTF-8 are no JSON.
    let answer = browser.api(Method::PUT, COLOUR, &b"\"\xff\""[..]).await;
    answer.with_status(StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_session_takes_only_so_many_attributes() {
    let mut browser = Cluster::new().browser();
    let mut status = StatusCode::NO_CONTENT;
    for number in 0..2000 {
        status = browser.api(Method::PUT, &format!("/api/session/attributes/a{number}"), "1").await.status;
        if status != StatusCode::NO_CONTENT {
            break;
        }
    }
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    // A full session can still be read, and made smaller.
    browser.api(Method::GET, "/api/session", "").await.with_status(StatusCode::OK);
    let page = browser.get("/").await.with_status(StatusCode::PAYLOAD_TOO_LARGE);
    assert!(page.body.contains("This session is full") && page.body.contains("Remove a1"), "{}", page.body);
    browser.post("/attributes/remove", "name=a1").await.with_status(StatusCode::SEE_OTHER);
    browser.post("/attributes/remove", "name=a2").await.with_status(StatusCode::SEE_OTHER);
    assert_eq!(browser.get("/").await.with_status(StatusCode::OK).visits(), 1);
}

#[tokio::test]
async fn delete_removes_what_is_there() {
    let mut browser = Cluster::new().browser();
    let answer = browser.api(Method::DELETE, COLOUR, "").await.with_status(StatusCode::NOT_FOUND);
    assert_eq!(answer.set_cookie(), None, "no session, and none is started");
    browser.api(Method::PUT, COLOUR, "null").await.with_status(StatusCode::NO_CONTENT);
    assert_eq!(browser.session().await["attributes"], json!({ "colour": null }));
    browser.api(Method::DELETE, COLOUR, "").await.with_status(StatusCode::NO_CONTENT);
    browser.api(Method::DELETE, COLOUR, "").await.with_status(StatusCode::NOT_FOUND);
    assert_eq!(browser.session().await["attributes"], json!({}));
}

/// Also to what another request sets between the look and the answer.
#[tokio::test]
async fn a_delete_that_finds_nothing_does_nothing() {
    let cluster = Cluster::new();
    let mut browser = cluster.browser();
    browser.api(Method::PUT, "/api/session/attributes/other", "1").await.with_status(StatusCode::NO_CONTENT);
    let id = SessionId::decode(browser.session().await["session_id"].as_str().unwrap()).unwrap();
    let version = async || match cluster.store.load(&id).await {
        Ok(Loaded::Alive(record)) => record.version,
        other => panic!("{other:?}"),
    };
    let before = version().await;
    browser.api(Method::DELETE, COLOUR, "").await.with_status(StatusCode::NOT_FOUND);
    assert_eq!(version().await, before, "nothing was committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn increments_are_exact_and_each_value_is_given_once() {
    let mut browser = Cluster::new().browser();
    let first =
        browser.api(Method::POST, "/api/session/attributes/clicks/increment", "").await.with_status(StatusCode::OK);
    assert_eq!(first.json(), json!({ "value": 1 }));
    let clicks: Vec<_> = (0..200)
        .map(|turn| {
            let mut browser = browser.clone();
            browser.turn = turn;
            tokio::spawn(async move {
                let answer = browser.api(Method::POST, "/api/session/attributes/clicks/increment", "").await;
                answer.with_status(StatusCode::OK).json()["value"].as_i64().unwrap()
            })
        })
        .collect();
    let mut values = HashSet::from([1]);
    for click in clicks {
        values.insert(click.await.unwrap());
    }
    assert_eq!(values, (1..=201).collect());
    assert_eq!(browser.session().await["attributes"]["clicks"], 201);
}

#[tokio::test]
async fn what_is_no_integer_cannot_be_incremented() {
    let mut browser = Cluster::new().browser();
    for value in ["\"green\"", "1.5", "null", "1000000000000000000"] {
        browser.api(Method::PUT, COLOUR, value).await.with_status(StatusCode::NO_CONTENT);
        let answer =
            browser.api(Method::POST, &format!("{COLOUR}/increment"), "").await.with_status(StatusCode::CONFLICT);
        assert_eq!(answer.json()["status"], 409);
    }
    browser
        .api(Method::POST, "/api/session/attributes/%00/increment", "")
        .await
        .with_status(StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn the_apps_own_attributes_may_be_written_like_any_other_and_the_page_copes() {
    for spoilt in ["\"many\"", "[]", "1.5", "9223372036854775807", "999999999999999999"] {
        let mut browser = Cluster::new().browser();
        browser.get("/").await;
        browser.api(Method::PUT, "/api/session/attributes/visits", spoilt).await.with_status(StatusCode::NO_CONTENT);
        browser
            .api(Method::PUT, "/api/session/attributes/recent_servers", spoilt)
            .await
            .with_status(StatusCode::NO_CONTENT);
        let session = browser.session().await;
        assert!(session["visits"].is_null() || session["visits"].is_i64(), "{session}");
        for _ in 0..2 {
            browser.get("/").await.with_status(StatusCode::OK);
        }
        assert_ne!(browser.session().await["visits"], Value::Null, "{spoilt} was repaired");
    }
    let mut browser = Cluster::new().browser();
    browser.api(Method::PUT, "/api/session/attributes/visits", "41").await;
    assert_eq!(browser.get("/").await.visits(), 42);
}
