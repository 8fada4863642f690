//! What the store must do about a delta, as a value, and what its reply means.
//!
//! [`plan`] and [`next`] decide without IO; one truth table at the end of this file covers every request against every state
//! the session may be in.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

use crate::delta::{Change, Delta, Identity, Limits};
use crate::error::Limit;
use crate::id::{SessionHandle, SessionId, random_bytes};
use crate::record::Version;

/// Names one commit, so that an attempt whose answer was lost can be repeated and still takes effect once.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommitId(pub [u8; 16]);

impl CommitId {
    pub(crate) fn random() -> Self {
        Self(random_bytes())
    }
}

impl fmt::Debug for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommitId({:032x})", u128::from_be_bytes(self.0))
    }
}

/// One atomic step of a store: all of it applies, or nothing.
#[derive(Clone)]
pub struct Commit {
    /// A store that has already applied or refused a commit of this ID returns what it returned then and writes nothing.
    pub id: CommitId,
    /// What is done to which session.
    pub action: Action,
    /// Whose lists the session is in: each realm has its own list per principal. A session that a principal is logged in to is in the
    /// list of its principal after the commit, also when the list had lost it.
    pub realm: Arc<str>,
    /// How long the session lasts from now on.
    pub lifetimes: Lifetimes,
    /// All attributes that are not in `changes` go.
    pub clear: bool,
    /// What is done to its attributes.
    pub changes: BTreeMap<String, Change>,
    /// Only if each of these attributes has exactly these bytes, or is absent.
    pub conditions: BTreeMap<String, Option<Bytes>>,
    /// The oldest version that this request has seen; a session that is older now was rolled back.
    pub seen: Option<Version>,
    /// Limits that the outcome keeps.
    pub limits: Limits,
    /// For an action that logs somebody in: how many sessions that principal may then have.
    pub sessions: Option<SessionLimit>,
    /// Whether a replica must have it before it counts.
    pub durable: bool,
    /// Whether the session is to remember this version beside the last ones, seven of them, and the reply to name those. For
    /// [`rollback_detection`](crate::SessionLayerBuilder::rollback_detection); a store that cannot lose what it acknowledged need not.
    pub keep_history: bool,
    /// The commit must not apply after this: whoever asked has given up by then.
    pub deadline: Instant,
    /// How long the store must be able to recognise a repetition.
    pub remember: Duration,
}

impl Commit {
    /// A commit without changes, conditions and limits, under a new ID, in the realm `session` and with the default lifetimes; for
    /// programs that use a store by itself, tests above all.
    pub fn new(action: Action, deadline: Instant) -> Self {
        Self {
            id: CommitId::random(),
            action,
            realm: "session".into(),
            lifetimes: Lifetimes::default(),
            clear: false,
            changes: BTreeMap::new(),
            conditions: BTreeMap::new(),
            seen: None,
            limits: Limits::default(),
            sessions: None,
            durable: false,
            keep_history: false,
            deadline,
            remember: Duration::from_secs(20),
        }
    }
}

/// How long a session lasts. The layer's settings, which every commit and touch carries, so that a changed setting reaches the
/// sessions that exist at their next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Ends the session this long after its last commit or touch.
    pub idle_timeout: Duration,
    /// Ends the session this long after its start, by the clock of the store: after the login, or after the creation where nobody is
    /// logged in.
    pub absolute_timeout: Option<Duration>,
}

/// The defaults of a layer: 30 minutes, and 12 hours.
impl Default for Lifetimes {
    fn default() -> Self {
        Self { idle_timeout: Duration::from_secs(30 * 60), absolute_timeout: Some(Duration::from_secs(12 * 60 * 60)) }
    }
}

/// Prolongs a session that was only read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Touch {
    /// Which session.
    pub id: SessionId,
    /// As [`Commit::realm`].
    pub realm: Arc<str>,
    /// As [`Commit::lifetimes`].
    pub lifetimes: Lifetimes,
}

impl Touch {
    /// Prolongs this session.
    pub fn new(id: SessionId, realm: impl Into<Arc<str>>, lifetimes: Lifetimes) -> Self {
        Self { id, realm: realm.into(), lifetimes }
    }
}

