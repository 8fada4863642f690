//! A name that leads to several servers, as a Kubernetes Service over master and replicas does: what a node keeps and shows comes from
//! one of them, the master.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use cluster_tests::redis::{Machine, Signal};
use cluster_tests::service::Service;
use cluster_tests::wait::{ensure, eventually};
use session_layer::store::NearCacheLimits;
use tokio::time::Instant;

use super::{Browser, Node};

const WHILE: Duration = Duration::from_secs(30);

/// Servers in one container; the first is the master of the others until a test changes that.
struct Servers(Machine);

impl Servers {
    async fn start() -> Self {
        let machine = Machine::start::<2>().await;
        machine.start_redis(machine.port(0), &[]).await;
        machine.start_redis(machine.port(1), &[&format!("--replicaof 127.0.0.1 {}", machine.port(0))]).await;
        let this = Self(machine);
        this.until(1, "master_link_status:up").await;
        this
    }

    /// Two masters that have nothing to do with each other.
    async fn unrelated() -> Self {
        let machine = Machine::start::<2>().await;
        machine.start_redis(machine.port(0), &[]).await;
        machine.start_redis(machine.port(1), &[]).await;
        Self(machine)
    }

    fn address(&self, server: usize) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.0.port(server)).into()
    }

    async fn ask(&self, server: usize, words: &[&str]) -> String {
        self.0.redis(self.0.port(server)).await.expect("it runs").command(words).await
    }

    async fn until(&self, server: usize, says: &str) {
        eventually(says, WHILE, async || {
            let info = self.ask(server, &["INFO", "replication"]).await;
            ensure(info.contains(says), || info)
        })
        .await;
    }

    /// Waits until the replica has all that the master has written so far.
    async fn until_replicated(&self) {
        assert_eq!(self.ask(0, &["WAIT", "1", "10000"]).await, ":1\r\n");
        eventually("a replica that has everything", WHILE, async || {
            let offset = async |server| {
                let info = self.ask(server, &["INFO", "replication"]).await;
                let line = info.lines().find(|line| line.starts_with("master_repl_offset:")).map(str::to_owned);
                line.expect("every server has one")
            };
            let (master, replica) = (offset(0).await, offset(1).await);
            ensure(master == replica, || format!("{master} {replica}"))
        })
        .await;
    }

    /// The replica follows nobody that is there, keeps what it has, and answers reads.
    async fn cut_off(&self) {
        assert_eq!(self.ask(1, &["REPLICAOF", "127.0.0.1", "1"]).await, "+OK\r\n");
        self.until(1, "master_link_status:down").await;
    }

    async fn promote(&self) {
        assert_eq!(self.ask(1, &["REPLICAOF", "NO", "ONE"]).await, "+OK\r\n");
    }

    /// Whether the sessions are read over a tracking connection to a server.
    async fn tracks(&self, server: usize) -> bool {
        let clients = self.ask(server, &["CLIENT", "LIST"]).await;
        let flags =
            |line: &str| line.split(" flags=").nth(1).and_then(|rest| rest.split(' ').next()).map(str::to_owned);
        clients.lines().filter_map(flags).any(|flags| flags.contains('t'))
    }
}

async fn node(url: &str) -> Node {
    Node::start(url, |store| store.near_cache(NearCacheLimits::default()), |layer| layer).await
}

