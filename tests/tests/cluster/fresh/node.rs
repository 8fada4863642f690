//! A node in this process, and browsers that keep all their cookies.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::routing::post;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use session_layer::store::{RedisStore, RedisStoreBuilder, SessionStore};
use session_layer::{LazySession, Session, SessionError, SessionEvent, SessionLayer, SessionLayerBuilder, Strict};
use tower::ServiceExt;

/// An app with a store of its own.
#[derive(Clone)]
pub(super) struct Node {
    app: Router,
    pub(super) store: RedisStore,
    pub(super) layer: SessionLayer,
    events: Arc<Mutex<Vec<SessionEvent>>>,
}

impl Node {
    pub(super) async fn start(
        url: &str,
        store: impl FnOnce(RedisStoreBuilder) -> RedisStoreBuilder,
        layer: impl FnOnce(SessionLayerBuilder) -> SessionLayerBuilder,
    ) -> Self {
        let store = store(RedisStore::builder(url)).build().expect("the settings are good");
        let up = tokio::time::timeout(Duration::from_secs(10), store.available()).await;
        up.expect("the store connects");
        let events = Arc::<Mutex<Vec<SessionEvent>>>::default();
        let told = Arc::clone(&events);
        let builder = SessionLayer::builder(store.clone()).secret([7; 32]);
        let layer = layer(builder).on_event(move |event| told.lock().unwrap().push(event.clone()));
        let layer = layer.build().expect("the settings are good");
        let app = Router::new()
            .route("/get/{name}", post(get))
            .route("/strict/{name}", post(strict))
            .route("/who", post(who))
            .route("/strict_who", post(strict_who))
            .route("/set/{name}/{value}", post(set))
            .route("/blind/{name}/{value}", post(blind))
            .route("/log_in/{name}", post(log_in))
            .route("/log_out", post(log_out))
            .layer(layer.clone());
        Self { app, store, layer, events }
    }

    /// What happened since this was last asked.
    pub(super) fn events(&self) -> Vec<SessionEvent> {
        std::mem::take(&mut self.events.lock().unwrap())
    }
}

async fn get(session: Session, Path(name): Path<String>) -> String {
    String::from_utf8(session.raw(name.as_str()).unwrap_or_default().to_vec()).expect("JSON is text")
}

async fn strict(Strict(session): Strict, name: Path<String>) -> String {
    get(session, name).await
}

async fn who(session: Session) -> String {
    session.principal().unwrap_or_default()
}

async fn strict_who(Strict(session): Strict) -> String {
    who(session).await
}

async fn set(session: Session, Path((name, value)): Path<(String, u64)>) -> Result<(), SessionError> {
    session.insert(name.as_str(), value)
}

async fn blind(session: LazySession, Path((name, value)): Path<(String, u64)>) -> Result<(), SessionError> {
    session.insert(name.as_str(), value)
}

async fn log_in(session: Session, Path(name): Path<String>) -> Result<(), SessionError> {
    session.log_in(name)
}

async fn log_out(session: Session) -> Result<(), SessionError> {
    session.log_out()
}

/// Clones share the jar, as tabs do.
#[derive(Clone, Default)]
pub(super) struct Browser {
    pub(super) jar: Arc<Mutex<BTreeMap<String, String>>>,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: String,
    /// Name, and value unless it is to be forgotten.
    pub(super) cookies: Vec<(String, Option<String>)>,
}

impl Browser {
    /// Sends a request and keeps the answer's cookies.
    pub(super) async fn ask(&self, node: &Node, path: &str) -> Answer {
        let answer = self.send(node, path).await;
        self.receive(&answer);
        answer
    }

    /// The same that must succeed: the body.
    pub(super) async fn ok(&self, node: &Node, path: &str) -> String {
        let answer = self.ask(node, path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.body
    }

    /// Sends a request with the cookies of now.
    pub(super) fn send(&self, node: &Node, path: &str) -> impl Future<Output = Answer> + Send + use<> {
        let cookies: Vec<_> = self.jar.lock().unwrap().iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut request = Request::post(path);
        if !cookies.is_empty() {
            request = request.header(header::COOKIE, cookies.join("; "));
        }
        let response = node.app.clone().oneshot(request.body(Body::empty()).expect("a good request"));
        async {
            let (head, body) = response.await.expect("it cannot fail").into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            let cookie = |header: &header::HeaderValue| {
                let mut parts = header.to_str().expect("cookies are ASCII").split("; ");
                let (name, value) = parts.next().and_then(|pair| pair.split_once('=')).expect("a name and a value");
                let forget = parts.any(|attribute| attribute == "Max-Age=0");
                (name.to_owned(), (!forget).then(|| value.to_owned()))
            };
            Answer {
                status: head.status,
                body: String::from_utf8(body.to_vec()).expect("text"),
                cookies: head.headers.get_all(header::SET_COOKIE).iter().map(cookie).collect(),
            }
        }
    }

    /// The browser gets an answer: keeps its cookies.
    pub(super) fn receive(&self, answer: &Answer) {
        let mut jar = self.jar.lock().unwrap();
        for (name, value) in &answer.cookies {
            match value {
                Some(value) => drop(jar.insert(name.clone(), value.clone())),
                None => drop(jar.remove(name)),
            }
        }
    }
}
