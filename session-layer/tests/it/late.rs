//! After the response's head is out: streams, WebSockets, tasks that go on.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::Response;
use axum::routing::post;
use http_body_util::BodyExt;
use session_layer::{LazySession, Session, SessionError};
use tokio::sync::mpsc;
use tower::ServiceExt;

use crate::fixture::Call::{Apply, Load, Touch};
use crate::fixture::{BUDGET, Browser, Fault, TestStore, layer, setup};

/// A route whose answer is a stream: for each word sent to it, it does something with the session and says how it went.
struct Stream {
    say: mpsc::UnboundedSender<&'static str>,
    body: Body,
}

impl Stream {
    async fn open(store: &TestStore, browser: &Browser) -> Self {
        let (say, heard) = mpsc::unbounded_channel::<&'static str>();
        let heard = Arc::new(Mutex::new(Some(heard)));
        let handler = |session: Session| async move {
            let mut heard = heard.lock().unwrap().take().expect("asked once");
            session.increment("opened", 1).unwrap();
            let (answer, mut answers) = mpsc::channel::<String>(1);
            tokio::spawn(async move {
                while let Some(word) = heard.recv().await {
                    let said = Self::act(&session, word).await;
                    answer.send(said).await.unwrap();
                }
            });
            let stream = async_stream(move |cx| answers.poll_recv(cx));
            Response::new(Body::new(stream))
        };
        let app = Router::new().route("/run", post(handler)).layer(layer(store).build().unwrap());
        let response = app.oneshot(browser.request("/run", "")).await.unwrap();
        assert_eq!(response.status(), 200);
        Self { say, body: response.into_body() }
    }

    async fn act(session: &Session, word: &str) -> String {
        let show = |result: Result<String, SessionError>| match result {
            Ok(text) => text,
            Err(error) if error.is_too_late() => "too late".to_owned(),
            Err(error) => error.status().as_u16().to_string(),
        };
        show(match word {
            "insert" => session.insert("late", 1).map(|()| "inserted".into()),
            "remove" => session.remove("n").map(|_| "removed".into()),
            "increment" => session.increment("n", 1).map(|()| "incremented".into()),
            "log_in" => session.log_in("mallory").map(|()| "logged in".into()),
            "log_out" => session.log_out().map(|()| "logged out".into()),
            "cycle" => session.cycle_id().map(|()| "cycled".into()),
            "clear" => session.clear().map(|()| "cleared".into()),
            "flush" => session.flush().await.map(|_| "flushed".into()),
            "reload" => session.reload().await.map(|alive| alive.to_string()),
            "touch" => session.touch().await.map(|alive| alive.to_string()),
            "get" => session.get::<i64>("n").map(|n| format!("{n:?}")),
            "update" => session
                .update("n", |n: &mut Option<i64>| {
                    *n = Some(n.unwrap_or(0) + 1);
                    n.unwrap()
                })
                .await
                .map(|n| n.to_string()),
            other => panic!("{other}"),
        })
    }

    async fn ask(&mut self, word: &'static str) -> String {
        self.say.send(word).unwrap();
        let frame = self.body.frame().await.unwrap().unwrap();
        String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
    }
}

/// A body from a function that polls, so that no crate is needed for it.
fn async_stream(
    poll: impl FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<String>> + Send + Unpin + 'static,
) -> impl http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static {
    struct Polled<F>(F);
    impl<F> http_body::Body for Polled<F>
    where
        F: FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<String>> + Unpin,
    {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
            (self.0)(cx).map(|text| text.map(|text| Ok(http_body::Frame::data(text.into()))))
        }
    }
    Polled(poll)
}

async fn open() -> (TestStore, Browser, Stream) {
    let (store, browser) = setup();
    browser.run("insert n 1").await.expect(200);
    let stream = Stream::open(&store, &browser).await;
    store.calls();
    (store, browser, stream)
}

