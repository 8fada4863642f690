//! One connection to one server, which is never mended.
//!
//! The client's own reconnecting is off: it would keep commands of a lost connection and send them again later, when whoever asked
//! has long been told that they failed. Here a lost connection stays lost, and everything that was on its way with it is dropped:
//! what waits in the client's queue and what it has not yet handed to the socket go with its task, and what the socket has not yet
//! sent goes with the socket (it lingers for no time at all, so that closing resets it).

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use fred::clients::Client;
use fred::interfaces::{ClientLike, EventInterface, KeysInterface, PubsubInterface};
use fred::types::config::{Config, ConnectionConfig, ServerConfig, TcpConfig};
use fred::types::{ClusterHash, CustomCommand, Message, Resp3Frame as Frame, RespVersion, Value, Version};
use tokio::sync::broadcast;
use tokio::task::{AbortHandle, JoinHandle};

use super::url::{Address, Login};

/// For each of: connecting, and the first commands (`HELLO`, `SELECT`).
const OPEN_TIMEOUT: Duration = Duration::from_millis(500);

pub(super) struct Connection {
    client: Client,
    task: AbortHandle,
}

/// Tells when a [`Connection`] is lost.
pub(super) struct Lost(JoinHandle<Result<(), fred::error::Error>>);

/// Why a command has no answer that can be used.
#[derive(Debug)]
pub(super) enum CallError {
    /// There is no connection (any more); whether the server executed the command is not known.
    Lost(String),
    /// The server's own words.
    Server(String),
}

impl Connection {
    /// `RESP3` for servers, where it tells a map from a list and later carries invalidations; sentinels speak RESP2 everywhere.
    pub(super) async fn open(
        address: &Address,
        login: &Login,
        database: u8,
        version: RespVersion,
    ) -> Result<(Self, Lost), CallError> {
        let config = Config {
            server: ServerConfig::new_centralized(address.host.as_str(), address.port),
            username: login.user.clone(),
            password: login.password.clone(),
            database: (database != 0).then_some(database),
            version,
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
        let client = Client::new(config, None, Some(connection), None);
        // Asked for before connecting, or the news could come before we listen.
        let mut connected = client.reconnect_rx();
        let mut lost = Lost(client.connect());
        // From here on dropping `this` stops the client's task, also when this future is dropped halfway.
        let this = Self { task: lost.0.abort_handle(), client };
        tokio::select! {
            _ = connected.recv() => Ok((this, lost)),
            error = lost.wait() => Err(error),
        }
    }

    /// Sends a command at once; the order of calls is the order on the wire.
    pub(super) async fn call(&self, command: &'static str, arguments: Vec<Value>) -> Result<Frame, CallError> {
        let command = CustomCommand::new_static(command, ClusterHash::FirstKey, false);
        match self.client.custom_raw(command, arguments).await {
            Ok(Frame::SimpleError { data, .. }) => Err(CallError::Server(data.to_string())),
            Ok(Frame::BlobError { data, .. }) => Err(CallError::Server(String::from_utf8_lossy(&data).into_owned())),
            Ok(frame) => Ok(frame),
            Err(error) => Err(lost(error)),
        }
    }

    /// A HASH and its time to live (`HGETALL`, `PTTL`), in one write.
    ///
    /// The client holds a command back while another one waits behind it, so that both leave together; except a custom command,
    /// which it sends at once. So the first of the two is not one.
    pub(super) async fn read(&self, key: Bytes) -> Result<(Frame, i64), CallError> {
        let (ttl, fields) = tokio::join!(self.client.pttl(key.clone()), self.call("HGETALL", vec![Value::Bytes(key)]));
        // An error of the server fails both; only the second one tells it from a lost connection.
        Ok((fields?, ttl.map_err(lost)?))
    }

    /// Asks for everything that is published on the server; only [`messages`](Self::messages) are of use on this connection then.
    pub(super) async fn subscribe_to_all(&self) -> Result<(), CallError> {
        self.client.psubscribe("*").await.map_err(lost)
    }

    /// What is published from here on.
    pub(super) fn messages(&self) -> broadcast::Receiver<Message> {
        self.client.message_rx()
    }

    /// What the server said about itself when it was connected to, if it may say that.
    pub(super) fn server_version(&self) -> Option<Version> {
        self.client.server_version()
    }

    pub(super) fn close(&self) {
        self.task.abort();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

impl Lost {
    pub(super) async fn wait(&mut self) -> CallError {
        CallError::Lost(match (&mut self.0).await {
            Ok(Ok(())) => "the connection was closed".to_owned(),
            Ok(Err(error)) => error.details().to_owned(),
            Err(stopped) => stopped.to_string(),
        })
    }
}

impl CallError {
    /// The first word of the server's answer, which tells the kind of the error.
    pub(super) fn code(&self) -> Option<&str> {
        match self {
            Self::Lost(_) => None,
            Self::Server(message) => message.split(' ').next(),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(message) | Self::Server(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for CallError {}

fn lost(error: fred::error::Error) -> CallError {
    CallError::Lost(error.details().to_owned())
}

/// A command that must be answered within some time.
pub(super) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    let late = |_| CallError::Lost(format!("no answer in {} ms", limit.as_millis()));
    tokio::time::timeout(limit, call).await.map_err(late)?
}
