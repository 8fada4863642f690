//! What every store does, as checks that run on any of them.
//!
//! Each check is a function that takes a store and panics when the store does not keep the promise that its name states.
//! [`conformance!`](crate::conformance) makes a test of each.
//!
//! Time is the store's own, so that the checks wait for a state and not for a moment, with timeouts of some hundred milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    AboveLimit, Action, Attributes, Change, Commit, CommitId, Limits, Listed, Loaded, Record, Renewal, Reply,
    Revocation, Revoke, SessionLimit, SessionStore, Start, StoreError, TOMBSTONE_LIFETIME, Version,
};
use crate::error::Limit;
use crate::id::{SessionHandle, SessionId};

/// One `#[tokio::test]` per check. The expression makes the store, and may use `await`.
///
/// ```
/// use session_layer::store::MemoryStore;
///
/// session_layer::conformance!(MemoryStore::new());
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! conformance {
    ($store:expr) => {
        $crate::conformance! { @tests $store;
            a_created_session_loads_as_it_was_made
            an_unknown_id_is_absent
            a_commit_sets_removes_and_adds
            adding_to_what_is_absent_starts_from_zero
            names_and_values_are_kept_to_the_byte
            what_is_no_counter_stops_the_whole_commit
            counters_are_exact_up_to_18_digits
            a_condition_compares_bytes
            a_condition_that_does_not_hold_stops_the_whole_commit
            conditions_see_what_was_there_before_the_commit
            clear_leaves_only_what_the_commit_sets
            the_number_of_attributes_is_limited
            the_size_of_the_record_is_limited
            what_is_above_a_lowered_limit_may_stay_and_shrink
            the_size_of_the_record_stays_right
            versions_rise_with_each_commit
            a_session_older_than_seen_is_not_changed
            a_history_names_the_last_eight_versions
            a_commit_takes_effect_once
            a_repeated_commit_gets_its_first_reply
            a_commit_that_was_refused_stays_refused
            a_commit_after_its_deadline_is_not_applied
            an_applied_commit_is_known_after_its_deadline
            renewing_moves_everything_to_the_new_id
            renewing_changes_attributes_in_the_same_step
            logging_in_names_the_principal_and_restarts_the_absolute_timeout
            logging_in_may_end_the_absolute_timeout
            replacing_starts_from_nothing
            replacing_may_leave_no_trace_of_the_successor
            a_tombstone_takes_no_change
            destroying_ends_a_session
            a_taken_id_is_not_created_over
            a_taken_id_is_not_renewed_to
            reading_does_not_prolong
            an_idle_session_ends
            a_commit_prolongs
            a_touch_prolongs
            a_touch_revives_nothing
            a_touch_leaves_tombstones_alone
            the_absolute_timeout_ends_a_session_in_use
            concurrent_adds_are_all_counted
            concurrent_changes_of_different_attributes_are_all_kept
            of_concurrent_compare_and_sets_one_wins
            of_concurrent_creations_one_wins
            of_concurrent_renewals_one_wins
            nothing_changes_a_session_after_its_end
            a_login_lists_the_session_under_its_principal
            the_list_follows_a_renewal
            what_ends_is_no_longer_listed
            a_session_of_another_principal_moves_lists
            what_expires_is_no_longer_listed
            prolonging_keeps_a_session_listed
            revoking_one_ends_that_one_of_that_principal
            revoking_others_keeps_one
            revoking_all_ends_all
            a_revocation_takes_effect_once
            a_revocation_after_its_deadline_is_not_applied
            a_login_above_the_limit_evicts_the_oldest
            a_login_above_the_limit_is_refused
            a_second_login_in_the_same_session_counts_once
            of_concurrent_logins_no_more_than_the_limit_stay
            a_login_that_races_with_a_revocation_is_listed_or_gone
            a_durable_commit_says_whether_it_is
        }
    };
    (@tests $store:expr; $($check:ident)*) => {
        $(
            #[tokio::test]
            async fn $check() {
                let store = ::std::sync::Arc::new($store);
                $crate::store::conformance::$check(store).await;
            }
        )*
    };
}

/// A session that was created with all there is loads with all there is.
pub async fn a_created_session_loads_as_it_was_made(store: Arc<impl SessionStore>) {
    let id = SessionId::random();
    let start = Start {
        created_on: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        idle_timeout: Duration::from_millis(60_001),
        absolute_timeout: Some(Duration::from_secs(7200)),
        principal: Some("älice@example.com".into()),
    };
    let (version, _) = draft(Action::Create(id, start.clone())).set("a", "1").set("b", "[\"x\"]").applied(&store).await;
    let record = alive(&store, &id).await;
    assert_eq!(record.attributes, attributes(&[("a", "1"), ("b", "[\"x\"]")]));
    assert_eq!(record.created_on, start.created_on);
    assert_eq!(record.idle_timeout, start.idle_timeout);
    assert_eq!(record.principal, start.principal);
    assert_eq!(record.version, version);
    assert!(record.ttl <= start.idle_timeout && record.ttl > Duration::from_secs(30), "{:?}", record.ttl);
    assert_lasts(&record, Duration::from_secs(7200));

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
    store.touch(&id).await.unwrap();
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
    let id = create_with(&store, &[("a", "{\"x\": 1}"), ("empty", ""), ("plus", "+"), ("minus", "-")]).await;
    let holds =
        [("a", Some("{\"x\": 1}")), ("empty", Some("")), ("plus", Some("+")), ("minus", Some("-")), ("b", None)];
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
        let renewal = Renewal::LogIn { principal: "alice".into(), absolute_timeout: Some(Duration::from_secs(60)) };
        draft(Action::Renew(id, to, renewal)).applied(&store).await;
        id = to;
    }
}

/// No number is given twice.
pub async fn versions_rise_with_each_commit(store: Arc<impl SessionStore>) {
    let id = SessionId::random();
    let (mut last, _) = draft(Action::Create(id, start())).applied(&store).await;
    assert!(last > Version::default());
    for _ in 0..20 {
        let (next, _) = apply(id).applied(&store).await;
        assert!(next > last, "{next:?} after {last:?}");
        assert_eq!(alive(&store, &id).await.version, next);
        last = next;
    }
    for renewal in [Renewal::Keep, Renewal::Replace { start: start(), linked: true }] {
        let (mut from, mut to) = (id, id.successor());
        if !matches!(renewal, Renewal::Keep) {
            from = create(&store).await;
            to = from.successor();
            last = alive(&store, &from).await.version;
        }
        let (next, _) = draft(Action::Renew(from, to, renewal)).applied(&store).await;
        assert!(next > last, "{next:?} after {last:?}");
    }
}

