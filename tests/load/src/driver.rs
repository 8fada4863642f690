//! An open loop: request number n is due n intervals after the start, whether or not those before it were answered.
//!
//! A driver that waits for an answer before it sends the next request sends nothing while the server stalls, and then reports
//! one slow request where a hundred visitors would have waited (Tene, "coordinated omission"). Here every request's time counts
//! from the moment at which it was due, whoever is late: the server, the network, or the driver itself.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::report::{Progress, Report, Sample};

/// What is sent.
pub trait Workload: Send + Sync + 'static {
    /// Begins the request that is due now, the `number`-th from 0; `None` if there is nobody to send it, which counts as missed.
    /// Must not block.
    fn begin(&self, number: u64) -> Option<Request>;
}

/// A request that has begun.
pub struct Request {
    /// What the report calls it.
    pub kind: &'static str,
    /// Sends it, and says what came of it. It must end by itself: the driver waits for it.
    pub outcome: Pin<Box<dyn Future<Output = Outcome> + Send>>,
}

impl Request {
    /// One of this kind.
    pub fn new(kind: &'static str, outcome: impl Future<Output = Outcome> + Send + 'static) -> Self {
        Self { kind, outcome: Box::pin(outcome) }
    }
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The answer's status, or why there is no complete answer.
    pub status: Result<StatusCode, String>,
    /// Which node answered.
    pub node: Option<String>,
    /// Why it counts as failed, if it does.
    pub failure: Option<String>,
}

/// How much, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Requests that are due each second.
    pub rate: u32,
    /// Load ends by itself after this long.
    pub at_most: Duration,
}

/// A look at a load that is going on, from elsewhere.
#[derive(Clone)]
pub struct Watch {
    report: Arc<Mutex<Report>>,
}

/// Load that is going on. Dropped, it sends no more, and what is in flight is left alone.
pub struct Load {
    report: Arc<Mutex<Report>>,
    stop: watch::Sender<bool>,
    scheduler: JoinHandle<()>,
}

impl Watch {
    /// How far it is.
    pub fn progress(&self) -> Progress {
        lock(&self.report).progress()
    }

    /// How long it has been going on: the clock of [`Sample`].
    pub fn elapsed(&self) -> Duration {
        lock(&self.report).elapsed()
    }

    /// The requests that have ended since `time`, in that order.
    pub fn ended_since(&self, time: Duration) -> Vec<Sample> {
        let report = lock(&self.report);
        let from = report.samples.partition_point(|sample| sample.done < time);
        report.samples[from..].to_vec()
    }
}

impl Load {
    /// Starts.
    ///
    /// # Panics
    ///
    /// When the rate is 0.
    pub fn start(plan: Plan, workload: impl Workload) -> Self {
        assert!(plan.rate > 0, "load has a rate");
        let report = Arc::new(Mutex::new(Report::new(Instant::now())));
        let (stop, stopped) = watch::channel(false);
        let scheduler = tokio::spawn(schedule(plan, workload, Arc::clone(&report), stopped));
        Self { report, stop, scheduler }
    }

    /// A look at it, for somebody else.
    pub fn watch(&self) -> Watch {
        Watch { report: Arc::clone(&self.report) }
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.watch().progress()
    }

    /// How long it has been going on: the clock of [`Sample`].
    pub fn elapsed(&self) -> Duration {
        self.watch().elapsed()
    }

    /// Sends no more, waits for the answers that are still missing, and returns what became of all.
    pub async fn stop(self) -> Report {
        // The receiver has gone only if all has ended already.
        let _ = self.stop.send(true);
        self.finish().await
    }

    /// Waits until the plan's time is over and the last answer is there.
    ///
    /// # Panics
    ///
    /// When the workload has panicked.
    pub async fn finish(mut self) -> Report {
        (&mut self.scheduler).await.expect("the workload does not panic");
        let mut report = lock(&self.report);
        std::mem::replace(&mut *report, Report::new(Instant::now()))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // As in `stop`.
        let _ = self.stop.send(true);
    }
}

/// When request `number` is due. Computed from the number, so that errors do not add up.
fn due(number: u64, rate: u32) -> Duration {
    let nanos = u128::from(number) * 1_000_000_000 / u128::from(rate);
    Duration::from_nanos(u64::try_from(nanos).expect("load does not last 500 years"))
}

async fn schedule(plan: Plan, workload: impl Workload, report: Arc<Mutex<Report>>, mut stopped: watch::Receiver<bool>) {
    let started = lock(&report).started();
    let mut requests = JoinSet::new();
    for number in 0.. {
        let due = due(number, plan.rate);
        if due >= plan.at_most {
            break;
        }
        tokio::select! {
            // Stopping wins over a request that is due.
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => break,
            () = sleep_until(started + due) => {}
        }
        match workload.begin(number) {
            None => lock(&report).missed(),
            Some(Request { kind, outcome }) => {
                lock(&report).sent(kind);
                let report = Arc::clone(&report);
                requests.spawn(async move {
                    let sent = started.elapsed();
                    let outcome = outcome.await;
                    let mut report = lock(&report);
                    // Under the lock, so that samples stand in the order of their ends.
                    let done = started.elapsed();
                    report.done(Sample { kind, due, sent, done, failed: outcome.failure.is_some() }, outcome);
                });
            }
        }
        // Ended ones would pile up until the end; and a panic must not wait for it.
        while let Some(ended) = requests.try_join_next() {
            ended.expect("the workload does not panic");
        }
    }
    requests.join_all().await;
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_even_distances_that_do_not_drift() {
        assert_eq!(due(0, 300), Duration::ZERO);
        assert_eq!(due(1, 300), Duration::from_nanos(3_333_333));
        assert_eq!(due(300 * 3600, 300), Duration::from_secs(3600));
    }
}
