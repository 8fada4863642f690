//! `cargo xtask images`: every image the cluster needs exists afterwards, pulled, built, or a stand-in.

use std::time::Duration;

use anyhow::Result;

use crate::compose::Compose;
use crate::docker::{Image, image};
use crate::settings::Settings;
use crate::shell::{Patience, command, run, run_quietly};
use crate::stand_ins;

pub(crate) const DEBIAN: &str = "debian:bookworm-slim";
pub(crate) const REDIS: &str = "redis:7-bookworm";
pub(crate) const NGINX: &str = "nginx:1.28";
pub(crate) const RUST: &str = "rust:1-bookworm";

pub(crate) fn images(compile_in_container: bool) -> Result<()> {
    let settings = Settings::load()?;
    ensure(&Compose::find(None, &settings)?, &settings, compile_in_container)
}

/// Makes sure of all images. Stand-ins are pulled over as soon as a registry answers.
pub(crate) fn ensure(compose: &Compose, settings: &Settings, compile_in_container: bool) -> Result<()> {
    if pull_missing() {
        println!("Building the image of the nodes (demo-app/Dockerfile)");
        // Both nodes run the image that is built for one of them.
        return run(compose.command(&["build", "app1"]));
    }
    stand_ins::build(DEBIAN)?;
    stand_ins::build(REDIS)?;
    stand_ins::build(NGINX)?;
    if compile_in_container || !stand_ins::host_is_bookworm() {
        stand_ins::build(RUST)?;
        println!("Building the image of the nodes (demo-app/Dockerfile)");
        run(compose.command(&["build", "app1"]))
    } else {
        let tag = settings.get("TAG").unwrap_or_else(|| "dev".to_owned());
        stand_ins::build_nodes(&format!("session-layer-demo:{tag}"))
    }
}

/// Pulls the official images that are not there yet; false if no registry answers.
fn pull_missing() -> bool {
    for name in [DEBIAN, REDIS, NGINX] {
        if image(name) == Image::Official {
            continue;
        }
        // The daemon knows the way to its registry, mirrors and proxies included, so it is the daemon who tries. It speaks
        // when the registry has answered; that nothing answers can take it minutes.
        let patience = Patience { first_line: Duration::from_secs(10), whole: Duration::from_secs(15 * 60) };
        if let Err(error) = run_quietly(&format!("Pulling {name}"), command("docker", &["pull", name]), patience) {
            println!(
                "No image registry answers, so stand-ins built from Debian's packages are used under the same names:"
            );
            println!("  {}", error.to_string().lines().last().unwrap_or_default().trim());
            return false;
        }
    }
    true
}
