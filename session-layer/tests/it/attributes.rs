//! Attributes: their types, and what another version of the app wrote.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use session_layer::{Attribute, Session};

use crate::fixture::{handle, setup};

const VISITS: Attribute<u64> = Attribute::new("visits");
const NAME: Attribute<String> = Attribute::new("name");
const ITEMS: Attribute<Vec<String>> = Attribute::new("items");

#[tokio::test]
async fn attributes_are_typed_once_or_named_by_text() {
    let (store, browser) = setup();
    handle(&store, &browser, |session: Session| async move {
        session.insert(VISITS, 3)?;
        session.insert(NAME, "alice")?;
        session.insert(ITEMS, &["a".to_owned()][..])?;
        session.insert("text", "plain")?;
        session.insert(String::from("owned"), json!({"a": [1, null]}))?;
        assert_eq!(session.get(VISITS)?, Some(3));
        assert_eq!(session.get::<u8>("visits")?, Some(3));
        Ok(())
    })
    .await
    .expect(200);
    handle(&store, &browser, |session: Session| async move {
        assert_eq!(session.get(VISITS)?, Some(3));
        assert_eq!(session.get(NAME)?.as_deref(), Some("alice"));
        assert_eq!(session.get(ITEMS)?, Some(vec!["a".to_owned()]));
        assert_eq!(session.get::<Value>("owned")?, Some(json!({"a": [1, null]})));
        assert_eq!(session.get::<Value>("missing")?, None);
        assert_eq!(session.raw("text").unwrap(), "\"plain\"");
        session.increment(VISITS, 1)?;
        assert_eq!(session.flush().await?.counter(VISITS), Some(4));
        assert_eq!(session.update(ITEMS, |items| items.take().map(|items| items.len())).await?, Some(1));
        assert_eq!(session.get(ITEMS)?, None);
        assert!(session.remove(NAME)?);
        assert!(!session.remove(NAME)?);
        Ok(())
    })
    .await
    .expect(200);
    browser.run("names").await.says("owned,text,visits");
}

#[tokio::test]
async fn an_attribute_that_does_not_read_is_a_typed_error_for_that_one_alone_and_keeps_its_bytes() {
    let (store, browser) = setup();
    // Another version of the app wrote it.
    browser.run("raw visits {\"count\":3,\"since\":\"2026\"}; insert name \"alice\"").await.expect(200);
    handle(&store, &browser, |session: Session| async move {
        let error = session.get(VISITS).unwrap_err();
        assert!(error.is_unreadable() && error.status() == 500);
        assert!(session.update(VISITS, |visits: &mut Option<u64>| *visits = None).await.unwrap_err().is_unreadable());
        assert_eq!(session.get(NAME)?.as_deref(), Some("alice"));
        session.insert("other", 1)?;
        Ok(())
    })
    .await
    .expect(200);
    browser
        .run("get name; get visits; names")
        .await
        .says("\"alice\" {\"count\":3,\"since\":\"2026\"} name,other,visits");
    browser.run("log_in alice").await.expect(200);
    browser.run("get visits").await.says("{\"count\":3,\"since\":\"2026\"}");
    // Unless the handler knows better.
    browser.run("number visits").await.expect(500);
    browser.run("insert visits 1; number visits").await.says("1");
}

#[tokio::test]
async fn a_value_keeps_its_bytes_but_for_whitespace() {
    let (store, browser) = setup();
    let text = " {\"b\" : 1e2,\n\"a\": [ 1.0 , \"\\u00e9 x\" ],\"c\":\t0.10} ";
    let compact = "{\"b\":1e2,\"a\":[1.0,\"\\u00e9 x\"],\"c\":0.10}";
    handle(&store, &browser, move |session: Session| async move { session.insert_json("raw", text) }).await.expect(200);
    handle(&store, &browser, move |session: Session| async move {
        assert_eq!(session.raw("raw").unwrap(), compact);
        Ok(())
    })
    .await
    .expect(200);
}

