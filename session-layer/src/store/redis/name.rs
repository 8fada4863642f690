//! Watches where a name leads while a server is in use that it led to: names move, and a Service leads to several servers.
//!
//! At least once a second the name is resolved again, and each of its addresses is asked over a new connection who answers there: only a new
//! connection shows where a load balancer or a Service leads to. It takes none of the time of requests.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::connection::{CallError, Connection, within};
use super::epoch::{CHECK_TIMEOUT, Epoch};
use super::identity::Met;
use super::resolve::Resolver;
use super::server::{self, identify};
use super::url::{Address, Login};
use crate::id::random_bytes;

/// The longest time between two looks. Writes to an old master are lost once the name has moved, so this is short. Resolvers
/// answer from their cache until the name's TTL has passed.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The shortest. In between at random: nodes that look in step would each be led to the same server again and again by a Service that
/// gives connections to its servers in turn.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// A name that says which server is the master.
pub(super) struct Name {
    pub(super) name: Address,
    pub(super) resolver: Resolver,
}

impl Name {
    /// Resolves with the reason when the server of the epoch is to be left for what the name leads to.
    pub(super) async fn watch(&self, epoch: &Epoch) -> String {
        loop {
            let asked = Instant::now();
            match self.check(epoch).await {
                Ok(true) => epoch.confirm(asked),
                Ok(false) => {}
                Err(error) => return error.to_string(),
            }
            sleep(SHORTEST_PAUSE).await;
            let [random] = random_bytes();
            let more = (LONGEST_PAUSE - SHORTEST_PAUSE) * u32::from(random) / 255;
            let _ = timeout(more, epoch.suspicious.notified()).await;
        }
    }

    /// Returns whether the server of the epoch is the master of the name as far as can be seen.
    async fn check(&self, epoch: &Epoch) -> Result<bool, CallError> {
        let server = &epoch.server;
        // Of a server that does not say which it is, only the role is known, which the watchdog asks for.
        let Ok(first) = server.identity() else { return Ok(true) };
        let (ours, met) =
            tokio::join!(within(CHECK_TIMEOUT, identify(&epoch.connection)), self.look(&server.access.login));
        // Busy or silent: the watchdog deals with that.
        let Ok(ours) = ours else { return Ok(false) };
        if ours.run_id != first.run_id {
            return Err(CallError::Server("another server answers on the same connection".to_owned()));
        }
        server::lock(&server.access.succession).update(&ours);
        match server.meet(&ours, &met) {
            true => Err(CallError::Server(server.left().await)),
            false => Ok(true),
        }
    }

    /// Who answers under the name now. Nobody, if it cannot be resolved: that says nothing about the server in use.
    async fn look(&self, login: &Login) -> Vec<Met> {
        let Ok(addresses) = self.resolver.resolve(&self.name).await else { return Vec::new() };
        let mut looks = JoinSet::new();
        for address in addresses {
            looks.spawn(ask(address, login.clone()));
        }
        looks.join_all().await.into_iter().flatten().collect()
    }
}

async fn ask(address: SocketAddr, login: Login) -> Option<Met> {
    let (connection, _lost) = Connection::open_to_ask(address, &login).await.ok()?;
    let identity = within(CHECK_TIMEOUT, identify(&connection)).await.ok()?;
    Some(Met { address, identity })
}