/// What the request saw has been lost since: it must not build on that.
pub async fn a_session_older_than_seen_is_not_changed(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("a", "1")]).await;
    let version = alive(&store, &id).await.version;
    let newer = Version(version.0 + 1);
    assert_eq!(apply(id).set("a", "2").seen(newer).reply(&store).await, Reply::RolledBack);
    assert_eq!(
        draft(Action::Renew(id, id.successor(), Renewal::Keep)).seen(newer).reply(&store).await,
        Reply::RolledBack
    );
    assert_eq!(draft(Action::Destroy(id)).seen(newer).reply(&store).await, Reply::RolledBack);
    assert_eq!(apply(id).seen(Version(u64::MAX)).reply(&store).await, Reply::RolledBack);
    let record = alive(&store, &id).await;
    assert_eq!((record.attributes, record.version), (attributes(&[("a", "1")]), version));
    apply(id).set("a", "2").seen(version).applied(&store).await;
    apply(id).set("a", "3").seen(version).applied(&store).await;
}

/// A session that is asked to remember its versions names the last eight, in loads and in replies, also under a new ID; and none where
/// commits that did not ask came in between. A store may do without: then rollbacks are not noticed.
pub async fn a_history_names_the_last_eight_versions(store: Arc<impl SessionStore>) {
    let mut id = SessionId::random();
    let keeping = |action| {
        let mut draft = draft(action);
        draft.0.keep_history = true;
        draft
    };
    let mut versions: Vec<Version> = Vec::new();
    let mut actions = vec![Action::Create(id, start())];
    actions.extend((0..4).map(|_| Action::Apply(id)));
    let renewed = id.successor();
    actions.push(Action::Renew(id, renewed, Renewal::Keep));
    actions.extend((0..6).map(|_| Action::Apply(renewed)));
    for action in actions {
        id = *action.target().expect("no end among them");
        let reply = keeping(action).set("n", "1").reply(&store).await;
        let Reply::Applied { version, history, .. } = reply else { panic!("{reply:?}") };
        let loaded = alive(&store, &id).await.history;
        if loaded.is_empty() {
            return;
        }
        assert_eq!(history, versions);
        versions.push(version);
        versions.drain(..versions.len().saturating_sub(8));
        assert_eq!(loaded, versions);
    }
    let (between, _) = apply(id).set("n", "2").applied(&store).await;
    assert_eq!(alive(&store, &id).await.history, []);
    let reply = keeping(Action::Apply(id)).reply(&store).await;
    let Reply::Applied { version, history, .. } = reply else { panic!("{reply:?}") };
    assert_eq!(history, [between]);
    assert_eq!(alive(&store, &id).await.history, [between, version]);
    // Another session starts a history of its own.
    let other = id.successor();
    let replace = Renewal::Replace { start: start(), linked: false };
    let reply = keeping(Action::Renew(id, other, replace)).reply(&store).await;
    let Reply::Applied { version, history, .. } = reply else { panic!("{reply:?}") };
    assert_eq!(history, []);
    assert_eq!(alive(&store, &other).await.history, [version]);
}

/// A repetition of a commit whose answer was lost.
pub async fn a_commit_takes_effect_once(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("n", "1")]).await;
    let commit = apply(id).add("n", 1).set("a", "1");
    let first = commit.reply(&store).await;
    // Somebody else in between.
    apply(id).add("n", 10).set("a", "2").applied(&store).await;
    for _ in 0..3 {
        assert_eq!(commit.reply(&store).await, first);
    }
    assert_eq!(alive(&store, &id).await.attributes, attributes(&[("n", "12"), ("a", "2")]));
    // At the same time.
    let commit = apply(id).add("n", 100);
    let replies = all((0..8).map(|_| {
        let (store, commit) = (Arc::clone(&store), commit.clone());
        async move { commit.reply(&store).await }
    }));
    for reply in replies.await {
        assert!(matches!(&reply, Reply::Applied { counters, .. } if counters["n"] == 112), "{reply:?}");
    }
    assert_eq!(alive(&store, &id).await.attributes["n"], "112");
}

/// Whatever the action was, and although it could not be done again.
pub async fn a_repeated_commit_gets_its_first_reply(store: Arc<impl SessionStore>) {
    let id = SessionId::random();
    let to = id.successor();
    for commit in [
        draft(Action::Create(id, start())).set("a", "1"),
        apply(id).when("a", Some("1")).set("a", "2"),
        apply(id).when("b", None).set("b", "1").seen(Version(1)),
        draft(Action::Renew(id, to, Renewal::Keep)).add("n", 3),
        draft(Action::Destroy(to)),
    ] {
        let first = commit.reply(&store).await;
        assert!(matches!(first, Reply::Applied { .. }), "{first:?}");
        assert_eq!(commit.reply(&store).await, first);
    }
    assert_eq!(load(&store, &id).await, Loaded::Ended { successor: Some(to) });
    assert_eq!(load(&store, &to).await, Loaded::Ended { successor: None });
}

/// A copy of it may have been held up on its way, and its sender has been told no.
pub async fn a_commit_that_was_refused_stays_refused(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("n", "\"x\"")]).await;
    let add = apply(id).set("a", "1").add("n", 1);
    let compare = apply(id).set("a", "2").when("n", Some("1"));
    let is_no_counter = || Reply::NotACounter("n".into());
    let conflict = || Reply::Conflict { name: "n".into(), current: Some(Bytes::from_static(b"\"x\"")) };
    assert_eq!(add.reply(&store).await, is_no_counter());
    assert_eq!(compare.reply(&store).await, conflict());
    // Now both could be applied; but whoever sent them was told that they were not.
    apply(id).set("n", "1").applied(&store).await;
    assert_eq!(add.reply(&store).await, is_no_counter());
    assert_eq!(compare.reply(&store).await, conflict());
    assert_eq!(alive(&store, &id).await.attributes, attributes(&[("n", "1")]));
}

/// Whoever sent it has given up.
pub async fn a_commit_after_its_deadline_is_not_applied(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("a", "1")]).await;
    let late = |draft: Draft| async {
        let mut commit = draft.0;
        commit.deadline = Instant::now() - Duration::from_millis(5);
        store.commit(&commit).await.expect_err("it is late").is_unavailable()
    };
    let fresh = SessionId::random();
    assert!(late(apply(id).set("a", "2")).await);
    assert!(late(draft(Action::Renew(id, id.successor(), Renewal::Keep))).await);
    assert!(late(draft(Action::Destroy(id))).await);
    assert!(late(draft(Action::Create(fresh, start()))).await);
    assert_eq!(alive(&store, &id).await.attributes, attributes(&[("a", "1")]));
    assert_eq!(load(&store, &fresh).await, Loaded::Absent);
}

