//! The repository's nginx.conf in front of two nodes that are processes of this machine.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use http::{Method, StatusCode};

use crate::browser::{Browser, Site};
use crate::docker::run;
use crate::wait::{ensure, eventually};
use crate::{ports, reaper};

/// The image of the reference cluster.
const IMAGE: &str = "nginx:1.28";

/// An nginx; it ends when this is dropped.
pub struct Door {
    /// Where it listens.
    pub site: Site,
    container: String,
}

impl Door {
    /// Starts it, and waits until it serves.
    ///
    /// # Panics
    ///
    /// Without Docker or the image, or when nginx.conf is not what this knows how to change.
    pub async fn start(nodes: [Site; 2]) -> Self {
        Self::start_with(nodes, &[]).await
    }

    /// Starts it with changes to nginx.conf: each first text is replaced by the second.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start), and when nginx.conf has no such text.
    pub async fn start_with(nodes: [Site; 2], changes: &[(&str, &str)]) -> Self {
        let [port, health] = ports::free();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nginx/nginx.conf");
        let mut conf = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let addresses = [
            ("app1:8080", format!("127.0.0.1:{}", nodes[0].port)),
            ("app2:8080", format!("127.0.0.1:{}", nodes[1].port)),
            ("listen 80;", format!("listen 127.0.0.1:{port};")),
            ("127.0.0.1:8079", format!("127.0.0.1:{health}")),
        ];
        let addresses = addresses.iter().map(|(there, here)| (*there, here.as_str()));
        for (there, here) in addresses.chain(changes.iter().copied()) {
            assert!(conf.contains(there), "{} says nothing of {there}", path.display());
            conf = conf.replace(there, here);
        }
        reaper::is_watching();
        let label = format!("com.docker.compose.project={}", reaper::project());
        let script = r#"printf '%s' "$CONF" >/etc/nginx/nginx.conf && exec nginx -g 'daemon off;'"#;
        let conf = format!("CONF={conf}");
        // In the host's network, where the nodes are.
        let options = ["--detach", "--network", "host", "--label", &label, "--env", &conf, "--entrypoint", "sh", IMAGE];
        let started = run("docker", &[&["run"], &options[..], &["-c", script]].concat()).await;
        let container = started.unwrap_or_else(|error| panic!("{error}")).trim().to_owned();
        let door = Self { site: Site { port }, container };
        eventually("nginx serves", Duration::from_secs(20), async || {
            let answer = Browser::new().send(door.site, Method::GET, "/livez", &[], Default::default()).await?;
            ensure(answer.status == StatusCode::OK, || format!("{answer:?}"))
        })
        .await;
        door
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let mut remove = std::process::Command::new("docker");
        remove.args(["rm", "--force", "--volumes", &self.container]).stdout(Stdio::null());
        // If it fails, the reaper will do it.
        let _ = remove.status();
    }
}
