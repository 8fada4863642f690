//! A master, two replicas, and three sentinels that watch them.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::redis::{self, MASTER_NAME, Machine, Signal};
use crate::wait::{ensure, eventually};

const WHILE: Duration = Duration::from_secs(30);

/// Longer than any failover. It takes 3 s; but sentinels that did not agree on who of them leads it try again after 20 s, and on a busy
/// machine that happens.
pub const FAILOVER: Duration = Duration::from_secs(60);

/// Three servers and three sentinels, with the settings of the reference cluster where they matter.
pub struct Watched {
    /// Its servers are 0 to 2, the first one the master, its sentinels 3 to 5.
    pub machine: Machine,
}

impl Watched {
    /// The servers.
    pub const SERVERS: [usize; 3] = [0, 1, 2];
    /// The sentinels.
    pub const SENTINELS: [usize; 3] = [3, 4, 5];

    /// Starts all of it, ready to be used.
    pub async fn start() -> Self {
        let this = Self { machine: Machine::start::<6>().await };
        let first = this.machine.port(0);
        for server in Self::SERVERS {
            this.start_server(server, first).await;
        }
        for sentinel in Self::SENTINELS {
            let settings = format!(
                "sentinel down-after-milliseconds {MASTER_NAME} 1500\nsentinel failover-timeout {MASTER_NAME} 10000\n\
                 sentinel parallel-syncs {MASTER_NAME} 1"
            );
            this.machine.start_sentinel(this.machine.port(sentinel), first, &settings).await;
        }
        for sentinel in Self::SENTINELS {
            eventually("sentinels that know each other and the replicas", WHILE, async || {
                let known = this.machine.redis(this.machine.port(sentinel)).await?;
                let known = { known }.try_command(&["SENTINEL", "MASTER", MASTER_NAME]).await?;
                let others = known.contains("num-other-sentinels\r\n$1\r\n2\r\n");
                ensure(others && known.contains("num-slaves\r\n$1\r\n2\r\n"), || known.clone())
            })
            .await;
        }
        eventually("a master with two live replicas", WHILE, async || {
            let info = this.ask(0, &["INFO", "replication"]).await?;
            ensure(info.contains("min_slaves_good_slaves:2"), || info.clone())
        })
        .await;
        this
    }

    /// Starts one server, as a replica unless it is the master.
    pub async fn start_server(&self, server: usize, master: u16) {
        let port = self.machine.port(server);
        let mut options =
            "--replica-announce-ip 127.0.0.1 --min-replicas-to-write 1 --min-replicas-max-lag 2".to_owned();
        if port != master {
            options.push_str(&format!(" --replicaof 127.0.0.1 {master}"));
        }
        self.machine.start_redis(port, &[&options]).await;
    }

    /// Asks a server or a sentinel.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn ask(&self, server: usize, command: &[&str]) -> Result<String, String> {
        self.machine.redis(self.machine.port(server)).await?.try_command(command).await
    }

    /// For a store.
    pub fn url(&self) -> String {
        let hosts = Self::SENTINELS.map(|sentinel| format!("127.0.0.1:{}", self.machine.port(sentinel)));
        format!("redis-sentinel://{}@{}/{MASTER_NAME}", redis::login(), hosts.join(","))
    }

    /// Sends a signal to a server or a sentinel.
    pub async fn signal(&self, process: usize, signal: Signal) {
        self.machine.signal(self.machine.port(process), signal).await;
    }

    /// The IDs of the connections that somebody other than this test has to a server.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    pub async fn clients(&self, server: usize) -> BTreeSet<String> {
        let list = self.ask(server, &["CLIENT", "LIST", "TYPE", "normal"]).await.expect("it answers");
        // Sentinels give their connections a name. Redis turns its list over from time to time, so the order says nothing.
        let others = list.lines().filter(|line| line.contains(" resp=3"));
        others.filter_map(|line| line.split("id=").nth(1)?.split(' ').next().map(str::to_owned)).collect()
    }

    /// Waits until both replicas have all that a master has written so far.
    pub async fn until_replicated(&self, master: usize) {
        let number = |text: &str, name: &str| -> Option<u64> {
            let digits = text.split(name).nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse().ok()
        };
        let info = self.ask(master, &["INFO", "replication"]).await.expect("it answers");
        let written = number(&info, "master_repl_offset:").expect("a number");
        eventually("replicas that have all of it", WHILE, async || {
            let info = self.ask(master, &["INFO", "replication"]).await?;
            let up_to_date =
                |line: &&str| line.starts_with("slave") && number(line, ",offset=").is_some_and(|at| at >= written);
            ensure(info.lines().filter(up_to_date).count() == 2, || info.clone())
        })
        .await;
    }

    /// Waits for a master that is not server 0, as the servers themselves see it.
    pub async fn until_promoted(&self) -> usize {
        eventually("another master", FAILOVER, async || {
            for server in [1, 2] {
                if self.ask(server, &["ROLE"]).await?.contains("master") {
                    return Ok(server);
                }
            }
            Err("both are replicas".to_owned())
        })
        .await
    }
}
