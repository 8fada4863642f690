//! What a store in memory keeps, and what operations do to it. Knows no lock and no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::attributes::change;
use super::expiring::Expiring;
use super::limits::{self, MemoryUsage};
use super::lists::Lists;
use super::session::Session;
use crate::commit::{AboveLimit, Action, Commit, CommitId, Renewal, Reply};
use crate::id::SessionId;
use crate::record::Version;
use crate::store::TOMBSTONE_LIFETIME;

/// How much an operation sweeps of what has expired. It adds a session, a tombstone or two and an answer; this catches up.
const SWEEP_STEPS: usize = 16;

/// All that a store keeps.
#[derive(Clone, Default)]
pub(super) struct State {
    pub(super) entries: Expiring<SessionId, Entry>,
    /// What was answered, in case it is asked again.
    answers: Expiring<CommitId, Answer>,
    pub(super) lists: Lists,
}

/// What is kept under an ID.
#[derive(Clone)]
pub(super) enum Entry {
    Session(Session),
    Tombstone(Option<SessionId>),
}

#[derive(Clone)]
pub(super) enum Answer {
    Commit(Reply),
    /// So many sessions ended.
    Revocation(usize),
}

impl State {
    /// Drops some of what has expired. Called by each operation, which adds fewer entries than this may drop: so what has expired does
    /// not pile up, and no operation does the work of many.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.answers.sweep(now, SWEEP_STEPS, |_, _| ());
        let lists = &mut self.lists;
        self.entries.sweep(now, SWEEP_STEPS, |id, entry| {
            if let Entry::Session(Session { principal: Some(principal), .. }) = entry {
                lists.leave(&principal, &id);
            }
        });
    }

    pub(super) fn usage(&self) -> MemoryUsage {
        MemoryUsage {
            entries: self.entries.len() + self.answers.len(),
            bytes: self.entries.bytes() + self.answers.bytes(),
        }
    }

    pub(super) fn answer_to(&self, id: &CommitId, now: Instant) -> Option<&Answer> {
        self.answers.get(id, now).map(|(answer, _)| answer)
    }

    pub(super) fn remember(&mut self, id: CommitId, answer: Answer, until: Instant) {
        let bytes = limits::answer(&answer);
        self.answers.insert(id, answer, until, bytes);
    }

    pub(super) fn commit(&mut self, commit: &Commit, now: Instant) -> Reply {
        let mut session = match self.base(commit, now) {
            Ok(session) => session,
            Err(reply) => return reply,
        };
        if let Action::Destroy(id) = commit.action {
            self.bury(id, None, now);
            let (counters, history) = (BTreeMap::new(), Vec::new());
            return Reply::Applied { version: session.version, counters, confirmed: true, history };
        }
        let counters = match change(&mut session.attributes, commit) {
            Ok(counters) => counters,
            Err(reply) => return reply,
        };
        let evicted = match self.above_limit(commit, now) {
            Ok(evicted) => evicted,
            Err(reply) => return reply,
        };

        // All checks are done; from here on everything is written.
        for id in evicted {
            self.bury(id, None, now);
        }
        let history = session.advance(commit.keep_history);
        let version = session.version;
        let id = match &commit.action {
            Action::Create(id, _) | Action::Apply(id) | Action::Destroy(id) => *id,
            Action::Renew(id, successor, renewal) => {
                let linked = !matches!(renewal, Renewal::Replace { linked: false, .. });
                self.bury(*id, linked.then_some(*successor), now);
                *successor
            }
        };
        if commit.action.begins() {
            session.since = version;
        }
        if let Some(principal) = &session.principal {
            self.lists.enter(&commit.realm, principal, id, session.since);
        }
        let until = session.until(now);
        let bytes = limits::session(&session);
        self.entries.insert(id, Entry::Session(session), until, bytes);
        Reply::Applied { version, counters, confirmed: true, history }
    }

    /// The sessions that must end so that this login keeps the limit of its principal.
    fn above_limit(&mut self, commit: &Commit, now: Instant) -> Result<Vec<SessionId>, Reply> {
        let (Some(principal), Some(limit)) = (commit.action.logs_in(), commit.sessions) else { return Ok(Vec::new()) };
        let mut others = self.listed(&commit.realm, principal, now);
        others.retain(|(_, id)| id != commit.action.id());
        let too_many = (others.len() + 1).saturating_sub(limit.most);
        match limit.above {
            AboveLimit::Refuse if too_many > 0 => Err(Reply::TooManySessions),
            _ => Ok(others.into_iter().take(too_many).map(|(_, id)| id).collect()),
        }
    }

    /// The live sessions of a principal, those that logged in first first.
    pub(super) fn listed(&self, realm: &str, principal: &str, now: Instant) -> Vec<(Version, SessionId)> {
        let is_alive = |id: &SessionId| matches!(self.entries.get(id, now), Some((Entry::Session(_), _)));
        let mut listed: Vec<_> = self.lists.of(realm, principal).filter(|(_, id)| is_alive(id)).collect();
        listed.sort_by_key(|(since, _)| *since);
        listed
    }

    /// The session as it is before its attributes are changed, or why there is none to change.
    fn base(&mut self, commit: &Commit, now: Instant) -> Result<Session, Reply> {
        if let Action::Create(id, start) = &commit.action {
            return match self.entries.get(id, now) {
                None => Ok(Session::start(start, commit.lifetimes, now)),
                Some(_) => Err(Reply::Occupied),
            };
        }
        if let Action::Renew(_, successor, _) = &commit.action
            && self.entries.get(successor, now).is_some()
        {
            return Err(Reply::Occupied);
        }
        let mut session = match self.entries.get(commit.action.id(), now) {
            None => return Err(Reply::Absent),
            Some((Entry::Tombstone(successor), until)) => {
                return Err(Reply::Ended { successor: *successor, age: age(until, now) });
            }
            Some((Entry::Session(session), _)) => session.clone(),
        };
        if commit.action.target().is_some() {
            session.lifetimes = commit.lifetimes;
            if session.until(now) <= now && !commit.action.begins() {
                // By a setting that was lowered since.
                self.entries.remove(commit.action.id());
                if let Some(principal) = session.principal {
                    self.lists.leave(&principal, commit.action.id());
                }
                return Err(Reply::Absent);
            }
        }
        if commit.seen.is_some_and(|seen| session.version < seen) {
            return Err(Reply::RolledBack);
        }
        match &commit.action {
            Action::Renew(_, _, Renewal::Replace { start, .. }) => {
                session = Session::start(start, commit.lifetimes, now);
            }
            Action::Renew(_, _, Renewal::LogIn { principal }) => {
                session.principal = Some(principal.clone());
                session.began = now;
            }
            Action::Renew(_, _, Renewal::Keep) | Action::Apply(_) | Action::Destroy(_) | Action::Create(..) => {}
        }
        Ok(session)
    }

    /// Ends a session, also in the lists of its principal.
    pub(super) fn bury(&mut self, id: SessionId, successor: Option<SessionId>, now: Instant) {
        let until = now + TOMBSTONE_LIFETIME;
        let before = self.entries.insert(id, Entry::Tombstone(successor), until, limits::TOMBSTONE);
        if let Some(Entry::Session(Session { principal: Some(principal), .. })) = before {
            self.lists.leave(&principal, &id);
        }
    }
}

/// How long ago a session ended whose tombstone lasts until then.
pub(super) fn age(until: Instant, now: Instant) -> Duration {
    TOMBSTONE_LIFETIME.saturating_sub(until.saturating_duration_since(now))
}
