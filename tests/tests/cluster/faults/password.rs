use cluster_tests::cluster::{self, NODES, REDIS, SENTINELS};

use super::{UnderLoad, short_or_long};

const NEW: &str = "another-password-of-redis";

/// Step by step what the operator of a cluster does; see `docs/faults.md`.
#[tokio::test(flavor = "multi_thread")]
async fn the_password_of_a_cluster_is_changed_and_nobody_notices() {
    let cluster = cluster::alone().await;
    let ask = async |service: &str, words: &[&str]| {
        let answer = cluster.container(service).redis_cli(words).await;
        answer.unwrap_or_else(|error| panic!("{service}: {error}"))
    };
    let old = cluster.container(REDIS[0]).shell("printf %s \"$REDISCLI_AUTH\"").await.expect("it runs");
    let mut load = UnderLoad::start(cluster.nginx(), short_or_long(60, 300)).await;
    load.fault_begins();

    // 1: both are good.
    for server in REDIS {
        assert_eq!(ask(server, &["acl", "setuser", "default", &format!(">{NEW}")]).await, "OK");
    }
    // 2: among themselves they use the new one from here on.
    for server in REDIS {
        assert_eq!(ask(server, &["config", "set", "masterauth", NEW]).await, "OK");
    }
    for sentinel in SENTINELS {
        assert_eq!(ask(sentinel, &["sentinel", "set", "mymaster", "auth-pass", NEW]).await, "OK");
    }
    // 3: so do the nodes.
    let changed = [("REDIS_PASSWORD", NEW)];
    for (node, _) in NODES {
        cluster.recreate(&[node], &changed).await;
    }
    // 4: and whoever starts.
    let master = cluster.master().await.expect("a healthy cluster has a master");
    let replicas = REDIS.into_iter().filter(|server| *server != master);
    for service in replicas.chain([master]).chain(SENTINELS) {
        cluster.recreate(&[service], &changed).await;
        println!("{service} has the new password; {}", load.load.progress());
    }
    // 5: the old one is good for nothing, and nobody misses it.
    for server in REDIS {
        let script = format!("redis-cli -p \"$NODE_PORT\" --no-auth-warning -a '{old}' ping");
        let refused = cluster.container(server).shell(&script).await.unwrap_or_else(|error| error);
        assert!(refused.contains("WRONGPASS") || refused.contains("NOAUTH"), "{server}: {refused}");
        ask(server, &["client", "kill", "type", "normal", "skipme", "yes"]).await;
    }
    load.fault_is_over().await;
    cluster.until_well().await;

    let outcome = load.finish("password of the cluster changed in five steps").await;
    outcome.nothing_failed();
    cluster.no_node_panicked().await;
}
