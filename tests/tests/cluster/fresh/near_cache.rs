use std::time::Duration;

use cluster_tests::redis::{Machine, Signal};
use cluster_tests::wait::{ensure, eventually};
use cluster_tests::watched::{FAILOVER, Watched};
use session_layer::store::NearCacheLimits;
use tokio::time::Instant;

use super::{Browser, Node};

const WHILE: Duration = Duration::from_secs(30);

async fn node(url: &str) -> Node {
    Node::start(url, |store| store.near_cache(NearCacheLimits::default()), |layer| layer.budget(FAILOVER)).await
}

fn hits(node: &Node) -> u64 {
    node.store.reads().near_cache
}

/// Waits until a browser's session is read from the node's memory.
async fn until_cached(node: &Node, browser: &Browser) {
    eventually("a read from the near cache", WHILE, async || {
        let before = hits(node);
        browser.ok(node, "/get/n").await;
        ensure(hits(node) > before, || format!("{:?}", node.store.reads()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_in_the_near_cache_is_read_without_a_command_until_it_changes() {
    let machine = Machine::with_redis(&[]).await;
    let (node, elsewhere) = (node(&machine.url()).await, node(&machine.url()).await);
    let (browser, other) = (Browser::default(), Browser::default());
    browser.ok(&node, "/set/n/1").await;
    *other.jar.lock().unwrap() = browser.jar.lock().unwrap().clone();
    until_cached(&node, &browser).await;
    until_cached(&elsewhere, &other).await;
    let (before, mut admin) = (hits(&node), machine.admin().await);
    admin.command(&["CONFIG", "RESETSTAT"]).await;
    for _ in 0..100 {
        assert_eq!(browser.ok(&node, "/get/n").await, "1");
    }
    assert_eq!(hits(&node), before + 100);
    assert_eq!(admin.calls().await.get("hgetall"), None);
    // Who wrote it sees it on every node, the other browser soon.
    browser.ok(&node, "/set/n/2").await;
    let written = Instant::now();
    for node in [&node, &elsewhere] {
        assert_eq!(browser.ok(node, "/get/n").await, "2");
    }
    eventually("what another browser wrote", Duration::from_secs(3), async || {
        let n = other.ok(&elsewhere, "/get/n").await;
        ensure(n == "2", || n)
    })
    .await;
    println!("another node's change was seen after {:?}", written.elapsed());
    assert_eq!(other.ok(&elsewhere, "/strict/n").await, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_on_another_node_reaches_the_near_cache_within_a_second() {
    let machine = Machine::with_redis(&[]).await;
    let (node, elsewhere) = (node(&machine.url()).await, node(&machine.url()).await);
    let rounds = if std::env::var_os("LONG_TESTS").is_some() { 200 } else { 40 };
    let mut browsers = Vec::new();
    for n in 0..rounds {
        let browser = Browser::default();
        browser.ok(&node, &format!("/log_in/user{n}")).await;
        browsers.push(browser);
    }
    for browser in &browsers {
        until_cached(&node, browser).await;
    }
    let mut took = Vec::new();
    for (n, browser) in browsers.iter().enumerate() {
        assert_eq!(browser.ok(&node, "/who").await, format!("user{n}"));
        let ended = elsewhere.layer.sessions().revoke_all(&format!("user{n}")).await.expect("it is done");
        let revoked = Instant::now();
        assert_eq!(ended, 1);
        while !browser.ok(&node, "/who").await.is_empty() {
            assert!(revoked.elapsed() < Duration::from_secs(3), "still logged in");
        }
        took.push(revoked.elapsed());
    }
    took.sort();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    println!("measured: {rounds} revocations on another node: gone after {median:?} in the median, {worst:?} at worst");
    assert!(median < Duration::from_millis(300), "{median:?}");
}

/// The IDs of the connections in a list of clients that track (flag t).
fn tracking(clients: &str) -> Vec<String> {
    let field = |line: &str, name: &str| Some(line.split(name).nth(1)?.split(' ').next()?.to_owned());
    let tracks = |line: &&str| field(line, " flags=").is_some_and(|flags| flags.contains('t'));
    clients.lines().filter(tracks).filter_map(|line| field(line, "id=")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_connection_that_tells_of_changes_is_lost_or_everything_is_deleted_nothing_old_stays() {
    let machine = Machine::with_redis(&[]).await;
    let (node, elsewhere) = (node(&machine.url()).await, node(&machine.url()).await);
    let (browser, other) = (Browser::default(), Browser::default());
    browser.ok(&node, "/set/n/0").await;
    *other.jar.lock().unwrap() = browser.jar.lock().unwrap().clone();
    let mut admin = machine.admin().await;
    for n in 1..20 {
        until_cached(&node, &other).await;
        // The other node, whose connection was killed as well, has one again when it pleases.
        let ids = eventually("a connection of each node that tells of changes", WHILE, async || {
            let clients = admin.command(&["CLIENT", "LIST"]).await;
            let ids = tracking(&clients);
            ensure(ids.len() == 2, || clients).map(|()| ids)
        })
        .await;
        for id in ids {
            admin.command(&["CLIENT", "KILL", "ID", &id]).await;
        }
        browser.ok(&elsewhere, &format!("/blind/n/{n}")).await;
        let written = Instant::now();
        while other.ok(&node, "/get/n").await != n.to_string() {
            assert!(written.elapsed() < Duration::from_secs(3), "still the old one");
        }
    }
    until_cached(&node, &other).await;
    admin.command(&["FLUSHALL"]).await;
    let deleted = Instant::now();
    while !other.ok(&node, "/get/n").await.is_empty() {
        assert!(deleted.elapsed() < Duration::from_secs(3), "still there");
    }
    println!("everything was deleted: gone from the near cache after {:?}", deleted.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_near_cache_survives_a_failover_and_shows_nothing_of_before() {
    let cluster = Watched::start().await;
    let (node, elsewhere) = (node(&cluster.url()).await, node(&cluster.url()).await);
    let (browser, other) = (Browser::default(), Browser::default());
    browser.ok(&node, "/set/n/1").await;
    *other.jar.lock().unwrap() = browser.jar.lock().unwrap().clone();
    until_cached(&elsewhere, &other).await;
    cluster.until_replicated(0).await;
    cluster.signal(0, Signal::Kill).await;
    cluster.until_promoted().await;
    browser.ok(&node, "/set/n/2").await;
    let written = Instant::now();
    while other.ok(&elsewhere, "/get/n").await != "2" {
        assert!(written.elapsed() < Duration::from_secs(3), "still the old one");
    }
    until_cached(&elsewhere, &other).await;
    assert_eq!(other.ok(&elsewhere, "/get/n").await, "2");
}
