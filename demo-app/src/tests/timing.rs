//! Some times must be longer than others, and stand in different files.

use std::fs;
use std::time::Duration;

use crate::drain::Limits;
use crate::node::{HANDLER_TIMEOUT, STORE_BUDGET};

fn file(path: &str) -> String {
    let path = format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The times that a file gives for a setting, as `setting 30s;` or `setting: 30s`.
#[track_caller]
fn times(path: &str, setting: &str) -> Vec<Duration> {
    let text = file(path);
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix(setting));
    let values = lines.filter_map(|rest| rest.strip_prefix([' ', ':'])).map(|value| value.trim().trim_end_matches(';'));
    let times: Vec<_> =
        values.map(|value| time(value).unwrap_or_else(|| panic!("{path}: {setting} {value}"))).collect();
    assert!(!times.is_empty(), "{path} says nothing of {setting}");
    times
}

fn time(value: &str) -> Option<Duration> {
    match value.strip_suffix("ms") {
        Some(millis) => millis.parse().ok().map(Duration::from_millis),
        None => value.strip_suffix('s')?.parse().ok().map(Duration::from_secs),
    }
}

/// What an answer can take: a handler with all its waiting, and then its commit, which has the store's budget at most.
const SLOWEST_ANSWER: Duration = HANDLER_TIMEOUT.saturating_add(STORE_BUDGET);

#[test]
fn a_drain_waits_for_the_slowest_answer_and_docker_for_the_drain() {
    let Limits { deadline, silence, .. } = Limits::default();
    assert!(deadline > SLOWEST_ANSWER, "{deadline:?}");
    assert!(deadline > silence, "silence alone never needs the deadline");
    for grace in times("docker-compose.yml", "stop_grace_period") {
        assert!(grace > deadline, "{grace:?}");
    }
}

#[test]
fn nginx_waits_for_the_slowest_answer() {
    for timeout in times("nginx/nginx.conf", "proxy_read_timeout") {
        assert!(timeout > SLOWEST_ANSWER, "{timeout:?}");
    }
}

#[test]
fn nginx_gives_up_its_idle_connections_before_a_node_does() {
    let Limits { head, silence, .. } = Limits::default();
    let text = file("nginx/nginx.conf");
    let (_, upstream) = text.split_once("upstream nodes {").expect("the upstream");
    let (upstream, _) = upstream.split_once("\n    }").expect("its end");
    let kept = upstream.lines().find_map(|line| line.trim().strip_prefix("keepalive_timeout ")).expect("it is set");
    let kept = time(kept.trim_end_matches(';')).expect("a time");
    // Half: neither clock is exact, and a busy machine stalls.
    assert!(kept * 2 <= silence && kept * 2 <= head, "{kept:?}");
    // While a node starts or is gone, a request pays this before it goes to the other one.
    for timeout in times("nginx/nginx.conf", "proxy_connect_timeout") {
        assert!(timeout * 2 <= STORE_BUDGET, "{timeout:?}");
    }
}
