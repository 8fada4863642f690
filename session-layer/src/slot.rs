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

use crate::budget::{Budget, OnDrop, persist};
use crate::commit::{Action, Commit, CommitId, Next, Renewal, Reply, Seen, Start, Step, next, plan};
use crate::delta::{Delta, Identity};
use crate::error::{Kind, SessionError};
use crate::event::SessionEvent;
use crate::freshness::{Token, copy_wanted, is_lost, is_lost_in, seconds_since_epoch};
use crate::id::SessionId;
use crate::layer::Config;
use crate::record::{Record, Version};
use crate::state::{CookieChange, State};
use crate::store::{BoxFuture, Loaded, StoreError};
use crate::telemetry;

pub(crate) struct Slot {
    config: Arc<Config>,
    /// Kept, not parsed: a request that never asks for its session pays for neither parsing nor MAC.
    cookies: Cookies,
    presented: OnceLock<Option<SessionId>>,
    /// What the browser was told of it, where something depends on that.
    told: OnceLock<Option<Token>>,
    loaded: OnceCell<()>,
    flushing: tokio::sync::Mutex<()>,
    budget: Budget,
    state: Mutex<State>,
}

/// The `Cookie` headers of a request. Browsers send one; HTTP/2 may split it, and then a list is worth its allocation.
struct Cookies {
    first: Option<HeaderValue>,
    more: Vec<HeaderValue>,
}

impl Cookies {
    fn of(headers: &HeaderMap) -> Self {
        let mut headers = headers.get_all(header::COOKIE).iter().cloned();
        Self { first: headers.next(), more: headers.collect() }
    }

    fn iter(&self) -> impl Iterator<Item = &HeaderValue> {
        self.first.iter().chain(&self.more)
    }
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
            cookies: Cookies::of(headers),
            presented: OnceLock::new(),
            told: OnceLock::new(),
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

    /// What the browser was told of this session; `None` also where nothing depends on it.
    fn token(&self, id: &SessionId) -> Option<Token> {
        let tokens = self.config.tokens.as_ref()?;
        let presented = self.presented().filter(|presented| presented == id)?;
        *self.told.get_or_init(|| tokens.read(self.cookies.iter(), &presented))
    }

