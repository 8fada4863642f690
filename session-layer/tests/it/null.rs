//! What a stored `None` is: JSON's `null`. An `Option` reads it as `None`; any other type reads it as no value, as `update` does.

use serde_json::Value;
use session_layer::{Attribute, Session, SessionLayer};

use crate::fixture::{Browser, SECRET, TestStore, handle, setup};

const NICKNAME: Attribute<Option<String>> = Attribute::new("nickname");

/// A session in which `nickname` is `null`, stored.
async fn with_null() -> (TestStore, Browser) {
    let (store, browser) = setup();
    handle(&store, &browser, |session: Session| async move { session.insert(NICKNAME, None) }).await.expect(200);
    (store, browser)
}

#[tokio::test]
async fn a_stored_none_is_null_and_reads_as_none() {
    let (store, browser) = with_null().await;
    handle(&store, &browser, |session: Session| async move {
        assert_eq!(session.raw("nickname").unwrap(), "null");
        assert_eq!(session.names(), ["nickname"]);
        assert_eq!(session.get(NICKNAME)?, Some(None));
        assert_eq!(session.get::<Value>("nickname")?, Some(Value::Null));
        assert_eq!(session.get::<()>("nickname")?, Some(()));
        Ok(())
    })
    .await
    .expect(200);
}

#[tokio::test]
async fn a_type_that_cannot_be_null_reads_it_as_no_value() {
    let (store, browser) = with_null().await;
    handle(&store, &browser, |session: Session| async move {
        assert_eq!(session.get::<String>("nickname")?, None);
        assert_eq!(session.get::<u64>("nickname")?, None);
        assert_eq!(session.get::<Vec<u8>>("nickname")?, None);
        // In it, `null` is as wrong as any other value of another type.
        session.insert_json("list", "[null]")?;
        assert!(session.get::<Vec<u8>>("list").unwrap_err().is_unreadable());
        Ok(())
    })
    .await
    .expect(200);
}

#[tokio::test]
async fn an_update_finds_null_as_no_value_or_as_none() {
    let (store, browser) = with_null().await;
    handle(&store, &browser, |session: Session| async move {
        let found = session.update("nickname", |name: &mut Option<String>| name.replace("al".to_owned())).await?;
        assert_eq!((found, session.get::<String>("nickname")?), (None, Some("al".to_owned())));
        let found = session.update(NICKNAME, |name| name.replace(None)).await?;
        assert_eq!((found, session.raw("nickname").unwrap()), (Some(Some("al".to_owned())), "null".into()));
        let found = session.update(NICKNAME, |name| name.replace(Some("al".to_owned()))).await?;
        assert_eq!((found, session.get(NICKNAME)?), (Some(None), Some(Some("al".to_owned()))));
        Ok(())
    })
    .await
    .expect(200);
    browser.run("get nickname").await.says("\"al\"");
}

#[tokio::test]
async fn an_update_that_leaves_nothing_removes_null() {
    let (store, browser) = with_null().await;
    handle(&store, &browser, |session: Session| async move {
        session.update("nickname", |_: &mut Option<String>| ()).await?;
        assert_eq!(session.raw("nickname"), None);
        Ok(())
    })
    .await
    .expect(200);
    browser.run("names").await.says("");
}

#[tokio::test]
async fn null_is_removed_like_any_value() {
    let (_, browser) = with_null().await;
    browser.run("remove nickname; remove nickname").await.says("true false");
    let (_, browser) = with_null().await;
    browser.lazy("remove nickname").await.expect(200);
    browser.run("names").await.says("");
}

#[tokio::test]
async fn null_is_not_a_counter() {
    let (store, browser) = with_null().await;
    let answer = browser.run("increment nickname").await.expect(409);
    assert!(answer.error.unwrap().is_not_a_counter());
    browser.lazy("increment nickname").await.expect(409);
    handle(&store, &browser, |session: Session| async move {
        session.insert("own", None::<u8>)?;
        assert!(session.increment("own", 1).unwrap_err().is_not_a_counter());
        Ok(())
    })
    .await
    .expect(200);
    browser.run("get nickname; get own").await.says("null null");
}

#[tokio::test]
async fn null_goes_through_a_blind_write_and_a_flush() {
    let (store, browser) = setup();
    browser.lazy("insert a null; flush; insert b null").await.expect(200);
    handle(&store, &browser, |session: Session| async move {
        assert_eq!(session.get::<Option<u8>>("a")?, Some(None));
        assert_eq!(session.get::<u8>("b")?, None);
        session.insert_json("c", " null\n")?;
        session.flush().await?;
        assert_eq!((session.raw("c").unwrap(), session.get::<u8>("c")?), ("null".into(), None));
        Ok(())
    })
    .await
    .expect(200);
    browser.run("names").await.says("a,b,c");
}

#[tokio::test]
async fn null_reads_the_same_in_the_list_of_a_principal() {
    let store = TestStore::default();
    let layer = crate::fixture::layer(&store).build().unwrap();
    let browser = Browser::new(&crate::fixture::App::new(layer.clone()));
    browser.run("insert device null; log_in alice").await.expect(200);
    let listed = layer.sessions().of("alice").await.unwrap();
    assert_eq!(listed[0].get::<Option<String>>("device").unwrap(), Some(None));
    assert_eq!(listed[0].get::<String>("device").unwrap(), None);
    assert_eq!(listed[0].raw("device").unwrap(), "null");
}

/// The store compares bytes: `null` and an attribute that is not there are two states.
#[tokio::test]
async fn an_update_tells_null_from_an_absent_attribute() {
    let (store, browser) = with_null().await;
    let layer = SessionLayer::builder(store.memory.clone()).secret(SECRET).build().unwrap();
    let other = Browser::new(&crate::fixture::App::new(layer));
    let cookie = browser.cookie().unwrap();
    other.set_cookie(crate::fixture::COOKIE, &cookie);
    handle(&store, &browser, move |session: Session| async move {
        let mut runs = 0;
        let mut remove = Some(other.lazy("remove nickname"));
        let mut removed = None;
        session
            .update(NICKNAME, |name| {
                runs += 1;
                if let Some(remove) = remove.take() {
                    // Another request removes it between read and write.
                    removed = Some(run_now(remove).status.as_u16());
                    assert_eq!(*name, Some(None));
                } else {
                    assert_eq!(*name, None, "the second run sees it gone");
                }
                *name = Some(Some("al".to_owned()));
            })
            .await?;
        assert_eq!((runs, removed), (2, Some(200)));
        Ok(())
    })
    .await
    .expect(200);
    browser.run("get nickname").await.says("\"al\"");
}

/// Runs a request whose store is in memory, and which therefore never waits.
fn run_now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(out) = future.as_mut().poll(&mut context) {
            return out;
        }
    }
}
