//! `cargo xtask upgrade`: both nodes to a fresh image, one after the other, while visitors come and go.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::arguments::Under;
use crate::images;
use crate::live::{CALM, Live, bound};
use crate::running::{NODES, Running, eventually};
use crate::settings::Settings;
use crate::shell::read;

/// How long a node may take to stop, start and be ready: it drains for 20 seconds at most.
const READY: Duration = Duration::from_secs(90);
/// A round is two nodes.
const ROUND: Duration = Duration::from_secs(240);
/// Takes nodes out of nginx' rotation, in its container.
const ROTATION: &str = "/docker-entrypoint.d/80-rotation.sh";

pub(crate) fn upgrade(project: Option<String>, take_out: bool, skip_build: bool, under: Under) -> Result<()> {
    let settings = Settings::load()?;
    let cluster = Running::find(project, &settings)?;
    if !skip_build {
        images::ensure(cluster.compose(), &settings, false)?;
    }

    let live = Live::start(cluster.nginx(), under, bound(under.rounds, ROUND)?)?;
    sleep(CALM);
    for round in 1..=under.rounds {
        for (index, (service, name)) in NODES.into_iter().enumerate() {
            let took = node(&cluster, &live, index, take_out)?;
            let failed = live.watch().progress().failed;
            live.say(&format!("round {round}: {service} ({name}) upgraded in {took:.1?}; {failed} failed so far"));
            sleep(CALM);
        }
    }
    let outcome = live.finish();
    println!();
    outcome.print();
    outcome.judge()?;
    // Nobody took Redis away, and no node died over a request: there is no excuse.
    let findings = &outcome.findings;
    let unexcused = findings.lost.count + findings.missing + findings.repeated;
    if unexcused > 0 {
        bail!("{unexcused} acknowledged writes were lost, or done twice");
    }
    let upgrades = if under.rounds == 1 { "upgrade" } else { "upgrades" };
    println!("\n{} rolling {upgrades}, no failed request.", under.rounds);
    Ok(())
}

/// Upgrades one node. How long it took.
fn node(cluster: &Running, live: &Live, index: usize, take_out: bool) -> Result<Duration> {
    let ((service, name), site) = (NODES[index], cluster.nodes()[index]);
    let ((other, _), other_site) = (NODES[1 - index], cluster.nodes()[1 - index]);
    let started = Instant::now();
    live.stage(format!("{service}: waiting until {other} is ready"));
    eventually(&format!("{other} is ready"), READY, || live.ready(other_site))?;

    if take_out {
        live.stage(format!("{service}: out of the upstream, waiting for nginx' old workers"));
        cluster.exec("nginx", &[ROTATION, "out", service])?;
    }
    live.stage(format!("{service}: draining, then starting from the new image"));
    let created = recreate(cluster, live, service, site);
    if take_out {
        // Also when it failed: a node that is out for ever helps nobody.
        live.stage(format!("{service}: back into the upstream, waiting for nginx' old workers"));
        let back = cluster.exec("nginx", &[ROTATION, "in", service]);
        created?;
        back?;
    } else {
        created?;
    }
    live.stage(format!("{service}: ready, waiting for its turn"));
    eventually(&format!("{service} takes part again"), READY, || {
        let answer = live.get(cluster.nginx(), "/livez")?;
        if answer.node() == Some(name) { Ok(()) } else { bail!("{:?} answered", answer.node()) }
    })?;
    live.stage("calm");
    Ok(started.elapsed())
}

fn recreate(cluster: &Running, live: &Live, service: &str, site: load::browser::Site) -> Result<()> {
    let before = cluster.container(service)?.id;
    // Compose stops it as the node wants to be stopped: SIGTERM, and `stop_grace_period` to drain.
    let up = ["up", "--detach", "--no-deps", "--no-build", "--force-recreate", service];
    read(cluster.compose_command(&up)).context("Compose could not start the node")?;
    if cluster.container(service)?.id == before {
        bail!("{service} still runs in its old container");
    }
    live.stage(format!("{service}: starting"));
    eventually(&format!("{service} is ready"), READY, || live.ready(site))
}
