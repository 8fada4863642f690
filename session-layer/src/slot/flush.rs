//! Changes that do not wait for the answer: flushes, and compare-and-set.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::{Applied, Attempt, Slot};
use crate::budget::{Budget, OnDrop};
use crate::delta::Delta;
use crate::error::{Kind, SessionError};
use crate::state::Update;

impl Slot {
    /// Commits the attribute changes so far.
    pub(crate) async fn flush(&self) -> Result<Applied, SessionError> {
        self.presented();
        let _events = self.send_events_at_the_end();
        let _order = self.flushing.lock().await;
        let taken = self.with_state(|state| {
            if state.sealed {
                return Err(SessionError::new(Kind::TooLate));
            }
            let nothing = state.waits_for_the_answer() || !state.delta.changes_attributes();
            Ok((!nothing).then(|| state.take_attribute_changes()))
        })?;
        let Some(delta) = taken else { return Ok(Applied::default()) };
        match self.write(&delta, &BTreeMap::new(), &self.budget).await? {
            Attempt::Applied(applied) => {
                if !applied.counters.is_empty() {
                    self.with_state(|state| state.read = true);
                }
                Ok(applied)
            }
            Attempt::Lost(_) => unreachable!("no condition was set"),
        }
    }

    /// Compare-and-set: `change` turns the attribute's current bytes into the next ones, again and again until nobody was
    /// faster. It is code of the app and may use the session, so that no lock is held while it runs.
    pub(crate) async fn update<T>(
        &self,
        name: &str,
        mut change: impl FnMut(Option<Bytes>) -> Result<(Option<Bytes>, T), SessionError>,
    ) -> Result<T, SessionError> {
        let _events = self.send_events_at_the_end();
        let mut order = self.turn().await;
        let _counted = self.count_update();
        let late = self.late_budget();
        let budget = late.as_ref().unwrap_or(&self.budget);
        let mut paused = Duration::ZERO;
        for tries in 0..MAX_UPDATE_TRIES {
            let before = self.with_state(|state| state.before_update(name))?;
            drop(order);
            let (value, out) = change(before.clone())?;
            // The answer's commit waits for this one, so that its turn would never come.
            order = self.flushing.lock().await;
            let attempt = match self.with_state(|state| state.begin_update(name, before, value))? {
                Update::Written => return Ok(out),
                // Something else in this request did; it has ended, so that there is nothing to wait for.
                Update::Changed => continue,
                Update::Write(attempt) => attempt,
            };
            let conditions = BTreeMap::from([(name.to_owned(), attempt.stored)]);
            match self.write(&attempt.delta, &conditions, budget).await? {
                Attempt::Applied(_) => return Ok(out),
                Attempt::Lost(current) => self.with_state(|state| state.lost_update(name, current, attempt.others)),
            }
            let pause = update_pause(tries);
            paused += pause;
            // Nobody waits longer for others than for a store in trouble.
            if paused > self.config.budget {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        let contended = SessionError::new(Kind::Contended(name.to_owned()));
        let before = self.with_state(|state| {
            let _dropped = state.take_attribute_changes();
            state.fail(&contended)
        });
        drop(before);
        Err(contended)
    }

    /// Writes what was taken out of the state for that.
    async fn write(
        &self,
        delta: &Delta,
        conditions: &BTreeMap<String, Option<Bytes>>,
        budget: &Budget,
    ) -> Result<Attempt, SessionError> {
        let mut in_flight = InFlight { slot: self, landed: false };
        let outcome = self.apply(delta, conditions, budget).await;
        in_flight.land(&outcome);
        outcome
    }

    /// Says that an update is on its way that the answer must wait for, unless that is out already.
    fn count_update(&self) -> Option<impl Drop + use<'_>> {
        let counted = self.with_state(|state| {
            state.updates += usize::from(!state.sealed);
            !state.sealed
        });
        counted.then(|| {
            OnDrop(|| {
                self.with_state(|state| state.updates -= 1);
                self.updated.notify_one();
            })
        })
    }

    /// For the answer's commit: after the updates that were on their way before.
    pub(super) async fn order_after_updates(&self) -> tokio::sync::MutexGuard<'_, ()> {
        loop {
            let order = self.flushing.lock().await;
            if self.with_state(|state| state.updates) == 0 {
                return order;
            }
            drop(order);
            self.updated.notified().await;
        }
    }
}

/// How often `update` tries against faster writers. Among 64 that all try at once, one wins each time.
const MAX_UPDATE_TRIES: u32 = 256;

/// Random, growing to 51 ms: whoever lost against many should not meet all of them again. With 64 writers that never rest, a tenth of
/// that made some lose 256 times.
fn update_pause(tries: u32) -> Duration {
    let most = 200_u64 << tries.min(8);
    Duration::from_micros(u64::from(u16::from_ne_bytes(crate::id::random_bytes())) * most / u64::from(u16::MAX))
}

/// Changes on their way to the store. If this is dropped there, by a timeout of the handler's, say, nobody knows whether they were
/// applied, and the request's answer must not claim that they were.
struct InFlight<'a> {
    slot: &'a Slot,
    landed: bool,
}

impl InFlight<'_> {
    fn land(&mut self, outcome: &Result<Attempt, SessionError>) {
        self.landed = true;
        match outcome {
            Ok(_) => self.slot.with_state(|state| state.in_flight = Delta::default()),
            Err(error) => drop(self.slot.with_state(|state| state.fail(error))),
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if !self.landed {
            drop(self.slot.with_state(|state| state.fail(&SessionError::unavailable(None))));
        }
    }
}
