//! The one state that everything in a request shares: middleware, extractors, spawned tasks, and the layer itself.
//!
//! What is decided, is decided in [`commit`](crate::commit); this file carries it out. No lock is held across an await but
//! `flushing`, which keeps the commits of one request in order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, HeaderValue, header};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::budget::{Budget, persist};
use crate::commit::{Action, Commit, CommitId, Next, Renewal, Reply, Seen, Start, Step, next, plan};
use crate::delta::{Delta, Identity, counter_text};
use crate::error::{Kind, SessionError};
use crate::id::SessionId;
use crate::layer::Config;
use crate::record::{Attributes, Record, Version};
use crate::store::{BoxFuture, Loaded, StoreError};
use crate::telemetry;

pub(crate) struct Slot {
    config: Arc<Config>,
    /// Kept, not parsed: a request that never asks for its session pays for neither parsing nor MAC.
    cookies: Vec<HeaderValue>,
    presented: OnceLock<Option<SessionId>>,
    loaded: OnceCell<()>,
    flushing: tokio::sync::Mutex<()>,
    budget: Budget,
    state: Mutex<State>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) seen: Seen,
    /// The session as loaded, with what was flushed since.
    pub(crate) record: Option<Record>,
    pub(crate) delta: Delta,
    /// What a flush is writing just now; still part of what handlers read.
    in_flight: Delta,
    fresh: Option<Fresh>,
    /// Somebody was told what is, or is not, in the session.
    read: bool,
    /// The response's head is out, or there will be none.
    sealed: bool,
    cookie: CookieChange,
    failed: Option<SessionError>,
}

/// The ID and time of a session that is still to be created: fixed when first asked, so that what a page shows is what is
/// stored.
#[derive(Clone, Copy)]
struct Fresh {
    id: SessionId,
    created_on: SystemTime,
}

#[derive(Default)]
enum CookieChange {
    #[default]
    None,
    Keep(SessionId),
    Forget,
}

/// What a commit brought back.
#[derive(Default)]
pub(crate) struct Applied {
    pub(crate) counters: BTreeMap<String, i64>,
}

/// How a commit with conditions ended.
pub(crate) enum Attempt {
    Applied(Applied),
    /// The condition did not hold: what the attribute has instead.
    Lost(Option<Bytes>),
}

