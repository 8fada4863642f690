//! `cargo xtask test`: everything that must hold before a change lands.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::compose::Compose;
use crate::settings::Settings;
use crate::shell::{cargo, command, read, run, succeeds};
use crate::{bench, images, mutants, prerequisites};

pub(crate) fn test() -> Result<()> {
    // Whatever is missing is said before anything takes minutes.
    prerequisites::toolchain()?;
    prerequisites::chromium()?;
    prerequisites::axe()?;
    let settings = Settings::load()?;
    let compose = Compose::find(None, &settings)?;

    let mut report = Report::default();
    report.step("format", || run(cargo(&["fmt", "--all", "--check"])));
    report.step("lints", || {
        run(cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--locked",
            "--",
            "--deny",
            "warnings",
        ]))
    });
    report.step("unit, integration and documentation tests", || {
        let mut tests = cargo(&["test", "--workspace", "--exclude", "cluster-tests", "--all-features", "--locked"]);
        // Ten times as many as while developing.
        tests.env("SIMULATION_RUNS", "10000");
        run(tests)
    });
    report.step("benchmark, as far as it is ours", bench::check);
    report.step("documentation", || {
        let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--all-features", "--locked"]);
        doc.env("RUSTDOCFLAGS", "--deny warnings");
        run(doc)
    });
    report.step("mutants, a short round", mutants::short_round);
    let images = report.step("images", || images::ensure(&compose, &settings, false));
    report.step("end-to-end tests", || {
        if !images {
            bail!("not run: they need the images");
        }
        run(cargo(&["test", "--package", "cluster-tests", "--locked"]))
    });
    report.step("nothing left running", nothing_left);
    report.finish()
}

#[derive(Default)]
struct Report {
    steps: Vec<(&'static str, Duration, Result<()>)>,
}

impl Report {
    /// Runs a step; a failure stops none of the later ones, so that one run shows all there is to mend.
    fn step(&mut self, name: &'static str, act: impl FnOnce() -> Result<()>) -> bool {
        println!("\n== {name}");
        let started = Instant::now();
        let outcome = act();
        if let Err(error) = &outcome {
            println!("{error:#}");
        }
        let passed = outcome.is_ok();
        self.steps.push((name, started.elapsed(), outcome));
        passed
    }

    fn finish(self) -> Result<()> {
        println!();
        for (name, took, outcome) in &self.steps {
            println!("{:>7} {:>5} s  {name}", if outcome.is_ok() { "ok" } else { "FAILED" }, took.as_secs());
        }
        let failed: Vec<_> =
            self.steps.iter().filter(|(.., outcome)| outcome.is_err()).map(|(name, ..)| *name).collect();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        println!("everything passed");
        Ok(())
    }
}

/// The Compose projects of tests are named by this and the process that runs them.
const PROJECT_PREFIX: &str = "session-layer-test-";
/// Clearing away starts when the tests have ended; nine containers take a few seconds.
const CLEARED_AFTER: Duration = Duration::from_secs(60);

/// Tests clear away what they start, however they end. If they did not, it is done here, and the run fails.
fn nothing_left() -> Result<()> {
    let deadline = Instant::now() + CLEARED_AFTER;
    let left = loop {
        let list = read(command("docker", &["ps", "--all", "--format", LISTED]))?;
        let left: Vec<String> = list.lines().filter_map(|line| orphan(line, is_running)).map(str::to_owned).collect();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            break left;
        }
        thread::sleep(Duration::from_millis(500));
    };
    let mut remove = command("docker", &["rm", "--force", "--volumes"]);
    remove.args(&left);
    read(remove)?;
    bail!("{} containers of tests were left behind (now removed)", left.len());
}

const LISTED: &str = "{{.ID}}\t{{.Label \"com.docker.compose.project\"}}";

/// The ID of a container whose tests have ended, from a line of the list. Other tests may well be running beside ours.
fn orphan(line: &str, is_running: impl Fn(&str) -> bool) -> Option<&str> {
    let (id, project) = line.split_once('\t')?;
    let process = project.strip_prefix(PROJECT_PREFIX)?;
    (!is_running(process)).then_some(id)
}

fn is_running(process: &str) -> bool {
    succeeds(command("sh", &["-c", "kill -0 \"$0\"", process]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_containers_whose_tests_have_ended_are_cleared_away() {
        let runs = |process: &str| process == "7";
        assert_eq!(orphan("a1\tsession-layer-test-8", runs), Some("a1"));
        assert_eq!(orphan("a2\tsession-layer-test-7", runs), None);
        assert_eq!(orphan("a3\tsession-layer", runs), None);
        assert_eq!(orphan("a4\t", runs), None);
    }

    #[test]
    fn a_process_that_runs_is_told_from_one_that_ended() {
        assert!(is_running(&std::process::id().to_string()));
        let mut ended = command("true", &[]).spawn().unwrap();
        ended.wait().unwrap();
        assert!(!is_running(&ended.id().to_string()));
    }

    #[test]
    fn a_failed_step_fails_the_run_and_stops_no_other() {
        let mut report = Report::default();
        assert!(!report.step("first", || bail!("no")));
        assert!(report.step("second", || Ok(())));
        assert_eq!(report.finish().unwrap_err().to_string(), "failed: first");
    }
}
