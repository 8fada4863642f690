//! What must be on the machine beside Rust: found, installed where that is ours to do, or named with the way to get it.

use std::process::Command;

use anyhow::{Result, bail};

use crate::shell::{Patience, cargo, command, read, run_quietly, succeeds, target_folder};

/// What to do instead, said with everything that needs Docker.
const WITHOUT: &str = "`cargo run` starts an embedded cluster that needs nothing but Rust";

/// A Docker whose daemon answers us.
pub(crate) fn docker() -> Result<()> {
    if !succeeds(command("docker", &["--version"])) {
        bail!("Docker is missing: there is no `docker` command (https://docs.docker.com/engine/install/); {WITHOUT}");
    }
    if let Err(error) = read(command("docker", &["version", "--format={{.Server.Version}}"])) {
        bail!("Docker does not answer: is its daemon running, and may you use it? {WITHOUT}\n  {error:#}");
    }
    Ok(())
}

/// The words that start Compose.
pub(crate) fn compose() -> Result<&'static [&'static str]> {
    const V2: &[&str] = &["docker", "compose"];
    const V1: &[&str] = &["docker-compose"];
    if succeeds(command("docker", &["compose", "version"])) {
        return Ok(V2);
    }
    if !succeeds(command("docker-compose", &["version"])) {
        install("docker-compose", "Docker Compose")?;
    }
    Ok(V1)
}

/// Builds a Debian system, which stand-in images are made from.
pub(crate) fn mmdebstrap() -> Result<()> {
    if succeeds(command("mmdebstrap", &["--version"])) {
        return Ok(());
    }
    install("mmdebstrap", "mmdebstrap, which stand-in images are built with,")
}

/// A browser for the tests, and what drives it.
pub(crate) fn chromium() -> Result<()> {
    if succeeds(command("chromedriver", &["--version"])) {
        return Ok(());
    }
    install("chromium", "Chromium, which the pages are tested in,")?;
    install("chromium-driver", "chromium-driver")
}

/// axe-core, which the tests look for barriers on the pages with. `tests/axe.txt` says which and from where.
pub(crate) fn axe() -> Result<()> {
    const WHEEL: &str = "axe_playwright_python-0.1.8-py3-none-any.whl";
    let folder = target_folder()?.join("axe");
    if folder.join("axe_playwright_python/axe.min.js").is_file() {
        return Ok(());
    }
    if !succeeds(command("python3", &["-m", "pip", "--version"])) {
        install("python3-pip", "pip, which axe-core is fetched with,")?;
    }
    let folder = folder.to_string_lossy().into_owned();
    let download = ["-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest", &folder];
    let mut fetch = command("python3", &download);
    fetch.args(["--requirement", "tests/axe.txt"]);
    run_quietly("Fetching axe-core", fetch, Patience::minutes(5))?;
    let wheel = format!("{folder}/{WHEEL}");
    run_quietly(
        "Unpacking axe-core",
        command("python3", &["-m", "zipfile", "--extract", &wheel, &folder]),
        Patience::minutes(1),
    )
}

/// A Redis server to measure with; none is left running.
pub(crate) fn redis_server() -> Result<()> {
    if succeeds(command("redis-server", &["--version"])) {
        return Ok(());
    }
    install("redis-server", "redis-server")
}

/// Counts instructions.
pub(crate) fn valgrind() -> Result<()> {
    if succeeds(command("valgrind", &["--version"])) {
        return Ok(());
    }
    install("valgrind", "valgrind")
}

/// The parts of the toolchain that the tests use; minimal toolchains leave them out.
pub(crate) fn toolchain() -> Result<()> {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if succeeds(cargo(&[subcommand, "--version"])) {
            continue;
        }
        let install = command("rustup", &["component", "add", component]);
        if run_quietly(&format!("Installing {component}"), install, Patience::minutes(10)).is_err() {
            bail!("{component} is missing: `rustup component add {component}`");
        }
    }
    Ok(())
}

/// Changes code to see whether tests notice.
pub(crate) fn cargo_mutants() -> Result<()> {
    if succeeds(cargo(&["mutants", "--version"])) {
        return Ok(());
    }
    let install = cargo(&["install", "cargo-mutants", "--locked"]);
    run_quietly("Installing cargo-mutants", install, Patience::minutes(30))
}

pub(crate) fn is_root() -> bool {
    read(command("id", &["-u"])).is_ok_and(|id| id == "0")
}

fn install(package: &str, what: &str) -> Result<()> {
    if !is_root() || !succeeds(command("apt-get", &["--version"])) {
        bail!("{what} is missing: `apt-get install {package}` on Debian and Ubuntu; {WITHOUT}");
    }
    let apt = |arguments: &[&str]| -> Command {
        let mut command = command("apt-get", arguments);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    // Lists that are too old to download from are renewed; that some third party's list is out of reach matters only if
    // the package then cannot be had.
    let _ = run_quietly("Asking for package lists", apt(&["update"]), Patience::minutes(5));
    run_quietly(
        &format!("Installing {package}"),
        apt(&["install", "--yes", "--no-install-recommends", package]),
        Patience::minutes(10),
    )
}
