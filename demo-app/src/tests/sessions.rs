//! The page of devices: where an account is logged in, and how that ends from elsewhere.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};

use super::client::{Answer, Browser, Cluster};

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
const IPHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/19.0 Mobile/15E148 Safari/604.1";

async fn log_in(browser: &mut Browser, agent: &str, form: &str) -> Answer {
    let request = Request::builder()
        .method(Method::POST)
        .uri("/login")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(header::USER_AGENT, agent)
        .header("x-forwarded-for", "192.0.2.7");
    browser.send(request.body(Body::from(form.to_owned())).unwrap()).await.with_status(StatusCode::SEE_OTHER)
}

const ALICE: &str = "username=alice&password=wonderland";

async fn devices(browser: &mut Browser) -> Answer {
    browser.get("/account/sessions").await.with_status(StatusCode::OK)
}

/// The handles in the page's forms, top to bottom.
fn handles(page: &Answer) -> Vec<String> {
    let mark = r#"name="session" value=""#;
    page.body.split(mark).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_page_lists_the_accounts_devices_and_shows_no_id() {
    let cluster = Cluster::new();
    let (mut desk, mut phone, mut bob) = (cluster.browser(), cluster.browser(), cluster.browser());
    log_in(&mut phone, IPHONE, ALICE).await;
    log_in(&mut desk, FIREFOX, ALICE).await;
    log_in(&mut bob, "curl/8.5.0", "username=bob&password=builder").await;

    let page = devices(&mut desk).await;
    assert!(page.body.contains("Where alice is logged in") && page.body.contains("2 sessions"), "{}", page.body);
    assert!(page.body.contains("Safari on iPhone") && page.body.contains("<code>192.0.2.7</code>"), "{}", page.body);
    assert!(!page.body.contains("curl"), "bob's session is none of alice's: {}", page.body);
    let (this, other) = page.body.split_once("this one").expect("one is marked");
    assert!(this.contains("Firefox on Linux") && !other.contains("Firefox on Linux"), "this one comes first");
    for browser in [&mut desk, &mut phone] {
        let id = browser.session().await["session_id"].as_str().unwrap().to_owned();
        assert!(!page.body.contains(&id), "an ID is on the page");
    }
    assert_eq!(page.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn what_a_login_notes_of_its_device_is_no_attribute_to_the_api() {
    let cluster = Cluster::new();
    let mut desk = cluster.browser();
    log_in(&mut desk, FIREFOX, ALICE).await;
    assert_eq!(desk.session().await["attributes"], serde_json::json!({}));
    // That name is anybody's.
    desk.send(Request::put("/api/session/attributes/device").body(Body::from("1")).unwrap()).await;
    assert_eq!(desk.session().await["attributes"], serde_json::json!({ "device": 1 }));
    assert!(devices(&mut desk).await.body.contains("Firefox on Linux"));
}

#[tokio::test]
async fn one_session_is_ended_on_every_server_and_the_others_go_on() {
    let cluster = Cluster::new();
    let (mut desk, mut phone, mut tablet) = (cluster.browser(), cluster.browser(), cluster.browser());
    for browser in [&mut phone, &mut tablet, &mut desk] {
        log_in(browser, FIREFOX, ALICE).await;
    }
    let [_, first, _] = &handles(&devices(&mut desk).await)[..] else { panic!("three sessions") };
    let answer = desk.post("/account/sessions/revoke", &format!("session={first}")).await;
    assert_eq!(answer.with_status(StatusCode::SEE_OTHER).header("location"), Some("/account/sessions?ended=1"));
    let page = desk.get("/account/sessions?ended=1").await.with_status(StatusCode::OK);
    assert!(page.body.contains("One session was ended.") && page.body.contains("2 sessions"), "{}", page.body);
    for _ in 0..2 {
        assert_eq!(phone.session().await["account"], serde_json::Value::Null, "the first to log in is listed first");
        assert_eq!(tablet.session().await["account"], "alice");
    }
    let again = desk.post("/account/sessions/revoke", &format!("session={first}")).await;
    assert_eq!(again.with_status(StatusCode::SEE_OTHER).header("location"), Some("/account/sessions?ended=0"));
}

#[tokio::test]
async fn all_others_are_ended_at_once() {
    let cluster = Cluster::new();
    let mut others = [cluster.browser(), cluster.browser(), cluster.browser()];
    for browser in &mut others {
        log_in(browser, IPHONE, ALICE).await;
    }
    let mut desk = cluster.browser();
    log_in(&mut desk, FIREFOX, ALICE).await;
    let answer = desk.post("/account/sessions/revoke", "others=all").await.with_status(StatusCode::SEE_OTHER);
    assert_eq!(answer.header("location"), Some("/account/sessions?ended=3"));
    for browser in &mut others {
        assert_eq!(browser.session().await["account"], serde_json::Value::Null);
    }
    let page = devices(&mut desk).await;
    assert!(page.body.contains("One session") && !page.body.contains("End all others"), "{}", page.body);
}

#[tokio::test]
async fn ending_this_one_is_a_logout() {
    let mut browser = Cluster::new().browser();
    log_in(&mut browser, FIREFOX, ALICE).await;
    let own = handles(&devices(&mut browser).await).remove(0);
    let answer = browser.post("/account/sessions/revoke", &format!("session={own}")).await;
    assert_eq!(answer.with_status(StatusCode::SEE_OTHER).header("location"), Some("/"));
    assert_eq!(browser.cookie, None);
}

#[tokio::test]
async fn nobody_ends_the_session_of_another_account() {
    let cluster = Cluster::new();
    let (mut alice, mut bob, mut nobody) = (cluster.browser(), cluster.browser(), cluster.browser());
    log_in(&mut alice, FIREFOX, ALICE).await;
    log_in(&mut bob, FIREFOX, "username=bob&password=builder").await;
    let theirs = handles(&devices(&mut alice).await).remove(0);
    let form = format!("session={theirs}");
    let answer = bob.post("/account/sessions/revoke", &form).await.with_status(StatusCode::SEE_OTHER);
    assert_eq!(answer.header("location"), Some("/account/sessions?ended=0"));
    nobody.post("/account/sessions/revoke", &form).await.with_status(StatusCode::UNAUTHORIZED);
    nobody.post("/account/sessions/revoke", "others=all").await.with_status(StatusCode::UNAUTHORIZED);
    for form in ["", "session=", "session=nonsense", "session=x&others=all"] {
        bob.post("/account/sessions/revoke", form).await.with_status(StatusCode::UNPROCESSABLE_ENTITY);
    }
    assert_eq!(alice.session().await["account"], "alice");
}

#[tokio::test]
async fn without_an_account_the_page_asks_to_log_in_and_comes_back() {
    let mut browser = Cluster::new().browser();
    let page = browser.get("/account/sessions").await.with_status(StatusCode::UNAUTHORIZED);
    assert!(page.body.contains(r#"action="/login""#), "{}", page.body);
    assert_eq!(page.set_cookie(), None, "looking starts no session");
    let answer = log_in(&mut browser, FIREFOX, &format!("{ALICE}&next=%2Faccount%2Fsessions")).await;
    assert_eq!(answer.header("location"), Some("/account/sessions"));
    for elsewhere in ["https%3A%2F%2Fevil.example", "%2F%2Fevil.example", "%2Fmetrics"] {
        let answer = log_in(&mut browser, FIREFOX, &format!("{ALICE}&next={elsewhere}")).await;
        assert_eq!(answer.header("location"), Some("/"), "{elsewhere}");
    }
    let answer = browser.get("/account/sessions/revoke").await.with_status(StatusCode::SEE_OTHER);
    assert_eq!(answer.header("location"), Some("/account/sessions"));
}

#[tokio::test]
async fn what_a_login_notes_of_its_device_is_not_in_the_editor_and_keeps_nobody_out() {
    let mut browser = Cluster::new().browser();
    log_in(&mut browser, FIREFOX, ALICE).await;
    let page = browser.get("/").await.with_status(StatusCode::OK);
    assert!(!page.body.contains("Remove demo.device") && !page.body.contains("Firefox/140"), "{}", page.body);

    // Whatever somebody stores under the name, the page is shown.
    browser.api(Method::PUT, "/api/session/attributes/demo.device", "[1, 2]").await.with_status(StatusCode::NO_CONTENT);
    assert!(devices(&mut browser).await.body.contains("An unknown device"));

    // A session that is full to the brim can still log in.
    let mut full = Cluster::new().browser();
    let large = format!("\"{}\"", "x".repeat(65_000));
    for name in ["a1", "a2", "a3", "a4"] {
        let path = format!("/api/session/attributes/{name}");
        full.api(Method::PUT, &path, large.clone()).await.with_status(StatusCode::NO_CONTENT);
    }
    full.api(Method::PUT, "/api/session/attributes/a5", format!("\"{}\"", "x".repeat(2_000))).await;
    log_in(&mut full, FIREFOX, ALICE).await;
    assert!(devices(&mut full).await.body.contains("An unknown device"));
}
