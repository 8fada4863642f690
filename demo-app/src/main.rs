//! The demonstration of `session-layer`: a page that shows which server answered and which session it found, so that one can
//! watch a session stay while the servers change.
//!
//! The modules follow a request: settings, then the embedded cluster's front, the server that accepts connections, the layers
//! around a node's routes, the routes, and what they use.

mod config; // the environment; out: checked settings

mod embedded; // `cargo run`: two nodes and a round-robin front in one process

mod sticky; // the front's one exception from taking turns, to be compared with

mod server; // where it listens, and when it ends

mod drain; // connections in, requests out, and an end that nobody notices

mod node; // one node: its state, its routes, and the layers around them in their order

mod compare; // other ways to share sessions, to be compared with

mod headers; // headers that every response carries

mod cluster; // what the dashboard shows

mod metrics; // counts every response

mod unread; // reads on when a request is answered before its end

mod problem; // errors as a page or as JSON

mod origin; // unsafe methods only from this site

mod visit; // requests that only look

mod routes; // the pages and the API

mod accounts; // who may log in

mod device; // what a login tells of where it came from

mod healthcheck; // `demo-app healthcheck`, for Docker

#[cfg(test)]
mod tests;

use std::io::IsTerminal;
use std::process::ExitCode;

use config::{Cluster, Config, LogFormat, process_environment};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => start(),
        ["healthcheck"] => run(async { Ok(healthcheck::run(config::listen(&process_environment)?).await?) }),
        ["help" | "--help" | "-h"] => {
            print!("{}", help());
            Ok(())
        }
        _ => {
            eprint!("demo-app: cannot make sense of {:?}\n\n{}", arguments.join(" "), help());
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo-app: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What ends the program: a sentence for whoever started it.
type Fatal = Box<dyn std::error::Error>;

fn start() -> Result<(), Fatal> {
    log_to_stdout()?;
    let config = Config::read(&process_environment)?;
    run(async move {
        match config.cluster {
            Cluster::Embedded => embedded::run(config.listen, &config.sessions).await,
            Cluster::Node { name, store, peers } => {
                node::run(config.listen, name, store, peers, &config.sessions).await
            }
        }
    })
}

fn run(work: impl Future<Output = Result<(), Fatal>>) -> Result<(), Fatal> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

fn log_to_stdout() -> Result<(), Fatal> {
    let filter = match process_environment("RUST_LOG").filter(|directives| !directives.is_empty()) {
        None => EnvFilter::new(config::DEFAULT_LOG),
        Some(directives) => {
            EnvFilter::try_new(directives).map_err(|error| config::ConfigError::new("RUST_LOG", error))?
        }
    };
    let colours = std::io::stdout().is_terminal() && process_environment("NO_COLOR").is_none_or(|set| set.is_empty());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    match config::log_format(&process_environment)? {
        LogFormat::Text => lines.with_target(false).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

fn help() -> String {
    let mut text = String::from(
        "demo-app              the embedded cluster: two nodes behind http://127.0.0.1:8080; with REDIS_URL one node\n\
         demo-app healthcheck  asks the node on this machine whether it is ready; exit code 0 or 1\n\
         demo-app help         this text\n\nSettings, from the environment:\n",
    );
    for setting in config::SETTINGS {
        text.push_str(&format!("\n  {} (default: {})\n      {}\n", setting.name, setting.default, setting.meaning));
    }
    text
}
