//! Docker Compose, whichever version is there: `docker compose` (v2) or `docker-compose` (v1.29).

use std::process::Command;

use anyhow::{Context, Result};

use crate::prerequisites;
use crate::settings::Settings;
use crate::shell;

pub(crate) struct Compose {
    program: &'static [&'static str],
    pub(crate) project: String,
}

impl Compose {
    /// `project` is the one that was asked for; else it is the environment's, else that of `.env`.
    pub(crate) fn find(project: Option<String>, settings: &Settings) -> Result<Self> {
        prerequisites::docker()?;
        let program = prerequisites::compose()?;
        let project = project
            .or_else(|| settings.get("COMPOSE_PROJECT_NAME"))
            .context("COMPOSE_PROJECT_NAME is not set in .env")?;
        Ok(Self { program, project })
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = shell::command(self.program[0], &self.program[1..]);
        command
            .args(["--ansi", "never", "--project-name", &self.project, "--file", "docker-compose.yml"])
            .args(arguments);
        command
    }

    pub(crate) fn services(&self) -> Result<Vec<String>> {
        Ok(shell::read(self.command(&["config", "--services"]))?.lines().map(str::to_owned).collect())
    }
}
