//! The demo as a process of this machine, for tests that count what it sends.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::browser::{Browser, Site};
use crate::docker::finish;
use crate::ports;
use crate::wait::{ensure, eventually};

/// A node; it ends when this is dropped.
pub struct Node {
    /// Where it listens.
    pub site: Site,
    _process: Child,
}

impl Node {
    /// Builds the demo if need be, starts it with `redis_url`, and waits until it has found Redis.
    pub async fn start(redis_url: &str) -> Self {
        let [port] = ports::free();
        let process = Command::new(build().await)
            .env_clear()
            .env("LISTEN", format!("{}:{port}", Ipv4Addr::LOCALHOST))
            .env("REDIS_URL", redis_url)
            .env("SESSION_SECRET", "a secret of the tests, long enough to be accepted")
            .env("SESSION_DEVELOPMENT", "on")
            // What goes wrong in it belongs to the test's output.
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the demo starts");
        let node = Self { site: Site { port }, _process: process };
        eventually("the node is ready and sees Redis", Duration::from_secs(20), async || {
            let answer = Browser::new().send(node.site, http::Method::GET, "/readyz", &[], Default::default()).await?;
            ensure(answer.status == StatusCode::OK && answer.json()["store"] == "up", || answer.text())
        })
        .await;
        node
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
