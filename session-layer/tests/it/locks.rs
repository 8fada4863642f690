//! No code of the app runs while a session's lock is held: whatever it is that the library calls, it may use the session.
//!
//! Each test has the library call a `probe`, which uses the session from another thread and waits for that. Were the lock held, the
//! probe would give up and panic; the lock is released as the panic goes through it, so that nothing hangs.

use std::sync::mpsc;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use session_layer::store::StoreError;
use session_layer::{LazySession, Named, Reads, Session, SessionError, SessionLayerBuilder, Takes};

use crate::fixture::probe::{expect_probes, forget_probes, probe, probe_commits, probes, watch};
use crate::fixture::{Answer, Browser, Call, Captured, Fault, TestStore, handle, layer, setup};

/// Runs a handler whose session the probes use; they must run.
async fn probing<F, T>(store: &TestStore, browser: &Browser, handler: F) -> Answer
where
    F: FnOnce(Session, LazySession) -> T + Clone + Send + Sync + 'static,
    T: Future<Output = Result<(), SessionError>> + Send,
{
    let handler = |lazy: LazySession, session: Session| async move {
        watch(&lazy);
        handler(session, lazy).await
    };
    let app = Router::new().route("/run", post(handler)).layer(layer(store).build().unwrap());
    let response = tower::ServiceExt::oneshot(app, browser.request("/run", "")).await.unwrap();
    let answer = Answer::read(response).await;
    browser.receive(&answer);
    expect_probes(10);
    answer
}

/// A value whose implementations probe.
#[derive(Debug, PartialEq, Clone)]
struct Value;

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        probe();
        probe_commits();
        serializer.serialize_u8(1)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        probe();
        probe_commits();
        u8::deserialize(deserializer).map(|_| Self)
    }
}

/// A name, text or buffer that probes when it is made into what the library wants, and when it is dropped.
struct Text(&'static str);

impl Named for Text {
    fn attribute_name(&self) -> &str {
        probe();
        self.0
    }
}

impl<T> Reads<T> for Text {}
impl<V: Serialize> Takes<V> for Text {}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        probe();
        text.0.to_owned()
    }
}

impl From<Text> for Bytes {
    fn from(text: Text) -> Self {
        probe();
        Self::from_owner(text)
    }
}

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            probe();
        }
    }
}

#[tokio::test]
async fn get_deserialises_without_a_lock() {
    let (store, browser) = setup();
    browser.run("insert value 1").await;
    let handler = |session: Session, _| async move {
        assert_eq!(session.get::<Value>("value")?, Some(Value));
        Ok(())
    };
    probing(&store, &browser, handler).await.expect(200);
}

#[tokio::test]
async fn insert_serialises_without_a_lock() {
    let (store, browser) = setup();
    let handler = |session: Session, lazy: LazySession| async move {
        session.insert("value", Value)?;
        lazy.insert("value", Value)
    };
    probing(&store, &browser, handler).await.expect(200);
}

#[tokio::test]
async fn update_runs_its_closure_and_its_type_without_a_lock() {
    let (store, browser) = setup();
    browser.run("insert value 1").await;
    let handler = |session: Session, _| async move {
        let change = |value: &mut Option<Value>| {
            probe();
            probe_commits();
            value.take()
        };
        assert_eq!(session.update("value", change).await?, Some(Value));
        session.update("value", |value: &mut Option<Value>| *value = Some(Value)).await
    };
    probing(&store, &browser, handler).await.expect(200);
    browser.run("get value").await.says("1");
}

#[tokio::test]
async fn update_of_a_session_to_come_runs_its_closure_without_a_lock() {
    let (store, browser) = setup();
    browser.run("insert value 1").await;
    let handler = |session: Session, _| async move {
        session.log_out()?;
        session
            .update("value", |value| {
                probe();
                probe_commits();
                *value = Some(Value);
            })
            .await
    };
    probing(&store, &browser, handler).await.expect(200).with_cookie();
    browser.run("get value").await.says("1");
}

