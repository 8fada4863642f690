//! What a store must answer, said once more in the plainest way.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use session_layer::store::{
    AboveLimit, Action, Change, Commit, Lifetimes, Limits, Renewal, Reply, Start, TOMBSTONE_LIFETIME, Version,
    parse_counter,
};
use session_layer::{Limit, SessionId};

use super::steps::Begin;

const IDLE: u64 = 60;
const ABSOLUTE: u64 = 100;
pub(super) const LIFETIMES: Lifetimes =
    Lifetimes { idle_timeout: Duration::from_secs(IDLE), absolute_timeout: Some(Duration::from_secs(ABSOLUTE)) };
pub(super) const REALM: &str = "shop";
pub(super) const NAMES: [&str; 3] = ["a", "b", "c"];
pub(super) const PRINCIPALS: [&str; 2] = ["alice", "bob"];
/// Two of three names fit.
pub(super) const MOST_ATTRIBUTES: usize = 2;

/// What the model keeps of an ID, and until when, in seconds.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    Alive { session: Session, until: u64 },
    Tombstone { successor: Option<SessionId>, until: u64 },
}

#[derive(Debug, Clone, Default)]
pub(super) struct Session {
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) principal: Option<usize>,
    /// The how manieth login it was.
    login: usize,
    /// When it was created, or its principal logged in.
    began: u64,
    pub(super) version: Version,
}

#[derive(Default)]
pub(super) struct Model {
    pub(super) now: u64,
    logins: usize,
    pub(super) entries: BTreeMap<usize, Entry>,
}

impl Model {
    pub(super) fn entry(&self, at: usize) -> Option<&Entry> {
        self.entries.get(&at).filter(|entry| match entry {
            Entry::Alive { until, .. } | Entry::Tombstone { until, .. } => *until > self.now,
        })
    }

    /// How long ago a session ended whose tombstone lasts until then.
    pub(super) fn age(&self, until: u64) -> Duration {
        TOMBSTONE_LIFETIME - Duration::from_secs(until - self.now)
    }

    pub(super) fn alive(&self, at: usize) -> Option<&Session> {
        match self.entry(at) {
            Some(Entry::Alive { session, .. }) => Some(session),
            _ => None,
        }
    }

    pub(super) fn keep(&mut self, at: usize, session: Session) {
        let until = (self.now + IDLE).min(session.began + ABSOLUTE);
        self.entries.insert(at, Entry::Alive { session, until });
    }

    pub(super) fn bury(&mut self, at: usize, successor: Option<SessionId>) {
        let until = self.now + TOMBSTONE_LIFETIME.as_secs();
        self.entries.insert(at, Entry::Tombstone { successor, until });
    }

    pub(super) fn touch(&mut self, at: usize) {
        if let Some(session) = self.alive(at).cloned() {
            self.keep(at, session);
        }
    }

    /// The live sessions of a principal, the first login first.
    pub(super) fn listed(&self, principal: usize) -> Vec<usize> {
        let mut listed: Vec<_> = self
            .entries
            .keys()
            .filter_map(|at| Some((self.alive(*at)?, *at)))
            .filter(|(session, _)| session.principal == Some(principal))
            .map(|(session, at)| (session.login, at))
            .collect();
        listed.sort_unstable();
        listed.into_iter().map(|(_, at)| at).collect()
    }

    pub(super) fn commit(&mut self, commit: &Commit, of: usize, target: Option<usize>, ids: &[SessionId]) -> Reply {
        let mut session = match (&commit.action, self.entry(of)) {
            (Action::Create(_, start), _) => Session { version: Version(0), ..self.begin(start) },
            (_, None) => return Reply::Absent,
            (_, Some(Entry::Tombstone { successor, until })) => {
                return Reply::Ended { successor: *successor, age: self.age(*until) };
            }
            (_, Some(Entry::Alive { .. })) if commit.seen.is_some() => return Reply::RolledBack,
            (_, Some(Entry::Alive { session, .. })) => session.clone(),
        };
        let mut link = target.map(|target| ids[target]);
        match &commit.action {
            Action::Renew(_, _, Renewal::Replace { start, linked }) => {
                session = self.begin(start);
                link = link.filter(|_| *linked);
            }
            Action::Renew(_, _, Renewal::LogIn { principal }) => {
                session.principal = PRINCIPALS.iter().position(|known| known == principal);
                session.began = self.now;
            }
            Action::Destroy(_) => {
                self.bury(of, None);
                return Reply::Applied {
                    version: session.version,
                    counters: BTreeMap::new(),
                    confirmed: true,
                    history: Vec::new(),
                };
            }
            _ => {}
        }
        let counters = match change(&mut session.attributes, commit) {
            Ok(counters) => counters,
            Err(reply) => return reply,
        };
        if let Some(principal) = commit.action.logs_in() {
            let principal = PRINCIPALS.iter().position(|known| *known == principal).expect("one of ours");
            let others: Vec<_> = self.listed(principal).into_iter().filter(|at| *at != of).collect();
            if let Some(limit) = commit.sessions
                && others.len() >= limit.most
            {
                if limit.above == AboveLimit::Refuse {
                    return Reply::TooManySessions;
                }
                let too_many = others.len() + 1 - limit.most;
                others.into_iter().take(too_many).for_each(|at| self.bury(at, None));
            }
            self.logins += 1;
            session.login = self.logins;
        }
        if target != Some(of) {
            self.bury(of, link);
        }
        let version = session.version;
        self.keep(target.expect("not destroyed"), session);
        Reply::Applied { version, counters, confirmed: true, history: Vec::new() }
    }

    pub(super) fn begin(&self, start: &Start) -> Session {
        Session {
            principal: start.principal.as_ref().and_then(|name| PRINCIPALS.iter().position(|known| known == name)),
            began: self.now,
            ..Session::default()
        }
    }
}

pub(super) fn start(begin: &Begin) -> Start {
    Start {
        created_on: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000),
        principal: begin.principal.map(|at| PRINCIPALS[at].into()),
    }
}

fn change(attributes: &mut BTreeMap<String, String>, commit: &Commit) -> Result<BTreeMap<String, i64>, Reply> {
    for (name, expected) in &commit.conditions {
        let current = attributes.get(name).map(|value| value.clone().into());
        if current != *expected {
            return Err(Reply::Conflict { name: name.clone(), current });
        }
    }
    let before = attributes.len();
    if commit.clear {
        attributes.clear();
    }
    let mut counters = BTreeMap::new();
    for (name, change) in &commit.changes {
        match change {
            Change::Set(value) => {
                attributes.insert(name.clone(), String::from_utf8_lossy(value).into_owned());
            }
            Change::Remove => {
                attributes.remove(name);
            }
            Change::Add(by) => {
                let old = attributes.get(name).map_or(Some(0), |value| parse_counter(value.as_bytes()));
                let new = old.ok_or_else(|| Reply::NotACounter(name.clone()))? + by;
                attributes.insert(name.clone(), new.to_string());
                counters.insert(name.clone(), new);
            }
        }
    }
    let Limits { attributes: most, .. } = commit.limits;
    if attributes.len() > most.max(before) { Err(Reply::Limit(Limit::Attributes)) } else { Ok(counters) }
}
