//! The scripts, and how a commit is put to them.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::keys::Keys;
use crate::commit::{AboveLimit, Action, Commit, Lifetimes, Renewal, Revocation, Revoke, Start, Touch};
use crate::delta::Change;
use crate::freshness::HISTORY;
use crate::id::{SessionHandle, SessionId};
use crate::store::TOMBSTONE_LIFETIME;

/// One of our scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    Commit,
    Destroy,
    Touch,
    List,
    Revoke,
    Rights,
}

impl Script {
    pub(super) const ALL: [Self; 6] =
        [Self::Commit, Self::Destroy, Self::Touch, Self::List, Self::Revoke, Self::Rights];

    /// Returns the text that Redis loads: the shared prelude, the script, and a frame that puts the name of its key in front of the
    /// reply. The shebang must stay the first line.
    pub(super) fn text(self) -> String {
        let (shebang, body) = self.body().split_once('\n').expect("it has more than one line");
        let (prelude, reply) = (include_str!("prelude.lua"), include_str!("reply.lua"));
        format!("{shebang}\n{prelude}\nlocal function body()\n{body}\nend\n{reply}")
    }

    const fn body(self) -> &'static str {
        match self {
            Self::Commit => include_str!("commit.lua"),
            Self::Destroy => include_str!("destroy.lua"),
            Self::Touch => include_str!("touch.lua"),
            Self::List => include_str!("list.lua"),
            Self::Revoke => include_str!("revoke.lua"),
            Self::Rights => include_str!("rights.lua"),
        }
    }
}

/// Which script does this commit.
pub(super) fn script(commit: &Commit) -> Script {
    match commit.action {
        Action::Destroy(_) => Script::Destroy,
        Action::Create(..) | Action::Apply(_) | Action::Renew(..) => Script::Commit,
    }
}

/// What follows the script's name: the number of keys, the keys, the arguments. `session` is the handle of the commit's session,
/// `deadline` in microseconds of Redis' clock.
pub(super) fn arguments(keys: &Keys, commit: &Commit, session: &SessionHandle, deadline: u64) -> Vec<Bytes> {
    let session_key = keys.session(session);
    let record = keys.commit(session, &commit.id);
    // Redis refuses to keep something for no time at all, and would notice in the middle of the script.
    let remember = millis(commit.remember).max(1);
    let mut arguments = Arguments(Vec::with_capacity(20 + 2 * commit.conditions.len() + 3 * commit.changes.len()));
    if let Action::Destroy(_) = commit.action {
        arguments.number(2);
        arguments.bytes(session_key);
        arguments.bytes(record);
        arguments.number(deadline);
        arguments.number(remember);
        arguments.number(millis(TOMBSTONE_LIFETIME));
        arguments.optional(commit.seen.map(|seen| seen.0));
        arguments.bytes(keys.lists(&commit.realm));
        return arguments.0;
    }
    let kind = Kind::of(&commit.action);
    arguments.number(if kind.target.is_some() { 3 } else { 2 });
    arguments.bytes(session_key);
    arguments.bytes(record);
    if let Some(target) = kind.target {
        arguments.bytes(keys.session(&target.handle()));
    }
    let is_apply = matches!(commit.action, Action::Apply(_));
    let has_more = commit.clear || commit.keep_history || !commit.conditions.is_empty();
    arguments.text(if is_apply && has_more { "amend" } else { kind.name });
    arguments.number(deadline);
    arguments.number(remember);
    arguments.optional(commit.seen.map(|seen| seen.0));
    // Together, since each argument costs a commit something, and few commits need these.
    let limits = format!("{} {} ", commit.limits.attributes, commit.limits.record_bytes);
    arguments.bytes([limits.as_bytes(), &keys.lists(&commit.realm)].concat());
    arguments.lifetimes(&commit.lifetimes);
    if !is_apply || has_more {
        arguments.number(commit.clear.into());
        arguments.number(if commit.keep_history { HISTORY as u64 } else { 0 });
        arguments.number(commit.conditions.len() as u64);
    }
    if !is_apply {
        arguments.bytes(kind.principal.unwrap_or_default().to_owned());
        arguments.optional(kind.start.map(|start| millis_since_epoch(start.created_on)));
        arguments.number(millis(TOMBSTONE_LIFETIME));
        arguments.bytes(kind.successor.map_or(Bytes::new(), |id| Bytes::copy_from_slice(id.as_bytes())));
        arguments.optional(commit.sessions.map(|limit| limit.most as u64));
        arguments.number(commit.sessions.is_some_and(|limit| limit.above == AboveLimit::EvictOldest).into());
    }
    for (name, expected) in &commit.conditions {
        arguments.bytes(name.clone());
        arguments.bytes(match expected {
            Some(value) => [b"+", &value[..]].concat().into(),
            None => Bytes::from_static(b"-"),
        });
    }
    for (name, change) in &commit.changes {
        let (what, value) = match change {
            Change::Set(value) => ("=", value.clone()),
            Change::Remove => ("-", Bytes::new()),
            Change::Add(by) => ("+", by.to_string().into()),
        };
        arguments.text(what);
        arguments.bytes(name.clone());
        arguments.bytes(value);
    }
    arguments.0
}

/// The same for a prolongation.
pub(super) fn touching(keys: &Keys, touch: &Touch) -> Vec<Bytes> {
    let mut arguments = Arguments(Vec::with_capacity(5));
    arguments.number(1);
    arguments.bytes(keys.session(&touch.id.handle()));
    arguments.lifetimes(&touch.lifetimes);
    arguments.bytes(keys.lists(&touch.realm));
    arguments.0
}

