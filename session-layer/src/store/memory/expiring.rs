//! A map whose entries expire, and are dropped in steps.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::hash::Hash;

use tokio::time::Instant;

/// An entry that has expired counts as absent, whether or not it is still here.
#[derive(Clone)]
pub(super) struct Expiring<K, V> {
    map: HashMap<K, Kept<V>>,
    /// Which entry to look at next, and when. Prolonging an entry leaves this alone: it is looked at when it would have expired, and
    /// then queued for when it will. So a session in use costs one step per idle timeout.
    queue: BinaryHeap<Due<K>>,
    bytes: usize,
}

#[derive(Clone)]
struct Kept<V> {
    value: V,
    until: Instant,
    /// When it is looked at next. Other times in the queue are void: they were too late for an entry that now ends earlier.
    due: Instant,
    bytes: usize,
}

impl<K, V> Default for Expiring<K, V> {
    fn default() -> Self {
        Self { map: HashMap::new(), queue: BinaryHeap::new(), bytes: 0 }
    }
}

impl<K: Copy + Eq + Hash, V> Expiring<K, V> {
    /// Returns an entry, and when it expires.
    pub(super) fn get(&self, key: &K, now: Instant) -> Option<(&V, Instant)> {
        let kept = self.map.get(key).filter(|kept| kept.until > now)?;
        Some((&kept.value, kept.until))
    }

    /// Changes an entry, and when it expires, which `change` is told. What it holds must stay as large as it is.
    pub(super) fn change<T>(
        &mut self,
        key: &K,
        now: Instant,
        change: impl FnOnce(&mut V, Instant) -> (Instant, T),
    ) -> Option<T> {
        let kept = self.map.get_mut(key).filter(|kept| kept.until > now)?;
        let (until, out) = change(&mut kept.value, kept.until);
        kept.until = until;
        if until < kept.due {
            kept.due = until;
            self.queue.push(Due { at: until, key: *key });
        }
        Some(out)
    }

    /// Returns what was there before, expired or not.
    pub(super) fn insert(&mut self, key: K, value: V, until: Instant, bytes: usize) -> Option<V> {
        let queued = self.map.get(&key).map(|kept| kept.due).filter(|due| *due <= until);
        let due = queued.unwrap_or_else(|| {
            self.queue.push(Due { at: until, key });
            until
        });
        let before = self.map.insert(key, Kept { value, until, due, bytes });
        self.bytes = self.bytes + bytes - before.as_ref().map_or(0, |kept| kept.bytes);
        before.map(|kept| kept.value)
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let kept = self.map.remove(key)?;
        self.bytes -= kept.bytes;
        Some(kept.value)
    }

    /// Looks at `most` entries at most and drops those that have expired.
    pub(super) fn sweep(&mut self, now: Instant, most: usize, mut dropped: impl FnMut(K, V)) {
        for _ in 0..most {
            let Some(Due { at, key }) = self.queue.peek().copied().filter(|due| due.at <= now) else { break };
            self.queue.pop();
            let Some(kept) = self.map.get_mut(&key).filter(|kept| kept.due == at) else { continue };
            if kept.until > now {
                kept.due = kept.until;
                self.queue.push(Due { at: kept.until, key });
            } else if let Some(value) = self.remove(&key) {
                dropped(key, value);
            }
        }
        // What is left moves only once per as many drops as three times that.
        let fits = 2 * self.map.len() + SMALLEST;
        if self.map.capacity() > 2 * fits {
            self.map.shrink_to(fits);
        }
        let fits = 2 * self.queue.len() + SMALLEST;
        if self.queue.capacity() > 2 * fits {
            self.queue.shrink_to(fits);
        }
    }

    /// How many entries are here, expired ones that were not dropped yet included.
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// All entries that have not expired.
    pub(super) fn values(&self, now: Instant) -> impl Iterator<Item = &V> {
        self.map.values().filter(move |kept| kept.until > now).map(|kept| &kept.value)
    }
}

/// Room that is not worth giving back.
const SMALLEST: usize = 1024;

/// Ordered by time, the earliest last, which is what a heap gives first.
#[derive(Clone, Copy)]
struct Due<K> {
    at: Instant,
    key: K,
}

impl<K> Ord for Due<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.cmp(&self.at)
    }
}

impl<K> PartialOrd for Due<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> PartialEq for Due<K> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl<K> Eq for Due<K> {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn swept(map: &mut Expiring<u32, char>, now: Instant, most: usize) -> Vec<(u32, char)> {
        let mut dropped = Vec::new();
        map.sweep(now, most, |key, value| dropped.push((key, value)));
        dropped.sort_unstable();
        dropped
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_expired_is_absent_before_it_is_dropped() {
        let (mut map, now) = (Expiring::default(), Instant::now());
        map.insert(1, 'a', now + secs(10), 5);
        assert_eq!(map.get(&1, now + secs(9)), Some((&'a', now + secs(10))));
        assert_eq!(map.get(&1, now + secs(10)), None);
        assert_eq!((map.len(), map.bytes(), map.values(now + secs(10)).count()), (1, 5, 0));
        assert_eq!(swept(&mut map, now + secs(9), 9), []);
        assert_eq!(swept(&mut map, now + secs(10), 9), [(1, 'a')]);
        assert_eq!((map.len(), map.bytes()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sweep_takes_no_more_steps_than_allowed() {
        let (mut map, now) = (Expiring::default(), Instant::now());
        for key in 0..10 {
            map.insert(key, 'x', now + secs(1), 1);
        }
        assert_eq!(swept(&mut map, now + secs(1), 4).len(), 4);
        assert_eq!(swept(&mut map, now + secs(1), 4).len(), 4);
        assert_eq!(swept(&mut map, now + secs(1), 4).len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_is_dropped_when_it_ends_later_or_earlier_than_first_said() {
        let (mut map, now) = (Expiring::default(), Instant::now());
        map.insert(1, 'a', now + secs(10), 1);
        map.insert(2, 'b', now + secs(100), 1);
        assert_eq!(map.change(&1, now, |_, _| (now + secs(50), 'c')), Some('c'));
        assert_eq!(map.insert(2, 'd', now + secs(20), 3), Some('b'));
        assert_eq!(map.bytes(), 4);
        assert_eq!(swept(&mut map, now + secs(19), 9), []);
        assert_eq!(swept(&mut map, now + secs(20), 9), [(2, 'd')]);
        assert_eq!(swept(&mut map, now + secs(49), 9), []);
        assert_eq!(swept(&mut map, now + secs(50), 9), [(1, 'a')]);
        assert_eq!(map.change(&1, now, |_, _| (now, ())), None);
        // The queue forgets what it was told in vain.
        assert_eq!(swept(&mut map, now + secs(100), 9), []);
        assert!(map.queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_in_use_is_looked_at_once_per_lifetime() {
        let (mut map, start) = (Expiring::default(), Instant::now());
        map.insert(1, 'a', start + secs(100), 1);
        for second in 1..1000 {
            let now = start + secs(second);
            map.change(&1, now, |_, _| (now + secs(100), ()));
            map.insert(1, 'a', now + secs(100), 1);
            assert_eq!(swept(&mut map, now, 9), []);
            assert_eq!(map.queue.len(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn room_that_is_no_longer_needed_is_given_back() {
        let (mut map, now) = (Expiring::default(), Instant::now());
        for key in 0..100_000 {
            map.insert(key, 'x', now + secs(1), 1);
        }
        while map.len() > 0 {
            swept(&mut map, now + secs(1), 16);
        }
        assert!(map.map.capacity() < 10_000 && map.queue.capacity() < 10_000);
    }
}
