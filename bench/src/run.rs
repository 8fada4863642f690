//! Runs scenarios: in each round every app in turn, so that what happens to the machine meanwhile happens to all of them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::runtime::Builder;
use tokio::task::LocalSet;

use crate::apps::{APPS, App};
use crate::contract::Size;
use crate::http::{Connection, Cookies};
use crate::load::Users;
use crate::measure::{Core, cpu_time, pinned};
use crate::proxy;
use crate::redis::{Ended, Redis, start_and_read_port};
use crate::results::{Cell, Figures};
use crate::scenario::{Requests, Scenario};

/// How far away a far Redis is, each way.
const DELAY: Duration = Duration::from_micros(500);
/// So many requests one after the other, to count the commands of; of a crowd more, each of somebody else.
const COUNTED: u32 = 50;
const COUNTED_OF_A_CROWD: u32 = 1000;
/// So many sessions, to weigh.
const WEIGHED: u32 = 10_000;

pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
    /// How many sessions a crowd has. It is visited by rounds of its own: they take longer.
    pub(crate) crowd: usize,
    pub(crate) rounds_of_a_crowd: usize,
}

impl Effort {
    pub(crate) const FULL: Self =
        Self { rounds: 5, time: Duration::from_millis(1500), crowd: 40_000, rounds_of_a_crowd: 3 };
    /// Enough to see that all works, and roughly how fast.
    pub(crate) const QUICK: Self =
        Self { rounds: 1, time: Duration::from_millis(500), crowd: 4_000, rounds_of_a_crowd: 1 };
}

/// Runs one scenario with these apps.
pub(crate) fn run(
    scenario: Scenario,
    apps: &[&App],
    redis: &Redis,
    far: SocketAddr,
    effort: &Effort,
) -> Result<BTreeMap<String, Cell>> {
    let mut rounds: BTreeMap<&str, Vec<Figures>> = BTreeMap::new();
    let mut cells = BTreeMap::new();
    let count = if scenario.requests.of_a_crowd() { effort.rounds_of_a_crowd } else { effort.rounds };
    for _ in 0..count {
        for app in apps {
            if cells.contains_key(app.name) {
                continue;
            }
            match round(scenario, app, redis, far, effort) {
                Ok(figures) => rounds.entry(app.name).or_default().push(figures),
                Err(error) => {
                    println!("  {}: {error:#}", app.name);
                    cells.insert(app.name.to_owned(), Cell::Wrong(format!("{error:#}")));
                }
            }
        }
    }
    for (app, rounds) in rounds {
        // One wrong answer in any round, and there are no figures.
        cells.entry(app.to_owned()).or_insert_with(|| Cell::Figures(Figures::medians(&rounds)));
    }
    Ok(cells)
}

/// An app, freshly started.
struct Started {
    child: Ended,
    address: SocketAddr,
}

impl Started {
    fn new(app: &App, redis: SocketAddr) -> Result<Self> {
        let ourselves = std::env::current_exe()?;
        let mut command = pinned(Core::App, ourselves.to_str().context("a path that is no text")?);
        command.args(["serve", app.name, &redis.to_string()]);
        let (child, port) = start_and_read_port(command).with_context(|| format!("{} did not start", app.name))?;
        Ok(Self { child, address: (Ipv4Addr::LOCALHOST, port).into() })
    }

    fn process(&self) -> u32 {
        self.child.0.id()
    }
}

fn round(scenario: Scenario, app: &App, redis: &Redis, far: SocketAddr, effort: &Effort) -> Result<Figures> {
    redis.ask(&["FLUSHALL"])?;
    let started = Started::new(app, if scenario.far { far } else { redis.address })?;
    on_this_thread(async {
        let mut users = Users::start(started.address, scenario, app.keeps_sessions, effort.crowd).await?;
        if app.near_cache && scenario.requests == Requests::Read {
            until_reads_cost_nothing(&mut users, redis).await?;
        }
        let before = Meter::read(started.process(), redis)?;
        let crowd = scenario.requests.of_a_crowd();
        let load = if crowd { users.visit().await? } else { users.drive(effort.time).await? };
        let after = Meter::read(started.process(), redis)?;
        if crowd {
            users.pause().await;
        }
        redis.rest().await?;
        let monitor = redis.monitor()?;
        let counted = if crowd { COUNTED_OF_A_CROWD } else { COUNTED };
        users.go(counted as usize).await?;
        redis.ask(&["ECHO", "counted"])?;
        let commands = monitor.count_until("counted")?;
        users.check().await?;
        let per_request = |figure: fn(&Meter) -> f64| (figure(&after) - figure(&before)) / load.requests as f64;
        Ok(Figures {
            per_second: load.per_second(),
            p50: load.percentile(50)?,
            p99: load.percentile(99)?,
            app_cpu: per_request(|meter| meter.app_cpu),
            redis_cpu: per_request(|meter| meter.redis_cpu),
            commands: commands as f64 / f64::from(counted),
            bytes_in: per_request(|meter| meter.bytes_in),
            bytes_out: per_request(|meter| meter.bytes_out),
        })
    })
}

