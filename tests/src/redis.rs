//! Redis servers and sentinels for tests of the store, in a container of their own: they can be killed, frozen and started again one
//! by one.
//!
//! A port is the same number inside and outside, so that the addresses which sentinels announce are good on both sides.

use std::net::Ipv4Addr;
use std::time::Duration;

use testcontainers::core::{ExecCommand, IntoContainerPort, Mount};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::wait::{ensure, eventually};
use crate::{ports, reaper, resp};

/// The image of the reference cluster.
const IMAGE: (&str, &str) = ("redis", "7-bookworm");

/// The user of the stores: with the rights that the documentation says are needed, and no others. Stores are tested with what is promised.
const ACL: &str = include_str!("../../README.md");
const USER: &str = "session";
const PASSWORD: &str = "password";

/// The rules of that user, as they stand behind its name in `ACL SETUSER`.
///
/// # Panics
///
/// When the documentation has lost them.
pub fn documented_rules() -> Vec<&'static str> {
    let line = ACL.lines().find_map(|line| line.strip_prefix("ACL SETUSER session ")).expect("README.md has the line");
    line.split(' ').collect()
}

/// That user and its password, as a URL has them.
pub fn login() -> String {
    format!("{USER}:{PASSWORD}")
}

/// Where a store finds the server, or what stands before it, on a port: with that user.
pub fn url(port: u16) -> String {
    format!("redis://{}@127.0.0.1:{port}", login())
}

/// What the sentinels watch.
pub const MASTER_NAME: &str = "mymaster";

/// A folder on a disk of its own, which is soon full.
pub const SMALL_DISK: &str = "/small";
const SMALL_DISK_BYTES: i64 = 16 * 1024 * 1024;

const START: Duration = Duration::from_secs(20);
/// Longer than a server that runs takes for any answer, and than a busy machine stands still.
const ANSWER: Duration = Duration::from_secs(5);

/// A container with a number of ports and, at first, nothing that listens on them.
pub struct Machine {
    container: ContainerAsync<GenericImage>,
    ports: Vec<u16>,
}

/// A signal to a server.
#[derive(Debug, Clone, Copy)]
pub enum Signal {
    /// Ends it without a word.
    Kill,
    /// Freezes it: its connections stay open, and nobody answers on them.
    Stop,
    /// Lets it go on.
    Continue,
}

impl Machine {
    /// Starts a container.
    ///
    /// # Panics
    ///
    /// Without Docker, or without the image.
    pub async fn start<const PORTS: usize>() -> Self {
        let ports: [u16; PORTS] = ports::free();
        let mut request = GenericImage::new(IMAGE.0, IMAGE.1)
            .with_cmd(["sleep", "infinity"])
            // Under this label it goes with everything else of these tests, however they end.
            .with_label("com.docker.compose.project", reaper::project())
            .with_mount(Mount::tmpfs_mount(SMALL_DISK).with_size_bytes(SMALL_DISK_BYTES))
            // Something must collect the killed.
            .with_host_config_modifier(|host| host.init = Some(true));
        for port in ports {
            request = request.with_mapped_port(port, port.tcp());
        }
        reaper::is_watching();
        let container = request.start().await.unwrap_or_else(|error| {
            panic!("cannot start a container of {}:{} (`cargo xtask up` builds or pulls it): {error}", IMAGE.0, IMAGE.1)
        });
        Self { container, ports: ports.into() }
    }

    /// A container with one server, ready to be used.
    pub async fn with_redis(options: &[&str]) -> Self {
        let machine = Self::start::<1>().await;
        machine.start_redis(machine.port(0), options).await;
        machine
    }

    /// One of its ports.
    pub fn port(&self, index: usize) -> u16 {
        self.ports[index]
    }

    /// Where its first server is, with the user for stores.
    pub fn url(&self) -> String {
        url(self.port(0))
    }

    /// Lets the user for stores use keys with another prefix as well.
    pub async fn grant_prefix(&self, prefix: &str) {
        let answer = self.admin().await.command(&["ACL", "SETUSER", USER, &format!("~{prefix}:*")]).await;
        assert_eq!(answer, "+OK\r\n");
    }

    /// Starts a server with options such as `--maxmemory 10mb`, and waits until it answers.
    pub async fn start_redis(&self, port: u16, options: &[&str]) {
        self.launch_redis(port, options).await;
        eventually("a Redis server that answers", START, async || {
            let answer = self.redis(port).await?.try_command(&["PING"]).await?;
            // It may ask for a password.
            ensure(answer.starts_with("+PONG") || answer.starts_with("-NOAUTH"), || answer)
        })
        .await;
    }

    /// Starts a server without waiting for it.
    pub async fn launch_redis(&self, port: u16, options: &[&str]) {
        let mut command = format!(
            "mkdir -p /tmp/{port} && cd /tmp/{port} && redis-server --port {port} --daemonize yes --pidfile /tmp/{port}.pid \
             --logfile /tmp/{port}.log --protected-mode no --save '' --repl-diskless-sync-delay 0 --user {USER}"
        );
        for rule in documented_rules() {
            command.push_str(&format!(" '{rule}'"));
        }
        for option in options {
            command.push(' ');
            command.push_str(option);
        }
        self.run(&command).await;
    }

