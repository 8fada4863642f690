//! What stands in Redis, and what happens when something else stands there.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cluster_tests::redis::{Machine, Redis};
use session_layer::store::{
    AboveLimit, Action, Commit, CommitId, Loaded, RedisStore, Renewal, Reply, Revocation, Revoke, SessionLimit,
    SessionStore, Start, TOMBSTONE_LIFETIME, Version,
};
use session_layer::{Limit, SessionId};

use super::{add, applied, attributes, cause, commit, connected, create, set, start, touch};

fn key(id: &SessionId) -> String {
    let [high, low] = id.shard();
    format!("session:{{{high:02x}{low:02x}}}:{}", URL_SAFE_NO_PAD.encode(id.digest()))
}

#[tokio::test]
async fn a_session_is_small_and_holds_no_usable_id() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let id = SessionId::random();
    let start = Start { principal: Some("alice".into()), ..start() };
    let mut create = commit(Action::Create(id, start));
    for (name, value) in [("visits", "12"), ("theme", "\"dark\""), ("cart", "[\"a1\",\"b2\"]")] {
        create.changes.extend(set(id, name, value).changes);
    }
    applied(&store, &create).await;
    let mut admin = machine.admin().await;
    let usage = admin.command(&["MEMORY", "USAGE", &key(&id)]).await;
    let bytes: u64 = usage.trim_start_matches(':').trim().parse().expect("a number");
    println!("a session with three short attributes: {bytes} bytes");
    assert!(bytes <= 320, "{bytes} bytes");
    let keys = admin.command(&["KEYS", "*"]).await;
    let dump = admin.command(&["HGETALL", &key(&id)]).await;
    assert!(!keys.contains(&id.encode()) && !dump.contains(&id.encode()));
}

/// By what is left of the tombstone's time to live, which a test need not wait for.
#[tokio::test]
async fn a_tombstone_in_redis_tells_how_long_ago_its_session_ended() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let mut admin = machine.admin().await;
    let (destroyed, renewed) = (create(&store).await, create(&store).await);
    let successor = renewed.successor();
    applied(&store, &commit(Action::Destroy(destroyed))).await;
    applied(&store, &commit(Action::Renew(renewed, successor, Renewal::Keep))).await;
    for (id, expected) in [(destroyed, None), (renewed, Some(successor))] {
        for ago in [0, 9, 11, 240] {
            let ago = Duration::from_secs(ago);
            let left = (TOMBSTONE_LIFETIME - ago).as_millis().to_string();
            let set = std::time::Instant::now();
            admin.command(&["PEXPIRE", &key(&id), &left]).await;
            let Loaded::Ended { successor, age } = store.load(&id).await.expect("it answers") else {
                panic!("it is a tombstone")
            };
            assert_eq!(successor, expected);
            let mut ages = vec![age];
            for action in [Action::Apply(id), Action::Renew(id, id.successor(), Renewal::Keep), Action::Destroy(id)] {
                match store.commit(&commit(action.clone())).await.expect("it answers") {
                    Reply::Ended { successor, age } if successor == expected => ages.push(age),
                    other => panic!("{action:?}: {other:?}"),
                }
            }
            // Some time has passed since.
            let fits = |age: &Duration| *age >= ago && *age <= ago + set.elapsed() + Duration::from_millis(1);
            assert!(ages.iter().all(fits), "{ago:?}: {ages:?}");
        }
    }
}

