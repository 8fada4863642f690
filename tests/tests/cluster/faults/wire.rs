use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::a_while;
use super::private::Private;

/// Notes for how long this machine stood still, or had no time for this process.
struct Pace(Arc<AtomicU64>);

impl Pace {
    fn watch() -> Self {
        let longest = Arc::new(AtomicU64::new(0));
        let noted = Arc::downgrade(&longest);
        thread::spawn(move || {
            const STEP: Duration = Duration::from_millis(10);
            while let Some(longest) = noted.upgrade() {
                let began = Instant::now();
                thread::sleep(STEP);
                longest.fetch_max(began.elapsed().saturating_sub(STEP).as_millis() as u64, Ordering::Relaxed);
            }
        });
        Self(longest)
    }

    fn longest(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_200_ms_away_makes_requests_slow_and_nothing_else() {
    let cluster = Private::start(&[], "").await;
    let mut load = cluster.under_load().await;
    let before = cluster.connections().await;
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
    // One that does not answer for 700 ms is. With so little left to that, a machine that stands still meanwhile makes it one.
    let (after, still) = (cluster.connections().await, pace.longest());
    println!("this machine stood still for {still:?}");
    assert!(
        after == before || still > Duration::from_millis(250),
        "a slow server is no dead one: {before:?}, {after:?}"
    );
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
