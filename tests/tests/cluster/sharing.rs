use cluster_tests::browser::Browser;
use cluster_tests::cluster;

use crate::page::Page;

#[tokio::test(flavor = "multi_thread")]
async fn refreshes_alternate_between_the_servers_under_one_session() {
    // Others' requests would take turns as well.
    let cluster = cluster::alone().await;
    let browser = Browser::new();
    let mut pages = Vec::new();
    for _ in 0..6 {
        pages.push(Page::visit(&browser, cluster.nginx()).await);
    }
    let servers: Vec<_> = pages.iter().map(|page| page.server.as_str()).collect();
    let turns = [["1111", "2222"].repeat(3), ["2222", "1111"].repeat(3)];
    assert!(turns.contains(&servers), "{servers:?}");
    for (page, visit) in pages.iter().zip(1..) {
        assert_eq!(page.session_id, pages[0].session_id);
        assert_eq!(page.created_on, pages[0].created_on);
        assert_eq!(page.visits, visit);
    }

    // The same cookie, straight at the nodes' own ports.
    for (site, (server, visit)) in cluster.nodes().into_iter().zip([("1111", 7), ("2222", 8)]) {
        let page = Page::visit(&browser, site).await;
        assert_eq!((page.server.as_str(), page.visits), (server, visit));
        assert_eq!((page.session_id, page.created_on), (pages[0].session_id.clone(), pages[0].created_on.clone()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attribute_set_on_one_server_is_there_on_the_other_until_it_is_removed() {
    let cluster = cluster::shared().await;
    let [first, second] = cluster.nodes();
    let browser = Browser::new();
    let basket = r#"{"tea":2,"price":0.10,"big":12345678901234567890}"#;
    assert_eq!(browser.put(first, "basket", basket).await.status, 204);
    // Digit by digit as it was sent.
    assert!(browser.get(second, "/api/session").await.text().contains(basket));
    assert_eq!(browser.delete(second, "basket").await.status, 204);
    assert_eq!(browser.session(first).await["attributes"]["basket"], serde_json::Value::Null);
    assert_eq!(browser.delete(first, "basket").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_lasts_on_both_servers_and_ends_on_both_at_once() {
    let cluster = cluster::shared().await;
    let [first, second] = cluster.nodes();
    let browser = Browser::new();
    let before = Page::visit(&browser, cluster.nginx()).await;
    browser.put(first, "basket", r#"["tea"]"#).await;
    let anonymous = browser.copy();

    browser.log_in_as_alice(cluster.nginx()).await;
    let mut servers = Vec::new();
    for _ in 0..20 {
        let page = Page::visit(&browser, cluster.nginx()).await;
        assert_eq!(page.account.as_deref(), Some("alice"));
        assert_ne!(page.session_id, before.session_id, "the ID changes at a login");
        assert_eq!(page.created_on, before.created_on);
        servers.push(page.server);
    }
    assert!(
        servers.iter().any(|server| server == "1111") && servers.iter().any(|server| server == "2222"),
        "{servers:?}"
    );
    let session = browser.session(second).await;
    assert_eq!(session["attributes"]["basket"][0], "tea", "what was in the basket stays there");
    assert_eq!(session["visits"], 21);

    // Who knew the ID before the login has nothing.
    for site in cluster.nodes() {
        let session = anonymous.session(site).await;
        assert_eq!((&session["session_id"], &session["account"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    }

    let logged_in = browser.copy();
    let answer = browser.log_out(first).await;
    assert_eq!(answer.status, 303, "{answer:?}");
    assert!(answer.set_cookie().is_some_and(|cookie| cookie.contains("Max-Age=0")), "{answer:?}");
    assert_eq!(browser.session_cookie(), None);
    for site in [second, first] {
        let session = logged_in.session(site).await;
        assert!(session["session_id"].is_null() && session["account"].is_null(), "{session}");
        assert_eq!(session["attributes"], serde_json::json!({}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_changes_nothing() {
    let cluster = cluster::shared().await;
    let browser = Browser::new();
    let before = Page::visit(&browser, cluster.nginx()).await;
    for (username, password) in [("alice", "builder"), ("alice", ""), ("nobody", "wonderland"), ("", "")] {
        let answer = browser.log_in(cluster.nginx(), username, password).await;
        assert_eq!((answer.status.as_u16(), answer.set_cookie()), (401, None), "{answer:?}");
    }
    let after = Page::visit(&browser, cluster.nginx()).await;
    assert_eq!((after.session_id, after.account), (before.session_id, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookie_of_development_mode_is_what_it_should_be() {
    let cluster = cluster::shared().await;
    for site in [cluster.nginx(), cluster.nodes()[0]] {
        let answer = Browser::new().get(site, "/").await;
        let cookie = answer.set_cookie().expect("a first visit starts a session");
        let (value, attributes) = cookie.split_once("; ").expect("the cookie has attributes");
        assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax");
        assert!(value.starts_with("session=") && value.len() < 100, "{value}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        // The ID on the page is no credential: without its signature it opens nothing.
        let thief = Browser::new();
        thief.set_session_cookie(&Page::read(&answer).session_id);
        assert!(thief.session(site).await["session_id"].is_null());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_without_a_session_gets_none() {
    let cluster = cluster::shared().await;
    let browser = Browser::new();
    for site in cluster.nodes() {
        let answer = browser.get(site, "/api/session").await;
        assert_eq!((answer.status.as_u16(), answer.set_cookie()), (200, None), "{answer:?}");
        assert!(answer.json()["session_id"].is_null());
        assert!(answer.header("vary").is_some_and(|vary| vary.to_ascii_lowercase().contains("cookie")), "{answer:?}");
    }
}
