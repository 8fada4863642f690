//! Where sessions are kept: the trait, and the stores that come with the crate.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

mod memory;
pub use memory::{MemoryLimits, MemoryStore, MemoryUsage};

#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
pub use redis::{
    Eviction, Feature, Follower, Observation, Observed, ObservedSentinel, ObservedServer, Observer, ReadShares,
    RedisStore, RedisStoreBuilder, Replication, SentinelEvent, StoreStatus, Word,
};

#[cfg(feature = "redis")]
mod recent;

#[cfg(feature = "redis")]
mod near_cache;
#[cfg(feature = "redis")]
pub use near_cache::NearCacheLimits;

#[cfg(any(test, feature = "test-util"))]
pub mod conformance;

pub use crate::commit::{
    AboveLimit, Action, Commit, CommitId, Lifetimes, Renewal, Reply, Revocation, Revoke, Revoked, SessionLimit, Start,
    Touch,
};
pub use crate::delta::{Change, Limits, parse_counter};
pub use crate::freshness::Freshness;
use crate::id::{SessionHandle, SessionId};
pub use crate::record::{Attributes, Record, Version};

/// Keeps sessions. A store carries values in and out and decides nothing: what a request's changes amount to is decided before
/// it is asked, what an answer means after.
///
/// Each method is one attempt. The layer repeats an attempt that failed with [`StoreError::unavailable`] until the request's
/// budget is spent, commits under one and the same [`CommitId`]; dropping the future gives the attempt up.
pub trait SessionStore: Send + Sync + 'static {
    /// Reads a session as the newest acknowledged commit left it.
    ///
    /// # Errors
    ///
    /// [`StoreError::corrupt`] when something is stored that is no session. "Absent" is not an error, and a read that failed is
    /// never "absent".
    fn load(&self, id: &SessionId) -> impl Future<Output = Result<Loaded, StoreError>> + Send;

    /// Applies a commit in one atomic step, all checks before the first write. The session is prolonged, and lasts as
    /// [`Commit::lifetimes`] says from now on; if that is over already, it ends, and the reply is [`Reply::Absent`].
    ///
    /// In the same step the session leaves the list of a principal whose session it no longer is, and is entered into the list of the
    /// principal that it has then, in the commit's realm. A commit that leaves the principal as it was does so too: where a server
    /// has lost a list, or a member of one, every live session is back in it after its next commit or touch, with the time of its
    /// login.
    ///
    /// If the commit asks to be durable, the store waits until a replica has it, and says in the reply whether one has: before
    /// the deadline, since what was applied must be told.
    ///
    /// In this order: a commit ID that was answered before returns its recorded reply (the bytes in a [`Reply::Conflict`] may be newer);
    /// then the deadline, existence, the version that the request has seen, conditions, counters, limits; then the writes. Refusals
    /// are recorded as well: a copy of the commit that was held up on its way must not apply after another copy was refused and its
    /// sender told so. Only [`Reply::Absent`] and [`Reply::Ended`] need no record, since a session that is gone stays gone.
    ///
    /// # Errors
    ///
    /// An error leaves open whether the commit was applied.
    fn commit(&self, commit: &Commit) -> impl Future<Output = Result<Reply, StoreError>> + Send;

    /// The live sessions of a principal in a realm, those that logged in first first. None is missing and none is dead, at one moment
    /// between call and answer; but for sessions that a server has dropped from the list by itself, which are missing until their next
    /// commit or touch.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    fn sessions_of(&self, realm: &str, principal: &str)
    -> impl Future<Output = Result<Vec<Listed>, StoreError>> + Send;

    /// Ends sessions of a principal in a realm in one atomic step, as if each were destroyed: those that
    /// [`sessions_of`](Self::sessions_of) shows. Durable: waits until a replica has it.
    ///
    /// # Errors
    ///
    /// An error leaves open whether it was applied.
    fn revoke(&self, revocation: &Revocation) -> impl Future<Output = Result<Revoked, StoreError>> + Send;

    /// Prolongs a session as a commit does, with everything that this means for its lifetimes and its list. Does nothing to one that is
    /// gone, and does not raise its version.
    ///
    /// # Errors
    ///
    /// Nobody waits for it, and the next request tries again, so that a store may drop it when in trouble.
    fn touch(&self, touch: &Touch) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Whether [`load_copy`](Self::load_copy) may ever give one. Asked once, when the layer is built. The default: no.
    fn has_copies(&self) -> bool {
        false
    }

    /// A copy of a live session from elsewhere than the master, if one is at hand that will do: at least as new as asked for, and as
    /// the last commit to that session that was made through this store; not more than a second older than what the master has.
    /// What is absent from where copies are proves nothing. The default: none.
    fn load_copy(&self, id: &SessionId, wanted: &Freshness) -> impl Future<Output = Option<Record>> + Send {
        let _ = (id, wanted);
        std::future::ready(None)
    }

    /// Whether the server that answers just now is the master beyond doubt, asked of those who decide that; `false` when they do not
    /// say so soon. Asked only when what it answered is older than what a browser was told. The default: there is nothing to doubt.
    ///
    /// # Errors
    ///
    /// [`StoreError::unavailable`] when it is not, so that the request asks again.
    fn confirm_master(&self) -> impl Future<Output = Result<bool, StoreError>> + Send {
        std::future::ready(Ok(true))
    }

    /// Resolves when an attempt is worth making again after one failed with [`StoreError::unavailable`]. The default: at once,
    /// and the layer's own pause between attempts is all there is.
    fn available(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// What a store knows under an ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// A session.
    Alive(Record),
    /// Nothing: never there, or expired.
    Absent,
    /// A tombstone: destroyed, or renewed under `successor`, in the last minutes.
    Ended {
        /// The ID that replaced it.
        successor: Option<SessionId>,
        /// How long ago that was, by the clock of the store: what has passed of [`TOMBSTONE_LIFETIME`].
        age: Duration,
    },
}

