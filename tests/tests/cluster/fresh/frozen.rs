use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use cluster_tests::redis::Machine;
use cluster_tests::valve::Valve;
use cluster_tests::wait::{ensure, eventually};
use tokio::time::{Instant, sleep};

use super::{Browser, Node};

const WHILE: Duration = Duration::from_secs(30);
/// The longest that a replica is read from after it was last proven to have everything.
const STALE: Duration = Duration::from_secs(1);

/// A master, and a replica that hears it through a valve.
struct Pair {
    machine: Machine,
    valve: Valve,
}

impl Pair {
    async fn start() -> Self {
        let machine = Machine::start::<2>().await;
        machine.start_redis(machine.port(0), &["--repl-ping-replica-period 1"]).await;
        let master = SocketAddr::from((Ipv4Addr::LOCALHOST, machine.port(0)));
        let valve = Valve::start(machine.gateway().await, master).await;
        let follows = format!("--replicaof {} {}", valve.address().ip(), valve.address().port());
        machine.start_redis(machine.port(1), &[&follows]).await;
        let pair = Self { machine, valve };
        eventually("a replica", WHILE, async || {
            let info = pair.replication(1).await;
            ensure(info.contains("master_link_status:up"), || info)
        })
        .await;
        pair
    }

    async fn replication(&self, server: usize) -> String {
        let mut redis = self.machine.redis(self.machine.port(server)).await.expect("it listens");
        redis.command(&["INFO", "replication"]).await
    }

    async fn node(&self) -> Node {
        let [master, replica] = [0, 1].map(|server| format!("127.0.0.1:{}", self.machine.port(server)));
        Node::start(&format!("redis://{master}"), |store| store.replica_reads(true).replicas([replica]), |layer| layer)
            .await
    }

    fn reads(&self, node: &Node) -> u64 {
        node.store.reads().servers.get(&format!("127.0.0.1:{}", self.machine.port(1))).copied().unwrap_or(0)
    }

    async fn until_replica_reads(&self, node: &Node, browser: &Browser) {
        eventually("a read from the replica", WHILE, async || {
            let before = self.reads(node);
            browser.ok(node, "/get/n").await;
            ensure(self.reads(node) > before, || format!("{:?}", node.store.reads()))
        })
        .await;
    }
}

/// Its link is up, its master sees it online, and it answers: only what it has does not change any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_replication_stands_still_while_its_link_is_up_shows_nothing_older_than_a_second() {
    let pair = Pair::start().await;
    let (node, elsewhere) = (pair.node().await, pair.node().await);
    let (browser, other) = (Browser::default(), Browser::default());
    browser.ok(&node, "/set/n/0").await;
    let mut worst = Duration::ZERO;
    for n in 1..=3 {
        // Both know the session as it is, and are told so long ago that a replica will do.
        *other.jar.lock().unwrap() = browser.jar.lock().unwrap().clone();
        pair.until_replica_reads(&node, &browser).await;
        pair.until_replica_reads(&elsewhere, &other).await;
        pair.valve.shut();
        browser.ok(&node, &format!("/set/n/{n}")).await;
        let written = Instant::now();
        // Who wrote it sees it at once, on both nodes.
        for node in [&node, &elsewhere] {
            assert_eq!(browser.ok(node, "/get/n").await, n.to_string());
        }
        // So does everybody else a second later: `other` forgets what it is told, so that what the replica has is new enough to it
        // all the time.
        let (mut late, mut before) = (0, 0);
        while written.elapsed() < 3 * STALE {
            let sent = written.elapsed();
            let seen = other.send(&elsewhere, "/get/n").await.body;
            if sent <= STALE {
                assert!(seen == n.to_string() || seen == (n - 1).to_string(), "{seen}, {n} was written");
                if seen != n.to_string() {
                    worst = worst.max(sent);
                }
            } else {
                assert_eq!(seen, n.to_string(), "read {sent:?} after it was written");
                if late == 0 {
                    before = pair.reads(&elsewhere);
                }
                late += 1;
            }
            sleep(Duration::from_millis(10)).await;
        }
        assert!(late > 10, "{late} reads");
        assert_eq!(pair.reads(&elsewhere), before, "the replica is left alone");
        let info = pair.replication(1).await;
        assert!(info.contains("master_link_status:up"), "{info}");
        let info = pair.replication(0).await;
        assert!(info.contains("state=online"), "{info}");
        pair.valve.open();
    }
    println!(
        "measured: replication stood still 3 times; what was before was read {worst:?} after the change at the latest"
    );
}
