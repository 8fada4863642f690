//! Waiting for a state.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How often a probe is tried. Short, since what tests measure is as exact as this.
const INTERVAL: Duration = Duration::from_millis(50);

/// Tries `probe` until it succeeds, and returns what it found.
///
/// # Panics
///
/// When it still fails after `deadline`; the message says what was waited for and why it was not there.
pub async fn eventually<T>(what: &str, deadline: Duration, mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match probe().await {
            Ok(found) => return found,
            Err(why) if started.elapsed() >= deadline => panic!("not within {deadline:?}: {what}; instead: {why}"),
            Err(_) => sleep(INTERVAL).await,
        }
    }
}

/// For probes: `Ok` if the condition holds, else the reason.
///
/// # Errors
///
/// The reason, if it does not hold.
pub fn ensure(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(otherwise()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_probe_is_tried_until_it_succeeds() {
        let mut tries = 0;
        let found = eventually("the third try", Duration::from_secs(5), async || {
            tries += 1;
            ensure(tries == 3, || format!("try {tries}")).map(|()| tries)
        });
        assert_eq!(found.await, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "not within 1ms: a miracle; instead: none seen")]
    async fn a_probe_that_never_succeeds_panics_with_its_reason() {
        eventually("a miracle", Duration::from_millis(1), async || Err::<(), _>("none seen".to_owned())).await;
    }
}
