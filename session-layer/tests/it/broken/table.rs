//! What the store keeps. Each method is one step that nobody else comes between.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use session_layer::store::{
    AboveLimit, Action, Attributes, Change, Commit, CommitId, Lifetimes, Listed, Loaded, Record, Renewal, Reply,
    Revocation, Revoke, Revoked, Start, TOMBSTONE_LIFETIME, Touch, Version, parse_counter,
};
use session_layer::{Limit, SessionId};
use tokio::time::Instant;

use super::Defect;

/// Logins are counted, not timed, from when the first one is asked about.
static BEGAN: std::sync::LazyLock<SystemTime> = std::sync::LazyLock::new(SystemTime::now);

#[derive(Default)]
pub(super) struct Table {
    rows: HashMap<SessionId, Row>,
    replies: HashMap<CommitId, Reply>,
    revocations: HashMap<CommitId, Revoked>,
    /// By realm and principal: its sessions, and which login each was.
    index: HashMap<(String, String), Vec<(u64, SessionId)>>,
    logins: u64,
    last_version: u64,
}

#[derive(Clone)]
struct Row {
    attributes: Attributes,
    created_on: SystemTime,
    lifetimes: Lifetimes,
    /// What the absolute timeout counts from.
    began: Instant,
    /// Which login it was.
    login: u64,
    version: u64,
    principal: Option<String>,
    until: Instant,
    /// A tombstone keeps the row, and the ID that replaced it.
    ended: Option<Option<SessionId>>,
}

impl Row {
    fn new(start: &Start, lifetimes: Lifetimes) -> Self {
        let now = Instant::now();
        let mut row = Self {
            attributes: Attributes::new(),
            created_on: start.created_on,
            lifetimes,
            began: now,
            login: 0,
            version: 0,
            principal: start.principal.clone(),
            until: now,
            ended: None,
        };
        row.prolong();
        row
    }

    fn prolong(&mut self) {
        let idle = Instant::now() + self.lifetimes.idle_timeout;
        self.until = self.ends().map_or(idle, |ends| idle.min(ends));
    }

    fn ends(&self) -> Option<Instant> {
        self.lifetimes.absolute_timeout.map(|timeout| self.began + timeout)
    }

    fn record(&self) -> Record {
        let now = Instant::now();
        Record {
            attributes: self.attributes.clone(),
            created_on: self.created_on,
            idle_timeout: self.lifetimes.idle_timeout,
            absolute_timeout: self.lifetimes.absolute_timeout,
            expires_on: self.ends().map(|ends| SystemTime::now() + ends.saturating_duration_since(now)),
            ttl: self.until.saturating_duration_since(now),
            version: Version(self.version),
            principal: self.principal.clone(),
            history: Vec::new(),
        }
    }
}

/// How long ago a session ended whose tombstone lasts until then.
fn age(until: Instant) -> Duration {
    TOMBSTONE_LIFETIME.saturating_sub(until.saturating_duration_since(Instant::now()))
}

impl Table {
    /// What is there now, tombstones included.
    fn row(&mut self, id: &SessionId) -> Option<&mut Row> {
        self.rows.get_mut(id).filter(|row| row.until > Instant::now())
    }

    pub(super) fn is_alive(&mut self, id: &SessionId) -> bool {
        self.row(id).is_some_and(|row| row.ended.is_none())
    }

    pub(super) fn attributes(&mut self, id: &SessionId) -> Attributes {
        self.row(id).map(|row| row.attributes.clone()).unwrap_or_default()
    }

    pub(super) fn replace_attributes(&mut self, id: &SessionId, attributes: Attributes) {
        if let Some(row) = self.row(id) {
            row.attributes = attributes;
        }
    }

    pub(super) fn load(&mut self, id: &SessionId) -> Loaded {
        match self.row(id) {
            None => Loaded::Absent,
            Some(Row { ended: Some(successor), until, .. }) => {
                Loaded::Ended { successor: *successor, age: age(*until) }
            }
            Some(row) => Loaded::Alive(row.record()),
        }
    }

