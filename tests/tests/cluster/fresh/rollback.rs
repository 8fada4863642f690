use cluster_tests::redis::Signal;
use cluster_tests::watched::{FAILOVER, Watched};
use session_layer::SessionEvent;

use super::{Browser, Node};

/// A master that acknowledges what none of its replicas gets, and dies.
async fn lose(cluster: &Watched, write: impl AsyncFnOnce()) {
    for replica in [1, 2] {
        cluster.signal(replica, Signal::Stop).await;
    }
    // Without this the master would refuse to write, and what it has sent already would still arrive.
    for command in [&["CONFIG", "SET", "min-replicas-to-write", "0"][..], &["CLIENT", "KILL", "TYPE", "replica"]] {
        cluster.ask(0, command).await.expect("it answers");
    }
    write().await;
    cluster.signal(0, Signal::Kill).await;
    for replica in [1, 2] {
        cluster.signal(replica, Signal::Continue).await;
    }
    cluster.until_promoted().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_write_that_a_failover_lost_is_reported_at_the_sessions_next_request() {
    let cluster = Watched::start().await;
    let url = cluster.url();
    let start = || Node::start(&url, |store| store, move |layer| layer.rollback_detection(true).budget(FAILOVER));
    let (node, other) = (start().await, start().await);
    let [reads, writes, keeps] = [Browser::default(), Browser::default(), Browser::default()];
    for browser in [&reads, &writes, &keeps] {
        browser.ok(&node, "/set/n/1").await;
    }
    cluster.until_replicated(0).await;

    lose(&cluster, async || {
        reads.ok(&node, "/set/n/2").await;
        writes.ok(&node, "/blind/n/2").await;
    })
    .await;

    // The node that wrote, and one that did not; a request that reads, and one that only writes.
    assert_eq!(reads.ok(&other, "/get/n").await, "1");
    assert!(matches!(other.events().as_slice(), [SessionEvent::RolledBack { .. }]));
    writes.ok(&node, "/blind/m/1").await;
    assert!(matches!(node.events().as_slice(), [SessionEvent::RolledBack { .. }]));
    // Once, and nobody who lost nothing.
    for node in [&node, &other] {
        assert_eq!(reads.ok(node, "/get/n").await, "1");
        assert_eq!(writes.ok(node, "/get/n").await, "1");
        assert_eq!(keeps.ok(node, "/get/n").await, "1");
        keeps.ok(node, "/set/n/1").await;
        assert_eq!(node.events(), []);
    }
}
