//! Clients that go, and handlers that give up: the session is wholly as before or wholly as after.

use crate::fixture::Call::{Apply, Create, Load, Renew};
use crate::fixture::{App, Browser, Fault, TestStore, layer, settle};

async fn with_session() -> (TestStore, App, Browser) {
    let store = TestStore::default();
    let app = App::new(layer(&store).build().unwrap());
    let browser = Browser::new(&app);
    browser.run("insert n 0").await.expect(200);
    store.calls();
    (store, app, browser)
}

#[tokio::test]
async fn a_client_that_goes_before_the_handler_has_answered_changes_nothing() {
    let (store, app, browser) = with_session().await;
    let request = browser.start("insert a 1; log_in alice; hold handler");
    app.gate("handler").reached(1).await;
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    settle().await;
    store.expect_calls(&[Load]);
    browser.run("names; principal").await.says("n nobody");
}

#[tokio::test]
async fn a_commit_that_has_begun_runs_to_its_end_even_if_the_client_goes() {
    for (call, ops) in [(Apply, "insert a 1; increment n"), (Renew, "insert a 1; increment n; log_in alice")] {
        let (store, _, browser) = with_session().await;
        let gate = store.hold(call);
        let request = browser.start(ops);
        gate.reached(1).await;
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        gate.open();
        settle().await;
        if call == Apply {
            browser.run("names; get n").await.says("a,n 1");
        } else {
            browser.run("exists").await.says("false");
            browser.run("log_in alice").await.expect(200);
            browser.run("names; get n").await.says("a,n 1");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_client_has_gone_is_still_repeated_until_it_has_an_answer() {
    let (store, _, browser) = with_session().await;
    let gate = store.hold(Apply);
    let request = browser.start("increment n");
    gate.reached(1).await;
    request.abort();
    store.next(Apply, Fault::Fail);
    store.next(Apply, Fault::LoseAnswer);
    gate.open();
    tokio::time::sleep(crate::fixture::BUDGET).await;
    browser.run("get n").await.says("1");
}

#[tokio::test]
async fn a_client_that_goes_during_a_flush_leaves_it_undone_or_done() {
    // Before it was done.
    let (store, _, browser) = with_session().await;
    let gate = store.hold(Apply);
    let request = browser.start("insert a 1; insert b 1; flush; insert c 1");
    gate.reached(1).await;
    request.abort();
    gate.open();
    settle().await;
    browser.run("names").await.says("n");
    // After.
    let gate = store.hold_answer(Apply);
    let request = browser.start("insert a 1; insert b 1; flush; insert c 1");
    gate.reached(1).await;
    request.abort();
    gate.open();
    settle().await;
    browser.run("names").await.says("a,b,n");
}

#[tokio::test(start_paused = true)]
async fn an_answer_does_not_claim_a_flush_that_the_handler_gave_up() {
    for fault in [Fault::Hang, Fault::HangAfter] {
        for ops in [
            "insert a 1; flush_within 100",
            "insert a 1; flush_within 100; insert b 1",
            "insert a 1; flush_within 100; insert b 1; try flush",
        ] {
            let (store, _, browser) = with_session().await;
            store.next(Apply, fault.clone());
            let answer = browser.run(ops).await;
            let names = browser.run("names").await.expect(200).body;
            let lost = !names.starts_with('a');
            assert!(answer.status == 503 || !lost, "{ops}: {} but {names}", answer.status);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_gives_up_a_flush_and_says_so_answers_as_it_likes() {
    let (store, _, browser) = with_session().await;
    store.next(Apply, Fault::Hang);
    browser.run("insert a 1; flush_within 100; insert b 1; status 504").await.expect(504);
    store.next(Apply, Fault::Hang);
    browser.run("insert a 1; flush_within 100; insert b 1; status 422").await.expect(422);
    // What came later is committed; what was given up is not known, here: not done.
    browser.run("names").await.says("b,n");
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_creation_was_given_up_is_not_claimed() {
    for fault in [Fault::Hang, Fault::HangAfter] {
        let (store, _, browser) = with_session().await;
        let visitor = browser.other();
        store.next(Create, fault);
        visitor.run("insert a 1; flush_within 100").await.expect(503);
        visitor.run("names").await.says("");
    }
}

#[tokio::test]
async fn a_load_that_was_given_up_is_made_again_by_whoever_asks_next() {
    use axum::extract::Request;
    use session_layer::Session;
    async fn handler(request: Request) -> String {
        let extensions = request.extensions();
        let first = tokio::time::timeout(crate::fixture::millis(10), Session::from_extensions(extensions)).await;
        let second = Session::from_extensions(extensions).await.unwrap();
        format!("{} {:?}", first.is_err(), second.get::<i64>("n").unwrap())
    }
    tokio::time::pause();
    let (store, _, browser) = with_session().await;
    store.next(Load, Fault::Hang);
    let app = axum::Router::new().route("/run", axum::routing::post(handler)).layer(layer(&store).build().unwrap());
    let answer = tower::ServiceExt::oneshot(app, browser.request("/run", "")).await.unwrap();
    crate::fixture::Answer::read(answer).await.says("true Some(0)");
    store.expect_calls(&[Load, Load]);
}

#[tokio::test]
async fn an_update_whose_closure_panics_keeps_the_other_changes_or_says_so() {
    use session_layer::{Session, SessionError};
    async fn handler(session: Session) -> Result<&'static str, SessionError> {
        session.insert("a", 1)?;
        let task = tokio::spawn({
            let session = session.clone();
            async move { session.update("n", |_: &mut Option<u64>| panic!("in the closure")).await }
        });
        assert!(task.await.unwrap_err().is_panic());
        Ok("done")
    }
    let (store, _, browser) = with_session().await;
    let app = axum::Router::new().route("/run", axum::routing::post(handler)).layer(layer(&store).build().unwrap());
    let answer = tower::ServiceExt::oneshot(app, browser.request("/run", "")).await.unwrap();
    let names = browser.run("names").await.body;
    assert!(answer.status() == 503 || names == "a,n", "{} but {names}", answer.status());
}

#[tokio::test]
async fn a_flush_of_a_task_that_outlives_the_handler_belongs_to_the_answer() {
    use session_layer::{Session, SessionError};
    async fn handler(session: Session) -> Result<&'static str, SessionError> {
        session.insert("a", 1)?;
        tokio::spawn(async move { session.flush().await });
        settle().await;
        Ok("done")
    }
    let (store, _, browser) = with_session().await;
    let app = axum::Router::new().route("/run", axum::routing::post(handler)).layer(layer(&store).build().unwrap());
    let gate = store.hold(Apply);
    let answer = tokio::spawn(tower::ServiceExt::oneshot(app.clone(), browser.request("/run", "")));
    gate.reached(1).await;
    settle().await;
    assert!(!answer.is_finished(), "the answer waits for the flush");
    gate.open();
    assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    browser.run("names").await.says("a,n");
    // And so does its failure.
    store.next(Apply, Fault::Refuse);
    let answer = tower::ServiceExt::oneshot(app, browser.request("/run", "")).await.unwrap();
    assert_eq!(answer.status(), 503);
}

#[tokio::test]
async fn a_task_that_flushes_after_its_client_has_gone_is_told_that_it_is_too_late() {
    use session_layer::{Session, SessionError};
    let (store, _, browser) = with_session().await;
    let (told, mut tell) = tokio::sync::mpsc::unbounded_channel();
    let gate = crate::fixture::Gate::default();
    let handler = {
        let gate = gate.clone();
        move |session: Session| async move {
            tokio::spawn(async move {
                gate.pass().await;
                let results: [Result<(), SessionError>; 2] =
                    [session.insert("a", 1), session.flush().await.map(|_| ())];
                told.send(results).unwrap();
            });
            std::future::pending::<()>().await;
        }
    };
    let app = axum::Router::new().route("/run", axum::routing::post(handler)).layer(layer(&store).build().unwrap());
    let request = tokio::spawn(tower::ServiceExt::oneshot(app, browser.request("/run", "")));
    gate.reached(1).await;
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    gate.open();
    let results = tell.recv().await.unwrap();
    assert!(results.iter().all(|result| result.as_ref().is_err_and(SessionError::is_too_late)), "{results:?}");
    browser.run("names").await.says("n");
}

#[tokio::test]
async fn an_answer_5xx_drops_also_what_a_failing_update_puts_back() {
    use session_layer::Session;
    // The task's update fails after the handler has answered 500, and gives back the changes that it had taken along.
    let (store, _, browser) = with_session().await;
    let gate = store.hold(Apply);
    let handler = move |session: Session| async move {
        session.insert("a", 1).unwrap();
        tokio::spawn(async move {
            let mut calls = 0;
            session
                .update("n", move |n: &mut Option<serde_json::Value>| {
                    calls += 1;
                    // The second time it makes a value that is too long.
                    *n = Some(if calls == 1 { 1.into() } else { "x".repeat(100_000).into() });
                })
                .await
        });
        settle().await;
        axum::http::StatusCode::INTERNAL_SERVER_ERROR
    };
    let app = axum::Router::new().route("/run", axum::routing::post(handler)).layer(layer(&store).build().unwrap());
    let answer = tokio::spawn(tower::ServiceExt::oneshot(app, browser.request("/run", "")));
    gate.reached(1).await;
    settle().await;
    browser.run("insert n 7").await.expect(200);
    gate.open();
    assert_eq!(answer.await.unwrap().unwrap().status(), 500);
    settle().await;
    browser.run("names; get n").await.says("n 7");
}

#[tokio::test]
async fn an_update_after_the_client_has_gone_takes_nothing_along_that_was_not_committed() {
    use session_layer::Session;
    let (store, _, browser) = with_session().await;
    let (gate, (told, mut tell)) = (crate::fixture::Gate::default(), tokio::sync::mpsc::unbounded_channel());
    let handler = {
        let gate = gate.clone();
        move |session: Session| async move {
            session.insert("a", 1).unwrap();
            tokio::spawn(async move {
                gate.pass().await;
                told.send(session.update("n", |n: &mut Option<u64>| *n = Some(7)).await).unwrap();
            });
            std::future::pending::<()>().await;
        }
    };
    let app = axum::Router::new().route("/run", axum::routing::post(handler)).layer(layer(&store).build().unwrap());
    let request = tokio::spawn(tower::ServiceExt::oneshot(app, browser.request("/run", "")));
    gate.reached(1).await;
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    gate.open();
    tell.recv().await.unwrap().unwrap();
    browser.run("names; get n").await.says("n 7");
}