#[tokio::test]
async fn every_key_has_a_time_to_live_and_the_prefix() {
    let machine = Machine::with_redis(&[]).await;
    machine.grant_prefix("shop:session").await;
    let store = RedisStore::builder(&machine.url()).key_prefix("shop:session").build().expect("it is good");
    store.available().await;
    let (id, gone) = (create(&store).await, create(&store).await);
    applied(&store, &add(id, "n", 1)).await;
    applied(&store, &commit(Action::Renew(id, id.successor(), Renewal::Keep))).await;
    applied(&store, &commit(Action::Destroy(gone))).await;
    let mut admin = machine.admin().await;
    let keys = admin.command(&["KEYS", "*"]).await;
    let keys: Vec<&str> = keys.lines().filter(|line| line.starts_with("shop:session:{")).collect();
    // A session, two tombstones, five replies.
    assert_eq!(keys.len(), 8);
    assert_eq!(admin.command(&["DBSIZE"]).await, ":8\r\n");
    for key in keys {
        let ttl = admin.command(&["PTTL", key]).await;
        assert!(!ttl.starts_with(":-"), "{key}: {ttl}");
    }
}

/// Longer than any request that loaded the session before it ended: a late one must find that it ended.
#[tokio::test]
async fn what_a_session_leaves_lasts_for_five_minutes_however_it_ended() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let mut admin = machine.admin().await;
    let [renewed, destroyed, revoked] = [create(&store).await, create(&store).await, SessionId::random()];
    let start = Start { principal: Some("alice".into()), ..start() };
    applied(&store, &commit(Action::Create(revoked, start))).await;
    applied(&store, &commit(Action::Renew(renewed, renewed.successor(), Renewal::Keep))).await;
    applied(&store, &commit(Action::Destroy(destroyed))).await;
    let revocation = Revocation {
        id: CommitId([7; 16]),
        realm: "session".into(),
        principal: "alice".into(),
        which: Revoke::All,
        deadline: tokio::time::Instant::now() + Duration::from_secs(5),
        remember: Duration::from_secs(20),
    };
    assert_eq!(store.revoke(&revocation).await.expect("it answers").ended, 1);
    for (how, id) in [("renewed", renewed), ("destroyed", destroyed), ("revoked", revoked)] {
        let ttl = admin.command(&["PTTL", &key(&id)]).await;
        let millis: u64 = ttl.trim_start_matches(':').trim().parse().unwrap_or_else(|_| panic!("{how}: {ttl}"));
        // What has passed meanwhile is no part of the claim, but on a busy machine part of the time.
        let lifetime = u64::try_from(TOMBSTONE_LIFETIME.as_millis()).expect("minutes");
        assert!((lifetime - 60_000..=lifetime).contains(&millis), "{how}: {millis} ms");
    }
}

#[tokio::test]
async fn stores_with_other_prefixes_and_databases_do_not_meet() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let id = create(&store).await;
    machine.grant_prefix("other").await;
    let other = RedisStore::builder(&machine.url()).key_prefix("other").build().expect("it is good");
    other.available().await;
    assert_eq!(other.load(&id).await.expect("it answers"), Loaded::Absent);
    let elsewhere = connected(&format!("{}/3", machine.url())).await;
    assert_eq!(elsewhere.load(&id).await.expect("it answers"), Loaded::Absent);
    create(&elsewhere).await;
    let keyspace = machine.admin().await.command(&["INFO", "keyspace"]).await;
    assert!(keyspace.contains("db0:keys=2,") && keyspace.contains("db3:keys=2,"), "{keyspace}");
}

