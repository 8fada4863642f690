//! Sessions in this node's memory, dropped when the server says that they changed.
//!
//! The danger is a reply that is overtaken: a session is read, somebody changes it, the server says so, and only then the reply is
//! put into the cache, where nobody will ever drop it. So whoever reads takes a [`Ticket`] before they ask. A reply is kept only if
//! nothing was dropped in its lane of the cache since, which covers a change of the key itself, and nothing was flushed, which covers
//! a connection that was lost and a master that changed.
//!
//! [`Part`] is the whole of it, and knows no lock, no clock and no connection.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::id::SessionHandle;
use crate::record::Record;

/// So that requests on several threads seldom wait for each other.
const PARTS: usize = 16;

/// What an entry costs beside the names and values in it.
const ENTRY_BYTES: usize = 300;
const ATTRIBUTE_BYTES: usize = 100;

/// How much a near cache may hold; see [`RedisStoreBuilder::near_cache`](super::RedisStoreBuilder::near_cache).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NearCacheLimits {
    /// Sessions. Default: 10,000.
    pub sessions: usize,
    /// Bytes, about: names and values of the attributes, and what keeping them costs. Default: 64 MiB.
    pub bytes: usize,
}

impl Default for NearCacheLimits {
    fn default() -> Self {
        Self { sessions: 10_000, bytes: 64 * 1024 * 1024 }
    }
}

/// What a read must show to have its reply kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// The cache of one store.
pub(crate) struct NearCache {
    parts: [Mutex<Part<SessionHandle, Cached>>; PARTS],
    /// When the server was last known to tell us everything, in nanoseconds since `zero`; what is in here is good for a while from then.
    heard: AtomicU64,
    zero: Instant,
    hits: AtomicU64,
}

#[derive(Clone)]
struct Cached {
    record: Record,
    since: Instant,
}

impl NearCache {
    pub(crate) fn new(limits: NearCacheLimits) -> Self {
        let part = || Mutex::new(Part::new(limits.sessions.div_ceil(PARTS), limits.bytes / PARTS));
        Self {
            parts: std::array::from_fn(|_| part()),
            heard: AtomicU64::new(0),
            zero: Instant::now(),
            hits: AtomicU64::new(0),
        }
    }

    /// A session as it was read `max_age` ago at most, with what is left of its time to live. Nothing while the server is silent.
    pub(crate) fn get(&self, session: &SessionHandle, max_age: Duration) -> Option<Record> {
        let now = Instant::now();
        if !self.is_told(now) {
            return None;
        }
        let mut part = self.part(session);
        let cached = part.get(session)?;
        let age = now.saturating_duration_since(cached.since);
        let ttl = cached.record.ttl.saturating_sub(age);
        if age > max_age || ttl.is_zero() {
            part.remove(session);
            return None;
        }
        let record = Record { ttl, ..cached.record.clone() };
        Some(record)
    }

    /// What it gave was used.
    pub(crate) fn count(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Before a session is read from the server that tells us of changes.
    pub(crate) fn ticket(&self, session: &SessionHandle) -> Ticket {
        self.part(session).ticket(session)
    }

    /// After it: keeps what was read, unless it may have changed since. What is kept, the record shares.
    pub(crate) fn keep(&self, session: SessionHandle, ticket: Ticket, record: &mut Record) {
        let mut bytes = ENTRY_BYTES;
        // In a buffer of their own: values that were read share theirs with everything that came in the same packet.
        let mut values = BytesMut::with_capacity(record.attributes.values().map(Bytes::len).sum());
        for (name, value) in record.attributes.iter_mut() {
            bytes += ATTRIBUTE_BYTES + name.len() + value.len();
            values.extend_from_slice(value);
            *value = values.split().freeze();
        }
        let cached = Cached { record: record.clone(), since: Instant::now() };
        self.part(&session).insert(session, ticket, cached, bytes);
    }

    /// A session changed, or will have by the time that anybody looks.
    pub(crate) fn drop_session(&self, session: &SessionHandle) {
        self.part(session).invalidate(session);
    }

    /// Sessions of a principal ended. Of any realm, which a record does not tell: one dropped in vain costs a read.
    pub(crate) fn drop_principal(&self, principal: &str) {
        for part in &self.parts {
            lock(part).invalidate_if(|cached| cached.record.principal.as_deref() == Some(principal));
        }
    }

    /// Anything may have changed: the server did not, or cannot, say what.
    pub(crate) fn flush(&self) {
        self.heard.store(0, Ordering::Release);
        for part in &self.parts {
            lock(part).flush();
        }
    }

    /// Everything that changed up to this time has been dropped.
    pub(crate) fn told_up_to(&self, time: Instant) {
        let nanos = u64::try_from(time.saturating_duration_since(self.zero).as_nanos()).unwrap_or(u64::MAX);
        self.heard.store(nanos.max(1), Ordering::Release);
    }

    fn is_told(&self, now: Instant) -> bool {
        match self.heard.load(Ordering::Acquire) {
            0 => false,
            nanos => now.saturating_duration_since(self.zero + Duration::from_nanos(nanos)) < MAX_SILENCE,
        }
    }

    fn part(&self, session: &SessionHandle) -> MutexGuard<'_, Part<SessionHandle, Cached>> {
        // A digest: every bit of it is as good as another.
        lock(&self.parts[usize::from(session.digest()[0]) % PARTS])
    }
}

