//! The connection over which the near cache is filled and told what changed (RESP3, `CLIENT TRACKING`).
//!
//! What is read over it, the server remembers, and says so when it changes, on the same connection. It has its own: what commits
//! read in their scripts need not be remembered by anybody. It lives within an epoch, leads to the epoch's server, and is opened again
//! when it is lost.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{Instant, sleep};

use super::backoff::Backoff;
use super::connection::{CallError, Connection, Lost, within};
use super::keys::Keys;
use super::resp::Frame;
use super::server::Server;
use super::status::Feature;
use super::telemetry;
use crate::budget::OnDrop;
use crate::store::near_cache::NearCache;

/// How often the server is asked whether it is still there. What it had to say before is dropped by the time that it answers.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// How long its answer may take.
const PATIENCE: Duration = Duration::from_millis(700);

/// What it takes to fill a near cache.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) cache: Arc<NearCache>,
    pub(super) keys: Keys,
}

/// The connection, while there is one.
#[derive(Default)]
pub(super) struct Tracking(Mutex<Option<Arc<Connection>>>);

impl Tracking {
    pub(super) fn connection(&self) -> Option<Arc<Connection>> {
        self.lock().clone()
    }

    /// Keeps a connection to this master; never ends. Nothing is left in the cache when it is dropped.
    pub(super) async fn follow(&self, server: &Server, settings: &Settings) -> Infallible {
        let mut backoff = Backoff::default();
        loop {
            match start(server).await {
                Ok((connection, lost)) => {
                    let since = Instant::now();
                    server.access.checks.status.set_on(Feature::NearCache);
                    let Err(error) = self.keep(connection, lost, settings).await;
                    telemetry::connection_lost(&server.name, &error);
                    if since.elapsed() >= HEARTBEAT {
                        backoff.reset();
                    }
                }
                Err(error) => server.feature_off(Feature::NearCache, &error),
            }
            sleep(backoff.next()).await;
        }
    }

    async fn keep(&self, connection: Connection, mut lost: Lost, settings: &Settings) -> Result<Infallible, CallError> {
        let Settings { cache, keys } = settings;
        let mut unasked = connection.unasked();
        let connection = Arc::new(connection);
        *self.lock() = Some(Arc::clone(&connection));
        let _given_up = OnDrop(|| {
            *self.lock() = None;
            // First no reply can come any more, then nothing is there that one of them left.
            connection.close();
            cache.flush();
        });
        let mut delay = Duration::ZERO;
        loop {
            let mut heard = pin!(heartbeat(&connection, delay));
            let asked = loop {
                tokio::select! {
                    changed = unasked.recv() => match changed {
                        Ok(changed) => drop_changed(cache, keys, &changed),
                        // More than we could keep up with.
                        Err(RecvError::Lagged(_)) => cache.flush(),
                        Err(RecvError::Closed) => return Err(CallError::Lost("the connection is lost".to_owned())),
                    },
                    error = lost.wait() => return Err(error),
                    asked = &mut heard => break asked?,
                }
            };
            // They came before the answer did.
            loop {
                match unasked.try_recv() {
                    Ok(changed) => drop_changed(cache, keys, &changed),
                    Err(TryRecvError::Lagged(_)) => cache.flush(),
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
            cache.told_up_to(asked);
            delay = HEARTBEAT;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a connection on which the server says what changed. A push that comes before somebody listens is about nothing that was read.
async fn start(server: &Server) -> Result<(Connection, Lost), CallError> {
    let (connection, lost) = server.connect().await?;
    let words = ["TRACKING", "ON"].map(|word| Bytes::from_static(word.as_bytes()));
    within(PATIENCE, connection.call("CLIENT", words.into())).await?;
    Ok((connection, lost))
}

/// Asks after a while whether the server is still there, and gives the time of the question.
async fn heartbeat(connection: &Connection, delay: Duration) -> Result<Instant, CallError> {
    sleep(delay).await;
    let asked = Instant::now();
    within(PATIENCE, connection.call("PING", vec![])).await?;
    Ok(asked)
}

/// What the server said: which keys changed, or that all of them may have (`FLUSHALL`).
fn drop_changed(cache: &NearCache, keys: &Keys, words: &[Frame]) {
    match words {
        [Frame::BlobString { data: what }, rest @ ..] if what == "invalidate" => match rest {
            [Frame::Array { data: changed }] => changed.iter().for_each(|key| {
                if let Frame::BlobString { data: key } = key
                    && let Some(session) = keys.handle(key)
                {
                    cache.drop_session(&session);
                }
            }),
            _ => cache.flush(),
        },
        _ => {}
    }
}