/// How many sessions a principal may have, and what a login above that does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimit {
    /// At least one.
    pub most: usize,
    /// What a login above that does.
    pub above: AboveLimit,
}

/// What a login does when its principal has as many sessions as allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AboveLimit {
    /// It ends those that logged in first.
    EvictOldest,
    /// It is refused.
    Refuse,
}

/// Ends sessions of a principal.
#[derive(Clone)]
pub struct Revocation {
    /// As [`Commit::id`].
    pub id: CommitId,
    /// As [`Commit::realm`]: sessions in lists of other realms stay.
    pub realm: Arc<str>,
    /// Whose.
    pub principal: String,
    /// Which of them.
    pub which: Revoke,
    /// As [`Commit::deadline`].
    pub deadline: Instant,
    /// As [`Commit::remember`].
    pub remember: Duration,
}

/// Which sessions of a principal end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoke {
    /// This one, if it is theirs.
    One(SessionHandle),
    /// All but this one.
    Others(SessionHandle),
    /// All.
    All,
}

/// What a store did about a [`Revocation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// How many sessions ended.
    pub ended: usize,
    /// Whether a replica has it.
    pub confirmed: bool,
}

/// What a [`Commit`] does to a session as such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Starts one, if the ID is not taken.
    Create(SessionId, Start),
    /// Changes the attributes of one that exists.
    Apply(SessionId),
    /// Moves one to a new ID; the old one becomes a tombstone that names its successor.
    Renew(SessionId, SessionId, Renewal),
    /// Ends one; its ID becomes a tombstone.
    Destroy(SessionId),
}

/// How a session begins.
#[derive(Clone, PartialEq, Eq)]
pub struct Start {
    /// To the millisecond, by the clock of the node.
    pub created_on: SystemTime,
    /// Who is logged in.
    pub principal: Option<String>,
}

/// What goes over to the new ID.
#[derive(Clone, PartialEq, Eq)]
pub enum Renewal {
    /// Everything.
    Keep,
    /// Everything; the principal is this one from now on, and the absolute timeout starts again, since a login is a fresh proof of
    /// who is there.
    LogIn {
        /// Who is logged in.
        principal: String,
    },
    /// Nothing: the session ends, and another one starts. The tombstone names the successor only if `linked`.
    Replace {
        /// How the other one begins.
        start: Start,
        /// Whether a late login may follow to it.
        linked: bool,
    },
}

impl Action {
    /// The session that the request knows.
    pub fn id(&self) -> &SessionId {
        match self {
            Self::Create(id, _) | Self::Apply(id) | Self::Renew(id, ..) | Self::Destroy(id) => id,
        }
    }

    /// The ID that the session has after it; `None` if there is no session then.
    pub fn target(&self) -> Option<&SessionId> {
        match self {
            Self::Create(id, _) | Self::Apply(id) | Self::Renew(_, id, _) => Some(id),
            Self::Destroy(_) => None,
        }
    }

    /// Who is logged in by it.
    pub fn logs_in(&self) -> Option<&str> {
        match self {
            Self::Create(_, start) | Self::Renew(_, _, Renewal::Replace { start, .. }) => start.principal.as_deref(),
            Self::Renew(_, _, Renewal::LogIn { principal, .. }) => Some(principal),
            Self::Renew(_, _, Renewal::Keep) | Self::Apply(_) | Self::Destroy(_) => None,
        }
    }

    /// Whether the absolute timeout counts from it: a session starts by it, or somebody logs in.
    pub(crate) fn begins(&self) -> bool {
        match self {
            Self::Create(..) | Self::Renew(_, _, Renewal::LogIn { .. } | Renewal::Replace { .. }) => true,
            Self::Renew(_, _, Renewal::Keep) | Self::Apply(_) | Self::Destroy(_) => false,
        }
    }

    /// Whether it ends a session, for good or by starting another one in its place.
    pub(crate) fn ends_session(&self) -> bool {
        matches!(self, Self::Destroy(_) | Self::Renew(_, _, Renewal::Replace { .. }))
    }
}

