//! Finds the master, holds on to it, and looks again when it is gone: one task per store.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::connection::{CallError, Lost};
use super::epoch::Epoch;
use super::identity::Succession;
use super::name::Name;
use super::reads::Reads;
use super::resolve::Resolver;
use super::rights::Checks;
use super::sentinel::Sentinels;
use super::server::Access;
use super::status::Feature;
use super::url::{Address, RedisUrl, Servers};
use super::watchdog::Authority;
use super::{replicas, telemetry, tracking, watchdog};
use crate::id::random_bytes;

/// The master that is in use, if there is one.
pub(super) type Master = watch::Sender<Option<Arc<Epoch>>>;

/// How often the sentinels are asked whether the server that is being connected to is still the one.
const SECOND_THOUGHTS: Duration = Duration::from_millis(100);

/// An epoch shorter than this is followed by a pause, so that a server which lets us in and throws us out is not hammered.
const SHORT: Duration = Duration::from_millis(500);

/// Never ends; drop it to stop.
pub(super) async fn keep_connected(
    topology: Topology,
    replica_reads: Option<replicas::Settings>,
    near_cache: Option<tracking::Settings>,
    master: Arc<Master>,
) {
    let (reads, checks) = (&topology.reads, &topology.access.checks);
    let mut last = None;
    loop {
        let (epoch, lost) = topology.connect(last.as_ref()).await;
        let epoch = Arc::new(epoch);
        let since = Instant::now();
        checks.status.set_server(epoch.server.name.to_string());
        for feature in &checks.wanted {
            match epoch.missing.feature(*feature) {
                Some(reason) => checks.off(&epoch.server.name, *feature, &reason),
                None => checks.status.set_on(*feature),
            }
        }
        master.send_replace(Some(Arc::clone(&epoch)));
        telemetry::connected(&epoch.server, last.as_ref());
        let is_on = |feature| epoch.missing.feature(feature).is_none();
        let follow_replicas = async {
            match &replica_reads {
                Some(settings) if is_on(Feature::ReplicaReads) => epoch.replicas.follow(&epoch, settings, reads).await,
                _ => std::future::pending().await,
            }
        };
        let fill_near_cache = async {
            match &near_cache {
                Some(settings) if is_on(Feature::NearCache) => epoch.tracking.follow(&epoch.server, settings).await,
                _ => std::future::pending().await,
            }
        };
        let reason = tokio::select! {
            reason = watchdog::watch(&epoch, lost, &topology.authority, checks) => reason,
            never = follow_replicas => match never {},
            never = fill_near_cache => match never {},
        };
        // First no new attempt, then no old one: whatever is on its way is answered by this, and cannot be sent any more.
        checks.status.set_problem(&reason);
        master.send_replace(None);
        epoch.close();
        telemetry::left(&epoch.server.name, &reason);
        last = Some(epoch.server.name.clone());
        drop(epoch);
        if since.elapsed() < SHORT {
            pause().await;
        }
    }
}

/// Where the master is found, and how it is opened.
pub(super) struct Topology {
    authority: Authority,
    resolver: Resolver,
    access: Access,
    durable_replicas: u32,
    reads: Reads,
}

impl Topology {
    pub(super) fn new(url: RedisUrl, resolver: Resolver, durable_replicas: u32, reads: Reads, checks: Checks) -> Self {
        let RedisUrl { servers, login, database } = url;
        let authority = match servers {
            Servers::Standalone(name) => Authority::Name(Name { name, resolver: resolver.clone() }),
            Servers::Sentinel { sentinels, master } => {
                Authority::Sentinels(Sentinels::new(sentinels, &master, &resolver))
            }
        };
        let succession = Arc::new(Mutex::new(Succession::default()));
        let access = Access { login, database, succession, checks, warnings: Arc::default() };
        Self { authority, resolver, access, durable_replicas, reads }
    }

    async fn connect(&self, last: Option<&Address>) -> (Epoch, Lost) {
        let mut complaints = telemetry::Complaints::default();
        loop {
            let attempt = match &self.authority {
                Authority::Name(name) => self.open(&name.name).await,
                Authority::Sentinels(sentinels) => self.open_named(sentinels, last).await,
            };
            match attempt {
                Ok(opened) => return opened,
                Err(error) => {
                    self.access.checks.status.set_problem(&error);
                    complaints.cannot_connect(&error);
                }
            }
            pause().await;
        }
    }

    async fn open(&self, server: &Address) -> Result<(Epoch, Lost), String> {
        let in_succession = matches!(self.authority, Authority::Name(_));
        let reads = self.reads.counter(server);
        let opened =
            Epoch::open(server, &self.resolver, &self.access, in_succession, self.durable_replicas, reads).await;
        opened.map_err(|error: CallError| format!("{server}: {error}"))
    }

    /// Opens the master that the sentinels name.
    async fn open_named(&self, sentinels: &Sentinels, last: Option<&Address>) -> Result<(Epoch, Lost), String> {
        let answers = sentinels.ask().await;
        // Without any sentinel there is no failover either, so that the last master may well be the master still.
        let server = answers.master().or(last).ok_or_else(|| answers.complaint())?;
        let (epoch, lost) = tokio::select! {
            opened = self.open(server) => opened?,
            // A frozen server takes its time to not answer.
            () = deposed(sentinels, server) => return Err(format!("{server}: the sentinels name another master by now")),
        };
        // Those who answered may be the cut-off part of the network, unless a replica stands by this master.
        if !answers.majority && !matches!(epoch.has_live_replica().await, Ok(true)) {
            return Err(format!("{server}: neither most sentinels nor any replica confirm that it is master"));
        }
        Ok((epoch, lost))
    }
}

async fn deposed(sentinels: &Sentinels, server: &Address) {
    loop {
        tokio::time::sleep(SECOND_THOUGHTS).await;
        if sentinels.ask().await.deposes(server) {
            return;
        }
    }
}

/// 50 to 150 ms, so that the nodes of a cluster do not all come at once.
async fn pause() {
    let [random] = random_bytes();
    tokio::time::sleep(Duration::from_millis(50 + u64::from(random) * 100 / 255)).await;
}
