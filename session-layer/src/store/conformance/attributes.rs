//! What a commit does to attributes, and what stops it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::draft::{Draft, alive, apply, assert_lasts, attributes, create, create_with, draft, load, start, touch};
use crate::error::Limit;
use crate::id::SessionId;
use crate::store::{Action, Attributes, Change, Loaded, Renewal, Reply, SessionStore, Start};

/// A session that was created with all there is loads with all there is.
pub async fn a_created_session_loads_as_it_was_made(store: Arc<impl SessionStore>) {
    let id = SessionId::random();
    let start = Start {
        created_on: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        principal: Some("älice@example.com".into()),
    };
    let (idle_timeout, absolute_timeout) = (Duration::from_millis(60_001), Duration::from_secs(7200));
    let creation = draft(Action::Create(id, start.clone())).lasting(idle_timeout, Some(absolute_timeout));
    let (version, _) = creation.set("a", "1").set("b", "[\"x\"]").applied(&store).await;
    let record = alive(&store, &id).await;
    assert_eq!(record.attributes, attributes(&[("a", "1"), ("b", "[\"x\"]")]));
    assert_eq!(record.created_on, start.created_on);
    assert_eq!(record.idle_timeout, idle_timeout);
    assert_eq!(record.principal, start.principal);
    assert_eq!(record.version, version);
    assert!(record.ttl <= idle_timeout && record.ttl > Duration::from_secs(30), "{:?}", record.ttl);
    assert_lasts(&record, absolute_timeout);

    let other = create(&store).await;
    let record = alive(&store, &other).await;
    assert_eq!((record.principal, record.expires_on), (None, None));
}

/// An ID that was never there is absent to everything.
pub async fn an_unknown_id_is_absent(store: Arc<impl SessionStore>) {
    let id = SessionId::random();
    assert_eq!(load(&store, &id).await, Loaded::Absent);
    assert_eq!(apply(id).set("a", "1").reply(&store).await, Reply::Absent);
    assert_eq!(draft(Action::Renew(id, id.successor(), Renewal::Keep)).reply(&store).await, Reply::Absent);
    assert_eq!(draft(Action::Destroy(id)).reply(&store).await, Reply::Absent);
    touch(&store, &id).await;
    assert_eq!(load(&store, &id).await, Loaded::Absent, "nothing of it came to be");
}

/// The three kinds of change.
pub async fn a_commit_sets_removes_and_adds(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("kept", "1"), ("set", "1"), ("gone", "1"), ("count", "40")]).await;
    let commit = apply(id).set("set", "2").set("new", "3").remove("gone").remove("never").add("count", 2);
    let (_, counters) = commit.applied(&store).await;
    assert_eq!(counters, BTreeMap::from([("count".to_owned(), 42)]));
    let expected = [("kept", "1"), ("set", "2"), ("new", "3"), ("count", "42")];
    assert_eq!(alive(&store, &id).await.attributes, attributes(&expected));
    // No change at all is a commit as well.
    apply(id).applied(&store).await;
    assert_eq!(alive(&store, &id).await.attributes, attributes(&expected));
}

/// Also below zero, and by zero.
pub async fn adding_to_what_is_absent_starts_from_zero(store: Arc<impl SessionStore>) {
    let id = create(&store).await;
    let (_, counters) = apply(id).add("up", 5).add("down", -5).add("still", 0).applied(&store).await;
    assert_eq!(counters, BTreeMap::from([("up".into(), 5), ("down".into(), -5), ("still".into(), 0)]));
    assert_eq!(alive(&store, &id).await.attributes, attributes(&[("up", "5"), ("down", "-5"), ("still", "0")]));
    let fresh = SessionId::random();
    let (_, counters) = draft(Action::Create(fresh, start())).add("n", 7).applied(&store).await;
    assert_eq!(counters, BTreeMap::from([("n".into(), 7)]));
}

