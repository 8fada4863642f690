//! The cookie.

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use http::{HeaderValue, Request, header};
use session_layer::{SameSite, Session, SessionError, SessionLayer};
use tower::ServiceExt;

use crate::fixture::{Answer, App, Browser, COOKIE, TestStore, layer, ops, setup, setup_with};

async fn with_session() -> (TestStore, Browser) {
    let (store, browser) = setup();
    browser.run("insert n 0").await.expect(200);
    store.calls();
    (store, browser)
}

#[tokio::test]
async fn the_cookie_is_as_safe_as_browsers_know_unless_told_otherwise() {
    let (_, browser) = setup();
    let answer = browser.run("insert a 1").await.expect(200).with_cookie();
    let cookie = answer.set_cookies()[0];
    let (value, attributes) = cookie.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax; Secure");
    assert!(value.starts_with("__Host-session=") && value.len() < 100, "{value}");
    let removal = browser.run("log_out").await.expect(200).with_removal();
    assert_eq!(removal.set_cookies(), ["__Host-session=; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=0"]);
}

#[tokio::test]
async fn the_value_shows_no_id_that_a_page_shows_but_is_more_than_it() {
    // The ID that a page may show opens nothing without the MAC.
    let (store, browser) = with_session().await;
    let id = browser.run("id").await.body;
    let thief = browser.other();
    for value in [id.clone(), format!("{id}{}", "A".repeat(44)), format!("AQ{id}"), format!("Ag{id}{}", "A".repeat(53))]
    {
        thief.set_cookie(COOKIE, &value);
        thief.run("exists").await.says("false");
    }
    assert_eq!(store.memory.len(), 1);
}

