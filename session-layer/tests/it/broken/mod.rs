//! A session store written the way people write session stores: a few steps, each a round trip to a table that others change
//! meanwhile. Correct as it is; a [`Defect`] makes one of the usual mistakes.
//!
//! What is meant to find such mistakes is tested on it.

mod caught;

mod table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use session_layer::SessionId;
use session_layer::store::{
    Action, Change, Commit, Listed, Loaded, Reply, Revocation, Revoked, SessionStore, StoreError, Touch, parse_counter,
};
use tokio::time::{Instant, sleep};

use table::Table;

/// One mistake, as found in stores that are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// Reads the record, changes it, and writes all of it.
    WritesBackTheWholeRecord,
    /// Saves what is not there any more, and so brings it back.
    UpsertsOnSave,
    /// Writes what was set, but removes nothing.
    ForgetsARemoval,
    /// Writes while it checks, and leaves what it wrote when a check fails.
    AppliesBeforeAllChecksPassed,
    /// Takes every compare-and-set for a set.
    IgnoresConditions,
    /// Applies a repeated commit again.
    IgnoresTheCommitId,
    /// Reads a counter, adds, and writes it.
    ReadModifyWritesACounter,
    /// Copies the session to its new ID, and leaves the old one.
    KeepsTheOldIdAlive,
    /// A touch makes a tombstone a session again.
    TouchRevivesATombstone,
    /// A touch gives a tombstone another five minutes.
    TouchProlongsATombstone,
    /// A session ends an idle timeout after it was created, used or not.
    NeverProlongs,
    /// A read without an answer finds nothing.
    AnswersAbsentForAFailedRead,
    /// A write without an answer went well.
    ReportsSuccessForADroppedAnswer,
    /// Takes the changes of a session that was destroyed, and says that it did.
    WritesIntoADestroyedSession,
    /// A renewed session is not in the list of its principal.
    MissesASessionInTheIndex,
    /// A destroyed session stays in the list of its principal.
    KeepsADeadSessionInTheIndex,
    /// Counts the sessions of a principal before it adds one, in two steps.
    ExceedsTheLimit,
    /// Applies what nobody waits for any more.
    AppliesAfterTheDeadline,
    /// Remembers only commits that it applied, and applies one that it refused when it arrives once more.
    ForgetsThatItRefused,
    /// Layers over one store have one list per principal between them.
    SharesListsBetweenRealms,
    /// What a list has lost, only the next login brings back.
    NeverRepairsAList,
}

impl Defect {
    pub const ALL: [Self; 21] = [
        Self::WritesBackTheWholeRecord,
        Self::UpsertsOnSave,
        Self::ForgetsARemoval,
        Self::AppliesBeforeAllChecksPassed,
        Self::IgnoresConditions,
        Self::IgnoresTheCommitId,
        Self::ReadModifyWritesACounter,
        Self::KeepsTheOldIdAlive,
        Self::TouchRevivesATombstone,
        Self::TouchProlongsATombstone,
        Self::NeverProlongs,
        Self::AnswersAbsentForAFailedRead,
        Self::ReportsSuccessForADroppedAnswer,
        Self::WritesIntoADestroyedSession,
        Self::MissesASessionInTheIndex,
        Self::KeepsADeadSessionInTheIndex,
        Self::ExceedsTheLimit,
        Self::AppliesAfterTheDeadline,
        Self::ForgetsThatItRefused,
        Self::SharesListsBetweenRealms,
        Self::NeverRepairsAList,
    ];
}

/// What happens to one call on its way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// It never reaches the table.
    CallLost,
    /// It is carried out, and nobody hears of it.
    AnswerLost,
}

type Faults = dyn FnMut() -> Fault + Send;

/// The store. Clones share what they keep, as the nodes of a cluster do.
#[derive(Clone)]
pub struct BrokenStore {
    defect: Option<Defect>,
    table: Arc<Mutex<Table>>,
    faults: Arc<Mutex<Box<Faults>>>,
    steps: Arc<Mutex<u64>>,
}

impl BrokenStore {
    /// With this mistake, or none.
    pub fn new(defect: impl Into<Option<Defect>>) -> Self {
        Self {
            defect: defect.into(),
            table: Arc::default(),
            faults: Arc::new(Mutex::new(Box::new(Fault::default))),
            steps: Arc::default(),
        }
    }

    /// Asks `next` what happens to each call from here on.
    pub fn faults(&self, next: impl FnMut() -> Fault + Send + 'static) {
        *lock(&self.faults) = Box::new(next);
    }