/// It was in time, its answer was not.
pub async fn an_applied_commit_is_known_after_its_deadline(store: Arc<impl SessionStore>) {
    let id = create(&store).await;
    let mut commit = apply(id).add("n", 1);
    let first = commit.reply(&store).await;
    commit.0.deadline = Instant::now() - Duration::from_millis(5);
    assert_eq!(commit.reply(&store).await, first);
}

/// And leaves a tombstone that names it.
pub async fn renewing_moves_everything_to_the_new_id(store: Arc<impl SessionStore>) {
    let id = SessionId::random();
    let start = Start { absolute_timeout: Some(Duration::from_secs(600)), principal: Some("alice".into()), ..start() };
    draft(Action::Create(id, start.clone())).set("a", "1").set("n", "2").applied(&store).await;
    let before = alive(&store, &id).await;
    let to = id.successor();
    let (version, _) = draft(Action::Renew(id, to, Renewal::Keep)).applied(&store).await;
    let after = alive(&store, &to).await;
    assert_eq!(after.attributes, before.attributes);
    assert_eq!((after.created_on, after.idle_timeout), (before.created_on, before.idle_timeout));
    assert_eq!((&after.principal, after.version), (&before.principal, version));
    assert_lasts(&after, Duration::from_secs(600));
    assert!(after.ttl > Duration::from_secs(30), "{:?}", after.ttl);
    assert_eq!(load(&store, &id).await, Loaded::Ended { successor: Some(to) });
}

/// One step: nobody sees the one without the other.
pub async fn renewing_changes_attributes_in_the_same_step(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("a", "1"), ("gone", "1"), ("n", "1")]).await;
    let to = id.successor();
    let renew =
        draft(Action::Renew(id, to, Renewal::Keep)).set("a", "2").remove("gone").add("n", 1).when("a", Some("1"));
    let (_, counters) = renew.applied(&store).await;
    assert_eq!(counters, BTreeMap::from([("n".into(), 2)]));
    assert_eq!(alive(&store, &to).await.attributes, attributes(&[("a", "2"), ("n", "2")]));
    let last = to.successor();
    draft(Action::Renew(to, last, Renewal::Keep)).clear().set("b", "1").applied(&store).await;
    assert_eq!(alive(&store, &last).await.attributes, attributes(&[("b", "1")]));
}

/// What was in the session before the login stays.
pub async fn logging_in_names_the_principal_and_restarts_the_absolute_timeout(store: Arc<impl SessionStore>) {
    let id = SessionId::random();
    let start = Start { absolute_timeout: Some(Duration::from_secs(600)), ..start() };
    draft(Action::Create(id, start)).set("cart", "[1]").applied(&store).await;
    let before = alive(&store, &id).await;
    let to = id.successor();
    let absolute_timeout = Some(Duration::from_secs(1200));
    draft(Action::Renew(id, to, Renewal::LogIn { principal: "bob".into(), absolute_timeout }))
        .set("a", "1")
        .applied(&store)
        .await;
    let after = alive(&store, &to).await;
    assert_eq!(after.attributes, attributes(&[("cart", "[1]"), ("a", "1")]));
    assert_eq!((after.created_on, after.principal.as_deref()), (before.created_on, Some("bob")));
    assert_lasts(&after, Duration::from_secs(1200));
    assert_eq!(load(&store, &id).await, Loaded::Ended { successor: Some(to) });
    // The next login is another principal's.
    let last = to.successor();
    draft(Action::Renew(to, last, Renewal::LogIn { principal: "carol".into(), absolute_timeout }))
        .applied(&store)
        .await;
    assert_eq!(alive(&store, &last).await.principal.as_deref(), Some("carol"));
}

/// When the setting is gone by then.
pub async fn logging_in_may_end_the_absolute_timeout(store: Arc<impl SessionStore>) {
    let id = SessionId::random();
    let start = Start { absolute_timeout: Some(Duration::from_millis(500)), ..start() };
    draft(Action::Create(id, start)).applied(&store).await;
    let to = id.successor();
    let renewal = Renewal::LogIn { principal: "bob".into(), absolute_timeout: None };
    draft(Action::Renew(id, to, renewal)).applied(&store).await;
    let record = alive(&store, &to).await;
    assert_eq!(record.expires_on, None);
    assert!(record.ttl > Duration::from_secs(30), "{:?}", record.ttl);
}

/// Nothing of the old session goes over.
pub async fn replacing_starts_from_nothing(store: Arc<impl SessionStore>) {
    let id = SessionId::random();
    let old = Start { absolute_timeout: Some(Duration::from_secs(600)), principal: Some("alice".into()), ..start() };
    draft(Action::Create(id, old)).set("secret", "1").set("n", "5").applied(&store).await;
    let to = id.successor();
    let created_on = SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_456);
    let new = Start { created_on, idle_timeout: Duration::from_secs(90), absolute_timeout: None, principal: None };
    let renew = draft(Action::Renew(id, to, Renewal::Replace { start: new, linked: true }));
    let (version, counters) = renew.set("flash", "\"bye\"").add("n", 1).applied(&store).await;
    assert_eq!(counters, BTreeMap::from([("n".into(), 1)]));
    let record = alive(&store, &to).await;
    assert_eq!(record.attributes, attributes(&[("flash", "\"bye\""), ("n", "1")]));
    assert_eq!((record.created_on, record.idle_timeout), (created_on, Duration::from_secs(90)));
    assert_eq!((record.principal, record.expires_on, record.version), (None, None, version));
    assert_eq!(load(&store, &id).await, Loaded::Ended { successor: Some(to) });
}

/// A logout with a message on the next page: a late login must not follow there.
pub async fn replacing_may_leave_no_trace_of_the_successor(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("a", "1")]).await;
    let to = id.successor();
    draft(Action::Renew(id, to, Renewal::Replace { start: start(), linked: false }))
        .set("b", "2")
        .applied(&store)
        .await;
    assert_eq!(load(&store, &id).await, Loaded::Ended { successor: None });
    assert_eq!(alive(&store, &to).await.attributes, attributes(&[("b", "2")]));
}

