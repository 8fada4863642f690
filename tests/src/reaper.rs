//! Takes the cluster down when the tests are over, however they end.
//!
//! Rust's test harness has no "after all tests", and nothing in a process runs after SIGKILL. So a second process waits for the
//! end of this one: it reads from a pipe that only this process writes to, and the system closes that at the end of any kind.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

/// Removes what a compose project consists of. By labels, so that neither Compose nor its file are needed, and by force, since
/// nobody needs an orderly shutdown here.
const REMOVE: &str = r#"
remove() {
    label="label=com.docker.compose.project=$1"
    docker ps --all --quiet --filter "$label" | xargs -r docker rm --force --volumes
    docker network ls --quiet --filter "$label" | xargs -r docker network rm
    docker volume ls --quiet --filter "$label" | xargs -r docker volume rm
}
"#;

/// Test projects are named by this and the process that runs the tests.
const PREFIX: &str = "session-layer-test-";

/// The name of this process' project.
pub(crate) fn project() -> String {
    format!("{PREFIX}{}", std::process::id())
}

/// Must live until this process ends: when it goes, so do all containers.
static REAPER: LazyLock<Child> = LazyLock::new(|| watch_over(&project()).expect("sh can be started"));

/// From now on whatever carries the label of this process' project is removed when the process ends.
pub(crate) fn is_watching() {
    LazyLock::force(&REAPER);
}

/// Removes what tests left behind whose reaper could not do its work, after a power cut for example.
pub(crate) fn remove_leftovers() -> io::Result<()> {
    let script = format!(
        r#"{REMOVE}
        docker ps --all --format '{{{{.Label "com.docker.compose.project"}}}}' | grep '^{PREFIX}[0-9]*$' | sort -u |
        while read -r project; do
            kill -0 "${{project#{PREFIX}}}" 2>/dev/null || remove "$project"
        done"#
    );
    quiet(&script).status().map(drop)
}

/// Starts the process that removes `project` when this process has ended. The child's standard input must be kept for as long as
/// the project is to live.
pub(crate) fn watch_over(project: &str) -> io::Result<Child> {
    // More than once: a `docker compose up` that was cut off may still be creating containers.
    let script = format!("{REMOVE}\nread -r _\nfor again in 1 2 3 4 5; do remove {project}; sleep 2; done");
    // In a process group of its own: Ctrl-C in the terminal ends the tests, and must not end this.
    quiet(&script).stdin(Stdio::piped()).process_group(0).spawn()
}

fn quiet(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}
