//! Drives an app: so many users, each of whom sends the next request when the last was answered.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;

use crate::http::Browser;
use crate::scenario::{Scenario, User};

/// Before anything is counted, so that connections are open and caches are as they will be.
const WARM_UP: Duration = Duration::from_millis(300);

pub(crate) struct Users(Vec<User>);

/// What came of some time of load.
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) took: Duration,
    /// In microseconds, sorted.
    latencies: Vec<u32>,
}

impl Users {
    pub(crate) async fn start(app: SocketAddr, scenario: Scenario, keeps_sessions: bool) -> Result<Self> {
        let mut users = Vec::new();
        for _ in 0..scenario.users {
            users.push(User::new(Browser::connect(app).await?, scenario, keeps_sessions).await?);
        }
        let mut users = Self(users);
        users.drive(WARM_UP).await?;
        Ok(users)
    }

    /// A wrong answer ends it, and with it the scenario.
    pub(crate) async fn drive(&mut self, time: Duration) -> Result<Load> {
        let started = Instant::now();
        let end = started + time;
        let mut driven = JoinSet::new();
        for mut user in self.0.drain(..) {
            driven.spawn_local(async move {
                let mut latencies = Vec::with_capacity(1 << 14);
                let mut sent = Instant::now();
                while sent < end {
                    user.go().await?;
                    let answered = Instant::now();
                    latencies.push(u32::try_from((answered - sent).as_micros()).unwrap_or(u32::MAX));
                    sent = answered;
                }
                anyhow::Ok((user, latencies))
            });
        }
        let mut latencies = Vec::new();
        while let Some(outcome) = driven.join_next().await {
            let (user, mut of_user) = outcome??;
            self.0.push(user);
            latencies.append(&mut of_user);
        }
        let took = started.elapsed();
        latencies.sort_unstable();
        Ok(Load { requests: latencies.len() as u64, took, latencies })
    }

    /// One request after the other, this many.
    pub(crate) async fn go(&mut self, requests: usize) -> Result<()> {
        let user = self.0.first_mut().context("no user")?;
        for _ in 0..requests {
            user.go().await?;
        }
        Ok(())
    }

    /// What each user wrote last must be there.
    pub(crate) async fn check(mut self) -> Result<()> {
        for user in &mut self.0 {
            user.check().await?;
        }
        Ok(())
    }
}

impl Load {
    pub(crate) fn per_second(&self) -> f64 {
        self.requests as f64 / self.took.as_secs_f64()
    }

    /// In microseconds.
    pub(crate) fn percentile(&self, percent: usize) -> Result<f64> {
        if self.latencies.is_empty() {
            bail!("nothing was answered");
        }
        let index = (self.latencies.len() * percent / 100).min(self.latencies.len() - 1);
        Ok(f64::from(self.latencies[index]))
    }
}