    pub(super) fn reply_to(&self, id: &CommitId) -> Option<Reply> {
        self.replies.get(id).cloned()
    }

    pub(super) fn remember(&mut self, commit: &Commit, reply: &Reply) {
        self.replies.insert(commit.id, reply.clone());
    }

    /// What a store says that takes silence for success.
    pub(super) fn guess(&mut self, commit: &Commit) -> Option<Reply> {
        let mut counters = BTreeMap::new();
        let attributes = self.attributes(commit.action.id());
        for (name, change) in &commit.changes {
            if let Change::Add(by) = change {
                let old = attributes.get(name).map_or(Some(0), |value| parse_counter(value))?;
                counters.insert(name.clone(), old + by);
            }
        }
        Some(Reply::Applied { version: Version(self.last_version + 1), counters, confirmed: true, history: Vec::new() })
    }

    pub(super) fn commit(&mut self, commit: &Commit, defect: Option<Defect>) -> Reply {
        let has = |other| defect == Some(other);
        let mut row = match self.base(commit, defect) {
            Ok(row) => row,
            Err(reply) => return reply,
        };
        if let Action::Destroy(id) = &commit.action {
            if has(Defect::KeepsADeadSessionInTheIndex) {
                self.bury_unlisted(id, None);
            } else {
                self.bury(id, None);
            }
            return Reply::Applied {
                version: Version(row.version),
                counters: BTreeMap::new(),
                confirmed: true,
                history: Vec::new(),
            };
        }
        let begins = matches!(
            commit.action,
            Action::Create(..) | Action::Renew(_, _, Renewal::LogIn { .. } | Renewal::Replace { .. })
        );
        let changed = change(&mut row.attributes, commit);
        if has(Defect::AppliesBeforeAllChecksPassed) && matches!(commit.action, Action::Apply(_)) {
            self.replace_attributes(commit.action.id(), row.attributes.clone());
        }
        let counters = match changed {
            Ok(counters) => counters,
            Err(reply) => return reply,
        };
        match self.above_limit(commit, defect) {
            Ok(evicted) => evicted.iter().for_each(|id| self.bury(id, None)),
            Err(reply) => return reply,
        }
        self.last_version += 1;
        row.version = self.last_version;
        if !has(Defect::NeverProlongs) || !matches!(commit.action, Action::Apply(_)) {
            row.prolong();
        }
        let id = *commit.action.target().expect("only a destroyed session has none");
        let is_renewal = if let Action::Renew(old, _, renewal) = &commit.action {
            if !has(Defect::KeepsTheOldIdAlive) {
                let linked = !matches!(renewal, Renewal::Replace { linked: false, .. });
                self.bury(old, linked.then_some(id));
            }
            true
        } else {
            false
        };
        if begins {
            self.logins += 1;
            row.login = self.logins;
        }
        let forgets = if is_renewal { Defect::MissesASessionInTheIndex } else { Defect::NeverRepairsAList };
        if begins || !has(forgets) {
            self.enter(&commit.realm, &row, id, defect);
        }
        let version = Version(row.version);
        self.rows.insert(id, row);
        Reply::Applied { version, counters, confirmed: true, history: Vec::new() }
    }

