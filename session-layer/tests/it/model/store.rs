//! Random steps on a store, one after the other, and a model that says what each must answer.
//!
//! Knows nothing of a particular store: [`check`] takes any. Steps that need time to pass are left out where it cannot.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use proptest::sample::Index;
use session_layer::store::{
    AboveLimit, Action, Change, Commit, CommitId, Limits, Loaded, Renewal, Reply, Revocation, Revoke, SessionLimit,
    SessionStore, Start, TOMBSTONE_LIFETIME, Version, parse_counter,
};
use session_layer::{Limit, SessionId};
use tokio::time::Instant;

const IDLE: u64 = 60;
const ABSOLUTE: u64 = 100;
const NAMES: [&str; 3] = ["a", "b", "c"];
const PRINCIPALS: [&str; 2] = ["alice", "bob"];
/// Two of three names fit.
const MOST_ATTRIBUTES: usize = 2;

/// What is done next. An index stands for one of what there is by then.
#[derive(Debug, Clone)]
pub enum Step {
    Create(Begin, Vec<Edit>, Option<SessionLimit>),
    Apply(Index, Vec<Edit>, Guard),
    Cycle(Index, Vec<Edit>),
    LogIn(Index, usize, Vec<Edit>, Option<SessionLimit>),
    Replace(Index, Begin, bool, Vec<Edit>),
    Destroy(Index),
    /// A commit from before once more.
    Again(Index),
    /// A commit that nobody waits for any more.
    TooLate(Index),
    Load(Index),
    Touch(Index),
    List(usize),
    RevokeAll(usize),
    RevokeOthers(usize, Index),
    RevokeOne(usize, Index),
    /// So many seconds pass.
    Pass(u64),
}

#[derive(Debug, Clone)]
pub struct Begin {
    principal: Option<usize>,
    absolute: bool,
}

#[derive(Debug, Clone)]
pub enum Edit {
    Set(usize, u8),
    Remove(usize),
    Add(usize, i8),
    Clear,
}

/// Under which condition a change is made.
#[derive(Debug, Clone)]
pub enum Guard {
    None,
    /// The attribute is what the model says.
    Holds(usize),
    /// It is something else.
    Fails(usize),
    /// The request has seen a newer version.
    Newer,
}

pub fn steps(time_passes: bool) -> impl Strategy<Value = Vec<Step>> {
    let id = any::<Index>;
    let principal = || 0..PRINCIPALS.len();
    let name = || 0..NAMES.len();
    let begin = || {
        (proptest::option::of(principal()), any::<bool>())
            .prop_map(|(principal, absolute)| Begin { principal, absolute })
    };
    let edits = || {
        let edit = prop_oneof![
            4 => (name(), any::<u8>()).prop_map(|(name, value)| Edit::Set(name, value)),
            2 => name().prop_map(Edit::Remove),
            3 => (name(), any::<i8>()).prop_map(|(name, by)| Edit::Add(name, by)),
            1 => Just(Edit::Clear),
        ];
        proptest::collection::vec(edit, 0..3)
    };
    let limit = || {
        let above = prop_oneof![Just(AboveLimit::EvictOldest), Just(AboveLimit::Refuse)];
        proptest::option::of((1..3_usize, above).prop_map(|(most, above)| SessionLimit { most, above }))
    };
    let guard = prop_oneof![
        4 => Just(Guard::None),
        2 => name().prop_map(Guard::Holds),
        1 => name().prop_map(Guard::Fails),
        1 => Just(Guard::Newer),
    ];
    let seconds = prop_oneof![4 => 1..50_u64, 1 => 50..400_u64];
    let step = prop_oneof![
        4 => (begin(), edits(), limit()).prop_map(|(begin, edits, limit)| Step::Create(begin, edits, limit)),
        6 => (id(), edits(), guard).prop_map(|(id, edits, guard)| Step::Apply(id, edits, guard)),
        2 => (id(), edits()).prop_map(|(id, edits)| Step::Cycle(id, edits)),
        3 => (id(), principal(), edits(), limit())
            .prop_map(|(id, principal, edits, limit)| Step::LogIn(id, principal, edits, limit)),
        1 => (id(), begin(), any::<bool>(), edits())
            .prop_map(|(id, begin, linked, edits)| Step::Replace(id, begin, linked, edits)),
        2 => id().prop_map(Step::Destroy),
        2 => id().prop_map(Step::Again),
        1 => id().prop_map(Step::TooLate),
        3 => id().prop_map(Step::Load),
        2 => id().prop_map(Step::Touch),
        2 => principal().prop_map(Step::List),
        1 => principal().prop_map(Step::RevokeAll),
        1 => (principal(), id()).prop_map(|(principal, id)| Step::RevokeOthers(principal, id)),
        1 => (principal(), id()).prop_map(|(principal, id)| Step::RevokeOne(principal, id)),
        3 => seconds.prop_map(Step::Pass),
    ];
    let possible = move |step: &Step| time_passes || !matches!(step, Step::Pass(_));
    proptest::collection::vec(step.prop_filter("time does not pass here", possible), 1..40)
}

