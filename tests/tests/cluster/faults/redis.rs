use std::time::Duration;

use cluster_tests::browser::Browser;
use cluster_tests::redis::SMALL_DISK;
use cluster_tests::wait::{ensure, eventually};
use tokio::time::{Instant, sleep};

use super::private::{Pace, Private};
use super::{WHILE, a_while};

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_redis_forgets_each_second_are_noticed_by_nobody() {
    let cluster = Private::start(&[], "").await;
    let mut load = cluster.under_load().await;
    let mut admin = cluster.machine.admin().await;
    load.fault_begins();
    let until = Instant::now() + a_while();
    while Instant::now() < until {
        assert_eq!(admin.command(&["SCRIPT", "FLUSH"]).await, "+OK\r\n");
        sleep(Duration::from_secs(1)).await;
    }
    load.fault_is_over().await;
    let outcome = load.finish("SCRIPT FLUSH each second").await;
    outcome.nothing_failed();
    cluster.no_node_panicked();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_without_memory_refuses_what_grows_and_still_logs_out() {
    let cluster = Private::start(&[], "").await;
    let mut load = cluster.under_load().await;
    let mut admin = cluster.machine.admin().await;
    let (before, pace) = (cluster.each_is_connected().await, Pace::watch());
    let door = cluster.door.site;
    let alice = Browser::new();
    alice.log_in_as_alice(door).await;
    let cookie = alice.copy();
    load.fault_begins();
    admin.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let answer = alice.log_out(door).await;
    assert_eq!(answer.status, 303, "a logout needs no memory: {answer:?}");
    assert!(cookie.session(door).await["session_id"].is_null());
    sleep(a_while()).await;
    admin.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    load.fault_is_over().await;
    let outcome = load.finish("maxmemory reached").await;
    outcome.failed_with_503_and_only_during_the_fault();
    outcome.never_failed("GET /api/session");
    // Those who happened to log out just then did so as well.
    assert!(outcome.report.kinds.get("POST /logout").is_none_or(|logouts| logouts.failed == 0), "{}", outcome.report);
    pace.kept(&before, &cluster.connections().await, "a full server is no dead one");
    cluster.no_node_panicked();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_whose_disk_is_full_is_read_from_and_recovers_when_there_is_room() {
    let folder = format!("--dir {SMALL_DISK}");
    let cluster = Private::start(&[&folder, "--appendonly yes", "--appendfsync everysec"], "").await;
    let mut load = cluster.under_load().await;
    let mut admin = cluster.machine.admin().await;
    let (before, pace) = (cluster.each_is_connected().await, Pace::watch());
    load.fault_begins();
    cluster.machine.fill_small_disk().await;
    eventually("Redis has noticed", WHILE, async || {
        let answer = admin.command(&["SET", "x", "1"]).await;
        ensure(answer.starts_with("-MISCONF"), || answer)
    })
    .await;
    sleep(a_while()).await;
    cluster.machine.empty_small_disk().await;
    load.fault_is_over().await;
    let outcome = load.finish("AOF disk full").await;
    outcome.failed_with_503_and_only_during_the_fault();
    outcome.never_failed("GET /api/session");
    pace.kept(&before, &cluster.connections().await, "nor is one with a full disk");
    cluster.no_node_panicked();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_wrong_for_some_seconds_is_a_pause() {
    let cluster = Private::start(&["--requirepass right"], ":right@").await;
    let mut load = cluster.under_load().await;
    let mut admin = cluster.machine.admin().await;
    assert_eq!(admin.command(&["AUTH", "right"]).await, "+OK\r\n");
    load.fault_begins();
    // Who is in stays in; so they are thrown out as well.
    admin.command(&["CONFIG", "SET", "requirepass", "other"]).await;
    admin.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    sleep(Duration::from_secs(2)).await;
    admin.command(&["CONFIG", "SET", "requirepass", "right"]).await;
    load.fault_is_over().await;
    let outcome = load.finish("wrong password for 2 s").await;
    outcome.nothing_failed_if_it_was_short();
    cluster.no_node_panicked();
}

/// Step by step what an operator does; see `docs/faults.md`.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_changed_and_nobody_notices() {
    let mut cluster = Private::start(&["--requirepass old"], ":old@").await;
    let mut load = cluster.under_load().await;
    let mut admin = cluster.machine.admin().await;
    assert_eq!(admin.command(&["AUTH", "old"]).await, "+OK\r\n");
    load.fault_begins();
    // Both are good from here on.
    assert_eq!(admin.command(&["ACL", "SETUSER", "default", ">new"]).await, "+OK\r\n");
    for node in [0, 1] {
        cluster.restart(node, ":new@").await;
        let store = cluster.nodes[node].site;
        eventually("the node has found Redis", WHILE, async || {
            let ready = Browser::new().get(store, "/readyz").await;
            ensure(ready.json()["store"] == "up", || ready.text())
        })
        .await;
    }
    assert_eq!(admin.command(&["ACL", "SETUSER", "default", "<old"]).await, "+OK\r\n");
    // Whoever still had the old one would not come back.
    let before = cluster.connections_with(&mut admin).await;
    assert!(before.len() >= 2, "{before:?}");
    admin.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    load.fault_is_over().await;
    let after = cluster.connections_with(&mut admin).await;
    assert!(after.len() >= 2 && after.is_disjoint(&before), "{before:?}, {after:?}");
    let outcome = load.finish("password changed in three steps").await;
    outcome.nothing_failed();
    cluster.no_node_panicked();
}
