//! Logins, logouts and revocations, which count only when a replica has them.
//!
//! The master has `min-replicas-to-write 0` here, so that it accepts what no replica confirms.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use cluster_tests::redis::{Machine, Redis, Signal};
use cluster_tests::wait::{ensure, eventually};
use session_layer::store::{Action, Commit, CommitId, RedisStore, Reply, Revocation, Revoke, SessionStore, Start};
use session_layer::{SessionError, SessionId};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Answer, Browser, Node, Place, measured, times};

const BUDGET: Duration = Duration::from_secs(2);
/// Where all is confirmed sooner or later.
const PATIENT: Duration = Duration::from_secs(20);
const WHILE: Duration = Duration::from_secs(20);

/// A master and its replica.
struct Servers {
    machine: Machine,
    place: Place,
}

impl Servers {
    async fn start() -> Self {
        let machine = Machine::start::<2>().await;
        machine.start_redis(machine.port(0), &["--repl-ping-replica-period 1"]).await;
        let place = Place::on(machine.port(0)).durable();
        let this = Self { machine, place };
        this.start_replica().await;
        this
    }

    async fn start_replica(&self) {
        let replicaof = format!("--replicaof 127.0.0.1 {}", self.machine.port(0));
        self.machine.start_redis(self.machine.port(1), &[&replicaof]).await;
        eventually("a replica that is in step", WHILE, async || {
            let info = self.machine.admin().await.command(&["INFO", "replication"]).await;
            ensure(info.contains("state=online") && self.confirms().await, || info)
        })
        .await;
    }

    /// Whether the replica acknowledges a write.
    async fn confirms(&self) -> bool {
        let mut admin = self.machine.admin().await;
        admin.command(&["SET", "probe", "1", "PX", "1000"]).await;
        admin.command(&["WAIT", "1", "500"]).await == ":1\r\n"
    }

    async fn replica(&self, signal: Signal) {
        self.machine.signal(self.machine.port(1), signal).await;
    }

    async fn node(&self, budget: Duration) -> Node {
        Node::with(&self.place, |layer| layer.budget(budget)).await
    }

    async fn calls(&self, command: &str) -> u64 {
        self.machine.admin().await.calls().await.get(command).copied().unwrap_or(0)
    }
}

/// 503 that says: applied, and not confirmed.
#[track_caller]
fn is_not_durable(answer: Answer) -> Answer {
    assert!(answer.error.as_ref().is_some_and(SessionError::is_not_durable), "{answer:?}");
    answer.expect(503)
}

