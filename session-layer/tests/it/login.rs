//! Logging in and out.

use crate::fixture::Call::{Create, Destroy, Load, Renew};
use crate::fixture::{App, layer, setup};
use crate::identity::{ended_by, with_cart};

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

#[tokio::test]
async fn a_message_after_logout_that_was_taken_back_starts_no_other_session() {
    let (store, _, browser) = with_cart().await;
    browser.run("log_out; insert flash 1; remove flash").await.expect(200).with_removal();
    store.expect_calls(&[Load, Destroy]);
    assert!(store.memory.is_empty());
}

#[tokio::test]
async fn a_login_over_a_tombstone_works_also_if_its_handler_flushes_or_updates() {
    for (ops, cart) in [
        ("log_in alice; insert cart [3]; flush", "[3]"),
        ("log_in alice; increment logins; flush logins; insert cart [3]", "[3]"),
        ("log_in alice; push cart 3; push cart 4; get cart", "[3,4]"),
        ("insert cart [3]; log_in alice; push cart 4", "[3,4]"),
    ] {
        let (store, _, browser) = ended_by("log_out").await;
        browser.run(ops).await.expect(200).with_cookie();
        store.expect_calls(&[Load, Create]);
        browser.run("principal; get cart").await.says(&format!("alice {cart}"));
    }
    // A late click: what is flushed goes where the first click went.
    let (_, _, browser) = ended_by("log_in alice").await;
    browser.run("log_in alice; insert clicks 2; flush").await.expect(200).with_cookie();
    browser.run("principal; get cart; get clicks").await.says("alice [1,2] 2");
    // What it would be compared with is not known here: an update is refused, and overwrites nothing.
    let (_, _, browser) = ended_by("log_in alice").await;
    // The login itself is committed with any answer but 5xx and 408.
    browser.run("log_in alice; push cart 3").await.expect(409).with_cookie();
    browser.run("principal; get cart").await.says("alice [1,2]");
}

/// After a password was changed, say.
#[tokio::test]
async fn a_request_that_ends_the_other_sessions_and_renews_its_own_keeps_its_own() {
    use axum::Extension;
    use session_layer::{Session, SessionError, Sessions};
    async fn handler(Extension(sessions): Extension<Sessions>, session: Session) -> Result<String, SessionError> {
        session.cycle_id()?;
        let ended = sessions.revoke_others("alice", &session.handle()).await?;
        Ok(ended.to_string())
    }
    let (store, browser) = setup();
    let other = browser.other();
    for browser in [&browser, &other] {
        browser.run("log_in alice").await.expect(200);
    }
    let layer = layer(&store).build().unwrap();
    let route = axum::routing::post(handler).layer(Extension(layer.sessions()));
    let app = axum::Router::new().route("/run", route).layer(layer);
    let answer = tower::ServiceExt::oneshot(app, browser.request("/run", "")).await.unwrap();
    let answer = crate::fixture::Answer::read(answer).await.says("1");
    browser.receive(&answer);
    browser.run("principal").await.says("alice");
    other.run("principal").await.says("nobody");
}