/// Everybody reads until no read reaches Redis: a session is read from a near cache once nobody was told of anything new for two
/// seconds, and the cache is told of changes.
async fn until_reads_cost_nothing(users: &mut Users, redis: &Redis) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(30);
    const STRETCH: Duration = Duration::from_millis(100);
    let waiting = Instant::now();
    loop {
        let before = redis.processed()?;
        users.drive(STRETCH).await?;
        if redis.processed()? == before {
            return Ok(());
        }
        if waiting.elapsed() > PATIENCE {
            bail!("reads still reach Redis after {PATIENCE:?}");
        }
    }
}

struct Meter {
    app_cpu: f64,
    redis_cpu: f64,
    bytes_in: f64,
    bytes_out: f64,
}

impl Meter {
    fn read(app: u32, redis: &Redis) -> Result<Self> {
        let micros = |process| anyhow::Ok(cpu_time(process)?.as_secs_f64() * 1e6);
        let info = redis.info()?;
        Ok(Self {
            app_cpu: micros(app)?,
            redis_cpu: micros(redis.process())?,
            bytes_in: info.number("total_net_input_bytes")? as f64,
            bytes_out: info.number("total_net_output_bytes")? as f64,
        })
    }
}

fn on_this_thread<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    LocalSet::new().block_on(&Builder::new_current_thread().enable_all().build()?, work)
}

/// How many bytes of a Redis with these settings a session takes, once nothing is left of its creation.
pub(crate) fn weigh(app: &App, size: Size, settings: &[(String, String)]) -> Result<f64> {
    const PATIENCE: Duration = Duration::from_secs(120);
    let redis = Redis::start(settings)?;
    let started = Started::new(app, redis.address)?;
    let used = || redis.info()?.number("used_memory");
    let keys = || anyhow::Ok(redis.ask(&["DBSIZE"])?.parse::<u64>()?);
    // Once, so that what the app itself needs (scripts, a connection) is there before the scales are set to zero, and what Redis keeps
    // for each command that it was ever asked.
    on_this_thread(start_sessions(started.address, size, 1))?;
    keys()?;
    used()?;
    let before = used()?;
    on_this_thread(start_sessions(started.address, size, WEIGHED))?;
    let sessions = u64::from(WEIGHED) + 1;
    let waiting = Instant::now();
    loop {
        let keys = keys()?;
        if keys == sessions {
            break;
        }
        if keys < sessions || waiting.elapsed() > PATIENCE {
            bail!("{keys} keys for {sessions} sessions");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok((used()?.saturating_sub(before)) as f64 / f64::from(WEIGHED))
}

async fn start_sessions(app: SocketAddr, size: Size, count: u32) -> Result<()> {
    let path = format!("/start/{}", size.name());
    for _ in 0..count {
        // A browser of its own, since a session is what a browser has one of. Connections are not what is weighed.
        let mut connection = Connection::open(app).await?;
        let answer = connection.send(&mut Cookies::new(), "POST", &path).await?;
        if answer.status != 200 || !answer.sets_cookie {
            bail!("no session was started: status {}", answer.status);
        }
    }
    Ok(())
}

/// The apps of these names; all if there are none.
pub(crate) fn apps(names: &[String]) -> Result<Vec<&'static App>> {
    if let Some(unknown) = names.iter().find(|name| APPS.iter().all(|app| app.name != **name)) {
        bail!(
            "no app is called {unknown}; there are: {}",
            APPS.iter().map(|app| app.name).collect::<Vec<_>>().join(", ")
        );
    }
    Ok(APPS.iter().filter(|app| names.is_empty() || names.iter().any(|name| name == app.name)).collect())
}

/// A proxy before this Redis, and how long a question and its answer take through it, in microseconds.
pub(crate) fn far_from(redis: &Redis) -> Result<(SocketAddr, f64)> {
    let far = proxy::start(redis.address, DELAY)?;
    Ok((far, proxy::round_trip(far)?.as_secs_f64() * 1e6))
}
