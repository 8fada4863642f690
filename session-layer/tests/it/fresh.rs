//! P9: what a browser was told of its session comes back with it, in a second cookie, and what was lost is noticed.

use std::sync::{Arc, Mutex};

use session_layer::store::{Loaded, Record, SessionStore};
use session_layer::{SessionEvent, SessionId, SessionLayerBuilder};

use crate::fixture::{Answer, App, Browser, COOKIE, Call, Captured, Fault, TestStore, layer, setup, setup_with};

const TOKEN: &str = "__Host-session-v";

/// What an answer does to the jar: `id`, `token`, or `-id`, `-token` where it removes one.
fn cookies(answer: &Answer) -> String {
    let change = |cookie: &&str| {
        let name = if cookie.starts_with(&format!("{TOKEN}=")) { "token" } else { "id" };
        assert!(cookie.contains("; Path=/; HttpOnly; SameSite=Lax; Secure"), "{cookie}");
        if cookie.contains("Max-Age=0") { format!("-{name}") } else { name.to_owned() }
    };
    answer.set_cookies().iter().map(change).collect::<Vec<_>>().join(" ")
}

type Events = Arc<Mutex<Vec<SessionEvent>>>;

fn detecting(events: &Events) -> impl Fn(SessionLayerBuilder) -> SessionLayerBuilder + use<> {
    let events = Arc::clone(events);
    move |layer| {
        let events = Arc::clone(&events);
        layer.rollback_detection(true).on_event(move |event| events.lock().unwrap().push(event.clone()))
    }
}

fn detection() -> (TestStore, Browser, Events) {
    let events = Events::default();
    let (store, browser) = setup_with(detecting(&events));
    (store, browser, events)
}