#[tokio::test]
async fn development_mode_is_the_only_way_to_a_cookie_over_plain_http() {
    let (_, browser) = setup_with(|layer| layer.development(true));
    let answer = browser.run("insert a 1").await.expect(200).with_cookie();
    let cookie = answer.set_cookies()[0];
    assert!(cookie.starts_with("session=") && cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{cookie}");
    browser.run("get a").await.says("1");
}

#[tokio::test]
async fn the_cookies_attributes_are_settings() {
    let (_, browser) = setup_with(|layer| {
        layer.cookie_name("shop").cookie_domain("shop.example").cookie_path("/shop").same_site(SameSite::Strict)
    });
    let answer = browser.run("insert a 1").await.expect(200).with_cookie();
    let expected = "; Path=/shop; HttpOnly; SameSite=Strict; Secure; Domain=shop.example";
    assert!(answer.set_cookies()[0].ends_with(expected), "{answer:?}");
    browser.run("get a").await.says("1");
    // A removal that names another path or domain would remove nothing.
    let removal = browser.run("log_out").await.with_removal();
    assert_eq!(removal.set_cookies(), [format!("shop={expected}; Max-Age=0")]);
}

#[tokio::test]
async fn a_partitioned_cookie_is_set_and_removed_as_one() {
    let (_, browser) = setup_with(|layer| layer.same_site(SameSite::None).partitioned(true));
    let answer = browser.run("insert a 1").await.expect(200).with_cookie();
    assert!(answer.set_cookies()[0].ends_with("; SameSite=None; Secure; Partitioned"), "{answer:?}");
    let removal = browser.run("log_out").await.with_removal();
    assert!(removal.set_cookies()[0].ends_with("; Partitioned; Max-Age=0"), "{removal:?}");
}

#[tokio::test]
async fn the_handlers_own_cookies_stay() {
    let (_, browser) = setup();
    let answer = browser.run("header set-cookie theme=dark; insert a 1").await.expect(200);
    assert_eq!(answer.set_cookies().len(), 2);
    assert_eq!(answer.set_cookies()[0], "theme=dark");
}

// Two layers.

struct Admin;

fn two_layers(store: &TestStore) -> Router {
    async fn both(session: Session, admin: Session<Admin>) -> Result<String, SessionError> {
        Ok(format!("{:?} {:?}", session.get::<String>("who")?, admin.get::<String>("who")?))
    }
    let admin: SessionLayer<Admin> = layer(store).cookie_name("__Host-manager").kind::<Admin>().build().unwrap();
    Router::new()
        .route("/visitor", get(|session: Session| async move { session.insert("who", "visitor") }))
        .route("/admin", get(|session: Session<Admin>| async move { session.insert("who", "admin") }))
        .route("/both", get(both))
        .layer(layer(store).build().unwrap())
        .layer(admin)
}

async fn ask(app: &Router, path: &str, cookies: &[&str]) -> Answer {
    let mut request = Request::get(path);
    for cookie in cookies {
        request = request.header(header::COOKIE, *cookie);
    }
    Answer::read(app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()).await
}

fn pair(answer: &Answer) -> String {
    answer.set_cookies()[0].split("; ").next().unwrap().to_owned()
}

#[tokio::test]
async fn two_layers_live_side_by_side_and_neither_opens_the_others_cookie() {
    let store = TestStore::default();
    let app = two_layers(&store);
    let visitor = pair(&ask(&app, "/visitor", &[]).await.expect(200).with_cookie());
    let admin = pair(&ask(&app, "/admin", &[]).await.expect(200).with_cookie());
    assert!(visitor.starts_with("__Host-session=") && admin.starts_with("__Host-manager="));
    ask(&app, "/both", &[&visitor, &admin]).await.says("Some(\"visitor\") Some(\"admin\")").without_cookie();
    ask(&app, "/both", &[&format!("{visitor}; {admin}")]).await.says("Some(\"visitor\") Some(\"admin\")");
    // The same secret, the same store, and a name of the same length; but the name is part of what is signed.
    let swapped =
        [visitor.replace("__Host-session", "__Host-manager"), admin.replace("__Host-manager", "__Host-session")];
    ask(&app, "/both", &[&swapped[0], &swapped[1]]).await.says("None None");
}

#[tokio::test]
async fn a_kind_of_session_without_its_layer_says_which_one_is_missing() {
    let app = Router::new()
        .route("/", get(|_: Session<Admin>| async {}))
        .layer(layer(&TestStore::default()).build().unwrap());
    let answer = ask(&app, "/", &[]).await.expect(500);
    assert!(answer.body.contains("Admin"), "{}", answer.body);
}

// Secrets.

#[tokio::test]
async fn secrets_rotate_in_three_deploys_without_a_logout_while_nodes_of_both_generations_answer() {
    let (old, new) = ([1; 32], [2; 32]);
    let store = TestStore::default();
    let node = |secret: [u8; 32], accepted: &[[u8; 32]]| {
        App::new(SessionLayer::builder(store.clone()).secret(secret).accepted_secrets(accepted).build().unwrap())
    };
    let generations = [node(old, &[]), node(old, &[new]), node(new, &[old]), node(new, &[])];
    let first = Browser::new(&generations[0]);
    first.run("log_in alice").await.expect(200);
    // Until the old one is dropped, the first cookie is good everywhere.
    for generation in &generations[..3] {
        first.at(generation).run("principal").await.says("alice");
    }
    for rolling in generations.windows(2) {
        for [from, to] in [[&rolling[0], &rolling[1]], [&rolling[1], &rolling[0]]] {
            let browser = Browser::new(from);
            browser.run("log_in bob").await.expect(200);
            browser.at(to).run("principal").await.says("bob");
        }
    }
    store.calls();
    first.at(&generations[3]).run("principal").await.says("nobody");
    store.expect_calls(&[]);
}

// Bad input.

#[tokio::test]
async fn the_good_cookie_is_found_whatever_comes_along() {
    let (_, browser) = with_session().await;
    let good = format!("{COOKIE}={}", browser.cookie().unwrap());
    let junk = format!("{COOKIE}=junk");
    let many = format!("{COOKIE}=junk; ").repeat(100);
    let forged = format!("{COOKIE}={}", "A".repeat(good.len() - COOKIE.len() - 1));
    let cookies: Vec<Vec<Vec<u8>>> = vec![
        vec![good.clone().into()],
        vec![format!("{many}{good}").into()],
        vec![format!("{good}; {many}").into()],
        vec![junk.clone().into(), good.clone().into(), junk.into()],
        vec![forged.clone().into(), forged.into(), good.clone().into()],
        vec![format!("theme=dark;{good};lang=de").into()],
        vec!["name=größe; 世界=1".into(), good.clone().into()],
        vec![[b"bytes=\xff\xfe\x80; ".as_slice(), good.as_bytes()].concat()],
        vec![format!("{}=1; {good}", "x".repeat(10_000)).into()],
        vec![format!("{COOKIE}={}; {good}", "x".repeat(10_000)).into()],
        vec![format!("=; ;;; ={COOKIE}; {good}").into()],
        vec![Vec::new(), good.into()],
    ];
    for headers in cookies {
        let mut request = browser.other().request("/run", "get n");
        for bytes in &headers {
            request.headers_mut().append(header::COOKIE, HeaderValue::from_bytes(bytes).unwrap());
        }
        let shown = String::from_utf8_lossy(&headers.concat()).chars().take(80).collect::<String>();
        let answer = browser.send(request).await.without_cookie();
        assert_eq!(answer.body, "0", "{shown}");
    }
}

#[tokio::test]
async fn any_string_in_the_cookie_is_nobody_and_login_works_over_it() {
    for value in ["", "x", "null", "../../etc", "%00", "\"", "a=b=c", "0123456789abcdef", "🍪", "' OR 1=1", "{}"] {
        let (store, browser) = setup();
        let mut request = browser.request("/run", "exists; log_in alice");
        let cookie = HeaderValue::from_bytes(format!("{COOKIE}={value}").as_bytes()).unwrap();
        request.headers_mut().insert(header::COOKIE, cookie);
        let answer = browser.send(request).await.says("false").with_cookie();
        assert!(!answer.set_cookies()[0].contains(&format!("={value};")));
        browser.receive(&answer);
        browser.run("principal").await.says("alice");
        assert_eq!(store.memory.len(), 1);
    }
}

#[tokio::test]
async fn an_id_that_we_signed_but_never_stored_becomes_no_session_of_that_id() {
    // From another store under the same secret: yesterday's, say, lost with its disk.
    let (_, elsewhere) = with_session().await;
    let (store, browser) = setup();
    browser.set_cookie(COOKIE, &elsewhere.cookie().unwrap());
    let id = elsewhere.run("id").await.body;
    browser.run("exists; insert a 1").await.says("false").with_cookie();
    assert_ne!(browser.run("id").await.body, id);
    assert_eq!(store.memory.len(), 1);
}

#[tokio::test]
async fn routes_inside_one_layer_share_the_session_and_those_outside_have_none() {
    let (store, browser) = with_session().await;
    let app =
        Router::new().nest("/inside", ops()).layer(layer(&store).build().unwrap()).route("/outside", post(|| async {}));
    let answer = app.clone().oneshot(browser.request("/inside/run", "get n")).await.unwrap();
    Answer::read(answer).await.says("0");
    let answer = app.oneshot(browser.request("/outside", "")).await.unwrap();
    Answer::read(answer).await.expect(200);
}
