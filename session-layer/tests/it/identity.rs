//! Which session a request means: the table of what a request gets for an ID that is known, gone, renewed or never was.

use tokio::time::advance;

use crate::fixture::Call::{Apply, Create, Destroy, Load};
use crate::fixture::{App, Browser, TestStore, layer, minutes, setup};

/// A store, an app with gates, and a browser whose session has a cart.
pub async fn with_cart() -> (TestStore, App, Browser) {
    let store = TestStore::default();
    let app = App::new(layer(&store).build().unwrap());
    let browser = Browser::new(&app);
    browser.run("insert cart [1,2]").await.expect(200).with_cookie();
    store.calls();
    (store, app, browser)
}

/// The same; the session ended, and the browser does not know yet. `how` ends it, in another tab.
pub async fn ended_by(how: &str) -> (TestStore, App, Browser) {
    let (store, app, browser) = with_cart().await;
    browser.copy().run(how).await.expect(200);
    store.calls();
    (store, app, browser)
}

async fn expired() -> (TestStore, App, Browser) {
    let (store, app, browser) = with_cart().await;
    advance(minutes(31)).await;
    (store, app, browser)
}

// Loaded alive, gone at commit.

#[tokio::test]
async fn a_session_that_ended_while_a_request_was_on_its_way_takes_no_changes_409() {
    for end in ["log_out", "cycle", "log_in alice"] {
        for change in ["insert a 1", "remove cart", "increment n", "clear", "cycle", "log_out; insert flash 1"] {
            let (_, app, browser) = with_cart().await;
            let late = browser.start(&format!("get cart; hold late; {change}"));
            app.gate("late").reached(1).await;
            let sessions = browser.copy();
            sessions.run(end).await.expect(200);
            app.gate("late").open();
            let answer = late.await.unwrap().expect(409).without_cookie();
            assert!(answer.error.is_some_and(|error| error.is_gone()), "{change} after {end}");
            assert_eq!(answer.body, "");
            let left = if end == "log_out" { "none nobody" } else { "[1,2] " };
            let now = sessions.run("get cart; principal; get a; get n; get flash").await.expect(200).body;
            assert!(now.starts_with(left) && now.ends_with("none none none"), "{change} after {end}: {now}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_expired_while_a_request_was_on_its_way_takes_no_changes_409() {
    let (store, app, browser) = with_cart().await;
    let late = browser.start("get cart; hold late; insert a 1");
    app.gate("late").reached(1).await;
    advance(minutes(31)).await;
    app.gate("late").open();
    late.await.unwrap().expect(409).without_cookie();
    store.expect_calls(&[Load, Apply]);
    assert!(store.memory.is_empty());
}

// Tombstones.

#[tokio::test]
async fn a_tombstone_is_seen_as_no_session() {
    for end in ["log_out", "cycle", "log_in alice"] {
        let (store, _, browser) = ended_by(end).await;
        browser.run("exists; get cart; names; principal").await.says("false none  nobody").without_cookie();
        store.expect_calls(&[Load]);
    }
}

#[tokio::test]
async fn writing_to_a_tombstone_is_409_without_cookie() {
    for end in ["log_out", "cycle", "log_in alice"] {
        for change in ["insert a 1", "remove a", "clear", "increment a", "cycle", "log_out; insert a 1", "push a 1"] {
            let (store, _, browser) = ended_by(end).await;
            let before = store.memory.len();
            let answer = browser.run(change).await.expect(409).without_cookie();
            assert!(answer.error.is_some_and(|error| error.is_gone()), "{change} after {end}");
            assert_eq!(store.memory.len(), before, "{change} after {end}");
        }
        let (store, _, browser) = ended_by(end).await;
        browser.lazy("insert a 1").await.expect(409).without_cookie();
        store.expect_calls(&[Apply]);
        browser.lazy("insert a 1; flush").await.expect(409).without_cookie();
    }
}

#[tokio::test(start_paused = true)]
async fn a_tombstone_lasts_five_minutes_then_its_id_is_unknown() {
    let (_, _, browser) = ended_by("cycle").await;
    advance(minutes(5) - crate::fixture::millis(1)).await;
    browser.run("ended").await.says("true");
    advance(crate::fixture::millis(1)).await;
    browser.copy().run("ended").await.says("false").without_cookie();
    browser.run("get cart; insert a 1").await.says("none").with_cookie();
}

// Unknown IDs.

#[tokio::test(start_paused = true)]
async fn a_visitor_whose_session_expired_yesterday_gets_a_new_one_under_a_new_id() {
    let (store, _, browser) = expired().await;
    let old = browser.cookie();
    browser.run("exists; get cart; insert a 1").await.says("false none").with_cookie();
    store.expect_calls(&[Load, Create]);
    assert_ne!(browser.cookie(), old);
    browser.run("names").await.says("a");
}

#[tokio::test(start_paused = true)]
async fn a_blind_write_to_an_expired_session_starts_a_new_one_with_one_round_trip_more() {
    let (store, _, browser) = expired().await;
    browser.lazy("insert a 1; increment n").await.expect(200).with_cookie();
    store.expect_calls(&[Apply, Create]);
    browser.run("names; get n").await.says("a,n 1");
    // What would leave nothing starts nothing.
    let (store, _, browser) = expired().await;
    browser.lazy("remove a").await.expect(200).without_cookie();
    store.expect_calls(&[Apply]);
    assert!(store.memory.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_an_expired_session_gets_its_normal_answer_and_no_cookie() {
    let (store, _, browser) = expired().await;
    browser.run("exists; get cart").await.says("false none").without_cookie();
    browser.run("log_out").await.expect(200).without_cookie();
    browser.run("cycle").await.expect(200).without_cookie();
    store.expect_calls(&[Load, Load, Load]);
}

// What a request is told about its ID is what gets stored.

#[tokio::test]
async fn the_id_and_time_that_a_new_session_shows_are_what_is_stored() {
    for change in ["insert a 1", "insert a 1; flush", "log_in alice", "insert a 1; log_in alice", "insert a 1; cycle"] {
        let (_, browser) = setup();
        let told = browser.run(&format!("id; created; {change}")).await.expect(200).with_cookie().body;
        browser.run("id; created").await.says(&told);
    }
}

#[tokio::test]
async fn the_id_that_a_renewal_shows_is_what_is_stored() {
    for change in ["cycle", "log_in alice", "log_out; insert a 1", "cycle; insert a 1; flush"] {
        let (_, _, browser) = with_cart().await;
        let told = browser.run(&format!("{change}; id")).await.expect(200).with_cookie().body;
        browser.run("id").await.says(&told);
    }
}

#[tokio::test]
async fn the_id_that_a_login_without_a_session_shows_is_what_is_stored_even_if_something_was_flushed() {
    for change in ["log_in alice; id; insert a 1; flush", "cycle; id; insert a 1; flush", "log_in alice; id; push a 1"]
    {
        let (store, browser) = setup();
        let told = browser.run(change).await.expect(200).body;
        browser.run("id").await.says(&told);
        assert_eq!(store.memory.len(), 1);
    }
}

#[tokio::test]
async fn ids_of_a_session_share_a_shard() {
    let (_, _, browser) = with_cart().await;
    let shard = |id: &str| session_layer::SessionId::decode(id).unwrap().shard();
    let before = browser.run("id").await.body;
    browser.run("log_in alice").await.expect(200);
    assert_eq!(shard(&browser.run("id").await.body), shard(&before));
}

#[tokio::test]
async fn a_logout_of_one_kind_of_request_costs_one_commit() {
    let (store, _, browser) = with_cart().await;
    browser.run("destroy").await.expect(200).with_removal();
    store.expect_calls(&[Load, Destroy]);
}

#[tokio::test(start_paused = true)]
async fn a_handler_can_tell_a_session_that_ended_from_none_at_all() {
    for end in ["log_out", "cycle", "log_in alice"] {
        let (_, _, browser) = ended_by(end).await;
        browser.run("ended; exists").await.says("true false").without_cookie();
    }
    let (_, _, browser) = with_cart().await;
    browser.run("ended").await.says("false");
    browser.other().run("ended").await.says("false");
    advance(minutes(31)).await;
    browser.run("ended").await.says("false");
}
