//! A browser: keeps the cookie as answers tell it to, and sends it back.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::Request;
use http::{StatusCode, header};
use http_body_util::BodyExt;
use session_layer::{LazySession, Session, SessionError};

use super::node::{Act, Node};

const COOKIE: &str = "__Host-session";

/// Clones share the jar, as tabs do.
#[derive(Clone, Default)]
pub(super) struct Browser {
    jar: Arc<Mutex<Option<String>>>,
}

/// What came back.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: String,
    pub(super) cookie: SetCookie,
    pub(super) error: Option<SessionError>,
}

/// What an answer does to the jar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SetCookie {
    Nothing,
    Keep(String),
    Forget,
}

impl Browser {
    /// Another browser with the same cookie, which goes its own way from here.
    pub(super) fn copy(&self) -> Self {
        Self { jar: Arc::new(Mutex::new(self.cookie())) }
    }

    pub(super) fn cookie(&self) -> Option<String> {
        self.jar.lock().unwrap().clone()
    }

    /// A request whose handler has the session loaded. Its cookie is what is in the jar now; the answer is received.
    pub(super) fn ask<A, F>(&self, node: &Node, act: A) -> impl Future<Output = Answer> + Send + use<A, F>
    where
        A: FnOnce(Session) -> F + Send + 'static,
        F: Future<Output = Result<String, SessionError>> + Send + 'static,
    {
        let (this, answer) = (self.clone(), self.send(node, act));
        async move {
            let answer = answer.await;
            this.receive(&answer);
            answer
        }
    }

    /// The same, but the answer is received only when [`receive`](Self::receive) says so.
    pub(super) fn send<A, F>(&self, node: &Node, act: A) -> impl Future<Output = Answer> + Send + use<A, F>
    where
        A: FnOnce(Session) -> F + Send + 'static,
        F: Future<Output = Result<String, SessionError>> + Send + 'static,
    {
        self.exchange(node, Act::new(async |extensions| act(Session::from_extensions(&extensions).await?).await))
    }

    /// A request whose handler does not load the session.
    pub(super) fn send_lazy<A, F>(&self, node: &Node, act: A) -> impl Future<Output = Answer> + Send + use<A, F>
    where
        A: FnOnce(LazySession) -> F + Send + 'static,
        F: Future<Output = Result<String, SessionError>> + Send + 'static,
    {
        self.exchange(node, Act::new(async |extensions| act(LazySession::from_extensions(&extensions)?).await))
    }

    fn exchange(&self, node: &Node, act: Act) -> impl Future<Output = Answer> + Send + use<> {
        let mut request = Request::post("/");
        if let Some(cookie) = self.cookie() {
            request = request.header(header::COOKIE, format!("{COOKIE}={cookie}"));
        }
        let response = node.serve(request.extension(act).body(Body::empty()).expect("a good request"));
        async {
            let (head, body) = response.await.into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            Answer {
                status: head.status,
                body: String::from_utf8(body.to_vec()).expect("text"),
                cookie: SetCookie::read(&head),
                error: head.extensions.get().cloned(),
            }
        }
    }

    /// The browser gets an answer: keeps its cookie.
    pub(super) fn receive(&self, answer: &Answer) {
        match &answer.cookie {
            SetCookie::Nothing => {}
            SetCookie::Keep(cookie) => *self.jar.lock().unwrap() = Some(cookie.clone()),
            SetCookie::Forget => *self.jar.lock().unwrap() = None,
        }
    }

    /// Who is logged in, as a node sees it.
    pub(super) async fn principal(&self, node: &Node) -> Option<String> {
        let answer = self.ask(node, async |session: Session| Ok(session.principal().unwrap_or_default())).await;
        Some(answer.expect(200).body).filter(|principal| !principal.is_empty())
    }

    pub(super) async fn log_in(&self, node: &Node, principal: &str) -> Answer {
        let principal = principal.to_owned();
        let act = async move |session: Session| session.log_in(principal).map(|()| String::new());
        self.ask(node, act).await
    }

    pub(super) async fn log_out(&self, node: &Node) -> Answer {
        self.ask(node, async |session: Session| session.log_out().map(|()| String::new())).await
    }

    /// Sets an attribute.
    pub(super) async fn insert(&self, node: &Node, name: &str, value: &str) -> Answer {
        let (name, value) = (name.to_owned(), value.to_owned());
        let act = async move |session: Session| session.insert(name.as_str(), &value).map(|()| String::new());
        self.ask(node, act).await
    }

    /// The JSON of an attribute; nothing if there is none.
    pub(super) async fn read(&self, node: &Node, name: &str) -> String {
        let name = name.to_owned();
        let act = async move |session: Session| {
            let raw = session.raw(name.as_str()).unwrap_or_default();
            Ok(String::from_utf8(raw.to_vec()).expect("JSON is text"))
        };
        self.ask(node, act).await.expect(200).body
    }
}

impl SetCookie {
    #[track_caller]
    fn read(head: &http::response::Parts) -> Self {
        let mut headers = head.headers.get_all(header::SET_COOKIE).iter();
        let Some(header) = headers.next() else { return Self::Nothing };
        assert!(headers.next().is_none(), "one cookie at most: {head:?}");
        let mut parts = header.to_str().expect("cookies are ASCII").split("; ");
        let (name, value) = parts.next().and_then(|pair| pair.split_once('=')).expect("a name and a value");
        assert_eq!(name, COOKIE);
        if parts.any(|attribute| attribute == "Max-Age=0") { Self::Forget } else { Self::Keep(value.to_owned()) }
    }
}

impl Answer {
    #[track_caller]
    pub(super) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self
    }

    #[track_caller]
    pub(super) fn without_cookie(self) -> Self {
        assert_eq!(self.cookie, SetCookie::Nothing, "{self:?}");
        self
    }

    #[track_caller]
    pub(super) fn with_cookie(self) -> Self {
        assert!(matches!(self.cookie, SetCookie::Keep(_)), "{self:?}");
        self
    }

    #[track_caller]
    pub(super) fn with_removal(self) -> Self {
        assert_eq!(self.cookie, SetCookie::Forget, "{self:?}");
        self
    }

    /// 409 because the session ended meanwhile; nothing for the browser to keep or forget.
    #[track_caller]
    pub(super) fn expect_gone(self) -> Self {
        assert!(self.error.as_ref().is_some_and(SessionError::is_gone), "{self:?}");
        self.expect(409).without_cookie()
    }
}
