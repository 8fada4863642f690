//! RedisStore against the models that the store in memory is held against: what a store answers, and what a handler sees of its
//! session.

use std::time::Duration;

use cluster_tests::redis::Machine;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use session_layer::SessionId;
use session_layer::store::{RedisStore, SessionStore};
use tokio::runtime::Runtime;

// The library's own tests have them; copies would drift.
#[allow(unreachable_pub)]
#[path = "../../../../session-layer/tests/it/model/store/mod.rs"]
mod expected;

#[allow(unreachable_pub)]
#[path = "../../../../session-layer/tests/it/model/session.rs"]
mod session;

/// Tries 200 cases, each on a store of its own: the models know of nobody else's sessions. The prefix of its keys comes along.
fn run<T: std::fmt::Debug>(cases: impl Strategy<Value = T>, check: impl AsyncFn(&Machine, RedisStore, String, T)) {
    let runtime = Runtime::new().expect("a runtime starts");
    let server = runtime.block_on(Machine::with_redis(&[]));
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() });
    let outcome = runner.run(&cases, |case| {
        runtime.block_on(async {
            let prefix = format!("session:{}", SessionId::random().encode());
            let store = RedisStore::builder(&server.url()).key_prefix(&prefix).build().expect("the URL is good");
            store.available().await;
            check(&server, store, prefix, case).await;
        });
        Ok(())
    });
    // A container goes by a call to Docker, which needs the runtime, whatever the outcome.
    runtime.block_on(async move { drop(server) });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn redis_answers_as_the_model() {
    // Time is real here, so that no step waits for a session to expire.
    run(expected::steps(false), async |_, store, _, steps| {
        expected::check(&store, steps, async |_: Duration| unreachable!("no time passes")).await;
    });
}

/// A key that has the field of a creation is a session; tombstones, lists and recorded replies have none.
const ALIVE: &str = "local alive = 0
    for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do
        if redis.pcall('HEXISTS', key, '@c') == 1 then alive = alive + 1 end
    end
    return alive";

#[test]
fn a_session_in_redis_is_as_a_plain_map_to_its_handlers() {
    run(session::scripts(), async |server, store, prefix, scripts| {
        let alive = async || {
            let answer = server.admin().await.command(&["EVAL", ALIVE, "0", &prefix]).await;
            let number = answer.trim().strip_prefix(':').and_then(|number| number.parse().ok());
            number.unwrap_or_else(|| panic!("{answer}"))
        };
        session::check(store, alive, scripts).await;
    });
}