/// A store neither reads values nor minds what names look like.
pub async fn names_and_values_are_kept_to_the_byte(store: Arc<impl SessionStore>) {
    let id = create(&store).await;
    let long = vec![b'x'; 70_000];
    let values: [(&str, &[u8]); 9] = [
        ("größe 🍪", "\"süß\"".as_bytes()),
        ("binary", &[0, 255, b'\r', b'\n', 0, b'"', b'%']),
        ("empty", b""),
        ("long", &long),
        ("with space", b" "),
        ("a@b", b"+OK\r\n"),
        ("subscribe", b"subscribe"),
        ("message", b"*3"),
        ("-", b"-"),
    ];
    let long_name = "n".repeat(128);
    let mut commit = apply(id).set(&long_name, "1");
    for (name, value) in values {
        commit.0.changes.insert(name.to_owned(), Change::Set(Bytes::copy_from_slice(value)));
    }
    commit.applied(&store).await;
    let mut expected: Attributes =
        values.iter().map(|(name, value)| ((*name).to_owned(), Bytes::copy_from_slice(value))).collect();
    expected.insert(long_name, Bytes::from_static(b"1"));
    assert_eq!(alive(&store, &id).await.attributes, expected);
    // Two attributes and more: whatever their order, each value stays with its name.
    apply(id).remove("long").remove("größe 🍪").applied(&store).await;
    expected.remove("long");
    expected.remove("größe 🍪");
    assert_eq!(alive(&store, &id).await.attributes, expected);
}

/// Neither the counter nor anything else of the commit.
pub async fn what_is_no_counter_stops_the_whole_commit(store: Arc<impl SessionStore>) {
    for value in
        ["", "x", "1.0", "1e3", " 1", "1 ", "07", "-0", "--1", "+1", "\"1\"", "null", "1000000000000000000", "1\n"]
    {
        let id = create_with(&store, &[("a", "1"), ("counter", value), ("good", "1")]).await;
        let before = alive(&store, &id).await;
        let commit = apply(id).set("a", "2").remove("good").add("counter", 1).add("fine", 1);
        assert_eq!(commit.reply(&store).await, Reply::NotACounter("counter".into()), "{value:?}");
        let after = alive(&store, &id).await;
        assert_eq!((after.attributes, after.version), (before.attributes, before.version), "{value:?}");
    }
    // A step is a counter too.
    let id = create(&store).await;
    for step in [i64::MAX, i64::MIN, 1_000_000_000_000_000_000] {
        assert_eq!(apply(id).add("counter", step).reply(&store).await, Reply::NotACounter("counter".into()), "{step}");
    }
    assert_eq!(alive(&store, &id).await.attributes, attributes(&[]));
}

/// Where floating point would not be.
pub async fn counters_are_exact_up_to_18_digits(store: Arc<impl SessionStore>) {
    let most = 999_999_999_999_999_999;
    for (old, step) in [
        (9_007_199_254_740_991, 1),
        (9_007_199_254_740_993, 1),
        (123_456_789_012_345_678, 1),
        (most, most),
        (-most, -most),
        (most, -most),
        (-1, 1),
        (99, 1),
        (-10, 1),
    ] {
        let id = create_with(&store, &[("n", &old.to_string())]).await;
        let (_, counters) = apply(id).add("n", step).applied(&store).await;
        assert_eq!(counters["n"], old + step);
        assert_eq!(alive(&store, &id).await.attributes["n"], (old + step).to_string());
    }
}

/// Byte for byte, and an empty value is not an absent one.
pub async fn a_condition_compares_bytes(store: Arc<impl SessionStore>) {
    let stored = [("a", "{\"x\": 1}"), ("empty", ""), ("plus", "+"), ("minus", "-"), ("null", "null")];
    let id = create_with(&store, &stored).await;
    let holds = stored.map(|(name, value)| (name, Some(value))).into_iter().chain([("b", None)]);
    let mut commit = apply(id).set("done", "1");
    for (name, expected) in holds {
        commit = commit.when(name, expected);
    }
    commit.applied(&store).await;
    for (name, expected, current) in [
        ("a", Some("{\"x\":1}"), Some("{\"x\": 1}")),
        ("a", Some(""), Some("{\"x\": 1}")),
        ("a", None, Some("{\"x\": 1}")),
        ("empty", None, Some("")),
        ("plus", Some(""), Some("+")),
        ("b", Some(""), None),
        ("b", Some("-"), None),
        ("null", None, Some("null")),
        ("b", Some("null"), None),
    ] {
        let reply = apply(id).when(name, expected).reply(&store).await;
        let current = current.map(|value| Bytes::from_static(value.as_bytes()));
        assert_eq!(reply, Reply::Conflict { name: name.into(), current }, "{name} expected as {expected:?}");
    }
}

