//! Eight clients on one session over both nodes: what they were told must be explained by some order of what they did.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use cluster_tests::browser::{Browser, Site};
use cluster_tests::cluster;
use session_layer::test_util::history::{self, Call, Operation};
use tokio::task::JoinSet;
use tokio::time::Instant;

const ATTRIBUTES: [&str; 4] = ["a", "b", "c", "d"];
const CLIENTS: u64 = 8;
/// For this long, and until there were so many operations.
const LASTS: Duration = Duration::from_secs(30);
const OPERATIONS: u64 = 15_000;
/// A machine that takes longer for them is not worth waiting for.
const PATIENCE: Duration = Duration::from_secs(180);

struct Client {
    browser: Browser,
    nodes: [Site; 2],
    began: Instant,
    random: u64,
    /// No two writes of one run set the same number.
    values: Arc<AtomicI64>,
}

impl Client {
    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// One request, and what it says about which attributes.
    async fn operation(&mut self) -> Vec<(usize, Operation)> {
        let (site, attribute) = (self.nodes[self.random(2) as usize], self.random(4) as usize);
        let name = ATTRIBUTES[attribute];
        let kind = self.random(10);
        let invoked = self.now();
        let calls = match kind {
            0..=2 => {
                let value = self.values.fetch_add(1_000_000, Ordering::Relaxed);
                let answer = self.browser.put(site, name, value.to_string()).await;
                assert_eq!(answer.status, 204, "{answer:?}");
                vec![(attribute, Call::Set(value))]
            }
            3 => {
                let answer = self.browser.delete(site, name).await;
                match answer.status.as_u16() {
                    // The handler looked, and then removed what may have gone meanwhile.
                    204 => vec![(attribute, Call::Remove(None))],
                    404 => vec![(attribute, Call::Read(None))],
                    _ => panic!("{answer:?}"),
                }
            }
            4..=5 => {
                let answer = self.browser.increment(site, name).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                vec![(attribute, Call::Increment(Some(answer.value())))]
            }
            _ => {
                let session = self.browser.session(site).await;
                let read = |name: &str| Call::Read(session["attributes"][name].as_i64());
                ATTRIBUTES.iter().enumerate().map(|(attribute, name)| (attribute, read(name))).collect()
            }
        };
        let answered = Some(self.now());
        calls.into_iter().map(|(attribute, call)| (attribute, Operation { call, invoked, answered })).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_eight_clients_of_one_session_see_on_both_nodes_is_linearizable() {
    let cluster = cluster::shared().await;
    let browser = Browser::new();
    // The session is there before anybody races for it.
    assert_eq!(browser.put(cluster.nginx(), "begun", "true").await.status, 204);
    let (began, done, values) = (Instant::now(), Arc::new(AtomicU64::new(0)), Arc::new(AtomicI64::new(1_000_000)));
    let mut clients = JoinSet::new();
    for random in 0..CLIENTS {
        let (browser, nodes, values) = (browser.clone(), cluster.nodes(), Arc::clone(&values));
        let (mut client, done) = (Client { browser, nodes, began, random, values }, Arc::clone(&done));
        clients.spawn(async move {
            let mut operations = Vec::new();
            while began.elapsed() < LASTS || done.load(Ordering::Relaxed) < OPERATIONS {
                assert!(began.elapsed() < PATIENCE, "only {done:?} operations in {PATIENCE:?}");
                operations.extend(client.operation().await);
                done.fetch_add(1, Ordering::Relaxed);
            }
            operations
        });
    }
    let mut histories: [Vec<Operation>; 4] = Default::default();
    for (attribute, operation) in clients.join_all().await.into_iter().flatten() {
        histories[attribute].push(operation);
    }
    for (name, history) in ATTRIBUTES.iter().zip(&histories) {
        assert_eq!(history::check(None, history), Ok(()), "attribute {name}");
    }
    println!("{done:?} operations in {:?}, no anomaly", began.elapsed());
}
