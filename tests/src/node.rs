//! The demo as a process of this machine, for tests that count what it sends.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::browser::{Answer, Browser, Site};
use crate::docker::finish;
use crate::ports;
use crate::relay::lock;
use crate::wait::{ensure, eventually};

/// A node; it ends when this is dropped.
pub struct Node {
    /// Where it listens.
    pub site: Site,
    process: Child,
    /// What it said on standard error, where panics go.
    errors: Arc<Mutex<Vec<String>>>,
}

impl Node {
    /// Builds the demo if need be, starts it with `redis_url`, and waits until it has found Redis.
    pub async fn start(redis_url: &str) -> Self {
        let [port] = ports::free();
        let node = Self::launch(port, "1111", redis_url).await;
        node.until_ready(|answer| answer.status == StatusCode::OK && answer.json()["store"] == "up").await;
        node
    }

    /// Builds the demo if need be, starts it on `port` as the server of this name, and waits until it listens, whether or not
    /// it finds Redis.
    pub async fn launch(port: u16, name: &str, redis_url: &str) -> Self {
        let mut process = Command::new(build().await)
            .env_clear()
            .env("LISTEN", format!("{}:{port}", Ipv4Addr::LOCALHOST))
            .env("SERVER_NAME", name)
            .env("REDIS_URL", redis_url)
            .env("SESSION_SECRET", "a secret of the tests, long enough to be accepted")
            .env("SESSION_DEVELOPMENT", "on")
            // What goes wrong in it belongs to the test's output.
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the demo starts");
        let errors = Arc::<Mutex<Vec<String>>>::default();
        let mut lines = BufReader::new(process.stderr.take().expect("piped")).lines();
        let said = Arc::clone(&errors);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                eprintln!("{line}");
                lock(&said).push(line);
            }
        });
        let node = Self { site: Site { port }, process, errors };
        node.until_ready(|answer| answer.status == StatusCode::OK).await;
        node
    }

    async fn until_ready(&self, ready: impl Fn(&Answer) -> bool) {
        eventually("the node is ready", Duration::from_secs(20), async || {
            let answer = Browser::new().send(self.site, http::Method::GET, "/readyz", &[], Default::default()).await?;
            ensure(ready(&answer), || answer.text())
        })
        .await;
    }

    /// SIGTERM, and waits for its end in order.
    ///
    /// # Panics
    ///
    /// When it ends in another way.
    pub async fn stop(&mut self) {
        let id = self.process.id().expect("it runs").to_string();
        finish(Command::new("kill").args(["-s", "TERM", &id])).await.expect("it runs");
        let status = self.process.wait().await.expect("it ends");
        assert!(status.success(), "{status}");
    }

    /// What it said of panics.
    pub fn panics(&self) -> Vec<String> {
        lock(&self.errors).iter().filter(|line| line.contains("panicked")).cloned().collect()
    }
}

/// Builds the demo as it is in the working tree, and says where the program is.
async fn build() -> PathBuf {
    // Set by cargo for the tests that it runs.
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "demo-app", "--message-format", "json"]);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let messages = finish(&mut command).await.unwrap_or_else(|error| panic!("{error}"));
    let program = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "demo-app")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    program.expect("cargo says where the program is")
}
