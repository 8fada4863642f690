//! One connection to one server, which is never mended.
//!
//! A lost connection stays lost, and everything that was on its way with it is dropped: what was not yet handed to the socket goes with
//! the task, and what the socket has not yet sent goes with the socket (it lingers for no time at all, so that closing resets it). So
//! nothing that somebody was told has failed is sent later.
//!
//! Requests that come together share a packet, each way. That is most of what a round trip costs: one write per command took a
//! quarter of a node's time, and one read per command as much of Redis'. Replies are delivered when their whole packet has been checked
//! (see [`packet`]); a reply that belongs elsewhere ends the connection first.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, broadcast, oneshot};
use tokio::task::{AbortHandle, JoinHandle};

use super::hello;
use super::packet::{self, Expected, Misplaced};
use super::resp::{self, Frame};
use super::url::Login;

/// For each of: connecting, and the first commands (`HELLO`, `SELECT`).
const OPEN_TIMEOUT: Duration = Duration::from_millis(500);
/// How much is read at once at least. What a node's requests ask for in one packet comes back in a few.
const READ_SIZE: usize = 16 * 1024;
/// What the server says unasked is kept for a listener that is slow to take it.
const KEPT_UNASKED: usize = 256;
/// How many bytes of commands share a marker at most, so that small replies do not wait for large commands behind them.
const PACKET_SIZE: usize = 16 * 1024;
/// A buffer that one large commit has grown beyond this is not kept.
const KEPT_SIZE: usize = 256 * 1024;

pub(super) struct Connection {
    wire: Arc<Wire>,
    task: AbortHandle,
    server_version: Option<String>,
}

/// Tells when a [`Connection`] is lost.
pub(super) struct Lost(JoinHandle<String>);

/// Why a command has no answer that can be used.
#[derive(Debug)]
pub(super) enum CallError {
    /// There is no connection (any more); whether the server executed the command is not known.
    Lost(String),
    /// The server's own words.
    Server(String),
}

/// What callers and the connection's task share.
struct Wire {
    queue: Mutex<Queue>,
    /// There is something to send.
    filled: Notify,
    unasked: broadcast::Sender<Vec<Frame>>,
}

#[derive(Default)]
struct Queue {
    /// Commands that were not yet handed to the socket.
    out: Vec<u8>,
    /// Where in `out` the packet begins that has no marker yet.
    packet_start: usize,
    packets: u32,
    /// Who waits for the next answers, in the order in which the server gives them.
    waiting: VecDeque<Waiting>,
    /// Why, once it is.
    lost: Option<String>,
}

enum Waiting {
    Reply(oneshot::Sender<Frame>, Expected),
    /// The number of the packet that ends here.
    Marker(u32),
}

/// Replies of a packet whose marker has not come yet.
type Held = Vec<(oneshot::Sender<Frame>, Frame)>;

impl Connection {
    /// Opens a connection for sessions: RESP3, in their database. To an address, not a name, so that the connections of an epoch lead to
    /// one place.
    pub(super) async fn open(address: SocketAddr, login: &Login, database: u8) -> Result<(Self, Lost), CallError> {
        let (mut this, lost) = Self::start(address).await?;
        within(OPEN_TIMEOUT, this.greet(login, database)).await?;
        Ok((this, lost))
    }

    /// Opens a connection that only asks the server who it is. It speaks RESP2, which takes no greeting.
    pub(super) async fn open_to_ask(address: SocketAddr, login: &Login) -> Result<(Self, Lost), CallError> {
        let (this, lost) = Self::start(address).await?;
        if let Some(password) = &login.password {
            let words = login.user.iter().chain([password]).map(|word| Bytes::copy_from_slice(word.as_bytes()));
            within(OPEN_TIMEOUT, this.call("AUTH", words.collect())).await?;
        }
        Ok((this, lost))
    }

    async fn start(address: SocketAddr) -> Result<(Self, Lost), CallError> {
        let stream = within(OPEN_TIMEOUT, connect(address)).await?;
        let wire = Arc::new(Wire {
            queue: Mutex::default(),
            filled: Notify::new(),
            unasked: broadcast::Sender::new(KEPT_UNASKED),
        });
        let task = tokio::spawn(run(stream, Closing(Arc::clone(&wire))));
        // From here on dropping `this` stops the task, also when this future is dropped halfway.
        let this = Self { wire, task: task.abort_handle(), server_version: None };
        Ok((this, Lost(task)))
    }

