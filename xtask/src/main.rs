//! The project's commands, those that need more than one plain command: `cargo xtask up`, `down`, `images`, `test`.

mod arguments;
mod compose;
mod docker;
mod down;
mod images;
mod ports;
mod prerequisites;
mod settings;
mod shell;
mod stand_ins;
mod test;
#[cfg(test)]
mod tidy;
mod up;

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
            Command::Images { compile_in_container } => images::images(compile_in_container),
            Command::Test => test::test(),
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
