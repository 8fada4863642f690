//! Reads from replicas, where they are good enough: one connection each, and a proof of how old at most what it has is.
//!
//! Four times a second the master is asked how much it has written so far (its replication offset), and each replica how much of
//! that it has. A replica that has all that the master had written when it was asked is, at worst, as old as the question. That
//! needs no clock but our own, notices a link that is up and moves nothing, and takes no server for a replica of this master that
//! follows another one: the two must agree on the history that the offset counts in (its replication ID).

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::connection::{CallError, Connection, within};
use super::epoch::Epoch;
use super::reads::Reads;
use super::resolve::{Resolver, first_usable};
use super::resp::Frame;
use super::rights::Checks;
use super::status::Feature;
use super::telemetry;
use super::url::{Address, Login};
use crate::budget::OnDrop;

/// How often everybody is asked.
const INTERVAL: Duration = Duration::from_millis(250);
/// How old what a replica has may be, and with it the proof.
const MAX_LAG: Duration = Duration::from_secs(1);
/// How long an answer to a question may take, and how long one to a read before the master is asked instead.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
const READ_TIMEOUT: Duration = Duration::from_millis(100);
/// As many answers of the master as may still prove something.
const SAMPLES: usize = 8;

/// Which servers are read from, and how to log in there.
#[derive(Clone)]
pub(super) struct Settings {
    /// Those that the master names if none are given.
    pub(super) given: Option<Vec<Address>>,
    pub(super) resolver: Resolver,
    pub(super) login: Login,
    pub(super) database: u8,
    pub(super) checks: Checks,
}

/// The replicas of one master that are connected.
#[derive(Clone, Default)]
pub(super) struct Replicas {
    connected: Arc<Mutex<Vec<Arc<Replica>>>>,
    turn: Arc<AtomicUsize>,
}

pub(super) struct Replica {
    connection: Connection,
    /// Until when what it has is proven to be new enough.
    good_until: Mutex<Instant>,
    reads: Arc<AtomicU64>,
}

impl Replicas {
    /// The next one in turn of those that may be read from.
    pub(super) fn pick(&self) -> Option<Arc<Replica>> {
        let connected = lock(&self.connected);
        let (now, first) = (Instant::now(), self.turn.fetch_add(1, Ordering::Relaxed));
        let mut in_turn = (0..connected.len()).map(|i| &connected[first.wrapping_add(i) % connected.len()]);
        in_turn.find(|replica| *lock(&replica.good_until) > now).cloned()
    }

    /// Keeps connections to the replicas of this master; never ends.
    pub(super) async fn follow(&self, epoch: &Epoch, settings: &Settings, reads: &Reads) -> Infallible {
        let samples = Samples::default();
        let mut followed: HashMap<Address, AbortOnDrop> = HashMap::new();
        loop {
            let asked = Instant::now();
            // A server that was demoted a moment ago counts in the history of its new master, and may be behind it.
            if let Ok(written) = within(PROBE_TIMEOUT, replication(&epoch.connection)).await
                && written.is_master
            {
                let listed = settings.given.clone().unwrap_or_else(|| written.replicas.clone());
                samples.remember(asked, written);
                followed.retain(|address, _| listed.contains(address));
                for address in listed {
                    followed.entry(address).or_insert_with_key(|address| {
                        let follower = Follower {
                            address: address.clone(),
                            settings: settings.clone(),
                            samples: samples.clone(),
                            reads: reads.counter(address),
                            replicas: self.clone(),
                        };
                        AbortOnDrop(tokio::spawn(follower.run()))
                    });
                }
            }
            sleep(INTERVAL).await;
        }
    }
}

impl Replica {
    /// A session's fields and time to live, if it answers at once.
    pub(super) async fn read(&self, key: Bytes) -> Option<(Frame, i64)> {
        match within(READ_TIMEOUT, self.connection.read(key)).await {
            Ok(read) => Some(read),
            Err(_) => {
                // Nobody else shall wait for it until it has proven itself again.
                *lock(&self.good_until) = Instant::now();
                None
            }
        }
    }

    /// What it answered was good.
    pub(super) fn count(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }
}

struct AbortOnDrop(JoinHandle<Infallible>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Stays with one replica.
struct Follower {
    address: Address,
    settings: Settings,
    samples: Samples,
    reads: Arc<AtomicU64>,
    replicas: Replicas,
}

impl Follower {
    async fn run(self) -> Infallible {
        loop {
            let Err(error) = self.connection().await;
            telemetry::replica_lost(&self.address, &error);
            // Users are not replicated.
            if error.lacks_rights() {
                self.settings.checks.off(&self.address, Feature::ReplicaReads, &error.to_string());
            }
            sleep(2 * INTERVAL).await;
        }
    }

    async fn connection(&self) -> Result<Infallible, CallError> {
        let Settings { resolver, login, database, .. } = &self.settings;
        let (login, database) = (login.clone(), *database);
        // Reads and proofs go over one connection, so that both are about the same server, whatever the name leads to later.
        let opened = first_usable(resolver.resolve(&self.address).await?, move |address| {
            let login = login.clone();
            async move { Connection::open(address, &login, database).await }
        });
        let (connection, _lost) = opened.await?;
        let good_until = Mutex::new(Instant::now());
        let replica = Arc::new(Replica { connection, good_until, reads: Arc::clone(&self.reads) });
        lock(&self.replicas.connected).push(Arc::clone(&replica));
        let _listed = OnDrop(|| lock(&self.replicas.connected).retain(|other| !Arc::ptr_eq(other, &replica)));
        loop {
            let has = within(PROBE_TIMEOUT, replication(&replica.connection)).await?;
            if let Some(as_of) = self.samples.caught_up(&has) {
                *lock(&replica.good_until) = as_of + MAX_LAG;
                self.settings.checks.status.set_on(Feature::ReplicaReads);
            }
            sleep(INTERVAL).await;
        }
    }
}

/// What the master had written, as it said last.
#[derive(Clone, Default)]
struct Samples(Arc<Mutex<VecDeque<(Instant, Replication)>>>);

impl Samples {
    fn remember(&self, asked: Instant, written: Replication) {
        let mut samples = lock(&self.0);
        samples.truncate(SAMPLES - 1);
        samples.push_front((asked, written));
    }

    /// The last time at which a replica certainly had everything.
    fn caught_up(&self, replica: &Replication) -> Option<Instant> {
        let samples = lock(&self.0);
        let caught_up = |written: &Replication| {
            replica.linked && replica.history == written.history && replica.offset >= written.offset
        };
        samples.iter().find(|(_, written)| caught_up(written)).map(|(asked, _)| *asked)
    }
}

/// What a server says of its replication.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Replication {
    is_master: bool,
    /// Names what the offset counts in.
    history: String,
    offset: u64,
    /// It is a replica, and its link to the master is up.
    linked: bool,
    /// If it is a master, those that follow it.
    replicas: Vec<Address>,
}