#[tokio::test]
async fn a_late_update_runs_its_closure_without_a_lock() {
    let (store, browser) = setup();
    browser.run("insert value 1").await;
    let kept: &'static std::sync::Mutex<Option<Session>> = Box::leak(Box::default());
    handle(&store, &browser, move |session: Session| async move {
        session.get::<u8>("value")?;
        *kept.lock().unwrap() = Some(session);
        Ok(())
    })
    .await
    .expect(200);
    let session = kept.lock().unwrap().take().unwrap();
    let probe_it = {
        let session = session.clone();
        move || {
            let (done, is_done) = mpsc::channel();
            let session = session.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
                let _ = done.send(runtime.block_on(session.reload()).is_ok());
            });
            is_done.recv_timeout(Duration::from_secs(20))
        }
    };
    session
        .update("value", |value: &mut Option<u8>| {
            assert_eq!(probe_it(), Ok(true), "a lock is held while code of the app runs");
            *value = Some(2);
        })
        .await
        .unwrap();
    browser.run("get value").await.says("2");
}

#[tokio::test]
async fn names_are_asked_for_without_a_lock() {
    let (store, browser) = setup();
    let handler = |session: Session, lazy: LazySession| async move {
        session.insert(Text("name"), 1)?;
        assert_eq!(session.get::<u8>(Text("name"))?, Some(1));
        assert!(session.raw(Text("name")).is_some());
        session.remove(Text("name"))?;
        session.increment(Text("name"), 1)?;
        session.insert_json(Text("name"), "1")?;
        lazy.insert(Text("name"), 1)?;
        lazy.increment(Text("name"), 1)?;
        assert_eq!(session.flush().await?.counter(Text("name")), None);
        lazy.remove(Text("name"))?;
        lazy.insert_json(Text("name"), "1")?;
        session.update(Text("name"), |_: &mut Option<u8>| ()).await?;
        assert!(probes() > 20);
        forget_probes();
        Ok(())
    };
    probing(&store, &browser, handler).await.expect(200);
}

#[tokio::test]
async fn buffers_are_made_and_dropped_without_a_lock() {
    let (store, browser) = setup();
    let handler = |session: Session, lazy: LazySession| async move {
        for _ in 0..2 {
            session.insert_json("json", Text("1"))?;
            lazy.insert_json("json", Text("2"))?;
        }
        session.remove("json")?;
        session.insert_json("json", Text("3"))?;
        session.clear()?;
        assert!(probes() >= 10);
        forget_probes();
        Ok(())
    };
    probing(&store, &browser, handler).await.expect(200);
}

#[tokio::test]
async fn log_in_makes_its_text_without_a_lock() {
    let (store, browser) = setup();
    probing(&store, &browser, |session: Session, _| async move { session.log_in(Text("alice")) }).await.expect(200);
}

#[tokio::test]
async fn commit_when_runs_without_a_lock() {
    let store = TestStore::default();
    let browser = Browser::new(&crate::fixture::App::new(layer(&store).build().unwrap()));
    let layer = layer(&store).commit_when(|_| {
        probe();
        probe_commits();
        true
    });
    let handler = |session: LazySession| async move {
        watch(&session);
        session.insert("n", 1)
    };
    serve(layer, handler, &browser).await.expect(200);
    expect_probes(2);
}

async fn serve<F, T>(layer: SessionLayerBuilder, handler: F, browser: &Browser) -> Answer
where
    F: FnOnce(LazySession) -> T + Clone + Send + Sync + 'static,
    T: Future<Output = Result<(), SessionError>> + Send,
{
    let app = Router::new().route("/run", post(handler)).layer(layer.build().unwrap());
    let response = tower::ServiceExt::oneshot(app, browser.request("/run", "")).await.unwrap();
    Answer::read(response).await
}

fn detecting(store: &TestStore) -> SessionLayerBuilder {
    layer(store).rollback_detection(true).on_event(|_| {
        probe();
        probe_commits();
    })
}