async fn record(store: &TestStore, browser: &Browser) -> Record {
    let id = SessionId::decode(&browser.run("id").await.body).expect("an ID");
    store.calls();
    match store.memory.load(&id).await.expect("it answers") {
        Loaded::Alive(record) => record,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn where_nothing_depends_on_it_there_is_no_token() {
    let (_, browser) = setup();
    for ops in ["insert n 1", "get n", "insert n 2", "log_in alice", "cycle", "flush", "log_out"] {
        assert!(!cookies(&browser.run(ops).await).contains("token"), "{ops}");
    }
}

#[tokio::test]
async fn the_token_is_sent_when_the_version_changed_and_goes_and_comes_with_the_id() {
    let (_, browser, _) = detection();
    for (ops, sent) in [
        ("exists", ""),
        ("insert n 1", "id token"),
        ("get n", ""),
        ("insert n 2", "token"),
        ("insert n 3; flush; insert n 4", "token"),
        ("get n", ""),
        ("status 500; insert n 5", ""),
        ("status 500; insert n 5; flush", "token"),
        ("log_in alice", "id token"),
        ("principal", ""),
        ("cycle", "id token"),
        ("log_out", "-id -token"),
        ("exists", ""),
    ] {
        let answer = browser.run(ops).await;
        assert_eq!(cookies(&answer), sent, "{ops}");
        assert_eq!(answer.headers.get("cache-control").is_some_and(|value| value == "no-store"), !ops.is_empty());
    }
    browser.lazy("insert n 1").await.expect(200);
    assert_eq!(cookies(&browser.lazy("insert n 2").await), "token", "also when nothing is loaded");
    let untouched = browser.send(browser.request("/untouched", "")).await;
    assert_eq!(cookies(&untouched), "");
}

#[tokio::test]
async fn with_a_persistent_cookie_the_token_lasts_as_long() {
    let events = Events::default();
    let detecting = detecting(&events);
    let (_, browser) = setup_with(|layer| detecting(layer).persistent_cookie(true));
    let answer = browser.run("insert n 1").await;
    assert!(answer.set_cookies().iter().all(|cookie| cookie.ends_with("; Max-Age=1800")), "{answer:?}");
    assert_eq!(answer.set_cookies().len(), 2);
}

#[tokio::test]
async fn another_browsers_change_is_told_as_well() {
    let (_, browser, _) = detection();
    browser.run("insert n 1").await;
    let other = browser.copy();
    other.run("insert n 2").await;
    assert_eq!(cookies(&browser.run("get n").await), "token");
    assert_eq!(cookies(&browser.run("get n").await), "");
}

#[tokio::test]
async fn a_token_that_is_missing_old_foreign_or_forged_means_nothing_and_is_replaced() {
    let (store, browser, events) = detection();
    let stranger = browser.other();
    stranger.run("insert n 0").await;
    browser.run("insert n 1").await;
    let old = browser.cookie_named(TOKEN).expect("it was told");
    browser.run("insert n 2").await;
    let good = browser.cookie_named(TOKEN).expect("it was told");
    let mut forged = good.clone().into_bytes();
    forged[3] ^= 1;
    let forged = String::from_utf8(forged).expect("ASCII");
    let foreign = stranger.cookie_named(TOKEN).expect("it was told");
    let long = "A".repeat(10_000);
    for token in ["", "junk", &old, &foreign, &forged, &long, &browser.cookie().expect("an ID")] {
        browser.set_cookie(TOKEN, token);
        store.calls();
        let answer = browser.run("get n").await.says("2");
        assert_eq!(cookies(&answer), "token", "{token}");
        store.expect_calls(&[Call::Load]);
    }
    browser.forget_cookie(TOKEN);
    assert_eq!(cookies(&browser.run("get n").await.says("2")), "token");
    // The good one is found behind junk of its name, and alone it opens nothing.
    let mut request = browser.request("/run", "get n");
    let cookie = format!("{TOKEN}=junk; {COOKIE}={}; {TOKEN}={good}", browser.cookie().expect("an ID"));
    request.headers_mut().insert("cookie", cookie.parse().expect("a header"));
    assert_eq!(cookies(&browser.send(request).await), "");
    browser.forget_cookie(COOKIE);
    browser.run("exists").await.says("false");
    assert_eq!(*events.lock().unwrap(), []);
}

#[tokio::test]
async fn a_change_that_was_acknowledged_and_is_gone_is_reported_once_and_the_request_goes_on() {
    let (store, browser, events) = detection();
    browser.run("insert n 1").await.expect(200);
    let before = record(&store, &browser).await;
    browser.run("insert n 2").await.expect(200);
    let lost = record(&store, &browser).await;
    let log = Captured::begin();
    store.next(Call::Load, Fault::Answer(Loaded::Alive(before.clone())));
    let answer = browser.run("get n; id").await.expect(200);
    assert_eq!(cookies(&answer), "token", "re-issued");
    let (n, id) = answer.body.split_once(' ').expect("two words");
    let id = SessionId::decode(id).expect("an ID");
    assert_eq!(n, "1");
    let told = std::mem::take(&mut *events.lock().unwrap());
    let [SessionEvent::RolledBack { session, lost: gone, found, .. }] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((*session, *gone, *found), (id.handle(), lost.version, before.version));
    assert_eq!(log.text().matches("is gone from the store").count(), 1);
    // By the token that it has now nothing is missing.
    store.next(Call::Load, Fault::Answer(Loaded::Alive(before)));
    assert_eq!(cookies(&browser.run("get n").await.says("1")), "");
    assert_eq!(*events.lock().unwrap(), []);
}

/// A store whose sessions went back to what they were, and on from there.
async fn gone_on_without(browser: &Browser, store: &TestStore) -> String {
    browser.run("insert n 1").await.expect(200);
    let (elsewhere, replica) = (browser.copy(), store.memory.replica());
    browser.run("insert n 2").await.expect(200);
    let token = browser.cookie_named(TOKEN).expect("it was told");
    store.memory.fail_over_to(&replica);
    elsewhere.run("insert n 3").await.expect(200);
    token
}

#[tokio::test]
async fn it_is_noticed_as_well_when_others_have_changed_the_session_since() {
    let (store, browser, events) = detection();
    gone_on_without(&browser, &store).await;
    assert_eq!(cookies(&browser.run("get n").await.says("3")), "token");
    assert_eq!(events.lock().unwrap().len(), 1);
    browser.run("get n").await.says("3");
    assert_eq!(events.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn it_is_noticed_by_a_write_that_reads_nothing() {
    let (store, browser, events) = detection();
    gone_on_without(&browser, &store).await;
    assert_eq!(cookies(&browser.lazy("insert m 1").await.expect(200)), "token");
    assert_eq!(events.lock().unwrap().len(), 1);
    browser.lazy("insert m 2").await.expect(200);
    assert_eq!(events.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_older_than_the_last_eight_versions_cannot_be_told() {
    let (store, browser, events) = detection();
    let token = gone_on_without(&browser, &store).await;
    let other = browser.copy();
    other.forget_cookie(TOKEN);
    for n in 0..5 {
        other.run(&format!("insert n {n}")).await.expect(200);
    }
    browser.set_cookie(TOKEN, &token);
    browser.run("exists").await.says("true");
    assert_eq!(events.lock().unwrap().len(), 1, "seven later ones are remembered");
    for n in 0..3 {
        other.run(&format!("insert n {n}")).await.expect(200);
    }
    browser.set_cookie(TOKEN, &token);
    browser.run("exists").await.says("true");
    assert_eq!(events.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_reported_of_a_server_that_may_be_no_master() {
    let (store, browser, events) = detection();
    browser.run("insert n 1").await.expect(200);
    let before = record(&store, &browser).await;
    browser.run("insert n 2").await.expect(200);
    store.calls();
    // It was none: the one that is has everything.
    store.next(Call::Load, Fault::Answer(Loaded::Alive(before.clone())));
    store.next(Call::Confirm, Fault::Fail);
    assert_eq!(cookies(&browser.run("get n").await.says("2")), "");
    store.expect_calls(&[Call::Load, Call::Confirm, Call::Load]);
    // Nobody can say: the request goes on, and what the browser knows stays.
    store.next(Call::Load, Fault::Answer(Loaded::Alive(before)));
    store.next(Call::Confirm, Fault::Refuse);
    assert_eq!(cookies(&browser.run("get n").await.says("1")), "");
    assert_eq!(*events.lock().unwrap(), []);
}

#[tokio::test]
async fn nodes_with_and_without_detection_side_by_side_report_nothing_that_is_there() {
    let (store, events) = (TestStore::default(), Events::default());
    let with = App::new(detecting(&events)(layer(&store)).build().expect("the settings are good"));
    let without = App::new(layer(&store).build().expect("the settings are good"));
    let browser = Browser::new(&with);
    browser.run("insert n 0").await.expect(200);
    for n in 1..40 {
        // In no order that repeats soon.
        let node = if (n * n) % 7 < 3 { &with } else { &without };
        let tab = browser.at(node);
        if n % 3 == 0 { tab.lazy(&format!("insert n {n}")).await } else { tab.run(&format!("insert n {n}")).await }
            .expect(200);
        browser.at(&with).run("get n").await.says(&n.to_string());
    }
    assert_eq!(*events.lock().unwrap(), []);
}

#[tokio::test]
async fn requests_at_the_same_time_report_nothing_that_is_there() {
    let (_, browser, events) = detection();
    browser.run("insert n 0").await.expect(200);
    for _ in 0..20 {
        let tabs: Vec<_> = (0..6).map(|n| browser.start(&format!("insert a{n} 1"))).collect();
        let mut answers = Vec::new();
        for tab in tabs {
            answers.push(tab.await.expect("it ends").expect(200));
        }
        // The answers come in the opposite order.
        answers.iter().rev().for_each(|answer| browser.receive(answer));
        browser.run("get a0").await.says("1");
    }
    assert_eq!(*events.lock().unwrap(), []);
}