/// A session in the list of its principal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Names it.
    pub handle: SessionHandle,
    /// When its principal logged in, by the clock of the store.
    pub logged_in_on: SystemTime,
    /// What it holds.
    pub record: Record,
}

/// How long a tombstone lasts: longer than any request that loaded the session before it ended.
pub const TOMBSTONE_LIFETIME: Duration = Duration::from_secs(5 * 60);

/// Why a store could not do what it was asked.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    source: Box<dyn std::error::Error + Send + Sync>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StoreErrorKind {
    Unavailable,
    Refused,
    Corrupt,
}

impl StoreError {
    /// No answer, or one that says "not now": the same attempt may succeed in a moment.
    pub fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { kind: StoreErrorKind::Unavailable, source: source.into() }
    }

    /// A definite no that repeating will not change soon; nothing was written.
    pub fn refused(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { kind: StoreErrorKind::Refused, source: source.into() }
    }

    /// What is stored under this ID is no session. To its browser it is gone.
    pub fn corrupt(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { kind: StoreErrorKind::Corrupt, source: source.into() }
    }

    /// Whether repeating the attempt may help.
    pub fn is_unavailable(&self) -> bool {
        self.kind == StoreErrorKind::Unavailable
    }

    /// Whether something is stored that is no session.
    pub fn is_corrupt(&self) -> bool {
        self.kind == StoreErrorKind::Corrupt
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            StoreErrorKind::Unavailable => "the session store is unavailable",
            StoreErrorKind::Refused => "the session store refused",
            StoreErrorKind::Corrupt => "what is stored is no session",
        })
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// [`SessionStore`] without its type, so that handlers never see it.
pub(crate) trait ErasedStore: Send + Sync + 'static {
    fn load<'a>(&'a self, id: &'a SessionId) -> BoxFuture<'a, Result<Loaded, StoreError>>;
    fn commit<'a>(&'a self, commit: &'a Commit) -> BoxFuture<'a, Result<Reply, StoreError>>;
    fn touch<'a>(&'a self, touch: &'a Touch) -> BoxFuture<'a, Result<(), StoreError>>;
    fn sessions_of<'a>(&'a self, realm: &'a str, principal: &'a str) -> BoxFuture<'a, Result<Vec<Listed>, StoreError>>;
    fn revoke<'a>(&'a self, revocation: &'a Revocation) -> BoxFuture<'a, Result<Revoked, StoreError>>;
    fn has_copies(&self) -> bool;
    fn load_copy<'a>(&'a self, id: &'a SessionId, wanted: &'a Freshness) -> BoxFuture<'a, Option<Record>>;
    fn confirm_master(&self) -> BoxFuture<'_, Result<bool, StoreError>>;
    fn available(&self) -> BoxFuture<'_, ()>;
}

impl<S: SessionStore> ErasedStore for S {
    fn load<'a>(&'a self, id: &'a SessionId) -> BoxFuture<'a, Result<Loaded, StoreError>> {
        Box::pin(SessionStore::load(self, id))
    }

    fn commit<'a>(&'a self, commit: &'a Commit) -> BoxFuture<'a, Result<Reply, StoreError>> {
        Box::pin(SessionStore::commit(self, commit))
    }

    fn touch<'a>(&'a self, touch: &'a Touch) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(SessionStore::touch(self, touch))
    }

    fn sessions_of<'a>(&'a self, realm: &'a str, principal: &'a str) -> BoxFuture<'a, Result<Vec<Listed>, StoreError>> {
        Box::pin(SessionStore::sessions_of(self, realm, principal))
    }

    fn revoke<'a>(&'a self, revocation: &'a Revocation) -> BoxFuture<'a, Result<Revoked, StoreError>> {
        Box::pin(SessionStore::revoke(self, revocation))
    }

    fn has_copies(&self) -> bool {
        SessionStore::has_copies(self)
    }

    fn load_copy<'a>(&'a self, id: &'a SessionId, wanted: &'a Freshness) -> BoxFuture<'a, Option<Record>> {
        Box::pin(SessionStore::load_copy(self, id, wanted))
    }

    fn confirm_master(&self) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(SessionStore::confirm_master(self))
    }

    fn available(&self) -> BoxFuture<'_, ()> {
        Box::pin(SessionStore::available(self))
    }
}

/// When a deadline has passed, an attempt says so with this.
pub(crate) fn is_past(deadline: Instant) -> bool {
    Instant::now() >= deadline
}