/// All or nothing, also with several conditions.
pub async fn a_condition_that_does_not_hold_stops_the_whole_commit(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("a", "1"), ("b", "2"), ("n", "1")]).await;
    let before = alive(&store, &id).await;
    let commit =
        apply(id).when("a", Some("1")).when("b", Some("3")).when("c", None).set("a", "2").add("n", 1).remove("b");
    let current = Some(Bytes::from_static(b"2"));
    assert_eq!(commit.reply(&store).await, Reply::Conflict { name: "b".into(), current });
    let after = alive(&store, &id).await;
    assert_eq!((after.attributes, after.version), (before.attributes, before.version));
}

/// Not what the commit itself does.
pub async fn conditions_see_what_was_there_before_the_commit(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("a", "1"), ("b", "2")]).await;
    apply(id).clear().when("a", Some("1")).set("a", "3").applied(&store).await;
    assert_eq!(alive(&store, &id).await.attributes, attributes(&[("a", "3")]));
    // Of a session that replaces another, nothing was there before.
    let renew = draft(Action::Renew(id, id.successor(), Renewal::Replace { start: start(), linked: true }));
    let current = None;
    assert_eq!(renew.when("a", Some("3")).reply(&store).await, Reply::Conflict { name: "a".into(), current });
}

/// Reserved data stays, attributes go.
pub async fn clear_leaves_only_what_the_commit_sets(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("a", "1"), ("b", "2"), ("n", "5"), ("text", "\"x\"")]).await;
    let before = alive(&store, &id).await;
    let (_, counters) = apply(id).clear().set("b", "3").add("n", 1).add("text", 1).remove("a").applied(&store).await;
    assert_eq!(counters, BTreeMap::from([("n".into(), 1), ("text".into(), 1)]), "they start from nothing");
    let after = alive(&store, &id).await;
    assert_eq!(after.attributes, attributes(&[("b", "3"), ("n", "1"), ("text", "1")]));
    assert_eq!(after.created_on, before.created_on);
    apply(id).clear().applied(&store).await;
    assert_eq!(alive(&store, &id).await.attributes, attributes(&[]));
    // Many at once.
    let mut many = apply(id).limits(3000, usize::MAX);
    for i in 0..2500 {
        many = many.set(&format!("many-{i}"), "1");
    }
    many.applied(&store).await;
    assert_eq!(alive(&store, &id).await.attributes.len(), 2500);
    apply(id).clear().set("one", "1").applied(&store).await;
    assert_eq!(alive(&store, &id).await.attributes, attributes(&[("one", "1")]));
}

/// The outcome counts, not the way there.
pub async fn the_number_of_attributes_is_limited(store: Arc<impl SessionStore>) {
    let limited = |draft: Draft| draft.limits(3, usize::MAX);
    let broken = Reply::Limit(Limit::Attributes);
    let id = create_with(&store, &[("a", "1"), ("b", "2")]).await;
    assert_eq!(limited(apply(id).set("c", "3").add("d", 4)).reply(&store).await, broken);
    assert_eq!(alive(&store, &id).await.attributes, attributes(&[("a", "1"), ("b", "2")]));
    limited(apply(id).set("c", "3").set("a", "0")).applied(&store).await;
    assert_eq!(limited(apply(id).add("d", 4)).reply(&store).await, broken);
    limited(apply(id).add("d", 4).remove("a")).applied(&store).await;
    limited(apply(id).clear().set("x", "1").set("y", "1").set("z", "1")).applied(&store).await;
    let to = id.successor();
    let renew = |renewal| limited(draft(Action::Renew(id, to, renewal)).set("more", "1"));
    assert_eq!(renew(Renewal::Keep).reply(&store).await, broken);
    assert_eq!(load(&store, &to).await, Loaded::Absent);
    renew(Renewal::Replace { start: start(), linked: false }).applied(&store).await;
    let four = limited(
        draft(Action::Create(SessionId::random(), start())).set("a", "1").set("b", "1").set("c", "1").set("d", "1"),
    );
    assert_eq!(four.reply(&store).await, broken);
}

