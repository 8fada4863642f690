//! What the store was asked and what it answered, and whether it keeps its word.
//!
//! The ledger stands right before the store: it sees each call when it arrives and each answer before it can get lost. It knows
//! no attributes; those are judged by what clients are told.
//!
//! Of each session ID it knows for how long it is certainly alive and from when on it is certainly gone. Between the two lies
//! what calls that are under way may still decide.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use session_layer::store::{AboveLimit, Action, CommitId, Loaded, Record, StoreError, TOMBSTONE_LIFETIME};
use session_layer::{SessionHandle, SessionId};
use tokio::time::Instant;

use super::check::{Check, Violation};

mod commits;
mod principals;

/// When something began: in the order of events, and on the clock.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub tick: u64,
    pub at: Instant,
}

/// Whose list it is: those of a principal in one realm.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    pub realm: String,
    pub principal: String,
}

impl Owner {
    pub fn new(realm: &str, principal: &str) -> Self {
        Self { realm: realm.to_owned(), principal: principal.to_owned() }
    }
}

/// One session ID.
#[derive(Debug)]
pub struct Ident {
    pub id: SessionId,
    pub realm: String,
    /// Sessions that are one and the same to their user, however often the ID is renewed.
    pub lineage: usize,
    pub principal: Option<String>,
    parent: Option<usize>,
    /// Its creation was acknowledged by the store.
    pub born: bool,
    /// It is certainly gone since.
    pub gone: Option<u64>,
    /// When it certainly was a tombstone.
    pub buried: Option<Instant>,
    pub ended: Option<Ended>,
    revoked: bool,
    /// Something was sent that may end it.
    ending: bool,
    /// What entered it into its list, from when to when: commits and touches.
    entered: Vec<(u64, u64)>,
    at_least_until: Instant,
    at_most_until: Instant,
    absolute: Option<(Instant, Instant)>,
    prolonging: usize,
}

/// How a commit ended a session.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Between these.
    pub earliest: Instant,
    pub latest: Instant,
    /// The tombstone names a successor.
    pub linked: bool,
}

/// One commit, however often it was sent.
#[derive(Debug)]
pub struct Sent {
    pub first: Moment,
    pub action: Action,
    pub absolute_timeout: Option<Duration>,
    /// Whose attributes it changes.
    pub lineage: Option<usize>,
    pub applied: bool,
    /// The store may have applied it, and could not say so.
    pub unknown: bool,
}

pub struct Ledger {
    /// When each tick was.
    ticks: Vec<Instant>,
    idle_timeout: Duration,
    pub limit: Option<(usize, AboveLimit)>,
    pub idents: Vec<Ident>,
    by_id: HashMap<SessionId, usize>,
    by_handle: HashMap<SessionHandle, usize>,
    pub sent: HashMap<CommitId, Sent>,
    revocations: HashMap<CommitId, (Moment, Vec<usize>)>,
    /// Principals whose sessions may be ended by what is under way.
    threatened: Vec<Owner>,
    /// When the store lost which list.
    pub lost: HashMap<Owner, Vec<u64>>,
    pub lineages: usize,
    pub violations: Vec<Violation>,
    /// How often each situation that is hard to get right came up.
    pub met: BTreeMap<&'static str, u64>,
    pub trace: Option<Vec<String>>,
    started: Instant,
}

impl Ledger {
    pub fn new(idle_timeout: Duration, limit: Option<(usize, AboveLimit)>, traced: bool) -> Self {
        Self {
            ticks: Vec::new(),
            idle_timeout,
            limit,
            idents: Vec::new(),
            by_id: HashMap::new(),
            by_handle: HashMap::new(),
            sent: HashMap::new(),
            revocations: HashMap::new(),
            threatened: Vec::new(),
            lost: HashMap::new(),
            lineages: 0,
            violations: Vec::new(),
            met: BTreeMap::new(),
            trace: traced.then(Vec::new),
            started: Instant::now(),
        }
    }

    pub fn now(&mut self) -> Moment {
        let at = Instant::now();
        self.ticks.push(at);
        Moment { tick: self.ticks.len() as u64, at }
    }

    /// The last tick that was not after `at`.
    pub fn tick_of(&self, at: Instant) -> u64 {
        self.ticks.partition_point(|tick| *tick <= at) as u64
    }

    pub fn fail(&mut self, check: Check, what: impl Into<String>) {
        let what = what.into();
        self.note(|| format!("NOT KEPT: {check}: {what}"));
        self.violations.push(Violation { check, what });
    }

    pub fn meet(&mut self, situation: &'static str) {
        *self.met.entry(situation).or_default() += 1;
    }

