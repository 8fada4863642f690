//! Sessions that are read from elsewhere than the master, and changes that a failover took.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use session_layer::SessionId;
use session_layer::store::{
    Commit, Freshness, Listed, Loaded, MemoryStore, Record, Reply, Revocation, Revoked, SessionStore, StoreError, Touch,
};
use session_layer::test_util::clock::Followed;
use tower::ServiceExt;

use super::client::{node, settings};
use crate::config::SessionSettings;
use crate::server::Connection;

/// A browser that keeps both cookies, the session's and what it was told of it.
#[derive(Default)]
struct Browser(BTreeMap<String, String>);

impl Browser {
    async fn send(&mut self, node: &Router, method: &str, path: &str) -> String {
        let (status, body) = self.post(node, method, path, "1").await;
        assert!(status.is_success(), "{method} {path}: {status} {body}");
        body
    }

    async fn post(&mut self, node: &Router, method: &str, path: &str, body: &str) -> (StatusCode, String) {
        let cookies: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "demo.test:8080")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::COOKIE, cookies.join("; "));
        let mut request = request.body(Body::from(body.to_owned())).unwrap();
        let ends = Connection { local: "10.0.0.1:8080".parse().unwrap(), peer: "10.0.0.9:50000".parse().unwrap() };
        request.extensions_mut().insert(ends);
        let response = node.clone().oneshot(request).await.unwrap();
        let status = response.status();
        for cookie in response.headers().get_all(header::SET_COOKIE) {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            self.0.insert(name.to_owned(), value.to_owned());
        }
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(body.into()).unwrap())
    }
}

#[tokio::test]
async fn a_change_that_a_failover_lost_is_counted_once() {
    let (store, settings) = (MemoryStore::new(), SessionSettings { rollback_detection: true, ..settings() });
    let (_, node) = node("1111", store.clone(), &settings);
    let mut browser = Browser::default();
    browser.send(&node, "PUT", "/api/session/attributes/a").await;
    let replica = store.replica();
    browser.send(&node, "PUT", "/api/session/attributes/b").await;
    assert!(browser.send(&node, "GET", "/metrics").await.contains("\ndemo_rollbacks_total 0\n"));
    store.fail_over_to(&replica);
    for _ in 0..2 {
        browser.send(&node, "GET", "/api/session").await;
        let metrics = browser.send(&node, "GET", "/metrics").await;
        assert!(metrics.contains("\ndemo_rollbacks_total 1\n"), "{metrics}");
    }
}

/// A master with a replica that stands still from some time on.
#[derive(Clone, Default)]
struct Lagging {
    master: MemoryStore,
    replica: Arc<OnceLock<MemoryStore>>,
}

impl SessionStore for Lagging {
    async fn load(&self, id: &SessionId) -> Result<Loaded, StoreError> {
        self.master.load(id).await
    }

    async fn commit(&self, commit: &Commit) -> Result<Reply, StoreError> {
        self.master.commit(commit).await
    }

    async fn touch(&self, touch: &Touch) -> Result<(), StoreError> {
        self.master.touch(touch).await
    }

    async fn sessions_of(&self, realm: &str, principal: &str) -> Result<Vec<Listed>, StoreError> {
        self.master.sessions_of(realm, principal).await
    }

    async fn revoke(&self, revocation: &Revocation) -> Result<Revoked, StoreError> {
        self.master.revoke(revocation).await
    }

    fn has_copies(&self) -> bool {
        true
    }

    async fn load_copy(&self, id: &SessionId, _: &Freshness) -> Option<Record> {
        match self.replica.get()?.load(id).await {
            Ok(Loaded::Alive(record)) => Some(record),
            _ => None,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_logged_out_elsewhere_a_moment_ago_neither_sees_the_accounts_devices_nor_ends_their_sessions() {
    let _clock = Followed::new();
    let store = Lagging::default();
    let (_, node) = node("1111", store.clone(), &settings());
    let (mut thief, mut owner) = (Browser::default(), Browser::default());
    for browser in [&mut thief, &mut owner] {
        let answer = browser.post(&node, "POST", "/login", "username=alice&password=wonderland").await;
        assert_eq!(answer.0, StatusCode::SEE_OTHER, "{answer:?}");
    }
    tokio::time::advance(Duration::from_secs(3)).await;
    store.replica.get_or_init(|| store.master.replica());
    let answer = owner.post(&node, "POST", "/account/sessions/revoke", "others=1").await;
    assert_eq!(answer.0, StatusCode::SEE_OTHER, "{answer:?}");

    let late = thief.send(&node, "GET", "/api/session").await;
    assert!(late.contains(r#""account":"alice""#), "the copy stands in where nothing depends on it: {late}");
    for (method, path) in [("GET", "/account/sessions"), ("POST", "/account/sessions/revoke")] {
        let (status, body) = thief.post(&node, method, path, "others=1").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}: {body}");
    }
    let (status, body) = owner.post(&node, "GET", "/account/sessions", "").await;
    assert!(status.is_success() && body.contains("One session"), "{status} {body}");
}
