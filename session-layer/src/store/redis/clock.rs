//! How far Redis' clock is from ours.
//!
//! Redis said "it is T" in answer to a question sent at `sent` and answered at `received`; it looked at its clock between the two. So
//! its clock is at least `T - received` and at most `T - sent` ahead of ours. The last few answers together narrow that down, and
//! when one contradicts them, somebody has set a clock.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

const SAMPLES: usize = 8;

/// Listens to Redis telling the time.
#[derive(Debug)]
pub(super) struct Samples {
    samples: VecDeque<(i64, i64)>,
    clock: Clock,
}

/// Redis' clock, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// What our side counts from.
    zero: Instant,
    /// How far at least Redis' clock is ahead of that, in microseconds.
    least: i64,
    /// And at most.
    most: i64,
}

impl Samples {
    pub(super) fn new() -> Self {
        let clock = Clock { zero: Instant::now(), least: 0, most: 0 };
        Self { samples: VecDeque::with_capacity(SAMPLES), clock }
    }

    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    /// Redis' clock stood at `redis_micros` some time from `sent` to `received`.
    pub(super) fn sample(&mut self, redis_micros: u64, sent: Instant, received: Instant) {
        let redis = i64::try_from(redis_micros).unwrap_or(i64::MAX);
        let micros = |moment| self.clock.micros(moment);
        let sample = (redis.saturating_sub(micros(received)), redis.saturating_sub(micros(sent)));
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        if self.least() > self.most() {
            self.samples.clear();
            self.samples.push_back(sample);
        }
        (self.clock.least, self.clock.most) = (self.least(), self.most());
    }

    fn least(&self) -> i64 {
        self.samples.iter().map(|(least, _)| *least).max().unwrap_or(0)
    }

    fn most(&self) -> i64 {
        self.samples.iter().map(|(_, most)| *most).min().unwrap_or(0)
    }
}

impl Clock {
    /// A moment of ours in microseconds of Redis' clock; never later than it really is there.
    pub(super) fn redis_micros(&self, moment: Instant) -> u64 {
        u64::try_from(self.least.saturating_add(self.micros(moment))).unwrap_or(0)
    }

    /// A moment of Redis' clock by our wall clock.
    pub(super) fn system_time(&self, redis_millis: u64) -> SystemTime {
        let ahead = self.least.midpoint(self.most);
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

    fn micros(&self, moment: Instant) -> i64 {
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        if moment >= self.zero { micros(moment - self.zero) } else { -micros(self.zero - moment) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUE_OFFSET: u64 = 1_000_000_000;

    /// Redis is a thousand seconds ahead, and its answers took `took` microseconds, one a second.
    fn samples(took: &[u64]) -> Samples {
        let mut samples = Samples::new();
        for (i, micros) in took.iter().enumerate() {
            answer(&mut samples, i as u64, *micros);
        }
        samples
    }

    fn answer(samples: &mut Samples, second: u64, took: u64) {
        let sent = samples.clock.zero + Duration::from_secs(second);
        samples.sample(TRUE_OFFSET + second * 1_000_000 + took / 2, sent, sent + Duration::from_micros(took));
    }

    #[test]
    fn a_deadline_is_never_later_in_redis_than_here() {
        let clock = samples(&[400, 100, 600_000]).clock();
        let deadline = clock.zero + Duration::from_secs(5);
        // The best answer counts: off by half of what it took.
        assert_eq!(clock.redis_micros(deadline), TRUE_OFFSET + 5_000_000 - 50);
    }

    #[test]
    fn what_is_long_past_is_zero_at_worst() {
        let zero = Instant::now() + Duration::from_secs(10);
        let clock = Clock { zero, least: 5, most: 5 };
        assert_eq!(clock.redis_micros(zero - Duration::from_secs(10)), 0);
    }

    #[test]
    fn a_clock_that_was_set_is_believed_at_once() {
        let mut samples = samples(&[100; 8]);
        let sent = samples.clock.zero + Duration::from_secs(8);
        samples.sample(500_000_000, sent, sent + Duration::from_micros(100));
        assert_eq!(samples.clock().redis_micros(sent), 500_000_000 - 100);
        assert_eq!(samples.samples.len(), 1);
    }

    #[test]
    fn old_answers_are_forgotten() {
        let mut samples = samples(&[10, 10]);
        for second in 0..SAMPLES as u64 {
            answer(&mut samples, 10 + second, 1000);
        }
        let clock = samples.clock();
        assert_eq!(clock.redis_micros(clock.zero), TRUE_OFFSET - 500);
    }

    #[test]
    fn the_wall_clock_is_off_by_half_an_answer_at_most() {
        let clock = samples(&[100]).clock();
        let in_a_minute = clock.redis_micros(Instant::now()) / 1000 + 60_000;
        let left = clock.system_time(in_a_minute).duration_since(SystemTime::now()).unwrap();
        assert!(left.abs_diff(Duration::from_secs(60)) < Duration::from_secs(1), "{left:?}");
        for millis in [0, u64::MAX] {
            clock.system_time(millis);
        }
    }
}
