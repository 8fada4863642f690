//! What became of the requests: counts, statuses, and times from the moment at which each was due.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::driver::Outcome;

/// How many failures are kept word for word; all are counted.
const FAILURES_KEPT: usize = 200;
/// Longer than a client waits for an answer. What takes longer is recorded as this.
const LONGEST: Duration = Duration::from_secs(120);

/// One request that has ended. Times count from the start of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// What the report calls it.
    pub kind: &'static str,
    /// When it was due.
    pub due: Duration,
    /// When it was sent.
    pub sent: Duration,
    /// When it ended.
    pub done: Duration,
    /// Whether it counts as failed.
    pub failed: bool,
}

impl Sample {
    /// How long its visitor waited.
    pub fn took(&self) -> Duration {
        self.done.saturating_sub(self.due)
    }
}

/// A request that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Which, and when.
    pub sample: Sample,
    /// Which node answered, if one did.
    pub node: Option<String>,
    /// Why it counts as failed.
    pub why: String,
}

/// The requests of one kind.
#[derive(Debug, Clone)]
pub struct Kind {
    /// How many were sent.
    pub sent: u64,
    /// How many got a complete answer, whichever.
    pub answered: u64,
    /// How many failed.
    pub failed: u64,
    /// How many had each status; `no answer` stands beside the numbers.
    pub statuses: BTreeMap<String, u64>,
    /// Microseconds from due to done.
    pub latency: Histogram<u64>,
}

/// What became of the requests of a load.
#[derive(Debug, Clone)]
pub struct Report {
    started: Instant,
    /// From the start to the last event.
    lasted: Duration,
    /// How many were due and had nobody to send them.
    pub missed: u64,
    /// By what the workload calls them.
    pub kinds: BTreeMap<&'static str, Kind>,
    /// Answers per node.
    pub nodes: BTreeMap<String, u64>,
    /// The first failures.
    pub failures: Vec<Failure>,
    /// Every request that has ended, in that order.
    pub samples: Vec<Sample>,
    all: Histogram<u64>,
}

/// How far a load is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Since the start.
    pub elapsed: Duration,
    /// Requests sent.
    pub sent: u64,
    /// Requests that were due and had nobody to send them.
    pub missed: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests without an answer so far.
    pub in_flight: u64,
    /// Of all that have ended: 99 % took at most this long.
    pub p99: Duration,
    /// Of all that have ended: the longest.
    pub longest: Duration,
}

fn histogram() -> Histogram<u64> {
    // Three digits over two minutes in microseconds: some 200 KiB, and no error that matters.
    Histogram::new_with_bounds(1, micros(LONGEST), 3).expect("these bounds are in order")
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn quantile(histogram: &Histogram<u64>, quantile: f64) -> Duration {
    Duration::from_micros(histogram.value_at_quantile(quantile))
}

impl Kind {
    fn new() -> Self {
        Self { sent: 0, answered: 0, failed: 0, statuses: BTreeMap::new(), latency: histogram() }
    }

    /// This share of the requests (0.99 for p99) took at most this long.
    pub fn quantile(&self, share: f64) -> Duration {
        quantile(&self.latency, share)
    }
}

impl Report {
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            started,
            lasted: Duration::ZERO,
            missed: 0,
            kinds: BTreeMap::new(),
            nodes: BTreeMap::new(),
            failures: Vec::new(),
            samples: Vec::new(),
            all: histogram(),
        }
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn missed(&mut self) {
        self.lasted = self.elapsed();
        self.missed += 1;
    }

    pub(crate) fn sent(&mut self, kind: &'static str) {
        self.lasted = self.elapsed();
        self.kinds.entry(kind).or_insert_with(Kind::new).sent += 1;
    }

    pub(crate) fn done(&mut self, sample: Sample, Outcome { status, node, failure }: Outcome) {
        self.lasted = self.elapsed();
        let took = micros(sample.took().min(LONGEST));
        let kind = self.kinds.entry(sample.kind).or_insert_with(Kind::new);
        kind.latency.saturating_record(took);
        self.all.saturating_record(took);
        let status = match status {
            Ok(status) => {
                kind.answered += 1;
                status.as_u16().to_string()
            }
            Err(_) => "no answer".to_owned(),
        };
        *kind.statuses.entry(status).or_default() += 1;
        if let Some(node) = &node {
            *self.nodes.entry(node.clone()).or_default() += 1;
        }
        if let Some(why) = failure {
            kind.failed += 1;
            if self.failures.len() < FAILURES_KEPT {
                self.failures.push(Failure { sample, node, why });
            }
        }
        self.samples.push(sample);
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress {
            elapsed: self.elapsed(),
            sent: self.total_sent(),
            missed: self.missed,
            failed: self.failed(),
            in_flight: self.total_sent() - self.samples.len() as u64,
            p99: self.quantile(0.99),
            longest: self.longest(),
        }
    }

    /// How long the load lasted, the last answer included.
    pub fn lasted(&self) -> Duration {
        self.lasted
    }

    /// How many requests were due.
    pub fn intended(&self) -> u64 {
        self.total_sent() + self.missed
    }

    /// How many were sent.
    pub fn total_sent(&self) -> u64 {
        self.kinds.values().map(|kind| kind.sent).sum()
    }

    /// How many failed.
    pub fn failed(&self) -> u64 {
        self.kinds.values().map(|kind| kind.failed).sum()
    }

    /// The share of the intended requests that were sent. Below 0.95 the load was not what it says it was.
    pub fn sent_share(&self) -> f64 {
        self.total_sent() as f64 / self.intended().max(1) as f64
    }

    /// This share of all requests (0.99 for p99) took at most this long.
    pub fn quantile(&self, share: f64) -> Duration {
        quantile(&self.all, share)
    }

    /// The longest that any request took.
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.all.max())
    }
}

/// A line for each kind, one for the nodes, and the first failures.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, kind) in &self.kinds {
            let statuses = kind.statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect::<Vec<_>>();
            writeln!(
                f,
                "  {name:<28} {:>7} sent {:>5} failed   p50 {:>8.1?}  p99 {:>8.1?}  longest {:>8.1?}   {}",
                kind.sent,
                kind.failed,
                kind.quantile(0.5),
                kind.quantile(0.99),
                Duration::from_micros(kind.latency.max()),
                statuses.join(", ")
            )?;
        }
        let nodes = self.nodes.iter().map(|(node, count)| format!("{node}: {count}")).collect::<Vec<_>>();
        writeln!(f, "  answers per node: {}", nodes.join(", "))?;
        for Failure { sample, node, why } in self.failures.iter().take(20) {
            let node = node.as_deref().unwrap_or("no node");
            writeln!(f, "  failed at {:.2?} after {:.2?}, {node}: {}: {why}", sample.done, sample.took(), sample.kind)?;
        }
        Ok(())
    }
}

/// One short line, to be printed over and over.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { elapsed, sent, failed, in_flight, p99, .. } = self;
        let (seconds, p99) = (elapsed.as_secs(), p99.as_millis());
        write!(f, "{seconds:>4} s  {sent:>6} sent  {failed} failed  {in_flight:>4} in flight  p99 {p99:>4} ms")
    }
}