#[tokio::test]
async fn a_value_that_does_not_serialise_is_an_error_at_once_and_changes_nothing() {
    let (store, browser) = setup();
    handle(&store, &browser, |session: Session| async move {
        // JSON's keys are text.
        let error = session.insert("map", BTreeMap::from([(vec![1], 1)])).unwrap_err();
        assert!(error.is_invalid_value() && error.status() == 422);
        Ok(())
    })
    .await
    .expect(200)
    .without_cookie();
    assert!(store.memory.is_empty());
}

#[tokio::test]
async fn names_are_any_text_but_a_few() {
    let (store, browser) = setup();
    handle(&store, &browser, |session: Session| async move {
        for name in ["größe", "with space", "a.b:c/d", "世界", "\"quoted\"", &"x".repeat(128)] {
            session.insert(name, 1)?;
        }
        for name in ["", "@p", "a\nb", "\u{7f}", &"x".repeat(129)] {
            assert!(session.insert(name, 1).unwrap_err().is_invalid_name(), "{name:?}");
            assert_eq!(session.get::<u8>(name)?, None);
        }
        Ok(())
    })
    .await
    .expect(200);
    handle(&store, &browser, |session: Session| async move {
        assert_eq!(session.names().len(), 6);
        Ok(())
    })
    .await
    .expect(200);
}

#[tokio::test]
async fn a_failed_update_leaves_the_other_changes_to_the_answer() {
    let (store, browser) = setup();
    browser.run("raw visits \"text\"").await.expect(200);
    handle(&store, &browser, |session: Session| async move {
        session.insert("before", 1)?;
        assert!(session.update(VISITS, |_| ()).await.unwrap_err().is_unreadable());
        assert_eq!(session.get::<u8>("before")?, Some(1));
        let long = session.update(NAME, |name| *name = Some("x".repeat(70_000))).await.unwrap_err();
        assert!(long.is_limit());
        session.insert("after", 1)
    })
    .await
    .expect(200);
    browser.run("names").await.says("after,before,visits");
}

#[tokio::test]
async fn versions_of_an_app_side_by_side_keep_each_others_attributes() {
    let (store, browser) = setup();
    for round in 1..4_u64 {
        // The old version counts visits as a number; the new one keeps more, under another name and with another shape.
        handle(&store, &browser, |session: Session| async move { session.increment(VISITS, 1) }).await.expect(200);
        handle(&store, &browser, move |session: Session| async move {
            session.insert("visits.v2", json!({"count": round, "pages": ["/"]}))
        })
        .await
        .expect(200);
    }
    browser.run("get visits; get visits.v2").await.says("3 {\"count\":3,\"pages\":[\"/\"]}");
}

#[tokio::test]
async fn what_another_version_stored_and_cannot_be_read_is_a_typed_error() {
    use session_layer::store::{Action, Change, Commit, Reply, SessionStore};
    let deep = "[".repeat(200) + &"]".repeat(200);
    for stored in ["1e999", "\"\\ud800\"", "{", "", "\u{0}", &deep] {
        let (store, browser) = setup();
        let id = browser.run("insert other 1; flush; id").await.body;
        let id = session_layer::SessionId::decode(&id).unwrap();
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        let mut commit = Commit::new(Action::Apply(id), deadline);
        commit.changes.insert("bad".to_owned(), Change::Set(stored.to_owned().into()));
        assert!(matches!(store.memory.commit(&commit).await.unwrap(), Reply::Applied { .. }));
        handle(&store, &browser, |session: Session| async move {
            assert!(session.get::<Value>("bad").unwrap_err().is_unreadable());
            let update = session.update("bad", |bad: &mut Option<Value>| *bad = None).await;
            assert!(update.unwrap_err().is_unreadable());
            assert_eq!(session.get::<u8>("other")?, Some(1));
            session.insert("bad", "good")
        })
        .await
        .expect(200);
        browser.run("get bad").await.says("\"good\"");
    }
}