/// Neither of a renewed session nor of a destroyed one.
pub async fn a_tombstone_takes_no_change(store: Arc<impl SessionStore>) {
    let (renewed, destroyed) = (create(&store).await, create(&store).await);
    let to = renewed.successor();
    draft(Action::Renew(renewed, to, Renewal::Keep)).applied(&store).await;
    draft(Action::Destroy(destroyed)).applied(&store).await;
    for (id, successor) in [(renewed, Some(to)), (destroyed, None)] {
        let ended = Reply::Ended { successor };
        let newest = Version(u64::MAX);
        assert_eq!(apply(id).set("a", "1").reply(&store).await, ended);
        assert_eq!(apply(id).clear().seen(newest).reply(&store).await, ended);
        assert_eq!(draft(Action::Renew(id, id.successor(), Renewal::Keep)).reply(&store).await, ended);
        assert_eq!(draft(Action::Destroy(id)).reply(&store).await, ended);
        assert_eq!(load(&store, &id).await, Loaded::Ended { successor });
    }
}

/// At once, and with the version it had.
pub async fn destroying_ends_a_session(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("a", "1")]).await;
    let version = alive(&store, &id).await.version;
    // Attributes, conditions and limits mean nothing to it.
    let (last, counters) = draft(Action::Destroy(id)).seen(version).limits(0, 0).applied(&store).await;
    assert_eq!((last, counters), (version, BTreeMap::new()));
    assert_eq!(load(&store, &id).await, Loaded::Ended { successor: None });
}

/// Neither a session nor a tombstone.
pub async fn a_taken_id_is_not_created_over(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("a", "1")]).await;
    let again = || draft(Action::Create(id, start())).set("a", "2");
    assert_eq!(again().reply(&store).await, Reply::Occupied);
    assert_eq!(alive(&store, &id).await.attributes, attributes(&[("a", "1")]));
    draft(Action::Destroy(id)).applied(&store).await;
    assert_eq!(again().reply(&store).await, Reply::Occupied);
    assert_eq!(load(&store, &id).await, Loaded::Ended { successor: None });
}

/// Both sessions stay what they are.
pub async fn a_taken_id_is_not_renewed_to(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("a", "1")]).await;
    let taken = id.successor();
    draft(Action::Create(taken, start())).set("b", "2").applied(&store).await;
    for renewal in [Renewal::Keep, Renewal::Replace { start: start(), linked: true }] {
        assert_eq!(draft(Action::Renew(id, taken, renewal)).reply(&store).await, Reply::Occupied);
    }
    assert_eq!(alive(&store, &id).await.attributes, attributes(&[("a", "1")]));
    assert_eq!(alive(&store, &taken).await.attributes, attributes(&[("b", "2")]));
}

/// That is what a touch is for.
pub async fn reading_does_not_prolong(store: Arc<impl SessionStore>) {
    let id = create_for(&store, Duration::from_millis(300), None).await;
    let started = Instant::now();
    while let Loaded::Alive(_) = load(&store, &id).await {
        assert!(started.elapsed() < Duration::from_secs(2), "it is still there");
        pause().await;
    }
    assert_eq!(load(&store, &id).await, Loaded::Absent);
}

/// Absent, and not a tombstone.
pub async fn an_idle_session_ends(store: Arc<impl SessionStore>) {
    let id = create_for(&store, Duration::from_millis(150), None).await;
    until_absent(&store, &id).await;
    assert_eq!(apply(id).set("a", "1").reply(&store).await, Reply::Absent);
    assert_eq!(draft(Action::Renew(id, id.successor(), Renewal::Keep)).reply(&store).await, Reply::Absent);
    assert_eq!(draft(Action::Destroy(id)).reply(&store).await, Reply::Absent);
}

/// To the full idle timeout.
pub async fn a_commit_prolongs(store: Arc<impl SessionStore>) {
    let id = create_for(&store, Duration::from_secs(2), None).await;
    until_ttl_is_below(&store, &id, Duration::from_millis(1700)).await;
    apply(id).set("a", "1").applied(&store).await;
    assert!(alive(&store, &id).await.ttl > Duration::from_millis(1700));
    until_ttl_is_below(&store, &id, Duration::from_millis(1700)).await;
    let to = id.successor();
    draft(Action::Renew(id, to, Renewal::Keep)).applied(&store).await;
    assert!(alive(&store, &to).await.ttl > Duration::from_millis(1700));
}

/// And changes nothing else.
pub async fn a_touch_prolongs(store: Arc<impl SessionStore>) {
    let id = create_for(&store, Duration::from_secs(2), None).await;
    let before = alive(&store, &id).await;
    until_ttl_is_below(&store, &id, Duration::from_millis(1700)).await;
    store.touch(&id).await.unwrap();
    let after = alive(&store, &id).await;
    assert!(after.ttl > Duration::from_millis(1700), "{:?}", after.ttl);
    assert_eq!((after.attributes, after.version), (before.attributes, before.version));
}

/// It comes after the session's end as if it had not come.
pub async fn a_touch_revives_nothing(store: Arc<impl SessionStore>) {
    let id = create_for(&store, Duration::from_millis(100), None).await;
    until_absent(&store, &id).await;
    store.touch(&id).await.unwrap();
    assert_eq!(load(&store, &id).await, Loaded::Absent);
}

/// They last as long as they would have.
pub async fn a_touch_leaves_tombstones_alone(store: Arc<impl SessionStore>) {
    let short = Duration::from_millis(100);
    let (destroyed, renewed) = (create_for(&store, short, None).await, create_for(&store, short, None).await);
    draft(Action::Destroy(destroyed)).applied(&store).await;
    let to = renewed.successor();
    draft(Action::Renew(renewed, to, Renewal::Keep)).applied(&store).await;
    store.touch(&destroyed).await.unwrap();
    store.touch(&renewed).await.unwrap();
    until_absent(&store, &to).await;
    assert_eq!(load(&store, &destroyed).await, Loaded::Ended { successor: None });
    assert_eq!(load(&store, &renewed).await, Loaded::Ended { successor: Some(to) });
}

/// However busy it is, and never later.
pub async fn the_absolute_timeout_ends_a_session_in_use(store: Arc<impl SessionStore>) {
    let absolute = Duration::from_millis(600);
    let started = Instant::now();
    let id = create_for(&store, Duration::from_millis(400), Some(absolute)).await;
    loop {
        store.touch(&id).await.unwrap();
        let reply = apply(id).add("n", 1).reply(&store).await;
        let elapsed = started.elapsed();
        if reply == Reply::Absent {
            // The store's clock counts milliseconds, and is not ours.
            assert!(elapsed >= absolute - Duration::from_millis(5), "{elapsed:?}");
            break;
        }
        assert!(matches!(reply, Reply::Applied { .. }), "{reply:?}");
        assert!(elapsed < Duration::from_secs(3), "it is still there");
        pause().await;
    }
    store.touch(&id).await.unwrap();
    assert_eq!(load(&store, &id).await, Loaded::Absent);
}