async fn replication(connection: &Connection) -> Result<Replication, CallError> {
    let info = connection.call("INFO", vec![Bytes::from_static(b"replication")]).await?;
    let text = match &info {
        Frame::BlobString { data, .. } | Frame::VerbatimString { data, .. } => std::str::from_utf8(data).ok(),
        _ => None,
    };
    text.and_then(Replication::read).ok_or_else(|| CallError::Server("INFO has an unknown form".to_owned()))
}

impl Replication {
    fn read(info: &str) -> Option<Self> {
        let mut fields = HashMap::new();
        let mut replicas = Vec::new();
        for line in info.lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            if name.strip_prefix("slave").is_some_and(|index| index.parse::<u32>().is_ok()) {
                let field = |name| value.split(',').find_map(|field| field.split_once('=').filter(|f| f.0 == name));
                let (host, port) = (field("ip")?.1, field("port")?.1.parse().ok()?);
                replicas.push(Address { host: host.to_owned(), port });
            } else {
                fields.insert(name, value.trim());
            }
        }
        let is_master = *fields.get("role")? == "master";
        let offset = fields.get(if is_master { "master_repl_offset" } else { "slave_repl_offset" })?;
        Some(Self {
            is_master,
            history: (*fields.get("master_replid")?).to_owned(),
            offset: offset.parse().ok()?,
            linked: !is_master && fields.get("master_link_status") == Some(&"up"),
            replicas,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics between changes that belong together.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASTER: &str = "# Replication\r\nrole:master\r\nconnected_slaves:2\r\n\
        slave0:ip=127.0.0.1,port=6381,state=online,offset=99,lag=1\r\nslave1:ip=redis-3,port=6382,state=online,offset=100,lag=0\r\n\
        master_failover_state:no-failover\r\nmaster_replid:aa\r\nmaster_repl_offset:100\r\n";
    const REPLICA: &str = "role:slave\r\nmaster_host:127.0.0.1\r\nmaster_link_status:up\r\nslave_read_repl_offset:120\r\n\
        slave_repl_offset:90\r\nmaster_replid:aa\r\nmaster_repl_offset:95\r\n";

    fn replica(offset: u64) -> Replication {
        Replication { offset, ..Replication::read(REPLICA).unwrap() }
    }

    #[test]
    fn what_servers_say_of_their_replication_is_read() {
        let address = |host: &str, port| Address { host: host.into(), port };
        let replicas = vec![address("127.0.0.1", 6381), address("redis-3", 6382)];
        let master = Replication { is_master: true, history: "aa".into(), offset: 100, linked: false, replicas };
        assert_eq!(Replication::read(MASTER), Some(master));
        let replica =
            Replication { is_master: false, history: "aa".into(), offset: 90, linked: true, replicas: vec![] };
        assert_eq!(Replication::read(REPLICA), Some(replica));
        assert!(!Replication::read(&REPLICA.replace(":up", ":down")).unwrap().linked);
        for broken in ["", "role:master", "role:slave\nmaster_replid:a\nmaster_repl_offset:1", "slave0:ip=a"] {
            assert_eq!(Replication::read(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_replica_is_as_old_as_the_last_answer_of_the_master_that_it_has_all_of() {
        let (samples, zero) = (Samples::default(), Instant::now());
        let at = |ms| zero + Duration::from_millis(ms);
        assert_eq!(samples.caught_up(&replica(1000)), None);
        for (ms, offset) in [(0, 100), (250, 150), (500, 150), (750, 300)] {
            samples.remember(at(ms), Replication { offset, ..Replication::read(MASTER).unwrap() });
        }
        for (offset, expected) in [(99, None), (100, Some(0)), (149, Some(0)), (150, Some(500)), (300, Some(750))] {
            assert_eq!(samples.caught_up(&replica(offset)), expected.map(at), "{offset}");
        }
        let other = Replication { history: "bb".into(), ..replica(300) };
        assert_eq!(samples.caught_up(&other), None, "it follows another master");
        let cut_off = Replication { linked: false, ..replica(300) };
        assert_eq!(samples.caught_up(&cut_off), None);
    }

    #[test]
    fn old_answers_of_the_master_prove_nothing_any_more() {
        let samples = Samples::default();
        for offset in 0..2 * SAMPLES as u64 {
            samples.remember(Instant::now(), Replication { offset, ..Replication::read(MASTER).unwrap() });
        }
        assert_eq!(lock(&samples.0).len(), SAMPLES);
        assert_eq!(samples.caught_up(&replica(1)), None);
    }
}