/// How long the server may be silent before nothing in here is believed any more. It is asked four times in that time.
const MAX_SILENCE: Duration = Duration::from_secs(1);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics between changes that belong together.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What changed keeps out the replies of its lane that are on their way, and no others: where much is written, those of a whole part
/// would seldom get in.
const LANES: usize = 64;

/// One part of the cache.
pub(crate) struct Part<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// For eviction, oldest first; a key may stand here that has gone, or gone and come back.
    order: VecDeque<(K, u64)>,
    bytes: usize,
    max_entries: usize,
    max_bytes: usize,
    /// How often something was dropped here because it changed, by [lane](Self::lane).
    drops: [u64; LANES],
    /// Numbers the entries.
    next: u64,
}

struct Entry<V> {
    value: V,
    bytes: usize,
    number: u64,
    /// Since it last stood at the end of the order.
    used: bool,
}

impl<K: Clone + Eq + Hash, V> Part<K, V> {
    pub(crate) fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            max_entries,
            max_bytes,
            drops: [0; LANES],
            next: 0,
        }
    }

    pub(crate) fn ticket(&self, key: &K) -> Ticket {
        Ticket(self.drops[self.lane(key)])
    }

    fn lane(&self, key: &K) -> usize {
        self.entries.hasher().hash_one(key) as usize % LANES
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<&V> {
        self.entries.get_mut(key).map(|entry| {
            entry.used = true;
            &entry.value
        })
    }

    /// Keeps a value that was read after the ticket was taken, unless anything was dropped since.
    pub(crate) fn insert(&mut self, key: K, ticket: Ticket, value: V, bytes: usize) {
        if ticket != self.ticket(&key) || bytes > self.max_bytes {
            return;
        }
        self.remove(&key);
        self.next += 1;
        self.bytes += bytes;
        self.order.push_back((key.clone(), self.next));
        self.entries.insert(key, Entry { value, bytes, number: self.next, used: false });
        while self.entries.len() > self.max_entries || self.bytes > self.max_bytes {
            self.evict_one();
        }
        // What has gone by itself leaves its place in the order; never more of them than there is room for.
        if self.order.len() > 2 * self.max_entries + 16 {
            let entries = &self.entries;
            self.order.retain(|(key, number)| entries.get(key).is_some_and(|entry| entry.number == *number));
        }
    }

    /// The one that was longest there, but for those that were used since: they go to the end of the queue once more.
    fn evict_one(&mut self) {
        while let Some((key, number)) = self.order.pop_front() {
            let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.number == number) else { continue };
            if std::mem::take(&mut entry.used) {
                self.order.push_back((key, number));
            } else {
                self.remove(&key);
                return;
            }
        }
    }

    /// Without a reason that would concern a reply on its way.
    pub(crate) fn remove(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.bytes;
        }
    }

    /// It changed; so may have what is on its way.
    pub(crate) fn invalidate(&mut self, key: &K) {
        let lane = self.lane(key);
        self.drops[lane] += 1;
        self.remove(key);
    }

    fn invalidate_if(&mut self, changed: impl Fn(&V) -> bool) {
        self.drop_all();
        let gone: Vec<_> =
            self.entries.iter().filter(|(_, entry)| changed(&entry.value)).map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| self.remove(key));
    }

    /// Anything that is on its way may have changed.
    fn drop_all(&mut self) {
        self.drops.iter_mut().for_each(|drops| *drops += 1);
    }

    pub(crate) fn flush(&mut self) {
        self.drop_all();
        self.entries.clear();
        self.order.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests;
