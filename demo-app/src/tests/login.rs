//! Accounts: logging in, staying logged in on every server, logging out.

use std::time::Duration;

use axum::http::{Method, StatusCode};

use super::client::{Browser, Cluster};
use crate::accounts::{Accounts, Verdict};

#[tokio::test]
async fn a_login_changes_the_id_and_survives_20_refreshes_on_both_servers() {
    let mut browser = Cluster::new().browser();
    let before = browser.get("/").await.session_id().to_owned();
    let old_cookie = browser.cookie.clone();
    browser.post("/attributes", "name=cart&value=3").await;
    let answer = browser.log_in("alice", "wonderland").await.with_status(StatusCode::SEE_OTHER);
    assert_eq!(answer.header("location"), Some("/"));
    for refresh in 0..20 {
        let page = browser.get("/").await.with_status(StatusCode::OK);
        assert!(page.body.contains(r#"<strong id="account-name">alice</strong>"#), "refresh {refresh}: {}", page.body);
        assert_ne!(page.session_id(), before);
        assert_eq!(page.visits(), refresh + 2, "the session goes on under its new ID");
    }
    let session = browser.session().await;
    assert_eq!((&session["account"], &session["attributes"]["cart"]), (&"alice".into(), &3.into()));

    let mut thief = browser.clone();
    thief.cookie = old_cookie;
    assert_eq!(thief.session().await["account"], serde_json::Value::Null, "the ID from before the login opens nothing");
}

#[tokio::test]
async fn a_logout_on_one_server_is_seen_by_the_other_at_once() {
    let mut browser = Cluster::new().browser();
    browser.log_in("bob", "builder").await.with_status(StatusCode::SEE_OTHER);
    assert_eq!(browser.session().await["account"], "bob");
    let mut other_tab = browser.clone();
    let answer = browser.post("/logout", "").await.with_status(StatusCode::SEE_OTHER);
    assert_eq!(answer.header("location"), Some("/"));
    for _ in 0..2 {
        assert_eq!(other_tab.session().await["session_id"], serde_json::Value::Null);
    }
    assert!(browser.get("/").await.with_status(StatusCode::OK).body.contains("Log in"));

    // The other tab's cookie names a session that has ended: it is told so, and a login helps.
    let ended = other_tab.get("/").await.with_status(StatusCode::OK);
    assert!(ended.body.contains(ENDED) && ended.body.contains("action=\"/login\""), "{}", ended.body);
    other_tab.log_in("bob", "builder").await.with_status(StatusCode::SEE_OTHER);
    assert_eq!(other_tab.session().await["account"], "bob");
}

/// What the page says to a browser whose session has ended.
const ENDED: &str = "You were logged out, here or on another device.";

/// A browser that was logged out elsewhere so long ago.
async fn logged_out_elsewhere(ago: Duration) -> (Cluster, Browser) {
    let cluster = Cluster::new();
    let mut browser = cluster.browser();
    browser.log_in("bob", "builder").await.with_status(StatusCode::SEE_OTHER);
    browser.clone().post("/logout", "").await.with_status(StatusCode::SEE_OTHER);
    tokio::time::pause();
    tokio::time::advance(ago).await;
    tokio::time::resume();
    (cluster, browser)
}

#[tokio::test]
async fn the_page_tells_a_browser_that_it_was_logged_out_and_works() {
    // Within the late window: nothing is started until somebody wants it.
    let (cluster, mut browser) = logged_out_elsewhere(Duration::from_secs(5)).await;
    for _ in 0..2 {
        let page = browser.get("/").await.with_status(StatusCode::OK);
        assert!(page.body.contains(ENDED) && page.body.contains("Log in"), "{}", page.body);
        assert_eq!((page.visits(), page.set_cookie()), (0, None));
        assert!(cluster.store.is_empty());
    }
    let form = "name=colour&value=green&new=session";
    let answer = browser.post("/attributes", form).await.with_status(StatusCode::SEE_OTHER);
    assert!(answer.set_cookie().is_some());
    let page = browser.get("/").await.with_status(StatusCode::OK);
    assert!(!page.body.contains(ENDED) && page.body.contains("colour"), "{}", page.body);
    assert_eq!(page.visits(), 1);

    // Later: the visit starts a session.
    let (_cluster, mut browser) = logged_out_elsewhere(Duration::from_secs(11)).await;
    let page = browser.get("/").await.with_status(StatusCode::OK);
    assert!(page.body.contains(ENDED) && page.set_cookie().is_some(), "{}", page.body);
    assert_eq!((page.visits(), page.session_id()), (1, browser.session().await["session_id"].as_str().unwrap()));
    let page = browser.get("/").await.with_status(StatusCode::OK);
    assert!(!page.body.contains(ENDED));
    assert_eq!(page.visits(), 2);
}

#[tokio::test]
async fn the_form_of_a_page_that_said_so_leaves_a_login_since_alone() {
    let (_cluster, mut browser) = logged_out_elsewhere(Duration::from_secs(5)).await;
    browser.get("/").await.with_status(StatusCode::OK);
    browser.log_in("bob", "builder").await.with_status(StatusCode::SEE_OTHER);
    let form = "name=colour&value=green&new=session";
    let answer = browser.post("/attributes", form).await.with_status(StatusCode::SEE_OTHER);
    assert_eq!(answer.set_cookie(), None);
    let session = browser.session().await;
    assert_eq!((&session["account"], &session["attributes"]["colour"]), (&"bob".into(), &"green".into()));
}

#[tokio::test]
async fn programs_get_what_the_library_says_after_a_logout_elsewhere() {
    let path = "/api/session/attributes/colour";
    let (_cluster, mut browser) = logged_out_elsewhere(Duration::from_secs(5)).await;
    let answer = browser.api(Method::PUT, path, "1").await.with_status(StatusCode::CONFLICT);
    assert_eq!(answer.set_cookie(), None);
    let (_cluster, mut browser) = logged_out_elsewhere(Duration::from_secs(11)).await;
    let answer = browser.clone().api(Method::GET, "/api/session", "").await.with_status(StatusCode::OK);
    assert!(answer.set_cookie().is_some_and(|cookie| cookie.contains("Max-Age=0")), "{answer:?}");
    let answer = browser.api(Method::PUT, path, "1").await.with_status(StatusCode::NO_CONTENT);
    assert!(answer.set_cookie().is_some());
    assert_eq!(browser.session().await["attributes"]["colour"], 1);
}

#[tokio::test]
async fn a_failed_login_tells_nothing_but_that_it_failed() {
    let cluster = Cluster::new();
    let mut bodies = Vec::new();
    for (name, password) in [
        ("alice", "builder"),
        ("alice", ""),
        ("Alice", "wonderland"),
        ("nobody", "wonderland"),
        ("", ""),
        ("%00", "%ff"),
    ] {
        let mut browser = cluster.browser();
        let answer = browser.log_in(name, password).await.with_status(StatusCode::UNAUTHORIZED);
        assert_eq!(answer.set_cookie(), None);
        assert!(answer.body.contains("User name or password is wrong."));
        bodies.push(answer.body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    assert!(cluster.store.is_empty(), "a failed login starts no session");
}

#[tokio::test]
async fn a_failed_login_leaves_the_session_as_it_was() {
    let mut browser = Cluster::new().browser();
    browser.log_in("alice", "wonderland").await;
    let before = browser.session().await;
    browser.log_in("bob", "wrong").await.with_status(StatusCode::UNAUTHORIZED);
    browser.get("/livez").await; // the same node as before, so that its name agrees as well
    let after = browser.session().await;
    assert_eq!((&before["session_id"], &before["account"]), (&after["session_id"], &after["account"]));
}

#[tokio::test]
async fn logging_out_without_a_session_is_fine() {
    let mut browser = Cluster::new().browser();
    browser.post("/logout", "").await.with_status(StatusCode::SEE_OTHER);
    browser.api(Method::GET, "/logout", "").await.with_status(StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn no_form_is_no_login() {
    let mut browser = Cluster::new().browser();
    browser.api(Method::POST, "/login", "username=alice").await.with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    browser.post("/login", "username=alice").await.with_status(StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn logins_are_counted_by_their_result() {
    let mut browser = Cluster::new().browser();
    browser.nodes.truncate(1);
    browser.log_in("alice", "wonderland").await;
    browser.log_in("alice", "wrong").await;
    browser.log_in("alice", "wrong").await;
    let metrics = browser.get("/metrics").await.body;
    assert!(metrics.contains("demo_logins_total{result=\"right\"} 1\n"), "{metrics}");
    assert!(metrics.contains("demo_logins_total{result=\"wrong\"} 2\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_beyond_the_queue_are_turned_away_and_the_queue_moves_on() {
    let accounts = Accounts::new();
    let checks: Vec<_> = (0..200)
        .map(|_| {
            let accounts = accounts.clone();
            tokio::spawn(async move { accounts.verify("alice", "wonderland".to_owned()).await })
        })
        .collect();
    let mut verdicts = Vec::new();
    for check in checks {
        verdicts.push(check.await.unwrap());
    }
    let count = |verdict| verdicts.iter().filter(|other| **other == verdict).count();
    assert!(count(Verdict::Busy) > 0 && count(Verdict::Right) >= 64, "{verdicts:?}");
    assert_eq!(count(Verdict::Wrong), 0);
    assert_eq!(accounts.verify("bob", "builder".to_owned()).await, Verdict::Right, "there is room again");
}

#[tokio::test]
async fn a_name_without_an_account_takes_as_much_work_as_one_with() {
    let accounts = Accounts::new();
    let mut fastest = [std::time::Duration::MAX; 2];
    for _ in 0..8 {
        for (fastest, name) in fastest.iter_mut().zip(["alice", "nobody"]) {
            let started = std::time::Instant::now();
            assert_eq!(accounts.verify(name, "wrong".to_owned()).await, Verdict::Wrong);
            *fastest = started.elapsed().min(*fastest);
        }
    }
    // Without the work it is a thousandth; a busy machine can make a large difference even to the fastest of eight.
    let [account, nobody] = fastest;
    assert!(nobody > account / 20 && account > nobody / 20, "{account:?} {nobody:?}");
}

#[tokio::test]
async fn each_visitor_of_a_load_test_has_an_account_of_its_own() {
    let accounts = Accounts::new();
    for (name, password, verdict) in [
        ("visitor-0", "visitor", Verdict::Right),
        ("visitor-2399", "visitor", Verdict::Right),
        ("visitor-7", "wonderland", Verdict::Wrong),
        ("visitor-", "visitor", Verdict::Wrong),
        ("visitor-07", "visitor", Verdict::Wrong),
        ("visitor-1000000", "visitor", Verdict::Wrong),
        ("visitor-x", "visitor", Verdict::Wrong),
    ] {
        assert_eq!(accounts.verify(name, password.to_owned()).await, verdict, "{name}");
    }
}
