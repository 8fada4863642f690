//! Keeps a session alive while a request that has loaded it is still running.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::Slot;
use crate::commit::Seen;

/// A request that takes long prolongs its session each time that this part of the idle timeout has passed, so that three such attempts
/// may fail before the session ends.
const ATTEMPTS: u32 = 4;

/// When a running request prolongs its session next. Costs nothing before the request has waited for something with its session loaded;
/// most requests answer at once after that.
#[derive(Default)]
pub(crate) struct Running {
    // Boxed: every request is moved around with this.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Running {
    /// The handler has not answered yet; `context` is woken when the session is to be prolonged.
    pub(crate) fn poll(&mut self, slot: &Arc<Slot>, context: &mut Context<'_>) {
        if self.timer.is_none() {
            let Some(left) = slot.time_left() else { return };
            // From the request's arrival on, as if all that the store said then were as old.
            self.timer = Some(Box::pin(sleep_until(slot.arrived + left / ATTEMPTS)));
        }
        while let Some(timer) = &mut self.timer
            && timer.as_mut().poll(context) == Poll::Ready(())
        {
            match slot.prolong() {
                // Timers count milliseconds; less would be at once.
                Some(idle_timeout) => {
                    let pause = (idle_timeout / ATTEMPTS).max(Duration::from_millis(1));
                    timer.as_mut().reset(Instant::now() + pause);
                }
                None => self.timer = None,
            }
        }
    }
}

impl Slot {
    /// How long the session had left when it was loaded or changed last, if this request knows it alive.
    fn time_left(&self) -> Option<Duration> {
        // Asked first: a request that never looked at its session stays untouched.
        self.state.get()?;
        self.with_state(|state| match (state.seen, &state.record) {
            (Seen::Alive(_), Some(record)) => Some(record.ttl),
            _ => None,
        })
    }

    /// Prolongs a session that has just been loaded again, if that is worth a command.
    pub(crate) fn touch_reloaded(self: &Arc<Self>) {
        let to_touch = self.with_state(|state| match (state.seen, &state.record) {
            (Seen::Alive(id), Some(record)) => self.config.wants_touch(record, Duration::ZERO).then_some(id),
            _ => None,
        });
        if let Some(id) = to_touch {
            self.touch(id);
        }
    }

    /// Prolongs the session, without waiting for it, and tells its idle timeout; `None` when the request has none that is alive.
    fn prolong(self: &Arc<Self>) -> Option<Duration> {
        let Seen::Alive(id) = self.with_state(|state| state.seen) else { return None };
        self.touch(id);
        Some(self.config.lifetimes.idle_timeout)
    }
}
