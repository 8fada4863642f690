//! Steady traffic to chosen doors, whose answers a test looks at one by one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use load::driver::{Load, Outcome, Plan, Request, Workload};
use tokio::time::Instant;

use crate::browser::{Answer, Browser, Site};

/// Longer than any test lets it go on.
const AT_MOST: Duration = Duration::from_secs(300);

/// One kind of request of the traffic.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// What the report calls it.
    pub name: &'static str,
    /// Where it goes.
    pub site: Site,
    /// How.
    pub method: &'static str,
    /// What it asks for.
    pub path: &'static str,
}

/// Steady traffic: each kind of request is sent once per interval, whether or not those before were answered, as independent
/// visitors do.
pub struct Traffic {
    load: Load,
    samples: Arc<Mutex<Vec<Sample>>>,
}

/// One request.
#[derive(Debug)]
pub struct Sample {
    /// What the report calls it.
    pub name: &'static str,
    /// When it was sent, from the beginning of the traffic.
    pub sent: Duration,
    /// How long it took, whatever came of it.
    pub took: Duration,
    /// What came back.
    pub answer: Result<Answer, String>,
}

/// All requests of one traffic.
#[derive(Debug)]
pub struct Report {
    /// In the order in which they were answered.
    pub samples: Vec<Sample>,
}

impl Traffic {
    /// Starts.
    pub fn start(browser: &Browser, every: Duration, kinds: Vec<Kind>) -> Self {
        let per_second = kinds.len() as f64 / every.as_secs_f64();
        let plan = Plan { rate: per_second.round() as u32, at_most: AT_MOST };
        let samples = Arc::default();
        let turns = Turns { browser: browser.clone(), kinds, started: Instant::now(), samples: Arc::clone(&samples) };
        Self { load: Load::start(plan, turns), samples }
    }

    /// How long it has been going on.
    pub fn elapsed(&self) -> Duration {
        self.load.elapsed()
    }

    /// Sends no more, and waits for the answers that are still missing.
    pub async fn stop(self) -> Report {
        self.load.stop().await;
        let samples = std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner));
        Report { samples }
    }
}

/// The kinds in turn.
struct Turns {
    browser: Browser,
    kinds: Vec<Kind>,
    started: Instant,
    samples: Arc<Mutex<Vec<Sample>>>,
}

impl Workload for Turns {
    fn begin(&self, number: u64) -> Option<Request> {
        let Kind { name, site, method, path } = self.kinds[(number % self.kinds.len() as u64) as usize];
        let (browser, started, samples) = (self.browser.clone(), self.started, Arc::clone(&self.samples));
        Some(Request::new(name, async move {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let sent = started.elapsed();
            let answer = browser.send(site, method, path, &[], Bytes::new()).await;
            let sample = Sample { name, sent, took: started.elapsed() - sent, answer };
            let outcome = Outcome {
                status: sample.answer.as_ref().map(|answer| answer.status).map_err(Clone::clone),
                node: sample.answer.as_ref().ok().and_then(|answer| answer.node()).map(str::to_owned),
                failure: (!sample.succeeded()).then(|| sample.outcome()),
            };
            samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
            outcome
        }))
    }
}

impl Sample {
    /// Whether it was answered as it should be.
    pub fn succeeded(&self) -> bool {
        self.answer.as_ref().is_ok_and(|answer| answer.status.is_success())
    }

    fn outcome(&self) -> String {
        match &self.answer {
            Ok(answer) => answer.status.as_u16().to_string(),
            Err(error) => error.clone(),
        }
    }
}

impl Report {
    /// Those that were not answered with a success.
    pub fn failures(&self) -> Vec<&Sample> {
        self.samples.iter().filter(|sample| !sample.succeeded()).collect()
    }

    /// The longest that any request took.
    pub fn longest(&self) -> Duration {
        self.samples.iter().map(|sample| sample.took).max().unwrap_or_default()
    }

    /// Only the requests of kinds whose name begins like this.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.name.starts_with(name))
    }

    /// Only the answers with this status.
    pub fn with_status(&self, status: StatusCode) -> usize {
        self.samples.iter().filter(|sample| sample.answer.as_ref().is_ok_and(|answer| answer.status == status)).count()
    }
}

/// A line for each kind: how many requests, how they ended, how long they took.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds: BTreeMap<_, (BTreeMap<_, usize>, Vec<_>)> = BTreeMap::new();
        for sample in &self.samples {
            let (outcomes, times) = kinds.entry(sample.name).or_default();
            *outcomes.entry(sample.outcome()).or_default() += 1;
            times.push(sample.took);
        }
        for (name, (outcomes, mut times)) in kinds {
            times.sort();
            let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
            writeln!(f, "  {name}: {outcomes:?}, median {median:.1?}, longest {longest:.1?}")?;
        }
        Ok(())
    }
}
