//! The time between finding a master and leaving it: its connections, and what was learned over them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::clock::{Clock, Samples};
use super::connection::{CallError, Connection, Lost, within};
use super::durable::Durable;
use super::eviction::{self, Eviction};
use super::identity::{Identity, Met, Unusable};
use super::keys::Keys;
use super::replicas::Replicas;
use super::resolve::{Resolver, first_usable};
use super::resp::Frame;
use super::rights::{self, Missing};
use super::scripts::Script;
use super::server::{Access, Server, identify, lock};
use super::status::Feature;
use super::tracking::Tracking;
use super::url::Address;
use crate::store::StoreError;

/// How long the questions may take that decide whether a server is used.
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_millis(700);

/// Before 7.0 a script writes although `min-replicas-to-write` replicas are missing.
const OLDEST_VERSION: u64 = 7;

pub(super) struct Epoch {
    pub(super) server: Arc<Server>,
    pub(super) connection: Connection,
    /// The SHA-1 of each script, as the server gave it.
    digests: [Bytes; Script::ALL.len()],
    /// The connection for commits that replicas must have, if any must.
    durable: Option<Durable>,
    clock: Mutex<Samples>,
    /// A command found reason to ask the sentinels.
    pub(super) suspicious: Notify,
    /// Those that may be read from, if any may.
    pub(super) replicas: Replicas,
    /// Over which the near cache is filled, if there is one.
    pub(super) tracking: Tracking,
    /// How many sessions were read here.
    pub(super) reads: Arc<AtomicU64>,
    /// When most sentinels were asked last and none of the newest answers named another master.
    confirmed: watch::Sender<Instant>,
    had_replicas: AtomicBool,
    /// What the user lacks for features.
    pub(super) missing: Missing,
    /// A command was refused for want of a permission.
    pub(super) rights_in_doubt: Notify,
}

impl Epoch {
    /// Connects to the first of a name's servers that can be used as the master. `replicas` is how many must have a durable commit. With
    /// `in_succession`, it is the name that says who is master, and not the sentinels.
    pub(super) async fn open(
        name: &Address,
        resolver: &Resolver,
        access: &Access,
        in_succession: bool,
        replicas: u32,
        reads: Arc<AtomicU64>,
    ) -> Result<(Self, Lost), CallError> {
        let addresses = resolver.resolve(name).await?;
        let candidate =
            first_usable(addresses, |address| Candidate::open(address, access.clone(), in_succession)).await?;
        let Candidate { address, connection, lost, role, identity } = candidate;
        let server = Server::new(name.clone(), address, access.clone(), identity);
        let mut epoch = Self {
            connection,
            digests: std::array::from_fn(|_| Bytes::new()),
            durable: None,
            clock: Mutex::new(Samples::new()),
            suspicious: Notify::new(),
            replicas: Replicas::default(),
            tracking: Tracking::default(),
            reads,
            confirmed: watch::Sender::new(Instant::now()),
            had_replicas: AtomicBool::new(false),
            missing: Missing::default(),
            rights_in_doubt: Notify::new(),
            server,
        };
        epoch.digests = within(CHECK_TIMEOUT, epoch.load_scripts()).await?;
        epoch.missing = epoch.missing_rights(&access.checks.keys).await?;
        if !epoch.missing.is_usable() {
            return Err(CallError::Server(epoch.missing.to_string()));
        }
        epoch.learn(&role?);
        if replicas > 0 && epoch.missing.feature(Feature::DurableCommits).is_none() {
            epoch.durable = Some(Durable::start(Arc::clone(&epoch.server), replicas));
        }
        if let (true, Ok(identity)) = (in_succession, epoch.server.identity()) {
            lock(&access.succession).used(Met { address, identity: identity.clone() });
        }
        Ok((epoch, lost))
    }

    /// Asks whether the server is (still) master, and what time it is there.
    pub(super) async fn check_role(&self) -> Result<(), CallError> {
        let role = within(CHECK_TIMEOUT, Role::ask(&self.connection)).await?;
        self.learn(&role);
        Ok(())
    }

    fn learn(&self, role: &Role) {
        lock(&self.clock).sample(role.redis_micros, role.sent, role.received);
        self.had_replicas.fetch_or(role.replicas > 0, Ordering::Relaxed);
    }

    /// Asks what the user may not do.
    pub(super) async fn missing_rights(&self, keys: &Keys) -> Result<Missing, CallError> {
        let answer = within(CHECK_TIMEOUT, self.run(Script::Rights, || rights::arguments(keys))).await?;
        rights::missing(answer)
    }

    /// Asks how the server evicts; `None` if it does not, or if the user may not ask.
    pub(super) async fn eviction(&self) -> Result<Option<Eviction>, CallError> {
        match within(CHECK_TIMEOUT, eviction::ask(&self.connection)).await {
            Err(error) if error.lacks_rights() => Ok(None),
            answer => answer,
        }
    }

    /// Whether this master had replicas at any time.
    pub(super) fn had_replicas(&self) -> bool {
        self.had_replicas.load(Ordering::Relaxed)
    }

