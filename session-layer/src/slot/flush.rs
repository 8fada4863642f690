//! Changes that do not wait for the answer: flushes, and compare-and-set.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::{Applied, Attempt, Slot};
use crate::delta::Delta;
use crate::error::{Kind, SessionError};

impl Slot {
    /// Commits the attribute changes so far.
    pub(crate) async fn flush(&self) -> Result<Applied, SessionError> {
        self.presented();
        let _order = self.flushing.lock().await;
        let delta = {
            let mut state = self.state();
            if state.sealed {
                return Err(SessionError::new(Kind::TooLate));
            }
            if state.waits_for_the_answer() || !state.delta.changes_attributes() {
                return Ok(Applied::default());
            }
            state.take_attribute_changes()
        };
        let mut in_flight = InFlight { slot: self, landed: false };
        let outcome = self.apply(&delta, &BTreeMap::new(), &self.budget).await;
        in_flight.note(&outcome);
        match outcome? {
            Attempt::Applied(applied) => {
                if !applied.counters.is_empty() {
                    self.state().read = true;
                }
                Ok(applied)
            }
            Attempt::Lost(_) => unreachable!("no condition was set"),
        }
    }

    /// Compare-and-set: `change` turns the attribute's current bytes into the next ones, again and again until nobody was
    /// faster.
    pub(crate) async fn update<T>(
        &self,
        name: &str,
        mut change: impl FnMut(Option<Bytes>) -> Result<(Option<Bytes>, T), SessionError>,
    ) -> Result<T, SessionError> {
        let _order = self.turn().await;
        let (delta, mut stored) = loop {
            let mut state = self.state();
            if state.sealed && state.record.is_none() {
                return Err(SessionError::new(Kind::Gone));
            }
            if state.starts_another() {
                // The session that this would be compared with does not exist yet; only this request changes what it will be.
                let before = state.overlay(name);
                // `change` is foreign code, and may look at the session itself.
                drop(state);
                let (value, out) = change(before.clone())?;
                let mut state = self.open()?;
                if state.overlay(name) == before && state.starts_another() {
                    state.delta.assign(name, value);
                    return Ok(out);
                }
                continue;
            }
            let stored = state.record.as_ref().and_then(|record| record.attributes.get(name).cloned());
            break (state.take_attribute_changes(), stored);
        };
        let mut in_flight = InFlight { slot: self, landed: false };
        let late = self.late_budget();
        let budget = late.as_ref().unwrap_or(&self.budget);
        let mut paused = Duration::ZERO;
        for tries in 0..MAX_UPDATE_TRIES {
            let before = delta.overlay(name, stored.clone());
            let (value, out) = match change(before) {
                Ok(changed) => changed,
                Err(error) => {
                    // Nothing was sent: what was taken out to be written along goes back.
                    in_flight.landed = true;
                    self.state().put_back(delta);
                    return Err(error);
                }
            };
            let mut attempt = delta.clone();
            attempt.assign(name, value);
            self.state().in_flight = attempt.clone();
            let conditions = BTreeMap::from([(name.to_owned(), stored.clone())]);
            let outcome = self.apply(&attempt, &conditions, budget).await;
            in_flight.note(&outcome);
            match outcome? {
                Attempt::Applied(_) => return Ok(out),
                Attempt::Lost(current) => stored = current,
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
        in_flight.note(&Err(contended.clone()));
        Err(contended)
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

/// A flush on its way. If it is dropped there, by a timeout of the handler's, say, nobody knows whether it was applied, and the
/// request's answer must not claim that it was.
struct InFlight<'a> {
    slot: &'a Slot,
    landed: bool,
}

impl InFlight<'_> {
    fn note(&mut self, outcome: &Result<Attempt, SessionError>) {
        let mut state = self.slot.state();
        match outcome {
            // Still on its way: the next attempt takes it along.
            Ok(Attempt::Lost(_)) => return,
            Ok(Attempt::Applied(_)) => state.in_flight = Delta::default(),
            Err(error) => state.fail(error),
        }
        self.landed = true;
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if !self.landed {
            self.slot.state().fail(&SessionError::unavailable(None));
        }
    }
}
