//! Cookies of the layer in a real browser, on small apps in this process. `127.0.0.1` and `localhost` are two sites, and ports make no
//! difference to cookies: an app on another port of the same address is the next deploy of the first.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use cluster_tests::wait::{ensure, eventually};
use serde_json::json;
use session_layer::store::MemoryStore;
use session_layer::{FormerCookie, SameSite, Session, SessionError, SessionLayer, SessionLayerBuilder};
use tokio::net::TcpListener;

use super::chromium::Chromium;

type Shown = Result<Html<String>, SessionError>;

fn page(session: &Session) -> Html<String> {
    let who = session.principal().unwrap_or_else(|| "nobody".to_owned());
    let id = if session.exists() { session.id().encode() } else { "none".to_owned() };
    Html(format!("<!doctype html><title>Shop</title><p id=who>{who}</p><p id=session>{id}</p>"))
}

/// A shop with a page, a login, a counter, and a door for a payment provider.
fn shop(store: &MemoryStore, change: impl FnOnce(SessionLayerBuilder) -> SessionLayerBuilder) -> Router {
    async fn show(session: Session) -> Html<String> {
        page(&session)
    }
    async fn put(session: Session) -> Shown {
        session.increment("cart", 1)?;
        session.flush().await?;
        Ok(page(&session))
    }
    async fn log_in(session: Session) -> Shown {
        session.log_in("alice")?;
        Ok(page(&session))
    }
    let layer = SessionLayer::builder(store.clone()).secret([7; 32]).development(true);
    Router::new()
        .route("/shop/", get(show))
        .route("/shop/put", get(put).post(put))
        .route("/shop/login", get(log_in))
        // Records the payment by the order's number, which is in the form, and sends the visitor on.
        .route("/shop/paid", post(|| async { Redirect::to("/shop/") }))
        .layer(change(layer).build().expect("the settings are good"))
}

/// Serves an app until the test ends; tells its port.
async fn serve(app: Router) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move { axum::serve(listener, app).await });
    port
}

/// Another site with a form and a link to a page of the shop.
async fn elsewhere(shop: u16) -> u16 {
    let pages = ["put", "paid", ""].map(|page| {
        let shop = format!("http://127.0.0.1:{shop}/shop/{page}");
        format!("<form method=post action='{shop}'><button id='post-{page}'>{page}</button></form><a id='to-{page}' href='{shop}'>{page}</a>")
    });
    let html = format!("<!doctype html><title>Elsewhere</title>{}", pages.concat());
    serve(Router::new().route("/", get(|| async { Html(html) }))).await
}

async fn open(port: u16, path: &str) -> Chromium {
    let browser = Chromium::open_empty().await;
    browser.visit(&format!("http://127.0.0.1:{port}{path}")).await;
    browser
}

