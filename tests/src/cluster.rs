//! The repository's `docker-compose.yml`, as a user starts it, under a project and ports of its own.
//!
//! All tests of a process share one cluster. Those that disturb it ask for it [`alone`]; the others [share](shared) it. Either
//! way it is complete and healthy when they get it, whatever a test before them left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use session_layer::SessionId;
use tokio::process::Command;
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::task::JoinSet;

use crate::browser::{Browser, Site};
use crate::compose::{Compose, in_repository};
use crate::docker::{Container, finish, run};
use crate::wait::{ensure, eventually};
use crate::{ports, reaper};

/// The three Redis servers.
pub const REDIS: [&str; 3] = ["redis-1", "redis-2", "redis-3"];
/// The three sentinels.
pub const SENTINELS: [&str; 3] = ["sentinel-1", "sentinel-2", "sentinel-3"];
/// The two nodes, and the names they show.
pub const NODES: [(&str, &str); 2] = [("app1", "1111"), ("app2", "2222")];

/// How long a cluster may take to be healthy, from nothing, on a busy machine.
const HEALTHY: Duration = Duration::from_secs(180);

/// The cluster.
pub struct Cluster {
    compose: Compose,
    nginx: Site,
    nodes: [Site; 2],
    containers: BTreeMap<&'static str, Container>,
    _reaper: Child,
}

/// A test's use of the cluster. When the test fails, it prints what the containers logged meanwhile.
pub struct InUse {
    cluster: &'static Cluster,
    since: u64,
    /// Whether some containers have other settings than everybody's.
    changed: AtomicBool,
    _turn: Turn,
}

enum Turn {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

static CLUSTER: OnceCell<Result<Cluster, String>> = OnceCell::const_new();
static TURNS: RwLock<()> = RwLock::const_new(());

/// The cluster, together with other tests that do not disturb it.
pub async fn shared() -> InUse {
    let turn = Turn::Shared { _guard: TURNS.read().await };
    InUse::begin(turn).await
}

/// The cluster for this test alone.
pub async fn alone() -> InUse {
    let turn = Turn::Alone { _guard: TURNS.write().await };
    InUse::begin(turn).await
}

impl InUse {
    async fn begin(turn: Turn) -> Self {
        // An error is kept as well: every test then fails at once, and says why.
        let cluster = CLUSTER.get_or_init(Cluster::start).await.as_ref().unwrap_or_else(|error| panic!("{error}"));
        cluster.heal().await;
        Self { cluster, since: unix_time(), changed: AtomicBool::new(false), _turn: turn }
    }

    /// Creates containers anew with other settings, all at once, and waits until all is well and both nodes take part. At the end of
    /// the test they get back those that everybody has.
    ///
    /// # Panics
    ///
    /// When Compose cannot do it, or something is not well after it.
    pub async fn recreate(&self, services: &[&str], settings: &[(&str, &str)]) {
        self.changed.store(true, Ordering::Relaxed);
        let mut command = self.up();
        command.args(["--no-deps", "--force-recreate"]).args(services).envs(settings.iter().copied());
        finish(&mut command).await.unwrap_or_else(|error| panic!("{error}"));
        self.until_well().await;
        eventually("nginx has found both nodes", HEALTHY, async || {
            let mut seen = BTreeSet::new();
            // They take turns, with other visitors in between.
            for _ in 0..8 {
                let answer = Browser::new().send(self.nginx, Method::GET, "/livez", &[], Default::default()).await?;
                seen.extend(answer.node().map(str::to_owned));
            }
            ensure(seen.len() == NODES.len(), || format!("{seen:?} answered"))
        })
        .await;
    }

    /// Checks that neither node has panicked since the test began.
    ///
    /// # Panics
    ///
    /// When one has.
    pub async fn no_node_panicked(&self) {
        for (node, _) in NODES {
            let logs = self.container(node).logs(&self.since.to_string()).await;
            let panics: Vec<_> = logs.lines().filter(|line| line.contains("panicked")).collect();
            assert!(panics.is_empty(), "{node}: {panics:#?}");
        }
    }

