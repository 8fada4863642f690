//! A Redis of our own, and the few questions that are put to it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::measure::{Core, pinned};

pub(crate) struct Redis {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Redis {
    /// Nothing is written to disk, so that no disk is measured. How hashes are stored is what the cluster's configuration says.
    pub(crate) fn start(settings: &[(String, String)]) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut command = pinned(Core::Redis, "redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        for (name, value) in settings {
            command.args([&format!("--{name}"), value]);
        }
        let child = command
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start redis-server: `apt-get install redis-server` on Debian and Ubuntu")?;
        let redis = Self { child, address: (Ipv4Addr::LOCALHOST, port).into() };
        let started = Instant::now();
        while redis.ask(&["PING"]).is_err() {
            if started.elapsed() > Duration::from_secs(10) {
                bail!("redis-server does not answer");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(redis)
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// One command on a connection of its own; the answer as text.
    pub(crate) fn ask(&self, words: &[&str]) -> Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        send(&mut stream, words)?;
        read_reply(&mut BufReader::new(stream))
    }

    /// A number out of `INFO`.
    pub(crate) fn info(&self) -> Result<Info> {
        Ok(Info(self.ask(&["INFO", "everything"])?))
    }

    /// How many commands were processed so far, those of scripts among them; not those that keep a connection alive or watched.
    pub(crate) fn processed(&self) -> Result<u64> {
        Ok(processed(&self.ask(&["INFO", "commandstats"])?))
    }

    /// Waits until no command comes any more: answers may have been sent before everything that they entail.
    pub(crate) async fn rest(&self) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(10);
        const PAUSE: Duration = Duration::from_millis(10);
        let waiting = Instant::now();
        let mut before = self.processed()?;
        loop {
            tokio::time::sleep(PAUSE).await;
            let now = self.processed()?;
            if now == before {
                return Ok(());
            }
            if waiting.elapsed() > PATIENCE {
                bail!("commands keep coming although nobody asks for anything");
            }
            before = now;
        }
    }

    /// Listens to what clients send from now on.
    pub(crate) fn monitor(&self) -> Result<Monitor> {
        let mut stream = TcpStream::connect(self.address)?;
        send(&mut stream, &["MONITOR"])?;
        let mut lines = BufReader::new(stream);
        read_reply(&mut lines)?;
        Ok(Monitor(lines))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Info(String);

impl Info {
    pub(crate) fn number(&self, name: &str) -> Result<u64> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.trim().parse().ok()).with_context(|| format!("INFO tells no {name}"))
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }
}

pub(crate) struct Monitor(BufReader<TcpStream>);

impl Monitor {
    /// How many commands clients have sent up to the one that says this. What scripts do inside Redis is none, and neither is what
    /// keeps a connection alive or watched.
    pub(crate) fn count_until(mut self, mark: &str) -> Result<u64> {
        self.0.get_ref().set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut count = 0;
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line)? == 0 {
                bail!("MONITOR ended");
            }
            if line.contains(mark) {
                return Ok(count);
            }
            count += u64::from(is_sent_for_a_request(&line));
        }
    }
}

/// What keeps a connection alive or watched.
const OTHER: [&str; 9] = ["role", "time", "ping", "info", "client", "hello", "script", "select", "config"];

/// The sum of lines like `cmdstat_client|tracking:calls=1,usec=9,…`.
fn processed(commandstats: &str) -> u64 {
    let calls = commandstats.lines().filter_map(|line| {
        let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let command = name.split('|').next()?;
        (!OTHER.contains(&command)).then(|| figures.split(',').next()?.parse::<u64>().ok())?
    });
    calls.sum()
}

/// A line of `MONITOR`: `+1339518083.107412 [0 127.0.0.1:60866] "get" "name"`.
fn is_sent_for_a_request(line: &str) -> bool {
    let Some((client, words)) = line.split_once("] \"") else { return false };
    let word = words.split('"').next().unwrap_or_default().to_ascii_lowercase();
    !client.ends_with(" lua") && !OTHER.contains(&word.as_str())
}

fn send(stream: &mut TcpStream, words: &[&str]) -> Result<()> {
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    Ok(stream.write_all(text.as_bytes())?)
}

fn read_reply(reader: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let line = line.trim_end();
    match line.split_at_checked(1) {
        Some(("+" | ":", text)) => Ok(text.to_owned()),
        Some(("$", length)) => {
            let mut bytes = vec![0; usize::try_from(length.parse::<i64>()?.max(0))?];
            reader.read_exact(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        Some(("-", error)) => bail!("Redis says {error}"),
        _ => bail!("an answer of an unexpected kind: {line:?}"),
    }
}

/// What the cluster's configuration says about hashes, as name and value.
pub(crate) fn hash_settings(configuration: &str) -> Vec<(String, String)> {
    let lines = configuration.lines().filter(|line| line.starts_with("hash-max-"));
    lines
        .filter_map(|line| line.split_once(' '))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

pub(crate) fn cluster_configuration() -> Result<String> {
    let file: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../redis/redis.conf");
    fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
}

/// Ends when whoever started it drops it.
pub(crate) struct Ended(pub(crate) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a command whose first line of output is a port.
pub(crate) fn start_and_read_port(mut command: Command) -> Result<(Ended, u16)> {
    let mut child = Ended(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().context("piped")?).read_line(&mut line)?;
    let port = line.trim().parse().with_context(|| format!("no port but {line:?}"))?;
    Ok((child, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_client_sends_for_a_request_counts() {
        assert!(is_sent_for_a_request("+1.5 [0 127.0.0.1:6] \"GET\" \"a\""));
        assert!(is_sent_for_a_request("+1.5 [0 127.0.0.1:6] \"evalsha\" \"a\""));
        assert!(!is_sent_for_a_request("+1.5 [0 lua] \"GET\" \"a\""));
        assert!(!is_sent_for_a_request("+1.5 [0 127.0.0.1:6] \"ROLE\""));
    }

    #[test]
    fn what_was_processed_is_the_sum_over_the_commands_of_requests() {
        let text = "# Commandstats\r\ncmdstat_get:calls=3,usec=4\r\ncmdstat_client|tracking:calls=7,usec=1\r\ncmdstat_ping:calls=9,usec=1\r\ncmdstat_evalsha:calls=2,usec=5\r\n";
        assert_eq!(processed(text), 5);
    }

    #[test]
    fn settings_of_hashes_are_taken_from_the_configuration() {
        let settings = hash_settings("# hash-max-x 1\nhash-max-listpack-value 256\nmaxmemory 1\n");
        assert_eq!(settings, [("hash-max-listpack-value".to_owned(), "256".to_owned())]);
    }

    #[test]
    fn replies_are_read() {
        let read = |text: &str| read_reply(&mut text.as_bytes());
        assert_eq!(read("+OK\r\n").unwrap(), "OK");
        assert_eq!(read(":12\r\n").unwrap(), "12");
        assert_eq!(read("$3\r\na\r\n\r\n").unwrap(), "a\r\n");
        assert!(read("-ERR no\r\n").unwrap_err().to_string().contains("ERR no"));
    }
}