/// Names and values, in bytes.
pub async fn the_size_of_the_record_is_limited(store: Arc<impl SessionStore>) {
    let limited = |draft: Draft| draft.limits(10, 10);
    let broken = Reply::Limit(Limit::Record);
    let id = SessionId::random();
    assert_eq!(limited(draft(Action::Create(id, start())).set("ab", "123456789")).reply(&store).await, broken);
    limited(draft(Action::Create(id, start())).set("ab", "12345678")).applied(&store).await;
    assert_eq!(limited(apply(id).set("ü", "")).reply(&store).await, broken);
    limited(apply(id).set("ab", "1234567").set("c", "")).applied(&store).await;
    limited(apply(id).remove("ab").set("n", "99").set("ü", "123")).applied(&store).await; // 4 + 5
    limited(apply(id).add("n", 1).remove("c")).applied(&store).await;
    assert_eq!(limited(apply(id).add("n", 9900)).reply(&store).await, broken);
    assert_eq!(alive(&store, &id).await.attributes, attributes(&[("n", "100"), ("ü", "123")]));
    limited(apply(id).clear().set("abcde", "12345")).applied(&store).await;
    let renew = |renewal| limited(draft(Action::Renew(id, id.successor(), renewal)).set("f", ""));
    assert_eq!(renew(Renewal::Keep).reply(&store).await, broken);
    renew(Renewal::Replace { start: start(), linked: true }).applied(&store).await;
}

/// A deploy that lowers a limit must not lock anybody out.
pub async fn what_is_above_a_lowered_limit_may_stay_and_shrink(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("a", "111"), ("b", "222"), ("c", "333")]).await;
    let limited = |draft: Draft| draft.limits(1, 4);
    limited(apply(id).set("a", "0")).applied(&store).await;
    limited(apply(id).remove("b")).applied(&store).await;
    limited(apply(id).remove("a").set("z", "5")).applied(&store).await;
    assert_eq!(limited(apply(id).set("d", "")).reply(&store).await, Reply::Limit(Limit::Attributes));
    assert_eq!(limited(apply(id).set("z", "55")).reply(&store).await, Reply::Limit(Limit::Record));
    let to = id.successor();
    limited(draft(Action::Renew(id, to, Renewal::Keep))).applied(&store).await;
    assert_eq!(alive(&store, &to).await.attributes, attributes(&[("c", "333"), ("z", "5")]));
}

/// After many changes the limit is where it was.
pub async fn the_size_of_the_record_stays_right(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("x", "1")]).await;
    for i in 0..40_i64 {
        let name = format!("n{}", i % 7);
        apply(id)
            .set(&name, &"v".repeat(usize::try_from(i % 11).unwrap()))
            .add("count", 37 - i * 5)
            .applied(&store)
            .await;
        apply(id).remove(&format!("n{}", i % 5)).add("huge", 400_000_000_000_000_000 >> i).applied(&store).await;
        if i == 20 {
            apply(id).clear().set("x", "22").applied(&store).await;
        }
    }
    let mut id = id;
    for round in ["as it is", "renewed"] {
        let record = alive(&store, &id).await;
        let size: usize = record.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
        let (count, one_more) = (record.attributes.len(), || apply(id).set("+", ""));
        assert_eq!(one_more().limits(99, size).reply(&store).await, Reply::Limit(Limit::Record), "{round}");
        assert_eq!(one_more().limits(count, size + 1).reply(&store).await, Reply::Limit(Limit::Attributes), "{round}");
        one_more().limits(count + 1, size + 1).applied(&store).await;
        apply(id).remove("+").applied(&store).await;
        let to = id.successor();
        let renewal = Renewal::LogIn { principal: "alice".into() };
        draft(Action::Renew(id, to, renewal)).applied(&store).await;
        id = to;
    }
}
