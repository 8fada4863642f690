//! How far Redis' clock is from ours.
//!
//! Redis said "it is T" in answer to a question sent at `sent` and answered at `received`; it looked at its clock between the two. So
//! its clock is at least `T - received` and at most `T - sent` ahead of ours. The last few answers together narrow that down, and
//! when one contradicts them, somebody has set a clock.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

const SAMPLES: usize = 8;

#[derive(Debug, Clone)]
pub(super) struct Clock {
    /// What our side counts from.
    zero: Instant,
    /// Least and most that Redis' clock is ahead of `zero`, in microseconds.
    samples: VecDeque<(i64, i64)>,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { zero: Instant::now(), samples: VecDeque::with_capacity(SAMPLES) }
    }

    /// Redis' clock stood at `redis_micros` some time from `sent` to `received`.
    pub(super) fn sample(&mut self, redis_micros: u64, sent: Instant, received: Instant) {
        let redis = i64::try_from(redis_micros).unwrap_or(i64::MAX);
        let sample = (redis.saturating_sub(self.micros(received)), redis.saturating_sub(self.micros(sent)));
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        let (least, most) = self.bounds();
        if least > most {
            self.samples.clear();
            self.samples.push_back(sample);
        }
    }

    /// A moment of ours in microseconds of Redis' clock; never later than it really is there.
    pub(super) fn redis_micros(&self, moment: Instant) -> u64 {
        let (least, _) = self.bounds();
        u64::try_from(least.saturating_add(self.micros(moment))).unwrap_or(0)
    }

    /// A moment of Redis' clock by our wall clock.
    pub(super) fn system_time(&self, redis_millis: u64) -> SystemTime {
        let (least, most) = self.bounds();
        let ahead = least.midpoint(most);
        let redis_now = u64::try_from(ahead.saturating_add(self.micros(Instant::now()))).unwrap_or(0);
        let redis_then = redis_millis.saturating_mul(1000);
        let now = SystemTime::now();
        let moment = if redis_then >= redis_now {
            now.checked_add(Duration::from_micros(redis_then - redis_now))
        } else {
            now.checked_sub(Duration::from_micros(redis_now - redis_then))
        };
        // Further away than the operating system can tell is further than anybody asks.
        moment.unwrap_or(now + Duration::from_secs(1 << 32))
    }

    fn bounds(&self) -> (i64, i64) {
        let least = self.samples.iter().map(|(least, _)| *least).max().unwrap_or(0);
        let most = self.samples.iter().map(|(_, most)| *most).min().unwrap_or(0);
        (least, most)
    }

    fn micros(&self, moment: Instant) -> i64 {
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        if moment >= self.zero { micros(moment - self.zero) } else { -micros(self.zero - moment) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that knows Redis to be a thousand seconds ahead, from answers that took `micros`.
    fn clock(took: &[u64]) -> Clock {
        let mut clock = Clock::new();
        for (i, micros) in took.iter().enumerate() {
            let sent = clock.zero + Duration::from_secs(i as u64);
            let received = sent + Duration::from_micros(*micros);
            let redis = 1_000_000_000 + i as u64 * 1_000_000 + micros / 2;
            clock.sample(redis, sent, received);
        }
        clock
    }

    #[test]
    fn a_deadline_is_never_later_in_redis_than_here() {
        let clock = clock(&[400, 100, 600_000]);
        let deadline = clock.zero + Duration::from_secs(5);
        // The best answer counts: off by half of what it took.
        assert_eq!(clock.redis_micros(deadline), 1_005_000_000 - 50);
    }

    #[test]
    fn what_is_long_past_is_zero_at_worst() {
        let mut clock = Clock::new();
        clock.sample(5, clock.zero, clock.zero);
        clock.zero += Duration::from_secs(10);
        assert_eq!(clock.redis_micros(clock.zero - Duration::from_secs(10)), 0);
    }

    #[test]
    fn a_clock_that_was_set_is_believed_at_once() {
        let mut clock = clock(&[100; 8]);
        let sent = clock.zero + Duration::from_secs(8);
        clock.sample(500_000_000, sent, sent + Duration::from_micros(100));
        assert_eq!(clock.redis_micros(sent), 500_000_000 - 100);
        assert_eq!(clock.samples.len(), 1);
    }

    #[test]
    fn old_answers_are_forgotten() {
        let mut clock = clock(&[10, 10]);
        for i in 0..SAMPLES as u64 {
            let sent = clock.zero + Duration::from_secs(10 + i);
            clock.sample(1_010_000_000 + i * 1_000_000 + 500, sent, sent + Duration::from_micros(1000));
        }
        assert_eq!(clock.redis_micros(clock.zero), 1_000_000_000 - 500);
    }

    #[test]
    fn no_time_is_too_far_away() {
        let clock = clock(&[100]);
        for millis in [0, 1_000_000, u64::MAX] {
            clock.system_time(millis);
        }
    }
}
