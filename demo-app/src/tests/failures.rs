//! What is shown when the store does not answer, or holds what this version cannot read.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use session_layer::store::{
    Action, Change, Commit, Listed, Loaded, MemoryStore, Reply, Revocation, Revoked, SessionStore, StoreError, Touch,
};
use session_layer::{SessionId, SessionLayer};
use tokio::time::Instant;

use super::client::{Browser, Cluster};
use crate::compare::Schemes;
use crate::node::{self, Layers, Node, Readiness};

/// A store that fails each call with the same error.
struct FailingStore(fn() -> StoreError);

/// A store that never answers.
const DEAD: FailingStore = FailingStore(|| StoreError::unavailable("dead"));

/// A store that answers each call with a definite no.
const FULL: FailingStore = FailingStore(|| StoreError::refused("OOM command not allowed"));

impl SessionStore for FailingStore {
    async fn load(&self, _: &SessionId) -> Result<Loaded, StoreError> {
        Err((self.0)())
    }

    async fn commit(&self, _: &Commit) -> Result<Reply, StoreError> {
        Err((self.0)())
    }

    async fn sessions_of(&self, _: &str, _: &str) -> Result<Vec<Listed>, StoreError> {
        Err((self.0)())
    }

    async fn revoke(&self, _: &Revocation) -> Result<Revoked, StoreError> {
        Err((self.0)())
    }

    async fn touch(&self, _: &Touch) -> Result<(), StoreError> {
        Err((self.0)())
    }
}

/// The demo's pages in this layer.
fn layers(sessions: SessionLayer) -> Layers {
    let schemes = Schemes::new(MemoryStore::new(), &super::client::settings()).expect("the settings are good");
    Layers { sessions, schemes }
}

/// A browser with a good cookie, on a node whose store has died since.
async fn stranded() -> Browser {
    stranded_on(DEAD).await
}

async fn stranded_on(store: FailingStore) -> Browser {
    let secret = [7; 32];
    let node = || Node::new("1111".to_owned(), || false);
    let alive = SessionLayer::builder(MemoryStore::new()).secret(secret).development(true);
    let mut browser =
        Browser { nodes: vec![node::router(node(), layers(alive.build().unwrap()))], turn: 0, cookie: None };
    browser.get("/").await.with_status(StatusCode::OK);
    let dead = SessionLayer::builder(store).secret(secret).development(true).budget(Duration::from_millis(100));
    browser.nodes = vec![node::router(node(), layers(dead.build().unwrap()))];
    browser
}

#[tokio::test]
async fn without_the_store_a_page_says_so_and_when_to_come_back() {
    let mut browser = stranded().await;
    for answer in
        [browser.get("/").await, browser.log_in("alice", "wonderland").await, browser.post("/logout", "").await]
    {
        let answer = answer.with_status(StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.header("retry-after").is_some());
        assert!(answer.body.starts_with("<!doctype html>"), "{}", answer.body);
        assert!(answer.body.contains("The session store does not answer"), "{}", answer.body);
    }
}

#[tokio::test]
async fn a_page_says_that_the_store_refused_and_not_that_it_is_silent() {
    let mut browser = stranded_on(FULL).await;
    let answer = browser.get("/").await.with_status(StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.body.contains("The session store refused"), "{}", answer.body);
    assert!(!answer.body.contains("does not answer") && !answer.body.contains("OOM"), "{}", answer.body);
}

#[tokio::test]
async fn without_the_store_the_api_says_so_as_json() {
    let mut browser = stranded().await;
    for (method, path) in [
        (Method::GET, "/api/session"),
        (Method::PUT, "/api/session/attributes/a"),
        (Method::DELETE, "/api/session/attributes/a"),
        (Method::POST, "/api/session/attributes/a/increment"),
    ] {
        let answer = browser.api(method, path, "1").await.with_status(StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.header("retry-after").is_some(), "{path}");
        assert_eq!(answer.json()["status"], 503, "{path}");
    }
}

#[tokio::test]
async fn without_the_store_what_needs_no_session_works() {
    let mut browser = stranded().await;
    for path in ["/livez", "/metrics", "/static/style.css", "/static/refresh.js", "/static/icon.svg", "/favicon.ico"] {
        browser.get(path).await.with_status(StatusCode::OK);
    }
    assert!(browser.get("/metrics").await.body.contains("\ndemo_store_up 0\n"));
}

