//! Stores that are here already against the model of a store, and sessions in one of them against the model of a session.

use proptest::prelude::*;
use session_layer::store::{MemoryStore, SessionStore};

use super::store::{Step, check, steps};
use super::{config, session};
use crate::broken::{BrokenStore, Defect};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

fn run(store: &impl SessionStore, steps: Vec<Step>) {
    runtime().block_on(check(store, steps, tokio::time::advance));
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn a_store_in_memory_answers_as_the_model(steps in steps(true)) {
        run(&MemoryStore::new(), steps);
    }
}

proptest! {
    #![proptest_config(config(512))]

    #[test]
    fn a_session_is_as_a_plain_map_to_its_handlers(scripts in session::scripts()) {
        let store = MemoryStore::new();
        runtime().block_on(session::check(store.clone(), async || store.len(), scripts));
    }
}

/// Which defects one step after the other shows, without time passing.
const SHOWN: [Defect; 10] = [
    Defect::ForgetsARemoval,
    Defect::AppliesBeforeAllChecksPassed,
    Defect::IgnoresConditions,
    Defect::IgnoresTheCommitId,
    Defect::KeepsTheOldIdAlive,
    Defect::TouchRevivesATombstone,
    Defect::WritesIntoADestroyedSession,
    Defect::MissesASessionInTheIndex,
    Defect::KeepsADeadSessionInTheIndex,
    Defect::AppliesAfterTheDeadline,
];

#[test]
fn the_model_finds_what_one_step_after_the_other_shows() {
    let fails = |defect: Option<Defect>| {
        // Failures are expected here, and need not be small.
        let config = ProptestConfig { max_shrink_iters: 0, ..config(400) };
        let mut runner = proptest::test_runner::TestRunner::new(config);
        runner.run(&steps(false), |steps| {
            let store = BrokenStore::new(defect);
            std::panic::catch_unwind(|| run(&store, steps)).map_err(|_| TestCaseError::fail("as expected"))
        })
    };
    assert!(fails(None).is_ok(), "a store without a defect is as the model");
    for defect in SHOWN {
        assert!(fails(Some(defect)).is_err(), "{defect:?} is not found");
    }
}
