//! Lists of principals that Redis has evicted, or that somebody deleted, cut short or wrote over: every live session is in its list
//! again after its next commit or touch.

use std::time::Duration;

use cluster_tests::redis::{Machine, Redis};
use session_layer::SessionId;
use session_layer::store::{
    Action, Commit, CommitId, Lifetimes, Loaded, RedisStore, Renewal, Reply, Revocation, Revoke, SessionStore, Start,
    Touch,
};
use tokio::time::Instant;

use super::{applied, commit, connected, set, start, touch};

const LIST: &str = "session:{principal}:7:session:alice";

async fn log_in(store: &RedisStore, principal: &str) -> SessionId {
    let id = SessionId::random();
    applied(store, &commit(Action::Create(id, Start { principal: Some(principal.into()), ..start() }))).await;
    id
}

async fn has_ended(store: &RedisStore, id: &SessionId) -> bool {
    matches!(store.load(id).await.expect("it answers"), Loaded::Ended { successor: None, .. })
}

/// How many sessions of the principal end.
async fn revoke_all(store: &RedisStore, principal: &str) -> usize {
    let revocation = Revocation {
        id: CommitId(SessionId::random().as_bytes()[..16].try_into().expect("an ID is longer")),
        realm: "session".into(),
        principal: principal.into(),
        which: Revoke::All,
        deadline: Instant::now() + Duration::from_secs(15),
        remember: Duration::from_secs(20),
    };
    store.revoke(&revocation).await.expect("it answers").ended
}

/// What may happen to a list of two, and whether sessions are listed again by a touch or by a commit.
#[tokio::test]
async fn a_damaged_list_is_whole_again_after_each_sessions_next_commit_or_touch() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let mut admin = machine.admin().await;
    let damages: [(&str, &[&[&str]]); 7] = [
        ("deleted", &[&["DEL", LIST]]),
        ("without its first member", &[&["ZPOPMIN", LIST]]),
        ("without its last member", &[&["ZPOPMAX", LIST]]),
        ("text", &[&["SET", LIST, "x", "PX", "60000"]]),
        ("a hash", &[&["DEL", LIST], &["HSET", LIST, "a", "b"]]),
        ("about to expire", &[&["PEXPIRE", LIST, "1"]]),
        ("evicted and begun anew by another session", &[&["DEL", LIST], &["ZADD", LIST, "1", "session:{0000}:gone"]]),
    ];
    for (damage, commands) in damages {
        for by in ["touches", "commits", "commits that remember versions", "renewals"] {
            let what = format!("{damage}, {by}");
            let [first, second] = [log_in(&store, "alice").await, log_in(&store, "alice").await];
            let since = scores(&mut admin).await;
            for command in commands {
                let answer = admin.command(command).await;
                assert!(!answer.starts_with('-'), "{what}: {answer}");
            }
            let mut now = Vec::new();
            // In another order than that of the logins, which stays.
            for id in [second, first] {
                let (action, to) = match by {
                    "renewals" => (Action::Renew(id, id.successor(), Renewal::Keep), None),
                    _ => (Action::Apply(id), Some(id)),
                };
                let to = to.or_else(|| action.target().copied()).expect("it stays");
                let commit = Commit { changes: set(id, "id", "1").changes, ..commit(action) };
                match by {
                    "touches" => store.touch(&touch(id)).await.expect("it answers"),
                    "commits that remember versions" => {
                        drop(applied(&store, &Commit { keep_history: true, ..commit }).await)
                    }
                    _ => drop(applied(&store, &commit).await),
                }
                now.insert(0, to.handle());
            }
            let sessions = store.sessions_of("session", "alice").await.expect("it answers");
            let handles: Vec<_> = sessions.iter().map(|session| session.handle).collect();
            assert_eq!(handles, now, "{what}");
            let scores = scores(&mut admin).await;
            assert_eq!(scores, since, "{what}: the times of the logins");
            let ttl = admin.command(&["PTTL", LIST]).await;
            let ttl: u64 = ttl.trim_start_matches(':').trim().parse().unwrap_or_else(|_| panic!("{what}: {ttl}"));
            assert!(ttl > 1_790_000, "{what}: it lives as long as its sessions, not {ttl} ms");
            assert_eq!(revoke_all(&store, "alice").await, 2, "{what}");
        }
    }
}

/// When those who are listed logged in; lists know no other order.
async fn scores(admin: &mut Redis) -> Vec<String> {
    let answer = admin.command(&["EVAL", SCORES, "1", LIST]).await;
    answer.lines().filter(|line| line.len() == 16).map(str::to_owned).collect()
}