/// To its browser it is gone; nothing writes into it, and nobody panics.
#[tokio::test]
async fn what_is_no_session_spoils_that_one_session_only() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let mut admin = machine.admin().await;
    let garbage: [(&str, &[&[u8]]); 12] = [
        ("a string", &[b"SET", b"K", b"\xff\x00", b"EX", b"60"]),
        ("a list", &[b"RPUSH", b"K", b"x"]),
        ("a set", &[b"SADD", b"K", b"x"]),
        ("a foreign hash", &[b"HSET", b"K", b"name", b"value"]),
        ("a foreign hash that looks like a push", &[b"HSET", b"K", b"subscribe", b"x", b"message", b"y"]),
        ("no version", &[b"HSET", b"K", b"@c", b"1", b"@b", b"9000000000000000", b"@i", b"60000 ", b"@s", b"0"]),
        ("no size", &[b"HSET", b"K", b"@c", b"1", b"@b", b"9000000000000000", b"@i", b"60000 ", b"@v", b"5"]),
        (
            "a truncated timeout",
            &[b"HSET", b"K", b"@c", b"1", b"@b", b"9000000000000000", b"@i", b"", b"@v", b"5", b"@s", b"0"],
        ),
        (
            "a version that no double holds",
            &[
                b"HSET",
                b"K",
                b"@c",
                b"1",
                b"@b",
                b"9000000000000000",
                b"@i",
                b"60000 ",
                b"@v",
                b"9007199254740993",
                b"@s",
                b"0",
            ],
        ),
        (
            "an absolute timeout that is not a number",
            &[b"HSET", b"K", b"@c", b"1", b"@b", b"9000000000000000", b"@i", b"60000 -1e9", b"@v", b"5", b"@s", b"0"],
        ),
        ("no start", &[b"HSET", b"K", b"@c", b"1", b"@i", b"60000 ", b"@v", b"5", b"@s", b"0"]),
        (
            "a start that is not a number",
            &[b"HSET", b"K", b"@c", b"1", b"@b", b"-1e9", b"@i", b"60000 ", b"@v", b"5", b"@s", b"0"],
        ),
    ];
    for (what, command) in garbage {
        let id = SessionId::random();
        plant(&mut admin, &id, command).await;
        let before = admin.command(&["DUMP", &key(&id)]).await;

        let error = store.load(&id).await.expect_err(what);
        assert!(error.is_corrupt(), "{what}: {}", cause(&error));
        store.touch(&touch(id)).await.expect(what);
        for action in [Action::Apply(id), Action::Renew(id, id.successor(), Renewal::Keep), Action::Destroy(id)] {
            let mut commit = commit(action);
            commit.seen = Some(Version(1));
            assert_eq!(store.commit(&commit).await.expect(what), Reply::Absent, "{what}: {:?}", commit.action);
        }
        assert_eq!(store.commit(&commit(Action::Create(id, start()))).await.expect(what), Reply::Occupied, "{what}");
        let other = SessionId::random();
        applied(&store, &commit(Action::Create(other, start()))).await;
        assert_eq!(admin.command(&["DUMP", &key(&id)]).await, before, "{what} was written to");
    }
}

#[tokio::test]
async fn a_session_that_would_never_end_is_none() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let id = create(&store).await;
    machine.admin().await.command(&["PERSIST", &key(&id)]).await;
    assert!(store.load(&id).await.expect_err("it has no time to live").is_corrupt());
}

#[tokio::test]
async fn a_tombstone_with_garbage_in_it_is_no_session() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let id = SessionId::random();
    plant(&mut machine.admin().await, &id, &[b"HSET", b"K", b"@t", b"short"]).await;
    assert!(store.load(&id).await.expect_err("it names no ID").is_corrupt());
    assert_eq!(store.commit(&add(id, "n", 1)).await.expect("it answers"), Reply::Absent);
}

/// An older version beside it neither drops nor shows them, whatever it does.
#[tokio::test]
async fn reserved_fields_of_a_later_version_are_kept() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let mut admin = machine.admin().await;
    let id = create(&store).await;
    admin.command(&["HSET", &key(&id), "@z", "of tomorrow"]).await;
    applied(&store, &set(id, "a", "1")).await;
    let mut clear = set(id, "b", "2");
    clear.clear = true;
    applied(&store, &clear).await;
    let to = id.successor();
    applied(&store, &commit(Action::Renew(id, to, Renewal::Keep))).await;
    assert_eq!(attributes(&store, &to).await, [("b".to_owned(), "2".to_owned())].into());
    assert_eq!(admin.command(&["HGET", &key(&to), "@z"]).await, "$11\r\nof tomorrow\r\n");
}