/// Each value is given once.
pub async fn concurrent_adds_are_all_counted(store: Arc<impl SessionStore>) {
    let id = create(&store).await;
    let adds = (0..200).map(|_| {
        let store = Arc::clone(&store);
        async move { apply(id).add("n", 1).applied(&store).await.1["n"] }
    });
    let values: BTreeSet<i64> = all(adds).await.into_iter().collect();
    assert_eq!(values, (1..=200).collect());
    assert_eq!(alive(&store, &id).await.attributes["n"], "200");
}

/// No request undoes another.
pub async fn concurrent_changes_of_different_attributes_are_all_kept(store: Arc<impl SessionStore>) {
    let id = create(&store).await;
    let changes = (0..100).map(|i: u32| {
        let store = Arc::clone(&store);
        async move { apply(id).set(&format!("a{i}"), &i.to_string()).applied(&store).await.0 }
    });
    let versions: BTreeSet<Version> = all(changes).await.into_iter().collect();
    assert_eq!(versions.len(), 100, "no version is given twice");
    let expected = (0..100_u32).map(|i| (format!("a{i}"), Bytes::from(i.to_string()))).collect::<Attributes>();
    assert_eq!(alive(&store, &id).await.attributes, expected);
}

/// The others are told what is there instead.
pub async fn of_concurrent_compare_and_sets_one_wins(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("a", "free")]).await;
    let attempts = (0..50).map(|i: u32| {
        let store = Arc::clone(&store);
        async move { (i, apply(id).when("a", Some("free")).set("a", &i.to_string()).reply(&store).await) }
    });
    let replies = all(attempts).await;
    let (winners, losers): (Vec<_>, Vec<_>) =
        replies.into_iter().partition(|(_, reply)| matches!(reply, Reply::Applied { .. }));
    assert_eq!(winners.len(), 1);
    let current = Bytes::from(winners[0].0.to_string());
    assert_eq!(alive(&store, &id).await.attributes["a"], current);
    for (_, reply) in losers {
        assert_eq!(reply, Reply::Conflict { name: "a".into(), current: Some(current.clone()) });
    }
}

/// The others find the ID taken.
pub async fn of_concurrent_creations_one_wins(store: Arc<impl SessionStore>) {
    let id = SessionId::random();
    let attempts = (0..20).map(|i: u32| {
        let store = Arc::clone(&store);
        async move { draft(Action::Create(id, start())).set("by", &i.to_string()).reply(&store).await }
    });
    let replies = all(attempts).await;
    assert_eq!(replies.iter().filter(|reply| matches!(reply, Reply::Applied { .. })).count(), 1, "{replies:?}");
    assert_eq!(replies.iter().filter(|reply| **reply == Reply::Occupied).count(), 19, "{replies:?}");
}

/// The others are told where it went.
pub async fn of_concurrent_renewals_one_wins(store: Arc<impl SessionStore>) {
    let id = create(&store).await;
    let attempts = (0..20).map(|_| {
        let store = Arc::clone(&store);
        async move {
            let to = id.successor();
            (to, draft(Action::Renew(id, to, Renewal::Keep)).reply(&store).await)
        }
    });
    let (winners, losers): (Vec<_>, Vec<_>) =
        all(attempts).await.into_iter().partition(|(_, reply)| matches!(reply, Reply::Applied { .. }));
    assert_eq!(winners.len(), 1);
    let successor = Some(winners[0].0);
    for (to, reply) in losers {
        assert_eq!(reply, Reply::Ended { successor });
        assert_eq!(load(&store, &to).await, Loaded::Absent);
    }
}

/// Writers that race with a logout either came before it or are told.
pub async fn nothing_changes_a_session_after_its_end(store: Arc<impl SessionStore>) {
    let id = create(&store).await;
    let writers = (0..40).map(|i: u32| {
        let store = Arc::clone(&store);
        async move {
            if i == 20 {
                draft(Action::Destroy(id)).applied(&store).await;
                assert_eq!(load(&store, &id).await, Loaded::Ended { successor: None });
                return;
            }
            let reply = apply(id).set(&format!("a{i}"), "1").reply(&store).await;
            assert!(matches!(reply, Reply::Applied { .. } | Reply::Ended { successor: None }), "{reply:?}");
        }
    });
    all(writers).await;
    assert_eq!(load(&store, &id).await, Loaded::Ended { successor: None });
}

/// With everything that is in it.
pub async fn a_login_lists_the_session_under_its_principal(store: Arc<impl SessionStore>) {
    let [alice, bob] = [somebody(), somebody()];
    assert_eq!(listed(&store, "nobody").await, []);
    let first = log_in(&store, alice).await;
    pause().await;
    let anonymous = create_with(&store, &[("device", "\"phone\"")]).await;
    let second = anonymous.successor();
    let principal = alice.to_owned();
    draft(Action::Renew(anonymous, second, Renewal::LogIn { principal, absolute_timeout: None })).applied(&store).await;
    log_in(&store, bob).await;
    let sessions = list(&store, alice).await;
    assert_eq!(sessions.iter().map(|session| session.handle).collect::<Vec<_>>(), [first.handle(), second.handle()]);
    let Record { attributes, principal, ttl, .. } = &sessions[1].record;
    assert_eq!(*attributes, self::attributes(&[("device", "\"phone\"")]));
    assert_eq!(principal.as_deref(), Some(alice));
    assert!(*ttl <= Duration::from_secs(60) && *ttl > Duration::from_secs(30), "{ttl:?}");
    let since = sessions[1].logged_in_on;
    assert!(sessions[0].logged_in_on < since);
    let age = SystemTime::now().duration_since(since).unwrap_or_default();
    assert!(age < Duration::from_secs(10), "{age:?}");
}

/// And keeps the time of the login.
pub async fn the_list_follows_a_renewal(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let id = log_in(&store, alice).await;
    let since = list(&store, alice).await[0].logged_in_on;
    pause().await;
    let to = id.successor();
    draft(Action::Renew(id, to, Renewal::Keep)).applied(&store).await;
    let sessions = list(&store, alice).await;
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0].handle, to.handle());
    assert!(sessions[0].logged_in_on.duration_since(since).unwrap_or_default() < Duration::from_millis(15));
}

/// Destroyed, or replaced by a session of nobody.
pub async fn what_ends_is_no_longer_listed(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let (one, other) = (log_in(&store, alice).await, log_in(&store, alice).await);
    draft(Action::Destroy(one)).applied(&store).await;
    assert_eq!(listed(&store, alice).await, [other.handle()]);
    let renewal = Renewal::Replace { start: start(), linked: false };
    draft(Action::Renew(other, other.successor(), renewal)).applied(&store).await;
    assert_eq!(listed(&store, alice).await, []);
}

