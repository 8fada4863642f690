//! Faults under load, and every answer checked: during the fault, and afterwards against all that was acknowledged.
//!
//! `docs/faults.md` is the table of what is expected and what was measured. `LONG_TESTS=1` makes the faults longer and the load
//! higher.

mod cluster; // on the cluster that users run: replicas, sentinels, nginx

mod overload; // more than the nodes can do

mod password; // that of the cluster is changed

mod private; // two nodes and a Redis of their own, for what is easier there

mod redis; // one Redis: it forgets, is full, changes its password

mod wire; // what lies between a node and Redis: slow, and torn

use std::collections::BTreeSet;
use std::time::Duration;

use cluster_tests::browser::{Browser, Site};
use cluster_tests::cluster::NODES;
use cluster_tests::wait::{ensure, eventually};
use http::Method;
use load::driver::{Load, Plan};
use load::report::Report;
use load::visitors::Visitors;
use tokio::time::sleep;

/// Before and after a fault.
const CALM: Duration = Duration::from_secs(2);
/// The longest that any request may take: a handler's 10 seconds, and the store's budget of 5 for its commit.
const LONGEST: Duration = Duration::from_secs(15);
/// How long a request waits for the store: what is over within it fails none.
const BUDGET: Duration = Duration::from_secs(5);
/// What a handler, a proxy and a busy machine may add to that.
const MARGIN: Duration = Duration::from_secs(1);
/// For states that come within seconds.
const WHILE: Duration = Duration::from_secs(60);

/// One of two values: `LONG_TESTS=1` chooses the second.
fn short_or_long<T>(short: T, long: T) -> T {
    if std::env::var_os("LONG_TESTS").is_some() { long } else { short }
}

/// For so long a fault lasts that ends by itself.
fn a_while() -> Duration {
    short_or_long(Duration::from_secs(5), Duration::from_secs(60))
}

/// Visitors at a door, and a fault that is about to begin.
struct UnderLoad {
    site: Site,
    visitors: Visitors,
    load: Load,
    began: Duration,
    over: Duration,
    recovered: Duration,
}

impl UnderLoad {
    async fn start(site: Site, rate: u32) -> Self {
        let visitors = Visitors::arrive(site, rate, 7).await.unwrap_or_else(|error| panic!("{error}"));
        let plan = Plan { rate, at_most: Duration::from_secs(3600) };
        let load = Load::start(plan, visitors.clone());
        sleep(CALM).await;
        Self { site, visitors, load, began: Duration::MAX, over: Duration::MAX, recovered: Duration::MAX }
    }

    fn fault_begins(&mut self) {
        self.began = self.load.elapsed();
    }

    /// Call it when nothing is wrong any more; waits until both nodes write again.
    async fn fault_is_over(&mut self) {
        self.over = self.load.elapsed();
        let probe = Browser::new();
        eventually("both nodes write again", WHILE, async || {
            // The nodes take turns, with others in between.
            let mut nodes = BTreeSet::new();
            for turn in 0..8 {
                let path = format!("/api/session/attributes/probe{turn}");
                let answer = probe.send(self.site, Method::PUT, &path, &[], "1".into()).await?;
                ensure(answer.status == 204, || format!("{answer:?}"))?;
                nodes.extend(answer.node().map(str::to_owned));
            }
            ensure(nodes.len() == NODES.len(), || format!("only {nodes:?} answered"))
        })
        .await;
        self.recovered = self.load.elapsed();
    }

    /// A little calm, the last answers, and a look at every session there was.
    ///
    /// Whatever the fault: load was what it says it was, nobody waited for too long, nothing was wrong, and nothing that was
    /// acknowledged is gone.
    async fn finish(self, fault: &str) -> Outcome {
        sleep(CALM).await;
        let Self { visitors, load, began, over, recovered, .. } = self;
        let report = load.stop().await;
        let findings = visitors.verify().await;
        println!(
            "measured: {fault}: {} requests in {:.0?}, {} failed, the longest took {:.2?}; the fault lasted {:.1?}, and both nodes wrote \
             again after {:.2?}\n{report}{findings}",
            report.total_sent(),
            report.lasted(),
            report.failed(),
            report.longest(),
            over - began,
            recovered - over,
        );
        assert!(report.sent_share() >= 0.95, "{:.2} of the load was sent", report.sent_share());
        assert!(report.longest() < LONGEST, "{:?}", report.longest());
        assert!(findings.are_good(), "{findings}");
        assert_eq!(findings.lost.count, 0, "{findings}");
        Outcome { report, began, recovered }
    }
}

/// What became of all requests.
struct Outcome {
    report: Report,
    began: Duration,
    recovered: Duration,
}

impl Outcome {
    /// No visitor has noticed.
    #[track_caller]
    fn nothing_failed(&self) {
        assert_eq!(self.report.failed(), 0, "{}", self.report);
    }

    /// No visitor has noticed, unless everything took longer than a request waits.
    #[track_caller]
    fn nothing_failed_if_it_was_short(&self) {
        if self.recovered - self.began + MARGIN <= BUDGET {
            self.nothing_failed();
        } else if self.report.failed() > 0 {
            self.failed_with_503_and_only_during_the_fault();
        }
    }

    /// What failed was answered 503, and was due before all was well again.
    #[track_caller]
    fn failed_with_503_and_only_during_the_fault(&self) {
        assert!(self.report.failed() > 0, "the fault was none");
        for (name, kind) in &self.report.kinds {
            let good = ["200", "204", "303", "503"];
            assert!(kind.statuses.keys().all(|status| good.contains(&status.as_str())), "{name}: {:?}", kind.statuses);
        }
        for sample in self.report.samples.iter().filter(|sample| sample.failed) {
            assert!(sample.done >= self.began && sample.due <= self.recovered, "{sample:?}\n{}", self.report);
        }
    }

    /// Requests of this kind succeeded, all of them, and some were sent during the fault.
    #[track_caller]
    fn never_failed(&self, kind: &str) {
        assert_eq!(self.report.kinds[kind].failed, 0, "{kind}\n{}", self.report);
        let during = |sample: &&load::report::Sample| sample.due >= self.began && sample.done <= self.recovered;
        assert!(
            self.report.samples.iter().filter(during).any(|sample| sample.kind == kind),
            "no {kind} during the fault"
        );
    }
}
