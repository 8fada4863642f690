//! How long to wait before another connection is tried.

use std::time::Duration;

use crate::id::random_bytes;

/// Pauses that grow from 25 to 50 ms up to 1 to 2 s: some 25 attempts in 30 s. Random, so that nodes do not come at once.
#[derive(Default)]
pub(super) struct Backoff(u32);

impl Backoff {
    const SHORTEST_MILLIS: u64 = 25;
    const LONGEST_MILLIS: u64 = 1000;

    /// Returns the next pause.
    pub(super) fn next(&mut self) -> Duration {
        let millis = (Self::SHORTEST_MILLIS << self.0.min(16)).min(Self::LONGEST_MILLIS);
        self.0 = self.0.saturating_add(1);
        let [random] = random_bytes();
        Duration::from_millis(millis + millis * u64::from(random) / 255)
    }

    /// A connection has lasted.
    pub(super) fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_seconds_of_failures_are_few_attempts() {
        let mut backoff = Backoff::default();
        let (mut time, mut attempts) = (Duration::ZERO, 0);
        while time < Duration::from_secs(30) {
            let pause = backoff.next();
            assert!(pause <= Duration::from_secs(2), "{pause:?}");
            (time, attempts) = (time + pause, attempts + 1);
        }
        assert!((15..=40).contains(&attempts), "{attempts}");
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(50));
    }
}
