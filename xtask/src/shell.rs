//! Running other programs: with their output passed on, read, or kept back until it is needed.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a member of the workspace").to_owned()
}

/// A command that runs in the workspace's root.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    command
}

/// The Cargo that runs us.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    command(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()), arguments)
}

/// Where Cargo builds, and where what we write down goes.
pub(crate) fn target_folder() -> Result<PathBuf> {
    let metadata = read(cargo(&["metadata", "--no-deps", "--format-version=1", "--offline"]))?;
    let rest = metadata.split_once("\"target_directory\":\"").context("`cargo metadata` names no target directory")?.1;
    Ok(rest.split('"').next().expect("a split has a first part").into())
}

fn shown(command: &Command) -> String {
    let program = PathBuf::from(command.get_program());
    let program = program.file_name().unwrap_or(command.get_program()).to_string_lossy().into_owned();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// Runs a command whose output goes where ours goes.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run `{}`", shown(&command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(&command));
    }
    Ok(())
}

/// Runs a command and returns what it wrote, without the last newline; what it complained about is the error.
pub(crate) fn read(mut command: Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run `{}`", shown(&command)))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", shown(&command), output.status, complaint.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// Whether a command succeeds, whatever it writes.
pub(crate) fn succeeds(mut command: Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// How long a command that reports progress may keep us waiting.
pub(crate) struct Patience {
    pub(crate) first_line: Duration,
    pub(crate) whole: Duration,
}

impl Patience {
    pub(crate) const fn minutes(minutes: u64) -> Self {
        let whole = Duration::from_secs(minutes * 60);
        Self { first_line: whole, whole }
    }
}

/// Runs a talkative command: every few seconds a line says how far it is; all it said is shown only when it fails.
pub(crate) fn run_quietly(title: &str, mut command: Command, patience: Patience) -> Result<()> {
    const NEWS_EVERY: Duration = Duration::from_secs(5);
    const LINES_KEPT: usize = 40;

    println!("{title} …");
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{}`", shown(&command)))?;
    let (sender, lines) = mpsc::channel();
    let streams: [Box<dyn Read + Send>; 2] =
        [Box::new(child.stdout.take().expect("piped")), Box::new(child.stderr.take().expect("piped"))];
    for stream in streams {
        let sender = sender.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if !line.is_empty() && sender.send(line).is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);

    let mut kept = VecDeque::new();
    let mut next_news = started + NEWS_EVERY;
    let gave_up = loop {
        let limit = if kept.is_empty() { patience.first_line } else { patience.whole };
        let Some(left) = limit.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) else {
            break true;
        };
        match lines.recv_timeout(left.min(next_news.saturating_duration_since(Instant::now()))) {
            Ok(line) => {
                if kept.len() == LINES_KEPT {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break false,
        }
        if Instant::now() >= next_news {
            println!("  {:>3} s  {}", started.elapsed().as_secs(), kept.back().map_or("", String::as_str));
            next_news = Instant::now() + NEWS_EVERY;
        }
    };
    if gave_up {
        // Fails only if it has ended meanwhile.
        let _ = child.kill();
    }
    let status = child.wait()?;
    if gave_up {
        bail!("`{}` has not answered for {} s", shown(&command), started.elapsed().as_secs());
    }
    if !status.success() {
        let said = kept.into_iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n");
        bail!("`{}` failed ({status}):\n{said}", shown(&command));
    }
    println!("  done in {} s", started.elapsed().as_secs());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        command("sh", &["-c", script])
    }

    #[test]
    fn what_a_failing_command_said_last_is_in_the_error() {
        let error = run_quietly("test", sh("seq 100; echo the reason >&2; exit 3"), Patience::minutes(1)).unwrap_err();
        assert!(error.to_string().contains("the reason") && !error.to_string().contains("\n  1\n"), "{error}");
    }

    #[test]
    fn a_command_that_does_not_say_a_word_in_time_is_ended() {
        let started = Instant::now();
        let patience = Patience { first_line: Duration::from_millis(200), whole: Duration::from_secs(60) };
        let error = run_quietly("test", sh("exec sleep 30"), patience).unwrap_err();
        assert!(error.to_string().contains("has not answered"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_command_that_spoke_in_time_may_take_longer() {
        let patience = Patience { first_line: Duration::from_secs(3), whole: Duration::from_secs(60) };
        run_quietly("test", sh("echo hello; sleep 3.2"), patience).unwrap();
    }

    #[test]
    fn what_a_command_wrote_is_read_without_its_last_newline() {
        assert_eq!(read(sh("echo one; echo two")).unwrap(), "one\ntwo");
        assert!(read(sh("echo no >&2; false")).unwrap_err().to_string().contains(": no"));
    }
}
