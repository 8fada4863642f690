//! Names with several addresses, and names that move.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster_tests::redis::{self, MASTER_NAME, Machine};
use cluster_tests::service::Service;
use cluster_tests::wait::{ensure, eventually};
use session_layer::SessionId;
use session_layer::store::{Action, Feature, RedisStore, RedisStoreBuilder, Reply, SessionStore};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::{add, applied, cause, commit, create};

const WHILE: Duration = Duration::from_secs(30);

/// What the name `redis` leads to.
#[derive(Clone, Default)]
struct Dns(Arc<Mutex<Vec<SocketAddr>>>);

impl Dns {
    fn lead_to(&self, addresses: &[SocketAddr]) {
        *self.0.lock().unwrap() = addresses.to_vec();
    }

    fn builder(&self, url: &str) -> RedisStoreBuilder {
        let dns = self.clone();
        RedisStore::builder(url).resolver(move |host, _| match host {
            "redis" => dns.0.lock().unwrap().clone(),
            _ => Vec::new(),
        })
    }

    async fn connected(&self, url: &str) -> RedisStore {
        let store = self.builder(url).build().expect("the URL is good");
        let up = tokio::time::timeout(WHILE, store.available()).await;
        up.expect("the store connects");
        store
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// An address where nobody ever answers.
async fn silent() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("some port is free");
    let address = listener.local_addr().expect("it listens");
    tokio::spawn(async move {
        let mut clients = Vec::new();
        while let Ok((client, _)) = listener.accept().await {
            clients.push(tokio::spawn(async move {
                let (mut client, mut said) = (client, Vec::new());
                let _ = client.read_to_end(&mut said).await;
            }));
        }
    });
    address
}

async fn start_replica(machine: &Machine, replica: usize) {
    let of = format!("--replicaof 127.0.0.1 {}", machine.port(0));
    machine.start_redis(machine.port(replica), &[&of]).await;
    eventually("a replica that has everything", WHILE, async || {
        let info = machine.redis(machine.port(replica)).await?.try_command(&["INFO", "replication"]).await?;
        ensure(info.contains("master_link_status:up"), || info)
    })
    .await;
}

#[tokio::test]
async fn a_master_is_found_behind_a_silent_address_and_a_replica() {
    let machine = Machine::start::<2>().await;
    machine.start_redis(machine.port(0), &[]).await;
    start_replica(&machine, 1).await;
    let dns = Dns::default();
    dns.lead_to(&[silent().await, local(machine.port(1)), local(machine.port(0))]);
    let store = dns.connected(&format!("redis://{}@redis", redis::login())).await;
    let id = create(&store).await;
    assert_eq!(applied(&store, &add(id, "n", 1)).await["n"], 1);
}

#[tokio::test]
async fn a_sentinel_is_found_behind_a_silent_address() {
    let machine = Machine::start::<2>().await;
    machine.start_redis(machine.port(0), &[]).await;
    machine.start_sentinel(machine.port(1), machine.port(0), "").await;
    let dns = Dns::default();
    dns.lead_to(&[silent().await, local(machine.port(1))]);
    let store = dns.connected(&format!("redis-sentinel://{}@redis/{MASTER_NAME}", redis::login())).await;
    create(&store).await;
}

#[tokio::test]
async fn a_name_whose_address_changes_to_the_promoted_server_is_followed() {
    let machine = Machine::start::<2>().await;
    machine.start_redis(machine.port(0), &[]).await;
    start_replica(&machine, 1).await;
    let dns = Dns::default();
    dns.lead_to(&[local(machine.port(0))]);
    let store = dns.connected(&format!("redis://{}@redis", redis::login())).await;
    create(&store).await;
    let mut promoted = machine.redis(machine.port(1)).await.expect("it runs");
    assert_eq!(promoted.command(&["REPLICAOF", "NO", "ONE"]).await, "+OK\r\n");
    dns.lead_to(&[local(machine.port(1))]);
    eventually("a connection to the promoted server, and none to the old one", WHILE, async || {
        let old = machine.admin().await.command(&["CLIENT", "LIST"]).await;
        let new = promoted.command(&["CLIENT", "LIST"]).await;
        ensure(!old.contains(" resp=3") && new.contains(" resp=3"), || format!("{old}\n{new}"))
    })
    .await;
    // Once more, and the name leads to the old one again: it is not master of what was written since.
    store.available().await;
    let id = create(&store).await;
    dns.lead_to(&[local(machine.port(0))]);
    promoted.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    for _ in 0..20 {
        assert!(store.load(&id).await.expect_err("the old master is not used").is_unavailable());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    dns.lead_to(&[local(machine.port(0)), local(machine.port(1))]);
    eventually("the promoted server", WHILE, async || store.load(&id).await.map(drop).map_err(|e| e.to_string())).await;
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_keeps_the_connection() {
    let machine = Machine::with_redis(&[]).await;
    let dns = Dns::default();
    dns.lead_to(&[local(machine.port(0))]);
    let store = dns.connected(&format!("redis://{}@redis", redis::login())).await;
    let id = create(&store).await;
    dns.lead_to(&[]);
    // Longer than it takes to look at the name a few times.
    for n in 1..=40 {
        assert_eq!(applied(&store, &add(id, "n", 1)).await["n"], n);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_member_of_a_redis_cluster_is_not_used() {
    let machine = Machine::with_redis(&["--cluster-enabled yes"]).await;
    let store = RedisStore::builder(&machine.url()).build().expect("the URL is good");
    assert!(tokio::time::timeout(Duration::from_secs(2), store.available()).await.is_err(), "it is used");
    let clients = machine.admin().await.command(&["INFO", "stats"]).await;
    let connections = clients.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    assert!(connections.and_then(|count| count.parse::<u32>().ok()).is_some_and(|count| count > 2), "it was tried");
}

/// The connection for logins never leads to the master.
#[tokio::test]
async fn a_login_without_a_connection_fails_with_the_reason_and_few_attempts() {
    let machine = Machine::start::<2>().await;
    machine.start_redis(machine.port(0), &[]).await;
    start_replica(&machine, 1).await;
    let mut servers = vec![local(machine.port(1)); 1000];
    servers[0] = local(machine.port(0));
    let service = Service::start(&servers).await;
    let store = RedisStore::builder(&service.url()).durable_replicas(1).build().expect("the URL is good");
    tokio::time::timeout(WHILE, store.available()).await.expect("the store connects");
    let (opened, since) = (service.opened(), Instant::now());
    while since.elapsed() < Duration::from_secs(10) {
        let mut log_in = commit(Action::Create(SessionId::random(), super::start()));
        (log_in.durable, log_in.deadline) = (true, Instant::now() + Duration::from_secs(1));
        let error = store.commit(&log_in).await.expect_err("there is no connection for it");
        assert!(error.is_unavailable() && cause(&error).contains("another server answers"), "{}", cause(&error));
    }
    let off = store.status().off;
    assert!(off.get(&Feature::DurableCommits).is_some_and(|reason| reason.contains("a replica")), "{off:?}");
    // Looks at where the name leads included, which take up to half of them.
    let opened = service.opened() - opened;
    println!("{opened} connections in 10 s");
    assert!(opened < 60, "{opened}");
    service.lead_to(&servers[..1]);
    eventually("a login", WHILE, async || {
        let mut log_in = commit(Action::Create(SessionId::random(), super::start()));
        log_in.durable = true;
        let answer = store.commit(&log_in).await.map_err(|error| cause(&error))?;
        ensure(matches!(answer, Reply::Applied { confirmed: true, .. }), || format!("{answer:?}"))
    })
    .await;
}