/// What the model keeps of an ID, and until when, in seconds.
#[derive(Debug, Clone)]
enum Entry {
    Alive { session: Session, until: u64 },
    Tombstone { successor: Option<SessionId>, until: u64 },
}

#[derive(Debug, Clone, Default)]
struct Session {
    attributes: BTreeMap<String, String>,
    principal: Option<usize>,
    /// The how manieth login it was.
    login: usize,
    ends: Option<u64>,
    version: Version,
}

#[derive(Default)]
struct Model {
    now: u64,
    logins: usize,
    entries: BTreeMap<usize, Entry>,
}

/// Does the steps, and panics where the store does not answer as the model. `pass` lets time pass.
pub async fn check(store: &impl SessionStore, steps: Vec<Step>, pass: impl AsyncFn(Duration)) {
    let mut run = Run { store, model: Model::default(), ids: vec![SessionId::random()], sent: Vec::new() };
    for step in steps {
        if let Step::Pass(seconds) = step {
            pass(Duration::from_secs(seconds)).await;
            run.model.now += seconds;
        } else {
            run.step(step).await;
        }
        run.look().await;
    }
}

struct Run<'a, S> {
    store: &'a S,
    model: Model,
    /// The first is never used.
    ids: Vec<SessionId>,
    /// Commits with their answers and when they are forgotten.
    sent: Vec<(Commit, Reply, u64)>,
}

