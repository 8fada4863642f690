//! A Redis user who may not do everything: found on connecting, and wherever rights are taken away later, before anything is written.

use std::collections::BTreeMap;
use std::time::Duration;

use cluster_tests::redis::{self, Machine, Redis};
use cluster_tests::wait::{ensure, eventually};
use session_layer::SessionId;
use session_layer::store::{
    AboveLimit, Action, Commit, CommitId, Feature, Loaded, NearCacheLimits, RedisStore, Renewal, Reply, Revocation,
    Revoke, SessionLimit, SessionStore, Start,
};
use tokio::time::Instant;

use super::{add, applied, cause, commit, connected, set, start, touch};

const WHILE: Duration = Duration::from_secs(10);

/// What the documented user may run, without the `+`.
fn granted() -> impl Iterator<Item = &'static str> {
    redis::documented_rules().into_iter().filter_map(|rule| rule.strip_prefix('+'))
}

/// Without these a server is used all the same.
const FOR_FEATURES: [&str; 5] = ["client|tracking", "info", "ping", "select", "wait"];

async fn acl(admin: &mut Redis, rule: &str) {
    assert_eq!(admin.command(&["ACL", "SETUSER", "session", rule]).await, "+OK\r\n", "{rule}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_used_only_by_a_user_with_all_rights() {
    let machine = Machine::with_redis(&[]).await;
    let mut admin = machine.admin().await;
    for missing in granted() {
        acl(&mut admin, &format!("-{missing}")).await;
        let store = RedisStore::builder(&machine.url()).build().expect("the URL is good");
        if FOR_FEATURES.contains(&missing) {
            tokio::time::timeout(WHILE, store.available())
                .await
                .unwrap_or_else(|_| panic!("{missing} is for a feature"));
        } else {
            let name = missing.split('|').next_back().expect("a name");
            eventually("a store that says what it lacks", WHILE, async || {
                let problem = store.status().problem.unwrap_or_default();
                let problem = problem.to_lowercase();
                // One line for all of them; before the store can ask, the server's own words.
                ensure(problem.contains(name) && !problem.contains('\n'), || format!("{missing}: {problem:?}"))
            })
            .await;
            assert!(!store.is_up(), "{missing}");
            let error = store.load(&SessionId::random()).await.expect_err("there is no server to use");
            assert!(error.is_unavailable() && cause(&error).to_lowercase().contains(name), "{}", cause(&error));
        }
        // Rights can be granted while it runs.
        acl(&mut admin, &format!("+{missing}")).await;
        tokio::time::timeout(WHILE, store.available()).await.unwrap_or_else(|_| panic!("{missing} is there again"));
    }
}

#[tokio::test]
async fn a_user_without_the_keys_of_lists_is_not_used() {
    let machine = Machine::with_redis(&[]).await;
    let mut admin = machine.admin().await;
    acl(&mut admin, "resetkeys").await;
    // Sessions, and no lists of principals.
    acl(&mut admin, "~session:{[0-9a-f][0-9a-f][0-9a-f][0-9a-f]}:*").await;
    let store = RedisStore::builder(&machine.url()).build().expect("the URL is good");
    eventually("a store that says what it lacks", WHILE, async || {
        let problem = store.status().problem.unwrap_or_default();
        ensure(problem.contains("+zadd") && problem.contains("lists of principals"), || problem.clone())
    })
    .await;
    assert!(!store.status().problem.unwrap_or_default().contains("on sessions"), "{:?}", store.status());
    acl(&mut admin, "~session:*").await;
    tokio::time::timeout(WHILE, store.available()).await.expect("it has all rights");
}

#[tokio::test]
async fn a_feature_without_its_rights_is_off_and_says_so() {
    let machine = Machine::with_redis(&[]).await;
    let mut admin = machine.admin().await;
    for (feature, missing) in [(Feature::NearCache, "client|tracking"), (Feature::DurableCommits, "wait")] {
        acl(&mut admin, &format!("-{missing}")).await;
        let store = RedisStore::builder(&machine.url())
            .near_cache(NearCacheLimits::default())
            .durable_replicas(1)
            .replica_reads(true)
            .build()
            .expect("the settings are good");
        tokio::time::timeout(WHILE, store.available()).await.expect("it is used");
        let status = store.status();
        assert_eq!(status.off.keys().collect::<Vec<_>>(), [&feature], "{status:?}");
        assert!(status.off[&feature].contains(missing), "{status:?}");
        if feature == Feature::DurableCommits {
            let mut log_in = commit(Action::Create(SessionId::random(), start()));
            log_in.durable = true;
            assert!(matches!(store.commit(&log_in).await, Ok(Reply::Applied { .. })), "logins do not wait");
        }
        acl(&mut admin, &format!("+{missing}")).await;
    }
}

#[tokio::test]
async fn a_replica_without_its_rights_is_not_read_and_says_so() {
    let machine = Machine::start::<2>().await;
    machine.start_redis(machine.port(0), &[]).await;
    machine.start_redis(machine.port(1), &[&format!("--replicaof 127.0.0.1 {}", machine.port(0))]).await;
    // Users are not replicated.
    let mut replica = machine.redis(machine.port(1)).await.expect("it runs");
    acl(&mut replica, "-info").await;
    let store = RedisStore::builder(&machine.url()).replica_reads(true).build().expect("the settings are good");
    eventually("a store that says what it lacks", WHILE, async || {
        let status = store.status();
        ensure(status.off.contains_key(&Feature::ReplicaReads), || format!("{status:?}"))
    })
    .await;
    acl(&mut replica, "+info").await;
    eventually("a store that lacks nothing", WHILE, async || {
        let status = store.status();
        ensure(status.server.is_some() && status.off.is_empty(), || format!("{status:?}"))
    })
    .await;
}

/// Three sessions of a principal, each counting.
struct Principal {
    name: String,
    sessions: [SessionId; 3],
}

impl Principal {
    async fn new(store: &RedisStore, name: String) -> Self {
        let sessions = [(); 3].map(|()| SessionId::random());
        for id in sessions {
            let mut create = commit(Action::Create(id, Start { principal: Some(name.clone()), ..start() }));
            create.changes = set(id, "n", "5").changes;
            create.changes.extend(set(id, "a", "1").changes);
            applied(store, &create).await;
        }
        Self { name, sessions }
    }

    fn revocation(&self, which: Revoke) -> Revocation {
        let [random] = [SessionId::random()];
        let id = CommitId(random.as_bytes()[..16].try_into().expect("16 bytes"));
        Revocation {
            id,
            realm: "session".into(),
            principal: self.name.clone(),
            which,
            deadline: Instant::now() + WHILE,
            remember: Duration::from_secs(20),
        }
    }
}

/// What a store is asked for while its user lacks something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Load,
    Count,
    CountAndClear,
    Repeat,
    Touch,
    List,
    LogIn,
    LogInAboveTheLimit,
    Renew,
    LogOut,
    RevokeOthers,
    RevokeAll,
}