/// A browser that was told of a change that the store has lost.
async fn with_lost_change() -> (TestStore, Browser) {
    let store = TestStore::default();
    let browser = Browser::new(&crate::fixture::App::new(detecting(&store).build().unwrap()));
    browser.run("insert n 1").await;
    let replica = store.memory.replica();
    browser.run("insert n 2").await;
    store.memory.fail_over_to(&replica);
    (store, browser)
}

#[tokio::test]
async fn on_event_runs_without_a_lock_after_a_load() {
    let (store, browser) = with_lost_change().await;
    let handler = |request: axum::extract::Request| async move {
        watch(&LazySession::from_extensions(request.extensions())?);
        Session::from_extensions(request.extensions()).await.map(drop)
    };
    let app = Router::new().route("/run", post(handler)).layer(detecting(&store).build().unwrap());
    let response = tower::ServiceExt::oneshot(app, browser.request("/run", "")).await.unwrap();
    Answer::read(response).await.expect(200);
    expect_probes(2);
}

#[tokio::test]
async fn on_event_runs_without_a_lock_after_a_commit() {
    for flushes in [false, true] {
        let (store, browser) = with_lost_change().await;
        let handler = move |lazy: LazySession| async move {
            watch(&lazy);
            lazy.insert("n", 3)?;
            if flushes { lazy.flush().await.map(drop) } else { Ok(()) }
        };
        serve(detecting(&store), handler, &browser).await.expect(200);
        expect_probes(2);
    }
}

#[tokio::test]
async fn events_are_traced_without_a_lock() {
    let (store, browser) = setup();
    let _log = Captured::begin_with(probe);
    for ops in ["insert n 1", "log_in alice", "log_out"] {
        let ops = ops.to_owned();
        let handler = move |lazy: LazySession, session: Session| async move {
            watch(&lazy);
            match &*ops {
                "log_in alice" => session.log_in("alice")?,
                "log_out" => session.log_out()?,
                _ => session.insert("n", 1)?,
            }
            session.flush().await.map(drop)
        };
        let app = Router::new().route("/run", post(handler)).layer(layer(&store).build().unwrap());
        let response = tower::ServiceExt::oneshot(app, browser.request("/run", "")).await.unwrap();
        browser.receive(&Answer::read(response).await.expect(200));
        expect_probes(10);
    }
}

/// An error of the store's that probes when it is dropped.
#[derive(Debug)]
struct StoreTrouble;

impl std::fmt::Display for StoreTrouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("told to fail")
    }
}

impl std::error::Error for StoreTrouble {}

impl Drop for StoreTrouble {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            probe();
        }
    }
}

#[tokio::test]
async fn errors_of_the_store_are_dropped_without_a_lock() {
    let (store, browser) = setup();
    browser.run("insert n 1").await;
    for _ in 0..3 {
        store.next(Call::Apply, Fault::FailWith(|| StoreError::refused(StoreTrouble)));
    }
    let handler = |session: Session, _| async move {
        for _ in 0..3 {
            session.insert("n", 2)?;
            assert!(session.flush().await.is_err());
        }
        session.forgive_failed_flush();
        Ok(())
    };
    probing(&store, &browser, handler).await.expect(200);
}

#[tokio::test]
async fn headers_are_replaced_without_a_lock() {
    let store = TestStore::default();
    let browser = Browser::new(&crate::fixture::App::new(layer(&store).build().unwrap()));
    let handler = |session: LazySession| async move {
        watch(&session);
        session.insert("n", 1)?;
        let cached = HeaderValue::from_maybe_shared(Bytes::from_owner(Text("max-age=60"))).expect("a good value");
        Ok::<_, SessionError>(([(header::CACHE_CONTROL, cached)], "cached"))
    };
    let app = Router::new().route("/run", post(handler)).layer(layer(&store).build().unwrap());
    let response = tower::ServiceExt::oneshot(app, browser.request("/run", "")).await.unwrap();
    Answer::read(response).await.expect(200).with_cookie();
    expect_probes(1);
}
