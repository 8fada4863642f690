//! A change that a failover took is counted for whoever watches the node.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use session_layer::store::MemoryStore;
use tower::ServiceExt;

use super::client::{node, settings};
use crate::config::SessionSettings;
use crate::server::Connection;

/// A browser that keeps both cookies, the session's and what it was told of it.
#[derive(Default)]
struct Browser(BTreeMap<String, String>);

impl Browser {
    async fn send(&mut self, node: &Router, method: &str, path: &str) -> String {
        let cookies: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "demo.test:8080")
            .header(header::COOKIE, cookies.join("; "));
        let mut request = request.body(Body::from("1")).unwrap();
        let ends = Connection { local: "10.0.0.1:8080".parse().unwrap(), peer: "10.0.0.9:50000".parse().unwrap() };
        request.extensions_mut().insert(ends);
        let response = node.clone().oneshot(request).await.unwrap();
        assert!(response.status().is_success(), "{method} {path}: {response:?}");
        for cookie in response.headers().get_all(header::SET_COOKIE) {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            self.0.insert(name.to_owned(), value.to_owned());
        }
        String::from_utf8(to_bytes(response.into_body(), usize::MAX).await.unwrap().into()).unwrap()
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
