//! The schemes side by side.

use axum::http::{Method, StatusCode};

use super::client::{Browser, Cluster};

/// Ten refreshes after a login: who answered, and whether the login was there.
async fn ten(browser: &mut Browser, scheme: &str) -> Vec<(String, bool)> {
    let answer = browser.post(&format!("/compare/{scheme}/login"), "").await.with_status(StatusCode::SEE_OTHER);
    assert_eq!(answer.header("location"), Some(format!("/compare/{scheme}/").as_str()));
    let mut found = Vec::new();
    for _ in 0..10 {
        let answer = browser.api(Method::GET, &format!("/compare/{scheme}/state"), "").await;
        assert_eq!(answer.set_cookie(), None, "reading leaves the cookie as it is");
        let state = answer.with_status(StatusCode::OK).json();
        assert_eq!(state["scheme"], scheme);
        found.push((state["server"].as_str().unwrap().to_owned(), state["account"].is_string()));
    }
    found
}

#[tokio::test]
async fn without_sharing_the_login_flips_away_at_every_second_refresh() {
    let mut browser = Cluster::new().browser();
    let found = ten(&mut browser, "none").await;
    // 1111 logged in; 2222 answers the first refresh.
    let found: Vec<_> = found.iter().map(|(server, there)| (server.as_str(), *there)).collect();
    assert_eq!(found, [("2222", false), ("1111", true)].repeat(5));
}

#[tokio::test]
async fn shared_the_login_is_there_on_both_servers() {
    let mut browser = Cluster::new().browser();
    let found = ten(&mut browser, "shared").await;
    assert!(found.iter().all(|(_, there)| *there), "{found:?}");
    assert_eq!(found.iter().filter(|(server, _)| server == "1111").count(), 5, "{found:?}");
    let page = browser.get("/compare/shared/").await.with_status(StatusCode::OK);
    assert!(page.body.contains("Logged in as") && page.body.contains("by server 1111"), "{}", page.body);
    browser.post("/compare/shared/logout", "").await.with_status(StatusCode::SEE_OTHER);
    assert!(browser.get("/compare/shared/").await.body.contains("Nobody is logged in here."));
}

#[tokio::test]
async fn sticky_a_login_lasts_on_its_server_and_is_unknown_to_the_other() {
    let cluster = Cluster::new();
    let mut browser = cluster.browser();
    browser.nodes.truncate(1);
    let found = ten(&mut browser, "sticky").await;
    assert!(found.iter().all(|(server, there)| server == "1111" && *there), "{found:?}");
    browser.nodes = vec![cluster.nodes[1].1.clone()];
    let state = browser.api(Method::GET, "/compare/sticky/state", "").await.json();
    assert_eq!((&state["server"], &state["account"]), (&"2222".into(), &serde_json::Value::Null));
}

#[tokio::test]
async fn each_scheme_has_its_own_cookie_and_none_is_the_demos() {
    let cluster = Cluster::new();
    for scheme in ["none", "sticky", "shared"] {
        let mut browser = cluster.browser();
        let answer = browser.post(&format!("/compare/{scheme}/login"), "").await;
        let cookie = answer.set_cookie().expect("a login sets a cookie");
        assert!(cookie.starts_with(&format!("compare_{scheme}=")), "{cookie}");
        assert!(cookie.contains(&format!("Path=/compare/{scheme}/; HttpOnly; SameSite=Lax")), "{cookie}");
        assert_eq!(browser.session().await["account"], serde_json::Value::Null, "a guest is nobody on the other pages");
        let login = browser.get(&format!("/compare/{scheme}/login")).await.with_status(StatusCode::SEE_OTHER);
        assert_eq!(login.header("location"), Some(format!("/compare/{scheme}/").as_str()));
    }
}

#[tokio::test]
async fn the_page_of_all_three_asks_for_no_session() {
    let cluster = Cluster::new();
    let mut browser = cluster.browser();
    let page = browser.get("/compare").await.with_status(StatusCode::OK);
    assert_eq!((page.set_cookie(), page.header("vary")), (None, Some("accept-encoding")));
    for text in ["Not shared", "Sticky", "this project", "DeltaManager"] {
        assert!(page.body.contains(text), "no {text}");
    }
    for scheme in ["none", "sticky", "shared"] {
        assert!(page.body.contains(&format!(r#"href="/compare/{scheme}/""#)), "it works without JavaScript");
    }
    assert!(cluster.store.is_empty());
    let answer = browser.get("/compare/").await.with_status(StatusCode::PERMANENT_REDIRECT);
    assert_eq!(answer.header("location"), Some("/compare"));
    browser.get("/compare/other/").await.with_status(StatusCode::NOT_FOUND);
}
