//! Patience with the store: how long a request waits for it, how often it tries, and how many may wait at once.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::error::{Kind, SessionError};
use crate::id::random_bytes;
use crate::store::{BoxFuture, ErasedStore, StoreError};
use crate::telemetry::StoreReports;

/// What is left of the time that one request may wait for the store; the handler's own time does not count.
pub(crate) struct Budget(AtomicU64);

impl Budget {
    pub(crate) fn new(budget: Duration) -> Self {
        Self(AtomicU64::new(nanos(budget)))
    }

    /// When it is spent if all the time from now on is.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    fn spend(&self, time: Duration) {
        let spend = |left: u64| Some(left.saturating_sub(nanos(time)));
        // Never fails: the closure always gives a value.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// How many requests wait for a store that is in trouble; above the bound a request is told so at once.
pub(crate) struct Waiters {
    max: usize,
    now: AtomicUsize,
    reports: StoreReports,
}

impl Waiters {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, now: AtomicUsize::new(0), reports: StoreReports::default() }
    }

    fn enter(&self) -> Option<Waiting<'_>> {
        let waiting = Waiting(self);
        // Counted before it is compared, so that the bound holds however many come at once; dropping counts down again.
        (self.now.fetch_add(1, Ordering::Relaxed) < self.max).then_some(waiting)
    }
}

struct Waiting<'a>(&'a Waiters);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes an attempt, again and again while the store is unavailable, until it gets an answer or the deadline of the budget
/// has come.
///
/// An attempt that is cut off by the budget is dropped, which is how a store learns that nobody waits for it any more.
pub(crate) async fn persist<'a, T>(
    store: &'a dyn ErasedStore,
    budget: &Budget,
    waiters: &Waiters,
    deadline: Instant,
    attempt: impl Fn() -> BoxFuture<'a, Result<T, StoreError>>,
) -> Result<T, SessionError> {
    let started = Instant::now();
    // Also when this future is dropped half-way: the time was spent.
    let _spend = OnDrop(|| budget.spend(started.elapsed()));
    let mut waiting = None;
    let mut last = None;
    for tries in 0.. {
        match timeout_at(deadline, attempt()).await {
            Err(_elapsed) => break,
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if !error.is_unavailable() => {
                waiters.reports.refused(&error);
                return Err(SessionError::refused(error));
            }
            Ok(Err(error)) => last = Some(error),
        }
        if waiting.is_none() {
            waiting = Some(waiters.enter().ok_or_else(|| SessionError::new(Kind::Busy))?);
        }
        let recovered = async {
            store.available().await;
            sleep(pause(tries)).await;
        };
        if timeout_at(deadline, recovered).await.is_err() {
            break;
        }
    }
    waiters.reports.gave_up(last.as_ref(), started.elapsed());
    Err(SessionError::unavailable(last))
}

/// Between two attempts: 5 to 10 ms at first, up to 80 to 160 ms later. Random, so that everybody who waited for the same
/// master does not ask the next one in the same millisecond.
fn pause(tries: u32) -> Duration {
    let base = 5_000 << tries.min(4);
    Duration::from_micros(base + u64::from(u16::from_ne_bytes(random_bytes())) * base / u64::from(u16::MAX))
}

/// Does something also when the future that holds it is dropped half-way.
pub(crate) struct OnDrop<F: Fn()>(pub(crate) F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
