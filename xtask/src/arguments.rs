//! What was asked for on the command line.

use anyhow::{Context, Result, bail};

pub(crate) const USAGE: &str = "\
cargo xtask <command>

  up        starts the cluster (nginx, two nodes, Redis with replicas and sentinels) and waits until it is healthy
  down      stops it and removes its volumes
  upgrade   a rolling upgrade of both nodes to a freshly built image, under load; fails if a single request does
              --take-out        the tutorial's way: out of nginx's upstream, reload, upgrade, back in, reload
              --skip-build      to the image that is there
  failover  takes the Redis master away under load, prints what happened when, and brings it back
              --pause           stops it as SIGSTOP does, and wakes it after the election, instead of killing it
              --partition       cuts it off from the network instead
  images    makes sure that every image the cluster needs exists: pulled, built, or a stand-in where no registry answers
              --compile-in-container   compiles the nodes by demo-app/Dockerfile even where stand-ins are used
  bench     measures the layer side by side with others, and writes docs/bench.md and docs/bench.svg; takes no cluster
              --quick           one short round, and no document
              --only A,B        these scenarios; the table keeps what is known of the others
              --apps A,B        these apps
  test      runs everything: format, lints, documentation, unit and end-to-end tests
  mutants   changes the code that decides, one small thing at a time, to see whether the tests notice; takes an hour

  --rounds N       how often `upgrade` and `failover` do it (1)
  --rate N         their load, in requests a second (300)
  --project NAME   the Compose project of the cluster (also COMPOSE_PROJECT_NAME), for a second one beside the first;
                   give it ports of its own by HTTP_PORT, APP1_PORT and APP2_PORT";

#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Up,
    Down,
    Upgrade {
        take_out: bool,
        skip_build: bool,
        under: Under,
    },
    Failover {
        by: Fault,
        under: Under,
    },
    Images {
        compile_in_container: bool,
    },
    /// With what is passed on to the benchmark as it is.
    Bench {
        options: Vec<String>,
    },
    Test,
    Mutants,
    Help,
}

/// The load that something happens under, and how often it does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Under {
    pub(crate) rounds: u32,
    pub(crate) rate: u32,
}

impl Default for Under {
    fn default() -> Self {
        Self { rounds: 1, rate: 300 }
    }
}

/// How the master is taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Fault {
    #[default]
    Kill,
    Pause,
    Partition,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Arguments {
    pub(crate) command: Command,
    pub(crate) project: Option<String>,
}

impl Arguments {
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut given = Given::default();
        let mut name = None;
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--project" | "-p" => given.project = Some(words.next().context("--project needs a name")?),
                "--rounds" => given.rounds = Some(number("--rounds", words.next())?),
                "--rate" => given.rate = Some(number("--rate", words.next())?),
                "--take-out" | "--skip-build" | "--pause" | "--partition" | "--compile-in-container" => {
                    given.switches.push(word);
                }
                "--help" | "-h" | "help" => return Ok(Self { command: Command::Help, project: None }),
                "bench" if name.is_none() => {
                    return Ok(Self { command: Command::Bench { options: words.collect() }, project: None });
                }
                _ if name.is_none() && !word.starts_with('-') => name = Some(word),
                _ => bail!("`{word}` is not understood\n\n{USAGE}"),
            }
        }
        let command = match name.as_deref() {
            Some("up") => Command::Up,
            Some("down") => Command::Down,
            Some("upgrade") => Command::Upgrade {
                take_out: given.take("--take-out"),
                skip_build: given.take("--skip-build"),
                under: given.under(),
            },
            Some("failover") => {
                let by = match (given.take("--pause"), given.take("--partition")) {
                    (false, false) => Fault::Kill,
                    (true, false) => Fault::Pause,
                    (false, true) => Fault::Partition,
                    (true, true) => bail!("--pause or --partition, not both"),
                };
                Command::Failover { by, under: given.under() }
            }
            Some("images") => Command::Images { compile_in_container: given.take("--compile-in-container") },
            Some("test") => Command::Test,
            Some("mutants") => Command::Mutants,
            Some(other) => bail!("there is no command `{other}`\n\n{USAGE}"),
            None => bail!("which command?\n\n{USAGE}"),
        };
        let project = given.project.take();
        match command {
            Command::Images { .. } if project.is_some() => {
                bail!("images belong to no project: --project is for the cluster")
            }
            Command::Test if project.is_some() => bail!("the tests choose their own projects"),
            Command::Mutants if project.is_some() => bail!("mutants need no cluster: --project is for those that do"),
            _ => {}
        }
        if let Some(left) = given.left() {
            bail!("{left} is not for `{}`\n\n{USAGE}", name.unwrap_or_default());
        }
        Ok(Self { command, project })
    }
}

