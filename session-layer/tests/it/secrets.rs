//! Nothing prints an ID, a cookie, an attribute's value or a principal: not `Debug`, not an error, not a log.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::post;
use base64::Engine;
use session_layer::store::{Commit, Listed, Loaded, Reply, Revocation, Revoked, SessionStore, StoreError, Touch};
use session_layer::{LazySession, Session, SessionError, SessionId, SessionLayer};

use crate::fixture::{App, Browser, Call, Captured, Fault, SECRET, TestStore};

/// Prints all that a store is given and gives.
#[derive(Clone, Default)]
struct Printing {
    inner: TestStore,
    printed: Arc<Mutex<String>>,
}

impl Printing {
    fn print(&self, value: impl std::fmt::Debug) {
        self.printed.lock().unwrap().push_str(&format!("{value:?}\n{value:#?}\n"));
    }
}

impl SessionStore for Printing {
    async fn load(&self, id: &SessionId) -> Result<Loaded, StoreError> {
        let loaded = self.inner.load(id).await;
        self.print((id, &loaded));
        loaded
    }

    async fn commit(&self, commit: &Commit) -> Result<Reply, StoreError> {
        let reply = self.inner.commit(commit).await;
        self.print((commit, &commit.changes, &reply));
        reply
    }

    async fn sessions_of(&self, realm: &str, principal: &str) -> Result<Vec<Listed>, StoreError> {
        let listed = self.inner.sessions_of(realm, principal).await;
        self.print(&listed);
        listed
    }

    async fn revoke(&self, revocation: &Revocation) -> Result<Revoked, StoreError> {
        let revoked = self.inner.revoke(revocation).await;
        self.print((revocation, &revoked));
        revoked
    }

    async fn touch(&self, touch: &Touch) -> Result<(), StoreError> {
        self.inner.touch(touch).await
    }
}

/// All that must not be seen of a session: what the tests store, and the browser's ID in every spelling.
fn secrets(cookies: &[String]) -> Vec<String> {
    let mut secrets: Vec<String> = ["hunter2", "wonderland-alice", "424242"].map(String::from).into();
    for cookie in cookies {
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(cookie).unwrap();
        let id = SessionId::try_from(&bytes[1..21]).unwrap();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let list = |bytes: &[u8]| bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        secrets.extend([cookie.clone(), id.encode(), hex(id.as_bytes()), list(id.as_bytes()), hex(&id.digest())]);
    }
    secrets.push("7, 7, 7, 7, 7, 7, 7, 7".into());
    secrets
}

#[track_caller]
fn check(text: &str, secrets: &[String]) {
    for secret in secrets {
        assert!(!text.contains(secret.as_str()), "{secret} in {text}");
    }
}

/// A whole life, failures included; the cookies that were sent.
async fn live(store: &TestStore, browser: &Browser) -> Vec<String> {
    let mut cookies = Vec::new();
    let conversation: &[(Option<(Call, Fault)>, &str)] = &[
        (None, "insert password \"hunter2\"; insert n 424242; increment k 424242"),
        (None, "get password; get n; increment n 424242; flush n"),
        (Some((Call::Apply, Fault::Fail)), "push list \"hunter2\"; push list \"hunter2\""),
        (Some((Call::Renew, Fault::LoseAnswer)), "log_in wonderland-alice; insert password \"hunter2\""),
        (Some((Call::Apply, Fault::Refuse)), "insert password \"hunter2\""),
        (Some((Call::Apply, Fault::Corrupt)), "insert password \"hunter2\""),
        (Some((Call::Load, Fault::Corrupt)), "get password"),
        (Some((Call::Load, Fault::Hang)), "get password"),
        (Some((Call::Touch, Fault::Fail)), "get password; sleep 300000"),
        (None, "increment password"),
        (None, "number password"),
        (None, "log_out; insert flash \"hunter2\""),
        (None, "log_in wonderland-alice"),
        (None, "log_out"),
    ];
    for (fault, ops) in conversation {
        if let Some((call, fault)) = fault {
            store.next(*call, fault.clone());
        }
        browser.run(ops).await;
        cookies.extend(browser.cookie());
        tokio::time::advance(crate::fixture::minutes(2)).await;
    }
    // An update that meets a faster writer.
    browser.run("insert cas 424242").await;
    cookies.extend(browser.cookie());
    let gate = store.hold(Call::Apply);
    let slow = browser.start("add cas");
    gate.reached(1).await;
    browser.run("insert cas 4242420").await;
    gate.open();
    slow.await.unwrap();
    cookies
}