    /// RESP3, which tells a map from a list and carries what the server says unasked.
    async fn greet(&mut self, login: &Login, database: u8) -> Result<(), CallError> {
        let mut arguments = vec![Bytes::from_static(b"3")];
        if let Some(password) = &login.password {
            // The user that a bare password is for has this name since there are users.
            let user = login.user.as_deref().unwrap_or("default");
            arguments.push(Bytes::from_static(b"AUTH"));
            arguments.extend([user, password.as_str()].map(|word| Bytes::copy_from_slice(word.as_bytes())));
        }
        let greeting = self.call("HELLO", arguments).await?;
        self.server_version = hello::field(&greeting, "version");
        hello::refuse_mode(hello::field(&greeting, "mode").as_deref())?;
        if database != 0 {
            self.call("SELECT", vec![database.to_string().into()]).await?;
        }
        Ok(())
    }

    /// Sends a command at once; the order of calls is the order on the wire.
    pub(super) async fn call(&self, command: &'static str, arguments: Vec<Bytes>) -> Result<Frame, CallError> {
        self.call_for(Expected::Anything, command, arguments).await
    }

    /// Runs a script that is loaded; `arguments` from its digest on.
    pub(super) async fn run_script(&self, arguments: Vec<Bytes>) -> Result<Frame, CallError> {
        self.call_for(Expected::from_script(&arguments), "EVALSHA", arguments).await
    }

    async fn call_for(
        &self,
        expected: Expected,
        command: &'static str,
        arguments: Vec<Bytes>,
    ) -> Result<Frame, CallError> {
        let answer = self.send(|queue| queue.put(command, &arguments, expected))?;
        drop(arguments);
        self.received(answer.await)
    }

    /// A HASH and its time to live (`HGETALL`, `PTTL`), in one packet.
    pub(super) async fn read(&self, key: Bytes) -> Result<(Frame, i64), CallError> {
        let session = Expected::Session(packet::tag(&key));
        let key = [key];
        let (fields, ttl) =
            self.send(|queue| (queue.put("HGETALL", &key, session), queue.put("PTTL", &key, Expected::Number)))?;
        let fields = self.received(fields.await)?;
        match self.received(ttl.await)? {
            Frame::Number { data: ttl } => Ok((fields, ttl)),
            _ => Err(CallError::Server("PTTL has an unknown form".to_owned())),
        }
    }

    fn send<T>(&self, put: impl FnOnce(&mut Queue) -> T) -> Result<T, CallError> {
        let mut queue = self.wire.queue();
        if let Some(reason) = &queue.lost {
            return Err(CallError::Lost(reason.clone()));
        }
        let was_empty = queue.out.is_empty();
        let answers = put(&mut queue);
        drop(queue);
        if was_empty {
            self.wire.filled.notify_one();
        }
        Ok(answers)
    }

    fn received(&self, answer: Result<Frame, oneshot::error::RecvError>) -> Result<Frame, CallError> {
        match answer {
            Ok(Frame::SimpleError { data } | Frame::BlobError { data }) => {
                Err(CallError::Server(String::from_utf8_lossy(&data).into_owned()))
            }
            Ok(frame) => Ok(frame),
            Err(_) => Err(CallError::Lost(self.wire.queue().lost.clone().unwrap_or_else(|| LOST.to_owned()))),
        }
    }

    /// What the server says from here on without having been asked: each time a list of words.
    pub(super) fn unasked(&self) -> broadcast::Receiver<Vec<Frame>> {
        self.wire.unasked.subscribe()
    }

