use std::time::Duration;

use cluster_tests::redis::{MASTER_NAME, Signal};
use cluster_tests::wait::{ensure, eventually};
use cluster_tests::watched::{FAILOVER, Watched};
use tokio::time::Instant;

use super::{Browser, Node};

const WHILE: Duration = Duration::from_secs(30);

async fn node(url: &str) -> Node {
    Node::start(url, |store| store.replica_reads(true), |layer| layer.budget(FAILOVER)).await
}

/// How many reads a server has answered.
fn reads(node: &Node, cluster: &Watched, server: usize) -> u64 {
    let address = format!("127.0.0.1:{}", cluster.machine.port(server));
    node.store.reads().servers.get(&address).copied().unwrap_or(0)
}

/// Waits until a browser's reads go to replicas.
async fn until_replicas_read(node: &Node, cluster: &Watched, master: usize, browser: &Browser) {
    eventually("a read from a replica", WHILE, async || {
        let before = reads(node, cluster, master);
        browser.ok(node, "/get/n").await;
        ensure(reads(node, cluster, master) == before, || format!("{:?}", node.store.reads()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_are_shared_by_the_replicas_and_a_failover_moves_them() {
    let cluster = Watched::start().await;
    let node = node(&cluster.url()).await;
    let browser = Browser::default();
    browser.ok(&node, "/set/n/1").await;
    until_replicas_read(&node, &cluster, 0, &browser).await;
    eventually("both replicas in use", WHILE, async || {
        browser.ok(&node, "/get/n").await;
        ensure(reads(&node, &cluster, 1) > 0 && reads(&node, &cluster, 2) > 0, || format!("{:?}", node.store.reads()))
    })
    .await;
    // A replica that is late once is left alone until it has been looked at again, so a machine that stood still gets another hundred.
    eventually("100 reads, by the two replicas in turn and not by the master", WHILE, async || {
        let shares = || [0, 1, 2].map(|server| reads(&node, &cluster, server));
        let mut last = 0;
        for n in 1..=100 {
            let before = shares();
            assert_eq!(browser.ok(&node, "/get/n").await, "1");
            let after = shares();
            let by = (1..=2).find(|server| after[*server] == before[*server] + 1 && after[0] == before[0]);
            last = by.filter(|by| *by != last).ok_or_else(|| format!("read {n}: {before:?}, then {after:?}"))?;
        }
        Ok(())
    })
    .await;
    // Who is strict, and who has no token, ask the master.
    let master = reads(&node, &cluster, 0);
    browser.ok(&node, "/strict/n").await;
    let without = Browser::default();
    *without.jar.lock().unwrap() = browser.jar.lock().unwrap().clone();
    without.jar.lock().unwrap().remove("__Host-session-v");
    without.ok(&node, "/get/n").await;
    assert_eq!(reads(&node, &cluster, 0), master + 2);
    // After a change too, for a while; the change itself began with a read from a replica.
    browser.ok(&node, "/set/n/2").await;
    assert_eq!(browser.ok(&node, "/get/n").await, "2");
    assert_eq!(reads(&node, &cluster, 0), master + 3);

    cluster.until_replicated(0).await;
    cluster.signal(0, Signal::Kill).await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(6) {
        assert_eq!(browser.ok(&node, "/get/n").await, "2");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let master = cluster.until_promoted().await;
    browser.ok(&node, "/set/n/3").await;
    until_replicas_read(&node, &cluster, master, &browser).await;
    assert_eq!(browser.ok(&node, "/get/n").await, "3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_frozen_or_cut_off_is_left_at_once_and_shows_nothing_old() {
    let cluster = Watched::start().await;
    let (elsewhere, node) = (node(&cluster.url()).await, node(&cluster.url()).await);
    let (browser, other) = (Browser::default(), Browser::default());
    browser.ok(&node, "/set/n/1").await;
    until_replicas_read(&node, &cluster, 0, &browser).await;

    // Frozen: it answers nobody.
    cluster.signal(1, Signal::Stop).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..200 {
        let asked = Instant::now();
        assert_eq!(browser.ok(&node, "/get/n").await, "1");
        slowest = slowest.max(asked.elapsed());
    }
    println!("a replica froze: the slowest of 200 reads took {slowest:?}");
    // A tenth of a second, and a busy machine's share; whoever waited for it to answer would wait far longer.
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    cluster.signal(1, Signal::Continue).await;

    // Cut off: both replicas answer, and get nothing new. What is written meanwhile is seen within a second by everybody.
    *other.jar.lock().unwrap() = browser.jar.lock().unwrap().clone();
    eventually("both replicas in use", WHILE, async || {
        let before = [reads(&elsewhere, &cluster, 1), reads(&elsewhere, &cluster, 2)];
        other.ok(&elsewhere, "/get/n").await;
        other.ok(&elsewhere, "/get/n").await;
        let after = [reads(&elsewhere, &cluster, 1), reads(&elsewhere, &cluster, 2)];
        ensure(after[0] > before[0] && after[1] > before[1], || format!("{:?}", elsewhere.store.reads()))
    })
    .await;
    for replica in [1, 2] {
        // From nowhere.
        cluster.ask(replica, &["REPLICAOF", "127.0.0.1", "1"]).await.expect("it answers");
    }
    let cut = Instant::now();
    cluster.ask(0, &["CONFIG", "SET", "min-replicas-to-write", "0"]).await.expect("it answers");
    browser.ok(&node, "/set/n/2").await;
    for node in [&node, &elsewhere] {
        assert_eq!(browser.ok(node, "/get/n").await, "2", "who wrote it sees it");
    }
    eventually("what another browser wrote", Duration::from_secs(10), async || {
        let n = other.ok(&elsewhere, "/get/n").await;
        ensure(n == "2", || n)
    })
    .await;
    println!("replicas were cut off: everybody saw what was written after {:?}", cut.elapsed());
    assert!(cut.elapsed() < Duration::from_secs(3), "{:?}", cut.elapsed());
    let master = reads(&elsewhere, &cluster, 0);
    for _ in 0..20 {
        assert_eq!(other.ok(&elsewhere, "/get/n").await, "2");
    }
    assert_eq!(reads(&elsewhere, &cluster, 0), master + 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_of_one_server_are_given_and_a_wrong_one_is_never_read_from() {
    let cluster = Watched::start().await;
    let address = |server| format!("127.0.0.1:{}", cluster.machine.port(server));
    let url = format!("redis://{}", address(0));
    // The last one is a server, and no replica of this one.
    cluster.ask(2, &["REPLICAOF", "NO", "ONE"]).await.expect("it answers");
    // The sentinels would make it one after some seconds.
    for sentinel in Watched::SENTINELS {
        cluster.ask(sentinel, &["SENTINEL", "REMOVE", MASTER_NAME]).await.expect("it answers");
    }
    let given = [address(1), address(2), "127.0.0.1:1".to_owned()];
    let node = Node::start(&url, |store| store.replica_reads(true).replicas(given), |layer| layer).await;
    let browser = Browser::default();
    browser.ok(&node, "/set/n/1").await;
    until_replicas_read(&node, &cluster, 0, &browser).await;
    for _ in 0..20 {
        assert_eq!(browser.ok(&node, "/get/n").await, "1");
    }
    assert!(reads(&node, &cluster, 1) > 0);
    assert_eq!(reads(&node, &cluster, 2), 0);
}
