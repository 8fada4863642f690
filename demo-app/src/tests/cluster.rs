//! The dashboard: as a page, as JSON, and as a stream.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use axum::routing::get;
use http_body_util::BodyExt;
use session_layer::store::{Eviction, Feature, StoreStatus};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tower::ServiceExt;

use super::client::Cluster;
use crate::cluster::{self, Sources};
use crate::node::{MAX_STREAMS, Node, Readiness};

const WHILE: Duration = Duration::from_secs(10);

/// Has a node watch itself, and waits until it has seen itself be ready.
async fn watching(node: &Node) {
    let sources = Sources { front: None, peers: Vec::new(), redis: None };
    tokio::spawn(cluster::watch(node.clone(), sources));
    let mut picture = node.picture();
    let seen = picture.wait_for(|picture| picture.nodes.iter().any(|node| node.state == "ready"));
    timeout(WHILE, seen).await.expect("it sees itself").expect("it lives");
}

#[tokio::test]
async fn the_picture_is_there_for_people_and_for_programs() {
    let cluster = Cluster::new();
    watching(&cluster.nodes[0].0).await;
    let mut browser = cluster.browser();
    browser.nodes.truncate(1);
    let answer = browser.api(Method::GET, "/api/cluster", "").await.with_status(StatusCode::OK);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let picture = answer.json();
    assert_eq!((&picture["seen_by"], &picture["store"]), (&"1111".into(), &"memory".into()));
    assert_eq!((&picture["nodes"][0]["name"], &picture["nodes"][0]["state"]), (&"1111".into(), &"ready".into()));
    assert_eq!(picture["mood"], "well");
    let page = browser.get("/cluster").await.with_status(StatusCode::OK);
    assert_eq!(page.set_cookie(), None, "looking starts no session");
    for text in ["All is well.", "embedded cluster", r#"data-seen-by="1111""#, "<noscript>"] {
        assert!(page.body.contains(text), "no {text} in {}", page.body);
    }
}

#[tokio::test]
async fn what_a_store_says_about_its_server_is_a_metric_and_a_warning() {
    let cluster = Cluster::new();
    let node = &cluster.nodes[0].0;
    let mut browser = cluster.browser();
    browser.nodes.truncate(1);
    let before = browser.get("/metrics").await.with_status(StatusCode::OK).body;
    assert!(before.contains("\ndemo_store_evicts 0\n"), "{before}");
    assert!(before.contains("\ndemo_store_feature_off{feature=\"near_cache\"} 0\n"), "{before}");
    node.describe_store(|| {
        let mut eviction = Eviction::default();
        eviction.policy = "volatile-lru".to_owned();
        let mut status = StoreStatus::default();
        status.server = Some("redis-1:6380".to_owned());
        status.eviction = Some(eviction);
        status.off.insert(Feature::NearCache, "the Redis user lacks permissions: +ping".to_owned());
        status
    });
    let after = browser.get("/metrics").await.with_status(StatusCode::OK).body;
    assert!(after.contains("\ndemo_store_evicts 1\n"), "{after}");
    assert!(after.contains("\ndemo_store_feature_off{feature=\"near_cache\"} 1\n"), "{after}");
    watching(node).await;
    let picture = browser.api(Method::GET, "/api/cluster", "").await.with_status(StatusCode::OK).json();
    let warnings: Vec<_> =
        picture["warnings"].as_array().into_iter().flatten().filter_map(|text| text.as_str()).collect();
    assert_eq!(warnings.len(), 2, "{picture}");
    let page = browser.get("/cluster").await.with_status(StatusCode::OK).body;
    for text in ["set maxmemory-policy noeviction", "the near cache is off: the Redis user lacks permissions: +ping"] {
        assert!(warnings.iter().any(|warning| warning.contains(text)), "{warnings:?}");
        assert!(page.contains(text), "{page}");
    }
}

#[tokio::test]
async fn before_anything_is_known_the_page_is_shown_all_the_same() {
    let mut browser = Cluster::new().browser();
    browser.get("/cluster").await.with_status(StatusCode::OK);
    browser.api(Method::GET, "/api/cluster", "").await.with_status(StatusCode::OK);
}