impl<S: SessionStore> Run<'_, S> {
    async fn step(&mut self, step: Step) {
        match step {
            Step::Create(begin, edits, limit) => {
                self.ids.push(SessionId::random());
                let id = *self.ids.last().expect("just pushed");
                self.commit(Action::Create(id, start(&begin)), edits, Guard::None, limit).await;
            }
            Step::Apply(at, edits, guard) => {
                self.commit(Action::Apply(*at.get(&self.ids)), edits, guard, None).await;
            }
            Step::Cycle(at, edits) => self.renew(at, Renewal::Keep, edits, None).await,
            Step::LogIn(at, principal, edits, limit) => {
                let (principal, absolute_timeout) = (PRINCIPALS[principal].into(), Some(Duration::from_secs(ABSOLUTE)));
                self.renew(at, Renewal::LogIn { principal, absolute_timeout }, edits, limit).await;
            }
            Step::Replace(at, begin, linked, edits) => {
                self.renew(at, Renewal::Replace { start: start(&begin), linked }, edits, None).await;
            }
            Step::Destroy(at) => {
                self.commit(Action::Destroy(*at.get(&self.ids)), Vec::new(), Guard::None, None).await;
            }
            Step::Again(at) => {
                if self.sent.is_empty() {
                    return;
                }
                let (commit, reply, remembered) = at.get(&self.sent);
                if *remembered > self.model.now {
                    assert_same(&self.store.commit(commit).await.expect("it answered before"), reply, "once more");
                }
            }
            Step::TooLate(at) => {
                let deadline = Instant::now() - Duration::from_millis(20);
                let commit = Commit::new(Action::Destroy(*at.get(&self.ids)), deadline);
                assert!(self.store.commit(&commit).await.expect_err("it is late").is_unavailable());
            }
            Step::Load(at) => self.load(*at.get(&self.ids)).await,
            Step::Touch(at) => {
                let id = *at.get(&self.ids);
                self.store.touch(&id).await.expect("it can be reached");
                self.model.touch(self.at(&id));
            }
            Step::List(principal) => self.list(principal).await,
            Step::RevokeAll(principal) => self.revoke(principal, Revoke::All).await,
            Step::RevokeOthers(principal, at) => {
                self.revoke(principal, Revoke::Others(at.get(&self.ids).handle())).await;
            }
            Step::RevokeOne(principal, at) => self.revoke(principal, Revoke::One(at.get(&self.ids).handle())).await,
            Step::Pass(_) => unreachable!("done by the caller"),
        }
    }

    fn at(&self, id: &SessionId) -> usize {
        self.ids.iter().position(|known| known == id).expect("one of ours")
    }

    async fn renew(&mut self, at: Index, renewal: Renewal, edits: Vec<Edit>, limit: Option<SessionLimit>) {
        let id = *at.get(&self.ids);
        let successor = id.successor();
        self.ids.push(successor);
        self.commit(Action::Renew(id, successor, renewal), edits, Guard::None, limit).await;
    }

    async fn commit(&mut self, action: Action, edits: Vec<Edit>, guard: Guard, sessions: Option<SessionLimit>) {
        let mut commit = Commit::new(action, Instant::now() + Duration::from_secs(5));
        commit.sessions = sessions;
        commit.limits.attributes = MOST_ATTRIBUTES;
        for edit in edits {
            match edit {
                Edit::Clear => {
                    commit.clear = true;
                    commit.changes.clear();
                }
                Edit::Set(name, value) => {
                    // Some are no counters.
                    let json = if value < 60 { format!("\"{value}\"") } else { value.to_string() };
                    commit.changes.insert(NAMES[name].into(), Change::Set(json.into()));
                }
                Edit::Remove(name) => {
                    commit.changes.insert(NAMES[name].into(), Change::Remove);
                }
                Edit::Add(name, by) => {
                    commit.changes.insert(NAMES[name].into(), Change::Add(by.into()));
                }
            }
        }
        let of = self.at(commit.action.id());
        let current = |name: usize| {
            let session = self.model.alive(of)?;
            session.attributes.get(NAMES[name]).map(|value| value.clone().into())
        };
        match guard {
            Guard::None => {}
            Guard::Holds(name) => {
                commit.conditions.insert(NAMES[name].into(), current(name));
            }
            Guard::Fails(name) => {
                commit.conditions.insert(NAMES[name].into(), Some("\"never\"".into()));
            }
            Guard::Newer => commit.seen = Some(Version(u64::MAX >> 12)),
        }
        let target = commit.action.target().map(|id| self.at(id));
        let expected = self.model.commit(&commit, of, target, &self.ids);
        let reply = self.store.commit(&commit).await.expect("it can be reached");
        assert_same(&reply, &expected, &format!("{:?}, {:?}", commit.action, commit.changes));
        if let Reply::Applied { version, .. } = &reply
            && let Some(target) = target
            && let Some(Entry::Alive { session, .. }) = self.model.entries.get_mut(&target)
        {
            assert!(*version > session.version, "versions rise");
            session.version = *version;
        }
        let remembered = self.model.now + commit.remember.as_secs();
        self.sent.push((commit, reply, remembered));
    }

    async fn revoke(&mut self, principal: usize, which: Revoke) {
        let mut doomed = self.model.listed(principal);
        doomed.retain(|at| match which {
            Revoke::One(handle) => self.ids[*at].handle() == handle,
            Revoke::Others(handle) => self.ids[*at].handle() != handle,
            Revoke::All => true,
        });
        let revocation = Revocation {
            id: CommitId(SessionId::random().as_bytes()[..16].try_into().expect("an ID is longer")),
            principal: PRINCIPALS[principal].into(),
            which,
            deadline: Instant::now() + Duration::from_secs(5),
            remember: Duration::from_secs(20),
        };
        // Twice, as if the first answer had been lost.
        for _ in 0..2 {
            let revoked = self.store.revoke(&revocation).await.expect("it can be reached");
            assert_eq!(revoked.ended, doomed.len(), "{which:?} of {}", revocation.principal);
        }
        doomed.into_iter().for_each(|at| self.model.bury(at, None));
    }

    async fn load(&self, id: SessionId) {
        let loaded = self.store.load(&id).await.expect("it can be reached");
        match (&loaded, self.model.entry(self.at(&id))) {
            (Loaded::Absent, None) => {}
            (Loaded::Ended { successor }, Some(Entry::Tombstone { successor: expected, .. })) => {
                assert_eq!(successor, expected);
            }
            (Loaded::Alive(record), Some(Entry::Alive { session, until })) => {
                let attributes: BTreeMap<_, _> = record
                    .attributes
                    .iter()
                    .map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned()))
                    .collect();
                assert_eq!(attributes, session.attributes);
                assert_eq!(record.principal.as_deref(), session.principal.map(|at| PRINCIPALS[at]));
                assert_eq!(record.version, session.version);
                // A store whose time is real is a little further.
                let left = Duration::from_secs(until - self.model.now);
                assert!(
                    record.ttl <= left && record.ttl + Duration::from_secs(5) > left,
                    "{:?}, not {left:?}",
                    record.ttl
                );
            }
            (loaded, expected) => panic!("loaded {loaded:?}, expected {expected:?}"),
        }
    }

    async fn list(&self, principal: usize) {
        let listed = self.store.sessions_of(PRINCIPALS[principal]).await.expect("it can be reached");
        let handles: Vec<_> = listed.iter().map(|listed| listed.handle).collect();
        let expected: Vec<_> = self.model.listed(principal).iter().map(|at| self.ids[*at].handle()).collect();
        assert_eq!(handles, expected, "the sessions of {}", PRINCIPALS[principal]);
    }

    /// Everything that there is, after each step.
    async fn look(&self) {
        for id in &self.ids {
            self.load(*id).await;
        }
        for principal in 0..PRINCIPALS.len() {
            self.list(principal).await;
        }
    }
}