    /// The row before its attributes are changed.
    fn base(&mut self, commit: &Commit, defect: Option<Defect>) -> Result<Row, Reply> {
        if let Some(fresh) = match &commit.action {
            Action::Create(id, _) | Action::Renew(_, id, _) => Some(id),
            Action::Apply(_) | Action::Destroy(_) => None,
        } && self.row(fresh).is_some()
        {
            return Err(Reply::Occupied);
        }
        if let Action::Create(_, start) = &commit.action {
            return Ok(Row::new(start, commit.lifetimes));
        }
        let may_upsert = defect == Some(Defect::UpsertsOnSave) && matches!(commit.action, Action::Apply(_));
        let into_the_dead =
            defect == Some(Defect::WritesIntoADestroyedSession) && matches!(commit.action, Action::Apply(_));
        let row = match self.row(commit.action.id()) {
            None if may_upsert => Row::new(&Start { created_on: SystemTime::now(), principal: None }, commit.lifetimes),
            None => return Err(Reply::Absent),
            Some(Row { ended: Some(successor), until, .. }) if !(into_the_dead && successor.is_none()) => {
                return Err(Reply::Ended { successor: *successor, age: age(*until) });
            }
            Some(row) => row.clone(),
        };
        if commit.seen.is_some_and(|seen| row.version < seen.0) {
            return Err(Reply::RolledBack);
        }
        let row = Row { lifetimes: commit.lifetimes, ..row };
        Ok(match &commit.action {
            Action::Renew(_, _, Renewal::Replace { start, .. }) => Row::new(start, commit.lifetimes),
            Action::Renew(_, _, Renewal::LogIn { principal }) => {
                Row { principal: Some(principal.clone()), began: Instant::now(), ..row }
            }
            Action::Apply(id) | Action::Renew(id, ..) if row.ends().is_some_and(|ends| ends <= Instant::now()) => {
                self.rows.remove(id);
                return Err(Reply::Absent);
            }
            _ => row,
        })
    }

    pub(super) fn bury(&mut self, id: &SessionId, successor: Option<SessionId>) {
        for sessions in self.index.values_mut() {
            sessions.retain(|(_, listed)| listed != id);
        }
        self.bury_unlisted(id, successor);
    }

    fn bury_unlisted(&mut self, id: &SessionId, successor: Option<SessionId>) {
        if let Some(row) = self.rows.get_mut(id) {
            row.ended = Some(successor);
            row.until = Instant::now() + TOMBSTONE_LIFETIME;
        }
    }

    pub(super) fn touch(&mut self, touch: &Touch, defect: Option<Defect>) {
        let Some(row) = self.row(&touch.id) else { return };
        match (row.ended, defect) {
            (Some(_), Some(Defect::TouchRevivesATombstone)) => {
                row.ended = None;
                row.prolong();
            }
            (Some(_), Some(Defect::TouchProlongsATombstone)) => row.until = Instant::now() + TOMBSTONE_LIFETIME,
            (Some(_), _) | (None, Some(Defect::NeverProlongs)) => {}
            (None, _) => {
                row.lifetimes = touch.lifetimes;
                row.prolong();
                let row = row.clone();
                if defect != Some(Defect::NeverRepairsAList) {
                    self.enter(&touch.realm, &row, touch.id, defect);
                }
            }
        }
    }

    /// Into the list of its principal, unless it is there.
    fn enter(&mut self, realm: &str, row: &Row, id: SessionId, defect: Option<Defect>) {
        if let Some(principal) = &row.principal {
            let list = self.index.entry(list(realm, principal, defect)).or_default();
            if list.iter().all(|(_, listed)| *listed != id) {
                list.push((row.login, id));
            }
        }
    }

    /// As a server does that evicts keys.
    pub(super) fn lose_list(&mut self, realm: &str, principal: &str, defect: Option<Defect>) {
        self.index.remove(&list(realm, principal, defect));
    }

    /// The sessions of a principal, those that logged in first first.
    fn listed(&mut self, realm: &str, principal: &str, defect: Option<Defect>) -> Vec<(u64, SessionId)> {
        let mut listed = self.index.get(&list(realm, principal, defect)).cloned().unwrap_or_default();
        listed.sort_unstable_by_key(|(since, _)| *since);
        listed.retain(|(_, id)| self.row(id).is_some());
        listed
    }