#[tokio::test]
async fn what_visitors_ask_for_is_counted_and_what_machines_ask_for_is_not() {
    let cluster = Cluster::new();
    let node = &cluster.nodes[0].0;
    let mut browser = cluster.browser();
    browser.nodes.truncate(1);
    for path in ["/livez", "/readyz", "/metrics", "/api/cluster", "/api/cluster/node", "/static/style.css"] {
        browser.get(path).await.with_status(StatusCode::OK);
    }
    assert_eq!(node.status().requests, 0);
    for path in ["/", "/api/session", "/nowhere"] {
        browser.get(path).await;
    }
    let status = browser.get("/api/cluster/node").await.json();
    assert_eq!((&status["name"], &status["state"], &status["requests"]), (&"1111".into(), &"ready".into(), &3.into()));
    assert_eq!(status["recent"].as_array().map(Vec::len), Some(3));
}

/// The stream's answer, and what comes on it until a picture is complete.
async fn stream(router: &Router, path: &str) -> (axum::http::response::Parts, Body) {
    let request = Request::builder().uri(path).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.expect("routers do not fail");
    response.into_parts()
}

async fn event(body: &mut Body) -> String {
    let mut text = String::new();
    while !text.ends_with("\n\n") {
        let frame = timeout(WHILE, body.frame()).await.expect("an event comes").expect("the stream goes on");
        text.push_str(std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap());
    }
    text
}

#[tokio::test]
async fn the_stream_begins_with_the_whole_picture_and_goes_on_until_the_node_drains() {
    let cluster = Cluster::new();
    let (node, router) = &cluster.nodes[0];
    watching(node).await;
    let (head, mut body) = stream(router, "/api/cluster/events").await;
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(head.headers[header::CONTENT_TYPE], "text/event-stream");
    assert_eq!(head.headers["x-accel-buffering"], "no");
    for _ in 0..2 {
        let text = event(&mut body).await;
        assert!(text.contains("event: picture\n"), "{text}");
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).expect("it has data");
        let picture: serde_json::Value = serde_json::from_str(data).expect("the data is JSON");
        assert_eq!(picture["seen_by"], "1111");
    }
    node.set_readiness(Readiness::Draining);
    let rest = timeout(WHILE, body.collect()).await.expect("the stream ends");
    rest.expect("it ends in order");
}

#[tokio::test]
async fn a_node_bounds_its_event_streams_and_has_room_again_when_one_ends() {
    let cluster = Cluster::new();
    let (_, router) = &cluster.nodes[0];
    let mut streams = Vec::new();
    for _ in 0..MAX_STREAMS {
        let (head, body) = stream(router, "/api/cluster/events").await;
        assert_eq!(head.status, StatusCode::OK);
        streams.push(body);
    }
    let (head, _) = stream(router, "/api/cluster/events").await;
    assert_eq!(head.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(head.headers.contains_key(header::RETRY_AFTER));
    // A client that goes away gives its place back.
    streams.pop();
    let (head, _) = stream(router, "/api/cluster/events").await;
    assert_eq!(head.status, StatusCode::OK);
}

#[tokio::test]
async fn the_page_gets_its_part_ready_drawn() {
    let cluster = Cluster::new();
    let (node, router) = &cluster.nodes[0];
    watching(node).await;
    let (_, mut body) = stream(router, "/api/cluster/events?as=html").await;
    let text = event(&mut body).await;
    assert!(text.contains("data: <div class=\"picture\""), "{text}");
}

#[tokio::test]
async fn a_node_that_starts_remembers_what_another_one_does_but_for_what_only_other_versions_know() {
    let events = r#"{"events": [
        {"at": "2026-05-01T12:00:02Z", "kind": "node_stopped", "text": "Server 1111 has stopped", "after_ms": null},
        {"at": "2026-05-01T12:00:01Z", "kind": "unheard_of", "text": "?", "after_ms": null},
        {"at": "2026-05-01T12:00:00Z", "kind": "master", "text": "redis-2 is the master now", "after_ms": 2900}
    ], "more": 1}"#;
    let other = Router::new().route("/api/cluster", get(async move || events));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let peers = [&nobody, &listener].map(|listener| listener.local_addr().expect("it has one").to_string()).to_vec();
    drop(nobody);
    tokio::spawn(async { axum::serve(listener, other).await });
    let node = Cluster::new().nodes[0].0.clone();
    tokio::spawn(cluster::watch(node.clone(), Sources { front: None, peers, redis: None }));
    let mut picture = node.picture();
    let seen = timeout(WHILE, picture.wait_for(|picture| !picture.events.is_empty())).await;
    let seen = seen.expect("it takes them over").expect("it lives").events.clone();
    let texts: Vec<_> = seen.iter().map(|event| event.text.as_str()).collect();
    assert_eq!(texts, ["Server 1111 has stopped", "redis-2 is the master now"]);
    assert_eq!(seen[1].after().as_deref(), Some("+2.9 s"));
}
