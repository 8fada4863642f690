//! One connection by the Redis client `fred`, to a sentinel or for a look at a server; never mended.
//!
//! For all that no request waits for. Requests go over [`connection`](super::connection): over this client a read cost a node 33
//! microseconds where one `GET` cost 21, since it writes to the socket once per script or custom command and hashes each field of an
//! answer twice; that connection takes 18.
//!
//! The client's own reconnecting is off: who asks knows better when to ask again, and whom.

use std::net::SocketAddr;
use std::time::Duration;

use fred::clients::Client as Fred;
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::config::{Config, ConnectionConfig, ServerConfig, TcpConfig};
use fred::types::{ClusterHash, CustomCommand, Message, Resp3Frame as Frame, RespVersion, Value};
use tokio::sync::broadcast;
use tokio::task::{AbortHandle, JoinHandle};

use super::connection::CallError;
use super::resolve::{Resolver, first_usable};
use super::url::{Address, Login};

/// For each of: connecting, and the first commands.
const OPEN_TIMEOUT: Duration = Duration::from_millis(500);

pub(super) struct Client {
    fred: Fred,
    task: AbortHandle,
}

/// Tells when a [`Client`] has lost its connection.
pub(super) struct Lost(JoinHandle<Result<(), fred::error::Error>>);

impl Client {
    /// Sentinels speak RESP2 everywhere, and what a server says of itself is the same in both.
    pub(super) async fn open(name: &Address, resolver: &Resolver, login: &Login) -> Result<(Self, Lost), CallError> {
        let addresses = resolver.resolve(name).await?;
        let login = login.clone();
        first_usable(addresses, move |address| {
            let login = login.clone();
            async move { Self::open_address(address, &login).await }
        })
        .await
    }

    async fn open_address(address: SocketAddr, login: &Login) -> Result<(Self, Lost), CallError> {
        let config = Config {
            server: ServerConfig::new_centralized(address.ip().to_string(), address.port()),
            username: login.user.clone(),
            password: login.password.clone(),
            version: RespVersion::RESP2,
            fail_fast: true,
            ..Config::default()
        };
        let connection = ConnectionConfig {
            connection_timeout: OPEN_TIMEOUT,
            internal_command_timeout: OPEN_TIMEOUT,
            max_command_attempts: 1,
            tcp: TcpConfig { nodelay: Some(true), linger: Some(Duration::ZERO), ..TcpConfig::default() },
            ..ConnectionConfig::default()
        };
        let fred = Fred::new(config, None, Some(connection), None);
        // Asked for before connecting, or the news could come before we listen.
        let mut connected = fred.reconnect_rx();
        let mut lost = Lost(fred.connect());
        // From here on dropping `this` stops the client's task, also when this future is dropped halfway.
        let this = Self { task: lost.0.abort_handle(), fred };
        tokio::select! {
            _ = connected.recv() => Ok((this, lost)),
            error = lost.wait() => Err(error),
        }
    }

    /// Sends a command at once; the order of calls is the order on the wire.
    pub(super) async fn call(&self, command: &'static str, arguments: Vec<Value>) -> Result<Frame, CallError> {
        let command = CustomCommand::new_static(command, ClusterHash::FirstKey, false);
        match self.fred.custom_raw(command, arguments).await {
            Ok(Frame::SimpleError { data, .. }) => Err(CallError::Server(data.to_string())),
            Ok(Frame::BlobError { data, .. }) => Err(CallError::Server(String::from_utf8_lossy(&data).into_owned())),
            Ok(frame) => Ok(frame),
            Err(error) => Err(lost(&error)),
        }
    }

    /// Asks for everything that is published on the server; only [`messages`](Self::messages) are of use on this connection then.
    pub(super) async fn subscribe_to_all(&self) -> Result<(), CallError> {
        self.fred.psubscribe("*").await.map_err(|error| lost(&error))
    }

    /// What is published from here on.
    pub(super) fn messages(&self) -> broadcast::Receiver<Message> {
        self.fred.message_rx()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lost {
    pub(super) async fn wait(&mut self) -> CallError {
        match (&mut self.0).await {
            Ok(Ok(())) => CallError::Lost("the connection was closed".to_owned()),
            Ok(Err(error)) => lost(&error),
            Err(stopped) => CallError::Lost(stopped.to_string()),
        }
    }
}

fn lost(error: &fred::error::Error) -> CallError {
    CallError::Lost(error.details().to_owned())
}
