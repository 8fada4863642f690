use std::collections::BTreeSet;
use std::time::Duration;

use cluster_tests::browser::{Browser, Site};
use cluster_tests::cluster::{self, InUse};
use cluster_tests::traffic::{Kind, Report, Traffic};
use cluster_tests::wait::{ensure, eventually};
use cluster_tests::watched::FAILOVER;
use tokio::time::{Instant, sleep};

/// Within this a replica is the master.
const ELECTED: Duration = FAILOVER;
/// How long a request may wait for the store: a failover within it fails none.
const BUDGET: Duration = Duration::from_secs(5);
/// What a handler, a proxy and a busy machine may add to it.
const MARGIN: Duration = Duration::from_secs(1);
/// A master that comes back is told by the sentinels that it is none any more; they take 10 to 12 seconds for that.
const DEMOTED: Duration = Duration::from_secs(40);

/// A cluster with a visitor in it, under traffic, whose master is about to go.
struct Scene {
    cluster: InUse,
    /// Logged in; its session is the one that all traffic uses.
    alice: Browser,
    before: serde_json::Value,
    /// Cookies of sessions that were logged out, each before something happened to the master.
    ended: Vec<(&'static str, Browser)>,
    started: std::collections::BTreeMap<&'static str, String>,
    master: &'static str,
    traffic: Traffic,
}

impl Scene {
    async fn new() -> Self {
        let cluster = cluster::alone().await;
        let alice = Browser::new();
        alice.log_in_as_alice(cluster.nginx()).await;
        for n in 0..20 {
            assert_eq!(alice.put(cluster.nginx(), &format!("a{n}"), n.to_string()).await.status, 204);
        }
        let before = alice.session(cluster.nginx()).await;
        let started = cluster.start_times().await;
        let master = cluster.master().await.expect("a healthy cluster has a master");
        let [first, second] = cluster.nodes();
        let kind = |name, site: Site, method, path| Kind { name, site, method, path };
        let traffic = Traffic::start(
            &alice,
            Duration::from_millis(100),
            vec![
                kind("GET nginx", cluster.nginx(), "GET", "/api/session"),
                kind("GET 1111", first, "GET", "/api/session"),
                kind("GET 2222", second, "GET", "/api/session"),
                kind("POST nginx", cluster.nginx(), "POST", "/api/session/attributes/hits/increment"),
                kind("POST 1111", first, "POST", "/api/session/attributes/hits/increment"),
                kind("POST 2222", second, "POST", "/api/session/attributes/hits/increment"),
            ],
        );
        sleep(Duration::from_secs(1)).await;
        Self { cluster, alice, before, ended: Vec::new(), started, master, traffic }
    }

    /// Logs somebody in and out; the session must stay dead from here on.
    async fn somebody_logs_out(&mut self, when: &'static str) {
        let browser = Browser::new();
        browser.log_in_as_alice(self.cluster.nodes()[0]).await;
        let cookie = browser.copy();
        let answer = browser.log_out(self.cluster.nodes()[1]).await;
        assert_eq!(answer.status, 303, "logout {when}: {answer:?}");
        self.ended.push((when, cookie));
    }

    /// Waits for the election of another master, and for the session to go on on both nodes. How long each took since `gone`.
    async fn elected(&self, gone: Instant) -> (&'static str, Duration, Duration) {
        let next = eventually("another master", ELECTED, async || {
            let next = self.cluster.master().await?;
            ensure(next != self.master, || format!("{next} still leads")).map(|()| next)
        })
        .await;
        let elected = gone.elapsed();
        for site in self.cluster.nodes() {
            eventually("the session goes on", ELECTED, async || {
                let answer = self.alice.put(site, "after", "1").await;
                ensure(answer.status == 204, || format!("{answer:?}"))
            })
            .await;
        }
        (next, elected, gone.elapsed())
    }

    /// The same session with all its attributes on both nodes; and those that ended are still over.
    async fn check_sessions(&self) {
        for site in self.cluster.nodes() {
            let now = self.alice.session(site).await;
            for part in ["session_id", "created_on", "account"] {
                assert_eq!(now[part], self.before[part], "{part}");
            }
            for (name, value) in self.before["attributes"].as_object().expect("an object") {
                assert_eq!(&now["attributes"][name], value, "{name}");
            }
            for (when, browser) in &self.ended {
                let session = browser.session(site).await;
                assert!(session["session_id"].is_null(), "logged out {when}, and alive again: {session}");
            }
        }
    }