impl Slot {
    pub(crate) fn new(headers: &HeaderMap, config: &Arc<Config>) -> Arc<Self> {
        Arc::new(Self {
            config: Arc::clone(config),
            cookies: headers.get_all(header::COOKIE).iter().cloned().collect(),
            presented: OnceLock::new(),
            loaded: OnceCell::new(),
            flushing: tokio::sync::Mutex::new(()),
            budget: Budget::new(config.budget),
            state: Mutex::default(),
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // A panic between two statements of a state change is none of ours: nothing in here calls foreign code.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ID that the browser presented, if we signed it.
    pub(crate) fn presented(&self) -> Option<SessionId> {
        *self.presented.get_or_init(|| {
            let id = self.config.cookie.read(self.cookies.iter(), &self.config.signer);
            if let Some(id) = id {
                self.state().seen = Seen::Unseen(id);
            }
            id
        })
    }

    /// For changes: the state, if it can still be changed.
    pub(crate) fn open(&self) -> Result<MutexGuard<'_, State>, SessionError> {
        self.presented();
        let state = self.state();
        if state.sealed { Err(SessionError::new(Kind::TooLate)) } else { Ok(state) }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Loads the session, once for all who ask within this request.
    pub(crate) async fn load(&self) -> Result<(), SessionError> {
        self.loaded
            .get_or_try_init(|| async {
                if self.presented().is_some() {
                    // A commit of this request may change the session at the same time.
                    let _order = self.flushing.lock().await;
                    let seen = self.state().seen;
                    if let Seen::Unseen(id) = seen {
                        let loaded = self.fetch(&id, &self.budget).await?;
                        self.state().see(id, loaded);
                    }
                }
                self.state().read = true;
                Ok(())
            })
            .await
            .map(|()| ())
    }

    /// Loads the session again. `false` when it is gone.
    pub(crate) async fn reload(&self) -> Result<bool, SessionError> {
        let _order = self.flushing.lock().await;
        let Some(id) = self.state().seen.id() else { return Ok(false) };
        let late = self.late_budget();
        let loaded = self.fetch(&id, late.as_ref().unwrap_or(&self.budget)).await?;
        let mut state = self.state();
        match loaded {
            Loaded::Alive(record) => state.record = Some(record),
            // `seen` stays: to a request that knew it alive, a session that ended is a conflict and no reason to start another.
            Loaded::Absent | Loaded::Ended { .. } => state.record = None,
        }
        Ok(state.record.is_some())
    }

    async fn fetch(&self, id: &SessionId, budget: &Budget) -> Result<Loaded, SessionError> {
        let store = &*self.config.store;
        let attempt = || -> BoxFuture<'_, Result<Loaded, StoreError>> {
            Box::pin(async {
                match store.load(id).await {
                    // One spoilt session must not lock its user out: to the browser it is gone.
                    Err(error) if error.is_corrupt() => {
                        telemetry::corrupt(id, &error);
                        Ok(Loaded::Absent)
                    }
                    other => other,
                }
            })
        };
        persist(store, budget, &self.config.waiters, budget.deadline(), attempt).await
    }

    /// A budget for what happens after the response's head, which may be long ago for a stream: each call has one of its own.
    fn late_budget(&self) -> Option<Budget> {
        self.state().sealed.then(|| Budget::new(self.config.budget))
    }

    /// Commits the attribute changes so far.
    pub(crate) async fn flush(&self) -> Result<Applied, SessionError> {
        self.presented();
        let _order = self.flushing.lock().await;
        let delta = {
            let mut state = self.state();
            if state.sealed {
                return Err(SessionError::new(Kind::TooLate));
            }
            if state.delta.replaces() || !state.delta.changes_attributes() {
                return Ok(Applied::default());
            }
            state.take_attribute_changes()
        };
        let outcome = self.apply(&delta, &BTreeMap::new(), &self.budget).await;
        self.landed(outcome).map(|attempt| match attempt {
            Attempt::Applied(applied) => applied,
            Attempt::Lost(_) => Applied::default(),
        })
    }

    /// Compare-and-set: `change` turns the attribute's current bytes into the next ones, again and again until nobody was
    /// faster.
    pub(crate) async fn update<T>(
        &self,
        name: &str,
        mut change: impl FnMut(Option<Bytes>) -> Result<(Option<Bytes>, T), SessionError>,
    ) -> Result<T, SessionError> {
        let _order = self.flushing.lock().await;
        let (delta, mut stored) = {
            let mut state = self.state();
            if state.sealed && state.record.is_none() {
                return Err(SessionError::new(Kind::Gone));
            }
            if state.delta.replaces() {
                // The session that this would be compared with does not exist yet.
                let (value, out) = change(state.overlay(name))?;
                state.delta.assign(name, value);
                return Ok(out);
            }
            let stored = state.record.as_ref().and_then(|record| record.attributes.get(name).cloned());
            (state.take_attribute_changes(), stored)
        };
        let late = self.late_budget();
        let budget = late.as_ref().unwrap_or(&self.budget);
        for tries in 0..MAX_UPDATE_TRIES {
            let before = delta.overlay(name, stored.clone());
            let (value, out) = match change(before) {
                Ok(changed) => changed,
                Err(error) => {
                    // Nothing was sent: what was taken out to be written along goes back.
                    self.state().put_back(delta);
                    return Err(error);
                }
            };
            let mut attempt = delta.clone();
            attempt.assign(name, value);
            self.state().in_flight = attempt.clone();
            let conditions = BTreeMap::from([(name.to_owned(), stored.clone())]);
            match self.landed(self.apply(&attempt, &conditions, budget).await)? {
                Attempt::Applied(_) => return Ok(out),
                Attempt::Lost(current) => stored = current,
            }
            tokio::time::sleep(update_pause(tries)).await;
        }
        let error = SessionError::new(Kind::Contended(name.to_owned()));
        self.state().fail(&error);
        Err(error)
    }

    /// Takes what a commit did over into what this request knows.
    fn landed(&self, outcome: Result<Attempt, SessionError>) -> Result<Attempt, SessionError> {
        let mut state = self.state();
        match &outcome {
            Ok(Attempt::Applied(_)) => state.in_flight = Delta::default(),
            // Still on its way: the next attempt takes it along.
            Ok(Attempt::Lost(_)) => {}
            Err(error) => state.fail(error),
        }
        outcome
    }

    /// Commits a delta: one step, or as many as the state that the session turns out to be in asks for.
    async fn apply(
        &self,
        delta: &Delta,
        conditions: &BTreeMap<String, Option<Bytes>>,
        budget: &Budget,
    ) -> Result<Attempt, SessionError> {
        let seen = self.state().seen;
        let mut step = plan(&seen, delta);
        // Each further step answers something that another request did meanwhile; more than a few in a row is no accident.
        for _ in 0..MAX_STEPS {
            let (action, target, version) = match step {
                Step::Nothing => return Ok(Attempt::Applied(Applied::default())),
                Step::Gone => break,
                Step::Follow(successor) => match self.follow(successor, delta, budget).await? {
                    Some(next) => {
                        step = next;
                        continue;
                    }
                    None => return Ok(Attempt::Applied(Applied::default())),
                },
                Step::Create => {
                    let fresh = self.state().fresh();
                    (Action::Create(fresh.id, self.start(fresh.created_on, delta)), fresh.id, None)
                }
                Step::Apply(id) => (Action::Apply(id), id, self.state().version_of(&id)),
                Step::Renew(id) => {
                    let fresh = self.state().fresh();
                    (
                        Action::Renew(id, fresh.id, self.renewal(fresh.created_on, delta)),
                        fresh.id,
                        self.state().version_of(&id),
                    )
                }
                Step::Destroy(id) => (Action::Destroy(id), id, None),
            };
            let reply = self.commit(action.clone(), delta, conditions, version, budget).await?;
            match reply {
                Reply::Limit(limit) => return Err(SessionError::new(Kind::Limit(limit))),
                Reply::NotACounter(name) => return Err(SessionError::new(Kind::NotACounter(name))),
                Reply::Conflict { current, .. } => return Ok(Attempt::Lost(current)),
                Reply::RolledBack => return Err(SessionError::new(Kind::RolledBack)),
                Reply::Occupied => {
                    return Err(SessionError::unavailable(Some(StoreError::refused("the new session ID is taken"))));
                }
                Reply::Applied { .. } | Reply::Absent | Reply::Ended { .. } => {}
            }
            match next(&step, target, &seen, delta, &reply) {
                Next::Then(then) => step = then,
                done => {
                    let Reply::Applied { version, counters } = reply else {
                        return Ok(Attempt::Applied(Applied::default()));
                    };
                    self.state().applied(&action, delta, &done, version, &counters, &self.config);
                    return Ok(Attempt::Applied(Applied { counters }));
                }
            }
        }
        Err(SessionError::new(Kind::Gone))
    }

    async fn commit(
        &self,
        action: Action,
        delta: &Delta,
        conditions: &BTreeMap<String, Option<Bytes>>,
        seen: Option<Version>,
        budget: &Budget,
    ) -> Result<Reply, SessionError> {
        let commit = Commit {
            id: CommitId::random(),
            action,
            clear: delta.clear,
            changes: delta.changes.clone(),
            conditions: conditions.clone(),
            seen,
            limits: self.config.limits,
            deadline: budget.deadline(),
            remember: self.config.budget * 4,
        };
        let store = &*self.config.store;
        persist(store, budget, &self.config.waiters, commit.deadline, || store.commit(&commit)).await
    }

    /// Looks at the successor that a late login found. `None`: the browser gets its cookie, and there is nothing to write.
    async fn follow(&self, successor: SessionId, delta: &Delta, budget: &Budget) -> Result<Option<Step>, SessionError> {
        let principal = match &delta.identity {
            Identity::LogIn(principal) | Identity::Replace(Some(principal)) => Some(principal),
            _ => None,
        };
        Ok(match self.fetch(&successor, budget).await? {
            Loaded::Alive(record) if record.principal.as_ref() == principal => {
                let mut state = self.state();
                state.record = Some(record);
                if delta.changes_attributes() {
                    Some(Step::Apply(successor))
                } else {
                    state.seen = Seen::Alive(successor);
                    state.cookie = CookieChange::Keep(successor);
                    None
                }
            }
            Loaded::Ended { successor: Some(next) } => Some(Step::Follow(next)),
            Loaded::Alive(_) | Loaded::Ended { successor: None } | Loaded::Absent => Some(Step::Create),
        })
    }

    fn start(&self, created_on: SystemTime, delta: &Delta) -> Start {
        let principal = match &delta.identity {
            Identity::LogIn(principal) | Identity::Replace(Some(principal)) => Some(principal.clone()),
            _ => None,
        };
        Start {
            created_on,
            idle_timeout: self.config.idle_timeout,
            absolute_timeout: self.config.absolute_timeout,
            principal,
        }
    }

    fn renewal(&self, created_on: SystemTime, delta: &Delta) -> Renewal {
        match &delta.identity {
            Identity::LogIn(principal) => {
                Renewal::LogIn { principal: principal.clone(), absolute_timeout: self.config.absolute_timeout }
            }
            Identity::Replace(principal) => {
                Renewal::Replace { start: self.start(created_on, delta), linked: principal.is_some() }
            }
            Identity::Keep | Identity::Cycle | Identity::Destroy => Renewal::Keep,
        }
    }

    /// The handler has answered: no more changes, and what there is to commit, is committed. `None`: nothing to wait for.
    pub(crate) fn conclude(self: &Arc<Self>, head: &Parts) -> Option<JoinHandle<Result<(), SessionError>>> {
        let mut state = self.state();
        state.sealed = true;
        if !state.delta.is_empty() && !(self.config.commit_when)(head) {
            state.delta = Delta::default();
        }
        let succeeded = !(head.status.is_client_error() || head.status.is_server_error());
        // A task of the handler may be flushing still; then its outcome belongs to this answer.
        if state.delta.is_empty() && state.in_flight.is_empty() && (state.failed.is_none() || !succeeded) {
            self.touch(&mut state);
            return None;
        }
        drop(state);
        let slot = Arc::clone(self);
        Some(tokio::spawn(async move { slot.last_commit(succeeded).await }.in_current_span()))
    }

    async fn last_commit(&self, succeeded: bool) -> Result<(), SessionError> {
        let _order = self.flushing.lock().await;
        let delta = {
            let mut state = self.state();
            // A handler that answers 4xx or 5xx has told its client about the flush that failed; any other answer would claim that it
            // took effect.
            if let Some(error) = state.failed.clone().filter(|_| succeeded) {
                return Err(error);
            }
            std::mem::take(&mut state.delta)
        };
        self.apply(&delta, &BTreeMap::new(), &self.budget).await.map(|_| ())
    }

    /// Prolongs a session that was only read, without waiting for it.
    fn touch(self: &Arc<Self>, state: &mut State) {
        let (Seen::Alive(id), Some(record)) = (state.seen, &state.record) else { return };
        if !record.wants_touch(self.config.touch_interval, SystemTime::now()) {
            return;
        }
        if self.config.cookie.max_age.is_some() && matches!(state.cookie, CookieChange::None) {
            state.cookie = CookieChange::Keep(id);
        }
        let slot = Arc::clone(self);
        tokio::spawn(async move {
            let touched = tokio::time::timeout(slot.config.budget, slot.config.store.touch(&id)).await;
            if let Ok(Err(error)) = touched {
                telemetry::touch_failed(&error);
            }
        });
    }

    /// From here on nothing changes any more.
    pub(crate) fn seal(&self) {
        self.state().sealed = true;
    }

    /// Cookie and cache headers.
    pub(crate) fn write_headers(&self, headers: &mut HeaderMap) {
        let state = self.state();
        let Config { cookie, signer, .. } = &*self.config;
        let set_cookie = match &state.cookie {
            CookieChange::None => None,
            CookieChange::Keep(id) => Some(cookie.keep(id, signer)),
            CookieChange::Forget => Some(cookie.forget()),
        };
        if state.read {
            vary_on_cookie(headers);
        }
        // RFC 9111, section 7.3: a cache may store a response with `Set-Cookie` and hand one user's cookie to another.
        if set_cookie.is_some() || (state.read && !headers.contains_key(header::CACHE_CONTROL)) {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        if let Some(value) = set_cookie {
            headers.append(header::SET_COOKIE, value);
        }
    }
}

/// How often `update` tries against faster writers. Among 64 that all try at once, one wins each time.
const MAX_UPDATE_TRIES: u32 = 256;
/// A login may follow a few renewals; see [`Slot::apply`].
const MAX_STEPS: usize = 16;

/// Random, growing to some milliseconds: whoever lost against many should not meet all of them again.
fn update_pause(tries: u32) -> Duration {
    let most = 200_u64 << tries.min(5);
    Duration::from_micros(u64::from(u16::from_ne_bytes(crate::id::random_bytes())) * most / u64::from(u16::MAX))
}

impl State {
    fn see(&mut self, id: SessionId, loaded: Loaded) {
        match loaded {
            Loaded::Alive(record) => {
                self.seen = Seen::Alive(id);
                self.record = Some(record);
            }
            Loaded::Absent => self.seen = Seen::Absent,
            Loaded::Ended { successor } => self.seen = Seen::Ended { successor },
        }
    }

    pub(crate) fn read(&mut self) {
        self.read = true;
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

    pub(crate) fn created_on(&mut self) -> SystemTime {
        match &self.record {
            Some(record) if !self.delta.replaces() => record.created_on,
            _ => self.fresh().created_on,
        }
    }

    fn fresh(&mut self) -> Fresh {
        let id = self.seen.id();
        *self.fresh.get_or_insert_with(|| Fresh {
            id: id.map_or_else(SessionId::random, |id| id.successor()),
            created_on: now_in_millis(),
        })
    }

    fn version_of(&self, id: &SessionId) -> Option<Version> {
        match (&self.record, self.seen) {
            (Some(record), Seen::Alive(seen)) if seen == *id => Some(record.version),
            _ => None,
        }
    }

    fn take_attribute_changes(&mut self) -> Delta {
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
            Identity::Destroy => None,
            Identity::Keep | Identity::Cycle => self.record.as_ref().and_then(|record| record.principal.clone()),
        }
    }

    /// Whether there is a session in the store that this request leaves there.
    pub(crate) fn exists(&self) -> bool {
        self.record.is_some() && !self.delta.replaces()
    }

    /// Undoes [`take_attribute_changes`](Self::take_attribute_changes), below what was changed since.
    fn put_back(&mut self, mut taken: Delta) {
        let later = std::mem::take(&mut self.delta);
        self.in_flight = Delta::default();
        if let Err(error) = taken.merge(later) {
            self.failed = Some(error);
        }
        self.delta = taken;
    }

    fn fail(&mut self, error: &SessionError) {
        self.in_flight = Delta::default();
        self.failed = Some(error.clone());
    }

    /// A commit took effect: what this request knows, and what the browser is to keep.
    fn applied(
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
        match action {
            Action::Create(id, start) | Action::Renew(_, id, Renewal::Replace { start, .. }) => {
                let mut attributes = Attributes::new();
                keep(&mut attributes);
                self.record = Some(Record {
                    attributes,
                    created_on: start.created_on,
                    idle_timeout: start.idle_timeout,
                    expires_on: start.absolute_timeout.map(|timeout| SystemTime::now() + timeout),
                    ttl: start.idle_timeout,
                    version,
                    principal: start.principal.clone(),
                });
                self.seen = Seen::Alive(*id);
                self.fresh = None;
            }
            Action::Apply(id) | Action::Renew(_, id, _) => {
                let due = self.record.as_ref().is_none_or(|r| r.wants_touch(config.touch_interval, SystemTime::now()));
                if config.cookie.max_age.is_some() && due {
                    self.cookie = CookieChange::Keep(*id);
                }
                if let Some(record) = &mut self.record {
                    keep(&mut record.attributes);
                    record.version = version;
                    record.ttl = record.idle_timeout;
                    if let Action::Renew(_, _, Renewal::LogIn { principal, absolute_timeout }) = action {
                        record.principal = Some(principal.clone());
                        record.expires_on = absolute_timeout.map(|timeout| SystemTime::now() + timeout);
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
                self.seen = Seen::Ended { successor: None };
            }
        }
        match action {
            Action::Create(id, _) => telemetry::created(id),
            Action::Renew(old, new, _) => telemetry::renewed(old, new),
            Action::Destroy(id) => telemetry::destroyed(id),
            Action::Apply(_) => {}
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

/// Adds `Cookie` to `Vary` unless it is covered already (RFC 9110, section 12.5.5).
fn vary_on_cookie(headers: &mut HeaderMap) {
    let covered = headers.get_all(header::VARY).iter().any(|value| {
        value
            .as_bytes()
            .split(|b| *b == b',')
            .any(|field| field.trim_ascii().eq_ignore_ascii_case(b"cookie") || field.trim_ascii() == b"*")
    });
    if !covered {
        headers.append(header::VARY, HeaderValue::from_static("cookie"));
    }
}