/// When somebody else logs in.
pub async fn a_session_of_another_principal_moves_lists(store: Arc<impl SessionStore>) {
    let [alice, bob, carol] = [somebody(), somebody(), somebody()];
    let id = log_in(&store, alice).await;
    let to = id.successor();
    let renewal = Renewal::LogIn { principal: bob.into(), absolute_timeout: None };
    draft(Action::Renew(id, to, renewal)).applied(&store).await;
    assert_eq!((listed(&store, alice).await, listed(&store, bob).await), (vec![], vec![to.handle()]));
    let last = to.successor();
    let start = Start { principal: Some(carol.into()), ..start() };
    draft(Action::Renew(to, last, Renewal::Replace { start, linked: true })).applied(&store).await;
    assert_eq!((listed(&store, bob).await, listed(&store, carol).await), (vec![], vec![last.handle()]));
}

/// And does not count towards the limit.
pub async fn what_expires_is_no_longer_listed(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let short = SessionId::random();
    let idle_timeout = Duration::from_millis(300);
    let start = Start { principal: Some(alice.into()), idle_timeout, ..start() };
    let stays = log_in(&store, alice).await;
    draft(Action::Create(short, start)).applied(&store).await;
    assert_eq!(listed(&store, alice).await.len(), 2);
    until_absent(&store, &short).await;
    assert_eq!(listed(&store, alice).await, [stays.handle()]);
    let next = SessionId::random();
    draft(login(next, alice)).at_most(2, AboveLimit::Refuse).applied(&store).await;
    assert_eq!(listed(&store, alice).await.len(), 2);
}

/// The list lives as long as the session, whatever prolongs it, and nothing else does.
pub async fn prolonging_keeps_a_session_listed(store: Arc<impl SessionStore>) {
    for touch in [true, false] {
        let alice = somebody();
        let idle_timeout = Duration::from_millis(600);
        let start = Start { principal: Some(alice.into()), idle_timeout, ..start() };
        let id = SessionId::random();
        draft(Action::Create(id, start)).applied(&store).await;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(1300) {
            until_ttl_is_below(&store, &id, Duration::from_millis(450)).await;
            if touch {
                store.touch(&id).await.unwrap();
            } else {
                apply(id).set("a", "1").applied(&store).await;
            }
        }
        assert_eq!(listed(&store, alice).await, [id.handle()], "prolonged by touches: {touch}");
    }
}

/// A handle of somebody else's session ends nothing.
pub async fn revoking_one_ends_that_one_of_that_principal(store: Arc<impl SessionStore>) {
    let [alice, bob] = [somebody(), somebody()];
    let (one, other) = (log_in(&store, alice).await, log_in(&store, alice).await);
    let bobs = log_in(&store, bob).await;
    assert_eq!(revoke(&store, alice, Revoke::One(bobs.handle())).await, 0);
    assert_eq!(revoke(&store, alice, Revoke::One(one.handle())).await, 1);
    assert_eq!(revoke(&store, alice, Revoke::One(one.handle())).await, 0);
    assert_eq!(load(&store, &one).await, Loaded::Ended { successor: None });
    assert_eq!((listed(&store, alice).await, listed(&store, bob).await), (vec![other.handle()], vec![bobs.handle()]));
    assert_eq!(apply(one).set("a", "1").reply(&store).await, Reply::Ended { successor: None });
}

/// The one that asks, say.
pub async fn revoking_others_keeps_one(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let sessions = [log_in(&store, alice).await, log_in(&store, alice).await, log_in(&store, alice).await];
    assert_eq!(revoke(&store, alice, Revoke::Others(sessions[1].handle())).await, 2);
    assert_eq!(listed(&store, alice).await, [sessions[1].handle()]);
    for id in [sessions[0], sessions[2]] {
        assert_eq!(load(&store, &id).await, Loaded::Ended { successor: None });
    }
}

/// Of that principal.
pub async fn revoking_all_ends_all(store: Arc<impl SessionStore>) {
    let [alice, bob] = [somebody(), somebody()];
    let sessions = [log_in(&store, alice).await, log_in(&store, alice).await];
    let bobs = log_in(&store, bob).await;
    assert_eq!(revoke(&store, alice, Revoke::All).await, 2);
    assert_eq!((listed(&store, alice).await, listed(&store, bob).await), (vec![], vec![bobs.handle()]));
    for id in sessions {
        assert_eq!(load(&store, &id).await, Loaded::Ended { successor: None });
    }
    assert_eq!(revoke(&store, "nobody", Revoke::All).await, 0);
}

/// Sessions that began after it do not fall to its repetition.
pub async fn a_revocation_takes_effect_once(store: Arc<impl SessionStore>) {
    let alice = somebody();
    log_in(&store, alice).await;
    let revocation = revocation(alice, Revoke::All);
    let first = store.revoke(&revocation).await.unwrap();
    assert_eq!(first.ended, 1);
    let later = log_in(&store, alice).await;
    assert_eq!(store.revoke(&revocation).await.unwrap(), first);
    assert_eq!(listed(&store, alice).await, [later.handle()]);
}

/// Whoever asked has been told that it failed.
pub async fn a_revocation_after_its_deadline_is_not_applied(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let id = log_in(&store, alice).await;
    let mut revocation = revocation(alice, Revoke::All);
    revocation.deadline = Instant::now() - Duration::from_millis(5);
    assert!(store.revoke(&revocation).await.unwrap_err().is_unavailable());
    assert_eq!(listed(&store, alice).await, [id.handle()]);
}

/// Those that logged in first.
pub async fn a_login_above_the_limit_evicts_the_oldest(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let id = SessionId::random();
        draft(login(id, alice)).at_most(2, AboveLimit::EvictOldest).applied(&store).await;
        sessions.push(id);
        pause().await;
    }
    assert_eq!(listed(&store, alice).await, handles(&sessions[2..]));
    for id in &sessions[..2] {
        assert_eq!(load(&store, id).await, Loaded::Ended { successor: None });
    }
    // A limit that was lowered meanwhile.
    let last = SessionId::random();
    draft(login(last, alice)).at_most(1, AboveLimit::EvictOldest).applied(&store).await;
    assert_eq!(listed(&store, alice).await, [last.handle()]);
}