    /// Loses the list of a principal.
    pub fn lose_list(&self, realm: &str, principal: &str) {
        self.table().lose_list(realm, principal, self.defect);
    }

    fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    /// Between two steps others have their turn, for a while that differs from step to step in a way that repeats.
    async fn step(&self) {
        let millis = {
            let mut steps = lock(&self.steps);
            *steps = steps.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*steps >> 33) % 4
        };
        match millis {
            0 => tokio::task::yield_now().await,
            millis => sleep(Duration::from_millis(millis)).await,
        }
    }

    /// One call: there, what it does, and back.
    async fn call<T>(&self, act: impl AsyncFnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let fault = (lock(&self.faults))();
        self.step().await;
        if fault == Fault::CallLost {
            return Err(StoreError::unavailable("the call was lost"));
        }
        let answer = act().await;
        self.step().await;
        if fault == Fault::AnswerLost {
            return Err(StoreError::unavailable("the answer was lost"));
        }
        answer
    }

    async fn apply(&self, commit: &Commit) -> Result<Reply, StoreError> {
        let mut commit = commit.clone();
        if let Some(reply) = self.table().reply_to(&commit.id)
            && !self.has(Defect::IgnoresTheCommitId)
        {
            return Ok(reply);
        }
        if Instant::now() > commit.deadline && !self.has(Defect::AppliesAfterTheDeadline) {
            return Err(StoreError::unavailable("the commit came after its deadline"));
        }
        if self.has(Defect::IgnoresConditions) {
            commit.conditions.clear();
        }
        if self.has(Defect::ForgetsARemoval) {
            commit.changes.retain(|_, change| *change != Change::Remove);
        }
        let id = *commit.action.id();
        if self.has(Defect::ReadModifyWritesACounter) {
            let before = self.table().attributes(&id);
            self.step().await;
            for (name, change) in &mut commit.changes {
                if let Change::Add(by) = change
                    && let Some(old) = before.get(name).map_or(Some(0), |value| parse_counter(value))
                {
                    *change = Change::Set((old + *by).to_string().into());
                }
            }
        }
        if self.has(Defect::WritesBackTheWholeRecord) && matches!(commit.action, Action::Apply(_)) {
            let before = self.table().attributes(&id);
            self.step().await;
            if self.table().is_alive(&id) {
                self.table().replace_attributes(&id, before);
            }
        }
        if self.has(Defect::ExceedsTheLimit) {
            let evicted = self.table().above_limit(&commit, self.defect);
            self.step().await;
            match evicted {
                Ok(evicted) => evicted.iter().for_each(|id| self.table().bury(id, None)),
                Err(reply) => return Ok(reply),
            }
            commit.sessions = None;
        }
        let reply = self.table().commit(&commit, self.defect);
        let applied = matches!(reply, Reply::Applied { .. });
        if applied || !self.has(Defect::ForgetsThatItRefused) {
            self.table().remember(&commit, &reply);
        }
        Ok(reply)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SessionStore for BrokenStore {
    async fn load(&self, id: &SessionId) -> Result<Loaded, StoreError> {
        let loaded = self.call(async || Ok(self.table().load(id))).await;
        match loaded {
            Err(_) if self.has(Defect::AnswersAbsentForAFailedRead) => Ok(Loaded::Absent),
            other => other,
        }
    }

    async fn commit(&self, commit: &Commit) -> Result<Reply, StoreError> {
        let reply = self.call(async || self.apply(commit).await).await;
        match reply {
            Err(error) if self.has(Defect::ReportsSuccessForADroppedAnswer) => {
                // Where it is not known what the table has, make it up.
                self.table().guess(commit).ok_or(error)
            }
            other => other,
        }
    }

    async fn sessions_of(&self, realm: &str, principal: &str) -> Result<Vec<Listed>, StoreError> {
        self.call(async || Ok(self.table().sessions_of(realm, principal, self.defect))).await
    }

    async fn revoke(&self, revocation: &Revocation) -> Result<Revoked, StoreError> {
        self.call(async || {
            if Instant::now() > revocation.deadline && !self.has(Defect::AppliesAfterTheDeadline) {
                return Err(StoreError::unavailable("the revocation came after its deadline"));
            }
            Ok(self.table().revoke(revocation, self.defect))
        })
        .await
    }

    async fn touch(&self, touch: &Touch) -> Result<(), StoreError> {
        self.call(async || {
            self.table().touch(touch, self.defect);
            Ok(())
        })
        .await
    }
}