    /// Whether any replica was heard of in the last seconds. `ROLE` would list a silent one for a minute.
    pub(super) async fn has_live_replica(&self) -> Result<bool, CallError> {
        let info =
            within(CHECK_TIMEOUT, self.connection.call("INFO", vec![Bytes::from_static(b"replication")])).await?;
        match info {
            Frame::BlobString { data, .. } | Frame::VerbatimString { data, .. } => {
                Ok(String::from_utf8_lossy(&data).lines().any(is_live_replica))
            }
            _ => Err(CallError::Server("INFO has an unknown form".to_owned())),
        }
    }

    /// Most sentinels, asked at this time, stand by this master.
    pub(super) fn confirm(&self, asked: Instant) {
        self.confirmed.send_replace(asked);
    }

    /// Resolves when most sentinels, asked after now, have stood by this master.
    pub(super) async fn confirmation(&self) {
        let now = Instant::now();
        let mut confirmed = self.confirmed.subscribe();
        self.suspicious.notify_one();
        // The sender lives as long as this epoch.
        let _ = confirmed.wait_for(|asked| *asked >= now).await;
    }

    /// Runs a script. One that the server has forgotten (`SCRIPT FLUSH`, a restart that the connection outlived) is loaded again,
    /// once.
    pub(super) async fn run(&self, script: Script, arguments: impl Fn() -> Vec<Bytes>) -> Result<Frame, CallError> {
        let call = || {
            let mut arguments = arguments();
            arguments.insert(0, self.digests[script as usize].clone());
            self.connection.run_script(arguments)
        };
        match call().await {
            Err(error) if error.code() == Some("NOSCRIPT") => {
                // One right behind the other, so that it is not forgotten in between.
                let (loaded, answer) = tokio::join!(self.load_script(script), call());
                loaded?;
                answer
            }
            answer => answer,
        }
    }

    /// Runs a script whose writes must be on replicas before they count, and tells whether they are.
    pub(super) async fn run_durable(
        &self,
        script: Script,
        deadline: Instant,
        arguments: impl Fn() -> Vec<Bytes>,
    ) -> Result<(Frame, bool), CallError> {
        let Some(durable) = &self.durable else { return self.run(script, arguments).await.map(|frame| (frame, true)) };
        let call = || {
            let mut arguments = arguments();
            arguments.insert(0, self.digests[script as usize].clone());
            durable.run(arguments, deadline)
        };
        match call().await {
            Err(error) if error.code() == Some("NOSCRIPT") => {
                self.load_script(script).await?;
                call().await
            }
            answer => answer,
        }
    }

    async fn load_scripts(&self) -> Result<[Bytes; Script::ALL.len()], CallError> {
        let mut digests = std::array::from_fn(|_| Bytes::new());
        for (digest, script) in digests.iter_mut().zip(Script::ALL) {
            *digest = self.load_script(script).await?;
        }
        Ok(digests)
    }

    /// Loads a script, and returns its SHA-1.
    async fn load_script(&self, script: Script) -> Result<Bytes, CallError> {
        let arguments = vec![Bytes::from_static(b"LOAD"), Bytes::from(script.text())];
        match self.connection.call("SCRIPT", arguments).await? {
            Frame::BlobString { data, .. } => Ok(data),
            _ => Err(CallError::Server("SCRIPT LOAD has an unknown form".to_owned())),
        }
    }

    /// What Redis' clock is known to be.
    pub(super) fn clock(&self) -> Clock {
        lock(&self.clock).clock()
    }

    /// What an error means to the store, and to the connection.
    pub(super) fn judge(&self, error: CallError) -> StoreError {
        match error.code() {
            // The connection is gone, which its watcher knows as well.
            None => StoreError::unavailable(error),
            // No longer a server to talk to.
            Some("READONLY" | "MASTERDOWN" | "LOADING" | "NOAUTH") => {
                self.server.leave(&error);
                StoreError::unavailable(error)
            }
            // Its replicas may have moved on to another master.
            Some("NOREPLICAS") => {
                self.suspicious.notify_one();
                StoreError::unavailable(error)
            }
            // Alive, and not now; or it forgets scripts as fast as they are loaded.
            Some("BUSY" | "TRYAGAIN" | "CLUSTERDOWN" | "NOSCRIPT") => StoreError::unavailable(error),
            Some("WRONGTYPE") => StoreError::corrupt(error),
            // Out of memory, a full disk, a user without the right: waiting a moment will not help, and neither will another server.
            Some(_) => {
                if error.lacks_rights() {
                    self.rights_in_doubt.notify_one();
                }
                StoreError::refused(error)
            }
        }
    }

    /// Drops the connections, and with them what is on its way.
    pub(super) fn close(&self) {
        self.connection.close();
        if let Some(durable) = &self.durable {
            durable.close();
        }
    }
}

/// A connection to a master that may be used.
struct Candidate {
    address: SocketAddr,
    connection: Connection,
    lost: Lost,
    role: Result<Role, CallError>,
    identity: Result<Identity, String>,
}

