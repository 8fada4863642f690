//! How long a request waits for the store, and that nothing hangs past its budget.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::fixture::Call::{Apply, Load, Touch};
use crate::fixture::{Answer, App, BUDGET, Browser, Call, Fault, TestStore, millis, settle, setup, setup_with};

async fn with_session() -> (TestStore, Browser) {
    let (store, browser) = setup();
    browser.run("insert n 0").await.expect(200);
    store.calls();
    (store, browser)
}

/// The answer, and how long it took.
async fn timed(answer: impl Future<Output = Answer>) -> (u16, Duration) {
    let started = Instant::now();
    let answer = answer.await;
    (answer.status.as_u16(), started.elapsed())
}

/// Timers tick in milliseconds.
#[track_caller]
fn about(took: Duration, expected: Duration) {
    assert!(took >= expected && took <= expected + millis(2), "{took:?} instead of {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_is_503_when_the_budget_is_spent_and_no_later() {
    for (call, ops) in [
        (Load, "get n"),
        (Apply, "insert a 1"),
        (Call::Renew, "log_in alice"),
        (Call::Destroy, "log_out"),
        (Apply, "insert a 1; flush"),
        (Apply, "push list 1"),
    ] {
        let (store, browser) = with_session().await;
        store.next(call, Fault::Hang);
        let (status, took) = timed(browser.run(ops)).await;
        println!("{ops}: {status} after {took:?}");
        assert_eq!(status, 503, "{ops}");
        about(took, BUDGET);
    }
    let (store, browser) = with_session().await;
    store.next(Apply, Fault::Hang);
    let (status, took) = timed(browser.lazy("insert a 1")).await;
    assert_eq!(status, 503);
    about(took, BUDGET);
}

#[tokio::test(start_paused = true)]
async fn load_flushes_and_commit_share_one_budget() {
    let delay = |secs| Fault::Delay(Duration::from_secs(secs));
    let (store, browser) = with_session().await;
    store.next(Load, delay(2));
    store.next(Apply, delay(2));
    let (status, took) = timed(browser.run("get n; insert a 1")).await;
    assert_eq!(status, 200);
    about(took, Duration::from_secs(4));

    for ops in ["get n; insert b 1", "get n; insert b 1; flush", "push b 1"] {
        store.next(Load, delay(3));
        store.next(Apply, delay(3));
        let (status, took) = timed(browser.run(ops)).await;
        assert_eq!(status, 503, "{ops}");
        about(took, BUDGET);
    }
    store.next(Apply, delay(2));
    store.next(Apply, delay(2));
    store.next(Apply, delay(2));
    let (status, took) = timed(browser.run("insert b 1; flush; insert b 2; flush; insert b 3")).await;
    assert_eq!(status, 503);
    about(took, BUDGET);
    browser.run("get a; get b").await.says("1 2");
}

#[tokio::test(start_paused = true)]
async fn the_handlers_own_time_is_free() {
    let (store, browser) = with_session().await;
    store.next(Load, Fault::Delay(Duration::from_secs(2)));
    store.next(Apply, Fault::Delay(Duration::from_secs(2)));
    let (status, took) = timed(browser.run("get n; sleep 600000; insert a 1")).await;
    assert_eq!(status, 200);
    about(took, Duration::from_secs(604));
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_a_store_that_comes_back_within_the_budget() {
    for ops in ["get n", "insert a 1", "increment n; flush n", "add n", "log_in alice", "log_out"] {
        let (store, browser) = with_session().await;
        store.go_down();
        let started = Instant::now();
        let request = browser.start(ops);
        sleep(Duration::from_secs(3)).await;
        assert!(!request.is_finished());
        // One attempt; then it waits until it is told, and asks nobody meanwhile.
        assert_eq!(store.calls(), [Load]);
        store.come_back();
        request.await.unwrap().expect(200);
        assert!(started.elapsed() < Duration::from_secs(3) + millis(50), "{:?}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_tell_when_it_is_back_is_asked_a_bounded_number_of_times() {
    let (store, browser) = with_session().await;
    store.always(Fault::Fail);
    let (status, took) = timed(browser.run("get n")).await;
    assert_eq!(status, 503);
    about(took, BUDGET);
    let attempts = store.calls().len();
    println!("{attempts} attempts in {took:?}");
    assert!((20..100).contains(&attempts), "{attempts}");
    store.always(Fault::Fail);
    let request = browser.start("get n");
    sleep(Duration::from_secs(4)).await;
    store.always(None);
    request.await.unwrap().says("0");
}

#[tokio::test(start_paused = true)]
async fn requests_above_the_bound_of_waiters_are_503_at_once() {
    let (store, browser) = setup_with(|layer| layer.max_waiting(3));
    browser.run("insert n 0").await.expect(200);
    store.go_down();
    let waiting: Vec<_> = (0..3).map(|_| browser.start("get n; increment n")).collect();
    settle().await;
    for _ in 0..20 {
        let started = Instant::now();
        let answer = browser.run("get n").await.expect(503);
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert!(answer.error.is_some_and(|error| error.is_unavailable()));
        assert!(answer.headers.contains_key("retry-after"));
    }
    // Routes that ask for no session are not affected.
    browser.send(browser.request("/untouched", "")).await.expect(200);
    store.come_back();
    for request in waiting {
        request.await.unwrap().expect(200);
    }
    browser.run("get n").await.says("3");
    // Those that waited count no longer.
    store.go_down();
    let waiting: Vec<_> = (0..3).map(|_| browser.start("get n")).collect();
    settle().await;
    browser.run("get n").await.expect(503);
    // Nor do those that go.
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    settle().await;
    let patient = browser.start("get n");
    settle().await;
    store.come_back();
    patient.await.unwrap().says("3");
}

#[tokio::test(start_paused = true)]
async fn those_who_waited_do_not_all_come_at_once() {
    let (store, browser) = with_session().await;
    store.go_down();
    let waiting: Vec<_> = (0..200)
        .map(|_| {
            let answer = browser.start("get n");
            tokio::spawn(async move {
                answer.await.unwrap().expect(200);
                Instant::now()
            })
        })
        .collect();
    settle().await;
    store.come_back();
    let back = Instant::now();
    let mut after = std::collections::BTreeMap::<u128, usize>::new();
    for answered in waiting {
        *after.entry((answered.await.unwrap() - back).as_millis()).or_default() += 1;
    }
    println!("answered after so many milliseconds: {after:?}");
    // 5 to 10 ms, and timers tick in milliseconds.
    assert!(after.keys().all(|millis| (5..=11).contains(millis)), "{after:?}");
    assert!(after.len() >= 4 && after.values().all(|together| *together < 120), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_second_extractor_does_not_wait_for_a_second_budget() {
    async fn handler(one: Result<session_layer::Session, session_layer::SessionError>, two: session_layer::Session) {
        drop((one, two));
    }
    let (store, browser) = with_session().await;
    store.always(Fault::Hang);
    let layer = crate::fixture::layer(&store).build().unwrap();
    let app = axum::Router::new().route("/run", axum::routing::post(handler)).layer(layer);
    let started = Instant::now();
    let answer = tower::ServiceExt::oneshot(app, browser.request("/run", "")).await.unwrap();
    assert_eq!(answer.status(), 503);
    about(started.elapsed(), BUDGET);
}

#[tokio::test(start_paused = true)]
async fn a_touch_that_hangs_holds_nobody_up() {
    let (store, browser) = with_session().await;
    sleep(crate::fixture::minutes(20)).await;
    store.next(Touch, Fault::Hang);
    let (status, took) = timed(browser.run("get n")).await;
    assert_eq!((status, took), (200, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_budget_of_its_own_for_each_layer() {
    let store = TestStore::default();
    let quick = App::new(crate::fixture::layer(&store).budget(millis(100)).build().unwrap());
    let browser = Browser::new(&quick);
    browser.run("insert n 0").await.expect(200);
    store.next(Load, Fault::Hang);
    let (status, took) = timed(browser.run("get n")).await;
    assert_eq!(status, 503);
    about(took, millis(100));
}

#[tokio::test(start_paused = true)]
async fn a_hanging_flush_of_one_task_keeps_others_within_the_budget_too() {
    // Two flushes in a row, both hanging: the second has nothing left to spend.
    let (store, browser) = with_session().await;
    store.always(Fault::Hang);
    let visitor = browser.other();
    let (status, took) =
        timed(visitor.run("insert a 1; try flush; insert b 1; try flush; insert c 1; status 422")).await;
    assert_eq!(status, 503, "the last changes could not be committed, and the handler does not know");
    about(took, BUDGET);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_goes_on_after_the_handler_does_not_hold_its_answer_up() {
    // It asks for the session once the handler has answered, but before the commit has begun, and has a budget of its own.
    for late in ["reload", "update"] {
        let (store, browser) = with_session().await;
        let handler = move |session: session_layer::Session| async move {
            session.insert("a", 1).unwrap();
            tokio::spawn(async move {
                match late {
                    "reload" => session.reload().await.map(|_| ()),
                    _ => session.update("n", |n: &mut Option<u64>| *n = Some(1)).await,
                }
            });
        };
        let layer = crate::fixture::layer(&store).build().unwrap();
        let app = axum::Router::new().route("/run", axum::routing::post(handler)).layer(layer);
        let request = tokio::spawn(tower::ServiceExt::oneshot(app, browser.request("/run", "")));
        // The load of the extractor is answered; all that comes later hangs.
        let loaded = store.hold_answer(Load);
        loaded.reached(1).await;
        store.always(Fault::Hang);
        let started = Instant::now();
        loaded.open();
        assert_eq!(request.await.unwrap().unwrap().status(), 503);
        println!("{late}: {:?}", started.elapsed());
        about(started.elapsed(), BUDGET);
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_that_failed_wipes_nothing() {
    let (store, browser) = with_session().await;
    for fault in [Fault::Refuse, Fault::Hang] {
        store.next(Load, fault);
        browser.run("insert a 1").await.expect(503).without_cookie();
        browser.run("names; get n").await.says("n 0");
    }
}