impl Operation {
    const ALL: [Self; 12] = [
        Self::Load,
        Self::Count,
        Self::CountAndClear,
        Self::Repeat,
        Self::Touch,
        Self::List,
        Self::LogIn,
        Self::LogInAboveTheLimit,
        Self::Renew,
        Self::LogOut,
        Self::RevokeOthers,
        Self::RevokeAll,
    ];

    /// Does it. `None`: it failed, and said so. Otherwise whether the answer is right.
    async fn run(self, store: &RedisStore, principal: &Principal, before: &Commit) -> Option<bool> {
        let [id, ..] = principal.sessions;
        let is_applied = |reply: Reply| matches!(reply, Reply::Applied { .. });
        match self {
            Self::Load => store.load(&id).await.ok().map(|loaded| matches!(loaded, Loaded::Alive(_))),
            Self::Count => store.commit(&add(id, "n", 1)).await.ok().map(is_applied),
            Self::CountAndClear => {
                let mut count = add(id, "n", 1);
                count.clear = true;
                store.commit(&count).await.ok().map(is_applied)
            }
            // Applied before: n is 6 already, and is never 7.
            Self::Repeat => match store.commit(before).await.ok()? {
                Reply::Applied { counters, .. } => Some(counters["n"] == 6),
                _ => Some(false),
            },
            Self::Touch => store.touch(&touch(id)).await.ok().map(|()| true),
            Self::List => {
                let listed = store.sessions_of("session", &principal.name).await.ok()?;
                Some(listed.len() == 3)
            }
            Self::LogIn | Self::LogInAboveTheLimit => {
                let renewal = Renewal::LogIn { principal: principal.name.clone() };
                let mut log_in = commit(Action::Renew(id, id.successor(), renewal));
                if self == Self::LogInAboveTheLimit {
                    log_in.sessions = Some(SessionLimit { most: 1, above: AboveLimit::EvictOldest });
                }
                store.commit(&log_in).await.ok().map(is_applied)
            }
            Self::Renew => {
                store.commit(&commit(Action::Renew(id, id.successor(), Renewal::Keep))).await.ok().map(is_applied)
            }
            Self::LogOut => store.commit(&commit(Action::Destroy(id))).await.ok().map(is_applied),
            Self::RevokeOthers => {
                let revocation = principal.revocation(Revoke::Others(id.handle()));
                store.revoke(&revocation).await.ok().map(|revoked| revoked.ended == 2)
            }
            Self::RevokeAll => {
                let revocation = principal.revocation(Revoke::All);
                store.revoke(&revocation).await.ok().map(|revoked| revoked.ended == 3)
            }
        }
    }
}

