//! RedisStore against the model that the store in memory is held against.

use std::time::Duration;

use cluster_tests::redis::Machine;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use session_layer::SessionId;
use session_layer::store::{RedisStore, SessionStore};
use tokio::runtime::Runtime;

// The library's own test has it; a copy would drift.
#[allow(unreachable_pub)]
#[path = "../../../../session-layer/tests/it/model/store/mod.rs"]
mod expected;

#[test]
fn redis_answers_as_the_model() {
    let runtime = Runtime::new().expect("a runtime starts");
    let server = runtime.block_on(Machine::with_redis(&[]));
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() });
    // Time is real here, so that no step waits for a session to expire.
    let outcome = runner.run(&expected::steps(false), |steps| {
        runtime.block_on(async {
            // The model knows of nobody else's sessions.
            let store = RedisStore::builder(&server.url()).key_prefix(SessionId::random().encode()).build();
            let store = store.expect("the URL is good");
            store.available().await;
            expected::check(&store, steps, async |_: Duration| unreachable!("no time passes")).await;
        });
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    runtime.block_on(async move { drop(server) });
}