/// As text with all digits, of sessions only.
const SCORES: &str = "local found = {}
    local listed = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
    for i = 1, #listed, 2 do
        if redis.call('EXISTS', listed[i]) == 1 then found[#found + 1] = string.format('%.0f', listed[i + 1]) end
    end
    return found";

/// The smallest form: a list that somebody deletes.
#[tokio::test]
async fn revoking_all_ends_a_session_again_after_its_next_commit() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let id = log_in(&store, "alice").await;
    assert_eq!(machine.admin().await.command(&["DEL", LIST]).await, ":1\r\n");
    // What Redis does not know of cannot be ended; the session says so itself next time.
    assert_eq!(revoke_all(&store, "alice").await, 0);
    applied(&store, &set(id, "a", "1")).await;
    assert_eq!(revoke_all(&store, "alice").await, 1);
    assert!(has_ended(&store, &id).await);
}

/// A session with a shorter time left than another one's keeps the list for that one.
#[tokio::test]
async fn a_list_lives_as_long_as_its_longest_session() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let mut admin = machine.admin().await;
    let id = log_in(&store, "alice").await;
    let short = Lifetimes { idle_timeout: Duration::from_secs(60), absolute_timeout: None };
    store.touch(&Touch::new(id, "session", short)).await.expect("it answers");
    let create = Action::Create(SessionId::random(), Start { principal: Some("alice".into()), ..start() });
    applied(&store, &Commit { lifetimes: short, ..commit(create) }).await;
    let ttl = admin.command(&["PTTL", LIST]).await;
    assert!(ttl.trim_start_matches(':').trim().parse::<u64>().is_ok_and(|ttl| ttl > 1_700_000), "{ttl}");
}

/// What several managed services ship with. 200 users are logged in, and memory runs out while they read; then each is logged out
/// everywhere, as after a stolen password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_live_session_is_missing_from_its_list_after_redis_evicted_it() {
    for policy in ["volatile-lru", "allkeys-lru", "volatile-random"] {
        let machine = Machine::with_redis(&[]).await;
        let store = connected(&machine.url()).await;
        let mut admin = machine.admin().await;
        let mut sessions = Vec::new();
        for user in 0..200 {
            sessions.push((format!("user{user}"), log_in(&store, &format!("user{user}")).await));
        }
        let lists = async |admin: &mut Redis| {
            let answer = admin.command(&["EVAL", "return #redis.call('KEYS', 'session:{principal}:*')", "0"]).await;
            answer.trim_start_matches(':').trim().parse::<usize>().expect("a number")
        };
        assert_eq!(lists(&mut admin).await, 200);
        let used = admin.command(&["INFO", "memory"]).await;
        let used =
            used.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("it says so").trim().to_owned();
        admin.command(&["CONFIG", "SET", "maxmemory-policy", policy]).await;
        admin.command(&["CONFIG", "SET", "maxmemory", &used]).await;
        let filler = "x".repeat(512);
        let mut written = 0;
        // Until some lists are gone, however much this version of Redis takes for itself.
        while lists(&mut admin).await > 150 {
            admin.command(&["SET", &format!("other:{written}"), &filler]).await;
            written += 1;
            assert!(written < 5000, "{policy}: {} lists are left", lists(&mut admin).await);
            // Sessions that are used stay, as far as the policy goes by use.
            for (_, id) in sessions.iter().skip(written % 10).step_by(10) {
                store.load(id).await.expect("it answers");
            }
        }
        // Room again: what the evictions took stays away.
        admin.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
        let mut alive = Vec::new();
        for (user, id) in &sessions {
            if matches!(store.load(id).await, Ok(Loaded::Alive(_))) {
                alive.push((user, id));
            }
        }
        assert!(!alive.is_empty(), "{policy}: all sessions were evicted, nothing is left to check");
        let mut unlisted = 0;
        for (number, (user, id)) in alive.iter().enumerate() {
            unlisted += usize::from(store.sessions_of("session", user).await.expect("it answers").is_empty());
            if number % 2 == 0 {
                store.touch(&touch(**id)).await.expect("it answers");
            } else {
                applied(&store, &set(**id, "a", "1")).await;
            }
        }
        println!("{policy}: {} of 200 sessions live on, {unlisted} of them unlisted", alive.len());
        assert!(unlisted > 0, "{policy}: no list was evicted whose session is alive");
        for (user, id) in alive {
            assert_eq!(revoke_all(&store, user).await, 1, "{policy}: {user}");
            assert!(has_ended(&store, id).await, "{policy}: {user}");
            let late = store.commit(&set(*id, "a", "2")).await.expect("it answers");
            assert!(matches!(late, Reply::Ended { successor: None, .. }), "{policy}: {user}: {late:?}");
        }
    }
}