/// The connections of nodes, and whether each is in the middle of a `WAIT`.
async fn connections(redis: &mut Redis) -> Vec<(String, bool)> {
    let list = redis.command(&["CLIENT", "LIST", "TYPE", "normal"]).await;
    let field = |line: &str, name: &str| Some(line.split(name).nth(1)?.split(' ').next()?.to_owned());
    let nodes = list.lines().filter(|line| line.contains(" resp=3"));
    nodes.filter_map(|line| Some((field(line, "id=")?, field(line, " cmd=")? == "wait"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_logout_or_revocation_that_was_answered_is_on_a_replica() {
    let servers = Servers::start().await;
    let nodes = [servers.node(PATIENT).await, servers.node(PATIENT).await];
    let replica = servers.place.through(servers.machine.port(1));
    for i in 0..times(20, 500) {
        let browser = Browser::default();
        browser.insert(&nodes[0], "cart", "tea").await.expect(200);
        browser.log_in(&nodes[i % 2], "alice").await.expect(200).with_cookie();
        assert_eq!(replica.audit().await.get("alice"), Some(&1), "no waiting here: it was answered");
        match i % 3 {
            0 => drop(browser.log_out(&nodes[0]).await.expect(200).with_removal()),
            1 => assert_eq!(nodes[1].sessions.revoke_all("alice").await.expect("it is confirmed"), 1),
            _ => {
                let handle = nodes[0].sessions.of("alice").await.expect("an answer")[0].handle();
                assert!(nodes[0].sessions.revoke("alice", &handle).await.expect("it is confirmed"));
            }
        }
        assert_eq!(replica.audit().await.get("alice"), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_replica_confirms_is_answered_503_in_time_with_the_cookie_of_what_was_applied() {
    let servers = Servers::start().await;
    let nodes = [servers.node(BUDGET).await, servers.node(BUDGET).await];
    for failure in [Signal::Stop, Signal::Kill] {
        let [one, two, three] = [(); 3].map(|()| Browser::default());
        one.insert(&nodes[0], "cart", "tea").await.expect(200);
        for (browser, principal) in [(&two, "bob"), (&three, "carol")] {
            browser.log_in(&nodes[0], principal).await.expect(200);
        }
        let old = one.copy();
        servers.replica(failure).await;

        let started = Instant::now();
        let (login, logout, revoked) = tokio::join!(
            one.log_in(&nodes[0], "alice"),
            two.log_out(&nodes[1]),
            nodes[1].sessions.revoke_all("carol"),
        );
        let took = started.elapsed();
        is_not_durable(login).with_cookie();
        is_not_durable(logout).with_removal();
        assert!(revoked.expect_err("nobody confirms").is_not_durable());
        // It ends a little before the budget does; a busy machine gets its time.
        assert!(took < 3 * BUDGET, "{took:?}");
        measured(format!("replica gone ({failure:?}): answered 503 after {took:?}, of a budget of {BUDGET:?}"));

        // It is what was applied, for everybody, and other requests need no replica.
        for node in &nodes {
            assert_eq!(one.principal(node).await.as_deref(), Some("alice"));
            assert_eq!(one.read(node, "cart").await, "\"tea\"");
            assert_eq!(old.principal(node).await, None);
            assert_eq!(three.principal(node).await, None);
        }
        one.insert(&nodes[1], "cart", "milk").await.expect(200);
        assert_eq!(servers.place.audit().await, [("alice".to_owned(), 1)].into());

        match failure {
            Signal::Stop => servers.replica(Signal::Continue).await,
            _ => servers.start_replica().await,
        }
        eventually("logouts that count again", WHILE, async || {
            Browser::default().log_in(&nodes[0], "dave").await;
            nodes[0].sessions.revoke_all("dave").await.map_err(|error| error.to_string())
        })
        .await;
        one.log_out(&nodes[1]).await.expect(200).with_removal();
        assert_eq!(servers.place.audit().await, [].into());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_that_come_together_share_their_waiting() {
    const LOGINS: usize = 200;
    let servers = Servers::start().await;
    let nodes = [servers.node(PATIENT).await, servers.node(PATIENT).await];
    servers.machine.admin().await.command(&["CONFIG", "RESETSTAT"]).await;
    let mut logins = JoinSet::new();
    for i in 0..LOGINS {
        let (browser, node) = (Browser::default(), nodes[i % 2].clone());
        logins.spawn(async move { browser.log_in(&node, "alice").await });
    }
    logins.join_all().await.into_iter().for_each(|answer| drop(answer.expect(200).with_cookie()));
    let waits = servers.calls("wait").await;
    assert!((1..=LOGINS as u64 / 4).contains(&waits), "{waits} WAITs for {LOGINS} logins");
    assert_eq!(servers.place.audit().await, [("alice".to_owned(), LOGINS)].into());
    measured(format!("{LOGINS} logins at once on two nodes: {waits} WAITs"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_that_wait_slow_nobody_else_and_starve_no_watchdog() {
    let servers = Servers::start().await;
    // Long enough for 50 writes, on a busy machine too.
    let budget = BUDGET * 3;
    let node = servers.node(budget).await;
    let visitor = Browser::default();
    visitor.insert(&node, "cart", "tea").await.expect(200);
    servers.replica(Signal::Stop).await;
    let mut admin = servers.machine.admin().await;
    let before: BTreeSet<String> = connections(&mut admin).await.into_iter().map(|(id, _)| id).collect();

    let login = |principal: &'static str| {
        let (browser, node) = (Browser::default(), node.clone());
        tokio::spawn(async move { browser.log_in(&node, principal).await })
    };
    let logins: Vec<_> = (0..20).map(|_| login("alice")).collect();
    let mut slowest = Duration::ZERO;
    for i in 0..50 {
        let started = Instant::now();
        visitor.insert(&node, "cart", if i % 2 == 0 { "tea" } else { "milk" }).await.expect(200);
        slowest = slowest.max(started.elapsed());
    }
    assert!(
        logins.iter().all(|login| !login.is_finished()),
        "50 writes, each after the other, before any login is answered"
    );
    assert!(slowest < budget / 4, "{slowest:?}");
    for login in logins {
        is_not_durable(login.await.expect("no panic")).with_cookie();
    }
    // Many heartbeats long: a watchdog that had waited behind a `WAIT` would have left this server.
    let after: BTreeSet<String> = connections(&mut admin).await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(after, before, "still the same connections");
    assert_eq!(servers.place.audit().await, [("alice".to_owned(), 20)].into());
    measured(format!("20 logins waiting for a frozen replica: the slowest of 50 other writes took {slowest:?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_whose_connection_is_killed_while_they_wait_are_confirmed_over_the_next_one() {
    let servers = Servers::start().await;
    let node = servers.node(PATIENT).await;
    let mut admin = servers.machine.admin().await;
    for round in 1..=times(3, 30) {
        servers.replica(Signal::Stop).await;
        let logins: Vec<_> = (0..5)
            .map(|_| {
                let (browser, node) = (Browser::default(), node.clone());
                tokio::spawn(async move {
                    let answer = browser.log_in(&node, "alice").await;
                    (browser, answer)
                })
            })
            .collect();
        let waiting = eventually("a connection that waits, and all logins applied", WHILE, async || {
            let waiting = connections(&mut admin).await.into_iter().find(|(_, waits)| *waits).map(|(id, _)| id);
            let applied = servers.place.audit().await.get("alice").copied().unwrap_or(0);
            waiting.filter(|_| applied == 5).ok_or_else(|| format!("{applied} applied"))
        });
        let waiting = waiting.await;
        assert_eq!(admin.command(&["CLIENT", "KILL", "ID", &waiting]).await, ":1\r\n");
        servers.replica(Signal::Continue).await;
        for login in logins {
            let (browser, answer) = login.await.expect("no panic");
            answer.expect(200).with_cookie();
            assert_eq!(browser.principal(&node).await.as_deref(), Some("alice"));
        }
        let ids: Vec<_> = connections(&mut admin).await.into_iter().map(|(id, _)| id).collect();
        assert!(!ids.contains(&waiting), "round {round}: another connection");
        assert_eq!(servers.place.audit().await, [("alice".to_owned(), 5)].into(), "each once");
        assert_eq!(node.sessions.revoke_all("alice").await.expect("it is confirmed"), 5);
    }
}

/// What must be on a replica, one commit or revocation.
enum Step {
    Commit(Box<Commit>),
    Revoke(Revocation),
}

impl Step {
    fn durable(action: Action) -> Self {
        Self::Commit(Box::new(Commit { durable: true, ..Commit::new(action, Instant::now()) }))
    }

    /// One attempt over a connection of its own; whether a replica has it.
    async fn confirmed(&mut self, servers: &Servers) -> bool {
        let url = format!("redis://127.0.0.1:{}", servers.machine.port(0));
        let store =
            RedisStore::builder(&url).key_prefix("repeated").durable_replicas(1).build().expect("the URL is good");
        store.available().await;
        let until = Instant::now() + BUDGET;
        match self {
            Self::Commit(commit) => {
                commit.deadline = until;
                match store.commit(commit).await.expect("it is answered") {
                    Reply::Applied { confirmed, .. } => confirmed,
                    reply => panic!("{:?}: {reply:?}", commit.action),
                }
            }
            Self::Revoke(revocation) => {
                revocation.deadline = until;
                let revoked = store.revoke(revocation).await.expect("it is answered");
                assert_eq!(revoked.ended, 1);
                revoked.confirmed
            }
        }
    }
}

/// On a connection that has written nothing, a `WAIT` might have nothing to wait for, and confirm what no replica has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_repeated_over_another_connection_is_not_confirmed_before_a_replica_has_it() {
    let servers = Servers::start().await;
    let begin = |principal: &str| {
        let principal = Some(principal.to_owned());
        let created_on = SystemTime::now();
        let id = SessionId::random();
        (id, Step::durable(Action::Create(id, Start { created_on, principal })))
    };
    let (bob, mut login_of_bob) = begin("bob");
    let (_, mut login_of_carol) = begin("carol");
    for login in [&mut login_of_bob, &mut login_of_carol] {
        assert!(login.confirmed(&servers).await, "the replica runs");
    }
    let revocation = Revocation {
        id: CommitId([7; 16]),
        realm: "session".into(),
        principal: "carol".to_owned(),
        which: Revoke::All,
        deadline: Instant::now(),
        remember: Duration::from_secs(20),
    };
    let steps = [begin("alice").1, Step::durable(Action::Destroy(bob)), Step::Revoke(revocation)];
    servers.replica(Signal::Stop).await;
    for (mut step, what) in steps.into_iter().zip(["login", "logout", "revocation"]) {
        for attempt in ["once", "once more", "a third time"] {
            assert!(!step.confirmed(&servers).await, "{what} {attempt}, and the replica is frozen");
        }
        servers.replica(Signal::Continue).await;
        eventually(what, WHILE, async || ensure(step.confirmed(&servers).await, || "not confirmed".to_owned())).await;
        servers.replica(Signal::Stop).await;
    }
    servers.replica(Signal::Continue).await;
}
