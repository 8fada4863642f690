//! Browsers that send two of our cookies, after the cookie's domain or path has changed.

use axum::Router;
use axum::routing::get;
use http::{Request, header};
use session_layer::{FormerCookie, Session, SessionLayerBuilder};

use crate::fixture::Call::{Apply, Create, Load};
use crate::fixture::{Answer, TestStore, Visitor, layer, ops};

fn app(store: &TestStore, change: impl FnOnce(SessionLayerBuilder) -> SessionLayerBuilder) -> Router {
    let layer = layer(store).cookie_name("session");
    Router::new().nest("/cart", ops()).layer(change(layer).build().expect("the settings are good"))
}

/// Where the cookie may be set.
const SCOPES: [(Option<&str>, &str); 3] = [(None, "/cart"), (Some("shop.example"), "/"), (None, "/")];

fn former(scope: usize) -> FormerCookie {
    let (domain, path) = SCOPES[scope];
    let cookie = FormerCookie::new("session").path(path);
    if let Some(domain) = domain { cookie.domain(domain) } else { cookie }
}

/// The app with the cookie in one of these scopes, after it was in all the others.
fn scoped(store: &TestStore, scope: usize, removes: bool) -> Router {
    app(store, |layer| {
        let (domain, path) = SCOPES[scope];
        let layer = layer.cookie_path(path);
        let layer = if let Some(domain) = domain { layer.cookie_domain(domain) } else { layer };
        let others = (0..SCOPES.len()).filter(|other| removes && *other != scope).map(former);
        layer.former_cookies(others.collect::<Vec<_>>())
    })
}

/// A visitor who logged in after the cookie's path had changed.
async fn with_two_cookies(store: &TestStore) -> Visitor {
    let mut visitor = Visitor::default();
    visitor.run(&scoped(store, 0, false), "insert cart 1").await.expect(200);
    visitor.run(&scoped(store, 2, false), "log_in alice").await.expect(200);
    assert_eq!(visitor.count(), 2);
    store.calls();
    visitor
}

#[tokio::test]
async fn of_two_cookies_the_one_with_the_live_session_counts() {
    let store = TestStore::default();
    let app = scoped(&store, 2, false);
    let mut visitor = with_two_cookies(&store).await;
    visitor.run(&app, "principal; get cart; insert b 1").await.says("alice 1").without_cookie();
    // The first one is dead; then nothing is asked for the second beyond its own load.
    store.expect_calls(&[Load, Load, Apply]);
    visitor.run(&app, "get b").await.says("1");
    visitor.run(&app, "log_out").await.expect(200);
    visitor.run(&app, "principal").await.says("nobody");
}

#[tokio::test]
async fn a_single_cookie_costs_one_load_dead_or_alive() {
    let store = TestStore::default();
    let app = scoped(&store, 2, true);
    let mut visitor = Visitor::default();
    visitor.run(&app, "insert a 1").await.expect(200);
    store.calls();
    let mut other = visitor.clone();
    visitor.run(&app, "get a").await.says("1").without_cookie();
    store.expect_calls(&[Load]);
    visitor.run(&app, "log_out").await.expect(200);
    store.calls();
    other.run(&app, "exists").await.says("false");
    store.expect_calls(&[Load]);
}

#[tokio::test]
async fn a_blind_write_with_two_cookies_goes_to_the_live_session() {
    let store = TestStore::default();
    let app = scoped(&store, 2, false);
    for ops in ["insert b 1", "insert b 1; flush"] {
        let mut visitor = with_two_cookies(&store).await;
        visitor.lazy(&app, ops).await.expect(200).without_cookie();
        store.expect_calls(&[Load, Load, Apply]);
        visitor.run(&app, "principal; get b").await.says("alice 1");
    }
}

#[tokio::test]
async fn former_cookies_are_removed_and_the_live_one_is_sent_as_it_is_set_now() {
    let store = TestStore::default();
    let app = scoped(&store, 2, true);
    let mut visitor = with_two_cookies(&store).await;
    let answer = visitor.run(&app, "principal").await.says("alice");
    let cookies = answer.set_cookies();
    assert_eq!(
        cookies[..2],
        [
            "session=; Path=/cart; HttpOnly; SameSite=Lax; Secure; Max-Age=0",
            "session=; Path=/; HttpOnly; SameSite=Lax; Secure; Domain=shop.example; Max-Age=0",
        ]
    );
    assert!(cookies.len() == 3 && cookies[2].ends_with("; Path=/; HttpOnly; SameSite=Lax; Secure"), "{cookies:?}");
    assert_eq!(answer.all(header::CACHE_CONTROL), ["no-store"]);
    assert_eq!(visitor.count(), 1);
    store.calls();
    visitor.run(&app, "principal").await.says("alice").without_cookie();
    store.expect_calls(&[Load]);
}