/// What a store did about a [`Commit`]. Everything but `Applied` means: nothing was written.
#[derive(Clone, PartialEq, Eq)]
pub enum Reply {
    /// It took effect, now or when it was sent first.
    Applied {
        /// The session's version after it.
        version: Version,
        /// The values of the counters it added to, by name.
        counters: BTreeMap<String, i64>,
        /// Whether a replica has it, if the commit asked for that.
        confirmed: bool,
        /// The versions that the session had last before it, as [`Record::history`](crate::store::Record::history), if the commit asked
        /// for that.
        history: Vec<Version>,
    },
    /// There is no such session, and no tombstone.
    Absent,
    /// The session was destroyed, or renewed under `successor`.
    Ended {
        /// The ID that replaced it.
        successor: Option<SessionId>,
        /// How long ago that was.
        age: Duration,
    },
    /// The session is older than what this request has seen.
    RolledBack,
    /// A condition does not hold: what this attribute has instead.
    Conflict {
        /// The attribute.
        name: String,
        /// Its bytes.
        current: Option<Bytes>,
    },
    /// This attribute is to be added to, but is no [counter](crate::store::parse_counter).
    NotACounter(String),
    /// A limit would be broken.
    Limit(Limit),
    /// The principal who logs in has as many sessions as allowed.
    TooManySessions,
    /// The ID for a new session is taken.
    Occupied,
}

/// What a request knows of its session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Seen {
    /// No cookie that we signed came along.
    #[default]
    Nobody,
    /// The cookie is ours; the store was not asked.
    Unseen(SessionId),
    /// Loaded, alive.
    Alive(SessionId),
    /// Loaded: no such session (expired long ago, or unreadable).
    Absent,
    /// Loaded: a tombstone.
    Ended {
        successor: Option<SessionId>,
        /// The session had ended so long before the request arrived that the request was sent after the end.
        long_ago: bool,
    },
}

impl Seen {
    /// The ID under which the store knows the session, if it may be alive.
    pub(crate) fn id(&self) -> Option<SessionId> {
        match self {
            Self::Unseen(id) | Self::Alive(id) => Some(*id),
            Self::Nobody | Self::Absent | Self::Ended { .. } => None,
        }
    }
}

/// What is to be done, in terms of the decision alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    Create,
    Apply(SessionId),
    Renew(SessionId),
    Destroy(SessionId),
    /// Look whether the successor belongs to the principal who logs in; if so the delta goes there.
    Follow(SessionId),
    /// The session ended: nothing is written, the answer is 409.
    Gone,
    /// The session ended long ago: nothing is written, and the browser is to forget its ID.
    Forget,
}

/// Which tombstones are so old that a request cannot have been on its way when the session ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LateWindow {
    /// How long after the end of its session a request may still arrive late.
    pub(crate) window: Duration,
    /// When the request arrived.
    pub(crate) since_arrival: Duration,
}

impl LateWindow {
    /// What a tombstone means to this request.
    pub(crate) fn ended(&self, successor: Option<SessionId>, age: Duration) -> Seen {
        // What counts is the tombstone's age when the request arrived, however long the request then took.
        Seen::Ended { successor, long_ago: age.saturating_sub(self.since_arrival) > self.window }
    }
}

