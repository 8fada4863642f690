//! A master that sentinels watch: it dies, freezes and wakes, is deposed, is left alone.

use std::collections::BTreeSet;
use std::time::Duration;

use cluster_tests::redis::{MASTER_NAME, Machine, Signal};
use cluster_tests::wait::{ensure, eventually};
use cluster_tests::watched::{FAILOVER, Watched as Cluster};
use session_layer::SessionId;
use session_layer::store::{Commit, RedisStore, Reply, SessionStore};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{add, attributes, cause, connected, create, patiently};

const WHILE: Duration = Duration::from_secs(30);
/// How soon a new master is followed, three times that.
const FOLLOWED: Duration = Duration::from_secs(3);

/// Adds one, and may be repeated all the while.
fn patient_add(id: SessionId, name: &str) -> Commit {
    Commit { deadline: Instant::now() + FAILOVER, remember: FAILOVER * 2, ..add(id, name, 1) }
}

/// Counts in one session, and notes when it last could.
struct Writer {
    task: JoinHandle<Written>,
    stop: watch::Sender<bool>,
}

struct Written {
    /// Acknowledged commits.
    count: i64,
    /// Acknowledged commits that are not there any more.
    ///
    /// They are not durable: Redis answers first and tells the replicas then, so a signal in between takes the last one along.
    lost: i64,
    /// The longest time between two of them.
    gap: Duration,
    /// The longest one.
    slowest: Duration,
}

