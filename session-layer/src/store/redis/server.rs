//! The server of an epoch. Its name is resolved once: every connection of the epoch leads to the same address and shows the same run ID,
//! or is not used.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::connection::{CallError, Connection, Lost, within};
use super::epoch::CHECK_TIMEOUT;
use super::identity::{Identity, Met, Succession};
use super::resp::Frame;
use super::rights::Checks;
use super::status::Feature;
use super::telemetry::{self, Warnings};
use super::url::{Address, Login};

/// What the URL says about every server, and what all epochs of a store share.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) login: Login,
    pub(super) database: u8,
    pub(super) succession: Arc<Mutex<Succession>>,
    pub(super) checks: Checks,
    pub(super) warnings: Arc<Warnings>,
}

/// The server of an epoch.
pub(super) struct Server {
    /// What the URL or the sentinels call it.
    pub(super) name: Address,
    /// What the name led to when the epoch began.
    pub(super) address: SocketAddr,
    pub(super) access: Access,
    /// What the server said of itself; the reason if it does not say.
    identity: Result<Identity, String>,
    exit: Exit,
}

/// Why a server is to be left, as something other than the watchdog found out.
#[derive(Default)]
struct Exit {
    reason: Mutex<Option<String>>,
    found: Notify,
}

impl Server {
    pub(super) fn new(
        name: Address,
        address: SocketAddr,
        access: Access,
        identity: Result<Identity, String>,
    ) -> Arc<Self> {
        Arc::new(Self { name, address, access, identity, exit: Exit::default() })
    }

    /// Returns what the server said of itself when the epoch began, or why it did not.
    pub(super) fn identity(&self) -> Result<&Identity, &str> {
        self.identity.as_ref().map_err(String::as_str)
    }

    /// Opens another connection to this server.
    ///
    /// # Errors
    ///
    /// When another server answers, or this one as a replica. If that shows that this server is not the master any more, the epoch ends.
    pub(super) async fn connect(&self) -> Result<(Connection, Lost), CallError> {
        let ours = self.identity.as_ref().map_err(|reason| {
            CallError::Server(format!("a second connection needs INFO, which says whose it is: {reason}"))
        })?;
        let Access { login, database, .. } = &self.access;
        let (connection, lost) = Connection::open(self.address, login, *database).await?;
        let found = within(CHECK_TIMEOUT, identify(&connection)).await?;
        if found.run_id != ours.run_id {
            let role = if found.is_master { "master" } else { "replica" };
            let met = [Met { address: self.address, identity: found }];
            self.meet(ours, &met);
            return Err(CallError::Server(format!("another server answers under the same address, a {role}")));
        }
        if !found.is_master {
            let error = CallError::Server("the server is not a master any more".to_owned());
            self.leave(&error);
            return Err(error);
        }
        Ok((connection, lost))
    }

    /// Other servers answer under this one's name or address: the epoch ends if they show that it should.
    pub(super) fn meet(&self, ours: &Identity, met: &[Met]) -> bool {
        let mut succession = lock(&self.access.succession);
        let Some(reason) = succession.leaves(ours, met) else { return false };
        if ours.is_master {
            succession.left_for(met, Instant::now());
        }
        drop(succession);
        self.leave(&CallError::Server(reason));
        true
    }

    /// A feature has no connection to this server. A new reason is told, every ten seconds at most.
    pub(super) fn feature_off(&self, feature: Feature, reason: &CallError) {
        let (reason, Access { checks, warnings, .. }) = (reason.to_string(), &self.access);
        if checks.status.set_off(feature, &reason) && warnings.is_due(feature) {
            telemetry::feature_off(&self.name, feature, &reason);
        }
    }

    /// The server is not to be used any more.
    pub(super) fn leave(&self, reason: &CallError) {
        lock(&self.exit.reason).get_or_insert_with(|| reason.to_string());
        self.exit.found.notify_one();
    }

    /// Resolves with the reason when the server is not to be used any more.
    pub(super) async fn left(&self) -> String {
        loop {
            if let Some(reason) = lock(&self.exit.reason).clone() {
                return reason;
            }
            self.exit.found.notified().await;
        }
    }
}

/// Asks a server who it is.
pub(super) async fn identify(connection: &Connection) -> Result<Identity, CallError> {
    let sections = ["server", "replication"].map(|section| Bytes::from_static(section.as_bytes()));
    let info = match connection.call("INFO", sections.into()).await? {
        Frame::BlobString { data, .. } | Frame::VerbatimString { data, .. } => data,
        _ => return Err(CallError::Server("INFO has an unknown form".to_owned())),
    };
    Identity::read(&String::from_utf8_lossy(&info))
        .ok_or_else(|| CallError::Server("INFO does not contain run_id, role and master_replid".to_owned()))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics between changes that belong together.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
