//! A browser: requests with a cookie jar.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::time::{Instant, timeout};

/// The name of the session cookie in development mode, where the cluster runs.
pub const COOKIE: &str = "session";

/// Longer than any answer may take: what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A door of the cluster on this machine: nginx, or a node directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    /// The port.
    pub port: u16,
}

/// Sends requests and keeps cookies. Clones share the jar and the connections, as tabs do.
///
/// Cookies do not care for ports (RFC 6265, section 8.5), so a session that began at one door is presented at all of them.
#[derive(Clone)]
pub struct Browser {
    client: Client<HttpConnector, Full<Bytes>>,
    jar: Arc<Mutex<BTreeMap<String, String>>>,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, complete.
    pub body: Bytes,
    /// From sending the request to the end of the body.
    pub took: Duration,
}

impl Default for Browser {
    fn default() -> Self {
        Self::new()
    }
}

impl Browser {
    /// One without cookies.
    pub fn new() -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), jar: Arc::default() }
    }

    /// Another browser that has the same cookies now, and goes its own way from here.
    pub fn copy(&self) -> Self {
        let copy = Self::new();
        *copy.jar() = self.jar().clone();
        copy
    }

    /// Another browser without cookies that takes turns on the same connections: thousands of them do not need thousands of
    /// connections.
    pub fn another(&self) -> Self {
        Self { client: self.client.clone(), jar: Arc::default() }
    }

    /// The value of the session cookie.
    pub fn session_cookie(&self) -> Option<String> {
        self.jar().get(COOKIE).cloned()
    }

    /// Forgets all cookies.
    pub fn clear_cookies(&self) {
        self.jar().clear();
    }

    /// Puts a value into the jar in place of the session cookie.
    pub fn set_session_cookie(&self, value: &str) {
        self.jar().insert(COOKIE.to_owned(), value.to_owned());
    }

    /// `GET`.
    pub async fn get(&self, site: Site, path: &str) -> Answer {
        self.must(site, Method::GET, path, &[], Bytes::new()).await
    }

    /// `GET /api/session`: what the session is, counting no visit.
    pub async fn session(&self, site: Site) -> Value {
        let answer = self.get(site, "/api/session").await;
        assert_eq!(answer.status, StatusCode::OK, "GET /api/session: {answer:?}");
        answer.json()
    }

    /// `PUT` of an attribute.
    pub async fn put(&self, site: Site, name: &str, json: impl Into<Bytes>) -> Answer {
        self.must(site, Method::PUT, &attribute(name), &[], json.into()).await
    }

    /// `DELETE` of an attribute.
    pub async fn delete(&self, site: Site, name: &str) -> Answer {
        self.must(site, Method::DELETE, &attribute(name), &[], Bytes::new()).await
    }

    /// `POST` that adds one to an attribute.
    pub async fn increment(&self, site: Site, name: &str) -> Answer {
        self.must(site, Method::POST, &format!("{}/increment", attribute(name)), &[], Bytes::new()).await
    }

    /// `POST /login` with the form.
    pub async fn log_in(&self, site: Site, username: &str, password: &str) -> Answer {
        let (headers, form) = login_form(username, password);
        self.must(site, Method::POST, "/login", &headers, form).await
    }

    /// Logs in as one of the demo accounts, which must succeed.
    pub async fn log_in_as_alice(&self, site: Site) {
        let answer = self.log_in(site, "alice", "wonderland").await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "POST /login: {answer:?}");
        assert!(answer.set_cookie().is_some(), "a login gives a cookie: {answer:?}");
    }

    /// `POST /logout`.
    pub async fn log_out(&self, site: Site) -> Answer {
        self.must(site, Method::POST, "/logout", &[], Bytes::new()).await
    }

    async fn must(&self, site: Site, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        let shown = format!("{method} {path}");
        self.send(site, method, path, headers, body).await.unwrap_or_else(|error| panic!("{shown}: {error}"))
    }

    /// Any request. Cookies of the jar are added, and those of the answer are kept; a redirect is not followed.
    ///
    /// # Errors
    ///
    /// A sentence, when no complete answer came.
    pub async fn send(
        &self,
        site: Site,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, String> {
        let uri = format!("http://{}:{}{path}", Ipv4Addr::LOCALHOST, site.port);
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).map_err(|e| e.to_string())?);
        }
        let cookies = self.jar().iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ");
        if !cookies.is_empty() {
            request = request.header(header::COOKIE, cookies);
        }
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        let started = Instant::now();
        let answer = timeout(PATIENCE, async {
            let response = self.client.request(request).await.map_err(|error| format!("{error:?}"))?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
            Ok::<_, String>(Answer { status: head.status, headers: head.headers, body, took: started.elapsed() })
        });
        let answer = answer.await.map_err(|_| format!("no answer within {PATIENCE:?}"))??;
        self.keep_cookies(&answer);
        Ok(answer)
    }

    fn keep_cookies(&self, answer: &Answer) {
        for cookie in answer.headers.get_all(header::SET_COOKIE) {
            let cookie = cookie.to_str().expect("our cookies are ASCII");
            let (pair, attributes) = cookie.split_once(';').unwrap_or((cookie, ""));
            let (name, value) = pair.split_once('=').expect("a cookie has a name and a value");
            if attributes.split(';').any(|attribute| attribute.trim().eq_ignore_ascii_case("max-age=0")) {
                self.jar().remove(name);
            } else {
                self.jar().insert(name.to_owned(), value.to_owned());
            }
        }
    }

    fn jar(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.jar.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// When it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// `Set-Cookie`.
    pub fn set_cookie(&self) -> Option<&str> {
        self.header("set-cookie")
    }

    /// Which node answered.
    pub fn node(&self) -> Option<&str> {
        self.header("x-served-by")
    }

    /// The number that an increment answered.
    pub fn value(&self) -> i64 {
        self.json()["value"].as_i64().unwrap_or_else(|| panic!("no value: {self:?}"))
    }
}

/// Headers and body of a login.
pub(crate) fn login_form(username: &str, password: &str) -> ([(&'static str, &'static str); 1], Bytes) {
    let form = format!("username={username}&password={password}");
    ([("content-type", "application/x-www-form-urlencoded")], form.into())
}

/// The path of an attribute.
pub(crate) fn attribute(name: &str) -> String {
    format!("/api/session/attributes/{name}")
}