/// And changes nothing.
pub async fn a_login_above_the_limit_is_refused(store: Arc<impl SessionStore>) {
    let [alice, bob] = [somebody(), somebody()];
    let first = log_in(&store, alice).await;
    let anonymous = create(&store).await;
    let renewal = Renewal::LogIn { principal: alice.into(), absolute_timeout: None };
    let refused = draft(Action::Renew(anonymous, anonymous.successor(), renewal)).at_most(1, AboveLimit::Refuse);
    assert_eq!(refused.reply(&store).await, Reply::TooManySessions);
    assert_eq!(alive(&store, &anonymous).await.principal, None);
    assert_eq!(listed(&store, alice).await, [first.handle()]);
    draft(login(SessionId::random(), bob)).at_most(1, AboveLimit::Refuse).applied(&store).await;
}

/// It takes its own place.
pub async fn a_second_login_in_the_same_session_counts_once(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let id = log_in(&store, alice).await;
    let to = id.successor();
    let renewal = Renewal::LogIn { principal: alice.into(), absolute_timeout: None };
    draft(Action::Renew(id, to, renewal)).at_most(1, AboveLimit::Refuse).applied(&store).await;
    assert_eq!(listed(&store, alice).await, [to.handle()]);
}

/// However many come at once.
pub async fn of_concurrent_logins_no_more_than_the_limit_stay(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let logins = (0..20).map(|_| {
        let store = Arc::clone(&store);
        async move {
            let id = SessionId::random();
            draft(login(id, alice)).at_most(3, AboveLimit::EvictOldest).applied(&store).await;
            assert!(listed(&store, alice).await.len() <= 3);
            id
        }
    });
    let sessions = all(logins).await;
    let stayed = listed(&store, alice).await;
    assert_eq!(stayed.len(), 3);
    for id in sessions {
        let is_alive = matches!(load(&store, &id).await, Loaded::Alive(_));
        assert_eq!(is_alive, stayed.contains(&id.handle()));
    }
}

/// Never alive and not listed.
pub async fn a_login_that_races_with_a_revocation_is_listed_or_gone(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let steps = (0..40).map(|i: u32| {
        let store = Arc::clone(&store);
        async move {
            if i % 4 == 3 {
                revoke(&store, alice, Revoke::All).await;
                return None;
            }
            let anonymous = create(&store).await;
            let id = anonymous.successor();
            let renewal = Renewal::LogIn { principal: alice.into(), absolute_timeout: None };
            draft(Action::Renew(anonymous, id, renewal)).applied(&store).await;
            Some(id)
        }
    });
    let sessions = all(steps).await;
    let stayed = listed(&store, alice).await;
    for id in sessions.into_iter().flatten() {
        let is_alive = matches!(load(&store, &id).await, Loaded::Alive(_));
        assert_eq!(is_alive, stayed.contains(&id.handle()));
    }
}

/// A store whose setup has a replica, or needs none, confirms; also a repetition.
pub async fn a_durable_commit_says_whether_it_is(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let mut commit = draft(login(SessionId::random(), alice));
    commit.0.durable = true;
    let first = commit.reply(&store).await;
    assert!(matches!(first, Reply::Applied { confirmed: true, .. }), "{first:?}");
    assert_eq!(commit.reply(&store).await, first);
    let mut logout = draft(Action::Destroy(*commit.0.action.id()));
    logout.0.durable = true;
    let reply = logout.reply(&store).await;
    assert!(matches!(reply, Reply::Applied { confirmed: true, .. }), "{reply:?}");
    assert!(store.revoke(&revocation(alice, Revoke::All)).await.unwrap().confirmed);
}

// Checks that need a hand inside the store or on its way there; they are no part of the macro.

/// "Not found" would start a new session over a live one. `fail` makes the next read fail.
pub async fn a_failed_read_is_never_absent(store: Arc<impl SessionStore>, fail: impl FnOnce()) {
    let id = create(&store).await;
    fail();
    let failed = store.load(&id).await;
    assert!(failed.is_err(), "{failed:?}");
    alive(&store, &id).await;
}

/// Nobody knows what became of it. `drop_answer` has the next commit be applied and its answer be lost; then a repetition of the
/// commit is told what the first one did.
pub async fn a_dropped_answer_is_never_success(store: Arc<impl SessionStore>, drop_answer: impl FnOnce()) {
    let id = create(&store).await;
    let commit = apply(id).add("n", 1);
    drop_answer();
    let dropped = store.commit(&commit.0).await;
    assert!(dropped.is_err(), "{dropped:?}");
    let (_, counters) = commit.applied(&store).await;
    assert_eq!(counters, BTreeMap::from([("n".into(), 1)]));
}

/// It would keep an ended session's ID occupied for good. `pass` lets time pass.
pub async fn a_touch_does_not_prolong_a_tombstone(store: Arc<impl SessionStore>, pass: impl AsyncFn(Duration)) {
    let id = create(&store).await;
    draft(Action::Destroy(id)).applied(&store).await;
    pass(TOMBSTONE_LIFETIME / 2).await;
    store.touch(&id).await.unwrap();
    pass(TOMBSTONE_LIFETIME / 2 + Duration::from_secs(1)).await;
    assert_eq!(load(&store, &id).await, Loaded::Absent);
}

/// Load, commit and touch go there and back once each. `count` tells how many round trips the store has made so far.
pub async fn every_call_is_one_round_trip(store: Arc<impl SessionStore>, count: impl Fn() -> u64) {
    let id = SessionId::random();
    let mut before = count();
    let mut one_more = |what: &str| {
        let now = count();
        assert_eq!(now - before, 1, "{what}");
        before = now;
    };
    draft(Action::Create(id, start())).set("a", "1").applied(&store).await;
    one_more("create");
    load(&store, &id).await;
    one_more("load");
    apply(id).set("a", "2").add("n", 1).when("a", Some("1")).applied(&store).await;
    one_more("apply");
    store.touch(&id).await.unwrap();
    one_more("touch");
    let to = id.successor();
    draft(Action::Renew(id, to, Renewal::Keep)).applied(&store).await;
    one_more("renew");
    draft(Action::Destroy(to)).applied(&store).await;
    one_more("destroy");
    load(&store, &to).await;
    one_more("load a tombstone");
}

// What makes the next check cost a few lines.

/// A principal of this check alone, since checks may share a server. Leaked: a test process does not live long.
fn somebody() -> &'static str {
    SessionId::random().encode().leak()
}

fn login(id: SessionId, principal: &str) -> Action {
    Action::Create(id, Start { principal: Some(principal.to_owned()), ..start() })
}

async fn log_in(store: &Arc<impl SessionStore>, principal: &str) -> SessionId {
    let id = SessionId::random();
    draft(login(id, principal)).applied(store).await;
    id
}

