//! Two layers over one store: whose sessions each one lists, counts and ends. And what a list that was lost does to one of them.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{Request, header};
use session_layer::{AboveLimit, Session, SessionError, SessionLayer, SessionLayerBuilder};
use tokio::time::advance;
use tower::ServiceExt;

use crate::fixture::{Answer, App, Browser, TestStore, layer, minutes, settle, setup};

struct Admin;

/// The layers of an app's visitors and admins, each with a route that logs its browser in as `1` and one that says who is logged in.
struct Layers {
    visitors: SessionLayer,
    admins: SessionLayer<Admin>,
    app: Router,
}

impl Layers {
    fn new(change: fn(SessionLayerBuilder) -> SessionLayerBuilder) -> Self {
        Self::named("__Host-session", "__Host-admin", change)
    }

    fn named(visitors: &str, admins: &str, change: fn(SessionLayerBuilder) -> SessionLayerBuilder) -> Self {
        let store = TestStore::default();
        let with_name = |name: &str| change(layer(&store)).cookie_name(name);
        let visitors = with_name(visitors).build().unwrap();
        let admins: SessionLayer<Admin> = with_name(admins).kind::<Admin>().build().unwrap();
        async fn log_in<K: 'static>(session: Session<K>) -> Result<(), SessionError> {
            session.log_in("1")
        }
        async fn who<K: 'static>(session: Session<K>) -> String {
            session.principal().unwrap_or_default()
        }
        let of_visitors = Router::new()
            .route("/login", get(log_in::<session_layer::DefaultSession>))
            .route("/who", get(who::<session_layer::DefaultSession>))
            .layer(visitors.clone());
        let of_admins = Router::new()
            .route("/admin/login", get(log_in::<Admin>))
            .route("/admin/who", get(who::<Admin>))
            .layer(admins.clone());
        Self { visitors, admins, app: of_visitors.merge(of_admins) }
    }

    async fn get(&self, path: &str, cookie: &str) -> Answer {
        let request = Request::get(path).header(header::COOKIE, cookie).body(Body::empty()).unwrap();
        Answer::read(self.app.clone().oneshot(request).await.unwrap()).await
    }

    /// Logs a new browser in, and gives its cookie.
    async fn log_in(&self, path: &str) -> String {
        let answer = self.get(path, "").await.with_cookie();
        answer.set_cookies()[0].split("; ").next().unwrap().to_owned()
    }

    async fn counts(&self) -> (usize, usize) {
        let [visitors, admins] = [self.visitors.sessions(), self.admins.sessions()];
        (visitors.of("1").await.unwrap().len(), admins.of("1").await.unwrap().len())
    }
}

#[tokio::test]
async fn two_layers_over_one_store_do_not_list_or_end_each_others_sessions() {
    let layers = Layers::new(|layer| layer);
    let (visitor, admin) = (layers.log_in("/login").await, layers.log_in("/admin/login").await);
    assert_eq!(layers.counts().await, (1, 1));
    let admins = layers.admins.sessions();
    let of_admin = admins.of("1").await.unwrap().remove(0).handle();
    assert!(!layers.visitors.sessions().revoke("1", &of_admin).await.unwrap());
    assert_eq!(layers.visitors.sessions().revoke_others("1", &of_admin).await.unwrap(), 1);
    layers.get("/who", &visitor).await.says("");
    layers.get("/admin/who", &admin).await.says("1");
    layers.log_in("/login").await;
    assert_eq!(layers.visitors.sessions().revoke_all("1").await.unwrap(), 1);
    assert_eq!(layers.counts().await, (0, 1));
    layers.get("/admin/who", &admin).await.says("1");
}

#[tokio::test]
async fn the_limit_of_one_layer_does_not_count_another_layers_sessions() {
    for above in [AboveLimit::EvictOldest, AboveLimit::Refuse] {
        let layers = match above {
            AboveLimit::EvictOldest => {
                Layers::new(|layer| layer.max_sessions_per_principal(1, AboveLimit::EvictOldest))
            }
            _ => Layers::new(|layer| layer.max_sessions_per_principal(1, AboveLimit::Refuse)),
        };
        let (visitor, admin) = (layers.log_in("/login").await, layers.log_in("/admin/login").await);
        layers.get("/who", &visitor).await.says("1");
        layers.get("/admin/who", &admin).await.says("1");
    }
}

#[tokio::test]
async fn layers_of_one_realm_share_their_lists() {
    let layers = Layers::new(|layer| layer.realm("everybody"));
    let (visitor, admin) = (layers.log_in("/login").await, layers.log_in("/admin/login").await);
    assert_eq!(layers.counts().await, (2, 2));
    assert_eq!(layers.visitors.sessions().revoke_all("1").await.unwrap(), 2);
    layers.get("/who", &visitor).await.says("");
    layers.get("/admin/who", &admin).await.says("");
}

/// Even where both were given one name, under one secret.
#[tokio::test]
async fn a_visitors_cookie_never_opens_an_admins_session() {
    let layers = Layers::named("__Host-shared", "__Host-shared", |layer| layer);
    let (visitor, admin) = (layers.log_in("/login").await, layers.log_in("/admin/login").await);
    layers.get("/who", &visitor).await.says("1");
    layers.get("/admin/who", &visitor).await.says("").without_cookie();
    layers.get("/admin/who", &admin).await.says("1");
    layers.get("/who", &admin).await.says("").without_cookie();
}

/// In production and in development, so that a realm is the same name in both.
#[tokio::test]
async fn a_realm_is_by_default_the_cookies_name_without_its_prefix() {
    for name in ["__Host-shop", "__Secure-shop", "shop"] {
        let store = TestStore::default();
        let layer = layer(&store).cookie_name(name).build().unwrap();
        Browser::new(&App::new(layer)).run("log_in alice").await.expect(200);
        assert_eq!(listed(&store, "shop").await, 1, "{name}");
    }
}

/// How many sessions of alice are listed in a realm.
async fn listed(store: &TestStore, realm: &str) -> usize {
    use session_layer::store::SessionStore;
    store.memory.sessions_of(realm, "alice").await.unwrap().len()
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_only_read_is_back_in_its_list_after_its_touch() {
    let (store, browser) = setup();
    browser.run("log_in alice").await.expect(200);
    store.memory.lose_list("session", "alice");
    assert_eq!(listed(&store, "session").await, 0);
    // More often than the touch interval of a minute and a half.
    for _ in 0..2 {
        advance(Duration::from_secs(60)).await;
        browser.run("principal").await.says("alice");
        settle().await;
    }
    assert_eq!(listed(&store, "session").await, 1);
}

#[tokio::test]
async fn a_session_whose_list_was_lost_is_back_in_it_after_a_blind_write() {
    let (store, browser) = setup();
    browser.run("log_in alice").await.expect(200);
    store.memory.lose_list("session", "alice");
    browser.lazy("insert a 1").await.expect(200);
    assert_eq!(listed(&store, "session").await, 1);
}

/// Old nodes and new ones run side by side during a deploy.
#[tokio::test(start_paused = true)]
async fn a_session_is_listed_in_the_realm_that_its_layer_was_changed_to() {
    let (store, browser) = setup();
    browser.run("log_in alice").await.expect(200);
    let deployed = App::new(layer(&store).realm("customers").build().unwrap());
    advance(minutes(2)).await;
    browser.at(&deployed).run("principal").await.says("alice");
    settle().await;
    assert_eq!((listed(&store, "session").await, listed(&store, "customers").await), (1, 1));
}