    /// What the server said about itself when it was connected to.
    pub(super) fn server_version(&self) -> Option<&str> {
        self.server_version.as_deref()
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

impl Wire {
    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        // Nothing panics between changes that belong together.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the server said: what nobody asked for goes to whoever listens, an answer to whoever waits for it, once its packet is
    /// complete.
    fn take(&self, frame: Frame, held: &mut Held) -> Result<(), Misplaced> {
        if let Frame::Push { data } = frame {
            drop(self.unasked.send(data));
            return Ok(());
        }
        let waiting = self.queue().waiting.pop_front();
        match waiting.ok_or_else(|| Misplaced("the server answers what nobody asked".to_owned()))? {
            Waiting::Reply(sender, expected) => held.push((sender, expected.check(frame)?)),
            Waiting::Marker(packet) => {
                packet::check_marker(packet, &frame, held.iter().map(|(_, reply)| reply))?;
                // Whoever asked may have given up.
                held.drain(..).for_each(|(sender, reply)| drop(sender.send(reply)));
            }
        }
        Ok(())
    }

    /// From here on nobody waits for an answer, and nothing that was not sent is kept.
    fn close(&self, reason: &str) {
        let mut queue = self.queue();
        if queue.lost.is_none() {
            *queue = Queue { lost: Some(reason.to_owned()), ..Queue::default() };
        }
    }
}

impl Queue {
    fn put(&mut self, command: &str, arguments: &[Bytes], expected: Expected) -> oneshot::Receiver<Frame> {
        resp::write(&mut self.out, command, arguments);
        let (sender, receiver) = oneshot::channel();
        self.waiting.push_back(Waiting::Reply(sender, expected));
        if self.out.len() - self.packet_start >= PACKET_SIZE {
            self.end_packet();
        }
        receiver
    }

    fn end_packet(&mut self) {
        if self.out.len() > self.packet_start {
            self.packets = self.packets.wrapping_add(1);
            packet::write_marker(&mut self.out, self.packets);
            self.waiting.push_back(Waiting::Marker(self.packets));
            self.packet_start = self.out.len();
        }
    }

    /// Exchanges what is to be sent for an empty buffer.
    fn swap_out(&mut self, empty: &mut Vec<u8>) {
        self.end_packet();
        self.packet_start = 0;
        std::mem::swap(empty, &mut self.out);
    }
}

/// However the task ends, the connection is closed.
struct Closing(Arc<Wire>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close(LOST);
    }
}

const LOST: &str = "the connection is lost";

async fn connect(address: SocketAddr) -> Result<TcpStream, CallError> {
    let stream = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.set_zero_linger()?;
        Ok(stream)
    };
    stream.await.map_err(|error: io::Error| CallError::Lost(error.to_string()))
}

/// The connection's task: writes and reads until one of them fails. Returns the reason.
async fn run(mut stream: TcpStream, wire: Closing) -> String {
    let (mut reader, mut writer) = stream.split();
    let write = async {
        let mut bytes = Vec::new();
        loop {
            wire.0.filled.notified().await;
            // Whoever asked for this was woken by a packet, and others with it: they get their turn first, and their commands go along.
            tokio::task::yield_now().await;
            wire.0.queue().swap_out(&mut bytes);
            if let Err(error) = writer.write_all(&bytes).await {
                return error.to_string();
            }
            bytes.clear();
            bytes.shrink_to(KEPT_SIZE);
        }
    };
    let read = async {
        let mut bytes = BytesMut::with_capacity(READ_SIZE);
        let mut held = Held::new();
        loop {
            bytes.reserve(READ_SIZE);
            match reader.read_buf(&mut bytes).await {
                Ok(0) => return "the server closed the connection".to_owned(),
                Ok(_) => {}
                Err(error) => return error.to_string(),
            }
            loop {
                match resp::read(&mut bytes) {
                    Ok(None) => break,
                    Ok(Some(frame)) => {
                        if let Err(Misplaced(reason)) = wire.0.take(frame, &mut held) {
                            // Before those who wait for the held replies learn that there will be none.
                            wire.0.close(&reason);
                            return reason;
                        }
                    }
                    Err(error) => return error.to_string(),
                }
            }
        }
    };
    let reason = tokio::select! {
        reason = write => reason,
        reason = read => reason,
    };
    wire.0.close(&reason);
    reason
}

impl Lost {
    pub(super) async fn wait(&mut self) -> CallError {
        CallError::Lost(match (&mut self.0).await {
            Ok(reason) => reason,
            Err(stopped) => stopped.to_string(),
        })
    }
}

impl CallError {
    /// Whether the user lacks a permission. Before 7.2 Redis has other words for it where a script is concerned.
    pub(super) fn lacks_rights(&self) -> bool {
        matches!(self, Self::Server(message)
            if message.starts_with("NOPERM") || message.starts_with("ERR The user executing the script can't"))
    }

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

/// A command that must be answered within some time.
pub(super) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    let late = |_| CallError::Lost(format!("no answer in {} ms", limit.as_millis()));
    tokio::time::timeout(limit, call).await.map_err(late)?
}

#[cfg(test)]
mod tests;
