//! All switches on: replica reads, the near cache and rollback detection, on the cluster that users run.

use std::time::Duration;

use cluster_tests::browser::{Browser, Site};
use cluster_tests::cluster::{self, InUse, NODES, REDIS};
use cluster_tests::wait::{ensure, eventually};
use http::Method;
use tokio::time::Instant;

use crate::promises::times;
use crate::under_load::said_of_failovers;

const ON: [(&str, &str); 3] =
    [("SESSION_REPLICA_READS", "on"), ("SESSION_NEAR_CACHE", "on"), ("SESSION_ROLLBACK_DETECTION", "on")];
/// The longest that a node goes by what it knows of a session; asserted with three times that.
const STALE: Duration = Duration::from_secs(1);
/// For states that come within seconds.
const WHILE: Duration = Duration::from_secs(30);

/// How often a node has read a session from its own memory.
async fn from_memory(node: Site) -> u64 {
    Browser::new().get(node, "/api/cluster/node").await.json()["near_cache"].as_u64().expect("a number")
}

/// How often sessions were read from a server, as the dashboard has it.
async fn from_server(cluster: &InUse, server: &str) -> u64 {
    let picture = Browser::new().get(cluster.nodes()[0], "/api/cluster").await.json();
    let servers = picture["servers"].as_array().expect("a list").iter();
    let named = |it: &&serde_json::Value| it["address"].as_str().is_some_and(|address| address.starts_with(server));
    servers.clone().find(named).unwrap_or_else(|| panic!("no {server}: {picture}"))["reads"].as_u64().expect("a number")
}

/// How many sessions were found to lack a change, by both nodes.
async fn rollbacks(cluster: &InUse) -> u64 {
    let mut sum = 0;
    for node in cluster.nodes() {
        let metrics = Browser::new().get(node, "/metrics").await.text();
        let count = metrics.lines().find_map(|line| line.strip_prefix("demo_rollbacks_total "));
        sum += count.unwrap_or_else(|| panic!("{metrics}")).parse::<u64>().expect("a number");
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn with_all_switches_on_a_failover_fails_no_request_and_a_revocation_is_seen_within_a_second() {
    let cluster = cluster::alone().await;
    cluster.recreate(&NODES.map(|(service, _)| service), &ON).await;
    let before = cluster.master().await.expect("a healthy cluster has a master");

    // Fails if a request does, if a visitor sees something older than it was told, or if an ended session lives.
    let (rounds, rate) = (times(1, 3).to_string(), times(60, 300).to_string());
    let said = cluster.xtask(&["failover", "--rounds", &rounds, "--rate", &rate]).await;
    println!("{}", said_of_failovers(said));

    let after = cluster.master().await.expect("a healthy cluster has a master");
    let mut reads = Vec::new();
    for server in REDIS {
        reads.push((server, from_server(&cluster, server).await));
    }
    let memory = [from_memory(cluster.nodes()[0]).await, from_memory(cluster.nodes()[1]).await];
    println!(
        "measured: {before} led, then {after}; reads {reads:?}, from the nodes' memory {memory:?}; {} sessions were found to lack a change",
        rollbacks(&cluster).await
    );
    for (server, reads) in reads {
        assert!(reads > 0, "{server} was never read from");
    }
    assert!(memory.iter().all(|reads| *reads > 0), "{memory:?}");
    revocations(&cluster).await;
    cluster.no_node_panicked().await;
}

async fn revocations(cluster: &InUse) {
    let [one, two] = cluster.nodes();
    let mut worst = Duration::ZERO;
    for _ in 0..times(5, 40) {
        let (here, there) = (Browser::new(), Browser::new());
        there.log_in_as_alice(two).await;
        here.log_in_as_alice(one).await;
        eventually("the session is read from memory", WHILE, async || {
            let before = from_memory(two).await;
            assert_eq!(there.session(two).await["account"], "alice");
            ensure(from_memory(two).await > before, || format!("{before} reads from memory"))
        })
        .await;
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let answer = here.send(one, Method::POST, "/account/sessions/revoke", &form, "others=1".into()).await;
        assert_eq!(answer.expect("an answer").status, 303);
        let revoked = Instant::now();
        loop {
            let sent = revoked.elapsed();
            if there.session(two).await["account"].is_null() {
                worst = worst.max(revoked.elapsed());
                break;
            }
            assert!(sent <= 3 * STALE, "logged in {sent:?} after the revocation");
        }
        assert_eq!(here.session(two).await["account"], "alice", "who revoked goes on");
    }
    println!("measured: a revocation was seen on the other node after {worst:?} at worst");
}
