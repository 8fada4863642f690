//! `cargo xtask mutants`: whether the tests notice each small change to the code that decides.
//!
//! cargo-mutants makes the changes, one at a time. A mutant that survives is a gap in the tests, and fails the command. One that is
//! the same program in other words would have to be named in `.cargo/mutants.toml` with its reason; there is none.

use anyhow::Result;

use crate::prerequisites;
use crate::shell::{cargo, run, target_folder};

/// Pure code that decides what becomes of a session, and whose it is, and the tests beside it. Those need no Redis, whose client takes
/// the longest to build, and none takes a second.
const MUTATED: [(&str, &str); 5] = [
    ("commit.rs", "commit::"),
    ("delta.rs", "delta::"),
    ("signature.rs", "signature::"),
    ("id.rs", "id::"),
    ("transport/cookie.rs", "transport::"),
];

/// All of them.
pub(crate) fn mutants() -> Result<()> {
    mutate(&MUTATED)
}

/// Those of one file, for `cargo xtask test`: the smallest, and the one where a slip would let anybody in.
pub(crate) fn short_round() -> Result<()> {
    let signature: Vec<_> = MUTATED.into_iter().filter(|(file, _)| *file == "signature.rs").collect();
    mutate(&signature)
}

fn mutate(mutated: &[(&str, &str)]) -> Result<()> {
    prerequisites::cargo_mutants()?;
    let mut mutants = cargo(&["mutants", "--package=session-layer", "--no-default-features", "--features=axum"]);
    // A test that hangs is one that noticed; one that waits for a busy machine is not.
    mutants.arg("--minimum-test-timeout=120").arg("--output").arg(target_folder()?);
    mutants.args(mutated.iter().map(|(file, _)| format!("--file=session-layer/src/{file}")));
    mutants.args(["--", "--lib", "--"]).args(mutated.iter().map(|(_, tests)| tests));
    // Nobody debugs a mutant, and there is less to write.
    mutants.env("CARGO_PROFILE_DEV_DEBUG", "false");
    run(mutants)
}
