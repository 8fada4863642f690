//! Random visitors over two nodes that read from replicas and from their own memory, while replicas freeze and connections are lost.
//! Each visitor waits for its answers, and knows what its session holds.

use std::collections::BTreeMap;
use std::time::Duration;

use cluster_tests::redis::Signal;
use cluster_tests::watched::{FAILOVER, Watched};
use session_layer::store::NearCacheLimits;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::{Browser, Node};

/// xorshift64: the same numbers each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Visits until told to stop; how many reads it made.
async fn visit(seed: u64, nodes: [Node; 2], stop: watch::Receiver<bool>) -> u64 {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let browser = Browser::default();
    let mut holds = BTreeMap::<String, u64>::new();
    let (mut reads, mut next, mut user) = (0, 0, String::new());
    while !*stop.borrow() {
        let node = &nodes[random.below(2) as usize];
        let name = format!("a{}", random.below(3));
        match random.below(100) {
            0..70 => {
                let path = if random.below(20) == 0 { "strict" } else { "get" };
                let expected = holds.get(&name).map_or(String::new(), ToString::to_string);
                assert_eq!(browser.ok(node, &format!("/{path}/{name}")).await, expected, "visitor {seed}: {name}");
                reads += 1;
            }
            70..76 => {
                assert_eq!(browser.ok(node, "/who").await, user, "visitor {seed}");
                reads += 1;
            }
            n @ 76..88 => {
                next += 1;
                let path = if n % 2 == 0 { "set" } else { "blind" };
                browser.ok(node, &format!("/{path}/{name}/{next}")).await;
                holds.insert(name, next);
            }
            88..90 => {
                // As somebody else it would lose its attributes.
                if user.is_empty() {
                    user = format!("visitor{seed}");
                }
                browser.ok(node, &format!("/log_in/{user}")).await;
            }
            90..91 if !holds.is_empty() || !user.is_empty() => {
                browser.ok(node, "/log_out").await;
                holds.clear();
                user.clear();
            }
            // What it was told gets old enough for copies.
            _ => sleep(Duration::from_millis(random.below(1200))).await,
        }
    }
    reads
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_answers_reads_their_own_writes_on_every_node_and_nothing_older() {
    let cluster = Watched::start().await;
    let url = cluster.url();
    let start = || {
        let store = |store: session_layer::store::RedisStoreBuilder| {
            store.replica_reads(true).near_cache(NearCacheLimits { sessions: 40, ..NearCacheLimits::default() })
        };
        Node::start(&url, store, move |layer| layer.budget(FAILOVER).rollback_detection(true))
    };
    let nodes = [start().await, start().await];
    let (stop, stopped) = watch::channel(false);
    let visitors: Vec<_> = (1..=64).map(|seed| tokio::spawn(visit(seed, nodes.clone(), stopped.clone()))).collect();
    let lasts = Duration::from_secs(if std::env::var_os("LONG_TESTS").is_some() { 120 } else { 15 });
    let (mut random, started, mut troubles) = (Random(99), Instant::now(), 0);
    while started.elapsed() < lasts {
        sleep(Duration::from_millis(300 + random.below(500))).await;
        troubles += 1;
        match random.below(4) {
            0 => {
                let replica = 1 + random.below(2) as usize;
                cluster.signal(replica, Signal::Stop).await;
                sleep(Duration::from_millis(random.below(1500))).await;
                cluster.signal(replica, Signal::Continue).await;
            }
            1 => {
                // The link to one replica is cut and comes back.
                cluster.ask(0, &["CLIENT", "KILL", "TYPE", "replica"]).await.expect("it answers");
            }
            n => {
                let clients = cluster.ask(0, &["CLIENT", "LIST"]).await.expect("it answers");
                let field = |line: &str, name: &str| {
                    Some(line.split(name).nth(1)?.split(' ').next().unwrap_or_default().to_owned())
                };
                // Flag t: it tracks. The others are those of everything else.
                let wanted = |line: &&str| {
                    let tracks = field(line, " flags=").is_some_and(|flags| flags.contains('t'));
                    line.contains(" resp=3") && tracks == (n == 2)
                };
                let of_nodes: Vec<_> = clients.lines().filter(wanted).filter_map(|line| field(line, "id=")).collect();
                if !of_nodes.is_empty() {
                    let id = &of_nodes[random.below(of_nodes.len() as u64) as usize];
                    cluster.ask(0, &["CLIENT", "KILL", "ID", id]).await.expect("it answers");
                }
            }
        }
    }
    stop.send_replace(true);
    let mut reads = 0;
    for visitor in visitors {
        reads += visitor.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    }
    let mut copies = 0;
    for node in &nodes {
        let shares = node.store.reads();
        let replicas: u64 = [1, 2]
            .map(|replica| format!("127.0.0.1:{}", cluster.machine.port(replica)))
            .iter()
            .filter_map(|address| shares.servers.get(address))
            .sum();
        println!("measured: {} reads from memory, {replicas} from replicas", shares.near_cache);
        assert!(shares.near_cache > 0 && replicas > 0, "{shares:?}");
        copies += shares.near_cache + replicas;
        assert_eq!(node.events(), [], "nothing was lost");
    }
    println!(
        "measured: {reads} reads of 64 visitors in {troubles} troubles, {copies} of all reads from copies: none was older"
    );
}
