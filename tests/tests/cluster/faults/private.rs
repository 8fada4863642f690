//! Two nodes behind nginx, as processes of this machine, and a Redis of their own behind a proxy for each.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cluster_tests::door::Door;
use cluster_tests::lossy::Lossy;
use cluster_tests::node::Node;
use cluster_tests::ports;
use cluster_tests::redis::{Machine, Redis};
use cluster_tests::wait::{ensure, eventually};

use super::{UnderLoad, WHILE};

/// What the nodes, which are not optimised, do with ease on a busy machine.
const RATE: u32 = 40;

pub(super) struct Private {
    pub(super) machine: Machine,
    pub(super) proxies: Vec<Lossy>,
    pub(super) nodes: Vec<Node>,
    pub(super) door: Door,
}

impl Private {
    /// With a Redis that has these options; `login` stands in the nodes' URLs, as `:password@`.
    pub(super) async fn start(options: &[&str], login: &str) -> Self {
        let machine = Machine::with_redis(options).await;
        let mut proxies = Vec::new();
        let mut nodes = Vec::new();
        let ports: [u16; 2] = ports::free();
        for (port, name) in ports.into_iter().zip(["1111", "2222"]) {
            let proxy = Lossy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, machine.port(0)))).await;
            nodes.push(Node::launch(port, name, &url(login, &proxy)).await);
            proxies.push(proxy);
        }
        let door = Door::start([nodes[0].site, nodes[1].site]).await;
        Self { machine, proxies, nodes, door }
    }

    pub(super) async fn under_load(&self) -> UnderLoad {
        UnderLoad::start(self.door.site, RATE).await
    }

    /// Stops a node and starts it again, with another login.
    pub(super) async fn restart(&mut self, node: usize, login: &str) {
        self.nodes[node].stop().await;
        let (port, name) = (self.nodes[node].site.port, ["1111", "2222"][node]);
        self.nodes[node] = Node::launch(port, name, &url(login, &self.proxies[node])).await;
    }

    /// The IDs of the nodes' connections to Redis.
    pub(super) async fn connections(&self) -> BTreeSet<String> {
        self.connections_with(&mut self.machine.admin().await).await
    }

    /// The same, as soon as both have one.
    pub(super) async fn each_is_connected(&self) -> BTreeSet<String> {
        eventually("a connection of each node", WHILE, async || {
            let connections = self.connections().await;
            ensure(connections.len() == self.nodes.len(), || format!("{connections:?}")).map(|()| connections)
        })
        .await
    }

    /// The same, over a connection that may ask.
    pub(super) async fn connections_with(&self, admin: &mut Redis) -> BTreeSet<String> {
        let list = admin.command(&["CLIENT", "LIST", "TYPE", "normal"]).await;
        let nodes = list.lines().filter(|line| line.contains(" resp=3"));
        nodes.filter_map(|line| line.split("id=").nth(1)?.split(' ').next().map(str::to_owned)).collect()
    }

    #[track_caller]
    pub(super) fn no_node_panicked(&self) {
        for node in &self.nodes {
            assert_eq!(node.panics(), Vec::<String>::new());
        }
    }
}

/// Notes for how long this machine stood still, or had no time for this process.
pub(super) struct Pace(Arc<AtomicU64>);

impl Pace {
    pub(super) fn watch() -> Self {
        let longest = Arc::new(AtomicU64::new(0));
        let noted = Arc::downgrade(&longest);
        thread::spawn(move || {
            const STEP: Duration = Duration::from_millis(10);
            while let Some(longest) = noted.upgrade() {
                let began = Instant::now();
                thread::sleep(STEP);
                longest.fetch_max(began.elapsed().saturating_sub(STEP).as_millis() as u64, Ordering::Relaxed);
            }
        });
        Self(longest)
    }

    /// Nodes kept their connections to Redis: they leave one that does not answer for 700 ms. A machine that stands still for much of
    /// that, when an answer takes 200 already, makes it such a one.
    #[track_caller]
    pub(super) fn kept(&self, before: &BTreeSet<String>, after: &BTreeSet<String>, why: &str) {
        let still = Duration::from_millis(self.0.load(Ordering::Relaxed));
        println!("this machine stood still for {still:?}");
        assert!(before == after || still > Duration::from_millis(250), "{why}: {before:?}, {after:?}");
    }
}

fn url(login: &str, proxy: &Lossy) -> String {
    format!("redis://{login}127.0.0.1:{}", proxy.port())
}
