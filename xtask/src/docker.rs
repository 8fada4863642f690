//! What Docker knows: images and the containers of a project.

use anyhow::Result;

use crate::shell::{command, read};

/// Marks what we built where no registry answered, so that it is recognised and replaced later.
pub(crate) const STAND_IN_LABEL: &str = "session-layer.stand-in";

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Image {
    Missing,
    StandIn,
    Official,
}

pub(crate) fn image(name: &str) -> Image {
    let format = format!("--format={{{{index .Config.Labels \"{STAND_IN_LABEL}\"}}}}");
    match read(command("docker", &["image", "inspect", &format, name])) {
        Ok(label) if label == "true" => Image::StandIn,
        Ok(_) => Image::Official,
        Err(_) => Image::Missing,
    }
}

pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) service: String,
    /// Docker's words: created, running, paused, restarting, removing, exited, dead.
    pub(crate) state: String,
    /// starting, healthy, unhealthy.
    pub(crate) health: String,
}

impl Container {
    pub(crate) fn is_healthy(&self) -> bool {
        self.state == "running" && self.health == "healthy"
    }

    /// Whether its ports are taken: a paused container keeps them.
    pub(crate) fn holds_ports(&self) -> bool {
        !matches!(self.state.as_str(), "created" | "exited" | "dead")
    }
}

/// The containers of a Compose project, found by the labels that both versions of Compose set; the names differ.
pub(crate) fn containers(project: &str) -> Result<Vec<Container>> {
    let filter = format!("label=com.docker.compose.project={project}");
    // One question for all, since a container may be gone before the second one.
    let format = "--format={{.ID}}\t{{.Label \"com.docker.compose.service\"}}\t{{.State}}\t{{.Status}}";
    let list = read(command("docker", &["ps", "--all", "--no-trunc", "--filter", &filter, format]))?;
    Ok(list.lines().filter_map(parse).collect())
}

/// Reads "ID service state status"; the status is a sentence such as `Up 3 seconds (health: starting)`.
fn parse(line: &str) -> Option<Container> {
    let mut parts = line.split('\t');
    let (id, service, state, status) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // Tests label containers of their own with the project, so that they go with it; those are no part of the cluster.
    if service.is_empty() {
        return None;
    }
    let health =
        ["healthy", "unhealthy", "health: starting"].into_iter().find(|it| status.ends_with(&format!("({it})")));
    Some(Container {
        id: id.to_owned(),
        service: service.to_owned(),
        state: state.to_owned(),
        health: health.map_or("", |it| it.trim_start_matches("health: ")).to_owned(),
    })
}

/// The last lines a container wrote, on both streams.
pub(crate) fn last_lines(container: &Container, lines: usize) -> String {
    let lines = lines.to_string();
    let output = command("docker", &["logs", "--tail", &lines, &container.id]).output();
    output.map_or_else(
        |error| error.to_string(),
        |output| String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim_end().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_of_no_service_is_no_part_of_the_cluster() {
        assert!(parse("abc\t\trunning\tUp 3 seconds").is_none());
    }

    #[test]
    fn only_a_running_container_whose_check_passed_is_healthy() {
        let is_healthy = |line| parse(line).unwrap().is_healthy();
        assert!(!is_healthy("abc\tnginx\trunning\tUp 3 seconds"));
        assert!(!is_healthy("abc\tnginx\trunning\tUp 3 seconds (health: starting)"));
        assert!(!is_healthy("abc\tnginx\trunning\tUp 3 seconds (unhealthy)"));
        assert!(!is_healthy("abc\tnginx\tpaused\tUp 3 seconds (Paused)"));
        assert!(is_healthy("abc\tnginx\trunning\tUp 3 seconds (healthy)"));
    }
}
