//! What nobody may notice, under load whose every answer is checked: upgrades and failovers, by the commands that users run;
//! and a node that dies.
//!
//! Each test is one round at a rate that leaves room for the tests beside it. `LONG_TESTS=1` makes it 300 requests a second and
//! as many rounds as `docs/measured.md` tells of; then nothing else should run.

use std::time::Duration;

use cluster_tests::cluster::{self, InUse, NODES};
use cluster_tests::wait::{ensure, eventually};
use http::Method;
use load::driver::{Load, Plan};
use load::visitors::Visitors;
use tokio::time::sleep;

use crate::promises::times;

/// How long a request may wait for the store, in seconds.
const BUDGET: f64 = 5.0;
/// The same on a machine that others use.
const LONGEST: f64 = 3.0 * BUDGET;
/// What a handler, a proxy and a busy machine may add to a failover.
const MARGIN: f64 = 1.0;
/// A node that dies is started by Docker at once, and starts within a second; a busy machine gets its time.
const BACK: Duration = Duration::from_secs(60);

/// Requests a second.
fn rate() -> u32 {
    if times(0, 1) == 1 { 300 } else { 100 }
}

/// Runs `cargo xtask` with these words, which fails if a request does or a session is not as it was left.
async fn xtask(cluster: &InUse, words: &[&str], long: usize) -> Result<String, String> {
    let (rounds, rate) = (times(1, long).to_string(), rate().to_string());
    let words = [words, &["--rounds", &rounds, "--rate", &rate]].concat();
    let said = cluster.xtask(&words).await?;
    println!("cargo xtask {}\n{said}", words.join(" "));
    Ok(said)
}

/// What `cargo xtask failover` said. It fails if a request does, and one may if a failover took longer than requests wait: that is the
/// sentinels' to say. Then they were told 503, and nothing else was wrong.
pub(crate) fn said_of_failovers(said: Result<String, String>) -> String {
    let error = match said {
        Ok(said) => return said,
        Err(error) => error,
    };
    let elected = |line: &str| line.trim().split_once(" s  first answer of redis-")?.0.parse::<f64>().ok();
    let slowest = error.lines().filter_map(elected).fold(0.0, f64::max);
    assert!(slowest + MARGIN > BUDGET, "no failover took longer than {slowest} s, and yet: {error}");
    let mut failures = error.lines().filter(|line| line.trim().starts_with("failed at ")).peekable();
    assert!(failures.peek().is_some() && failures.all(|line| line.contains(": answered 503")), "{error}");
    assert!(error.contains(" wrong: 0;") && error.contains(" logins or logouts lost 0,"), "{error}");
    println!("a failover took {slowest} s, longer than requests wait\n{error}");
    error
}

async fn upgrade(words: &[&str]) {
    let cluster = cluster::alone().await;
    let said = xtask(&cluster, &[&["upgrade", "--skip-build"], words].concat(), 20).await;
    said.unwrap_or_else(|error| panic!("{error}"));
    cluster.no_node_panicked().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_upgrade_of_both_nodes_fails_no_request() {
    upgrade(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_upgrade_that_takes_each_node_out_of_nginx_first_fails_no_request() {
    upgrade(&["--take-out"]).await;
}

async fn failover(words: &[&str]) {
    let cluster = cluster::alone().await;
    let started = cluster.start_times().await;
    let said = said_of_failovers(xtask(&cluster, &[&["failover"], words].concat(), 10).await);
    let (_, longest) = said.rsplit_once("longest wait ").unwrap_or_else(|| panic!("no longest wait: {said}"));
    let longest: f64 = longest.split(' ').next().and_then(|word| word.parse().ok()).expect("a number of seconds");
    assert!(longest < LONGEST, "a request waited {longest} s");
    cluster.no_node_panicked().await;
    // What went on did so by itself.
    let now = cluster.start_times().await;
    for (service, _) in NODES {
        assert_eq!(now[service], started[service], "{service} was restarted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_master_is_killed_under_load_no_request_fails_and_no_login_is_lost() {
    failover(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_master_stops_and_wakes_under_load_no_request_fails_and_no_login_is_lost() {
    failover(&["--pause"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_master_is_cut_off_under_load_no_request_fails_and_no_login_is_lost() {
    failover(&["--partition"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_node_is_killed_only_posts_in_flight_on_it_fail_and_it_returns_by_itself() {
    let cluster = cluster::alone().await;
    let visitors = Visitors::arrive(cluster.nginx(), rate(), 1).await.unwrap_or_else(|why| panic!("{why}"));
    let plan = Plan { rate: rate(), at_most: Duration::from_secs(900) };
    let load = Load::start(plan, visitors.clone());
    let mut kills = Vec::new();
    for (service, name) in NODES.into_iter().cycle().take(times(2, 10)) {
        sleep(Duration::from_secs(2)).await;
        let node = cluster.container(service);
        let restarts = node.inspect("{{.RestartCount}}").await;
        let before = load.elapsed();
        node.crash().await;
        let after = load.elapsed();
        kills.push(before..=after);
        eventually("the node is in rotation again", BACK, async || {
            let now = node.inspect("{{.RestartCount}}").await;
            ensure(now != restarts, || format!("{service} was not restarted"))?;
            let door = &cluster_tests::browser::Browser::new();
            let answer = door.send(cluster.nginx(), Method::GET, "/livez", &[], Default::default()).await?;
            ensure(answer.node() == Some(name), || format!("{:?} answered", answer.node()))
        })
        .await;
        println!("{service} killed at {before:.2?}, in rotation again {:.2?} later", load.elapsed() - before);
    }
    sleep(Duration::from_secs(2)).await;
    let report = load.stop().await;
    let findings = visitors.verify().await;
    println!("{} sent, {} failed\n{report}{findings}", report.total_sent(), report.failed());

    assert!(report.sent_share() >= 0.95, "{} were missed", report.missed);
    assert_eq!(report.failures.len() as u64, report.failed(), "so many fail that not all are kept");
    for failure in &report.failures {
        let sample = failure.sample;
        let in_flight = kills.iter().any(|kill| sample.sent <= *kill.end() && sample.done >= *kill.start());
        assert!(sample.kind.starts_with("POST") && in_flight, "{failure:?}; the nodes were killed at {kills:.2?}");
    }
    assert!(findings.are_good(), "{findings}");
    assert_eq!(findings.lost.count, 0, "{findings}");
}

#[test]
fn a_failover_that_took_longer_than_requests_wait_may_fail_some_and_no_other_may() {
    let said = |first: &str, why: &str, wrong: u32| {
        let said = format!(
            "    {first} s  first answer of redis-2\n  failed at 9.1s after 5.0s, 1111: PUT attribute: {why}\n  wrong: {wrong}; x\n\
             1 failovers: 1 failed, longest wait 4.9 s, logins or logouts lost 0, other acknowledged writes lost 0\n"
        );
        std::panic::catch_unwind(|| said_of_failovers(Err(said))).is_ok()
    };
    assert!(said("+5.201", "answered 503: ", 0));
    assert!(!said("+3.201", "answered 503: ", 0), "it was fast enough");
    assert!(!said("+5.201", "answered 500: ", 0), "not told the right thing");
    assert!(!said("+5.201", "answered 503: ", 1), "something else was wrong");
}