    /// The version that the browser was told of.
    fn told(&self, id: &SessionId) -> Option<Version> {
        self.token(id).map(|token| token.version)
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
                        let copy = if self.config.copies { self.copy(&id).await } else { None };
                        self.state().copied = copy.is_some();
                        let loaded = match copy {
                            Some(copy) => Loaded::Alive(copy),
                            None => self.fetch(&id, &self.budget).await?,
                        };
                        self.state().see(id, loaded);
                    }
                }
                self.state().read = true;
                Ok(())
            })
            .await
            .copied()
    }

    /// The same, from the master, whatever this request has loaded so far.
    pub(crate) async fn load_strictly(&self) -> Result<(), SessionError> {
        self.state().strict = true;
        self.load().await?;
        if self.state().copied {
            self.reload().await?;
        }
        Ok(())
    }

    /// A copy of the session that will do for this browser.
    async fn copy(&self, id: &SessionId) -> Option<Record> {
        let token = self.token(id);
        let (strict, committed) = {
            let state = self.state();
            (state.strict, state.committed)
        };
        let longest = self.config.touch_interval.min(LONGEST_COPY);
        let wanted = copy_wanted(token, committed, seconds_since_epoch(), longest).filter(|_| !strict)?;
        self.config.store.load_copy(id, &wanted).await.filter(|copy| copy.version >= wanted.at_least)
    }

    /// For what may also come after the head: the answer's own commit goes first. It has a budget that is spent already in part, and a
    /// client that waits.
    async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        loop {
            let order = self.flushing.lock().await;
            if !self.state().concluding {
                return order;
            }
            drop(order);
            tokio::task::yield_now().await;
        }
    }

    /// Loads the session again. `false` when it is gone.
    pub(crate) async fn reload(&self) -> Result<bool, SessionError> {
        let _order = self.turn().await;
        let Some(id) = self.state().seen.id() else { return Ok(false) };
        let late = self.late_budget();
        let loaded = self.fetch(&id, late.as_ref().unwrap_or(&self.budget)).await?;
        let mut state = self.state();
        state.copied = false;
        match loaded {
            Loaded::Alive(record) => state.record = Some(record),
            // `seen` stays: to a request that knew it alive, a session that ended is a conflict and no reason to start another.
            Loaded::Absent | Loaded::Ended { .. } => state.record = None,
        }
        Ok(state.record.is_some())
    }

    async fn fetch(&self, id: &SessionId, budget: &Budget) -> Result<Loaded, SessionError> {
        let store = &*self.config.store;
        let told = self.told(id);
        let attempt = || -> BoxFuture<'_, Result<Loaded, StoreError>> {
            Box::pin(async move {
                match store.load(id).await {
                    // One spoilt session must not lock its user out: to the browser it is gone.
                    Err(error) if error.is_corrupt() => {
                        telemetry::corrupt(id, &error);
                        Ok(Loaded::Absent)
                    }
                    Ok(Loaded::Alive(record)) => {
                        if let Some(told) = told.filter(|told| is_lost_in(*told, &record)) {
                            self.miss(id, told, record.version).await?;
                        }
                        Ok(Loaded::Alive(record))
                    }
                    other => other,
                }
            })
        };
        persist(store, budget, &self.config.waiters, budget.deadline(), attempt).await
    }

    /// What the browser was told of is not there. Either this is no master any more, and the master is to be asked; or it is lost.
    async fn miss(&self, id: &SessionId, told: Version, found: Version) -> Result<(), StoreError> {
        if !self.config.store.confirm_master().await? || !self.config.rollback_detection {
            return Ok(());
        }
        if std::mem::replace(&mut self.state().rolled_back, true) {
            return Ok(());
        }
        let event = SessionEvent::RolledBack { session: id.handle(), lost: told, found };
        telemetry::rolled_back(id);
        if let Some(on_event) = &self.config.on_event {
            on_event(&event);
        }
        Ok(())
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
                    let mut state = self.state();
                    let fresh = state.fresh();
                    // A flush before a renewal that waits for the response: the ID that was promised is the one after that.
                    let id = if state.delta.identity == Identity::Keep { fresh.id } else { fresh.id.successor() };
                    (Action::Create(id, self.start(fresh.created_on, delta)), id, None)
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
                Reply::TooManySessions => return Err(SessionError::new(Kind::TooManySessions)),
                Reply::Occupied => {
                    return Err(SessionError::unavailable(Some(StoreError::refused("the new session ID is taken"))));
                }
                Reply::Applied { .. } | Reply::Absent | Reply::Ended { .. } => {}
            }
            match next(&step, target, &seen, delta, &reply) {
                Next::Then(then) => step = then,
                done => {
                    let Reply::Applied { version, counters, confirmed, history } = reply else {
                        return Ok(Attempt::Applied(Applied::default()));
                    };
                    if let Some(told) = self.told(action.id()).filter(|told| is_lost(*told, &history)) {
                        // It is applied whatever comes of this.
                        let _ = self.miss(action.id(), told, version).await;
                    }
                    self.state().applied(&action, delta, &done, version, &counters, &self.config);
                    if !confirmed {
                        return Err(SessionError::new(Kind::NotDurable));
                    }
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
        // Login, logout, and what takes their place: a failover must not undo them.
        let durable = action.logs_in().is_some() || action.ends_session();
        let commit = Commit {
            id: CommitId::random(),
            sessions: self.config.session_limit,
            durable,
            keep_history: self.config.rollback_detection,
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
        let (id, commit) = (commit.action.id(), &commit);
        let attempt = || -> BoxFuture<'_, Result<Reply, StoreError>> {
            Box::pin(async move {
                match store.commit(commit).await {
                    // As for a load: to the browser it is gone.
                    Err(error) if error.is_corrupt() => {
                        telemetry::corrupt(id, &error);
                        Ok(Reply::Absent)
                    }
                    other => other,
                }
            })
        };
        persist(store, budget, &self.config.waiters, commit.deadline, attempt).await
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
        // Before the lock is taken: it is foreign code, and may look at a session that the handler put into the response's extensions.
        let wanted = (self.config.commit_when)(head);
        let mut state = self.state();
        state.sealed = true;
        if !wanted {
            state.delta = Delta::default();
        }
        let succeeded = !(head.status.is_client_error() || head.status.is_server_error());
        // A task of the handler may be flushing still; then its outcome belongs to this answer.
        if state.delta.is_empty() && state.in_flight.is_empty() && (state.failed.is_none() || !succeeded) {
            self.touch(&mut state);
            return None;
        }
        state.concluding = true;
        drop(state);
        let slot = Arc::clone(self);
        Some(tokio::spawn(async move { slot.last_commit(wanted, succeeded).await }.in_current_span()))
    }

    async fn last_commit(&self, wanted: bool, succeeded: bool) -> Result<(), SessionError> {
        let _order = self.flushing.lock().await;
        let _concluded = OnDrop(|| self.state().concluding = false);
        let (delta, failed) = {
            let mut state = self.state();
            // Taken in any case: nothing is left that a late `update` could take along.
            (std::mem::take(&mut state.delta), state.failed.clone())
        };
        // A handler that answers 4xx or 5xx has told its client about the flush that failed; any other answer would claim that it took
        // effect.
        if let Some(error) = failed.filter(|_| succeeded) {
            return Err(error);
        }
        if !wanted {
            // An `update` that failed after the handler had answered gave back what it was to take along.
            return Ok(());
        }
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

    /// What the browser is to be told of its session: its version, when that is another than it was told. Goes and comes with the ID.
    fn token_cookie(&self) -> Option<HeaderValue> {
        let tokens = self.config.tokens.as_ref()?;
        // Who never asked for the session does not pay for a MAC.
        self.presented.get()?;
        let state = self.state();
        let (cookie, seen, version, rolled_back) =
            (state.cookie, state.seen.id(), state.newest_version(), state.rolled_back);
        drop(state);
        let sent = seconds_since_epoch();
        let keep = |id, version| tokens.keep(&id, Token { version, sent });
        match cookie {
            CookieChange::Forget => Some(tokens.forget()),
            CookieChange::Keep(id) => Some(version.map_or_else(|| tokens.forget(), |version| keep(id, version))),
            CookieChange::None => {
                let (id, version) = (seen?, version?);
                (rolled_back || self.told(&id).is_none_or(|told| told < version)).then(|| keep(id, version))
            }
        }
    }

    /// Cookies and cache headers.
    pub(crate) fn write_headers(&self, headers: &mut HeaderMap) {
        let token_cookie = self.token_cookie();
        let state = self.state();
        let Config { cookie, signer, .. } = &*self.config;
        let set_cookie = match &state.cookie {
            CookieChange::None => None,
            CookieChange::Keep(id) => Some(cookie.keep(&signer.sign(id))),
            CookieChange::Forget => Some(cookie.forget()),
        };
        if state.read {
            vary_on_cookie(headers);
        }
        // RFC 9111, section 7.3: a cache may store a response with `Set-Cookie` and hand one user's cookie to another.
        if set_cookie.is_some()
            || token_cookie.is_some()
            || (state.read && !headers.contains_key(header::CACHE_CONTROL))
        {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        for value in [set_cookie, token_cookie].into_iter().flatten() {
            headers.append(header::SET_COOKIE, value);
        }
    }
}

/// How long a copy may be kept in memory. What the server says about it in the meantime counts; this is for what it forgets to say.
const LONGEST_COPY: Duration = Duration::from_secs(30);

/// How often `update` tries against faster writers. Among 64 that all try at once, one wins each time.
const MAX_UPDATE_TRIES: u32 = 256;
/// A login may follow a few renewals; see [`Slot::apply`].
const MAX_STEPS: usize = 16;

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
