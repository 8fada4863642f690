//! One connection to one server, which is never mended.
//!
//! A lost connection stays lost, and everything that was on its way with it is dropped: what was not yet handed to the socket goes with
//! the task, and what the socket has not yet sent goes with the socket (it lingers for no time at all, so that closing resets it). So
//! nothing that somebody was told has failed is sent later.
//!
//! Requests that come together share a packet, each way. That is most of what a round trip costs: one write per command took a
//! quarter of a node's time, and one read per command as much of Redis'.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, broadcast, oneshot};
use tokio::task::{AbortHandle, JoinHandle};

use super::resp::{self, Frame};
use super::url::{Address, Login};

/// For each of: connecting, and the first commands (`HELLO`, `SELECT`).
const OPEN_TIMEOUT: Duration = Duration::from_millis(500);
/// How much is read at once at least. What a node's requests ask for in one packet comes back in a few.
const READ_SIZE: usize = 16 * 1024;
/// What the server says unasked is kept for a listener that is slow to take it.
const KEPT_UNASKED: usize = 256;
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
    /// Who waits for the next answers, in the order in which the server gives them.
    waiting: VecDeque<oneshot::Sender<Frame>>,
    lost: bool,
}

impl Connection {
    pub(super) async fn open(address: &Address, login: &Login, database: u8) -> Result<(Self, Lost), CallError> {
        let stream = within(OPEN_TIMEOUT, connect(address)).await?;
        let wire = Arc::new(Wire {
            queue: Mutex::default(),
            filled: Notify::new(),
            unasked: broadcast::Sender::new(KEPT_UNASKED),
        });
        let task = tokio::spawn(run(stream, Closing(Arc::clone(&wire))));
        // From here on dropping `this` stops the task, also when this future is dropped halfway.
        let mut this = Self { wire, task: task.abort_handle(), server_version: None };
        within(OPEN_TIMEOUT, this.greet(login, database)).await?;
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
        let hello = self.call("HELLO", arguments).await?;
        self.server_version = version(&hello);
        if database != 0 {
            self.call("SELECT", vec![database.to_string().into()]).await?;
        }
        Ok(())
    }

    /// Sends a command at once; the order of calls is the order on the wire.
    pub(super) async fn call(&self, command: &'static str, arguments: Vec<Bytes>) -> Result<Frame, CallError> {
        let answer = self.send(|queue| queue.put(command, &arguments))?;
        drop(arguments);
        received(answer.await)
    }

    /// A HASH and its time to live (`HGETALL`, `PTTL`), in one packet.
    pub(super) async fn read(&self, key: Bytes) -> Result<(Frame, i64), CallError> {
        let key = [key];
        let (fields, ttl) = self.send(|queue| (queue.put("HGETALL", &key), queue.put("PTTL", &key)))?;
        let fields = received(fields.await)?;
        match received(ttl.await)? {
            Frame::Number { data: ttl } => Ok((fields, ttl)),
            _ => Err(CallError::Server("PTTL has an unknown form".to_owned())),
        }
    }

    fn send<T>(&self, put: impl FnOnce(&mut Queue) -> T) -> Result<T, CallError> {
        let mut queue = self.wire.queue();
        if queue.lost {
            return Err(lost());
        }
        let was_empty = queue.out.is_empty();
        let answers = put(&mut queue);
        drop(queue);
        if was_empty {
            self.wire.filled.notify_one();
        }
        Ok(answers)
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

    /// Hands an answer to whoever waits for it, and what nobody asked for to whoever listens.
    fn deliver(&self, frame: Frame) -> Result<(), &'static str> {
        let mut queue = self.queue();
        match frame {
            Frame::Push { data } => drop(self.unasked.send(data)),
            frame => {
                let waiting = queue.waiting.pop_front().ok_or("the server answers what nobody asked")?;
                // Whoever asked may have given up.
                drop(waiting.send(frame));
            }
        }
        Ok(())
    }
}

impl Queue {
    fn put(&mut self, command: &str, arguments: &[Bytes]) -> oneshot::Receiver<Frame> {
        resp::write(&mut self.out, command, arguments);
        let (sender, receiver) = oneshot::channel();
        self.waiting.push_back(sender);
        receiver
    }
}

/// However the task ends, nobody waits for it any longer, and nothing that was not sent is kept.
struct Closing(Arc<Wire>);

impl Drop for Closing {
    fn drop(&mut self) {
        *self.0.queue() = Queue { lost: true, ..Queue::default() };
    }
}

async fn connect(address: &Address) -> Result<TcpStream, CallError> {
    let stream = async {
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
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
            std::mem::swap(&mut bytes, &mut wire.0.queue().out);
            if let Err(error) = writer.write_all(&bytes).await {
                return error.to_string();
            }
            bytes.clear();
            bytes.shrink_to(KEPT_SIZE);
        }
    };
    let read = async {
        let mut bytes = BytesMut::with_capacity(READ_SIZE);
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
                        if let Err(reason) = wire.0.deliver(frame) {
                            return reason.to_owned();
                        }
                    }
                    Err(error) => return error.to_string(),
                }
            }
        }
    };
    tokio::select! {
        reason = write => reason,
        reason = read => reason,
    }
}

fn received(answer: Result<Frame, oneshot::error::RecvError>) -> Result<Frame, CallError> {
    match answer {
        Ok(Frame::SimpleError { data } | Frame::BlobError { data }) => {
            Err(CallError::Server(String::from_utf8_lossy(&data).into_owned()))
        }
        Ok(frame) => Ok(frame),
        Err(_) => Err(lost()),
    }
}

fn lost() -> CallError {
    CallError::Lost("the connection is lost".to_owned())
}

fn version(hello: &Frame) -> Option<String> {
    let Frame::Map { data } = hello else { return None };
    data.iter().find_map(|pair| match pair {
        (Frame::BlobString { data: name }, Frame::BlobString { data: version }) if name == "version" => {
            Some(String::from_utf8_lossy(version).into_owned())
        }
        _ => None,
    })
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
