//! The driver against a server that stands still for a while, over and over: whoever was due meanwhile must show in the report.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http::{Method, StatusCode};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::browser::{Browser, Site};
use crate::driver::{Load, Outcome, Plan, Request, Workload, lock};
use crate::report::{Report, Sample};

/// A server that answers at once, but for the end of each cycle, when nobody gets an answer before the next one begins.
#[derive(Clone, Copy)]
struct Stub {
    started: Instant,
    cycle: Duration,
    stall: Duration,
}

impl Stub {
    fn new(cycle: Duration, stall: Duration) -> Self {
        Self { started: Instant::now(), cycle, stall }
    }

    /// The end of the stall that this moment lies in.
    fn stalls_until(&self, now: Duration) -> Option<Duration> {
        let cycles = (now.as_nanos() / self.cycle.as_nanos()) as u32;
        let end = self.cycle * (cycles + 1);
        (end - now <= self.stall).then_some(end)
    }

    async fn answer(self) -> Outcome {
        if let Some(end) = self.stalls_until(self.started.elapsed()) {
            sleep_until(self.started + end).await;
        }
        Outcome { status: Ok(StatusCode::OK), node: None, failure: None }
    }
}

/// Asks the stub without a network in between, so that time can be paused.
impl Workload for Stub {
    fn begin(&self, _: u64) -> Option<Request> {
        Some(Request::new("GET", self.answer()))
    }
}

/// What a report of `rate` requests a second over whole cycles of the stub must show. `started` is that of the load.
fn check(report: &Report, stub: Stub, started: Instant, rate: u32, cycles: u32) -> Result<(), String> {
    let seen = report.samples.len();
    let all = (stub.cycle * cycles).as_nanos() * u128::from(rate) / 1_000_000_000;
    if seen as u128 != all {
        return Err(format!("{seen} requests were sent, {all} were due"));
    }
    let ahead = started - stub.started;
    let mut waiting = 0;
    for sample in &report.samples {
        let Some(end) = stub.stalls_until(sample.due + ahead) else { continue };
        waiting += 1;
        let wait = end - (sample.due + ahead);
        if sample.took() < wait {
            return Err(format!("due {wait:?} before the end of a stall, and took {:?}", sample.took()));
        }
    }
    let in_stalls = (stub.stall * cycles).as_nanos() * u128::from(rate) / 1_000_000_000;
    if waiting < in_stalls.saturating_sub(2) {
        return Err(format!("{waiting} requests were due in stalls, not {in_stalls}"));
    }
    // A tenth is due in stalls and waits for all or part of one: the worst hundredth for nine tenths of it and more.
    let (p99, longest) = (report.quantile(0.99), report.longest());
    if p99 < stub.stall.mul_f64(0.85) || longest < stub.stall.mul_f64(0.98) {
        return Err(format!("p99 {p99:?}, longest {longest:?}"));
    }
    Ok(())
}

/// The driver that everybody writes first: each connection sends when its last request is answered and a pause is over. The
/// rate is the same, as long as nothing stalls.
async fn closed_loop(stub: Stub, rate: u32, connections: u32, lasts: Duration) -> Report {
    let started = Instant::now();
    let report = Arc::new(Mutex::new(Report::new(started)));
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let report = Arc::clone(&report);
        tasks.spawn(async move {
            while started.elapsed() < lasts {
                let sent = started.elapsed();
                lock(&report).sent("GET");
                let outcome = stub.answer().await;
                let sample = Sample { kind: "GET", due: sent, sent, done: started.elapsed(), failed: false };
                lock(&report).done(sample, outcome);
                sleep((sent + Duration::from_secs(1) * connections / rate).saturating_sub(started.elapsed())).await;
            }
        });
    }
    tasks.join_all().await;
    Arc::into_inner(report).expect("all tasks have ended").into_inner().expect("none has panicked")
}

