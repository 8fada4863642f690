//! Many requests over a while, and what became of them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::browser::{Answer, Browser, Site};

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
    stop: oneshot::Sender<()>,
    requests: JoinHandle<Vec<Sample>>,
    started: Instant,
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
        let (stop, stopped) = oneshot::channel();
        let started = Instant::now();
        Self { stop, requests: tokio::spawn(send(browser.clone(), every, kinds, started, stopped)), started }
    }

    /// How long it has been going on.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Sends no more, and waits for the answers that are still missing.
    pub async fn stop(self) -> Report {
        // The receiver has gone only if the traffic has panicked, which the next line says.
        let _ = self.stop.send(());
        Report { samples: self.requests.await.expect("the traffic does not panic") }
    }
}

async fn send(
    browser: Browser,
    every: Duration,
    kinds: Vec<Kind>,
    started: Instant,
    mut stopped: oneshot::Receiver<()>,
) -> Vec<Sample> {
    let mut requests = JoinSet::new();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = &mut stopped => return requests.join_all().await,
        }
        for &Kind { name, site, method, path } in &kinds {
            let browser = browser.clone();
            requests.spawn(async move {
                let method = Method::from_bytes(method.as_bytes()).expect("a method");
                let sent = started.elapsed();
                let answer = browser.send(site, method, path, &[], Bytes::new()).await;
                Sample { name, sent, took: started.elapsed() - sent, answer }
            });
        }
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
