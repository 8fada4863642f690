use std::time::Duration;

use tokio::time::sleep;

use super::a_while;
use super::private::{Pace, Private};

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_200_ms_away_makes_requests_slow_and_nothing_else() {
    let cluster = Private::start(&[], "").await;
    let mut load = cluster.under_load().await;
    let before = cluster.each_is_connected().await;
    let pace = Pace::watch();
    load.fault_begins();
    for proxy in &cluster.proxies {
        proxy.set_latency(Duration::from_millis(200));
    }
    sleep(a_while()).await;
    for proxy in &cluster.proxies {
        proxy.set_latency(Duration::ZERO);
    }
    load.fault_is_over().await;
    let outcome = load.finish("200 ms more to Redis").await;
    outcome.nothing_failed();
    pace.kept(&before, &cluster.connections().await, "a slow server is no dead one");
    cluster.no_node_panicked();
}

/// Whether Redis did what it was asked nobody knows then; sent again under the same number, it takes effect once.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_reset_in_the_middle_of_an_answer_cost_a_moment() {
    let cluster = Private::start(&[], "").await;
    let mut load = cluster.under_load().await;
    load.fault_begins();
    for proxy in &cluster.proxies {
        proxy.tear_every(15);
    }
    sleep(a_while()).await;
    for proxy in &cluster.proxies {
        proxy.tear_every(0);
    }
    load.fault_is_over().await;
    let torn: Vec<_> = cluster.proxies.iter().map(|proxy| proxy.torn()).collect();
    let outcome = load.finish(&format!("connections reset in mid-answer, {torn:?} times")).await;
    assert!(torn.iter().all(|torn| *torn >= 2), "{torn:?}");
    outcome.nothing_failed();
    cluster.no_node_panicked();
}