/// The options as they come, before it is known whose they are.
#[derive(Default)]
struct Given {
    project: Option<String>,
    rounds: Option<u32>,
    rate: Option<u32>,
    switches: Vec<String>,
}

impl Given {
    fn take(&mut self, switch: &str) -> bool {
        let before = self.switches.len();
        self.switches.retain(|given| given != switch);
        self.switches.len() < before
    }

    fn under(&mut self) -> Under {
        let default = Under::default();
        Under { rounds: self.rounds.take().unwrap_or(default.rounds), rate: self.rate.take().unwrap_or(default.rate) }
    }

    /// An option that nobody wanted.
    fn left(&self) -> Option<&str> {
        let rounds = self.rounds.map(|_| "--rounds");
        self.switches.first().map(String::as_str).or(rounds).or(self.rate.map(|_| "--rate"))
    }
}

fn number(option: &str, word: Option<String>) -> Result<u32> {
    let word = word.with_context(|| format!("{option} needs a number"))?;
    match word.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => bail!("{option} needs a number from 1 on, and `{word}` is none"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, command: Command, project: Option<&str>) {
        let parsed = Arguments::parse(line.split_whitespace().map(String::from)).unwrap();
        assert_eq!(parsed, Arguments { command, project: project.map(String::from) });
    }

    #[track_caller]
    fn check_refused(line: &str, hint: &str) {
        let error = Arguments::parse(line.split_whitespace().map(String::from)).unwrap_err().to_string();
        assert!(error.contains(hint), "{error}");
    }

    #[test]
    fn commands_and_their_options_are_understood_in_any_order() {
        check("up", Command::Up, None);
        check("up --project other", Command::Up, Some("other"));
        check("-p other down", Command::Down, Some("other"));
        check("images --compile-in-container", Command::Images { compile_in_container: true }, None);
        check("mutants", Command::Mutants, None);
        check("test --help", Command::Help, None);
        let under = Under::default();
        check("upgrade", Command::Upgrade { take_out: false, skip_build: false, under }, None);
        let under = Under { rounds: 20, rate: 50 };
        check(
            "--take-out upgrade --rounds 20 --skip-build --rate 50 -p other",
            Command::Upgrade { take_out: true, skip_build: true, under },
            Some("other"),
        );
        let under = Under { rounds: 2, ..Under::default() };
        check("failover --rounds 2", Command::Failover { by: Fault::Kill, under }, None);
        check("failover --rounds 2 --pause", Command::Failover { by: Fault::Pause, under }, None);
        check("failover --partition --rounds 2", Command::Failover { by: Fault::Partition, under }, None);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        check_refused("", "which command");
        check_refused("upp", "`upp`");
        check_refused("up --fast", "`--fast`");
        check_refused("up down", "`down`");
        check_refused("up --project", "needs a name");
        check_refused("test --project x", "own projects");
        check_refused("mutants --project x", "no cluster");
        check_refused("up --compile-in-container", "not for `up`");
        check_refused("failover --take-out", "not for `failover`");
        check_refused("upgrade --pause", "not for `upgrade`");
        check_refused("failover --pause --partition", "not both");
        check_refused("down --rounds 3", "not for `down`");
        check_refused("upgrade --rounds", "needs a number");
        check_refused("upgrade --rate 0", "`0` is none");
    }
}