    /// A line for whoever reads what happened; made only when somebody does.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>8} ms  {}", self.started.elapsed().as_millis(), line()));
        }
    }

    pub fn find(&self, id: &SessionId) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    pub fn find_handle(&self, handle: &SessionHandle) -> Option<usize> {
        self.by_handle.get(handle).copied()
    }

    pub fn name(&self, id: &SessionId) -> String {
        self.find(id).map_or_else(|| "an unknown session".to_owned(), |ident| format!("session #{ident}"))
    }

    pub fn surely_alive(&self, ident: usize, at: Instant) -> bool {
        let ident = &self.idents[ident];
        ident.born && ident.gone.is_none() && !ident.ending && at < ident.at_least_until
    }

    // Reads and touches.

    pub fn load_ends(&mut self, id: &SessionId, began: Moment, loaded: &Result<Loaded, StoreError>) {
        let now = self.now();
        let Some(ident) = self.find(id) else { return };
        match loaded {
            Ok(Loaded::Alive(record)) => {
                self.is_alive(ident, began, "was loaded");
                if record.principal != self.idents[ident].principal {
                    let what = format!(
                        "session #{ident} of {:?} was loaded as that of {:?}",
                        self.idents[ident].principal, record.principal
                    );
                    self.fail(Check::NobodySeesWhatIsNotTheirs, what);
                }
            }
            Ok(Loaded::Absent | Loaded::Ended { .. }) => self.is_missing(ident, now),
            Err(_) => {}
        }
    }

    /// Somebody is served from a copy, which shows how it was at some time since that tick.
    pub fn copy_is_read(&mut self, id: &SessionId, since: u64, copy: &Record) {
        let at = Instant::now();
        let Some(ident) = self.find(id) else { return };
        self.note(|| format!("session #{ident} is read from a copy, of {:?}", copy.principal));
        self.is_alive(ident, Moment { tick: since, at }, "was read from a copy");
        if copy.principal != self.idents[ident].principal {
            self.fail(
                Check::NobodySeesWhatIsNotTheirs,
                format!("session #{ident} was read as that of {:?}", copy.principal),
            );
        }
    }

    pub fn touch_begins(&mut self, id: &SessionId) -> Moment {
        if let Some(ident) = self.find(id) {
            self.idents[ident].prolonging += 1;
        }
        self.now()
    }

    pub fn touch_ends(&mut self, id: &SessionId, began: Moment, touched: &Result<(), StoreError>) {
        let now = self.now();
        let Some(ident) = self.find(id) else { return };
        self.idents[ident].prolonging -= 1;
        if touched.is_ok() {
            self.enter(ident, began);
        }
        if touched.is_ok() && self.surely_alive(ident, now.at) {
            self.prolong(ident, began.at);
            self.meet("a touch of a live session");
        } else if self.idents[ident].at_most_until >= began.at {
            self.may_prolong(ident);
        }
    }

    // What each observation means.

    /// Somebody was served from it by a call that began then.
    fn is_alive(&mut self, ident: usize, began: Moment, how: &str) {
        let known = &self.idents[ident];
        if known.gone.is_some_and(|gone| gone < began.tick) {
            self.fail(Check::WhatEndedStaysEnded, format!("session #{ident} had ended, and {how}"));
        } else if known.prolonging == 0 && began.at > known.at_most_until {
            let late = began.at - known.at_most_until;
            self.fail(Check::SessionsExpireInTime, format!("session #{ident} {how} {late:?} after its timeout"));
        }
    }

    /// The store says that it is not there.
    fn is_missing(&mut self, ident: usize, now: Moment) {
        if self.surely_alive(ident, now.at) {
            self.fail(Check::NoLiveSessionIsMissing, format!("session #{ident} is alive, and was not found"));
        }
        self.is_gone(ident, now);
    }

    fn is_gone(&mut self, ident: usize, now: Moment) {
        self.idents[ident].gone.get_or_insert(now.tick);
    }

    fn prolong(&mut self, ident: usize, from: Instant) {
        let idle = from + self.idle_timeout;
        let known = &mut self.idents[ident];
        let least = known.absolute.map_or(idle, |(least, _)| idle.min(least));
        known.at_least_until = known.at_least_until.max(least);
        self.may_prolong(ident);
    }

    fn may_prolong(&mut self, ident: usize) {
        let idle = Instant::now() + self.idle_timeout;
        let known = &mut self.idents[ident];
        let most = known.absolute.map_or(idle, |(_, most)| idle.min(most));
        known.at_most_until = known.at_most_until.max(most);
    }

    /// IDs that were tombstones, with when the tombstone must be gone, the first to go first.
    pub fn graves(&self) -> Vec<(Instant, SessionId)> {
        let mut graves: Vec<_> = self
            .idents
            .iter()
            .filter_map(|ident| Some((ident.buried? + TOMBSTONE_LIFETIME + Duration::from_millis(1), ident.id)))
            .collect();
        graves.sort_by_key(|(until, _)| *until);
        graves
    }
}
