//! The one state that everything in a request shares: middleware, extractors, spawned tasks, and the layer itself.
//!
//! What is decided, is decided in [`commit`](crate::commit); this and what is below it carries it out. No lock is held across an await but
//! `flushing`, which keeps the commits of one request in order. Only the store's code runs under that one; no code of the app, such as
//! closures and `Serialize` implementations, and no `tracing` subscriber runs under the lock of the state.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::budget::{Budget, OnDrop, persist};
use crate::commit::{LateWindow, Seen};
use crate::delta::Delta;
use crate::error::{Kind, SessionError};
use crate::event::SessionEvent;
use crate::freshness::{Token, copy_wanted, is_lost_in, seconds_since_epoch};
use crate::id::SessionId;
use crate::layer::Config;
use crate::record::{Record, Version};
use crate::state::State;
use crate::store::{BoxFuture, Loaded, StoreError};
use crate::telemetry;

mod flush; // changes that do not wait for the answer

mod commit; // carries out what is decided about a delta

mod answer; // what the answer waits for, and what it tells the browser

mod running; // what keeps the session alive until the answer is there
pub(crate) use running::Running;

pub(crate) struct Slot {
    config: Arc<Config>,
    /// When the request reached the layer.
    arrived: Instant,
    /// Kept, not parsed: a request that never asks for its session pays for neither parsing nor MAC.
    cookies: Cookies,
    presented: OnceLock<Option<SessionId>>,
    /// What the browser was told of it, where something depends on that.
    told: OnceLock<Option<Token>>,
    loaded: OnceCell<()>,
    flushing: tokio::sync::Mutex<()>,
    /// An `update` that the answer waits for has ended.
    updated: tokio::sync::Notify,
    budget: Budget,
    /// Made when it is first needed: most requests of an app never look at their session.
    state: OnceLock<Mutex<State>>,
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
            arrived: Instant::now(),
            cookies: Cookies::of(headers),
            presented: OnceLock::new(),
            told: OnceLock::new(),
            loaded: OnceCell::new(),
            flushing: tokio::sync::Mutex::new(()),
            updated: tokio::sync::Notify::new(),
            budget: Budget::new(config.budget),
            state: OnceLock::new(),
        })
    }

    /// Reads or changes the state. A closure and no guard, so that the lock cannot be held by accident while code of the app runs: that
    /// code may use the session, and would wait for itself. What it drops must be ours as well; return anything else.
    pub(crate) fn with_state<T>(&self, access: impl FnOnce(&mut State) -> T) -> T {
        // A poisoned lock is still a good one: no code that runs under it leaves the state half changed when it panics.
        access(&mut self.state.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Nobody has looked at the session, and nobody can any more: no handle is left in the request or anywhere else.
    pub(crate) fn is_untouched(self: &mut Arc<Self>) -> bool {
        Arc::get_mut(self).is_some_and(|slot| slot.state.get_mut().is_none())
    }

    /// From here on nothing changes any more.
    pub(crate) fn seal(self: &mut Arc<Self>) {
        // Where no handle is left, nobody can.
        if Arc::get_mut(self).is_none() {
            self.with_state(State::seal);
        }
    }

    /// The ID that the browser presented, if we signed it.
    pub(crate) fn presented(&self) -> Option<SessionId> {
        *self.presented.get_or_init(|| {
            let id = self.config.cookie.read(self.cookies.iter(), &self.config.signer);
            if let Some(id) = id {
                self.with_state(|state| state.seen = Seen::Unseen(id));
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

    /// Changes the state, if that can still be done.
    pub(crate) fn change_state<T>(&self, change: impl FnOnce(&mut State) -> T) -> Result<T, SessionError> {
        self.presented();
        self.with_state(|state| if state.sealed { Err(SessionError::new(Kind::TooLate)) } else { Ok(change(state)) })
    }

    /// Records a change.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Delta) -> T) -> Result<T, SessionError> {
        self.change_state(|state| change(&mut state.delta))
    }

    /// The handler has dealt with a flush that failed.
    pub(crate) fn forgive_failed_flush(&self) {
        // Dropped after the lock is released: it holds an error of the store's.
        let failed = self.with_state(|state| state.failed.take());
        drop(failed);
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Loads the session, once for all who ask within this request.
    pub(crate) async fn load(&self) -> Result<(), SessionError> {
        let _events = self.send_events_at_the_end();
        if self.presented().is_some() {
            self.loaded.get_or_try_init(|| self.load_presented()).await?;
        }
        self.with_state(|state| state.read = true);
        Ok(())
    }

    async fn load_presented(&self) -> Result<(), SessionError> {
        // A commit of this request may change the session at the same time.
        let _order = self.flushing.lock().await;
        let seen = self.with_state(|state| state.seen);
        if let Seen::Unseen(id) = seen {
            let copy = if self.config.copies { self.copy(&id).await } else { None };
            let copied = copy.is_some();
            let loaded = match copy {
                Some(copy) => Loaded::Alive(copy),
                // Boxed: what asks the store is large, and whoever has a copy, or no cookie, need not carry it around.
                None => Box::pin(self.fetch(&id, &self.budget)).await?,
            };
            let late_window = self.late_window();
            self.with_state(|state| {
                state.copied = copied;
                state.see(id, loaded, &late_window);
            });
        }
        Ok(())
    }

    /// The same, from the master, whatever this request has loaded so far.
    pub(crate) async fn load_strictly(&self) -> Result<(), SessionError> {
        self.with_state(|state| state.strict = true);
        self.load().await?;
        if self.with_state(|state| state.copied) {
            self.reload().await?;
        }
        Ok(())
    }

    /// A copy of the session that will do for this browser.
    async fn copy(&self, id: &SessionId) -> Option<Record> {
        let token = self.token(id);
        let (strict, committed) = self.with_state(|state| (state.strict, state.committed));
        let longest = self.config.touch_interval.min(LONGEST_COPY);
        let wanted = copy_wanted(token, committed, seconds_since_epoch(), longest).filter(|_| !strict)?;
        self.config.store.load_copy(id, &wanted).await.filter(|copy| copy.version >= wanted.at_least)
    }

    /// For what may also come after the head: the answer's own commit goes first. It has a budget that is spent already in part, and a
    /// client that waits.
    async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        loop {
            let order = self.flushing.lock().await;
            if !self.with_state(|state| state.concluding) {
                return order;
            }
            drop(order);
            tokio::task::yield_now().await;
        }
    }

    /// What tells a late request from a new visitor's.
    fn late_window(&self) -> LateWindow {
        LateWindow { window: self.config.late_window, since_arrival: self.arrived.elapsed() }
    }

    /// Loads the session again. `false` when it is gone.
    pub(crate) async fn reload(&self) -> Result<bool, SessionError> {
        let _events = self.send_events_at_the_end();
        let _order = self.turn().await;
        let Some(id) = self.with_state(|state| state.seen.id()) else { return Ok(false) };
        let late = self.late_budget();
        let loaded = self.fetch(&id, late.as_ref().unwrap_or(&self.budget)).await?;
        let late_window = self.late_window();
        Ok(self.with_state(|state| {
            let was_copied = std::mem::take(&mut state.copied);
            match loaded {
                Loaded::Alive(record) => state.record = Some(record),
                Loaded::Absent | Loaded::Ended { .. } => {
                    state.record = None;
                    // Else `seen` stays: to a request that knew it alive, a session that ended is a conflict and no reason to start
                    // another. That a copy showed it is no such knowledge.
                    if was_copied && state.committed.is_none() {
                        state.see(id, loaded, &late_window);
                    }
                }
            }
            state.record.is_some()
        }))
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
        if !self.config.store.confirm_master().await? {
            return Ok(());
        }
        // In any case: as long as the browser says so, every read asks the sentinels, and no copy will do.
        let known = self.with_state(|state| std::mem::replace(&mut state.rolled_back, true));
        if known || !self.config.rollback_detection {
            return Ok(());
        }
        telemetry::rolled_back(id);
        let event = SessionEvent::RolledBack { session: id.handle(), lost: told, found };
        self.with_state(|state| state.events.push(event));
        Ok(())
    }

    /// Tells the program what happened once the operation has ended and released its locks. First in each operation that asks the store,
    /// so that it is dropped last.
    fn send_events_at_the_end(&self) -> impl Drop + use<'_> {
        OnDrop(|| {
            let Some(on_event) = &self.config.on_event else { return };
            for event in self.with_state(|state| std::mem::take(&mut state.events)) {
                on_event(&event);
            }
        })
    }

    /// A budget for what happens after the response's head, which may be long ago for a stream: each call has one of its own.
    fn late_budget(&self) -> Option<Budget> {
        self.with_state(|state| state.sealed).then(|| Budget::new(self.config.budget))
    }
}

/// How long a copy may be kept in memory. What the server says about it in the meantime counts; this is for what it forgets to say.
const LONGEST_COPY: Duration = Duration::from_secs(30);
