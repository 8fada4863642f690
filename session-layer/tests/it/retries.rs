//! Where a retry goes, and what is committed when a request is sent more than once.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header;
use session_layer::{LazySession, Session};
use tower::retry::{Policy, RetryLayer};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::fixture::Call::Apply;
use crate::fixture::{App, Browser, Fault, TestStore, layer, setup};

/// Repeats requests that were answered 5xx, so many times.
#[derive(Clone)]
struct Again(usize);

impl<B> Policy<http::Request<String>, http::Response<B>, Infallible> for Again {
    type Future = std::future::Ready<()>;

    fn retry(
        &mut self,
        _request: &mut http::Request<String>,
        result: &mut Result<http::Response<B>, Infallible>,
    ) -> Option<Self::Future> {
        let failed = result.as_ref().is_ok_and(|response| response.status().is_server_error());
        self.0 = self.0.checked_sub(usize::from(failed))?;
        failed.then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, request: &http::Request<String>) -> Option<http::Request<String>> {
        Some(request.clone())
    }
}

/// Counts its calls in the session, and answers 500 to the first one.
fn flaky()
-> impl Service<http::Request<String>, Response = http::Response<String>, Error = Infallible, Future: Send> + Clone {
    let failed = Arc::new(AtomicBool::new(false));
    service_fn(move |request: http::Request<String>| {
        let failed = Arc::clone(&failed);
        async move {
            let session = Session::from_extensions(request.extensions()).await.unwrap();
            session.increment("calls", 1).unwrap();
            let status = if failed.swap(true, Ordering::Relaxed) { 200 } else { 500 };
            Ok(http::Response::builder().status(status).body(String::new()).unwrap())
        }
    })
}

async fn calls_counted<S, B>(service: S, store: &TestStore) -> i64
where
    S: Service<http::Request<String>, Response = http::Response<B>, Error = Infallible>,
{
    let response = service.oneshot(http::Request::new(String::new())).await.unwrap();
    assert_eq!(response.status(), 200);
    let cookie = response.headers()[header::SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
    let (name, value) = cookie.split_once('=').unwrap();
    let browser = Browser::new(&App::new(layer(store).build().unwrap()));
    browser.set_cookie(name, value);
    browser.run("number calls").await.body.parse().unwrap()
}

#[tokio::test]
async fn a_retry_outside_commits_only_the_attempt_that_succeeded() {
    let store = TestStore::default();
    let sessions = layer(&store).build().unwrap();
    let service = RetryLayer::new(Again(3)).layer(sessions.layer(flaky()));
    assert_eq!(calls_counted(service, &store).await, 1);
    assert_eq!(store.memory.len(), 1);
}

#[tokio::test]
async fn a_retry_inside_commits_what_failed_attempts_changed_as_well() {
    let store = TestStore::default();
    let sessions = layer(&store).build().unwrap();
    let service = sessions.layer(RetryLayer::new(Again(3)).layer(flaky()));
    assert_eq!(calls_counted(service, &store).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_retry_outside_of_a_commit_whose_answer_was_lost_counts_twice() {
    let (store, browser) = setup();
    let sessions = layer(&store).build().unwrap();
    browser.run("insert calls 0").await.with_cookie();
    let handler = service_fn(|request: http::Request<String>| async move {
        let session = LazySession::from_extensions(request.extensions()).unwrap();
        session.increment("calls", 1).unwrap();
        Ok::<_, Infallible>(http::Response::new(String::new()))
    });
    // Applied, but its reply never came: 503 when the budget is spent, since the layer does not know.
    store.next(Apply, Fault::HangAfter);
    let request = browser.request("/", "").map(|_| String::new());
    let response = RetryLayer::new(Again(3)).layer(sessions.layer(handler)).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    browser.run("number calls").await.says("2");
}
