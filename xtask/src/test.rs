//! `cargo xtask test`: everything that must hold before a change lands.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::compose::Compose;
use crate::settings::Settings;
use crate::shell::{cargo, command, read, run};
use crate::{images, prerequisites};

/// The names of all Compose projects that tests start begin with this, so that what they left behind is found.
const PROJECT_PREFIX: &str = "session-layer-test";

pub(crate) fn test() -> Result<()> {
    // Whatever is missing is said before anything takes minutes.
    prerequisites::toolchain()?;
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
        run(cargo(&["test", "--workspace", "--exclude", "cluster-tests", "--all-features", "--locked"]))
    });
    report.step("documentation", || {
        let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--all-features", "--locked"]);
        doc.env("RUSTDOCFLAGS", "--deny warnings");
        run(doc)
    });
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

/// Tests clear away what they start, also when they fail. If one did not, it is cleared away here, and the run fails.
fn nothing_left() -> Result<()> {
    let left = read(command("docker", &["ps", "--all", "--format", LISTED]))?;
    let left: Vec<&str> = left.lines().filter_map(of_a_test).collect();
    if left.is_empty() {
        return Ok(());
    }
    let mut remove: Command = command("docker", &["rm", "--force", "--volumes"]);
    remove.args(&left);
    read(remove)?;
    bail!("{} containers of tests were left behind (now removed)", left.len());
}

const LISTED: &str = "{{.ID}}\t{{.Label \"com.docker.compose.project\"}}\t{{.Label \"org.testcontainers.managed-by\"}}";

/// The ID of a container that a test has started, from a line of the list.
fn of_a_test(line: &str) -> Option<&str> {
    let mut parts = line.split('\t');
    let (id, project, manager) = (parts.next()?, parts.next()?, parts.next()?);
    (project.starts_with(PROJECT_PREFIX) || manager == "testcontainers").then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_containers_of_tests_are_cleared_away() {
        assert_eq!(of_a_test("a1\tsession-layer-test-7\t"), Some("a1"));
        assert_eq!(of_a_test("a2\t\ttestcontainers"), Some("a2"));
        assert_eq!(of_a_test("a3\tsession-layer\t"), None);
        assert_eq!(of_a_test("a4\t\t"), None);
    }

    #[test]
    fn a_failed_step_fails_the_run_and_stops_no_other() {
        let mut report = Report::default();
        assert!(!report.step("first", || bail!("no")));
        assert!(report.step("second", || Ok(())));
        assert_eq!(report.finish().unwrap_err().to_string(), "failed: first");
    }
}