    fn print_logs(&self) {
        for (service, container) in &self.cluster.containers {
            let since = self.since.to_string();
            let arguments = ["logs", "--timestamps", "--since", &since, "--tail", "40", container.name()];
            if let Ok(logs) = std::process::Command::new("docker").args(arguments).output() {
                let text = [logs.stdout, logs.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
                eprintln!("--- {service}\n{text}");
            }
        }
    }
}

impl Deref for InUse {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.cluster
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        if *self.changed.get_mut() {
            // Waits for Docker, which is slow; whoever comes next waits until all is well.
            let done = self.cluster.up().as_std_mut().stdin(Stdio::null()).output();
            if !done.as_ref().is_ok_and(|done| done.status.success()) {
                eprintln!("the cluster did not get its settings back: {done:?}");
            }
        }
    }
}

impl Cluster {
    async fn start() -> Result<Self, String> {
        run("docker", &["version"]).await.map_err(|error| {
            format!("The end-to-end tests run the cluster in Docker, and Docker does not answer. {error}")
        })?;
        reaper::remove_leftovers().map_err(|error| format!("sh cannot be started: {error}"))?;
        let compose = Compose::find().await?;
        compose.check_images().await?;
        // Whoever starts at the same moment may take a port between the look and the use.
        let mut last = String::new();
        for _ in 0..3 {
            let ports: [u16; 3] = ports::free();
            match compose.up(ports).await {
                Ok(reaper) => return Self::with(compose, ports, reaper).await,
                Err(error)
                    if error.contains("port is already allocated") || error.contains("address already in use") =>
                {
                    last = error;
                }
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    async fn with(compose: Compose, [nginx, app1, app2]: [u16; 3], reaper: Child) -> Result<Self, String> {
        let mut containers = BTreeMap::new();
        for service in NODES.map(|(service, _)| service).into_iter().chain(REDIS).chain(SENTINELS).chain(["nginx"]) {
            containers.insert(service, Container::find(&compose.project, service).await?);
        }
        let [nginx, app1, app2] = [nginx, app1, app2].map(|port| Site { port });
        Ok(Self { compose, nginx, nodes: [app1, app2], containers, _reaper: reaper })
    }

    /// The door that visitors use.
    pub fn nginx(&self) -> Site {
        self.nginx
    }

    /// The nodes' own doors, 1111 and 2222.
    pub fn nodes(&self) -> [Site; 2] {
        self.nodes
    }

    /// The container of a service.
    pub fn container(&self, service: &str) -> &Container {
        self.containers.get(service).unwrap_or_else(|| panic!("no service is called {service}"))
    }

    /// The compose project.
    pub fn project(&self) -> &str {
        &self.compose.project
    }

    /// Runs `cargo xtask` with these words on this cluster; what it said.
    ///
    /// # Errors
    ///
    /// When it fails; also what it said.
    pub async fn xtask(&self, words: &[&str]) -> Result<String, String> {
        // Set by cargo for the tests that it runs.
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let mut command = Command::new(cargo);
        command.args(["run", "--quiet", "--package", "xtask", "--"]).args(words).args(["--project", self.project()]);
        in_repository(&mut command);
        finish(&mut command).await
    }

    /// When each container was started; what restarts shows here.
    pub async fn start_times(&self) -> BTreeMap<&'static str, String> {
        let mut times = BTreeMap::new();
        for (service, container) in &self.containers {
            times.insert(*service, container.inspect("{{.State.StartedAt}}").await);
        }
        times
    }

    /// The master's service, if most sentinels name the same one and it says so itself.
    ///
    /// # Errors
    ///
    /// When there is no such agreement now.
    pub async fn master(&self) -> Result<&'static str, String> {
        let mut asked = JoinSet::new();
        for sentinel in SENTINELS {
            let container = self.container(sentinel).clone();
            asked.spawn(async move { container.redis_cli(&["sentinel", "get-master-addr-by-name", "mymaster"]).await });
        }
        let answers = asked.join_all().await;
        let named = |name: &str| answers.iter().flatten().filter(|answer| answer.lines().next() == Some(name)).count();
        let Some(master) = REDIS.into_iter().find(|name| named(name) >= 2) else {
            return Err(format!("no two sentinels agree: {answers:?}"));
        };
        let role = self.role(master).await?;
        ensure(role == "master", || format!("{master}, which the sentinels name, is a {role}")).map(|()| master)
    }

    /// `master` or `slave`, as the server sees itself.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn role(&self, service: &str) -> Result<String, String> {
        let role = self.container(service).redis_cli(&["role"]).await?;
        Ok(role.lines().next().unwrap_or_default().to_owned())
    }

    /// Asks the master.
    pub async fn redis(&self, arguments: &[&str]) -> String {
        let master = self.master().await.unwrap_or_else(|error| panic!("{error}"));
        let answer = self.container(master).redis_cli(arguments).await;
        answer.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts what is dead, wakes what is paused, and waits until all is well.
    async fn heal(&self) {
        for container in self.containers.values() {
            match container.inspect("{{.State.Status}}").await.as_str() {
                "paused" => container.unpause().await,
                "running" | "restarting" => {}
                _ => container.start().await,
            }
        }
        self.until_well().await;
    }

    /// Waits until every container is healthy, the master has its replicas, and the nodes have found it.
    ///
    /// # Panics
    ///
    /// When it takes too long.
    pub async fn until_well(&self) {
        eventually("the cluster is healthy", HEALTHY, async || self.check().await).await;
    }

    /// Creates and starts what is missing, and anew what has other settings.
    fn up(&self) -> Command {
        let [app1, app2] = self.nodes;
        self.compose.up_command([self.nginx, app1, app2].map(|site| site.port))
    }

    async fn check(&self) -> Result<(), String> {
        for (service, container) in &self.containers {
            let state = container.inspect("{{.State.Status}} {{.State.Health.Status}}").await;
            ensure(state == "running healthy", || format!("{service} is {state}"))?;
        }
        let master = self.master().await?;
        // Without a replica to write to, the master takes no writes.
        let info = self.container(master).redis_cli(&["info", "replication"]).await?;
        let online = info.matches("state=online").count();
        ensure(online == 2, || format!("{master} has {online} replicas"))?;
        for site in self.nodes {
            let ready = Browser::new().send(site, Method::GET, "/readyz", &[], Default::default()).await?;
            ensure(ready.status == 200 && ready.json()["store"] == "up", || format!("{ready:?}"))?;
        }
        let door = Browser::new().send(self.nginx, Method::GET, "/livez", &[], Default::default()).await?;
        ensure(door.status == 200, || format!("{door:?}"))
    }
}

/// The key that a session with this ID has in Redis.
///
/// # Panics
///
/// When it is no ID.
pub fn redis_key(session_id: &str) -> String {
    let id = SessionId::decode(session_id).unwrap_or_else(|error| panic!("{session_id:?}: {error}"));
    let [high, low] = id.shard();
    format!("session:{{{high:02x}{low:02x}}}:{}", URL_SAFE_NO_PAD.encode(id.digest()))
}

fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs()
}