/// Two tabs of one browser, which share no cookie from here on: one logs out, the other one goes on reading.
fn copy(browser: &Browser) -> Browser {
    let copy = Browser::default();
    *copy.jar.lock().unwrap() = browser.jar.lock().unwrap().clone();
    copy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logout_is_seen_although_the_name_leads_to_a_stale_replica() {
    let servers = Servers::start().await;
    // The connections of a node: the first one leads to the master, those that follow lead to the replica, too.
    let service = Service::start(&[servers.address(0), servers.address(1)]).await;
    let node = node(&service.url()).await;
    let elsewhere = Node::start(&servers.0.url(), |store| store, |layer| layer).await;
    let browser = Browser::default();
    browser.ok(&node, "/log_in/alice").await;
    let other = copy(&browser);
    servers.until_replicated().await;
    servers.cut_off().await;
    // A second: from then on a copy may be shown.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(other.ok(&node, "/who").await, "alice");
    browser.ok(&elsewhere, "/log_out").await;
    let ended = Instant::now();
    let (mut shown, mut strict) = (Duration::ZERO, Duration::ZERO);
    while ended.elapsed() < Duration::from_secs(6) {
        if other.ok(&node, "/who").await == "alice" {
            shown = ended.elapsed();
        }
        if other.ok(&node, "/strict_who").await == "alice" {
            strict = ended.elapsed();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("logged out: shown for {shown:?}, under `Strict` for {strict:?}");
    assert!(!servers.tracks(1).await, "the near cache is filled from the replica");
    assert!(strict == Duration::ZERO, "{strict:?}");
    assert!(shown < Duration::from_secs(2), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_follows_a_name_that_moves_to_the_promoted_server() {
    let servers = Servers::start().await;
    let service = Service::start(&[servers.address(0)]).await;
    let (node, elsewhere) = (node(&service.url()).await, node(&service.url()).await);
    let browser = Browser::default();
    browser.ok(&node, "/log_in/alice").await;
    let other = copy(&browser);
    servers.until_replicated().await;
    // A failover without sentinels: the replica is promoted, the name moves, and the old master has not noticed.
    servers.promote().await;
    service.lead_to(&[servers.address(1)]);
    // Within some seconds every node is with the new one.
    eventually("both nodes with the promoted server", WHILE, async || {
        let clients = servers.ask(0, &["CLIENT", "LIST"]).await;
        ensure(!clients.contains(" resp=3"), || clients)
    })
    .await;
    browser.ok(&node, "/set/n/1").await;
    for node in [&node, &elsewhere] {
        assert_eq!(browser.ok(node, "/get/n").await, "1", "its own acknowledged write");
        assert_eq!(other.ok(node, "/strict_who").await, "alice");
    }
    browser.ok(&node, "/log_out").await;
    let ended = Instant::now();
    for node in [&node, &elsewhere] {
        assert_eq!(other.ok(node, "/strict_who").await, "");
        while other.ok(node, "/who").await == "alice" {
            assert!(ended.elapsed() < Duration::from_secs(3), "still logged in");
        }
    }
    assert_eq!((node.events(), elsewhere.events()), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn durable_logins_succeed_behind_a_name_of_master_and_replica() {
    let servers = Servers::start().await;
    let service = Service::start(&[servers.address(0), servers.address(1)]).await;
    let node = Node::start(&service.url(), |store| store.durable_replicas(1), |layer| layer).await;
    let (mut succeeded, opened) = (0, service.opened());
    for n in 0..20 {
        let browser = Browser::default();
        succeeded += usize::from(browser.ask(&node, &format!("/log_in/user{n}")).await.status == 200);
    }
    println!("{succeeded} of 20 logins, {} connections", service.opened() - opened);
    assert_eq!(succeeded, 20);
}

/// The old master never learns of the failover, and the Service leads to both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_never_returns_from_the_promoted_server_to_the_old_one() {
    let servers = Servers::start().await;
    let service = Service::start(&[servers.address(0)]).await;
    let (node, elsewhere) = (node(&service.url()).await, node(&service.url()).await);
    let browser = Browser::default();
    browser.ok(&node, "/log_in/alice").await;
    let other = copy(&browser);
    servers.until_replicated().await;
    servers.promote().await;
    service.lead_to(&[servers.address(1), servers.address(0)]);
    eventually("both nodes with the promoted server", WHILE, async || {
        let clients = servers.ask(0, &["CLIENT", "LIST"]).await;
        ensure(!clients.contains(" resp=3"), || clients)
    })
    .await;
    browser.ok(&node, "/log_out").await;
    // They lose their connections again and again, and find the old master as often as the new one.
    for _ in 0..10 {
        servers.ask(1, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        for node in [&node, &elsewhere] {
            assert_eq!(other.ok(node, "/strict_who").await, "");
        }
    }
    let clients = servers.ask(0, &["CLIENT", "LIST"]).await;
    assert!(!clients.contains(" cmd=hgetall") && !clients.contains(" cmd=evalsha"), "{clients}");
}

/// Each holds sessions that the other one does not have; whichever is read, some logout may be missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_unrelated_masters_behind_one_name_none_is_read() {
    let servers = Servers::unrelated().await;
    let service = Service::start(&[servers.address(0)]).await;
    let node = Node::start(&service.url(), |store| store, |layer| layer.budget(Duration::from_millis(200))).await;
    let browser = Browser::default();
    browser.ok(&node, "/log_in/alice").await;
    service.lead_to(&[servers.address(0), servers.address(1)]);
    eventually("a node that uses none", WHILE, async || {
        let answer = browser.ask(&node, "/strict_who").await;
        ensure(answer.status == 503, || format!("{answer:?}"))
    })
    .await;
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(5) {
        assert_eq!(browser.ask(&node, "/strict_who").await.status, 503);
    }
    // One remains.
    service.lead_to(&[servers.address(0)]);
    eventually("the master that remains", WHILE, async || {
        let answer = browser.ask(&node, "/strict_who").await;
        ensure(answer.body == "alice", || format!("{answer:?}"))
    })
    .await;
    println!("used again after {:?}", since.elapsed() - Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_shows_nothing_of_before_a_restart_under_the_same_address() {
    let machine = Machine::with_redis(&[]).await;
    let node = Node::start(
        &machine.url(),
        |store| store.near_cache(NearCacheLimits::default()).durable_replicas(1),
        |layer| layer.budget(Duration::from_secs(1)),
    )
    .await;
    let browser = Browser::default();
    browser.ok(&node, "/set/n/1").await;
    eventually("a read from the near cache", WHILE, async || {
        let before = node.store.reads().near_cache;
        browser.ok(&node, "/get/n").await;
        ensure(node.store.reads().near_cache > before, || format!("{:?}", node.store.reads()))
    })
    .await;
    machine.signal(machine.port(0), Signal::Kill).await;
    // It has lost everything.
    machine.start_redis(machine.port(0), &[]).await;
    eventually("the restarted server", WHILE, async || {
        let answer = browser.ask(&node, "/get/n").await;
        ensure(answer.status == 200 && answer.body.is_empty(), || format!("{answer:?}"))
    })
    .await;
    // The connection for logins leads to it as well: applied, and no replica is there to confirm it.
    eventually("a login that was applied", WHILE, async || {
        let answer = browser.ask(&node, "/log_in/alice").await;
        ensure(answer.status == 503 && !answer.cookies.is_empty(), || format!("{answer:?}"))
    })
    .await;
}
