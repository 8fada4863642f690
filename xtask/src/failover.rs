//! `cargo xtask failover`: the Redis master goes away while visitors come and go, and comes back.

use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use load::driver::Watch;
use load::report::Sample;
use load::visitors::needs_the_store;

use crate::arguments::{Fault, Under};
use crate::live::{CALM, Live, bound};
use crate::running::{Running, SENTINELS, eventually};
use crate::settings::Settings;
use crate::shell::{command, read};

/// Within this another server is master. Sentinels that did not agree on who of them leads the failover try again after 20 s.
const ELECTED: Duration = Duration::from_secs(60);
/// How long a master that comes back may take to be a replica: the sentinels take 10 to 12 seconds to demote one that was
/// asleep, and a killed one has its data to read.
const DEMOTED: Duration = Duration::from_secs(60);
/// A round, at most.
const ROUND: Duration = Duration::from_secs(200);

pub(crate) fn failover(project: Option<String>, by: Fault, under: Under) -> Result<()> {
    let cluster = Running::find(project, &Settings::load()?)?;
    eventually("the master has its replicas", DEMOTED, || cluster.well())?;
    let live = Live::start(cluster.nginx(), under, bound(under.rounds, ROUND)?)?;
    let mut rounds = Vec::new();
    for number in 1..=under.rounds {
        sleep(CALM);
        let round = round(&cluster, &live, by)?;
        live.say(&format!("\nround {number} of {}\n{}", under.rounds, round.timeline));
        rounds.push(round);
    }
    sleep(CALM);
    let outcome = live.finish();
    println!();
    outcome.print();
    let longest = rounds.iter().map(|round| round.longest).max().unwrap_or_default();
    println!(
        "\n{} failovers: {} failed, longest wait {:.2} s, logins or logouts lost {}, other acknowledged writes lost {}",
        rounds.len(),
        outcome.report.failed(),
        longest.as_secs_f64(),
        outcome.findings.lost_durable.count,
        outcome.findings.lost.count
    );
    outcome.judge()
}

struct Round {
    longest: Duration,
    timeline: String,
}

fn round(cluster: &Running, live: &Live, by: Fault) -> Result<Round> {
    let master = cluster.well()?;
    let container = cluster.container(master)?.id;
    let watch = live.watch();
    let events = Events::subscribe(cluster, &watch)?;
    let lost_before = live.findings().lost.count;

    live.stage(format!("{master}, the master: {}", by.verb()));
    let gone = watch.elapsed();
    by.strike(&container)?;
    let struck = watch.elapsed();
    let next = eventually("another master", ELECTED, || match cluster.master()? {
        next if next != master => Ok(next),
        _ => bail!("{master} still leads"),
    });
    let seen = watch.elapsed();
    if next.is_ok() {
        live.stage("another master leads; letting things settle");
        sleep(CALM);
    }
    live.stage(format!("{master}: coming back"));
    let back = watch.elapsed();
    // Also when nobody was elected.
    by.mend(&container)?;
    let next = next?;
    eventually(&format!("{master} is a replica"), DEMOTED, || match cluster.role(master)?.as_str() {
        "slave, connected" => Ok(()),
        role => bail!("{master} is {role}"),
    })?;
    let demoted = watch.elapsed();
    live.stage("waiting until all is well");
    eventually("all is well", DEMOTED, || cluster.well())?;
    live.stage("calm");

    let events = events.end();
    let gap = Gap::find(&watch.ended_since(gone.saturating_sub(CALM)), gone, back);
    let mut timeline = String::new();
    let mut line = |time: Duration, what: &str| {
        let relative = time.as_secs_f64() - gone.as_secs_f64();
        // Writing into a string does not fail.
        let _ = writeln!(timeline, "  {relative:>+8.3} s  {what}");
    };
    line(gone, &format!("{master} is {} (done at {:+.3} s)", by.done(), (struck - gone).as_secs_f64()));
    let mut marks =
        vec![(gap.last, format!("last answer of {master}")), (gap.first, format!("first answer of {next}"))];
    marks.extend(events.iter().map(|(time, event)| (*time, event.clone())));
    marks.push((seen, format!("two sentinels name {next}")));
    marks.push((back, format!("{master} is {}", by.undone())));
    marks.push((demoted, format!("{master} is a replica")));
    marks.sort();
    for (time, what) in marks {
        line(time, &what);
    }
    let lost = live.findings().lost.count - lost_before;
    let _ = writeln!(
        timeline,
        "  {} requests waited for the new master, {:.2?} in the median and {:.2?} at most; {} failed; {lost} acknowledged \
         writes were found lost so far",
        gap.waits.len(),
        gap.median(),
        gap.longest(),
        gap.failed,
    );
    Ok(Round { longest: gap.longest(), timeline })
}

