//! Something between node and Redis that mixes up replies, as Redis itself never does.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cluster_tests::lossy::{Lossy, MixUp};
use cluster_tests::redis::{self, Machine};
use cluster_tests::wait::{ensure, eventually};
use session_layer::SessionId;
use session_layer::store::{
    Action, Freshness, Loaded, NearCacheLimits, Record, RedisStore, Reply, SessionStore, Start, Version,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{add, applied, cause, commit, connected, patiently, set, start, touch};

const WHILE: Duration = Duration::from_secs(20);
/// How many replies are mixed up in each way, and how often.
const MIXED: u64 = 15;
const EVERY: u64 = 19;

/// A session with its own number in it, whose principal has no other.
struct Visitor {
    id: SessionId,
    name: String,
}

impl Visitor {
    async fn new(store: &RedisStore, name: String) -> Self {
        let id = SessionId::random();
        let start = Start { principal: Some(name.clone()), ..start() };
        let mut create = commit(Action::Create(id, start));
        create.changes = set(id, "name", &name).changes;
        applied(store, &create).await;
        Self { id, name }
    }

    #[track_caller]
    fn is_own(&self, record: &Record, how: &str) {
        let name = record.attributes.iter().find(|(name, _)| *name == "name").map(|(_, value)| value.clone());
        assert_eq!(name.as_deref(), Some(self.name.as_bytes()), "{how}: another visitor's session");
        assert_eq!(record.principal.as_deref(), Some(self.name.as_str()), "{how}");
    }

    async fn read_copy(&self, store: &RedisStore) {
        let wanted = Freshness { at_least: Version(0), max_age: Duration::from_secs(1) };
        if let Some(copy) = store.load_copy(&self.id, &wanted).await {
            self.is_own(&copy, "a copy");
        }
    }

    /// Reads, counts, prolongs and lists as fast as it can, and checks each answer.
    async fn visit(self, store: RedisStore, durable: bool, stop: Arc<AtomicBool>) {
        let mut counted = 0;
        while !stop.load(Ordering::Relaxed) {
            self.read_copy(&store).await;
            match patiently(&store, WHILE, || store.load(&self.id)).await {
                Ok(Loaded::Alive(record)) => self.is_own(&record, "a read"),
                other => panic!("{}: {:?}", self.name, other.map_err(|error| cause(&error))),
            }
            self.read_copy(&store).await;
            let mut count = add(self.id, "n", 1);
            if durable {
                (count.durable, count.deadline) = (true, Instant::now() + WHILE);
            }
            counted += 1;
            match patiently(&store, WHILE, || store.commit(&count)).await {
                Ok(Reply::Applied { counters, .. }) => assert_eq!(counters["n"], counted, "{}", self.name),
                other => panic!("{}: {:?}", self.name, other.map_err(|error| cause(&error))),
            }
            let listed = patiently(&store, WHILE, || store.sessions_of("session", &self.name)).await;
            let listed = listed.unwrap_or_else(|error| panic!("{}", cause(&error)));
            assert_eq!(listed.len(), 1, "{}", self.name);
            self.is_own(&listed[0].record, "a list");
            let _ = store.touch(&touch(self.id)).await;
        }
    }
}

/// Visitors of a store whose replies are mixed up in each way.
async fn visit_all(store: &RedisStore, proxies: &[Lossy], durable: bool) {
    for how in [MixUp::Swap, MixUp::Replace, MixUp::Repeat, MixUp::Lose] {
        let stop = Arc::new(AtomicBool::new(false));
        let mut visits = JoinSet::new();
        for number in 0..12 {
            let visitor = Visitor::new(store, format!("visitor {number}, {how:?}")).await;
            visits.spawn(visitor.visit(store.clone(), durable, Arc::clone(&stop)));
        }
        let mixed = || proxies.iter().map(Lossy::mixed_up).sum::<u64>();
        let before = mixed();
        proxies.iter().for_each(|proxy| proxy.mix_up(Some((how, EVERY))));
        eventually("mixed up replies, or a visitor who sees one", WHILE, async || {
            // Whoever saw one has stopped.
            while let Some(visit) = visits.try_join_next() {
                visit.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            }
            let mixed = mixed() - before;
            ensure(mixed >= MIXED, || format!("{how:?}: {mixed}"))
        })
        .await;
        proxies.iter().for_each(|proxy| proxy.mix_up(None));
        stop.store(true, Ordering::Relaxed);
        while let Some(visit) = visits.join_next().await {
            visit.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        }
        println!("{how:?}: {} replies mixed up", mixed() - before);
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mixed_up_reply_reaches_no_other_request() {
    let machine = Machine::with_redis(&[]).await;
    let proxy = Lossy::start(local(machine.port(0))).await;
    let store = connected(&redis::url(proxy.port())).await;
    visit_all(&store, &[proxy], false).await;
}

/// The connections for the near cache, for logins and to replicas are checked as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mixed_up_reply_reaches_no_request_over_any_connection() {
    let machine = Machine::start::<2>().await;
    machine.start_redis(machine.port(0), &[]).await;
    machine.start_redis(machine.port(1), &[&format!("--replicaof 127.0.0.1 {}", machine.port(0))]).await;
    let proxies = [Lossy::start(local(machine.port(0))).await, Lossy::start(local(machine.port(1))).await];
    let store = RedisStore::builder(&redis::url(proxies[0].port()))
        .durable_replicas(1)
        .replica_reads(true)
        .replicas([local(proxies[1].port()).to_string()])
        .near_cache(NearCacheLimits::default())
        .build()
        .expect("the settings are good");
    store.available().await;
    visit_all(&store, &proxies, true).await;
    let reads = store.reads();
    assert!(reads.near_cache > 0 && reads.servers[&local(proxies[1].port()).to_string()] > 0, "{reads:?}");
}
