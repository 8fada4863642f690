//! A cluster of routers that share a store, and browsers that go round it.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use session_layer::store::{MemoryStore, SessionStore};
use tower::ServiceExt;

use crate::config::{Config, SessionSettings};
use crate::node::{self, Layers, Node, Readiness};
use crate::server::Connection;

/// The settings of the embedded cluster.
pub(super) fn settings() -> SessionSettings {
    Config::read(&|_| None).expect("no settings are good settings").sessions
}

/// Nodes 1111 and 2222, sharing a store.
pub(super) struct Cluster {
    pub(super) store: MemoryStore,
    pub(super) nodes: Vec<(Node, Router)>,
}

impl Cluster {
    pub(super) fn new() -> Self {
        let (store, settings) = (MemoryStore::new(), settings());
        let nodes = ["1111", "2222"].map(|name| node(name, store.clone(), &settings)).into();
        Self { store, nodes }
    }

    /// Somebody without a cookie, whose requests go to the nodes in turn.
    pub(super) fn browser(&self) -> Browser {
        Browser { nodes: self.nodes.iter().map(|(_, router)| router.clone()).collect(), turn: 0, cookie: None }
    }
}

pub(super) fn node(name: &str, store: impl SessionStore + Clone, settings: &SessionSettings) -> (Node, Router) {
    let node = Node::new(name.to_owned(), || true);
    node.set_readiness(Readiness::Ready);
    let layers = Layers::new(store, settings, &node).expect("the settings are good");
    (node.clone(), node::router(node, layers))
}

/// A client that keeps the session cookie.
#[derive(Clone)]
pub(super) struct Browser {
    pub(super) nodes: Vec<Router>,
    pub(super) turn: usize,
    /// `session=…`, as it is sent.
    pub(super) cookie: Option<String>,
}

/// A response, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Browser {
    pub(super) async fn get(&mut self, path: &str) -> Answer {
        self.request(Method::GET, path, "text/html", "", "").await
    }

    pub(super) async fn post(&mut self, path: &str, form: &str) -> Answer {
        self.request(Method::POST, path, "text/html", "application/x-www-form-urlencoded", form.to_owned()).await
    }

    pub(super) async fn log_in(&mut self, name: &str, password: &str) -> Answer {
        self.post("/login", &format!("username={name}&password={password}")).await
    }

    /// A request as programs send them.
    pub(super) async fn api(&mut self, method: Method, path: &str, body: impl Into<Body>) -> Answer {
        self.request(method, path, "*/*", "", body).await
    }

    /// The session as JSON.
    pub(super) async fn session(&mut self) -> serde_json::Value {
        self.api(Method::GET, "/api/session", "").await.json()
    }

    async fn request(
        &mut self,
        method: Method,
        path: &str,
        accept: &str,
        content_type: &str,
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header(header::ACCEPT, accept);
        if !content_type.is_empty() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    /// Sends to the node whose turn it is, with the cookie, and keeps the cookie that comes back.
    pub(super) async fn send(&mut self, mut request: Request<Body>) -> Answer {
        let node = self.nodes[self.turn % self.nodes.len()].clone();
        self.turn += 1;
        request
            .extensions_mut()
            .insert(Connection { local: "10.0.0.1:8080".parse().unwrap(), peer: "10.0.0.9:50000".parse().unwrap() });
        request.headers_mut().entry(header::HOST).or_insert("demo.test:8080".parse().unwrap());
        if let Some(cookie) = &self.cookie {
            request.headers_mut().insert(header::COOKIE, cookie.parse().unwrap());
        }
        let response = node.oneshot(request).await.expect("routers do not fail");
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.expect("the body can be read");
        let answer = Answer {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8(body.into()).expect("bodies are text"),
        };
        if let Some(set) = answer.set_cookie() {
            let (pair, attributes) = set.split_once(';').expect("the cookie has attributes");
            self.cookie = (!attributes.contains("Max-Age=0")).then(|| pair.to_owned());
        }
        answer
    }
}

impl Answer {
    /// The response, if its status is this one.
    #[track_caller]
    pub(super) fn with_status(self, status: StatusCode) -> Self {
        assert_eq!(self.status, status, "{:#?}", self);
        self
    }

    #[track_caller]
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("headers are ASCII"))
    }

    #[track_caller]
    pub(super) fn set_cookie(&self) -> Option<&str> {
        assert!(self.headers.get_all(header::SET_COOKIE).iter().count() < 2, "{:#?}", self.headers);
        self.header("set-cookie")
    }

    #[track_caller]
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// What stands between `before` and `after`.
    #[track_caller]
    pub(super) fn between(&self, before: &str, after: &str) -> &str {
        let (_, rest) = self.body.split_once(before).unwrap_or_else(|| panic!("no {before:?} in {}", self.body));
        rest.split_once(after).unwrap_or_else(|| panic!("no {after:?} in {rest}")).0
    }

    #[track_caller]
    pub(super) fn session_id(&self) -> &str {
        self.between(r#"<td id="session-id"><code>"#, "<")
    }

    #[track_caller]
    pub(super) fn created_on(&self) -> &str {
        self.between(r#"<td id="created-on">"#, "<")
    }

    #[track_caller]
    pub(super) fn visits(&self) -> i64 {
        self.between(r#"id="visits">"#, "<").parse().expect("visits are a number")
    }
}
