//! The repository's `docker-compose.yml`, as a user starts it, under a project and ports of its own.
//!
//! All tests of a process share one cluster. Those that disturb it ask for it [`alone`]; the others [share](shared) it. Either
//! way it is complete and healthy when they get it, whatever a test before them left behind.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use session_layer::SessionId;
use tokio::process::Command;
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::task::JoinSet;

use crate::browser::{Browser, Site};
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
    project: String,
    nginx: Site,
    nodes: [Site; 2],
    containers: BTreeMap<&'static str, Container>,
    _reaper: Child,
}

/// A test's use of the cluster. When the test fails, it prints what the containers logged meanwhile.
pub struct InUse {
    cluster: &'static Cluster,
    since: u64,
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
        Self { cluster, since: unix_time(), _turn: turn }
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
}

impl Deref for InUse {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.cluster
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
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
                Ok(reaper) => return Self::with(compose.project, ports, reaper).await,
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

    async fn with(project: String, [nginx, app1, app2]: [u16; 3], reaper: Child) -> Result<Self, String> {
        let mut containers = BTreeMap::new();
        for service in NODES.map(|(service, _)| service).into_iter().chain(REDIS).chain(SENTINELS).chain(["nginx"]) {
            containers.insert(service, Container::find(&project, service).await?);
        }
        let [nginx, app1, app2] = [nginx, app1, app2].map(|port| Site { port });
        Ok(Self { project, nginx, nodes: [app1, app2], containers, _reaper: reaper })
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
        &self.project
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
        command.args(["run", "--quiet", "--package", "xtask", "--"]).args(words).args(["--project", &self.project]);
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
        eventually("the cluster is healthy", HEALTHY, async || self.check().await).await;
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

/// Runs the command in the root of the repository, where Compose reads `.env`, and with the tests' settings.
fn in_repository(command: &mut Command) {
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository"));
    // The shell wins over `.env`: what somebody changed there for their own cluster does not change the tests.
    command.env("PUBLISH_ADDRESS", "127.0.0.1").env("SESSION_DEVELOPMENT", "1");
    for unset in ["SESSION_ACCEPTED_SECRETS", "SESSION_IDLE_TIMEOUT_SECS", "SESSION_ABSOLUTE_TIMEOUT_SECS"] {
        command.env(unset, "");
    }
}

/// Whichever Compose there is.
struct Compose {
    program: &'static [&'static str],
    project: String,
}

impl Compose {
    async fn find() -> Result<Self, String> {
        for program in [&["docker", "compose"][..], &["docker-compose"][..]] {
            let version = [&program[1..], &["version"]].concat();
            if run(program[0], &version).await.is_ok() {
                return Ok(Self { program, project: reaper::project() });
            }
        }
        Err("The end-to-end tests need Docker Compose, and neither `docker compose` nor `docker-compose` answers."
            .to_owned())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program[0]);
        command.args(&self.program[1..]).args(["--project-name", &self.project]);
        in_repository(&mut command);
        command
    }

    async fn check_images(&self) -> Result<(), String> {
        let config = finish(self.command().arg("config")).await?;
        let images = config.lines().filter_map(|line| line.trim().strip_prefix("image:"));
        for image in images.map(|image| image.trim().trim_matches(['\'', '"'])) {
            run("docker", &["image", "inspect", image]).await.map_err(|_| {
                format!(
                    "The image {image} is missing. `cargo xtask up` makes all images, `cargo xtask test` does so too."
                )
            })?;
        }
        Ok(())
    }

    async fn up(&self, [nginx, app1, app2]: [u16; 3]) -> Result<Child, String> {
        let reaper = reaper::watch_over(&self.project).map_err(|error| format!("sh cannot be started: {error}"))?;
        let mut command = self.command();
        command.args(["up", "--detach", "--no-build", "--force-recreate"]);
        for (variable, port) in [("HTTP_PORT", nginx), ("APP1_PORT", app1), ("APP2_PORT", app2)] {
            command.env(variable, port.to_string());
        }
        match finish(&mut command).await {
            Ok(_) => Ok(reaper),
            // The reaper is about to remove what could tell why.
            Err(error) => Err(format!("{error}{}", self.why_unhealthy().await)),
        }
    }

    /// What the containers that are not healthy say.
    async fn why_unhealthy(&self) -> String {
        let script = r#"docker ps --all --quiet --filter "label=com.docker.compose.project=$0" | while read -r id; do
            state=$(docker inspect --format '{{.Name}} {{json .State}}' "$id")
            case "$state" in
            *'"Status":"healthy"'*) ;;
            *) echo "$state" && docker logs --tail 30 "$id" 2>&1 ;;
            esac
        done"#;
        run("sh", &["-c", script, &self.project]).await.unwrap_or_else(|error| error)
    }
}
