//! The cluster that is up: where its doors are, what its sentinels say, and how its containers are reached.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use load::browser::Site;

use crate::compose::Compose;
use crate::docker::{Container, containers};
use crate::settings::Settings;
use crate::shell::{command, read};

/// The nodes' services, and the names they show.
pub(crate) const NODES: [(&str, &str); 2] = [("app1", "1111"), ("app2", "2222")];
/// The Redis servers.
pub(crate) const REDIS: [&str; 3] = ["redis-1", "redis-2", "redis-3"];
/// The sentinels.
pub(crate) const SENTINELS: [&str; 3] = ["sentinel-1", "sentinel-2", "sentinel-3"];

pub(crate) struct Running {
    compose: Compose,
    nginx: Site,
    nodes: [Site; 2],
}

impl Running {
    /// The cluster of the project, which must be complete and healthy.
    pub(crate) fn find(project: Option<String>, settings: &Settings) -> Result<Self> {
        let compose = Compose::find(project, settings)?;
        let project = compose.project.clone();
        let there = containers(&project)?;
        if there.is_empty() {
            bail!("no cluster is up (Compose project {project}): `cargo xtask up` starts one");
        }
        let services = compose.services()?;
        let healthy = |service: &String| there.iter().any(|it| it.service == *service && it.is_healthy());
        let unwell: Vec<_> = services.iter().filter(|service| !healthy(service)).map(String::as_str).collect();
        if !unwell.is_empty() {
            bail!(
                "the cluster (Compose project {project}) is not well: {}; `cargo xtask up` mends it",
                unwell.join(", ")
            );
        }
        let port = |service: &str, inside: u16| -> Result<Site> {
            let container = find(&there, service)?;
            let published = read(command("docker", &["port", &container.id, &format!("{inside}/tcp")]))?;
            let port = published.lines().next().and_then(|line| line.rsplit(':').next());
            let port = port.and_then(|port| port.parse().ok());
            Ok(Site { port: port.with_context(|| format!("{service} has no port on this machine: {published}"))? })
        };
        let (nginx, nodes) = (port("nginx", 80)?, [port("app1", 8080)?, port("app2", 8080)?]);
        Ok(Self { compose, nginx, nodes })
    }

    /// The door that visitors use.
    pub(crate) fn nginx(&self) -> Site {
        self.nginx
    }

    /// The nodes' own doors.
    pub(crate) fn nodes(&self) -> [Site; 2] {
        self.nodes
    }

    pub(crate) fn compose(&self) -> &Compose {
        &self.compose
    }

    /// Compose, with the ports that the cluster has, whatever the environment says now: with others it would create more
    /// containers anew than it is asked to.
    pub(crate) fn compose_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.compose.command(arguments);
        for (variable, site) in [("HTTP_PORT", self.nginx), ("APP1_PORT", self.nodes[0]), ("APP2_PORT", self.nodes[1])]
        {
            command.env(variable, site.port.to_string());
        }
        command
    }

    /// The service's container as it is now. A node that was created anew has another one.
    pub(crate) fn container(&self, service: &str) -> Result<Container> {
        let mut all = containers(&self.compose.project)?;
        let index =
            all.iter().position(|it| it.service == service).with_context(|| format!("{service} is not there"))?;
        Ok(all.swap_remove(index))
    }

    /// Runs a command in a service's container.
    pub(crate) fn exec(&self, service: &str, arguments: &[&str]) -> Result<String> {
        let id = self.container(service)?.id;
        read(command("docker", &[&["exec", &id], arguments].concat()))
    }

    /// Asks a Redis server or a sentinel.
    pub(crate) fn redis_cli(&self, service: &str, arguments: &[&str]) -> Result<String> {
        let script = r#"exec timeout 2 redis-cli -e -p "$NODE_PORT" "$@""#;
        self.exec(service, &[&["sh", "-c", script, "redis-cli"], arguments].concat())
    }

    /// The master's service, if two sentinels name the same one and it says so itself.
    pub(crate) fn master(&self) -> Result<&'static str> {
        let ask = ["sentinel", "get-master-addr-by-name", "mymaster"];
        let named: Vec<_> = SENTINELS.iter().filter_map(|sentinel| self.redis_cli(sentinel, &ask).ok()).collect();
        let votes = |name: &str| named.iter().filter(|answer| answer.lines().next() == Some(name)).count();
        let Some(master) = REDIS.into_iter().find(|name| votes(name) >= 2) else {
            bail!("no two sentinels agree: {named:?}");
        };
        match self.role(master)?.as_str() {
            "master" => Ok(master),
            role => bail!("{master}, which the sentinels name, is a {role}"),
        }
    }

    /// `master`, or `slave` followed by the state of its link.
    pub(crate) fn role(&self, service: &str) -> Result<String> {
        let role = self.redis_cli(service, &["role"])?;
        let lines: Vec<_> = role.lines().collect();
        Ok(match lines[..] {
            ["slave", _, _, link, ..] => format!("slave, {link}"),
            [role, ..] => role.to_owned(),
            [] => String::new(),
        })
    }

    /// Checks that the master has both replicas, and that every container is healthy.
    pub(crate) fn well(&self) -> Result<&'static str> {
        let master = self.master()?;
        let online = self.redis_cli(master, &["info", "replication"])?.matches("state=online").count();
        if online != 2 {
            bail!("{master} has {online} replicas");
        }
        if let Some(unwell) = containers(&self.compose.project)?.iter().find(|container| !container.is_healthy()) {
            bail!("{} is {} {}", unwell.service, unwell.state, unwell.health);
        }
        Ok(master)
    }
}

fn find<'a>(containers: &'a [Container], service: &str) -> Result<&'a Container> {
    containers.iter().find(|it| it.service == service).with_context(|| format!("{service} is not there"))
}

/// Tries until it succeeds; what was wrong last is the error.
pub(crate) fn eventually<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        match probe() {
            Ok(found) => return Ok(found),
            Err(error) if started.elapsed() >= deadline => {
                return Err(error.context(format!("not within {} s: {what}", deadline.as_secs())));
            }
            Err(_) => sleep(Duration::from_millis(100)),
        }
    }
}