#[tokio::test]
async fn a_live_session_under_a_former_cookie_moves_with_it() {
    let store = TestStore::default();
    let app = scoped(&store, 2, true);
    // The cookie as it is set now has a session that ended; the former one is alive, as after a deploy that was taken back.
    let mut visitor = Visitor::default();
    visitor.run(&app, "insert a 1").await.expect(200);
    let mut elsewhere = visitor.clone();
    let mut from_before = Visitor::default();
    let answer = from_before.run(&scoped(&store, 0, false), "log_in alice").await.expect(200);
    visitor.receive(&answer.headers);
    elsewhere.run(&app, "destroy").await.expect(200);
    assert_eq!(visitor.count(), 2);
    visitor.run(&app, "principal").await.says("alice");
    assert_eq!(visitor.count(), 1);
    visitor.run(&app, "principal").await.says("alice").without_cookie();
}

#[tokio::test]
async fn a_logout_removes_the_cookie_whichever_scope_it_is_in() {
    let store = TestStore::default();
    for scope in 0..SCOPES.len() {
        let mut visitor = Visitor::default();
        visitor.run(&scoped(&store, scope, false), "insert a 1").await.expect(200);
        visitor.run(&scoped(&store, 2, true), "log_out").await.expect(200);
        assert_eq!(visitor.count(), 0, "scope {scope}");
        visitor.run(&scoped(&store, scope, false), "insert a 1").await.expect(200);
        visitor.run(&scoped(&store, 2, true), "log_in alice").await.expect(200);
        assert_eq!(visitor.count(), 1, "scope {scope}");
    }
}

#[tokio::test]
async fn what_may_be_alive_is_not_removed_before_it_is_known() {
    let store = TestStore::default();
    let app = scoped(&store, 2, true);
    let mut visitor = with_two_cookies(&store).await;
    // Asks for no session.
    visitor.lazy(&app, "presented").await.says("true").without_cookie();
    // Cannot say which one is alive.
    store.go_down();
    visitor.lazy(&app, "insert b 1").await.expect(503).without_cookie();
    store.come_back();
    visitor.run(&app, "insert b 1").await.expect(200);
    visitor.run(&app, "principal").await.says("alice");
}

#[tokio::test]
async fn dead_cookies_are_removed_and_a_write_starts_one_session() {
    let store = TestStore::default();
    let app = scoped(&store, 2, true);
    let mut visitor = Visitor::default();
    visitor.run(&scoped(&store, 0, false), "insert a 1").await.expect(200);
    let mut path = visitor.clone();
    visitor.run(&scoped(&store, 1, false), "cycle").await.expect(200);
    assert_eq!(visitor.count(), 2);
    // As if both had expired long ago.
    let elsewhere = TestStore::default();
    let app_there = scoped(&elsewhere, 2, true);
    drop(app);
    let answer = visitor.run(&app_there, "insert b 1").await.expect(200);
    assert_eq!(answer.set_cookies().len(), 3, "{answer:?}");
    elsewhere.expect_calls(&[Load, Load, Create]);
    assert_eq!(visitor.count(), 1);
    path.run(&app_there, "exists").await.says("false");
}

#[tokio::test]
async fn another_dead_cookie_does_not_let_a_late_request_start_a_session() {
    let store = TestStore::default();
    let app = scoped(&store, 2, false);
    let mut visitor = Visitor::default();
    // Never stored here: as if it had expired long ago.
    let mut foreign = Visitor::default();
    let answer = foreign.run(&scoped(&TestStore::default(), 0, false), "insert a 1").await.expect(200);
    visitor.receive(&answer.headers);
    visitor.run(&app, "log_in alice").await.expect(200);
    let mut late = visitor.clone();
    assert_eq!(late.count(), 2);
    visitor.run(&app, "log_out").await.expect(200);
    late.run(&app, "try insert b 1").await.expect(409).without_cookie();
    late.lazy(&app, "insert b 1").await.expect(409).without_cookie();
    assert!(store.memory.is_empty());
}

#[tokio::test]
async fn at_most_eight_cookies_are_asked_for() {
    let store = TestStore::default();
    let app = scoped(&store, 2, false);
    let mut live = Visitor::default();
    live.run(&app, "insert a 1").await.expect(200);
    let live = live.cookies("/cart/run").unwrap();
    let mut dead = Vec::new();
    for _ in 0..20 {
        let mut other = Visitor::default();
        other.run(&scoped(&TestStore::default(), 2, false), "insert a 1").await.expect(200);
        dead.push(other.cookies("/cart/run").unwrap());
    }
    for (before, finds) in [(7, "1"), (8, "none")] {
        store.calls();
        let cookies = [&dead[..before], std::slice::from_ref(&live), &dead[8..]].concat().join("; ");
        let request =
            Request::post("/cart/run").header(header::COOKIE, cookies).body(axum::body::Body::from("get a")).unwrap();
        let answer = tower::ServiceExt::oneshot(app.clone(), request).await.unwrap();
        Answer::read(answer).await.says(finds);
        store.expect_calls(&[Load; 8]);
    }
}