impl Model {
    fn entry(&self, at: usize) -> Option<&Entry> {
        self.entries.get(&at).filter(|entry| match entry {
            Entry::Alive { until, .. } | Entry::Tombstone { until, .. } => *until > self.now,
        })
    }

    fn alive(&self, at: usize) -> Option<&Session> {
        match self.entry(at) {
            Some(Entry::Alive { session, .. }) => Some(session),
            _ => None,
        }
    }

    fn keep(&mut self, at: usize, session: Session) {
        let idle = self.now + IDLE;
        let until = session.ends.map_or(idle, |ends| idle.min(ends));
        self.entries.insert(at, Entry::Alive { session, until });
    }

    fn bury(&mut self, at: usize, successor: Option<SessionId>) {
        let until = self.now + TOMBSTONE_LIFETIME.as_secs();
        self.entries.insert(at, Entry::Tombstone { successor, until });
    }

    fn touch(&mut self, at: usize) {
        if let Some(session) = self.alive(at).cloned() {
            self.keep(at, session);
        }
    }

    /// The live sessions of a principal, the first login first.
    fn listed(&self, principal: usize) -> Vec<usize> {
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

    fn commit(&mut self, commit: &Commit, of: usize, target: Option<usize>, ids: &[SessionId]) -> Reply {
        let mut session = match (&commit.action, self.entry(of)) {
            (Action::Create(_, start), _) => Session { version: Version(0), ..self.begin(start) },
            (_, None) => return Reply::Absent,
            (_, Some(Entry::Tombstone { successor, .. })) => return Reply::Ended { successor: *successor },
            (_, Some(Entry::Alive { .. })) if commit.seen.is_some() => return Reply::RolledBack,
            (_, Some(Entry::Alive { session, .. })) => session.clone(),
        };
        let mut link = target.map(|target| ids[target]);
        match &commit.action {
            Action::Renew(_, _, Renewal::Replace { start, linked }) => {
                session = self.begin(start);
                link = link.filter(|_| *linked);
            }
            Action::Renew(_, _, Renewal::LogIn { principal, absolute_timeout }) => {
                session.principal = PRINCIPALS.iter().position(|known| known == principal);
                session.ends = absolute_timeout.map(|timeout| self.now + timeout.as_secs());
            }
            Action::Destroy(_) => {
                self.bury(of, None);
                return Reply::Applied { version: session.version, counters: BTreeMap::new(), confirmed: true };
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
        Reply::Applied { version, counters, confirmed: true }
    }

    fn begin(&self, start: &Start) -> Session {
        Session {
            principal: start.principal.as_ref().and_then(|name| PRINCIPALS.iter().position(|known| known == name)),
            ends: start.absolute_timeout.map(|timeout| self.now + timeout.as_secs()),
            ..Session::default()
        }
    }
}

fn start(begin: &Begin) -> Start {
    Start {
        created_on: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000),
        idle_timeout: Duration::from_secs(IDLE),
        absolute_timeout: begin.absolute.then_some(Duration::from_secs(ABSOLUTE)),
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

/// But for the version, which only the store can know.
#[track_caller]
fn assert_same(reply: &Reply, expected: &Reply, what: &str) {
    match (reply, expected) {
        (Reply::Applied { counters, .. }, Reply::Applied { counters: expected, .. }) => {
            assert_eq!(counters, expected, "{what}");
        }
        _ => assert_eq!(reply, expected, "{what}"),
    }
}

#[cfg(test)]
mod tests {
    use session_layer::store::MemoryStore;

    use super::*;
    use crate::broken::{BrokenStore, Defect};

    fn run(store: &impl SessionStore, steps: Vec<Step>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(check(store, steps, tokio::time::advance));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_store_in_memory_answers_as_the_model(steps in steps(true)) {
            run(&MemoryStore::new(), steps);
        }
    }

    /// Which defects one step after the other shows, without time passing.
    const SHOWN: [Defect; 10] = [
        Defect::ForgetsARemoval,
        Defect::AppliesBeforeAllChecksPassed,
        Defect::IgnoresConditions,
        Defect::IgnoresTheCommitId,
        Defect::KeepsTheOldIdAlive,
        Defect::TouchRevivesATombstone,
        Defect::WritesIntoADestroyedSession,
        Defect::MissesASessionInTheIndex,
        Defect::KeepsADeadSessionInTheIndex,
        Defect::AppliesAfterTheDeadline,
    ];

    #[test]
    fn the_model_finds_what_one_step_after_the_other_shows() {
        let fails = |defect: Option<Defect>| {
            // Failures are expected here, and need not be small.
            let config = ProptestConfig {
                cases: 200,
                max_shrink_iters: 0,
                failure_persistence: None,
                ..ProptestConfig::default()
            };
            let mut runner = proptest::test_runner::TestRunner::new(config);
            runner.run(&steps(false), |steps| {
                let store = BrokenStore::new(defect);
                std::panic::catch_unwind(|| run(&store, steps)).map_err(|_| TestCaseError::fail("as expected"))
            })
        };
        assert!(fails(None).is_ok(), "a store without a defect is as the model");
        for defect in SHOWN {
            assert!(fails(Some(defect)).is_err(), "{defect:?} is not found");
        }
    }
}