impl Writer {
    fn start(store: &RedisStore, id: SessionId) -> Self {
        let (stop, stopped) = watch::channel(false);
        let store = store.clone();
        let task = tokio::spawn(async move {
            let mut written = Written { count: 0, lost: 0, gap: Duration::ZERO, slowest: Duration::ZERO };
            let mut last = Instant::now();
            while !*stopped.borrow() {
                let started = Instant::now();
                let commit = patient_add(id, "n");
                let answer = patiently(&store, FAILOVER, || store.commit(&commit)).await;
                match answer {
                    Ok(Reply::Applied { counters, .. }) => {
                        written.count += 1;
                        let lost = written.count - counters["n"];
                        assert!(lost >= written.lost, "a commit was applied twice");
                        written.lost = lost;
                    }
                    Ok(reply) => panic!("after {} commits: {reply:?}", written.count),
                    Err(error) => panic!("after {} commits: {}", written.count, cause(&error)),
                }
                written.gap = written.gap.max(last.elapsed());
                written.slowest = written.slowest.max(started.elapsed());
                last = Instant::now();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            written
        });
        Self { task, stop }
    }

    async fn finish(self) -> Written {
        self.stop.send_replace(true);
        self.task.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}

async fn until_it_writes(store: &RedisStore, id: SessionId) {
    let commit = patient_add(id, "other");
    let answer = patiently(store, FAILOVER, || store.commit(&commit)).await;
    assert!(matches!(answer, Ok(Reply::Applied { .. })), "{:?}", answer.map_err(|error| cause(&error)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_is_a_pause_and_loses_nothing() {
    let cluster = Cluster::start().await;
    let store = connected(&cluster.url()).await;
    let id = create(&store).await;
    let writer = Writer::start(&store, id);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let gone = Instant::now();
    cluster.signal(0, Signal::Kill).await;
    cluster.until_promoted().await;
    let elected = gone.elapsed();
    until_it_writes(&store, id).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let written = writer.finish().await;
    let (count, lost, gap) = (written.count, written.lost, written.gap);
    println!("master killed: elected after {elected:?}; {count} commits, {lost} lost, gap {gap:?}");
    assert!(lost <= 1, "{lost}");
    assert_eq!(attributes(&store, &id).await["n"], (count - lost).to_string());
    assert!(gap < elected + FOLLOWED, "{gap:?}, elected after {elected:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_master_is_a_pause_and_its_waking_takes_nothing_along() {
    let cluster = Cluster::start().await;
    let store = connected(&cluster.url()).await;
    let id = create(&store).await;
    let writer = Writer::start(&store, id);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let gone = Instant::now();
    cluster.signal(0, Signal::Stop).await;
    let master = cluster.until_promoted().await;
    let elected = gone.elapsed();
    until_it_writes(&store, id).await;
    // A node that starts now, while the old master wakes, must not fall for it either.
    cluster.signal(0, Signal::Continue).await;
    let other = connected(&cluster.url()).await;
    for _ in 0..20 {
        until_it_writes(&other, id).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let written = writer.finish().await;
    let (count, lost, gap) = (written.count, written.lost, written.gap);
    println!("master frozen: elected after {elected:?}; {count} commits, {lost} lost, gap {gap:?}");
    assert!(lost <= 1, "{lost}");
    assert_eq!(attributes(&store, &id).await["n"], (count - lost).to_string());
    assert_eq!(attributes(&store, &id).await["other"], "21");
    assert!(gap < elected + FOLLOWED, "{gap:?}, elected after {elected:?}");
    // Both stores write, and neither to the old one.
    assert!(!cluster.clients(master).await.is_empty());
    assert_eq!(cluster.clients(0).await, BTreeSet::new());
}

/// A master and a sentinel on one machine, and the machine dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_may_take_a_sentinel_along() {
    let cluster = Cluster::start().await;
    let store = connected(&cluster.url()).await;
    let id = create(&store).await;
    let writer = Writer::start(&store, id);
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.signal(3, Signal::Stop).await;
    let gone = Instant::now();
    cluster.signal(0, Signal::Stop).await;
    cluster.until_promoted().await;
    let elected = gone.elapsed();
    until_it_writes(&store, id).await;
    let written = writer.finish().await;
    let (count, lost, gap) = (written.count, written.lost, written.gap);
    println!("master and a sentinel frozen: elected after {elected:?}; {count} commits, {lost} lost, gap {gap:?}");
    assert!(lost <= 1, "{lost}");
    assert_eq!(attributes(&store, &id).await["n"], (count - lost).to_string());
    assert!(gap < elected + FOLLOWED, "{gap:?}, elected after {elected:?}");
}

/// Sentinel demotes the old master only after it has promoted the new one, and itself learns of the promotion up to a second late.
/// What is written to the old one meanwhile is lost, so that following quickly matters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_an_operator_orders_is_followed() {
    let cluster = Cluster::start().await;
    let store = connected(&cluster.url()).await;
    let id = create(&store).await;
    let writer = Writer::start(&store, id);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(cluster.ask(3, &["SENTINEL", "FAILOVER", MASTER_NAME]).await, Ok("+OK\r\n".into()));
    let master = cluster.until_promoted().await;
    let promoted = Instant::now();
    eventually("the store with the new master", WHILE, async || {
        let (old, new) = (cluster.clients(0).await, cluster.clients(master).await);
        ensure(old.is_empty() && !new.is_empty(), || format!("old: {old:?}, new: {new:?}"))
    })
    .await;
    let followed = promoted.elapsed();
    until_it_writes(&store, id).await;
    let written = writer.finish().await;
    let (count, lost, gap) = (written.count, written.lost, written.gap);
    println!("failover ordered: followed after {followed:?}; {count} commits, {lost} lost, gap {gap:?}");
    assert!(followed < FOLLOWED, "{followed:?}");
}

/// What became of a cluster that stood still for a while.
struct Woken {
    /// After waking, until sessions could be written again.
    writes: Duration,
    written: Written,
    /// The counter at the end.
    n: i64,
    /// Whether one of the replicas is master now.
    elected: bool,
}

/// Freezes processes for seven seconds, longer than sentinels wait for a master, and wakes them all.
async fn freeze_and_wake(processes: &[usize]) -> Woken {
    let cluster = Cluster::start().await;
    let store = connected(&cluster.url()).await;
    let id = create(&store).await;
    let writer = Writer::start(&store, id);
    tokio::time::sleep(Duration::from_millis(300)).await;
    for process in processes {
        cluster.signal(*process, Signal::Stop).await;
    }
    // Nothing hangs meanwhile.
    for _ in 0..7 {
        let asked = Instant::now();
        assert!(store.load(&id).await.expect_err("all are frozen").is_unavailable());
        assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
        tokio::time::sleep_until(asked + Duration::from_secs(1)).await;
    }
    for process in processes {
        cluster.signal(*process, Signal::Continue).await;
    }
    let woken = Instant::now();
    let answer = patiently(&store, WHILE, || store.load(&id)).await;
    assert!(answer.is_ok(), "{:?}", answer.map_err(|error| cause(&error)));
    let reads = woken.elapsed();
    until_it_writes(&store, id).await;
    let writes = woken.elapsed();
    let written = writer.finish().await;
    let n = attributes(&store, &id).await["n"].parse().expect("a number");
    // Asked last: what came from a replica came from one that says so by now.
    let mut elected = false;
    for replica in [1, 2] {
        elected |= cluster.ask(replica, &["ROLE"]).await.expect("it answers").contains("master");
    }
    println!(
        "all woken: reads after {reads:?}, writes after {writes:?}; {} commits, {} lost, elected: {elected}",
        written.count,
        written.count - n
    );
    Woken { writes, written, n, elected }
}

/// Sentinels that were away for that long watch for half a minute before they act (Redis calls it TILT), so that the master stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_cluster_that_wakes_is_used_within_a_second_and_nothing_is_lost() {
    let woken = freeze_and_wake(&[3, 4, 5, 0, 1, 2]).await;
    assert!(woken.writes < Duration::from_secs(3), "{:?}", woken.writes);
    assert_eq!((woken.elected, woken.n), (false, woken.written.count));
}

/// Sentinels that were awake may be in the middle of an election when the servers wake, and then depose a master that works: what
/// it acknowledged until it learned of that is lost. Only then, though, and nothing applies twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_wake_are_used_within_a_second_and_lose_nothing_unless_there_is_an_election() {
    let woken = freeze_and_wake(&Cluster::SERVERS).await;
    assert!(woken.elected || woken.writes < Duration::from_secs(3), "{:?}", woken.writes);
    assert!(woken.n <= woken.written.count && (woken.elected || woken.n == woken.written.count), "{}", woken.n);
}

/// It answers, says that it is master, and nobody should listen.
#[tokio::test]
async fn a_deposed_master_that_still_answers_is_left() {
    let cluster = Cluster::start().await;
    let store = connected(&cluster.url()).await;
    create(&store).await;
    assert!(!cluster.clients(0).await.is_empty());
    // The sentinels are told to watch another one; the old one learns nothing of it.
    let other = cluster.machine.port(1).to_string();
    cluster.ask(1, &["REPLICAOF", "NO", "ONE"]).await.expect("it answers");
    for sentinel in Cluster::SENTINELS {
        cluster.ask(sentinel, &["SENTINEL", "REMOVE", MASTER_NAME]).await.expect("it answers");
        cluster
            .ask(sentinel, &["SENTINEL", "MONITOR", MASTER_NAME, "127.0.0.1", &other, "2"])
            .await
            .expect("it answers");
    }
    let told = Instant::now();
    eventually("the store with the new master", WHILE, async || {
        let (old, new) = (cluster.clients(0).await, cluster.clients(1).await);
        ensure(old.is_empty() && !new.is_empty(), || format!("old: {old:?}, new: {new:?}"))
    })
    .await;
    println!("a deposed master is left after {:?}", told.elapsed());
    assert!(told.elapsed() < Duration::from_secs(3), "{:?}", told.elapsed());
}

#[tokio::test]
async fn a_master_without_replicas_is_kept_while_the_sentinels_name_it() {
    let cluster = Cluster::start().await;
    let store = connected(&cluster.url()).await;
    let id = create(&store).await;
    let before = cluster.clients(0).await;
    cluster.signal(1, Signal::Kill).await;
    cluster.signal(2, Signal::Kill).await;
    let until = Instant::now() + Duration::from_secs(4);
    let mut refused = 0;
    while Instant::now() < until {
        assert!(store.load(&id).await.is_ok());
        // Writes say so at once, and each of them is a reason to ask the sentinels.
        let refusal = store.commit(&add(id, "n", 1)).await;
        refused +=
            u32::from(refusal.is_err_and(|error| error.is_unavailable() && cause(&error).contains("NOREPLICAS")));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(refused > 10, "{refused}");
    assert_eq!(cluster.clients(0).await, before, "no pointless reconnecting");
    let n: i64 = attributes(&store, &id).await.get("n").map_or(0, |n| n.parse().expect("a number"));
    cluster.start_server(1, cluster.machine.port(0)).await;
    let commit = add(id, "n", 1);
    let answer = patiently(&store, WHILE, || store.commit(&commit)).await;
    assert!(matches!(answer, Ok(Reply::Applied { counters, .. }) if counters["n"] == n + 1));
}

#[tokio::test]
async fn sentinels_that_are_gone_do_not_matter_until_they_do() {
    let cluster = Cluster::start().await;
    let store = connected(&cluster.url()).await;
    let id = create(&store).await;
    let before = cluster.clients(0).await;
    for sentinel in Cluster::SENTINELS {
        cluster.signal(sentinel, Signal::Kill).await;
    }
    tokio::time::sleep(Duration::from_millis(2500)).await;
    until_it_writes(&store, id).await;
    assert_eq!(cluster.clients(0).await, before, "no pointless reconnecting");
    // Its replicas vouch for the last known master.
    let killed = cluster.ask(0, &["CLIENT", "KILL", "TYPE", "normal"]).await.expect("it answers");
    assert_ne!(killed, ":0\r\n");
    until_it_writes(&store, id).await;
    // Nobody vouches for it: this may be the cut-off part of the network.
    cluster.signal(1, Signal::Stop).await;
    cluster.signal(2, Signal::Stop).await;
    eventually("no master", WHILE, async || ensure(!store.is_up(), || "there is one".to_owned())).await;
    cluster.signal(1, Signal::Continue).await;
    until_it_writes(&store, id).await;
}

/// The network is cut so that the master and one sentinel are on our side, and everybody else on the other, where there is an
/// election. Our sentinel still names the old master, and it still answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_cut_off_together_with_us_is_left_within_max_lag_and_a_second_for_reads_too() {
    let max_lag = Duration::from_secs(2);
    let cluster = Cluster::start().await;
    let store = connected(&cluster.url()).await;
    let id = create(&store).await;
    for process in [1, 2, 4, 5] {
        cluster.signal(process, Signal::Stop).await;
    }
    let cut = Instant::now();
    eventually("nobody reads from it", WHILE, async || {
        ensure(store.load(&id).await.is_err_and(|error| error.is_unavailable()), || "it is still read from".to_owned())
    })
    .await;
    let left = cut.elapsed();
    println!("a master that is cut off together with us is left after {left:?}");
    assert!(cluster.ask(0, &["ROLE"]).await.expect("it answers").contains("master"));
    assert!(left < (max_lag + Duration::from_secs(1)) * 3, "{left:?}");
    // It stays left, although it can be reached and says that it is master.
    for _ in 0..20 {
        assert!(!store.is_up());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for process in [1, 2, 4, 5] {
        cluster.signal(process, Signal::Continue).await;
    }
    until_it_writes(&store, id).await;
}

#[tokio::test]
async fn a_master_name_that_no_sentinel_knows_keeps_the_store_down() {
    let machine = Machine::start::<2>().await;
    machine.start_redis(machine.port(0), &[]).await;
    machine.start_sentinel(machine.port(1), machine.port(0), "").await;
    let url = format!("redis-sentinel://127.0.0.1:{}/", machine.port(1));
    let store = RedisStore::builder(&format!("{url}other")).build().expect("the URL is good");
    assert!(tokio::time::timeout(Duration::from_secs(2), store.available()).await.is_err());
    assert!(store.load(&SessionId::random()).await.expect_err("there is no master").is_unavailable());
    create(&connected(&format!("{url}{MASTER_NAME}")).await).await;
}
