use std::collections::BTreeMap;
use std::time::Duration;

use cluster_tests::browser::Browser;
use cluster_tests::node::Node;
use cluster_tests::proxy::{Proxy, RoundTrip};
use http::Method;
use testcontainers::core::{IntoContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};
use tokio::net::lookup_host;

/// The image that the cluster's Redis servers run.
const IMAGE: (&str, &str) = ("redis", "7-bookworm");

/// A node of its own, and its own Redis behind a proxy: nobody else sends anything.
struct Bench {
    redis: ContainerAsync<GenericImage>,
    proxy: Proxy,
    node: Node,
    /// How often idling sends which command, in the time that one measurement takes.
    idle: BTreeMap<String, u64>,
}

/// How long each measurement takes: long enough for what is sent without being waited for to arrive.
const WINDOW: Duration = Duration::from_millis(1500);

impl Bench {
    async fn new() -> Self {
        let redis = GenericImage::new(IMAGE.0, IMAGE.1)
            .with_exposed_port(6379.tcp())
            .with_wait_for(WaitFor::message_on_stdout("Ready to accept connections"))
            // Only the official image takes connections from other machines without a password by default.
            .with_cmd(["redis-server", "--protected-mode", "no"])
            .start()
            .await
            .expect("Redis starts");
        let port = redis.get_host_port_ipv4(6379.tcp()).await.expect("Redis has a port");
        let address = lookup_host(("127.0.0.1", port)).await.expect("an address").next().expect("one at least");
        let proxy = Proxy::start(address).await;
        let node = Node::start(&format!("redis://127.0.0.1:{}", proxy.port())).await;
        let mut bench = Self { redis, proxy, node, idle: BTreeMap::new() };

        // A write and a read, so that all connections are open and the server knows the scripts.
        let browser = Browser::new();
        browser.put(bench.node.site, "a", "1").await;
        browser.put(bench.node.site, "a", "2").await;
        browser.session(bench.node.site).await;
        let names = bench.proxy.ignore_what_idling_sends(WINDOW).await;
        println!("idling sends {names:?}");
        for name in ["hgetall", "pttl", "evalsha", "eval", "get", "set", "script"] {
            assert!(!names.contains(name), "idling must not look like a request: {names:?}");
        }
        bench.idle = bench.commands_in(WINDOW).await;
        bench
    }

    /// What the server counts while nothing but idling goes on.
    async fn commands_in(&self, time: Duration) -> BTreeMap<String, u64> {
        let before = self.calls().await;
        tokio::time::sleep(time).await;
        less(self.calls().await, &before)
    }

    /// `INFO commandstats`: how often each command was called, those called by scripts included.
    async fn calls(&self) -> BTreeMap<String, u64> {
        let command = testcontainers::core::ExecCommand::new(["redis-cli", "info", "commandstats"]);
        let mut done = self.redis.exec(command).await.expect("redis-cli runs");
        let text = String::from_utf8(done.stdout_to_vec().await.expect("it prints")).expect("text");
        text.lines()
            .filter_map(|line| {
                let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
                Some((name.to_owned(), rest.split_once(',')?.0.parse().ok()?))
            })
            .collect()
    }

    /// What one request costs: the round trips between node and Redis, and the commands that Redis counted, less idling.
    async fn cost(&self, request: impl AsyncFnOnce()) -> (Vec<RoundTrip>, BTreeMap<String, u64>) {
        let before = self.calls().await;
        let ((), mut trips) = self
            .proxy
            .during(async {
                request().await;
                // Also what is sent without being waited for counts.
                tokio::time::sleep(WINDOW).await;
            })
            .await;
        // What shares a round trip has no order that mattered.
        trips.iter_mut().for_each(|trip| trip.sort());
        let mut commands = less(self.calls().await, &before);
        // Idling does not come in exact numbers.
        commands.retain(|name, _| !self.idle.contains_key(name));
        (trips, commands)
    }
}

fn less(after: BTreeMap<String, u64>, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let grown = |(name, count): (String, u64)| (name.clone(), count - before.get(&name).copied().unwrap_or(0));
    after.into_iter().map(grown).filter(|(_, count)| *count > 0).collect()
}

/// What commands a request caused, with how often.
fn commands(list: &[(&str, u64)]) -> BTreeMap<String, u64> {
    list.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_cost_the_round_trips_that_were_promised() {
    let bench = Bench::new().await;
    let site = bench.node.site;
    let nothing = (Vec::<RoundTrip>::new(), BTreeMap::new());
    let browser = Browser::new();
    browser.put(site, "a", "1").await;
    let cookie = browser.session_cookie().expect("a first write starts a session");

    for path in ["/livez", "/readyz", "/metrics", "/static/style.css", "/nowhere"] {
        let cost = bench.cost(async || drop(browser.get(site, path).await)).await;
        assert_eq!(cost, nothing, "{path} names no session");
    }

    let (trips, counted) = bench.cost(async || drop(browser.session(site).await)).await;
    println!("GET /api/session: {trips:?}, {counted:?}");
    assert_eq!(trips, [["hgetall", "pttl"]]);
    assert_eq!(counted, commands(&[("hgetall", 1), ("pttl", 1)]));

    let (trips, counted) = bench.cost(async || drop(browser.put(site, "a", "2").await)).await;
    println!("PUT: {trips:?}, {counted:?}");
    assert_eq!(trips, [["evalsha"]]);
    assert_eq!(counted.get("evalsha"), Some(&1));

    let (trips, _) = bench.cost(async || drop(browser.increment(site, "hits").await)).await;
    println!("POST …/increment: {trips:?}");
    assert_eq!(trips, [["evalsha"]]);

    let (trips, _) = bench.cost(async || drop(browser.get(site, "/").await)).await;
    println!("GET /, which counts a visit: {trips:?}");
    assert_eq!(trips, [&["hgetall", "pttl"][..], &["evalsha"]]);

    // Neither a forged cookie nor none at all reaches Redis, and nobody who only reads gets one.
    let mut forged = cookie.into_bytes();
    forged[20] = if forged[20] == b'A' { b'B' } else { b'A' };
    for cookie in [None, Some(String::from_utf8(forged).expect("it is base64")), Some("junk".to_owned())] {
        let visitor = Browser::new();
        if let Some(cookie) = &cookie {
            visitor.set_session_cookie(cookie);
        }
        let cost = bench
            .cost(async || {
                let answer = visitor.get(site, "/api/session").await;
                assert_eq!((answer.status.as_u16(), answer.set_cookie()), (200, None), "{cookie:?}");
            })
            .await;
        assert_eq!(cost, nothing, "a cookie that was not signed: {cookie:?}");
    }

    // A refused origin does not even look at the session.
    let cost = bench
        .cost(async || {
            let lie = [("origin", "http://evil.example")];
            let answer = browser.send(site, Method::PUT, "/api/session/attributes/a", &lie, "1".into()).await;
            assert_eq!(answer.expect("an answer").status, 403);
        })
        .await;
    assert_eq!(cost, nothing, "a request from another site");
}