const CYCLE: Duration = Duration::from_secs(10);
const STALL: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_stall_shows_for_every_request_that_was_due_during_it() {
    let stub = Stub::new(CYCLE, STALL);
    let started = Instant::now();
    let report = Load::start(Plan { rate: 300, at_most: CYCLE * 3 }, stub).finish().await;
    check(&report, stub, started, 300, 3).unwrap();
    // Timers have a resolution of 1 ms.
    assert!(report.quantile(0.5) <= Duration::from_millis(1), "outside the stalls it was as fast as it is");
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_waits_for_answers_does_not_pass_as_ours() {
    let stub = Stub::new(CYCLE, STALL);
    let started = Instant::now();
    let report = closed_loop(stub, 300, 10, CYCLE * 3).await;
    check(&report, stub, started, 300, 3).unwrap_err();
    // It has seen the stall, and says that 99 of 100 visitors noticed nothing.
    assert!(report.longest() > STALL.mul_f64(0.9) && report.quantile(0.99) < Duration::from_millis(50));
}

/// Over a real connection, in a shorter cycle.
struct OverHttp {
    browser: Browser,
    site: Site,
}

impl Workload for OverHttp {
    fn begin(&self, _: u64) -> Option<Request> {
        let (browser, site) = (self.browser.clone(), self.site);
        Some(Request::new("GET", async move {
            let answer = browser.send(site, Method::GET, "/", &[], Default::default()).await;
            let failure = answer.as_ref().err().cloned();
            Outcome { status: answer.map(|answer| answer.status), node: None, failure }
        }))
    }
}

#[tokio::test]
async fn a_stall_of_a_server_shows_over_http_as_well() {
    let stub = Stub::new(Duration::from_secs(1), Duration::from_millis(100));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let site = Site { port: listener.local_addr().unwrap().port() };
    let router = Router::new().route("/", get(move || async move { stub.answer().await.status.expect("a status") }));
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let started = Instant::now();
    let plan = Plan { rate: 200, at_most: Duration::from_secs(3) };
    let report = Load::start(plan, OverHttp { browser: Browser::new(), site }).finish().await;
    server.abort();
    assert_eq!((report.failed(), report.missed), (0, 0), "{report}");
    check(&report, stub, started, 200, 3).unwrap_or_else(|error| panic!("{error}\n{report}"));
}

/// Nobody is there for every second request, and every third fails.
struct Mixed;

impl Workload for Mixed {
    fn begin(&self, number: u64) -> Option<Request> {
        let failure = number.is_multiple_of(3).then(|| "a reason".to_owned());
        let (status, node) = match number {
            1 => (Err("connection closed".to_owned()), None),
            _ => (Ok(StatusCode::NO_CONTENT), Some("1111".to_owned())),
        };
        (number % 2 == 1).then(|| Request::new("odd", async { Outcome { status, node, failure } }))
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_and_what_failed_is_counted() {
    let report = Load::start(Plan { rate: 12, at_most: Duration::from_secs(1) }, Mixed).finish().await;
    assert_eq!((report.intended(), report.missed, report.total_sent()), (12, 6, 6));
    assert_eq!(report.sent_share(), 0.5);
    let odd = &report.kinds["odd"];
    assert_eq!((odd.sent, odd.answered, odd.failed), (6, 5, 2));
    assert_eq!((odd.statuses["204"], odd.statuses["no answer"]), (5, 1));
    assert_eq!(report.nodes["1111"], 5);
    assert_eq!(report.failures[0].sample.due, Duration::from_millis(250));
    assert!(report.to_string().contains("a reason"), "{report}");
}

/// Takes a second for each answer.
struct Slow;

impl Workload for Slow {
    fn begin(&self, _: u64) -> Option<Request> {
        Some(Request::new("slow", async {
            sleep(Duration::from_secs(1)).await;
            Outcome { status: Ok(StatusCode::OK), node: None, failure: None }
        }))
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_tells_how_far_it_is_and_waits_for_its_answers_when_it_is_stopped() {
    let load = Load::start(Plan { rate: 10, at_most: Duration::from_secs(3600) }, Slow);
    sleep(Duration::from_millis(1550)).await;
    let progress = load.progress();
    assert_eq!((progress.sent, progress.in_flight, progress.failed), (16, 10, 0));
    assert_eq!(progress.longest.as_millis(), 1000);
    assert_eq!(load.elapsed(), Duration::from_millis(1550));
    let report = load.stop().await;
    assert_eq!((report.total_sent(), report.samples.len()), (16, 16));
    assert_eq!(report.lasted(), Duration::from_millis(2500));
}