/// Everything that Redis holds, less how long.
async fn content(admin: &mut Redis) -> BTreeMap<String, String> {
    const DUMP: &str = "local all = {} for _, key in ipairs(redis.call('KEYS', '*')) do \
        local kind = redis.call('TYPE', key).ok local value = kind \
        if kind == 'hash' then local fields, list = redis.call('HGETALL', key), {} \
            for i = 1, #fields, 2 do list[#list + 1] = fields[i] .. '=' .. fields[i + 1] end \
            table.sort(list) value = table.concat(list, ' ') \
        elseif kind == 'zset' then value = table.concat(redis.call('ZRANGE', key, 0, -1), ' ') \
        elseif kind == 'string' then value = redis.call('GET', key) end \
        all[#all + 1] = key .. '\\t' .. (string.gsub(value, '%c', '.')) .. '\\t' .. redis.call('PTTL', key) end \
        return table.concat(all, '\\n')";
    let answer = admin.command(&["EVAL", DUMP, "0"]).await;
    let mut content = BTreeMap::new();
    for line in answer.lines().skip(1).filter(|line| !line.is_empty()) {
        let mut fields = line.split('\t');
        let (key, value, ttl) = (fields.next(), fields.next(), fields.next());
        let (Some(key), Some(value), Some(ttl)) = (key, value, ttl) else { panic!("{line}") };
        assert!(!ttl.starts_with('-'), "{key} has no time to live");
        content.insert(key.to_owned(), value.to_owned());
    }
    content
}

/// One after the other, each right is taken away while stores are connected. What fails has changed nothing, what succeeds has done all
/// of it, nothing is left without a time to live, and no answer is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_without_its_rights_fails_and_changes_nothing() {
    let machine = Machine::with_redis(&[]).await;
    let mut admin = machine.admin().await;
    let mut stores = Vec::new();
    for _ in Operation::ALL {
        stores.push(connected(&machine.url()).await);
    }
    let mut failed = 0;
    for missing in granted() {
        admin.command(&["FLUSHALL"]).await;
        let mut principals = Vec::new();
        for (store, operation) in stores.iter().zip(Operation::ALL) {
            tokio::time::timeout(WHILE, store.available()).await.unwrap_or_else(|_| panic!("before {missing}"));
            let principal = Principal::new(store, format!("{operation:?}")).await;
            let before = add(principal.sessions[0], "n", 1);
            if operation == Operation::Repeat {
                applied(store, &before).await;
            }
            principals.push((principal, before));
        }
        acl(&mut admin, &format!("-{missing}")).await;
        let mut last = content(&mut admin).await;
        for ((store, operation), (principal, before)) in stores.iter().zip(Operation::ALL).zip(&principals) {
            let outcome = operation.run(store, principal, before).await;
            let now = content(&mut admin).await;
            match outcome {
                // Redis has done it, and nothing proves that the reply is its own: as if the reply were lost.
                None if missing == "echo" => {}
                None => {
                    let changed: Vec<_> = now.iter().filter(|(key, value)| last.get(*key) != Some(*value)).collect();
                    assert!(now == last, "{operation:?} failed without {missing}, and changed {changed:?}");
                    failed += 1;
                }
                Some(is_right) => assert!(is_right, "{operation:?} without {missing}: a wrong answer"),
            }
            if operation == Operation::Count && outcome.is_some() {
                assert_ne!(now, last, "{missing}");
            }
            last = now;
        }
        acl(&mut admin, &format!("+{missing}")).await;
    }
    println!("{failed} of {} operations failed", granted().count() * Operation::ALL.len());
    assert!(failed > 50, "{failed}");
}