#[tokio::test]
async fn changes_through_the_handle_are_errors_once_the_head_is_out() {
    let (store, browser, mut stream) = open().await;
    for word in ["insert", "remove", "increment", "clear", "cycle", "log_in", "log_out", "flush"] {
        assert_eq!(stream.ask(word).await, "too late", "{word}");
    }
    store.expect_calls(&[]);
    browser.run("names; principal; get opened").await.says("n,opened nobody 1");
}

#[tokio::test]
async fn reload_shows_what_others_did_and_whether_the_session_still_lives() {
    let (store, browser, mut stream) = open().await;
    browser.run("insert n 5").await.expect(200);
    assert_eq!(stream.ask("get").await, "Some(1)");
    assert_eq!(stream.ask("reload").await, "true");
    assert_eq!(stream.ask("get").await, "Some(5)");
    browser.run("log_out").await.expect(200);
    assert_eq!(stream.ask("reload").await, "false");
    assert_eq!(stream.ask("get").await, "None");
    assert_eq!(stream.ask("reload").await, "false");
    assert!(store.memory.is_empty());
}

#[tokio::test]
async fn reload_ends_with_the_id_that_the_stream_was_opened_with() {
    for end in ["log_in alice", "cycle", "log_out; insert flash 1"] {
        let (_, browser, mut stream) = open().await;
        browser.run(end).await.expect(200);
        assert_eq!(stream.ask("reload").await, "false", "{end}");
        assert_eq!(stream.ask("update").await, "409", "{end}");
    }
}

#[tokio::test]
async fn update_works_once_the_head_is_out_and_is_exact() {
    let (store, browser, mut stream) = open().await;
    assert_eq!(stream.ask("update").await, "2");
    store.expect_calls(&[Apply]);
    browser.run("insert n 10").await.expect(200);
    store.calls();
    assert_eq!(stream.ask("update").await, "11");
    store.expect_calls(&[Apply, Apply]);
    browser.run("get n").await.says("11");
}

