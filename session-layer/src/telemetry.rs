//! What the layer says about itself: every event's name and fields stand here. No event carries an ID, a value or a principal.
//!
//! Filter with `RUST_LOG=session_layer=debug`.

use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::commit::Action;
use crate::error::SessionError;
use crate::id::SessionId;
use crate::store::StoreError;

pub(crate) fn applied(action: &Action) {
    match action {
        Action::Create(id, _) => tracing::debug!(session.hash = %id.fingerprint(), "session created"),
        Action::Renew(old, new, _) => {
            tracing::debug!(
                session.hash = %new.fingerprint(),
                session.previous = %old.fingerprint(),
                "session ID renewed"
            );
        }
        Action::Destroy(id) => tracing::debug!(session.hash = %id.fingerprint(), "session destroyed"),
        Action::Apply(_) => {}
    }
}

pub(crate) fn corrupt(id: &SessionId, error: &StoreError) {
    tracing::warn!(session.hash = %id.fingerprint(), error = cause(error), "the stored value is not a session; its browser starts a new one");
}

pub(crate) fn rolled_back(id: &SessionId) {
    tracing::warn!(
        session.hash = %id.fingerprint(),
        "a change that was acknowledged is gone from the store, in a failover probably; the session goes on without it"
    );
}

pub(crate) fn not_committed(error: &SessionError) {
    const MESSAGE: &str = "the response is replaced: its session could not be committed";
    // With the store in trouble every request fails for the same reason, which `StoreReports` has told at WARN.
    if error.is_unavailable() {
        tracing::debug!(%error, "{MESSAGE}");
    } else {
        tracing::warn!(%error, "{MESSAGE}");
    }
}

/// Reports a store in trouble: each kind of trouble at most once in ten seconds, however many requests meet it.
#[derive(Default)]
pub(crate) struct StoreReports {
    gave_up: Throttle,
    refused: Throttle,
}

impl StoreReports {
    pub(crate) fn gave_up(&self, error: Option<&StoreError>, waited: Duration) {
        if let Some(unreported) = self.gave_up.pass() {
            let waited_ms = waited.as_millis();
            tracing::warn!(
                error = error.and_then(cause),
                waited_ms,
                unreported,
                "the session store did not answer in time"
            );
        }
    }

    pub(crate) fn refused(&self, error: &StoreError) {
        if let Some(unreported) = self.refused.pass() {
            tracing::warn!(error = cause(error), unreported, "the session store refused");
        }
    }
}

/// The store's own words.
fn cause(error: &StoreError) -> Option<String> {
    std::error::Error::source(error).map(ToString::to_string)
}

/// Lets one message through per interval and counts those that it holds back.
#[derive(Default)]
pub(crate) struct Throttle(Mutex<Throttled>);

#[derive(Default)]
struct Throttled {
    last: Option<Instant>,
    held_back: u64,
}

impl Throttle {
    const INTERVAL: Duration = Duration::from_secs(10);

    /// Returns how many messages were held back since the last one, if this one may pass.
    pub(crate) fn pass(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| last.elapsed() < Self::INTERVAL) {
            state.held_back += 1;
            return None;
        }
        state.last = Some(Instant::now());
        Some(std::mem::take(&mut state.held_back))
    }
}

pub(crate) fn touch_failed(error: &StoreError) {
    tracing::debug!(%error, "a session was not prolonged; its next request tries again");
}

pub(crate) fn layers_share_a_cookie(error: &SessionError) {
    tracing::error!(%error, "the request is refused");
}

pub(crate) fn several_cookies(name: &str) {
    tracing::debug!(
        cookie = name,
        "a browser sent several session cookies; `former_cookies` removes those of former settings"
    );
}

/// Warns once per process: a program with several layers has one mode.
pub(crate) fn development_cookie(name: &str) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::warn!(
            cookie = name,
            "development mode: session cookies also travel over plain HTTP, where anybody on the way reads them"
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_throttle_passes_one_message_per_interval_and_counts_the_rest() {
        let throttle = Throttle::default();
        let mut passed = Vec::new();
        for _ in 0..250 {
            passed.extend(throttle.pass());
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(passed, [0, 99, 99]);
    }
}
