use std::time::Duration;

use cluster_tests::browser::Browser;
use cluster_tests::cluster::{self, Cluster, REDIS, SENTINELS};
use cluster_tests::docker::Container;
use cluster_tests::wait::{ensure, eventually};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{UnderLoad, WHILE, short_or_long};

/// Longer than a request waits, so that some do so in vain.
const OUTAGE: Duration = Duration::from_secs(8);

fn rate() -> u32 {
    short_or_long(60, 300)
}

/// The replicas of now.
async fn replicas(cluster: &Cluster) -> Vec<&'static str> {
    let master = cluster.master().await.expect("a healthy cluster has a master");
    REDIS.into_iter().filter(|server| *server != master).collect()
}

/// Does something to several containers at once.
async fn all<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    cluster: &Cluster,
    services: &[&'static str],
    act: impl Fn(Container) -> F,
) -> Vec<T> {
    let mut tasks = JoinSet::new();
    for service in services {
        tasks.spawn(act(cluster.container(service).clone()));
    }
    tasks.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_replicas_are_cut_off_sessions_are_read_and_writes_say_that_they_failed() {
    let cluster = cluster::alone().await;
    let replicas = replicas(&cluster).await;
    let mut load = UnderLoad::start(cluster.nginx(), rate()).await;
    load.fault_begins();
    let cut_off = all(&cluster, &replicas, |replica| async move { replica.disconnect().await }).await;
    sleep(OUTAGE).await;
    // Waits for Docker, which is slow.
    tokio::task::spawn_blocking(|| drop(cut_off)).await.expect("no panic");
    load.fault_is_over().await;
    let outcome = load.finish("both replicas cut off").await;
    outcome.failed_with_503_and_only_during_the_fault();
    outcome.never_failed("GET /api/session");
    cluster.no_node_panicked().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_there_is_no_replica_sessions_are_read_and_writes_say_that_they_failed() {
    let cluster = cluster::alone().await;
    let replicas = replicas(&cluster).await;
    let mut load = UnderLoad::start(cluster.nginx(), rate()).await;
    load.fault_begins();
    all(&cluster, &replicas, |replica| async move { replica.kill().await }).await;
    sleep(OUTAGE).await;
    all(&cluster, &replicas, |replica| async move { replica.start().await }).await;
    load.fault_is_over().await;
    let outcome = load.finish("both replicas gone").await;
    outcome.failed_with_503_and_only_during_the_fault();
    outcome.never_failed("GET /api/session");
    cluster.no_node_panicked().await;
}

/// A node that runs knows the master. One that starts cannot know it, since its settings name the sentinels only: it serves what
/// needs no session, and the rest when a sentinel is back.
#[tokio::test(flavor = "multi_thread")]
async fn without_sentinels_a_node_goes_on_and_one_that_starts_waits_for_them() {
    let cluster = cluster::alone().await;
    let [restarted, _] = cluster.nodes();
    let mut load = UnderLoad::start(cluster.nginx(), rate()).await;
    load.fault_begins();
    all(&cluster, &SENTINELS, |sentinel| async move { sentinel.kill().await }).await;
    // Nobody notices that: the stop is in order, and the other node serves.
    cluster.container("app1").stop().await;
    let stopped = load.load.progress();
    assert_eq!(stopped.failed, 0, "{stopped}");
    cluster.container("app1").start().await;
    let store = async || {
        let ready = Browser::new().send(restarted, http::Method::GET, "/readyz", &[], Default::default()).await?;
        ensure(ready.status == 200, || format!("{ready:?}"))?;
        Ok::<_, String>(ready.json()["store"].as_str().unwrap_or_default().to_owned())
    };
    let found = eventually("the node is up", WHILE, store).await;
    assert_eq!(found, "down", "nobody has told it where the master is");
    sleep(OUTAGE).await;
    all(&cluster, &SENTINELS, |sentinel| async move { sentinel.start().await }).await;
    let back = Instant::now();
    eventually("the node has found Redis", WHILE, async || {
        let found = store().await?;
        ensure(found == "up", || found)
    })
    .await;
    println!("the restarted node found Redis {:?} after the sentinels were started", back.elapsed());
    load.fault_is_over().await;
    let outcome = load.finish("all sentinels gone, one node restarted").await;
    outcome.failed_with_503_and_only_during_the_fault();
    for failure in &outcome.report.failures {
        assert_eq!(failure.node.as_deref(), Some("1111"), "the other one knows its master: {failure:?}");
    }
    cluster.no_node_panicked().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_that_nginx_reads_its_configuration_again() {
    let cluster = cluster::alone().await;
    let mut load = UnderLoad::start(cluster.nginx(), rate()).await;
    load.fault_begins();
    for _ in 0..short_or_long(5, 30) {
        cluster.container("nginx").shell("nginx -s reload").await.expect("nginx reloads");
        sleep(Duration::from_secs(1)).await;
    }
    load.fault_is_over().await;
    let outcome = load.finish("nginx reloaded each second").await;
    outcome.nothing_failed();
    cluster.no_node_panicked().await;
}