#[tokio::test(start_paused = true)]
async fn what_passes_between_a_request_and_a_store_prints_no_secret() {
    let store = Printing::default();
    let layer = SessionLayer::builder(store.clone()).secret(SECRET).build().unwrap();
    let browser = Browser::new(&App::new(layer));
    let cookies = live(&store.inner, &browser).await;
    assert!(cookies.len() > 10);
    let printed = store.printed.lock().unwrap();
    for what in ["Conflict", "Renew", "Replace", "Create", "Destroy", "Alive"] {
        assert!(printed.contains(what), "nothing with {what} happened");
    }
    check(&printed, &secrets(&cookies));
}

#[tokio::test(start_paused = true)]
async fn no_log_holds_a_secret_at_any_level() {
    let log = Captured::begin();
    let store = TestStore::default();
    let app = App::new(crate::fixture::layer(&store).development(true).cookie_name("__s").build().unwrap());
    let browser = Browser::new(&app);
    // The jar's name for the cookie is another here: look for it in the answers' headers as well.
    let answer = browser.run("insert password \"hunter2\"; log_in wonderland-alice").await;
    let value = answer.set_cookies()[0].split([';', '=']).nth(1).unwrap().to_owned();
    live(&store, &browser).await;
    let text = log.text();
    for event in ["session created", "session ID renewed", "session destroyed", "did not answer in time"] {
        assert!(text.contains(event), "{event}: {text}");
    }
    assert!(text.contains("session.hash="), "{text}");
    check(&text, &secrets(&[value]));
}

#[tokio::test]
async fn handles_errors_and_headers_print_no_secret() {
    let printed = Arc::new(Mutex::new(String::new()));
    let handler = {
        let printed = Arc::clone(&printed);
        move |session: Session, lazy: LazySession| async move {
            session.log_in("wonderland-alice").unwrap();
            session.insert("password", "hunter2").unwrap();
            session.insert("n", 424_242).unwrap();
            session.increment("k", 424_242).unwrap();
            let flushed = session.flush().await.unwrap();
            assert_eq!(flushed.counter("k"), Some(424_242));
            let errors: Vec<SessionError> = vec![
                session.get::<u8>("password").unwrap_err(),
                session.insert("big", "hunter2".repeat(20_000)).unwrap_err(),
                session.insert_json("json", "hunter2").unwrap_err(),
                session.increment("password", 1).and_then(|()| session.insert("@hunter2", 1)).unwrap_err(),
                session.log_in("wonderland-alice\n").unwrap_err(),
            ];
            let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
            session.remove("password").unwrap();
            *printed.lock().unwrap() =
                format!("{session:?} {lazy:?} {:?} {flushed:?} {errors:?} {texts:?}", session.id());
        }
    };
    let store = TestStore::default();
    let layer = crate::fixture::layer(&store).build().unwrap();
    let debug = format!("{layer:?}");
    let app = Router::new().route("/run", post(handler)).layer(layer);
    let browser = Browser::new(&App::new(crate::fixture::layer(&store).build().unwrap()));
    let response = tower::ServiceExt::oneshot(app, browser.request("/run", "")).await.unwrap();
    assert_eq!(response.status(), 200);
    let headers = format!("{:?}", response.headers());
    let answer = crate::fixture::Answer::read(response).await;
    browser.receive(&answer);
    let secrets = secrets(&[browser.cookie().unwrap()]);
    check(&headers, &secrets);
    check(&debug, &secrets);
    check(&printed.lock().unwrap(), &secrets);
}

#[test]
fn a_refused_setting_prints_no_secret() {
    let error = SessionLayer::builder(TestStore::default()).secret("hunter2").build().unwrap_err();
    check(&format!("{error} {error:?}"), &secrets(&[]));
}
