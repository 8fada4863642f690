use std::time::Duration;

use cluster_tests::browser::Browser;
use cluster_tests::cluster::{self, Cluster, REDIS};
use cluster_tests::traffic::{Kind, Traffic};
use http::Method;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How long a request may wait for the store.
const BUDGET: Duration = Duration::from_secs(5);
/// What a handler, a proxy and a busy machine may add to it.
const MARGIN: Duration = Duration::from_secs(1);
/// How soon everything works again.
const RECOVERY: Duration = Duration::from_secs(1);

/// All three at the same moment: with one of them left, there would be an election.
async fn all_redis(cluster: &Cluster, pause: bool) {
    let mut tasks = JoinSet::new();
    for service in REDIS {
        let container = cluster.container(service).clone();
        tasks.spawn(async move { if pause { container.pause().await } else { container.unpause().await } });
    }
    tasks.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_nothing_waits_longer_than_its_budget_and_all_is_well_when_it_returns() {
    let cluster = cluster::alone().await;
    let [first, second] = cluster.nodes();
    let nginx = cluster.nginx();
    let browser = Browser::new();
    browser.log_in_as_alice(nginx).await;
    browser.put(nginx, "basket", r#"["tea"]"#).await;
    let started = cluster.start_times().await;
    let before = cluster.master().await.expect("a healthy cluster has a master");
    let visitor = Browser::new();

    let session = |name, site, method, path| Kind { name, site, method, path };
    let traffic = Traffic::start(
        &browser,
        Duration::from_millis(100),
        vec![
            session("session read, nginx", nginx, "GET", "/api/session"),
            session("session read, 1111", first, "GET", "/api/session"),
            session("session write, nginx", nginx, "POST", "/api/session/attributes/hits/increment"),
            session("session write, 2222", second, "POST", "/api/session/attributes/hits/increment"),
        ],
    );
    let others = Traffic::start(
        &visitor,
        Duration::from_millis(100),
        vec![
            session("without, livez 1111", first, "GET", "/livez"),
            session("without, readyz 2222", second, "GET", "/readyz"),
            session("without, metrics", second, "GET", "/metrics"),
            session("without, static", nginx, "GET", "/static/style.css"),
            session("without, static 1111", first, "GET", "/static/style.css"),
            // The session is looked at, but nobody presented one.
            session("without, no cookie", nginx, "GET", "/api/session"),
        ],
    );
    sleep(Duration::from_secs(2)).await;
    all_redis(&cluster, true).await;
    let stopped = traffic.elapsed();
    sleep(Duration::from_secs(7)).await;
    let resuming = Instant::now();
    all_redis(&cluster, false).await;
    let (returned, returned_at) = (traffic.elapsed(), Instant::now());

    // The first moment at which every kind of request succeeds again; a request in between may wait, and be well answered.
    let mut recovered = [None; 2];
    while recovered.contains(&None) {
        assert!(returned_at.elapsed() < Duration::from_secs(30), "it does not come back");
        for (site, recovered) in [first, second].into_iter().zip(&mut recovered) {
            let write = browser.send(site, Method::PUT, "/api/session/attributes/back", &[], "1".into()).await;
            if write.is_ok_and(|answer| answer.status == 204) {
                recovered.get_or_insert(returned_at.elapsed());
            }
        }
    }
    sleep(Duration::from_secs(2)).await;
    let (report, others) = (traffic.stop().await, others.stop().await);
    println!(
        "all Redis servers stood still for {:.1?} (waking took {:.1?})",
        returned - stopped,
        returned_at - resuming
    );
    println!("writes on 1111 and 2222 worked again after {recovered:.1?}\n{report}{others}");

    // Sentinels were awake all the while. If they were in the middle of an election when the servers woke, they deposed a master
    // that worked, and a failover came on top.
    let elected = cluster.master().await != Ok(before);
    let recovery = if elected { BUDGET } else { RECOVERY };
    println!("elected: {elected}");

    assert_eq!(others.failures().len(), 0, "{others}");
    // Nobody of them waits for the store. So the longest of them tells as well how much this machine adds to everything.
    assert!(others.longest() <= 3 * MARGIN, "a request without a session took {:.1?}", others.longest());
    let longest = BUDGET + MARGIN + others.longest();
    assert!(report.longest() <= longest, "a request took {:.1?}", report.longest());
    for sample in report.failures() {
        let status = sample.answer.as_ref().map(|answer| answer.status.as_u16());
        assert_eq!(status, Ok(503), "the store's absence is a 503 and nothing else: {sample:?}");
        assert!(sample.answer.as_ref().is_ok_and(|answer| answer.header("retry-after").is_some()), "{sample:?}");
        let ended = sample.sent + sample.took;
        assert!(ended >= stopped && ended <= returned + 3 * recovery, "it failed outside the outage: {sample:?}");
    }
    // The promise is a second; a busy machine gets three.
    assert!(recovered.into_iter().flatten().all(|after| after <= 3 * recovery), "{recovered:.1?}");

    // By itself: nothing was restarted, nothing is lost.
    assert_eq!(cluster.start_times().await, started);
    for site in cluster.nodes() {
        let session = browser.session(site).await;
        assert_eq!((session["account"].as_str(), &session["attributes"]["basket"][0]), (Some("alice"), &"tea".into()));
    }
}
