//! Drives an app: over so many connections, each of which sends the next request when the last was answered.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;

use crate::http::Connection;
use crate::scenario::{Scenario, User};

/// Before anything is counted, so that connections are open and caches are as they will be.
const WARM_UP: Duration = Duration::from_millis(300);
/// Between two visits of one user of a crowd: a session is read from a near cache if its user was told of nothing new for so long.
const PAUSE: Duration = Duration::from_secs(2);

pub(crate) struct Users {
    connections: Vec<Connection>,
    /// Each connection takes the first, and puts them back at the end.
    queue: Rc<RefCell<VecDeque<User>>>,
}

/// What came of some time of load.
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) took: Duration,
    /// In microseconds, sorted.
    latencies: Vec<u32>,
}

impl Users {
    pub(crate) async fn start(app: SocketAddr, scenario: Scenario, keeps_sessions: bool, crowd: usize) -> Result<Self> {
        let mut connections = Vec::new();
        for _ in 0..scenario.users {
            connections.push(Connection::open(app).await?);
        }
        let count = if scenario.requests.of_a_crowd() { crowd } else { scenario.users };
        let queue = (0..count).map(|number| User::new(number, scenario, keeps_sessions)).collect();
        let mut users = Self { connections, queue: Rc::new(RefCell::new(queue)) };
        users.each_once(User::start).await?;
        if scenario.requests.of_a_crowd() {
            // Once to fill a near cache, where many sessions come at the same time; once more, and it is as it will stay.
            for _ in 0..2 {
                users.pause().await;
                users.visit().await?;
            }
            users.pause().await;
        } else {
            users.drive(WARM_UP).await?;
        }
        Ok(users)
    }

    /// For so long, each user in turn. A wrong answer ends it, and with it the scenario.
    pub(crate) async fn drive(&mut self, time: Duration) -> Result<Load> {
        let end = Instant::now() + time;
        self.send(User::go, move |now| now < end).await
    }

    /// Each user once.
    pub(crate) async fn visit(&mut self) -> Result<Load> {
        self.each_once(User::go).await
    }

    async fn each_once(
        &mut self,
        visit: impl AsyncFn(&mut User, &mut Connection) -> Result<()> + Copy + 'static,
    ) -> Result<Load> {
        let left = Rc::new(Cell::new(self.queue.borrow().len()));
        self.send(visit, move |_| left.replace(left.get().saturating_sub(1)) > 0).await
    }

    pub(crate) async fn pause(&self) {
        tokio::time::sleep(PAUSE).await;
    }

    async fn send(
        &mut self,
        visit: impl AsyncFn(&mut User, &mut Connection) -> Result<()> + Copy + 'static,
        go_on: impl Fn(Instant) -> bool + Clone + 'static,
    ) -> Result<Load> {
        let started = Instant::now();
        let mut driven = JoinSet::new();
        for mut connection in self.connections.drain(..) {
            let (queue, go_on) = (Rc::clone(&self.queue), go_on.clone());
            driven.spawn_local(async move {
                let mut latencies = Vec::with_capacity(1 << 14);
                let mut sent = Instant::now();
                while go_on(sent) {
                    let mut user = queue.borrow_mut().pop_front().context("no user")?;
                    visit(&mut user, &mut connection).await?;
                    queue.borrow_mut().push_back(user);
                    let answered = Instant::now();
                    latencies.push(u32::try_from((answered - sent).as_micros()).unwrap_or(u32::MAX));
                    sent = answered;
                }
                anyhow::Ok((connection, latencies))
            });
        }
        let mut latencies = Vec::new();
        while let Some(outcome) = driven.join_next().await {
            let (connection, mut of_connection) = outcome??;
            self.connections.push(connection);
            latencies.append(&mut of_connection);
        }
        let took = started.elapsed();
        latencies.sort_unstable();
        Ok(Load { requests: latencies.len() as u64, took, latencies })
    }

    /// One request after the other, this many.
    pub(crate) async fn go(&mut self, requests: usize) -> Result<()> {
        let connection = self.connections.first_mut().context("no connection")?;
        for _ in 0..requests {
            let mut user = self.queue.borrow_mut().pop_front().context("no user")?;
            user.go(connection).await?;
            self.queue.borrow_mut().push_back(user);
        }
        Ok(())
    }

    /// What a user wrote last must be there; of a crowd a sample is asked.
    pub(crate) async fn check(mut self) -> Result<()> {
        const SAMPLE: usize = 1000;
        let connection = self.connections.first_mut().context("no connection")?;
        let mut users = self.queue.take();
        let step = users.len().div_ceil(SAMPLE);
        for user in users.iter_mut().step_by(step) {
            user.check(connection).await?;
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
