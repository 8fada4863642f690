//! `cargo xtask up`: starts the cluster, waits until all of it is healthy, and says where it is.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::compose::Compose;
use crate::docker::{Container, containers, last_lines};
use crate::settings::Settings;
use crate::shell::target_folder;
use crate::{images, ports};

/// It takes 12 seconds on two idle cores; a busy machine gets its time.
const DEADLINE: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(500);
const NEWS_EVERY: Duration = Duration::from_secs(10);

pub(crate) fn up(project: Option<String>) -> Result<()> {
    let settings = Settings::load()?;
    let compose = Compose::find(project, &settings)?;
    let ports = ports::published(&settings)?;
    let address = ports::address(&settings);
    ports::check(&ports, &address, &containers(&compose.project)?)?;
    images::ensure(&compose, &settings, false)?;

    println!("Starting the cluster (Compose project {})", compose.project);
    // What Compose says about its progress, in the way of its version, we say better below.
    let said = target_folder()?.join("compose-up.log");
    let log = File::create(&said).with_context(|| format!("cannot write {}", said.display()))?;
    let mut starting = compose
        .command(&["up", "--detach"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot run Compose")?;
    let outcome = await_health(&compose, &mut starting);
    // Ended already, unless the deadline has passed.
    let _ = starting.kill();
    starting.wait()?;
    if let Err(error) = outcome {
        println!("\nCompose said:\n{}", indented(&fs::read_to_string(&said)?));
        explain(&compose)?;
        bail!("{error:#}; `cargo xtask down` clears away what is there");
    }

    println!("\nThe cluster is up:");
    for port in &ports {
        let what = match port.service {
            "nginx" => "through nginx, the nodes in turn",
            "app1" => "node 1111 alone",
            _ => "node 2222 alone",
        };
        println!("  http://{address}:{}  {what}", port.number);
    }
    println!("`cargo xtask down` stops it.");
    Ok(())
}

/// Reports each service as its health changes, until Compose has started all and all are healthy.
fn await_health(compose: &Compose, starting: &mut Child) -> Result<()> {
    let services = compose.services()?;
    let started = Instant::now();
    let mut next_news = started + NEWS_EVERY;
    let mut seen = BTreeMap::new();
    loop {
        let ended = starting.try_wait()?;
        if let Some(status) = ended.filter(|status| !status.success()) {
            bail!("Compose could not start the cluster ({status})");
        }
        let now = containers(&compose.project)?;
        for container in &now {
            let state = if container.state == "running" { &container.health } else { &container.state };
            if seen.insert(container.service.clone(), state.clone()).as_ref() != Some(state) {
                println!("  {:>3} s  {} {state}", started.elapsed().as_secs(), container.service);
            }
        }
        let waiting = not_healthy(&services, &now);
        if ended.is_some() && waiting.is_empty() {
            return Ok(());
        }
        if started.elapsed() > DEADLINE {
            bail!("after {} s these are not healthy: {}", DEADLINE.as_secs(), waiting.join(", "));
        }
        if Instant::now() >= next_news {
            println!("  {:>3} s  waiting for {}", started.elapsed().as_secs(), waiting.join(", "));
            next_news += NEWS_EVERY;
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn not_healthy<'a>(services: &'a [String], containers: &[Container]) -> Vec<&'a str> {
    let is_healthy = |service: &str| containers.iter().any(|it| it.service == service && it.is_healthy());
    services.iter().map(String::as_str).filter(|service| !is_healthy(service)).collect()
}

/// Prints what the services that are not healthy said last.
fn explain(compose: &Compose) -> Result<()> {
    for container in containers(&compose.project)?.iter().filter(|container| !container.is_healthy()) {
        let Container { service, state, health, .. } = container;
        let health = if health.is_empty() { "" } else { &format!(" and {health}") };
        println!("\n{service} is {state}{health}; its last lines:\n{}", indented(&last_lines(container, 15)));
    }
    Ok(())
}

fn indented(text: &str) -> String {
    if text.trim().is_empty() {
        "  (nothing)".to_owned()
    } else {
        format!("  {}", text.trim_end().replace('\n', "\n  "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_without_a_container_is_waited_for() {
        let services = ["nginx".to_owned(), "app1".to_owned(), "app2".to_owned()];
        let container = |service: &str, health: &str| Container {
            id: String::new(),
            service: service.into(),
            state: "running".into(),
            health: health.into(),
        };
        let containers = [container("nginx", "starting"), container("app1", "healthy")];
        assert_eq!(not_healthy(&services, &containers), ["nginx", "app2"]);
    }
}
