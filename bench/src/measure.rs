//! Which core does what, and how much time a process has spent on one.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context, Result};

/// The app has a core to itself; what drives it shares another one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Core {
    App,
    Redis,
}

impl Core {
    fn number(self) -> usize {
        let last = available_cores() - 1;
        match self {
            Self::App => 0,
            Self::Redis => 1.min(last),
        }
    }
}

fn available_cores() -> usize {
    // What we were started with, not what is left of it since we pinned ourselves.
    let list = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let last = list.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<usize>().ok());
    last.map_or_else(|| available_parallelism().map_or(1, usize::from), |last| last + 1)
}

/// A command that runs on one core.
pub(crate) fn pinned(core: Core, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &core.number().to_string(), program]);
    command
}

/// Moves this process, and the threads it starts from now on, to a core.
pub(crate) fn pin_ourselves(core: Core) -> Result<()> {
    let process = std::process::id().to_string();
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", "--pid", &core.number().to_string(), &process]).stdout(Stdio::null());
    command.status().context("cannot run taskset, of the package util-linux")?;
    Ok(())
}

/// What all threads of a process have spent on a core so far.
pub(crate) fn cpu_time(process: u32) -> Result<Duration> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        // Time on a core in nanoseconds, then other things; a thread may end while we look.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        nanos += text.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).context("schedstat")?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// The processor's name, and how many cores of it there are.
pub(crate) fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |line| line.1);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{} cores of {name}, Linux {}", available_cores(), kernel.trim())
}

pub(crate) fn today() -> Result<String> {
    let output = Command::new("date").args(["--utc", "+%F"]).output().context("cannot run date")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Of what is compared, as locked.
pub(crate) fn versions() -> BTreeMap<String, String> {
    const SHOWN: [&str; 10] = [
        "actix-session",
        "actix-web",
        "axum",
        "axum_session",
        "axum_session_redispool",
        "fred",
        "session-layer",
        "tokio",
        "tower-sessions",
        "tower-sessions-redis-store",
    ];
    let packages = include_str!("../Cargo.lock").split("[[package]]").filter_map(|package| {
        let field = |name: &str| package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""));
        Some((field("name")?.trim_end_matches('"').to_owned(), field("version")?.trim_end_matches('"').to_owned()))
    });
    packages.filter(|(name, _)| SHOWN.contains(&name.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_lock_file() {
        let versions = versions();
        assert!(versions["axum"].starts_with("0.8."), "{versions:?}");
        assert_eq!(versions.len(), 10);
    }

    #[test]
    fn time_on_a_core_is_counted() {
        let before = cpu_time(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while cpu_time(std::process::id()).unwrap() < before + Duration::from_millis(5) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }
}
