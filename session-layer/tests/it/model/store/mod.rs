//! Random steps on a store, one after the other, and a model that says what each must answer.
//!
//! Knows nothing of a particular store: [`check`] takes any. Steps that need time to pass are left out where it cannot.

mod model;
mod steps;

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::sample::Index;
use session_layer::SessionId;
use session_layer::store::{
    Action, Change, Commit, CommitId, Loaded, Renewal, Reply, Revocation, Revoke, SessionLimit, SessionStore, Touch,
    Version,
};
use tokio::time::Instant;

use model::{Entry, LIFETIMES, MOST_ATTRIBUTES, Model, NAMES, PRINCIPALS, REALM, start};
use steps::{Edit, Guard};
pub use steps::{Step, steps};

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
                self.renew(at, Renewal::LogIn { principal: PRINCIPALS[principal].into() }, edits, limit).await;
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
                self.store.touch(&Touch::new(id, REALM, LIFETIMES)).await.expect("it can be reached");
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
        (commit.realm, commit.lifetimes) = (REALM.into(), LIFETIMES);
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
            realm: REALM.into(),
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
            (Loaded::Ended { successor, age }, Some(Entry::Tombstone { successor: expected, until })) => {
                assert_eq!(successor, expected);
                assert_about(*age, self.model.age(*until));
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
                assert_about(Duration::from_secs(until - self.model.now), record.ttl);
            }
            (loaded, expected) => panic!("loaded {loaded:?}, expected {expected:?}"),
        }
    }

    async fn list(&self, principal: usize) {
        let listed = self.store.sessions_of(REALM, PRINCIPALS[principal]).await.expect("it can be reached");
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

/// What the store says, or the model; a store whose time is real is a little further than the model.
#[track_caller]
fn assert_about(later: Duration, earlier: Duration) {
    assert!(earlier <= later && later < earlier + Duration::from_secs(5), "{earlier:?} and {later:?}");
}

/// But for the version, which only the store can know.
#[track_caller]
fn assert_same(reply: &Reply, expected: &Reply, what: &str) {
    match (reply, expected) {
        (Reply::Applied { counters, .. }, Reply::Applied { counters: expected, .. }) => {
            assert_eq!(counters, expected, "{what}");
        }
        (Reply::Ended { successor, age }, Reply::Ended { successor: expected, age: expected_age }) => {
            assert_eq!(successor, expected, "{what}");
            assert_about(*age, *expected_age);
        }
        _ => assert_eq!(reply, expected, "{what}"),
    }
}