#[tokio::test]
async fn a_former_cookie_of_another_name_is_removed_and_opens_nothing() {
    let store = TestStore::default();
    let mut visitor = Visitor::default();
    visitor
        .run(&app(&store, |layer| layer.cookie_name("sid").rollback_detection(true)), "log_in alice")
        .await
        .expect(200);
    let app = app(&store, |layer| layer.former_cookies([FormerCookie::new("sid")]));
    let answer = visitor.run(&app, "principal").await.says("nobody");
    let expected = ["sid-v", "sid"].map(|name| format!("{name}=; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=0"));
    assert_eq!(answer.set_cookies(), expected);
    assert_eq!(visitor.count(), 0);
    visitor.run(&app, "insert a 1").await.expect(200).with_cookie();
}

#[tokio::test]
async fn the_token_of_the_chosen_cookie_counts() {
    let store = TestStore::default();
    let detecting = |scope: usize| {
        let (domain, path) = SCOPES[scope];
        app(&store, |layer| {
            let layer = layer.rollback_detection(true).cookie_path(path);
            if let Some(domain) = domain { layer.cookie_domain(domain) } else { layer }
        })
    };
    let mut visitor = Visitor::default();
    visitor.run(&detecting(0), "insert a 1").await.expect(200);
    visitor.run(&detecting(2), "log_in alice").await.expect(200);
    assert_eq!(visitor.count(), 4);
    // It was told of the version that is there, so nothing is told again.
    visitor.run(&detecting(2), "principal").await.says("alice").without_cookie();
    // And of one that a failover then loses.
    let lost = session_layer::store::MemoryStore::new();
    lost.fail_over_to(&store.memory);
    visitor.run(&detecting(2), "insert a 2").await.expect(200);
    store.memory.fail_over_to(&lost);
    store.calls();
    visitor.run(&detecting(2), "get a").await.says("1");
    assert!(store.calls().contains(&crate::fixture::Call::Confirm), "the loss is noticed");
}

#[tokio::test]
async fn layers_beside_this_one_keep_their_cookies() {
    let store = TestStore::default();
    struct Admin;
    let admin = layer(&store).cookie_name("admin").kind::<Admin>().build().unwrap();
    let app = scoped(&store, 2, true)
        .route("/cart/admin", get(|session: Session<Admin>| async move { session.insert("a", 1) }))
        .layer(admin);
    let mut visitor = with_two_cookies(&store).await;
    let request = Request::get("/cart/admin").body(axum::body::Body::empty()).unwrap();
    let answer = Answer::read(tower::ServiceExt::oneshot(app.clone(), request).await.unwrap()).await.with_cookie();
    visitor.receive(&answer.headers);
    assert_eq!(visitor.count(), 3);
    visitor.run(&app, "principal").await.says("alice");
    assert_eq!(visitor.count(), 2);
}

/// Every order of deploys and actions: a login is always followed by a page that shows it, and a logout by one that does not.
#[tokio::test]
async fn whatever_the_order_of_deploys_logins_last_and_logouts_end() {
    const STEPS: u32 = 4;
    const ACTIONS: [&str; 3] = ["insert a 1", "log_in alice", "log_out"];
    let kinds = SCOPES.len() + ACTIONS.len();
    let store = TestStore::default();
    for removes in [true, false] {
        let apps = [0, 1, 2].map(|scope| scoped(&store, scope, removes));
        for mut order in 0..kinds.pow(STEPS) {
            let (mut visitor, mut scope, mut logged_in, mut steps) = (Visitor::default(), 0, false, Vec::new());
            for _ in 0..STEPS {
                let step = order % kinds;
                order /= kinds;
                if let Some(ops) = ACTIONS.get(step) {
                    let answer = visitor.run(&apps[scope], ops).await;
                    // A dead cookie that is not removed may be the cookie of a session that ended a moment ago.
                    let is_late = !removes && *ops == "insert a 1" && answer.status == 409;
                    assert!(is_late || answer.status == 200, "{steps:?}, {ops}: {answer:?}");
                    logged_in = *ops == "log_in alice" || (logged_in && *ops != "log_out");
                } else {
                    scope = step - ACTIONS.len();
                }
                steps.push(step);
                let shown = visitor.run(&apps[scope], "principal").await;
                let expected = if logged_in { "alice" } else { "nobody" };
                assert_eq!(shown.body, expected, "{steps:?} in scope {scope}, removing: {removes}");
            }
        }
        store.calls();
    }
}