/// Decides what to do about a delta.
pub(crate) fn plan(seen: &Seen, delta: &Delta) -> Step {
    use Identity::{Cycle, Destroy, Keep, LogIn, Replace, Reset};
    let identity = match &delta.identity {
        // What was stored after the end was taken back: nothing is left that another session could start with.
        Replace(None) if !delta.leaves_attributes() => &Destroy,
        identity => identity,
    };
    match seen {
        Seen::Nobody | Seen::Absent => match identity {
            LogIn(_) | Replace(Some(_)) | Reset => Step::Create,
            Keep | Cycle | Replace(None) if delta.leaves_attributes() => Step::Create,
            Keep | Cycle | Replace(None) | Destroy => Step::Nothing,
        },
        Seen::Unseen(_) | Seen::Alive(_) if delta.is_empty() => Step::Nothing,
        Seen::Unseen(id) | Seen::Alive(id) => match identity {
            Keep => Step::Apply(*id),
            Cycle | LogIn(_) | Replace(_) | Reset => Step::Renew(*id),
            Destroy => Step::Destroy(*id),
        },
        Seen::Ended { successor, long_ago } => match identity {
            // A login carries its own authority: it continues where an earlier click of it went, or starts afresh.
            LogIn(_) | Replace(Some(_)) => successor.map_or(Step::Create, Step::Follow),
            // The handler wants another session, whatever became of the one before.
            Reset => Step::Create,
            // The request was sent after the end: it is a new visitor's. A successor may still be wanted by a repeated login.
            _ if *long_ago => match plan(&Seen::Absent, delta) {
                Step::Nothing if successor.is_none() => Step::Forget,
                step => step,
            },
            _ if delta.is_empty() => Step::Nothing,
            // Already done.
            Destroy if successor.is_none() => Step::Nothing,
            Keep | Cycle | Replace(None) | Destroy => Step::Gone,
        },
    }
}

/// What a reply of the store leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// The browser is to keep what it has.
    Done,
    /// The browser is to keep this ID from now on.
    Keep(SessionId),
    /// The browser is to forget its ID.
    Forget,
    /// Another step is needed.
    Then(Step),
}

