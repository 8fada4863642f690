//! What the layer says about itself: every event's name and fields stand here. No event carries an ID, a value or a principal.
//!
//! Filter with `RUST_LOG=session_layer=debug`.

use std::time::Duration;

use crate::error::SessionError;
use crate::id::SessionId;
use crate::store::StoreError;

pub(crate) fn created(id: &SessionId) {
    tracing::debug!(session.hash = %id.fingerprint(), "session created");
}

pub(crate) fn renewed(old: &SessionId, new: &SessionId) {
    tracing::debug!(session.hash = %new.fingerprint(), session.previous = %old.fingerprint(), "session ID renewed");
}

pub(crate) fn destroyed(id: &SessionId) {
    tracing::debug!(session.hash = %id.fingerprint(), "session destroyed");
}

pub(crate) fn corrupt(id: &SessionId, error: &StoreError) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(session.hash = %id.fingerprint(), error = cause, "what is stored is no session; its browser starts a new one");
}

pub(crate) fn rolled_back(id: &SessionId) {
    tracing::warn!(
        session.hash = %id.fingerprint(),
        "a change that was acknowledged is gone from the store, in a failover probably; the session goes on without it"
    );
}

pub(crate) fn not_committed(error: &SessionError) {
    tracing::warn!(%error, "the response is replaced: its session could not be committed");
}

pub(crate) fn store_gave_up(error: Option<&StoreError>, waited: Duration) {
    let cause = error.and_then(std::error::Error::source).map(ToString::to_string);
    tracing::warn!(error = cause, waited_ms = waited.as_millis(), "the session store did not answer in time");
}

pub(crate) fn touch_failed(error: &StoreError) {
    tracing::debug!(%error, "a session was not prolonged; its next request tries again");
}

pub(crate) fn development_cookie(name: &str) {
    tracing::warn!(cookie = name, "development mode: the session cookie also travels over plain HTTP");
}
