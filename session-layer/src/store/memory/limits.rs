//! How much a store in memory may hold, and what is counted as how much.

use super::session::Session;
use super::state::Answer;
use crate::commit::{Action, Commit, Reply};
use crate::delta::Change;
use crate::record::Attributes;
use crate::store::StoreError;

/// How much a [`MemoryStore`](super::MemoryStore) may hold; see [`MemoryStore::with_limits`](super::MemoryStore::with_limits).
///
/// ```
/// use session_layer::store::MemoryLimits;
///
/// let mut limits = MemoryLimits::default();
/// limits.bytes = 64 * 1024 * 1024;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryLimits {
    /// Sessions, tombstones of ended ones, and replies that are remembered in case a commit is repeated. Default: 1,000,000, so that
    /// bytes are what limits most apps.
    pub entries: usize,
    /// Bytes, estimated: names, values and principals, and about what it costs to keep them. Default: 256 MiB, which is room for
    /// some 200,000 small sessions and leaves half of a container of 512 MiB.
    pub bytes: usize,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self { entries: 1_000_000, bytes: 256 * 1024 * 1024 }
    }
}

impl MemoryLimits {
    /// Whether one more answer can be remembered.
    pub(super) fn leave_room(&self, usage: MemoryUsage) -> bool {
        usage.entries < self.entries && usage.bytes + ANSWER <= self.bytes
    }

    /// Refuses a commit after which the store might hold more. One that only ends a session always has room: a user must be able to log
    /// out of a full store, and what it leaves is smaller than a session.
    pub(super) fn check(&self, usage: MemoryUsage, commit: &Commit) -> Result<(), StoreError> {
        let added = most_added(commit);
        let fits = usage.entries + added.entries <= self.entries && usage.bytes + added.bytes <= self.bytes;
        if fits || matches!(commit.action, Action::Destroy(_)) {
            return Ok(());
        }
        let Self { entries, bytes } = self;
        Err(StoreError::refused(format!(
            "the memory store is full: its limits are {entries} entries and {bytes} bytes; raise `MemoryLimits` or use `RedisStore`"
        )))
    }
}

/// How much a [`MemoryStore`](super::MemoryStore) holds, counted as its [limits](MemoryLimits) are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryUsage {
    /// See [`MemoryLimits::entries`].
    pub entries: usize,
    /// See [`MemoryLimits::bytes`].
    pub bytes: usize,
}

// Measured with an allocator that counts, rounded up; `tests/allocations.rs` compares.
const SESSION: usize = 600;
pub(super) const TOMBSTONE: usize = 400;
const ANSWER: usize = 400;
const ATTRIBUTE: usize = 100;
const LISTED: usize = 200;

pub(super) fn session(session: &Session) -> usize {
    let listed = session.principal.as_ref().map_or(0, |principal| LISTED + 2 * principal.len());
    SESSION + listed + attributes(&session.attributes)
}

fn attributes(attributes: &Attributes) -> usize {
    attributes.iter().map(|(name, value)| ATTRIBUTE + name.len() + value.len()).sum()
}

pub(super) fn answer(answer: &Answer) -> usize {
    ANSWER
        + match answer {
            Answer::Commit(Reply::Applied { counters, .. }) => counters.keys().map(|name| ATTRIBUTE + name.len()).sum(),
            Answer::Commit(Reply::Conflict { name, current }) => {
                name.len() + current.as_ref().map_or(0, |current| current.len())
            }
            _ => 0,
        }
}

/// The most that a commit can add.
fn most_added(commit: &Commit) -> MemoryUsage {
    let principal = commit.action.logs_in().map_or(0, |principal| LISTED + 2 * principal.len());
    let changes = commit.changes.iter().map(|(name, change)| match change {
        Change::Set(value) => ATTRIBUTE + name.len() + value.len(),
        // The counter, and its value in the reply.
        Change::Add(_) => 2 * (ATTRIBUTE + name.len()) + 20,
        Change::Remove => 0,
    });
    let moves = match commit.action {
        Action::Create(..) => SESSION,
        // What is moved is counted once; the old ID becomes a tombstone.
        Action::Renew(..) => TOMBSTONE,
        Action::Apply(_) | Action::Destroy(_) => 0,
    };
    let entries = 1 + usize::from(moves > 0);
    MemoryUsage { entries, bytes: ANSWER + principal + moves + changes.sum::<usize>() }
}
