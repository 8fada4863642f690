//! What a request knows of its session and has changed so far.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::commit::{Action, LateWindow, Next, Renewal, Seen};
use crate::delta::{Delta, Identity, counter_text};
use crate::error::{Kind, SessionError};
use crate::event::SessionEvent;
use crate::id::SessionId;
use crate::layer::Config;
use crate::record::{Attributes, Record, Version};
use crate::store::Loaded;

#[derive(Default)]
pub(crate) struct State {
    pub(crate) seen: Seen,
    /// The session as loaded, with what was flushed since.
    pub(crate) record: Option<Record>,
    /// The request came with the ID of a session that had ended.
    pub(crate) has_ended: bool,
    pub(crate) delta: Delta,
    /// What a flush is writing just now; still part of what handlers read.
    pub(crate) in_flight: Delta,
    fresh: Option<Fresh>,
    /// What this request's last commit made of the session, whether or not it was loaded.
    pub(crate) committed: Option<Version>,
    /// The store does not have what the browser was told any more.
    pub(crate) rolled_back: bool,
    /// Somebody in this request wants to see what the master has.
    pub(crate) strict: bool,
    /// `record` was loaded as a copy.
    pub(crate) copied: bool,
    /// Somebody was told what is, or is not, in the session.
    pub(crate) read: bool,
    /// The response's head is out, or there will be none.
    pub(crate) sealed: bool,
    /// The commit that the answer waits for has not ended, or not even begun.
    pub(crate) concluding: bool,
    pub(crate) cookie: CookieChange,
    /// How many `update`s are on their way that the answer waits for.
    pub(crate) updates: usize,
    /// What the program is still to be told of.
    pub(crate) events: Vec<SessionEvent>,
    /// A commit of this request found that its session had ended.
    pub(crate) gone: bool,
    pub(crate) failed: Option<SessionError>,
    /// The request was refused as a whole: `failed` is its answer, whatever the handler's is.
    pub(crate) refused: bool,
}

/// The ID and time of a session that is still to be created: fixed when first asked, so that what a page shows is what is
/// stored.
#[derive(Clone, Copy)]
pub(crate) struct Fresh {
    pub(crate) id: SessionId,
    pub(crate) created_on: SystemTime,
}

/// What a step of an `update` found.
pub(crate) enum Update {
    /// It is done: the session that it is for is still to be started.
    Written,
    /// Something else in this request changed the attribute in the meantime.
    Changed,
    /// This is to be written.
    Write(UpdateAttempt),
}

pub(crate) struct UpdateAttempt {
    pub(crate) delta: Delta,
    /// What the store must still have.
    pub(crate) stored: Option<Bytes>,
    /// What `delta` takes along.
    pub(crate) others: Delta,
}

#[derive(Clone, Copy, Default)]
pub(crate) enum CookieChange {
    #[default]
    None,
    Keep(SessionId),
    Forget,
}

impl State {
    pub(crate) fn see(&mut self, id: SessionId, loaded: Loaded, late: &LateWindow) {
        match loaded {
            Loaded::Alive(record) => {
                self.seen = Seen::Alive(id);
                self.record = Some(record);
            }
            Loaded::Absent => self.seen = Seen::Absent,
            Loaded::Ended { successor, age } => {
                self.seen = late.ended(successor, age);
                self.has_ended = true;
            }
        }
    }

    /// The session that the browser came with, if it was alive when this request last read or wrote it.
    pub(crate) fn lives(&self) -> Option<SessionId> {
        match self.seen {
            Seen::Alive(id) if self.record.is_some() && !self.gone => Some(id),
            // A blind write that was applied.
            Seen::Unseen(id) if self.committed.is_some() && !self.gone => Some(id),
            _ => None,
        }
    }

    /// Whether none of the browser's cookies has a live session.
    pub(crate) fn has_none(&self) -> bool {
        matches!(self.seen, Seen::Nobody | Seen::Absent | Seen::Ended { .. })
    }

    /// An attribute as this request sees it.
    pub(crate) fn overlay(&self, name: &str) -> Option<Bytes> {
        let stored = self.record.as_ref().and_then(|record| record.attributes.get(name).cloned());
        self.delta.overlay(name, self.in_flight.overlay(name, stored))
    }