    /// Nothing was restarted, but for `except`.
    async fn check_start_times(&self, except: Option<&str>) {
        for (service, time) in self.cluster.start_times().await {
            if Some(service) != except {
                assert_eq!(time, self.started[service], "{service} was restarted");
            }
        }
    }
}

/// The values that increments were answered with, those whose answer fulfils a condition on when it came.
fn acknowledged(report: &Report, when: impl Fn(Duration) -> bool) -> Vec<i64> {
    let posts = report.of("POST").filter(|sample| sample.succeeded() && when(sample.sent + sample.took));
    posts.filter_map(|sample| sample.answer.as_ref().ok().map(|answer| answer.value())).collect()
}

/// The values of those writes that were acknowledged in the last moment of a master that went at some time between these two.
/// Replication is asynchronous: Redis answers first and tells the replicas then, so they may be lost with it. Nothing else may.
fn acknowledged_last(report: &Report, before: Duration, after: Duration) -> Vec<i64> {
    // What it said last may still be on its way.
    acknowledged(report, |time| time >= before && time <= after + Duration::from_secs(1))
}

/// Checks the traffic of a failover that took `gap` until both nodes worked again.
fn check_traffic(report: &Report, gap: Duration) {
    assert!(report.longest() <= BUDGET + 3 * MARGIN, "a request took {:.1?}", report.longest());
    for sample in report.failures() {
        let status = sample.answer.as_ref().map(|answer| answer.status.as_u16());
        assert_eq!(status, Ok(503), "the store's absence is a 503 and nothing else: {sample:?}");
    }
    if gap + MARGIN <= BUDGET {
        assert_eq!(report.failures().len(), 0, "the failover took {gap:.1?}, which is within the budget");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_master_is_killed_sessions_go_on_and_it_returns_as_a_replica() {
    let mut scene = Scene::new().await;
    scene.somebody_logs_out("before the master was killed").await;
    let killed = scene.cluster.container(scene.master);

    let (gone, gone_at) = (Instant::now(), scene.traffic.elapsed());
    killed.kill().await;
    let dead_at = scene.traffic.elapsed();
    let (next, elected, gap) = scene.elected(gone).await;
    scene.check_sessions().await;
    scene.check_start_times(None).await;
    scene.somebody_logs_out("while the killed master was away").await;

    let returned = Instant::now();
    scene.cluster.container(scene.master).start().await;
    eventually("the killed master is a replica", DEMOTED, async || {
        let role = scene.cluster.role(scene.master).await?;
        ensure(role == "slave", || role)
    })
    .await;
    let demoted = returned.elapsed();
    assert_eq!(scene.cluster.master().await.as_deref(), Ok(next));
    sleep(Duration::from_secs(1)).await;
    scene.check_sessions().await;
    scene.check_start_times(Some(scene.master)).await;

    let Scene { cluster, alice, master, traffic, .. } = scene;
    let report = traffic.stop().await;
    let total = alice.session(cluster.nginx()).await["attributes"]["hits"].as_i64().expect("a number");
    let all = acknowledged(&report, |_| true);
    let lost = all.len() as i64 - total;
    println!("{master} killed: {next} led after {elected:.1?}, both nodes wrote after {gap:.1?}");
    println!(
        "{} of {} requests failed, the longest took {:.1?}",
        report.failures().len(),
        report.samples.len(),
        report.longest()
    );
    println!(
        "back as a replica after {demoted:.1?}; {} writes acknowledged, {} lost\n{report}",
        all.len(),
        lost.max(0)
    );
    check_traffic(&report, gap);
    let at_risk = acknowledged_last(&report, gone_at, dead_at).len() as i64;
    assert!(lost <= at_risk, "{lost} acknowledged writes were lost, {at_risk} were at risk");
    cluster.no_node_panicked().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_master_freezes_and_wakes_after_the_election_nothing_is_lost_or_revived() {
    let mut scene = Scene::new().await;
    scene.somebody_logs_out("before the master froze").await;

    let (gone, gone_at) = (Instant::now(), scene.traffic.elapsed());
    scene.cluster.container(scene.master).pause().await;
    let frozen_at = scene.traffic.elapsed();
    let (next, elected, gap) = scene.elected(gone).await;
    scene.check_sessions().await;
    scene.somebody_logs_out("while the master was frozen").await;

    let woken = Instant::now();
    scene.cluster.container(scene.master).unpause().await;
    scene.somebody_logs_out("just after it woke").await;
    eventually("the frozen master is a replica", DEMOTED, async || {
        // All the while the sessions are those of the new master.
        scene.check_sessions().await;
        let role = scene.cluster.role(scene.master).await?;
        ensure(role == "slave", || role)
    })
    .await;
    let demoted = woken.elapsed();
    assert_eq!(scene.cluster.master().await.as_deref(), Ok(next));
    sleep(Duration::from_secs(1)).await;
    scene.check_sessions().await;
    scene.check_start_times(None).await;

    let Scene { cluster, alice, master, traffic, .. } = scene;
    let report = traffic.stop().await;
    let total = alice.session(cluster.nginx()).await["attributes"]["hits"].as_i64().expect("a number");
    let all = acknowledged(&report, |_| true);
    println!("{master} frozen: {next} led after {elected:.1?}, both nodes wrote after {gap:.1?}");
    println!(
        "{} of {} requests failed, the longest took {:.1?}",
        report.failures().len(),
        report.samples.len(),
        report.longest()
    );
    println!(
        "a replica {demoted:.1?} after it woke; {} writes acknowledged, the counter says {total}\n{report}",
        all.len()
    );
    check_traffic(&report, gap);
    let at_risk = acknowledged_last(&report, gone_at, frozen_at);
    let mut given = BTreeSet::new();
    let twice: Vec<_> = all.iter().filter(|value| !given.insert(**value)).collect();
    assert!(
        twice.iter().all(|value| at_risk.contains(value)),
        "{twice:?} were given twice, only {at_risk:?} were at risk"
    );
    let unknown = report.of("POST").filter(|sample| !sample.succeeded()).count() as i64;
    let (least, most) = (given.len() as i64, all.len() as i64 + unknown);
    assert!(
        (least..=most).contains(&total),
        "{least} to {most} writes were acknowledged for good or unknown, {total} are there"
    );
    cluster.no_node_panicked().await;
}
