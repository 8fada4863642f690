//! Containers, through the `docker` command.

use std::process::Stdio;

use tokio::process::Command;

/// Runs a command to its end and returns what it printed.
///
/// # Errors
///
/// A sentence with the command and what it said, when it cannot be started or fails.
pub async fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    finish(Command::new(program).args(arguments)).await
}

pub(crate) async fn finish(command: &mut Command) -> Result<String, String> {
    let shown = format!("{:?}", command.as_std());
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = output.await.map_err(|error| format!("{shown} cannot be started: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{shown} failed: {}{}", text(&output.stdout), text(&output.stderr)))
    }
}

async fn docker(arguments: &[&str]) -> String {
    run("docker", arguments).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Runs a `docker` command where nothing can be awaited: when something is dropped.
fn docker_at_last(arguments: &[&str]) {
    let mut command = std::process::Command::new("docker");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => {}
        problem => eprintln!("docker {arguments:?}: {problem:?}"),
    }
}

/// A container that is cut off until this is dropped.
#[derive(Debug)]
pub struct CutOff {
    name: String,
    network: String,
    service: String,
}

impl Drop for CutOff {
    fn drop(&mut self) {
        // The name that the others know it by went with the connection.
        docker_at_last(&["network", "connect", "--alias", &self.service, &self.network, &self.name]);
    }
}

/// A container that has less than a whole processor until this is dropped.
#[derive(Debug)]
pub struct Throttled {
    name: String,
}

impl Drop for Throttled {
    fn drop(&mut self) {
        docker_at_last(&["update", "--cpu-quota", "-1", &self.name]);
    }
}

/// A container of a compose project.
#[derive(Debug, Clone)]
pub struct Container {
    /// By its name, which stays when an upgrade creates the container anew.
    name: String,
}

impl Container {
    /// Finds the container of a service by the labels that every version of Compose sets; names differ between versions.
    ///
    /// # Errors
    ///
    /// When there is not exactly one.
    pub async fn find(project: &str, service: &str) -> Result<Self, String> {
        let project = format!("label=com.docker.compose.project={project}");
        let service = format!("label=com.docker.compose.service={service}");
        let arguments = ["ps", "--all", "--format", "{{.Names}}", "--filter", &project, "--filter", &service];
        match run("docker", &arguments).await?.lines().collect::<Vec<_>>()[..] {
            [name] => Ok(Self { name: name.to_owned() }),
            ref names => Err(format!("{service} has {} containers", names.len())),
        }
    }

    /// A field of `docker inspect`, as a Go template.
    pub async fn inspect(&self, template: &str) -> String {
        docker(&["inspect", "--format", template, &self.name]).await.trim().to_owned()
    }

    /// SIGKILL: the container stays dead until it is started.
    pub async fn kill(&self) {
        docker(&["kill", &self.name]).await;
    }

    /// SIGKILL as from the kernel. Nobody wished it, so Docker starts the container again. When this returns, the process is no
    /// more: a signal is sent in no time, but on a busy machine threads go on until each has had its turn to die.
    pub async fn crash(&self) {
        let process = self.inspect("{{.State.Pid}}").await;
        // Of all processes of the machine, in a container, so that who runs the tests needs no right to do so.
        let place = ["run", "--rm", "--pid", "host", "--network", "none", "redis:7-bookworm"];
        let script = r#"kill -KILL "$0" && while kill -0 "$0" 2>/dev/null; do sleep 0.01; done"#;
        docker(&[&place[..], &["sh", "-c", script, &process]].concat()).await;
    }

    /// SIGTERM, and time to end in order.
    pub async fn stop(&self) {
        docker(&["stop", &self.name]).await;
    }

    /// Starts it again.
    pub async fn start(&self) {
        docker(&["start", &self.name]).await;
    }

    /// Freezes all its processes, as SIGSTOP does; connections stay open and nobody answers on them.
    pub async fn pause(&self) {
        docker(&["pause", &self.name]).await;
    }

    /// Lets them go on.
    pub async fn unpause(&self) {
        docker(&["unpause", &self.name]).await;
    }

    /// Cuts it off from all others, as a pulled cable does: connections stay open, and nothing comes on them.
    ///
    /// # Panics
    ///
    /// When it is in no network.
    pub async fn disconnect(&self) -> CutOff {
        let format = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}";
        let network = self.inspect(format).await;
        assert!(!network.is_empty(), "the container is in no network");
        let service = self.inspect(r#"{{index .Config.Labels "com.docker.compose.service"}}"#).await;
        docker(&["network", "disconnect", "--force", &network, &self.name]).await;
        CutOff { name: self.name.clone(), network, service }
    }

    /// Gives it a share of one processor, in percent, until what is returned is dropped.
    pub async fn throttle(&self, percent: u32) -> Throttled {
        docker(&["update", "--cpu-period", "100000", "--cpu-quota", &(percent * 1000).to_string(), &self.name]).await;
        Throttled { name: self.name.clone() }
    }

    /// Runs a shell script in it, as root; what it printed.
    ///
    /// # Errors
    ///
    /// When it fails, or the container does not run.
    pub async fn shell(&self, script: &str) -> Result<String, String> {
        run("docker", &["exec", "--user", "root", &self.name, "sh", "-c", script]).await
    }

    /// Standard output and standard error of its last run since `since` (a Unix time, or a duration such as `10m`).
    pub async fn logs(&self, since: &str) -> String {
        let command = r#"docker logs --since "$1" "$0" 2>&1"#;
        run("sh", &["-c", command, &self.name, since]).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same with the time of each line at its beginning, as RFC 3339 has it.
    pub async fn timed_logs(&self, since: &str) -> String {
        let command = r#"docker logs --timestamps --since "$1" "$0" 2>&1"#;
        run("sh", &["-c", command, &self.name, since]).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Asks the Redis server or sentinel in it; the answer as `redis-cli` prints it to a pipe.
    ///
    /// # Errors
    ///
    /// When it does not answer, or answers with an error.
    pub async fn redis_cli(&self, arguments: &[&str]) -> Result<String, String> {
        // The port stands in the container's environment, the password too, where there is one.
        let script = r#"exec timeout 3 redis-cli -e -p "$NODE_PORT" "$@""#;
        let mut all = vec!["exec", &self.name, "sh", "-c", script, "redis-cli"];
        all.extend(arguments);
        Ok(run("docker", &all).await?.trim_end_matches('\n').to_owned())
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}