    /// Starts a sentinel that watches the server on `master`.
    pub async fn start_sentinel(&self, port: u16, master: u16, settings: &str) {
        let configuration = format!(
            "port {port}\ndaemonize yes\npidfile /tmp/{port}.pid\nlogfile /tmp/{port}.log\nprotected-mode no\n\
             sentinel announce-ip 127.0.0.1\nsentinel monitor {MASTER_NAME} 127.0.0.1 {master} 2\n{settings}\n"
        );
        self.run(&format!(
            "cat >/tmp/{port}.conf <<'END'\n{configuration}END\nredis-server /tmp/{port}.conf --sentinel"
        ))
        .await;
        eventually("a sentinel that answers", START, async || {
            let answer = self.redis(port).await?.try_command(&["PING"]).await?;
            ensure(answer.starts_with("+PONG"), || answer)
        })
        .await;
    }

    /// Sends a signal to the server or sentinel on a port.
    pub async fn signal(&self, port: u16, signal: Signal) {
        let name = match signal {
            Signal::Kill => "KILL",
            Signal::Stop => "STOP",
            Signal::Continue => "CONT",
        };
        self.run(&format!("kill -{name} $(cat /tmp/{port}.pid)")).await;
    }

    /// What a server or sentinel has logged.
    pub async fn log(&self, port: u16) -> String {
        self.run(&format!("cat /tmp/{port}.log")).await
    }

    /// Leaves no room on the [`SMALL_DISK`].
    pub async fn fill_small_disk(&self) {
        // It says that there is no space left, which is the point.
        self.run(&format!("cat /dev/zero >{SMALL_DISK}/filling 2>/dev/null; true")).await;
    }

    /// Makes room again.
    pub async fn empty_small_disk(&self) {
        self.run(&format!("rm {SMALL_DISK}/filling")).await;
    }

    /// A connection to a server or sentinel.
    ///
    /// # Errors
    ///
    /// When nobody listens.
    pub async fn redis(&self, port: u16) -> Result<Redis, String> {
        let connection = TcpStream::connect(("127.0.0.1", port)).await;
        Ok(Redis { connection: connection.map_err(|error| error.to_string())? })
    }

    /// A connection to the first server.
    pub async fn admin(&self) -> Redis {
        self.redis(self.port(0)).await.expect("the server is up")
    }

    /// Where the container reaches this machine.
    ///
    /// # Panics
    ///
    /// When it has no way out.
    pub async fn gateway(&self) -> Ipv4Addr {
        // The address stands there as the number that it is in memory.
        let route = self.run("awk '$2 == \"00000000\" { print $3; exit }' /proc/net/route").await;
        let number = u32::from_str_radix(route.trim(), 16);
        Ipv4Addr::from(number.unwrap_or_else(|error| panic!("{route:?}: {error}")).to_le_bytes())
    }

    async fn run(&self, script: &str) -> String {
        let mut done = self.container.exec(ExecCommand::new(["sh", "-c", script])).await.expect("the container runs");
        let output = done.stdout_to_vec().await.expect("the output can be read");
        let errors = done.stderr_to_vec().await.expect("the output can be read");
        let status = eventually("the end of a command", START, async || match done.exit_code().await {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(status.await, 0, "{script}: {}", String::from_utf8_lossy(&errors));
        String::from_utf8_lossy(&output).into_owned()
    }
}

/// A connection that says what it is told to, one command at a time.
pub struct Redis {
    connection: TcpStream,
}

impl Redis {
    /// Over a connection that is there.
    pub fn new(connection: TcpStream) -> Self {
        Self { connection }
    }

    /// Sends a command, and returns the answer as it came over the wire.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub async fn command(&mut self, words: &[impl AsRef<[u8]>]) -> String {
        self.try_command(words).await.expect("the server answers")
    }

    /// The same where the server may be down.
    ///
    /// # Errors
    ///
    /// When there is no answer in time.
    pub async fn try_command(&mut self, words: &[impl AsRef<[u8]>]) -> Result<String, String> {
        let answer = tokio::time::timeout(ANSWER, self.exchange(words)).await;
        answer.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())
    }

    async fn exchange(&mut self, words: &[impl AsRef<[u8]>]) -> std::io::Result<String> {
        let mut command = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            let word = word.as_ref();
            command.extend(format!("${}\r\n", word.len()).bytes());
            command.extend(word);
            command.extend(b"\r\n");
        }
        self.connection.write_all(&command).await?;
        let mut answer = Vec::new();
        while resp::length(&answer).is_none() {
            if self.connection.read_buf(&mut answer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// How often each command was called since the last `CONFIG RESETSTAT`, scripts' own calls included.
    pub async fn calls(&mut self) -> std::collections::BTreeMap<String, u64> {
        let stats = self.command(&["INFO", "commandstats"]).await;
        let call = |line: &str| {
            let (name, fields) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), fields.split(',').next()?.parse().ok()?))
        };
        stats.lines().filter_map(call).collect()
    }
}
