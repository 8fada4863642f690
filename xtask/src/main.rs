//! The project's commands, those that need more than one plain command: `cargo xtask up`, `down`, `upgrade`, `failover`,
//! `images`, `bench`, `test`, `mutants`.

mod arguments;
mod bench;
mod compose;
mod docker;
mod down;
mod failover;
mod images;
mod live;
mod mutants;
mod ports;
mod prerequisites;
mod running;
mod settings;
mod shell;
mod stand_ins;
mod test;
#[cfg(test)]
mod tidy;
mod up;
mod upgrade;

use std::process::ExitCode;

use arguments::{Arguments, Command, USAGE};

fn main() -> ExitCode {
    let outcome = match Arguments::parse(std::env::args().skip(1)) {
        Ok(Arguments { command: Command::Help, .. }) => {
            println!("{USAGE}");
            Ok(())
        }
        Ok(Arguments { command, project }) => match command {
            Command::Up => up::up(project),
            Command::Down => down::down(project),
            Command::Upgrade { take_out, skip_build, under } => upgrade::upgrade(project, take_out, skip_build, under),
            Command::Failover { by, under } => failover::failover(project, by, under),
            Command::Images { compile_in_container } => images::images(compile_in_container),
            Command::Bench { options } => bench::bench(&options),
            Command::Test => test::test(),
            Command::Mutants => mutants::mutants(),
            Command::Help => unreachable!("answered above"),
        },
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