async fn list(store: &Arc<impl SessionStore>, principal: &str) -> Vec<Listed> {
    store.sessions_of(principal).await.unwrap_or_else(|error| panic!("{}", chain(&error)))
}

async fn listed(store: &Arc<impl SessionStore>, principal: &str) -> Vec<SessionHandle> {
    list(store, principal).await.into_iter().map(|session| session.handle).collect()
}

fn handles(ids: &[SessionId]) -> Vec<SessionHandle> {
    ids.iter().map(SessionId::handle).collect()
}

fn revocation(principal: &str, which: Revoke) -> Revocation {
    Revocation {
        id: CommitId::random(),
        principal: principal.to_owned(),
        which,
        deadline: Instant::now() + Duration::from_secs(5),
        remember: Duration::from_secs(20),
    }
}

async fn revoke(store: &Arc<impl SessionStore>, principal: &str, which: Revoke) -> usize {
    let revoked = store.revoke(&revocation(principal, which)).await;
    revoked.unwrap_or_else(|error| panic!("{}", chain(&error))).ended
}

/// A commit in the making.
#[derive(Clone)]
struct Draft(Commit);

fn draft(action: Action) -> Draft {
    Draft(Commit::new(action, Instant::now() + Duration::from_secs(5)))
}

fn apply(id: SessionId) -> Draft {
    draft(Action::Apply(id))
}

impl Draft {
    fn set(mut self, name: &str, value: &str) -> Self {
        self.0.changes.insert(name.to_owned(), Change::Set(value.to_owned().into()));
        self
    }

    fn remove(mut self, name: &str) -> Self {
        self.0.changes.insert(name.to_owned(), Change::Remove);
        self
    }

    fn add(mut self, name: &str, by: i64) -> Self {
        self.0.changes.insert(name.to_owned(), Change::Add(by));
        self
    }

    fn clear(mut self) -> Self {
        self.0.clear = true;
        self
    }

    fn when(mut self, name: &str, expected: Option<&str>) -> Self {
        self.0.conditions.insert(name.to_owned(), expected.map(|value| value.to_owned().into()));
        self
    }

    fn seen(mut self, version: Version) -> Self {
        self.0.seen = Some(version);
        self
    }

    fn limits(mut self, attributes: usize, record_bytes: usize) -> Self {
        self.0.limits = Limits { attributes, record_bytes, ..Limits::default() };
        self
    }

    fn at_most(mut self, most: usize, above: AboveLimit) -> Self {
        self.0.sessions = Some(SessionLimit { most, above });
        self
    }

    async fn reply(&self, store: &Arc<impl SessionStore>) -> Reply {
        store.commit(&self.0).await.unwrap_or_else(|error| panic!("{:?}: {}", self.0.action, chain(&error)))
    }

    async fn applied(&self, store: &Arc<impl SessionStore>) -> (Version, BTreeMap<String, i64>) {
        match self.reply(store).await {
            Reply::Applied { version, counters, .. } => (version, counters),
            reply => panic!("{:?}: {reply:?}", self.0),
        }
    }
}

fn chain(error: &StoreError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}")
}

fn start() -> Start {
    Start {
        created_on: SystemTime::UNIX_EPOCH + Duration::from_millis(1_750_000_000_789),
        idle_timeout: Duration::from_secs(60),
        absolute_timeout: None,
        principal: None,
    }
}

async fn create(store: &Arc<impl SessionStore>) -> SessionId {
    create_with(store, &[]).await
}

async fn create_with(store: &Arc<impl SessionStore>, attributes: &[(&str, &str)]) -> SessionId {
    let id = SessionId::random();
    let create = draft(Action::Create(id, start()));
    attributes.iter().fold(create, |create, (name, value)| create.set(name, value)).applied(store).await;
    id
}

async fn create_for(store: &Arc<impl SessionStore>, idle: Duration, absolute: Option<Duration>) -> SessionId {
    let id = SessionId::random();
    let start = Start { idle_timeout: idle, absolute_timeout: absolute, ..start() };
    draft(Action::Create(id, start)).applied(store).await;
    id
}

fn attributes(pairs: &[(&str, &str)]) -> Attributes {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), Bytes::from((*value).to_owned()))).collect()
}

async fn load(store: &Arc<impl SessionStore>, id: &SessionId) -> Loaded {
    store.load(id).await.unwrap_or_else(|error| panic!("{}", chain(&error)))
}

async fn alive(store: &Arc<impl SessionStore>, id: &SessionId) -> Record {
    match load(store, id).await {
        Loaded::Alive(record) => record,
        other => panic!("expected a session, found {other:?}"),
    }
}

#[track_caller]
fn assert_lasts(record: &Record, expected: Duration) {
    let expires_on = record.expires_on.expect("it has an absolute timeout");
    let left = expires_on.duration_since(SystemTime::now()).unwrap();
    // Two clocks, and the time that the check itself took.
    assert!(left.abs_diff(expected) < Duration::from_secs(10), "{left:?} left of {expected:?}");
}

async fn pause() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Waits and looks at intervals shorter than the timeouts of these checks, so that a store that prolongs at a read fails here as
/// well.
async fn until_absent(store: &Arc<impl SessionStore>, id: &SessionId) {
    let started = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        if load(store, id).await == Loaded::Absent {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(5), "it is still there");
    }
}

async fn until_ttl_is_below(store: &Arc<impl SessionStore>, id: &SessionId, ttl: Duration) {
    while alive(store, id).await.ttl >= ttl {
        pause().await;
    }
}

/// All at the same time, as far as the runtime has threads.
async fn all<T: Send + 'static>(tasks: impl Iterator<Item = impl Future<Output = T> + Send + 'static>) -> Vec<T> {
    let tasks: Vec<_> = tasks.map(tokio::spawn).collect();
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        results.push(task.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())));
    }
    results
}

#[cfg(test)]
mod tests {
    /// The list in the macro cannot forget one.
    #[test]
    fn every_check_is_in_the_suite() {
        let source = include_str!("conformance.rs");
        let (suite, rest) = source.split_once("(@tests $store:expr;").unwrap();
        let listed: Vec<&str> = suite.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let (rest, _) = rest.split_once("// Checks that need a hand inside the store").unwrap();
        let checks: Vec<&str> = rest
            .lines()
            .filter_map(|line| line.strip_prefix("pub async fn "))
            .filter_map(|line| line.split_once('(').map(|(name, _)| name))
            .collect();
        assert!(checks.len() > 40);
        for check in checks {
            assert!(listed.contains(&check), "{check} is not in the suite");
        }
    }
}