    pub(super) fn sessions_of(&mut self, realm: &str, principal: &str, defect: Option<Defect>) -> Vec<Listed> {
        let listed = self.listed(realm, principal, defect);
        let of = |(since, id): (u64, SessionId)| {
            let logged_in_on = *BEGAN + Duration::from_micros(since);
            Some(Listed { handle: id.handle(), logged_in_on, record: self.row(&id)?.record() })
        };
        listed.into_iter().filter_map(of).collect()
    }

    pub(super) fn above_limit(&mut self, commit: &Commit, defect: Option<Defect>) -> Result<Vec<SessionId>, Reply> {
        let (Some(principal), Some(limit)) = (commit.action.logs_in(), commit.sessions) else { return Ok(Vec::new()) };
        let others: Vec<_> = self
            .listed(&commit.realm, principal, defect)
            .into_iter()
            .map(|(_, id)| id)
            .filter(|id| id != commit.action.id())
            .collect();
        let too_many = (others.len() + 1).saturating_sub(limit.most);
        match limit.above {
            AboveLimit::Refuse if too_many > 0 => Err(Reply::TooManySessions),
            _ => Ok(others.into_iter().take(too_many).collect()),
        }
    }

    pub(super) fn revoke(&mut self, revocation: &Revocation, defect: Option<Defect>) -> Revoked {
        if let Some(revoked) = self.revocations.get(&revocation.id) {
            return *revoked;
        }
        let mut doomed = self.listed(&revocation.realm, &revocation.principal, defect);
        doomed.retain(|(_, id)| match revocation.which {
            Revoke::One(handle) => id.handle() == handle,
            Revoke::Others(handle) => id.handle() != handle,
            Revoke::All => true,
        });
        doomed.iter().for_each(|(_, id)| self.bury(id, None));
        let revoked = Revoked { ended: doomed.len(), confirmed: true };
        self.revocations.insert(revocation.id, revoked);
        revoked
    }
}

/// Which list it is.
fn list(realm: &str, principal: &str, defect: Option<Defect>) -> (String, String) {
    let realm = if defect == Some(Defect::SharesListsBetweenRealms) { "" } else { realm };
    (realm.to_owned(), principal.to_owned())
}

/// Changes attributes until something is wrong; the caller decides what becomes of what was changed by then.
fn change(attributes: &mut Attributes, commit: &Commit) -> Result<BTreeMap<String, i64>, Reply> {
    for (name, expected) in &commit.conditions {
        if attributes.get(name) != expected.as_ref() {
            return Err(Reply::Conflict { name: name.clone(), current: attributes.get(name).cloned() });
        }
    }
    let before = size(attributes);
    if commit.clear {
        attributes.clear();
    }
    let mut counters = BTreeMap::new();
    for (name, change) in &commit.changes {
        match change {
            Change::Set(value) => {
                attributes.insert(name.clone(), value.clone());
            }
            Change::Remove => {
                attributes.remove(name);
            }
            Change::Add(by) => {
                let old = attributes.get(name).map_or(Some(0), |value| parse_counter(value));
                // What is added keeps to the digits of a counter as well; then the sum cannot overflow.
                let (Some(old), Some(by)) = (old, parse_counter(by.to_string().as_bytes())) else {
                    return Err(Reply::NotACounter(name.clone()));
                };
                let new = old + by;
                attributes.insert(name.clone(), new.to_string().into());
                counters.insert(name.clone(), new);
            }
        }
    }
    let (count, bytes) = size(attributes);
    // What was within the limits of an earlier setting may stay, and shrink.
    if count > commit.limits.attributes.max(before.0) {
        Err(Reply::Limit(Limit::Attributes))
    } else if bytes > commit.limits.record_bytes.max(before.1) {
        Err(Reply::Limit(Limit::Record))
    } else {
        Ok(counters)
    }
}

/// How many attributes, and how many bytes of names and values.
fn size(attributes: &Attributes) -> (usize, usize) {
    (attributes.len(), attributes.iter().map(|(name, value)| name.len() + value.len()).sum())
}
