//! What was asked for on the command line.

use anyhow::{Result, bail};

pub(crate) const USAGE: &str = "\
cargo xtask <command>

  up       starts the cluster (nginx, two nodes, Redis with replicas and sentinels) and waits until it is healthy
  down     stops it and removes its volumes
  images   makes sure that every image the cluster needs exists: pulled, built, or a stand-in where no registry answers
             --compile-in-container   compiles the nodes by demo-app/Dockerfile even where stand-ins are used
  test     runs everything: format, lints, documentation, unit and end-to-end tests

  --project NAME   the Compose project of `up` and `down` (also COMPOSE_PROJECT_NAME), for a second cluster beside the first;
                   give it ports of its own by HTTP_PORT, APP1_PORT and APP2_PORT";

#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Up,
    Down,
    Images { compile_in_container: bool },
    Test,
    Help,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Arguments {
    pub(crate) command: Command,
    pub(crate) project: Option<String>,
}

impl Arguments {
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut command = None;
        let mut project = None;
        let mut compile_in_container = false;
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--project" | "-p" => match words.next() {
                    Some(name) => project = Some(name),
                    None => bail!("--project needs a name"),
                },
                "--compile-in-container" => compile_in_container = true,
                "--help" | "-h" | "help" => return Ok(Self { command: Command::Help, project: None }),
                _ if command.is_none() && !word.starts_with('-') => command = Some(word),
                _ => bail!("`{word}` is not understood\n\n{USAGE}"),
            }
        }
        let command = match command.as_deref() {
            Some("up") => Command::Up,
            Some("down") => Command::Down,
            Some("images") => Command::Images { compile_in_container },
            Some("test") => Command::Test,
            Some(other) => bail!("there is no command `{other}`\n\n{USAGE}"),
            None => bail!("which command?\n\n{USAGE}"),
        };
        match command {
            Command::Images { .. } if project.is_some() => {
                bail!("images belong to no project: --project is for `up` and `down`")
            }
            Command::Test if project.is_some() => bail!("the tests choose their own projects"),
            Command::Up | Command::Down | Command::Test if compile_in_container => {
                bail!("--compile-in-container is for `images`")
            }
            _ => Ok(Self { command, project }),
        }
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
        check("test --help", Command::Help, None);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        check_refused("", "which command");
        check_refused("upp", "`upp`");
        check_refused("up --fast", "`--fast`");
        check_refused("up down", "`down`");
        check_refused("up --project", "needs a name");
        check_refused("test --project x", "own projects");
        check_refused("up --compile-in-container", "for `images`");
    }
}