impl Fault {
    fn verb(self) -> &'static str {
        match self {
            Self::Kill => "killing it",
            Self::Pause => "stopping it",
            Self::Partition => "cutting it off",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Kill => "killed",
            Self::Pause => "stopped",
            Self::Partition => "cut off",
        }
    }

    fn undone(self) -> &'static str {
        match self {
            Self::Kill => "started again",
            Self::Pause => "awake",
            Self::Partition => "connected again",
        }
    }

    fn strike(self, container: &str) -> Result<()> {
        match self {
            Self::Kill => read(command("docker", &["kill", container])),
            Self::Pause => read(command("docker", &["pause", container])),
            Self::Partition => {
                read(command("docker", &["network", "disconnect", "--force", &network(container)?, container]))
            }
        }
        .map(drop)
    }

    fn mend(self, container: &str) -> Result<()> {
        match self {
            Self::Kill => read(command("docker", &["start", container])),
            Self::Pause => read(command("docker", &["unpause", container])),
            Self::Partition => {
                let label = "{{index .Config.Labels \"com.docker.compose.service\"}}";
                let service = read(command("docker", &["inspect", "--format", label, container]))?;
                let network = project_network(container)?;
                // The name that the others know it by went with the connection.
                read(command("docker", &["network", "connect", "--alias", &service, &network, container]))
            }
        }
        .map(drop)
    }
}

/// The network that the container is in.
fn network(container: &str) -> Result<String> {
    let format = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}\n{{end}}";
    let networks = read(command("docker", &["inspect", "--format", format, container]))?;
    networks.lines().find(|name| !name.is_empty()).map(str::to_owned).context("the container is in no network")
}

/// The network of the container's project, which it need not be in now.
fn project_network(container: &str) -> Result<String> {
    let label = "{{index .Config.Labels \"com.docker.compose.project\"}}";
    let project = read(command("docker", &["inspect", "--format", label, container]))?;
    let filter = format!("label=com.docker.compose.project={project}");
    let networks = read(command("docker", &["network", "ls", "--filter", &filter, "--format", "{{.Name}}"]))?;
    networks.lines().next().map(str::to_owned).context("the project has no network")
}

/// The time without an answer from any master, as visitors saw it.
struct Gap {
    last: Duration,
    first: Duration,
    /// How long those took that ended after the gap and were due before its end.
    waits: Vec<Duration>,
    failed: usize,
}

impl Gap {
    /// From requests in the order of their ends; the master went at `gone`, and was back at `back`.
    fn find(samples: &[Sample], gone: Duration, back: Duration) -> Self {
        let good: Vec<_> = samples.iter().filter(|it| !it.failed && needs_the_store(it.kind)).collect();
        let gaps = good.windows(2).map(|pair| (pair[0].done, pair[1].done));
        let gap = gaps.filter(|(_, first)| *first > gone && *first < back).max_by_key(|(last, first)| *first - *last);
        let (last, first) = gap.unwrap_or((gone, gone));
        let mut waits: Vec<_> =
            good.iter().filter(|it| it.due <= first && it.done >= first).map(|it| it.took()).collect();
        waits.sort();
        let failed = samples.iter().filter(|it| it.failed && it.done >= gone).count();
        Self { last, first, waits, failed }
    }

    fn median(&self) -> Duration {
        self.waits.get(self.waits.len() / 2).copied().unwrap_or_default()
    }

    fn longest(&self) -> Duration {
        self.waits.last().copied().unwrap_or_default()
    }
}

/// What the sentinels say, as they say it.
struct Events {
    subscriptions: Vec<Child>,
    heard: Arc<Mutex<Vec<(Duration, String)>>>,
}