/// When the browser will drop the session cookie, in seconds since the epoch.
async fn expires(browser: &Chromium) -> f64 {
    let found = browser.devtools("Network.getAllCookies", json!({})).await;
    let cookies = found["cookies"].as_array().expect("a list");
    let session = cookies.iter().find(|cookie| cookie["name"] == "session");
    session.and_then(|cookie| cookie["expires"].as_f64()).expect("there is a persistent session cookie")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_active_visitor_keeps_a_persistent_cookie() {
    let shop = shop(&MemoryStore::new(), |layer| {
        layer.persistent_cookie(true).idle_timeout(Duration::from_secs(60)).touch_interval(Duration::from_secs(10))
    });
    let port = serve(shop).await;
    let browser = open(port, "/shop/put").await;
    let first = expires(&browser).await;
    // Writes far more often than the touch interval, so that no request finds time gone.
    browser.run("setInterval(() => fetch('/shop/put'), 200)").await;
    eventually("the cookie is kept for longer", Duration::from_secs(20), async || {
        let now = expires(&browser).await;
        ensure(now > first + 1.0, || format!("it still ends {} seconds after the first one", now - first))
    })
    .await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_lasts_after_the_path_of_the_cookie_has_changed() {
    let store = MemoryStore::new();
    let before = serve(shop(&store, |layer| layer.cookie_path("/shop"))).await;
    let after = serve(shop(&store, |layer| layer)).await;
    let removing = shop(&store, |layer| layer.former_cookies([FormerCookie::new("session").path("/shop")]));
    let removing = serve(removing).await;
    let browser = open(before, "/shop/put").await;
    let who = async |port: u16, path: &str| {
        browser.visit(&format!("http://127.0.0.1:{port}/shop/{path}")).await;
        browser.text("#who").await
    };
    let cookies = async || {
        let urls = json!({ "urls": [format!("http://127.0.0.1:{after}/shop/")] });
        let found = browser.devtools("Network.getCookies", urls).await;
        found["cookies"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(who(after, "login").await, "alice");
    assert_eq!(cookies().await, 2, "the browser keeps both");
    assert_eq!(who(after, "").await, "alice");
    assert_eq!(who(removing, "").await, "alice");
    assert_eq!(cookies().await, 1, "the former one is removed");
    assert_eq!(who(removing, "").await, "alice");
    browser.close().await;
}

type Kept = Arc<Mutex<HashMap<String, (http::HeaderMap, axum::body::Bytes)>>>;

/// A shared cache that goes by `CDN-Cache-Control` and, without it, by `Cache-Control` (RFC 9213).
async fn cache(State(kept): State<Kept>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let hit =
        kept.lock().unwrap().get(&path).filter(|_| !request.headers().contains_key(http::header::COOKIE)).cloned();
    if let Some(hit) = hit {
        return hit.into_response();
    }
    let (head, body) = next.run(request).await.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
    let said = head.headers.get("cdn-cache-control").or(head.headers.get("cache-control"));
    if said.is_some_and(|said| said.as_bytes().starts_with(b"max-age=")) {
        kept.lock().unwrap().insert(path, (head.headers.clone(), body.clone()));
    }
    (head, body).into_response()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_browsers_behind_a_cache_have_two_sessions() {
    async fn put(session: Session) -> Shown {
        session.increment("cart", 1)?;
        session.flush().await?;
        Ok(page(&session))
    }
    let for_cdns = axum::middleware::map_response(async |mut response: Response| {
        response.headers_mut().insert("cdn-cache-control", "max-age=600".parse().expect("a good value"));
        response
    });
    let sessions = SessionLayer::builder(MemoryStore::new()).secret([7; 32]).development(true).build().unwrap();
    let app = Router::new().route("/", get(put)).layer(for_cdns).layer(sessions);
    let port = serve(app.layer(from_fn_with_state(Kept::default(), cache))).await;
    let alice = open(port, "/").await;
    let bob = open(port, "/").await;
    let [first, second] = [alice.text("#session").await, bob.text("#session").await];
    assert_ne!(first, second, "two visitors have one session");
    alice.close().await;
    bob.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_of_another_site_does_not_log_the_visitor_out() {
    let shop = serve(shop(&MemoryStore::new(), |layer| layer)).await;
    let other = elsewhere(shop).await;
    let browser = open(shop, "/shop/login").await;
    browser.visit(&format!("http://localhost:{other}/")).await;
    browser.follow("#post-put").await;
    browser.visit(&format!("http://127.0.0.1:{shop}/shop/")).await;
    assert_eq!(browser.text("#who").await, "alice");
    // A link is not withheld, and the page that a payment provider's form leads to has the session.
    for way in ["#to-put", "#post-paid"] {
        browser.visit(&format!("http://localhost:{other}/")).await;
        browser.follow(way).await;
        assert_eq!(browser.text("#who").await, "alice", "{way}");
    }
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_strict_cookie_a_link_does_not_log_the_visitor_out() {
    let shop = serve(shop(&MemoryStore::new(), |layer| layer.same_site(SameSite::Strict))).await;
    let other = elsewhere(shop).await;
    let browser = open(shop, "/shop/login").await;
    browser.visit(&format!("http://localhost:{other}/")).await;
    browser.follow("#to-put").await;
    browser.visit(&format!("http://127.0.0.1:{shop}/shop/")).await;
    assert_eq!(browser.text("#who").await, "alice");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_visit_by_a_link_starts_a_session() {
    let shop = serve(shop(&MemoryStore::new(), |layer| layer)).await;
    let other = elsewhere(shop).await;
    let browser = Chromium::open_empty().await;
    browser.visit(&format!("http://localhost:{other}/")).await;
    browser.follow("#to-put").await;
    let started = browser.text("#session").await;
    browser.visit(&format!("http://127.0.0.1:{shop}/shop/")).await;
    assert_eq!(browser.text("#session").await, started);
    browser.close().await;
}