    /// All attributes as this request sees them.
    pub(crate) fn attributes(&self) -> Attributes {
        let mut attributes = self.record.as_ref().map(|record| record.attributes.clone()).unwrap_or_default();
        self.in_flight.apply_to(&mut attributes);
        self.delta.apply_to(&mut attributes);
        attributes
    }

    /// The session's ID once this request is done, as far as that is up to this request.
    pub(crate) fn id(&mut self) -> SessionId {
        match self.seen.id() {
            Some(id) if self.delta.identity == Identity::Keep => id,
            _ => self.fresh().id,
        }
    }

    /// The ID under which the session stands in the list of its principal; where it stands in none yet, the one under which it will.
    pub(crate) fn listed_id(&mut self) -> SessionId {
        let is_listed = self.record.as_ref().is_some_and(|record| record.principal.is_some()) && self.exists();
        self.seen.id().filter(|_| is_listed).unwrap_or_else(|| self.id())
    }

    pub(crate) fn created_on(&mut self) -> SystemTime {
        match &self.record {
            Some(record) if !self.delta.replaces() => record.created_on,
            _ => self.fresh().created_on,
        }
    }

    pub(crate) fn fresh(&mut self) -> Fresh {
        let id = self.seen.id();
        *self.fresh.get_or_insert_with(|| Fresh {
            id: id.map_or_else(SessionId::random, |id| id.successor()),
            created_on: now_in_millis(),
        })
    }

    pub(crate) fn version_of(&self, id: &SessionId) -> Option<Version> {
        match (&self.record, self.seen) {
            (Some(record), Seen::Alive(seen)) if seen == *id => Some(record.version),
            _ => None,
        }
    }

    /// The newest version of the session that this request knows of.
    pub(crate) fn newest_version(&self) -> Option<Version> {
        self.record.as_ref().map(|record| record.version).or(self.committed)
    }

    pub(crate) fn take_attribute_changes(&mut self) -> Delta {
        let identity = std::mem::take(&mut self.delta.identity);
        let taken = std::mem::take(&mut self.delta);
        self.delta.identity = identity;
        self.in_flight = taken.clone();
        taken
    }

    /// Who is logged in once this request is done.
    pub(crate) fn principal(&self) -> Option<String> {
        match &self.delta.identity {
            Identity::LogIn(principal) => Some(principal.clone()),
            Identity::Replace(principal) => principal.clone(),
            Identity::Destroy | Identity::Reset => None,
            Identity::Keep | Identity::Cycle => self.record.as_ref().and_then(|record| record.principal.clone()),
        }
    }

    /// Whether there is a session in the store that this request leaves there.
    pub(crate) fn exists(&self) -> bool {
        self.record.is_some() && !self.delta.replaces()
    }

    /// Whether the changes so far are for a session that only the answer's commit starts, with nothing in it: after the end of the one
    /// before, or when somebody logs in over what a logout left.
    pub(crate) fn starts_another(&self) -> bool {
        self.delta.replaces() || (self.logs_in() && matches!(self.seen, Seen::Ended { successor: None, .. }))
    }

    /// Whether it takes the answer's commit to find the session that the changes so far are for: as above, or a login that follows a
    /// renewal.
    pub(crate) fn waits_for_the_answer(&self) -> bool {
        self.delta.replaces() || (self.logs_in() && matches!(self.seen, Seen::Ended { .. }))
    }

    fn logs_in(&self) -> bool {
        matches!(self.delta.identity, Identity::LogIn(_))
    }

    /// The request ended without an answer of its handler's: what was not committed is not to be, and a late `update` takes none of it
    /// along. After an answer there is nothing left but what its commit takes.
    pub(crate) fn seal(&mut self) {
        if !std::mem::replace(&mut self.sealed, true) {
            self.delta = Delta::default();
        }
    }

    /// Returns what an `update` is to change.
    pub(crate) fn before_update(&self, name: &str) -> Result<Option<Bytes>, SessionError> {
        if self.sealed && self.record.is_none() {
            return Err(SessionError::new(Kind::Gone));
        }
        Ok(self.overlay(name))
    }