/// Decides what a reply means for a step that was done. `target` is the ID that the step was to make or change.
///
/// Replies that are errors whatever the step was (limits, counters, conditions) are not asked about here.
pub(crate) fn next(
    step: &Step,
    target: SessionId,
    seen: &Seen,
    delta: &Delta,
    reply: &Reply,
    late: &LateWindow,
) -> Next {
    let logs_in = matches!(delta.identity, Identity::LogIn(_) | Identity::Replace(Some(_)));
    let ended = match reply {
        Reply::Applied { .. } => {
            return match step {
                Step::Create | Step::Renew(_) => Next::Keep(target),
                Step::Destroy(_) => Next::Forget,
                // A login that followed to the successor: the browser may never have got its cookie.
                _ if logs_in => Next::Keep(target),
                _ => Next::Done,
            };
        }
        Reply::Absent => Seen::Absent,
        Reply::Ended { successor, age } => late.ended(*successor, *age),
        _ => return Next::Then(Step::Gone),
    };
    match (&ended, step) {
        // The handler wants another session, whatever became of this one.
        _ if delta.identity == Identity::Reset => Next::Then(Step::Create),
        // The request learns only now what a load would have told it.
        _ if matches!(seen, Seen::Unseen(_)) => Next::Then(plan(&ended, delta)),
        // From here on the request saw its session alive, or followed a login: age says nothing more.
        (Seen::Ended { successor: Some(successor), .. }, _) if logs_in => Next::Then(Step::Follow(*successor)),
        (Seen::Absent | Seen::Ended { successor: None, .. }, Step::Destroy(_)) => Next::Done,
        // A login changes attributes without renewing only at the successor that it followed to; that has ended as well.
        (Seen::Absent | Seen::Ended { successor: None, .. }, Step::Apply(_)) if logs_in => Next::Then(Step::Create),
        _ => Next::Then(Step::Gone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [u8; 20] = [1; 20];
    const SUCCESSOR: [u8; 20] = [2; 20];

    fn id() -> SessionId {
        SessionId::try_from(&ID[..]).unwrap()
    }

    fn successor() -> SessionId {
        SessionId::try_from(&SUCCESSOR[..]).unwrap()
    }

    fn alive() -> Seen {
        Seen::Alive(id())
    }

    fn delta(steps: &[&str]) -> Delta {
        let mut delta = Delta::default();
        for step in steps {
            match *step {
                "set" => delta.set("a", Bytes::from_static(b"1")),
                "add" => delta.add("a", 1).unwrap(),
                "remove" => delta.remove("a"),
                "clear" => delta.clear(),
                "cycle" => delta.cycle(),
                "login" => delta.log_in("alice".into(), false),
                "destroy" => delta.destroy(),
                "reset" => delta.reset(),
                other => panic!("{other}"),
            }
        }
        delta
    }

    /// The window is ten seconds, and the request arrived two seconds ago.
    const LATE: LateWindow = LateWindow { window: Duration::from_secs(10), since_arrival: Duration::from_secs(2) };
    /// Ages of tombstones that the request finds now.
    const LATELY: Duration = Duration::from_secs(12);
    const LONG_AGO: Duration = Duration::from_millis(12_001);

    #[test]
    fn a_tombstone_counts_by_its_age_when_the_request_arrived() {
        let long_ago = |age| LATE.ended(None, age) == Seen::Ended { successor: None, long_ago: true };
        let ages = [Duration::ZERO, Duration::from_secs(1), LATELY, LONG_AGO, Duration::MAX];
        assert_eq!(ages.map(long_ago), [false, false, false, true, true]);
        // The session ended while the request was under way, however long that takes.
        let slow = LateWindow { since_arrival: Duration::from_secs(200), ..LATE };
        assert_eq!(slow.ended(None, Duration::from_secs(199)), Seen::Ended { successor: None, long_ago: false });
    }

    /// Rows: what the request did. Columns: no cookie or absent · not loaded · alive · lately destroyed, renewed · long ago destroyed,
    /// renewed.
    #[test]
    fn every_change_against_every_state_of_the_session() {
        use Step::{Apply, Create, Destroy, Follow, Forget, Gone, Nothing, Renew};
        let (i, s) = (id(), successor());
        #[rustfmt::skip]
        let table: &[(&[&str], [Step; 7])] = &[
            (&[],                           [Nothing, Nothing,    Nothing,    Nothing, Nothing,   Forget, Nothing]),
            (&["set"],                      [Create,  Apply(i),   Apply(i),   Gone,    Gone,      Create, Create]),
            (&["add"],                      [Create,  Apply(i),   Apply(i),   Gone,    Gone,      Create, Create]),
            (&["remove"],                   [Nothing, Apply(i),   Apply(i),   Gone,    Gone,      Forget, Nothing]),
            (&["clear"],                    [Nothing, Apply(i),   Apply(i),   Gone,    Gone,      Forget, Nothing]),
            (&["clear", "set"],             [Create,  Apply(i),   Apply(i),   Gone,    Gone,      Create, Create]),
            (&["cycle"],                    [Nothing, Renew(i),   Renew(i),   Gone,    Gone,      Forget, Nothing]),
            (&["cycle", "set"],             [Create,  Renew(i),   Renew(i),   Gone,    Gone,      Create, Create]),
            (&["login"],                    [Create,  Renew(i),   Renew(i),   Create,  Follow(s), Create, Follow(s)]),
            (&["set", "login"],             [Create,  Renew(i),   Renew(i),   Create,  Follow(s), Create, Follow(s)]),
            (&["destroy"],                  [Nothing, Destroy(i), Destroy(i), Nothing, Gone,      Forget, Nothing]),
            (&["set", "destroy"],           [Nothing, Destroy(i), Destroy(i), Nothing, Gone,      Forget, Nothing]),
            (&["destroy", "set"],           [Create,  Renew(i),   Renew(i),   Gone,    Gone,      Create, Create]),
            (&["destroy", "set", "remove"], [Nothing, Destroy(i), Destroy(i), Nothing, Gone,      Forget, Nothing]),
            (&["destroy", "login"],         [Create,  Renew(i),   Renew(i),   Create,  Follow(s), Create, Follow(s)]),
            (&["reset"],                    [Create,  Renew(i),   Renew(i),   Create,  Create,    Create, Create]),
            (&["set", "reset"],             [Create,  Renew(i),   Renew(i),   Create,  Create,    Create, Create]),
            (&["reset", "set"],             [Create,  Renew(i),   Renew(i),   Create,  Create,    Create, Create]),
            (&["reset", "set", "remove"],   [Create,  Renew(i),   Renew(i),   Create,  Create,    Create, Create]),
            (&["reset", "cycle"],           [Create,  Renew(i),   Renew(i),   Create,  Create,    Create, Create]),
            (&["reset", "login"],           [Create,  Renew(i),   Renew(i),   Create,  Follow(s), Create, Follow(s)]),
            (&["reset", "destroy"],         [Nothing, Destroy(i), Destroy(i), Nothing, Gone,      Forget, Nothing]),
            (&["destroy", "reset"],         [Create,  Renew(i),   Renew(i),   Create,  Create,    Create, Create]),
        ];
        for (steps, expected) in table {
            let delta = delta(steps);
            let columns = [
                Seen::Absent,
                Seen::Unseen(i),
                alive(),
                Seen::Ended { successor: None, long_ago: false },
                Seen::Ended { successor: Some(s), long_ago: false },
                Seen::Ended { successor: None, long_ago: true },
                Seen::Ended { successor: Some(s), long_ago: true },
            ];
            for (seen, expected) in columns.iter().zip(expected) {
                assert_eq!(plan(seen, &delta), *expected, "{steps:?} on {seen:?}");
            }
            assert_eq!(plan(&Seen::Nobody, &delta), expected[0], "{steps:?} without a cookie");
        }
    }

    /// Rows: what the request did, on a session loaded alive. Columns: applied · missing · destroyed, renewed meanwhile. How long ago
    /// that was makes no difference.
    #[test]
    fn every_reply_to_a_session_that_was_loaded_alive() {
        use Next::{Done, Forget, Keep, Then};
        use Step::{Create, Follow, Gone};
        let (new, s) = (SessionId::random(), successor());
        #[rustfmt::skip]
        let table: &[(&[&str], [Next; 4])] = &[
            (&["set"],              [Done,      Then(Gone),   Then(Gone),   Then(Gone)]),
            (&["cycle"],            [Keep(new), Then(Gone),   Then(Gone),   Then(Gone)]),
            (&["login"],            [Keep(new), Then(Gone),   Then(Gone),   Then(Follow(s))]),
            (&["destroy"],          [Forget,    Done,         Done,         Then(Gone)]),
            (&["destroy", "set"],   [Keep(new), Then(Gone),   Then(Gone),   Then(Gone)]),
            (&["destroy", "login"], [Keep(new), Then(Gone),   Then(Gone),   Then(Follow(s))]),
            (&["reset"],            [Keep(new), Then(Create), Then(Create), Then(Create)]),
        ];
        for (steps, expected) in table {
            let [applied, absent, destroyed, renewed] = expected.clone();
            let expected = [applied, absent, destroyed.clone(), renewed.clone(), destroyed, renewed];
            check_replies(&alive(), steps, new, &expected);
        }
    }

    /// The same for a session that was never loaded, with columns for what ended long ago: each reply is what a load would have said.
    #[test]
    fn every_reply_to_a_session_that_was_not_loaded() {
        use Next::{Done, Keep, Then};
        use Step::{Create, Follow, Forget, Gone, Nothing};
        let (new, s) = (SessionId::random(), successor());
        #[rustfmt::skip]
        let table: &[(&[&str], [Next; 6])] = &[
            (&["set"],    [Done,      Then(Create),  Then(Gone),   Then(Gone),      Then(Create), Then(Create)]),
            (&["add"],    [Done,      Then(Create),  Then(Gone),   Then(Gone),      Then(Create), Then(Create)]),
            (&["remove"], [Done,      Then(Nothing), Then(Gone),   Then(Gone),      Then(Forget), Then(Nothing)]),
            (&["login"],  [Keep(new), Then(Create),  Then(Create), Then(Follow(s)), Then(Create), Then(Follow(s))]),
            (&["reset"],  [Keep(new), Then(Create),  Then(Create), Then(Create),    Then(Create), Then(Create)]),
        ];
        for (steps, expected) in table {
            check_replies(&Seen::Unseen(id()), steps, new, expected);
        }
    }

    #[track_caller]
    fn check_replies(seen: &Seen, steps: &[&str], target: SessionId, expected: &[Next; 6]) {
        let delta = delta(steps);
        let step = plan(seen, &delta);
        let replies = [
            Reply::Applied { version: Version(2), counters: BTreeMap::new(), confirmed: true, history: Vec::new() },
            Reply::Absent,
            Reply::Ended { successor: None, age: LATELY },
            Reply::Ended { successor: Some(successor()), age: LATELY },
            Reply::Ended { successor: None, age: LONG_AGO },
            Reply::Ended { successor: Some(successor()), age: LONG_AGO },
        ];
        for (reply, expected) in replies.iter().zip(expected) {
            assert_eq!(next(&step, target, seen, &delta, reply, &LATE), *expected, "{steps:?}: {reply:?}");
        }
        assert_eq!(next(&step, target, seen, &delta, &Reply::RolledBack, &LATE), Next::Then(Step::Gone), "{steps:?}");
    }

    /// Rows: the action, and the ID after it, who is logged in by it, whether a session ends by it.
    #[test]
    fn an_action_says_what_it_is_about() {
        let start = |principal: Option<&str>| Start {
            created_on: SystemTime::UNIX_EPOCH,
            principal: principal.map(str::to_owned),
        };
        let renew = |renewal| Action::Renew(id(), successor(), renewal);
        let log_in = Renewal::LogIn { principal: "alice".into() };
        let replace = |principal| Renewal::Replace { start: start(principal), linked: true };
        #[rustfmt::skip]
        let table = [
            (Action::Create(id(), start(None)),          Some(id()),        None,          false),
            (Action::Create(id(), start(Some("alice"))), Some(id()),        Some("alice"), false),
            (Action::Apply(id()),                        Some(id()),        None,          false),
            (renew(Renewal::Keep),                       Some(successor()), None,          false),
            (renew(log_in),                              Some(successor()), Some("alice"), false),
            (renew(replace(None)),                       Some(successor()), None,          true),
            (renew(replace(Some("alice"))),              Some(successor()), Some("alice"), true),
            (Action::Destroy(id()),                      None,              None,          true),
        ];
        for (action, target, logs_in, ends) in table {
            assert_eq!(*action.id(), id(), "{action:?}");
            assert_eq!(action.target().copied(), target, "{action:?}");
            assert_eq!(action.logs_in(), logs_in, "{action:?}");
            assert_eq!(action.ends_session(), ends, "{action:?}");
        }
    }

    #[test]
    fn only_a_session_that_may_be_alive_has_an_id() {
        assert_eq!([Seen::Unseen(id()), alive()].map(|seen| seen.id()), [Some(id()); 2]);
        for seen in [Seen::Nobody, Seen::Absent, Seen::Ended { successor: Some(successor()), long_ago: false }] {
            assert_eq!(seen.id(), None, "{seen:?}");
        }
    }

    #[test]
    fn commit_ids_do_not_repeat_and_are_shown_in_hexadecimal() {
        assert_ne!(CommitId::random(), CommitId::random());
        let id = CommitId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        assert_eq!(format!("{id:?}"), "CommitId(000102030405060708090a0b0c0d0eff)");
    }

    /// Whether the request saw the tombstone lately or long ago after the end.
    #[test]
    fn a_login_that_followed_gives_the_browser_the_successor() {
        let delta = delta(&["set", "login"]);
        for long_ago in [false, true] {
            let seen = Seen::Ended { successor: Some(successor()), long_ago };
            let next = |reply: &Reply| next(&Step::Apply(successor()), successor(), &seen, &delta, reply, &LATE);
            let applied =
                Reply::Applied { version: Version(2), counters: BTreeMap::new(), confirmed: true, history: Vec::new() };
            assert_eq!(next(&applied), Next::Keep(successor()));
            // Gone meanwhile: a fresh session.
            assert_eq!(next(&Reply::Absent), Next::Then(Step::Create));
            let again = SessionId::random();
            for age in [Duration::ZERO, LONG_AGO] {
                assert_eq!(next(&Reply::Ended { successor: None, age }), Next::Then(Step::Create));
                // Renewed once more meanwhile: follow on.
                assert_eq!(next(&Reply::Ended { successor: Some(again), age }), Next::Then(Step::Follow(again)));
            }
        }
    }
}