#[tokio::test]
async fn a_node_is_ready_unless_it_is_starting_or_draining_and_tells_how_the_store_is() {
    let cluster = Cluster::new();
    let node = Node::new("1111".to_owned(), || false);
    let layer = node::session_layer(cluster.store.clone(), &super::client::settings(), &node).unwrap();
    let mut browser = Browser { nodes: vec![node::router(node.clone(), layers(layer))], turn: 0, cookie: None };
    for (readiness, status, word) in [
        (Readiness::Starting, StatusCode::SERVICE_UNAVAILABLE, "starting"),
        (Readiness::Ready, StatusCode::OK, "ready"),
        (Readiness::Draining, StatusCode::SERVICE_UNAVAILABLE, "draining"),
    ] {
        node.set_readiness(readiness);
        let answer = browser.get("/readyz").await.with_status(status);
        assert_eq!(answer.json(), serde_json::json!({ "status": word, "store": "down" }));
        browser.get("/livez").await.with_status(StatusCode::OK);
    }
    assert_eq!(cluster.browser().get("/readyz").await.json()["store"], "up");
}

#[tokio::test]
async fn stored_bytes_that_are_no_json_are_shown_as_unreadable_and_can_be_removed() {
    let cluster = Cluster::new();
    let mut browser = cluster.browser();
    browser.get("/").await;
    let id = SessionId::decode(browser.session().await["session_id"].as_str().unwrap()).unwrap();
    let spoilt = ["colour", "visits", "recent_servers", "bytes"].map(|name| {
        let bytes = if name == "bytes" { &b"\xff\xfe"[..] } else { &b"{\"trunca"[..] };
        (name.to_owned(), Change::Set(bytes.into()))
    });
    let mut commit = Commit::new(Action::Apply(id), Instant::now() + Duration::from_secs(5));
    commit.changes = BTreeMap::from(spoilt);
    assert!(matches!(cluster.store.commit(&commit).await, Ok(Reply::Applied { .. })));

    let session = browser.session().await;
    let null = serde_json::Value::Null;
    assert_eq!(
        (&session["visits"], &session["attributes"]["colour"], &session["attributes"]["bytes"]),
        (&null, &null, &null)
    );
    for visit in 1..=2 {
        let page = browser.get("/").await.with_status(StatusCode::OK);
        assert_eq!(page.body.matches("<em>unreadable</em>").count(), 2, "{}", page.body);
        assert_eq!(page.visits(), visit, "the count starts over");
    }
    browser.post("/attributes/remove", "name=colour").await.with_status(StatusCode::SEE_OTHER);
    browser.log_in("alice", "wonderland").await.with_status(StatusCode::SEE_OTHER);
    assert_eq!(browser.get("/").await.body.matches("<em>unreadable</em>").count(), 1);
}

#[tokio::test]
async fn a_bad_cookie_is_no_cookie() {
    let cluster = Cluster::new();
    let mut good = cluster.browser();
    good.get("/").await;
    let good = good.cookie.unwrap();
    for cookie in [
        "session=".to_owned(),
        "session=forged".to_owned(),
        format!("session={}", "A".repeat(5000)),
        format!("{}x", good),
        "\u{1f36a}".to_owned(),
    ] {
        let mut browser = cluster.browser();
        browser.cookie = Some(cookie.clone());
        let answer = browser.api(Method::GET, "/api/session", "").await.with_status(StatusCode::OK);
        assert_eq!((answer.json()["session_id"].is_null(), answer.set_cookie()), (true, None), "{cookie}");
        assert_eq!(browser.get("/").await.with_status(StatusCode::OK).visits(), 1, "{cookie}");
    }
    let mut browser = cluster.browser();
    browser.cookie = Some(format!("\u{e9}=1; session=forged; {good}; session=other"));
    assert!(!browser.session().await["session_id"].is_null(), "the good one is found among others");
}

#[tokio::test]
async fn requests_are_counted_by_route_and_not_by_path() {
    let mut browser = Cluster::new().browser();
    browser.nodes.truncate(1);
    for number in 0..5 {
        browser.api(Method::PUT, &format!("/api/session/attributes/a{number}"), "1").await;
        browser.get(&format!("/nowhere/{number}")).await;
    }
    let metrics = browser.get("/metrics").await;
    assert!(metrics.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let put = "demo_requests_total{route=\"/api/session/attributes/{name}\",method=\"PUT\",status=\"204\"} 5\n";
    let unmatched = "demo_requests_total{route=\"unmatched\",method=\"GET\",status=\"404\"} 5\n";
    assert!(metrics.body.contains(put) && metrics.body.contains(unmatched), "{}", metrics.body);
}