/// What is worth a line, about whom, and what it means.
const WORTH_A_LINE: [(&str, &str, &str); 6] = [
    // Sentinels report each other and replicas as well.
    ("+sdown", "master ", "does not see it any more"),
    ("+odown", "master ", "agrees with another that it is down"),
    ("+elected-leader", "master ", "leads the election"),
    ("+selected-slave", "slave ", "chose its successor"),
    ("+promoted-slave", "slave ", "made a replica the master"),
    ("+switch-master", "mymaster ", "follows the new master"),
];

impl Events {
    fn subscribe(cluster: &Running, watch: &Watch) -> Result<Self> {
        let heard = Arc::<Mutex<Vec<_>>>::default();
        let started = Instant::now() - watch.elapsed();
        let mut subscriptions = Vec::new();
        for sentinel in SENTINELS {
            let id = cluster.container(sentinel)?.id;
            // Nobody would stop it in the container when the round is over, so it stops by itself.
            let script = format!("exec timeout {} redis-cli -p \"$NODE_PORT\" psubscribe '*'", ROUND.as_secs());
            let mut listening = command("docker", &["exec", &id, "sh", "-c", &script]);
            listening.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = listening.spawn().context("cannot run docker")?;
            let stdout = child.stdout.take().expect("piped");
            let heard = Arc::clone(&heard);
            thread::spawn(move || listen(sentinel, BufReader::new(stdout), started, &heard));
            subscriptions.push(child);
        }
        Ok(Self { subscriptions, heard })
    }

    fn end(self) -> Vec<(Duration, String)> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        for child in &mut self.subscriptions {
            // Ended already, if its sentinel has.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A message is four lines: `pmessage`, the pattern, the event, what it is about.
fn listen(sentinel: &str, lines: impl BufRead, started: Instant, heard: &Mutex<Vec<(Duration, String)>>) {
    let mut event = None;
    for line in lines.lines().map_while(Result::ok) {
        match event.take() {
            Some((about, meaning)) if line.starts_with(about) => {
                let said = (started.elapsed(), format!("{sentinel} {meaning}"));
                heard.lock().unwrap_or_else(PoisonError::into_inner).push(said);
            }
            _ => {
                let known = WORTH_A_LINE.iter().find(|(name, ..)| *name == line);
                event = known.map(|(_, about, meaning)| (*about, *meaning));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(kind: &'static str, due: u64, done: u64, failed: bool) -> Sample {
        let [due, done] = [due, done].map(Duration::from_millis);
        Sample { kind, due, sent: due, done, failed }
    }

    #[test]
    fn the_gap_is_between_the_last_answer_of_one_master_and_the_first_of_the_next() {
        let samples = [
            sample("PUT attribute", 990, 1000, false),
            // Answered without the store, and not answered well: neither is an answer of a master.
            sample("GET without a session", 2000, 2001, false),
            sample("POST increment", 1500, 3000, true),
            sample("PUT attribute", 1400, 4000, false),
            sample("GET /", 1200, 4001, false),
            sample("GET /", 4001, 4002, false),
            sample("GET /", 9000, 9999, false),
        ];
        let gap = Gap::find(&samples, Duration::from_millis(1100), Duration::from_millis(4500));
        assert_eq!((gap.last.as_millis(), gap.first.as_millis(), gap.failed), (1000, 4000, 1));
        assert_eq!(gap.waits, [2600, 2801].map(Duration::from_millis));
        assert_eq!(gap.longest().as_millis(), 2801);
    }

    #[test]
    fn of_what_sentinels_say_the_election_is_kept() {
        let said = "psubscribe\n*\n1\n\
            pmessage\n*\n+sdown\nmaster mymaster redis-1 6380\n\
            pmessage\n*\n+sdown\nslave redis-2:6381 redis-2 6381 @ mymaster redis-1 6380\n\
            pmessage\n*\n+vote-for-leader\nabc 1\n\
            pmessage\n*\n+switch-master\nmymaster redis-1 6380 redis-2 6381\n";
        let heard = Mutex::default();
        listen("sentinel-1", said.as_bytes(), Instant::now(), &heard);
        let heard: Vec<_> = heard.into_inner().unwrap().into_iter().map(|(_, text)| text).collect();
        assert_eq!(heard, ["sentinel-1 does not see it any more", "sentinel-1 follows the new master"]);
    }
}
