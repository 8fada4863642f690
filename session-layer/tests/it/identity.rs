//! Which session a request means: the table of what a request gets for an ID that is known, gone, renewed or never was; and logging
//! in and out.

use tokio::time::advance;

use crate::fixture::Call::{Apply, Create, Destroy, Load, Renew};
use crate::fixture::{App, Browser, TestStore, layer, minutes, setup};

/// A store, an app with gates, and a browser whose session has a cart.
async fn with_cart() -> (TestStore, App, Browser) {
    let store = TestStore::default();
    let app = App::new(layer(&store).build().unwrap());
    let browser = Browser::new(&app);
    browser.run("insert cart [1,2]").await.expect(200).with_cookie();
    store.calls();
    (store, app, browser)
}

/// The same; the session ended, and the browser does not know yet. `how` ends it, in another tab.
async fn ended_by(how: &str) -> (TestStore, App, Browser) {
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
    let (_, _, browser) = ended_by("log_out").await;
    advance(minutes(5) - crate::fixture::millis(1)).await;
    browser.run("insert a 1").await.expect(409);
    advance(crate::fixture::millis(1)).await;
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

// Login.

#[tokio::test]
async fn login_renews_the_id_keeps_the_attributes_and_names_the_principal() {
    let (_, _, browser) = with_cart().await;
    let planted = browser.copy();
    let before = browser.run("id; created").await.body;
    browser.run("log_in alice; principal").await.says("alice").with_cookie();
    let after = browser.run("id; created; principal; get cart").await.body;
    let (id, created) = before.split_once(' ').unwrap();
    let (new_id, rest) = after.split_once(' ').unwrap();
    assert_ne!(new_id, id);
    assert_eq!(rest, format!("{created} alice [1,2]"));
    // Session fixation: whoever knew the old ID has nothing.
    planted.run("exists; principal").await.says("false nobody");
}

#[tokio::test]
async fn login_without_a_session_starts_one() {
    let (store, browser) = setup();
    browser.run("log_in alice").await.expect(200).with_cookie();
    store.expect_calls(&[Create]);
    browser.run("principal; names").await.says("alice ");
}

/// Two clicks on "log in", both sent with the same cookie.
#[tokio::test]
async fn a_double_clicked_login_ends_logged_in_with_the_cart_in_both_orders_of_answers() {
    for (first_commit, first_answer) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let (store, app, browser) = with_cart().await;
        let mut clicks = ["a", "b"]
            .map(|name| Some(browser.start(&format!("get cart; hold {name}; insert click_{name} 1; log_in alice"))));
        for name in ["a", "b"] {
            app.gate(name).reached(1).await;
        }
        let mut answers = [const { None }; 2];
        for click in [first_commit, 1 - first_commit] {
            app.gate(["a", "b"][click]).open();
            answers[click] = Some(clicks[click].take().unwrap().await.unwrap().expect(200).with_cookie());
        }
        for answer in [first_answer, 1 - first_answer] {
            browser.receive(answers[answer].as_ref().unwrap());
            // After the first answer as well as after both.
            browser.run("principal; get cart").await.says("alice [1,2]").without_cookie();
        }
        browser.run("names").await.says("cart,click_a,click_b");
        assert_eq!(store.memory.len(), 1);
    }
}

#[tokio::test]
async fn a_second_click_that_loads_after_the_first_one_has_committed_follows_it() {
    let (store, _, browser) = with_cart().await;
    let first = browser.start("log_in alice").await.unwrap();
    let second = browser.start("log_in alice").await.unwrap();
    store.expect_calls(&[Load, Renew, Load, Load]);
    assert_eq!(first.set_cookies(), second.set_cookies());
    browser.receive(&second);
    browser.run("principal; get cart").await.says("alice [1,2]");
}

#[tokio::test]
async fn a_late_login_follows_a_session_that_was_renewed_several_times() {
    let (store, _, browser) = with_cart().await;
    let late = browser.copy();
    browser.run("log_in alice").await.expect(200);
    browser.run("cycle").await.expect(200);
    browser.run("cycle; insert b 1").await.expect(200);
    late.run("log_in alice; insert c 1").await.expect(200).with_cookie();
    assert_eq!(late.cookie(), browser.cookie());
    browser.run("principal; names").await.says("alice b,c,cart");
    assert_eq!(store.memory.len(), 1);
}

#[tokio::test]
async fn a_late_login_of_somebody_else_gets_a_fresh_session() {
    let (store, _, browser) = with_cart().await;
    let late = browser.copy();
    browser.run("log_in alice; insert secret 1").await.expect(200);
    late.run("log_in bob").await.expect(200).with_cookie();
    late.run("principal; names").await.says("bob ");
    browser.run("principal; names").await.says("alice cart,secret");
    assert_eq!(store.memory.len(), 2);
}

#[tokio::test]
async fn a_login_over_the_tombstone_of_a_logout_gets_a_fresh_session() {
    let (store, _, browser) = ended_by("log_out").await;
    browser.run("log_in alice").await.expect(200).with_cookie();
    store.expect_calls(&[Load, Create]);
    browser.run("principal; names").await.says("alice ");
}