#[tokio::test]
async fn garbage_where_a_reply_would_be_remembered_stops_no_commit() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let id = create(&store).await;
    for (commit, n) in [(add(id, "n", 1), Some(1)), (commit(Action::Destroy(id)), None)] {
        let [high, low] = id.shard();
        let record = format!("session:{{{high:02x}{low:02x}}}:{}", URL_SAFE_NO_PAD.encode(commit.id.0));
        machine.admin().await.command(&["RPUSH", &record, "x"]).await;
        assert_eq!(applied(&store, &commit).await.get("n").copied(), n);
        assert_eq!(applied(&store, &commit).await.get("n").copied(), n, "it is known from now on");
    }
}

/// Whoever wrote it there.
#[tokio::test]
async fn something_else_where_a_principals_list_would_be_keeps_nobody_from_logging_in_or_out() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let mut admin = machine.admin().await;
    let logged_in = || Start { principal: Some("alice".into()), ..start() };
    let log_in = || Renewal::LogIn { principal: "alice".into() };
    let most = SessionLimit { most: 9, above: AboveLimit::EvictOldest };
    for sessions in [None, Some(most)] {
        let spoil: [&[u8]; 3] = [b"SET", b"session:{principal}:7:session:alice", b"x"];
        let [visitor, out, renewed] = [create(&store).await, SessionId::random(), SessionId::random()];
        for id in [out, renewed] {
            applied(&store, &commit(Action::Create(id, logged_in()))).await;
        }
        admin.command(&spoil).await;
        applied(&store, &commit(Action::Destroy(out))).await;
        assert!(matches!(store.load(&out).await.expect("it answers"), Loaded::Ended { successor: None, .. }));
        for action in [
            Action::Renew(renewed, renewed.successor(), Renewal::Keep),
            Action::Renew(visitor, visitor.successor(), log_in()),
            Action::Create(SessionId::random(), logged_in()),
        ] {
            admin.command(&spoil).await;
            applied(&store, &Commit { sessions, ..commit(action) }).await;
            // The list begins anew.
            assert_eq!(store.sessions_of("session", "alice").await.expect("it answers").len(), 1);
        }
        assert!(admin.command(&["PTTL", "session:{principal}:7:session:alice"]).await.starts_with(":1"));
    }
}

#[tokio::test]
async fn a_memory_of_versions_is_no_attribute_to_a_node_that_keeps_none() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let id = create(&store).await;
    applied(&store, &Commit { keep_history: true, ..set(id, "a", "1") }).await;
    let most_two = |name| {
        let mut commit = set(id, name, "1");
        commit.limits.attributes = 2;
        commit
    };
    applied(&store, &most_two("b")).await;
    assert_eq!(store.commit(&most_two("c")).await.expect("it answers"), Reply::Limit(Limit::Attributes));
}

/// `update` loses often where many write one attribute, and each try is remembered for a while.
#[tokio::test]
async fn a_condition_that_does_not_hold_leaves_no_copy_of_a_large_attribute() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let large = format!("\"{}\"", "x".repeat(60_000));
    let id = create(&store).await;
    applied(&store, &set(id, "large", &large)).await;
    let mut compare = set(id, "large", "1");
    compare.conditions.insert("large".to_owned(), None);
    let conflict = |current: &str| Reply::Conflict { name: "large".into(), current: Some(current.to_owned().into()) };
    assert_eq!(store.commit(&compare).await.expect("it answers"), conflict(&large));
    let [high, low] = id.shard();
    let record = format!("session:{{{high:02x}{low:02x}}}:{}", URL_SAFE_NO_PAD.encode(compare.id.0));
    let usage = machine.admin().await.command(&["MEMORY", "USAGE", &record]).await;
    let bytes: u64 = usage.trim_start_matches(':').trim().parse().expect("a number");
    assert!(bytes < 1000, "{bytes} bytes");
    // Asked again, it tells what is there by then: that is what the next try starts from.
    assert_eq!(store.commit(&compare).await.expect("it answers"), conflict(&large));
    applied(&store, &set(id, "large", "2")).await;
    assert_eq!(store.commit(&compare).await.expect("it answers"), conflict("2"));
    applied(&store, &commit(Action::Destroy(id))).await;
    let gone = Reply::Conflict { name: "large".into(), current: None };
    assert_eq!(store.commit(&compare).await.expect("it answers"), gone);
}