/// The same for the list of a principal's sessions.
pub(super) fn listing(keys: &Keys, realm: &str, principal: &str) -> Vec<Bytes> {
    let mut arguments = Arguments(Vec::with_capacity(2));
    arguments.number(1);
    arguments.bytes(keys.list(realm, principal));
    arguments.0
}

/// The same for a revocation.
pub(super) fn revoking(keys: &Keys, revocation: &Revocation, deadline: u64) -> Vec<Bytes> {
    let (which, session) = match &revocation.which {
        Revoke::One(session) => ("one", keys.session(session)),
        Revoke::Others(session) => ("others", keys.session(session)),
        Revoke::All => ("all", Bytes::new()),
    };
    let mut arguments = Arguments(Vec::with_capacity(8));
    arguments.number(2);
    arguments.bytes(keys.list(&revocation.realm, &revocation.principal));
    arguments.bytes(keys.revocation(&revocation.id));
    arguments.number(deadline);
    arguments.number(millis(revocation.remember).max(1));
    arguments.number(millis(TOMBSTONE_LIFETIME));
    arguments.text(which);
    arguments.bytes(session);
    arguments.0
}

/// What an action is to `commit.lua`.
struct Kind<'a> {
    name: &'static str,
    /// Where a renewed session goes.
    target: Option<&'a SessionId>,
    /// How a fresh session begins.
    start: Option<&'a Start>,
    principal: Option<&'a str>,
    /// What the tombstone names.
    successor: Option<&'a SessionId>,
}

impl<'a> Kind<'a> {
    fn of(action: &'a Action) -> Self {
        let kind = |name| Self { name, target: None, start: None, principal: None, successor: None };
        match action {
            Action::Create(_, start) => kind("create").starting(start),
            Action::Apply(_) | Action::Destroy(_) => kind("apply"),
            Action::Renew(_, target, renewal) => match renewal {
                Renewal::Keep => Self { target: Some(target), successor: Some(target), ..kind("keep") },
                Renewal::LogIn { principal } => {
                    Self { target: Some(target), successor: Some(target), principal: Some(principal), ..kind("login") }
                }
                Renewal::Replace { start, linked } => {
                    let successor = linked.then_some(target);
                    Self { target: Some(target), successor, ..kind("replace").starting(start) }
                }
            },
        }
    }

    fn starting(self, start: &'a Start) -> Self {
        Self { start: Some(start), principal: start.principal.as_deref(), ..self }
    }
}

struct Arguments(Vec<Bytes>);

impl Arguments {
    fn bytes(&mut self, bytes: impl Into<Bytes>) {
        self.0.push(bytes.into());
    }

    fn text(&mut self, text: &'static str) {
        self.0.push(Bytes::from_static(text.as_bytes()));
    }

    fn number(&mut self, number: u64) {
        self.bytes(number.to_string());
    }

    /// The idle timeout is never 0: Redis keeps nothing for no time.
    fn lifetimes(&mut self, lifetimes: &Lifetimes) {
        self.number(millis(lifetimes.idle_timeout).max(1));
        self.optional(lifetimes.absolute_timeout.map(millis));
    }

    fn optional(&mut self, number: Option<u64>) {
        self.bytes(number.map_or_else(String::new, |number| number.to_string()));
    }
}

/// The longest time that the scripts are given: 2^52 ms, so that it stays exact when they add it to their clock.
const MAX_MILLIS: u64 = 1 << 52;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(MAX_MILLIS)
}

fn millis_since_epoch(time: SystemTime) -> u64 {
    millis(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_checks_memory_and_replicas_before_any_script_runs() {
        // Without a shebang a script would be stopped in the middle. A logout and a touch need no memory.
        assert!(Script::Commit.text().starts_with("#!lua\n"));
        assert!(Script::Destroy.text().starts_with("#!lua flags=allow-oom\n"));
        for script in [Script::Touch, Script::List, Script::Revoke] {
            assert!(script.text().starts_with("#!lua flags=allow-oom\n"), "{script:?}");
        }
    }

    #[test]
    fn a_commit_carries_no_more_than_it_asks_for() {
        let count = |more: fn(&mut Commit)| {
            let mut commit = Commit::new(Action::Apply(SessionId::random()), tokio::time::Instant::now());
            commit.changes.insert("a".into(), Change::Set(Bytes::from_static(b"1")));
            more(&mut commit);
            let arguments = arguments(&Keys::new("session"), &commit, &commit.action.id().handle(), 1);
            (String::from_utf8_lossy(&arguments[3]).into_owned(), arguments.len())
        };
        let name = |(name, count): (&str, usize)| (name.to_owned(), count);
        assert_eq!(count(|_| ()), name(("apply", 13)));
        assert_eq!(count(|commit| commit.seen = Some(crate::record::Version(7))), name(("apply", 13)));
        assert_eq!(count(|commit| commit.clear = true), name(("amend", 16)));
        assert_eq!(count(|commit| commit.keep_history = true), name(("amend", 16)));
        assert_eq!(count(|commit| drop(commit.conditions.insert("a".into(), None))), name(("amend", 18)));
    }

    #[test]
    fn no_duration_is_too_long_for_a_script() {
        assert_eq!(millis(Duration::MAX), MAX_MILLIS);
        assert_eq!(millis_since_epoch(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), 0);
    }
}