    /// Takes out what an `update` that made `value` of `before` is to write, together with all that was changed so far.
    pub(crate) fn begin_update(
        &mut self,
        name: &str,
        before: Option<Bytes>,
        value: Option<Bytes>,
    ) -> Result<Update, SessionError> {
        if self.before_update(name)? != before {
            return Ok(Update::Changed);
        }
        if self.starts_another() {
            if self.sealed {
                return Err(SessionError::new(Kind::TooLate));
            }
            // The session that this would be compared with does not exist yet; only this request changes what it will be.
            self.delta.assign(name, value);
            return Ok(Update::Written);
        }
        let stored = self.record.as_ref().and_then(|record| record.attributes.get(name).cloned());
        let others = self.take_attribute_changes();
        let mut delta = others.clone();
        delta.assign(name, value);
        self.in_flight = delta.clone();
        Ok(Update::Write(UpdateAttempt { delta, stored, others }))
    }

    /// Another request was faster: the attribute is `current`, and nothing was written.
    pub(crate) fn lost_update(&mut self, name: &str, current: Option<Bytes>, others: Delta) {
        if let Some(record) = &mut self.record {
            match current {
                Some(current) => record.attributes.insert(name.to_owned(), current),
                None => record.attributes.remove(name),
            };
        }
        self.put_back(others);
    }

    /// Undoes [`take_attribute_changes`](Self::take_attribute_changes), below what was changed since.
    fn put_back(&mut self, mut taken: Delta) {
        let later = std::mem::take(&mut self.delta);
        self.in_flight = Delta::default();
        if self.sealed && !self.concluding {
            return;
        }
        if let Err(error) = taken.merge(later) {
            self.failed = Some(error);
        }
        self.delta = taken;
    }

    /// Gives back the error before, which holds one of the store's: to be dropped when the lock is released.
    #[must_use]
    pub(crate) fn fail(&mut self, error: &SessionError) -> Option<SessionError> {
        self.in_flight = Delta::default();
        self.failed.replace(error.clone())
    }

    /// A commit took effect: what this request knows, and what the browser is to keep.
    pub(crate) fn applied(
        &mut self,
        action: &Action,
        delta: &Delta,
        done: &Next,
        version: Version,
        counters: &BTreeMap<String, i64>,
        config: &Config,
    ) {
        let keep = |attributes: &mut Attributes| {
            delta.apply_to(attributes);
            for (name, value) in counters {
                attributes.insert(name.clone(), counter_text(*value));
            }
        };
        let lifetimes = config.lifetimes;
        self.committed = action.target().map(|_| version);
        match action {
            Action::Create(id, start) | Action::Renew(_, id, Renewal::Replace { start, .. }) => {
                let mut attributes = Attributes::new();
                keep(&mut attributes);
                self.record = Some(Record {
                    attributes,
                    created_on: start.created_on,
                    idle_timeout: lifetimes.idle_timeout,
                    absolute_timeout: lifetimes.absolute_timeout,
                    expires_on: lifetimes.absolute_timeout.map(|timeout| SystemTime::now() + timeout),
                    ttl: lifetimes.idle_timeout,
                    version,
                    principal: start.principal.clone(),
                    history: Vec::new(),
                });
                self.seen = Seen::Alive(*id);
                if self.fresh.is_some_and(|fresh| fresh.id == *id) {
                    self.fresh = None;
                }
            }
            Action::Apply(id) | Action::Renew(_, id, _) => {
                if let Some(record) = &mut self.record {
                    keep(&mut record.attributes);
                    record.version = version;
                    record.prolong(&lifetimes);
                    if let Action::Renew(_, _, Renewal::LogIn { principal }) = action {
                        record.principal = Some(principal.clone());
                        record.expires_on = lifetimes.absolute_timeout.map(|timeout| SystemTime::now() + timeout);
                    }
                    self.seen = Seen::Alive(*id);
                }
                if matches!(action, Action::Renew(..)) {
                    self.seen = Seen::Alive(*id);
                    self.fresh = None;
                }
            }
            Action::Destroy(_) => {
                self.record = None;
                self.seen = Seen::Ended { successor: None, long_ago: false };
            }
        }
        match done {
            Next::Keep(id) => self.cookie = CookieChange::Keep(*id),
            Next::Forget => self.cookie = CookieChange::Forget,
            Next::Done | Next::Then(_) => {}
        }
    }
}

/// What a record keeps of a time.
fn now_in_millis() -> SystemTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