#[tokio::test]
async fn a_late_login_whose_successor_was_logged_out_gets_a_fresh_session() {
    let (_, _, browser) = with_cart().await;
    let late = browser.copy();
    browser.run("log_in alice").await.expect(200);
    browser.run("log_out").await.expect(200);
    late.run("log_in alice").await.expect(200).with_cookie();
    late.run("principal; names").await.says("alice ");
}

#[tokio::test]
async fn logging_in_as_somebody_else_takes_no_attributes_along() {
    let (store, _, browser) = with_cart().await;
    browser.run("log_in alice; insert secret 1").await.expect(200);
    browser.run("log_in bob; names; insert b 1; principal").await.says(" bob").with_cookie();
    browser.run("principal; names").await.says("bob b");
    assert_eq!(store.memory.len(), 1);
}

#[tokio::test]
async fn logging_in_again_as_the_same_principal_keeps_the_attributes_under_a_new_id() {
    let (_, _, browser) = with_cart().await;
    browser.run("log_in alice").await.expect(200);
    let before = browser.cookie();
    browser.run("log_in alice").await.expect(200).with_cookie();
    assert_ne!(browser.cookie(), before);
    browser.run("principal; get cart").await.says("alice [1,2]");
}

#[tokio::test]
async fn a_request_that_races_a_login_logs_nobody_out() {
    // Peers answer such a request with a removal cookie.
    for ops in ["get cart", "get cart; insert seen 1"] {
        let (_, app, browser) = with_cart().await;
        let racing = browser.start(&format!("hold racing; {ops}"));
        app.gate("racing").reached(1).await;
        browser.run("log_in alice").await.expect(200).with_cookie();
        app.gate("racing").open();
        let answer = racing.await.unwrap().without_cookie();
        browser.receive(&answer);
        browser.run("principal; get cart").await.says("alice [1,2]");
    }
}

// Logout.

#[tokio::test]
async fn logout_ends_the_session_on_every_node_and_has_the_browser_forget_it() {
    let (store, _, browser) = with_cart().await;
    let node = App::new(layer(&store).build().unwrap());
    let other_tab = browser.copy().at(&node);
    browser.run("log_out; exists; names; principal").await.says("false  nobody").with_removal();
    assert!(browser.cookie().is_none() && store.memory.is_empty());
    other_tab.run("exists; get cart").await.says("false none");
}

#[tokio::test]
async fn logging_out_twice_is_logging_out_once() {
    // At the same time.
    let (store, app, browser) = with_cart().await;
    let late = browser.start("get cart; hold late; log_out");
    app.gate("late").reached(1).await;
    browser.copy().run("log_out").await.expect(200).with_removal();
    app.gate("late").open();
    late.await.unwrap().expect(200).without_cookie();
    assert!(store.memory.is_empty());
    // And later.
    store.calls();
    browser.run("log_out").await.expect(200).without_cookie();
    store.expect_calls(&[Load]);
}

#[tokio::test]
async fn a_logout_of_a_session_that_was_renewed_meanwhile_does_not_pretend() {
    let (_, app, browser) = with_cart().await;
    let late = browser.start("get cart; hold late; log_out");
    app.gate("late").reached(1).await;
    browser.run("log_in alice").await.expect(200);
    app.gate("late").open();
    // The session goes on under its new ID, which this request did not know: 200 would say that it ended.
    late.await.unwrap().expect(409).without_cookie();
    browser.run("principal").await.says("alice");
}

#[tokio::test]
async fn a_message_after_logout_starts_another_session_with_nothing_but_the_message() {
    let (store, _, browser) = with_cart().await;
    browser.run("log_in alice").await.expect(200);
    let late = browser.copy();
    store.calls();
    browser
        .run("insert lost 1; log_out; insert flash \"bye\"; names; principal")
        .await
        .says("flash nobody")
        .with_cookie();
    store.expect_calls(&[Load, Renew]);
    browser.run("get flash; names; principal").await.says("\"bye\" flash nobody");
    late.run("exists").await.says("false");
    late.run("insert a 1").await.expect(409);
    late.run("log_in alice").await.expect(200);
    late.run("names").await.says("");
    assert_eq!(store.memory.len(), 2);
}

#[tokio::test]
async fn destroying_what_this_request_created_leaves_nothing() {
    let (store, browser) = setup();
    browser.run("insert a 1; flush; log_out").await.expect(200).with_removal();
    store.expect_calls(&[Create, Destroy]);
    assert!(store.memory.is_empty());
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

#[tokio::test]
async fn a_message_after_logout_that_was_taken_back_starts_no_other_session() {
    let (store, _, browser) = with_cart().await;
    browser.run("log_out; insert flash 1; remove flash").await.expect(200).with_removal();
    store.expect_calls(&[Load, Destroy]);
    assert!(store.memory.is_empty());
}
