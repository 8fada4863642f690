//! Docker Compose, on the repository's file, for a project of the tests' own.

use std::path::Path;
use std::process::Child;

use tokio::process::Command;

use crate::docker::{finish, run};
use crate::reaper;

/// Runs the command in the root of the repository, where Compose reads `.env`, and with the tests' settings.
pub(crate) fn in_repository(command: &mut Command) {
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository"));
    // The shell wins over `.env`: what somebody changed there for their own cluster does not change the tests.
    command.env("PUBLISH_ADDRESS", "127.0.0.1").env("SESSION_DEVELOPMENT", "1");
    for unset in [
        "SESSION_ACCEPTED_SECRETS",
        "SESSION_IDLE_TIMEOUT_SECS",
        "SESSION_ABSOLUTE_TIMEOUT_SECS",
        "SESSION_REPLICA_READS",
        "SESSION_NEAR_CACHE",
        "SESSION_ROLLBACK_DETECTION",
    ] {
        command.env(unset, "");
    }
}

/// Whichever Compose there is.
pub(crate) struct Compose {
    program: &'static [&'static str],
    pub(crate) project: String,
}

impl Compose {
    pub(crate) async fn find() -> Result<Self, String> {
        for program in [&["docker", "compose"][..], &["docker-compose"][..]] {
            let version = [&program[1..], &["version"]].concat();
            if run(program[0], &version).await.is_ok() {
                return Ok(Self { program, project: reaper::project() });
            }
        }
        Err("The end-to-end tests need Docker Compose, and neither `docker compose` nor `docker-compose` answers."
            .to_owned())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program[0]);
        command.args(&self.program[1..]).args(["--project-name", &self.project]);
        in_repository(&mut command);
        command
    }

    pub(crate) async fn check_images(&self) -> Result<(), String> {
        let config = finish(self.command().arg("config")).await?;
        let images = config.lines().filter_map(|line| line.trim().strip_prefix("image:"));
        for image in images.map(|image| image.trim().trim_matches(['\'', '"'])) {
            run("docker", &["image", "inspect", image]).await.map_err(|_| {
                format!(
                    "The image {image} is missing. `cargo xtask up` makes all images, `cargo xtask test` does so too."
                )
            })?;
        }
        Ok(())
    }

    /// Creates and starts what is missing, and anew what has other settings; with these ports.
    pub(crate) fn up_command(&self, [nginx, app1, app2]: [u16; 3]) -> Command {
        let mut command = self.command();
        command.args(["up", "--detach", "--no-build"]);
        for (variable, port) in [("HTTP_PORT", nginx), ("APP1_PORT", app1), ("APP2_PORT", app2)] {
            command.env(variable, port.to_string());
        }
        command
    }

    pub(crate) async fn up(&self, ports: [u16; 3]) -> Result<Child, String> {
        let reaper = reaper::watch_over(&self.project).map_err(|error| format!("sh cannot be started: {error}"))?;
        match finish(self.up_command(ports).arg("--force-recreate")).await {
            Ok(_) => Ok(reaper),
            // The reaper is about to remove what could tell why.
            Err(error) => Err(format!("{error}{}", self.why_unhealthy().await)),
        }
    }

    /// What the containers that are not healthy say.
    async fn why_unhealthy(&self) -> String {
        let script = r#"docker ps --all --quiet --filter "label=com.docker.compose.project=$0" | while read -r id; do
            state=$(docker inspect --format '{{.Name}} {{json .State}}' "$id")
            case "$state" in
            *'"Status":"healthy"'*) ;;
            *) echo "$state" && docker logs --tail 30 "$id" 2>&1 ;;
            esac
        done"#;
        run("sh", &["-c", script, &self.project]).await.unwrap_or_else(|error| error)
    }
}
