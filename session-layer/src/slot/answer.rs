//! What the answer waits for.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::response::Parts;
use tracing::Instrument;

use super::Slot;
use crate::budget::OnDrop;
use crate::commit::{Seen, Step, plan};
use crate::delta::Delta;
use crate::error::SessionError;
use crate::id::SessionId;
use crate::state::{CookieChange, State};
use crate::store::{BoxFuture, Touch};
use crate::telemetry;

impl Slot {
    /// The handler has answered: no more changes, and what there is to commit, is to be committed by what this returns. `None`: nothing
    /// to wait for.
    pub(crate) fn conclude(self: &Arc<Self>, head: &Parts) -> Option<BoxFuture<'static, Result<(), SessionError>>> {
        // Before the lock is taken: it is foreign code, and may look at a session that the handler put into the response's extensions.
        let wanted = (self.config.commit_when)(head);
        // What is above 5xx is invalid, and to be treated like it (RFC 9110, section 15).
        let succeeded = head.status.as_u16() < 400;
        let to_touch = self.with_state(|state| {
            state.sealed = true;
            if !wanted {
                state.delta = Delta::default();
            }
            // A task of the handler may be flushing or updating still; then its outcome belongs to this answer.
            let settled = state.in_flight.is_empty() && state.updates == 0;
            if state.delta.is_empty() && settled && (state.failed.is_none() || (!succeeded && !state.refused)) {
                if plan(&state.seen, &state.delta) == Step::Forget {
                    state.cookie = CookieChange::Forget;
                }
                return Some(self.to_touch(state));
            }
            state.concluding = true;
            None
        });
        if let Some(to_touch) = to_touch {
            if let Some(id) = to_touch {
                self.touch(id);
            }
            return None;
        }
        let slot = Arc::clone(self);
        Some(Box::pin(async move { slot.last_commit(wanted, succeeded).await }.in_current_span()))
    }

    async fn last_commit(&self, wanted: bool, succeeded: bool) -> Result<(), SessionError> {
        let _events = self.send_events_at_the_end();
        let _order = self.order_after_updates().await;
        let _concluded = OnDrop(|| self.with_state(|state| state.concluding = false));
        // Taken in any case: nothing is left that a late `update` could take along.
        let (delta, failed, refused) =
            self.with_state(|state| (std::mem::take(&mut state.delta), state.failed.clone(), state.refused));
        // A handler that answers 4xx or 5xx has told its client about the flush that failed; any other answer would claim that it took
        // effect.
        if let Some(error) = failed.filter(|_| succeeded || refused) {
            return Err(error);
        }
        if !wanted {
            // An `update` that failed after the handler had answered gave back what it was to take along.
            return Ok(());
        }
        self.apply(&delta, &BTreeMap::new(), &self.budget).await.map(|_| ())
    }

    /// Returns the session if it was only read and is to be prolonged.
    fn to_touch(&self, state: &mut State) -> Option<SessionId> {
        let (Seen::Alive(id), Some(record)) = (state.seen, &state.record) else { return None };
        // What the request took is used up as well.
        self.config.wants_touch(record, self.arrived.elapsed()).then_some(id)
    }

    /// Prolongs a session without waiting for it.
    pub(super) fn touch(self: &Arc<Self>, id: SessionId) {
        let touch = Touch::new(id, Arc::clone(&self.config.realm), self.config.lifetimes);
        let slot = Arc::clone(self);
        tokio::spawn(async move {
            let touched = tokio::time::timeout(slot.config.budget, slot.config.store.touch(&touch)).await;
            if let Ok(Err(error)) = touched {
                telemetry::touch_failed(&error);
            }
        });
    }
}