impl Candidate {
    async fn open(address: SocketAddr, access: Access, in_succession: bool) -> Result<Self, CallError> {
        let opened = Connection::open(address, &access.login, access.database).await;
        let (connection, lost) = opened.map_err(explain)?;
        if let Some(version) = connection.server_version()
            && major(version).is_some_and(|major| major < OLDEST_VERSION)
        {
            return Err(too_old(version));
        }
        // In one packet.
        let asked = async { Ok(tokio::join!(Role::ask(&connection), identify(&connection))) };
        let (role, identity) = within(CHECK_TIMEOUT, asked).await?;
        // Without the right to ask, all rights that are missing are told in one line.
        let role = match role {
            Err(error) if !error.lacks_rights() => return Err(error),
            role => role,
        };
        // A server that does not say who it is can be used, over one connection.
        let identity = match identity {
            Err(CallError::Lost(reason)) => return Err(CallError::Lost(reason)),
            said => said.map_err(|refusal| refusal.to_string()),
        };
        if let (true, Ok(identity)) = (in_succession, &identity) {
            let met = Met { address, identity: identity.clone() };
            let admitted = lock(&access.succession).admit(&met, Instant::now());
            admitted.map_err(|reason: Unusable| CallError::Server(reason.to_string()))?;
        }
        Ok(Self { address, connection, lost, role, identity })
    }
}

/// What a master says when it is asked whether it is one.
struct Role {
    replicas: usize,
    redis_micros: u64,
    sent: Instant,
    received: Instant,
}

impl Role {
    async fn ask(connection: &Connection) -> Result<Self, CallError> {
        let sent = Instant::now();
        let (role, time) = tokio::join!(connection.call("ROLE", vec![]), connection.call("TIME", vec![]));
        let (role, time, received) = (role?, time?, Instant::now());
        let redis_micros = read_time(&time).ok_or_else(|| CallError::Server("TIME has an unknown form".to_owned()))?;
        match read_role(&role) {
            Some(("master", replicas)) => Ok(Self { replicas, redis_micros, sent, received }),
            Some((role, _)) => Err(CallError::Server(format!("the server is not a master; its role is {role}"))),
            None => Err(CallError::Server("ROLE has an unknown form".to_owned())),
        }
    }
}

fn explain(error: CallError) -> CallError {
    match &error {
        CallError::Server(message) if message.contains("unknown command") && message.contains("HELLO") => {
            too_old("5 or less")
        }
        _ => error,
    }
}

fn major(version: &str) -> Option<u64> {
    version.split('.').next()?.parse().ok()
}

fn too_old(version: &str) -> CallError {
    CallError::Server(format!(
        "the server is version {version}; at least {OLDEST_VERSION}.0 is needed, since scripts of older ones write without \
         `min-replicas-to-write`"
    ))
}

fn read_time(frame: &Frame) -> Option<u64> {
    let Frame::Array { data, .. } = frame else { return None };
    let number = |frame: &Frame| text(frame)?.parse::<u64>().ok();
    let [seconds, micros] = data.as_slice() else { return None };
    number(seconds)?.checked_mul(1_000_000)?.checked_add(number(micros)?)
}

/// The role, and how many replicas are connected.
fn read_role(frame: &Frame) -> Option<(&str, usize)> {
    let Frame::Array { data, .. } = frame else { return None };
    let replicas = match data.get(2) {
        Some(Frame::Array { data, .. }) => data.len(),
        _ => 0,
    };
    Some((text(data.first()?)?, replicas))
}

/// A line such as `slave0:ip=10.0.0.2,port=6379,state=online,offset=42,lag=1`. A replica is heard of every second.
fn is_live_replica(line: &str) -> bool {
    let Some((name, fields)) = line.split_once(':') else { return false };
    let is_replica = name.strip_prefix("slave").is_some_and(|index| index.bytes().all(|byte| byte.is_ascii_digit()));
    let field = |name| fields.split(',').find_map(|field| field.split_once('=').filter(|field| field.0 == name));
    let lag = field("lag").and_then(|(_, lag)| lag.trim().parse::<u64>().ok());
    is_replica && field("state").is_some_and(|(_, state)| state == "online") && lag.is_some_and(|lag| lag <= 2)
}

fn text(frame: &Frame) -> Option<&str> {
    match frame {
        Frame::BlobString { data, .. } | Frame::SimpleString { data, .. } => std::str::from_utf8(data).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_that_were_heard_of_lately_are_live() {
        assert!(is_live_replica("slave0:ip=10.0.0.2,port=6379,state=online,offset=42,lag=1\r"));
        assert!(is_live_replica("slave12:ip=::1,port=6379,state=online,offset=42,lag=0"));
        for line in [
            "role:master",
            "connected_slaves:1",
            "slave_priority:100",
            "slave0:ip=10.0.0.2,port=6379,state=online,offset=42,lag=3",
            "slave0:ip=10.0.0.2,port=6379,state=wait_bgsave,offset=0,lag=0",
            "slave0:ip=10.0.0.2",
            "",
        ] {
            assert!(!is_live_replica(line), "{line}");
        }
    }
}