#[tokio::test]
async fn update_does_not_bring_a_session_back_that_was_logged_out() {
    let (store, browser, mut stream) = open().await;
    browser.run("log_out").await.expect(200);
    assert_eq!(stream.ask("update").await, "409");
    assert_eq!(stream.ask("reload").await, "false");
    assert_eq!(stream.ask("update").await, "409");
    assert!(store.memory.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_outlives_its_session_finds_out() {
    let (store, _, mut stream) = open().await;
    tokio::time::advance(crate::fixture::minutes(31)).await;
    assert_eq!(stream.ask("update").await, "409");
    assert_eq!(stream.ask("reload").await, "false");
    assert!(store.memory.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stream_prolongs_its_session_only_when_it_asks_for_that() {
    let (store, browser, mut stream) = open().await;
    for _ in 0..4 {
        tokio::time::advance(crate::fixture::minutes(20)).await;
        assert_eq!(stream.ask("touch").await, "true");
        crate::fixture::settle().await;
        store.expect_calls(&[Load, Touch]);
        // Nothing is used up yet.
        assert_eq!(stream.ask("touch").await, "true");
        crate::fixture::settle().await;
        store.expect_calls(&[Load]);
    }
    for alive in ["true", "false"] {
        tokio::time::advance(crate::fixture::minutes(20)).await;
        assert_eq!(stream.ask("reload").await, alive);
    }
    assert_eq!(stream.ask("touch").await, "false");
    browser.run("exists").await.says("false");
}

#[tokio::test(start_paused = true)]
async fn each_late_call_has_a_budget_of_its_own() {
    let (store, _, mut stream) = open().await;
    for _ in 0..2 {
        for (call, word) in [(Load, "reload"), (Apply, "update")] {
            store.next(call, Fault::Hang);
            let started = tokio::time::Instant::now();
            assert_eq!(stream.ask(word).await, "503");
            let took = started.elapsed();
            assert!(took >= BUDGET && took < BUDGET + crate::fixture::millis(2), "{took:?}");
        }
    }
    assert_eq!(stream.ask("reload").await, "true");
    assert_eq!(stream.ask("update").await, "2");
}

#[tokio::test]
async fn a_visitors_stream_starts_no_session_late() {
    let (store, browser) = setup();
    let handler = |session: Session| async move {
        let (done, body) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            tokio::task::yield_now().await;
            let error = session.update("n", |n: &mut Option<i64>| *n = Some(1)).await.unwrap_err();
            done.send((error.is_gone(), session.reload().await.unwrap())).unwrap();
        });
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(Arc::new(Mutex::new(Some(body))));
        response
    };
    let app = Router::new().route("/run", post(handler)).layer(layer(&store).build().unwrap());
    let mut response = app.oneshot(browser.request("/run", "")).await.unwrap();
    type Told = Arc<Mutex<Option<tokio::sync::oneshot::Receiver<(bool, bool)>>>>;
    let told = response.extensions_mut().remove::<Told>().unwrap();
    let told = told.lock().unwrap().take().unwrap();
    assert_eq!(told.await.unwrap(), (true, false));
    store.expect_calls(&[]);
}

#[tokio::test]
async fn a_late_update_takes_nothing_along_that_the_answer_said_was_not_applied() {
    let (store, browser) = setup();
    browser.run("insert n 1").await.expect(200);
    let gate = crate::fixture::Gate::default();
    let (done, updated) = tokio::sync::oneshot::channel();
    let (done, after) = (Arc::new(Mutex::new(Some(done))), gate.clone());
    let handler = |session: Session| async move {
        session.insert("a", 1).unwrap();
        session.flush().await.unwrap_err();
        session.insert("b", 1).unwrap();
        tokio::spawn(async move {
            after.pass().await;
            let updated = session.update("n", |n: &mut Option<i64>| *n = Some(2)).await;
            done.lock().unwrap().take().unwrap().send(updated.is_ok()).unwrap();
        });
    };
    let app = Router::new().route("/run", post(handler)).layer(layer(&store).build().unwrap());
    store.next(Apply, Fault::Refuse);
    let answer = app.oneshot(browser.request("/run", "")).await.unwrap();
    assert_eq!(answer.status(), 503);
    gate.open();
    assert!(updated.await.unwrap());
    browser.run("names; get n").await.says("n 2");
}

#[tokio::test]
async fn a_change_while_the_commit_is_on_its_way_is_an_error_and_not_lost() {
    let (store, browser) = setup();
    browser.run("insert n 1").await.expect(200);
    let gate = crate::fixture::Gate::default();
    let (done, told) = tokio::sync::oneshot::channel();
    let (done, after) = (Arc::new(Mutex::new(Some(done))), gate.clone());
    let handler = |session: Session| async move {
        session.insert("a", 1).unwrap();
        tokio::spawn(async move {
            after.pass().await;
            done.lock().unwrap().take().unwrap().send(session.insert("b", 1)).unwrap();
        });
    };
    let app = Router::new().route("/run", post(handler)).layer(layer(&store).build().unwrap());
    let committing = store.hold(Apply);
    let answer = tokio::spawn(app.oneshot(browser.request("/run", "")));
    committing.reached(1).await;
    gate.open();
    assert!(told.await.unwrap().unwrap_err().is_too_late());
    committing.open();
    assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    browser.run("names").await.says("a,n");
}

#[tokio::test]
async fn a_handle_that_nobody_used_before_the_head_changes_nothing_after_it() {
    let (store, browser) = setup();
    browser.run("insert n 1").await.expect(200).with_cookie();
    store.calls();
    let kept = Arc::new(Mutex::new(None));
    let handler = {
        let kept = Arc::clone(&kept);
        async move |session: LazySession| {
            *kept.lock().unwrap() = Some(session);
        }
    };
    let app = Router::new().route("/run", post(handler)).layer(layer(&store).build().unwrap());
    let response = app.oneshot(browser.request("/run", "")).await.unwrap();
    assert_eq!(response.status(), 200);
    let session = kept.lock().unwrap().take().expect("it was kept");
    assert!(session.insert("late", 1).unwrap_err().is_too_late());
    store.expect_calls(&[]);
}
