//! The one state that everything in a request shares: middleware, extractors, spawned tasks, and the layer itself.
//!
//! What is decided, is decided in [`commit`](crate::commit); this and what is below it carries it out. No lock is held across an await but
//! `flushing`, which keeps the commits of one request in order. Only the store's code runs under that one; no code of the app, such as
//! closures and `Serialize` implementations, and no `tracing` subscriber runs under the lock of the state.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, header};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::budget::{Budget, OnDrop};
use crate::commit::{LateWindow, Seen};
use crate::delta::Delta;
use crate::error::{Kind, SessionError};
use crate::freshness::Token;
use crate::id::SessionId;
use crate::layer::Config;
use crate::record::Version;
use crate::state::State;
use crate::telemetry;
use crate::transport::{Candidates, is_withheld};

mod load; // finds and loads the session

mod flush; // changes that do not wait for the answer

mod commit; // carries out what is decided about a delta

mod answer; // what the answer waits for

mod headers; // what the answer tells the browser

mod running; // what keeps the session alive until the answer is there
pub(crate) use running::Running;

pub(crate) struct Slot {
    config: Arc<Config>,
    /// When the request reached the layer.
    arrived: Instant,
    /// Kept, not parsed: a request that never asks for its session pays for neither parsing nor MAC.
    cookies: Cookies,
    /// The browser may have a cookie that it did not send.
    withheld: bool,
    presented: OnceLock<Candidates>,
    /// What the browser was told of the first of them, where something depends on that.
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
    pub(crate) fn new<B>(request: &Request<B>, config: &Arc<Config>) -> Arc<Self> {
        Arc::new(Self {
            config: Arc::clone(config),
            arrived: Instant::now(),
            cookies: Cookies::of(request.headers()),
            withheld: is_withheld(config.cookie.same_site, request.method(), request.headers()),
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

    /// Whether this layer, where it stands further in, may use the slot. Not one whose answer is out: a request made of another's
    /// extensions is a new one.
    pub(crate) fn can_be_used_by(&self, config: &Arc<Config>) -> bool {
        // A state that is not there yet is not made by looking: then the session is still untouched.
        let is_sealed = || self.state.get().is_some() && self.with_state(|state| state.sealed);
        Arc::ptr_eq(&self.config, config) && !is_sealed()
    }

    /// Whether another layer uses a cookie of this one. Two slots for one cookie would each commit and set it, and the later answer
    /// would lose what the other has stored.
    pub(crate) fn conflict_with(&self, other: &Arc<Config>) -> Option<SessionError> {
        if Arc::ptr_eq(&self.config, other) || self.config.cookie.name != other.cookie.name {
            return None;
        }
        let error = SessionError::new(Kind::SharedCookie {
            name: other.cookie.name.clone(),
            layers: [self.config.origin.to_string(), other.origin.to_string()],
        });
        telemetry::layers_share_a_cookie(&error);
        Some(error)
    }

    /// The request was refused further in: its answer is this error, and nothing is committed.
    pub(crate) fn refuse(&self, error: &SessionError) {
        // Dropped after the lock is released: it may hold an error of the store.
        let failed = self.with_state(|state| {
            state.seal();
            state.refused = true;
            state.failed.replace(error.clone())
        });
        drop(failed);
    }

    /// The cookies that the browser presented and we signed.
    fn candidates(&self) -> &Candidates {
        self.presented.get_or_init(|| {
            let candidates = self.config.cookie.read(self.cookies.iter(), &self.config.signer);
            if let Some(id) = candidates.first() {
                self.with_state(|state| state.seen = Seen::Unseen(id));
            }
            if candidates.are_several() {
                telemetry::several_cookies(&self.config.cookie.name);
            }
            candidates
        })
    }

    /// The ID that the browser presented first, if it presented any that we signed.
    pub(crate) fn presented(&self) -> Option<SessionId> {
        self.candidates().first()
    }

    /// Whether a session that this request starts without meaning to is refused, because its cookie might replace one that the browser
    /// has and did not send.
    pub(crate) fn must_not_start(&self) -> bool {
        self.withheld && self.presented().is_none() && !self.config.cross_site_start
    }

    /// What the browser was told of this session; `None` also where nothing depends on it.
    fn token(&self, id: &SessionId) -> Option<Token> {
        let tokens = self.config.tokens.as_ref()?;
        let candidates = self.candidates();
        if candidates.first() == Some(*id) {
            *self.told.get_or_init(|| tokens.read(self.cookies.iter(), id))
        } else {
            candidates.find(id).and_then(|_| tokens.read(self.cookies.iter(), id))
        }
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
