//! Stores and sessions against models that are plain maps.

use proptest::test_runner::{Config, RngSeed};

mod store; // what any store answers

mod session; // what a handler sees, whatever the store

mod memory; // and that it is so with those here

/// The same cases each time, unless `PROPTEST_RNG_SEED` asks for others.
fn config(cases: u32) -> Config {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    match config.rng_seed {
        RngSeed::Random => Config { rng_seed: RngSeed::Fixed(1), ..config },
        RngSeed::Fixed(_) => config,
    }
}