/// What a script calls is counted too, but crosses no network.
#[tokio::test]
async fn each_operation_costs_what_it_should() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let mut admin = machine.admin().await;
    let (id, to) = (SessionId::random(), SessionId::random());
    let mut many = set(id, "a", "2");
    for i in 0..50 {
        many.changes.extend(set(id, &format!("a{i}"), "1").changes);
    }

    admin.command(&["CONFIG", "RESETSTAT"]).await;
    applied(&store, &commit(Action::Create(id, start()))).await;
    costs(&mut admin, "creating", &["evalsha", "exists", "get", "hset", "pexpire", "set"]).await;
    store.load(&id).await.expect("it is there");
    costs(&mut admin, "loading", &["hgetall", "pttl"]).await;
    applied(&store, &set(id, "a", "1")).await;
    let adding = ["evalsha", "get", "hlen", "hmget", "hset", "pexpire", "set"];
    costs(&mut admin, "setting an attribute that is new", &adding).await;
    applied(&store, &many).await;
    costs(&mut admin, "setting many attributes", &adding).await;
    applied(&store, &set(id, "a", "3")).await;
    costs(&mut admin, "changing an attribute", &["evalsha", "get", "hmget", "hset", "pexpire", "set"]).await;
    store.touch(&touch(id)).await.expect("it answers");
    costs(&mut admin, "prolonging", &["evalsha", "hmget", "pexpire"]).await;
    store.load(&SessionId::random()).await.expect("it answers");
    costs(&mut admin, "loading what is not there", &["hgetall", "pttl"]).await;
    applied(&store, &commit(Action::Renew(id, to, Renewal::Keep))).await;
    let renewing = ["evalsha", "exists", "get", "hmget", "hset", "hset", "pexpire", "pexpire", "rename", "set"];
    costs(&mut admin, "renewing", &renewing).await;
    applied(&store, &commit(Action::Destroy(to))).await;
    costs(&mut admin, "destroying", &["del", "evalsha", "get", "hmget", "hset", "pexpire", "set"]).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    costs(&mut admin, "doing nothing", &[]).await;
}

/// Compares what was called since the last time, less what the store does by itself and what this function does.
async fn costs(admin: &mut Redis, what: &str, expected: &[&str]) {
    // An `echo` ends each packet. A look at where the name leads opens a connection (`hello`, `auth`) and asks who is there.
    let own = ["config|resetstat", "info", "role", "time", "hello", "auth", "client|id", "script|load", "echo"];
    let mut calls = admin.calls().await;
    calls.retain(|name, _| !own.contains(&name.as_str()));
    let mut counted = BTreeMap::new();
    for name in expected {
        *counted.entry((*name).to_owned()).or_insert(0) += 1;
    }
    assert_eq!(calls, counted, "{what}");
    admin.command(&["CONFIG", "RESETSTAT"]).await;
}

/// Runs a command on the session's key (`K`), and lets it expire.
async fn plant(admin: &mut Redis, id: &SessionId, command: &[&[u8]]) {
    let key = key(id);
    let words: Vec<&[u8]> = command.iter().map(|word| if *word == b"K" { key.as_bytes() } else { word }).collect();
    let answer = admin.command(&words).await;
    assert!(!answer.starts_with('-'), "{answer}");
    admin.command(&["PEXPIRE", &key, "60000"]).await;
}
