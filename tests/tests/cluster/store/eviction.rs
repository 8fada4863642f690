//! A server that makes room by removing keys.

use std::time::Duration;

use cluster_tests::redis::Machine;
use cluster_tests::wait::{ensure, eventually};
use cluster_tests::watched::Watched;
use session_layer::store::{RedisStore, SessionStore};

use super::connected;

const WHILE: Duration = Duration::from_secs(10);

/// The policy that a store reports, once it has asked its server.
async fn policy(store: &RedisStore, server: u16, expected: Option<(&str, u64)>) {
    eventually("a store that knows how its server evicts", WHILE, async || {
        let status = store.status();
        let found = status.eviction.as_ref().map(|eviction| (eviction.policy.as_str(), eviction.maxmemory));
        let is_there = status.server.as_deref().is_some_and(|address| address.ends_with(&format!(":{server}")));
        ensure(is_there && found == expected, || format!("{status:?}"))
    })
    .await;
}

#[tokio::test]
async fn a_server_that_evicts_is_reported_on_connecting() {
    let machine = Machine::with_redis(&["--maxmemory 100mb", "--maxmemory-policy volatile-lru"]).await;
    policy(&connected(&machine.url()).await, machine.port(0), Some(("volatile-lru", 100 << 20))).await;
    let mut admin = machine.admin().await;
    // Without a limit nothing is evicted yet, and whoever sets one is not told then.
    admin.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    policy(&connected(&machine.url()).await, machine.port(0), Some(("volatile-lru", 0))).await;
    admin.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    policy(&connected(&machine.url()).await, machine.port(0), None).await;
}

#[tokio::test]
async fn a_replica_that_evicts_is_reported_when_it_becomes_master() {
    let cluster = Watched::start().await;
    let store = connected(&cluster.url()).await;
    let first = cluster.machine.port(0);
    policy(&store, first, None).await;
    for server in [1, 2] {
        let set = cluster.ask(server, &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
        assert_eq!(set.as_deref(), Ok("+OK\r\n"));
    }
    cluster.signal(0, cluster_tests::redis::Signal::Kill).await;
    eventually("a new master that evicts", cluster_tests::watched::FAILOVER, async || {
        let status = store.status();
        ensure(status.eviction.is_some_and(|eviction| eviction.policy == "allkeys-lru"), || {
            format!("{:?}", store.status())
        })
    })
    .await;
    store.available().await;
}
