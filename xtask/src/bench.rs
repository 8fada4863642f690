//! `cargo xtask bench`: the layer side by side with others. What is measured, and how, is in `bench/`, a workspace of its own, so
//! that the others stay out of this one's lock file.

use anyhow::Result;

use crate::prerequisites;
use crate::shell::{cargo, run};

const MANIFEST: &str = "--manifest-path=bench/Cargo.toml";

pub(crate) fn bench(options: &[String]) -> Result<()> {
    prerequisites::redis_server()?;
    prerequisites::valgrind()?;
    let mut bench = cargo(&["run", "--release", "--locked", MANIFEST, "--", "run"]);
    bench.args(options);
    run(bench)
}

/// The benchmark still fits the library. Without the others, which take minutes to compile.
pub(crate) fn check() -> Result<()> {
    run(cargo(&["test", "--locked", MANIFEST, "--no-default-features"]))
}
