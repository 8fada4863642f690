//! Load on the running cluster, with a line that says how it goes.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use http::Method;
use load::browser::{Browser, Site};
use load::driver::{Load, Plan, Watch};
use load::report::{Progress, Report};
use load::visitors::{Findings, Visitors};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::arguments::Under;

/// Before something is done to the cluster, and after it, so that there is something to compare with.
pub(crate) const CALM: Duration = Duration::from_secs(3);

pub(crate) struct Live {
    runtime: Runtime,
    visitors: Visitors,
    load: Load,
    line: Line,
}

/// What the load came to.
pub(crate) struct Outcome {
    pub(crate) report: Report,
    pub(crate) findings: Findings,
}

impl Live {
    /// Lets the visitors arrive, and begins. `at_most` bounds the load, should nobody end it.
    pub(crate) fn start(site: Site, under: Under, at_most: Duration) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let seed = fastrand::u64(..);
        println!("Visitors arrive (seed {seed})");
        let visitors = runtime.block_on(Visitors::arrive(site, under.rate, seed)).map_err(|why| anyhow!("{why}"))?;
        println!("{} are there; {} requests a second from here on", visitors.population(), under.rate);
        let plan = Plan { rate: under.rate, at_most };
        let load = runtime.block_on(async { Load::start(plan, visitors.clone()) });
        let line = Line::new();
        runtime.spawn(line.clone().print(load.watch()));
        Ok(Self { runtime, visitors, load, line })
    }

    /// Says what is being done from here on.
    pub(crate) fn stage(&self, stage: impl Into<String>) {
        self.line.stage(self.load.progress(), stage.into());
    }

    /// Says something that stays on the screen.
    pub(crate) fn say(&self, text: &str) {
        self.line.say(text);
    }

    pub(crate) fn watch(&self) -> Watch {
        self.load.watch()
    }

    pub(crate) fn findings(&self) -> Findings {
        self.visitors.findings()
    }

    /// Asks a node for its readiness: whether it takes requests, and sees the store.
    pub(crate) fn ready(&self, site: Site) -> Result<()> {
        let answer = self.get(site, "/readyz")?;
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if answer.status != 200 || body["store"] != "up" {
            bail!("{}: {}", answer.status, answer.text());
        }
        Ok(())
    }

    pub(crate) fn get(&self, site: Site, path: &str) -> Result<load::browser::Answer> {
        let sent = async { Browser::new().send(site, Method::GET, path, &[], Default::default()).await };
        self.runtime.block_on(sent).map_err(|why| anyhow!("GET {path}: {why}"))
    }

    /// Ends the load, and looks at every session once more.
    pub(crate) fn finish(self) -> Outcome {
        self.stage("waiting for the last answers");
        let report = self.runtime.block_on(self.load.stop());
        self.line.end();
        println!("Looking at every session once more");
        let findings = self.runtime.block_on(self.visitors.verify());
        Outcome { report, findings }
    }
}

impl Outcome {
    /// Prints all there is to know.
    pub(crate) fn print(&self) {
        let Self { report, findings } = self;
        println!(
            "{} requests were due in {:.0?}, {} were sent ({:.1} %), {} failed; p50 {:.1?}, p99 {:.1?}, longest {:.2?}",
            report.intended(),
            report.lasted(),
            report.total_sent(),
            100.0 * report.sent_share(),
            report.failed(),
            report.quantile(0.5),
            report.quantile(0.99),
            report.longest()
        );
        print!("{report}{findings}");
    }

    /// Nothing failed, nothing was wrong, and no login or logout was lost.
    pub(crate) fn judge(&self) -> Result<()> {
        let Self { report, findings } = self;
        if report.sent_share() < 0.95 {
            bail!(
                "{} of {} requests could not be sent: the load was not what it says",
                report.missed,
                report.intended()
            );
        }
        if report.failed() > 0 {
            bail!("{} of {} requests failed", report.failed(), report.total_sent());
        }
        if !findings.are_good() {
            let (wrong, lost) = (findings.wrong.count, findings.lost_durable.count);
            bail!("{wrong} answers were wrong, {lost} logins or logouts were lost");
        }
        Ok(())
    }
}

/// The line that is printed over and over; on a terminal in one place.
#[derive(Clone)]
struct Line {
    stage: Arc<Mutex<String>>,
    in_place: bool,
}

impl Line {
    fn new() -> Self {
        Self { stage: Arc::new(Mutex::new("calm".to_owned())), in_place: io::stdout().is_terminal() }
    }

    async fn print(self, watch: Watch) {
        let every = Duration::from_secs(if self.in_place { 1 } else { 5 });
        loop {
            tokio::time::sleep(every).await;
            let stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
            if stage.is_empty() {
                return;
            }
            self.write(&watch.progress(), &stage);
        }
    }

    fn write(&self, progress: &Progress, stage: &str) {
        // Whoever does not read what we write does not want to know.
        let _ = if self.in_place {
            write!(io::stdout(), "\r\x1b[K{progress}  {stage}").and_then(|()| io::stdout().flush())
        } else {
            writeln!(io::stdout(), "{progress}  {stage}")
        };
    }

    fn stage(&self, progress: Progress, next: String) {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        *stage = next;
        self.write(&progress, &stage);
    }

    fn say(&self, text: &str) {
        let _stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        println!("{}{text}", if self.in_place { "\r\x1b[K" } else { "" });
    }

    fn end(&self) {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if self.in_place {
            println!();
        }
    }
}

/// So long at most, for `rounds` that take `each` at most.
pub(crate) fn bound(rounds: u32, each: Duration) -> Result<Duration> {
    each.checked_mul(rounds).and_then(|all| all.checked_add(CALM * 4)).context("so many rounds have no end")
}
