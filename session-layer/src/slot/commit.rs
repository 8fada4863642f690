//! Carries out what is decided about a delta.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::{Applied, Attempt, Slot};
use crate::budget::{Budget, persist};
use crate::commit::{Action, Commit, CommitId, Next, Renewal, Reply, Seen, Start, Step, next, plan};
use crate::delta::{Delta, Identity};
use crate::error::{Kind, SessionError};
use crate::freshness::is_lost;
use crate::id::SessionId;
use crate::record::Version;
use crate::state::CookieChange;
use crate::store::{BoxFuture, Loaded, StoreError};
use crate::telemetry;

impl Slot {
    /// Commits a delta: one step, or as many as the state that the session turns out to be in asks for.
    pub(super) async fn apply(
        &self,
        delta: &Delta,
        conditions: &BTreeMap<String, Option<Bytes>>,
        budget: &Budget,
    ) -> Result<Attempt, SessionError> {
        // A blind write of a browser with several cookies: which of them it is for, only the store knows.
        if self.candidates().are_several() {
            self.choose(false, budget).await?;
        }
        let seen = self.with_state(|state| state.seen);
        let mut step = plan(&seen, delta);
        // Each further step answers something that another request did meanwhile; more than a few in a row is no accident.
        for _ in 0..MAX_STEPS {
            let (action, target, version) = match step {
                Step::Nothing => return Ok(Attempt::Applied(Applied::default())),
                Step::Gone => break,
                Step::Forget => {
                    self.with_state(|state| state.cookie = CookieChange::Forget);
                    return Ok(Attempt::Applied(Applied::default()));
                }
                Step::Follow(successor) => match self.follow(successor, delta, budget).await? {
                    Some(next) => {
                        step = next;
                        continue;
                    }
                    None => return Ok(Attempt::Applied(Applied::default())),
                },
                Step::Create if !delta.starts_on_purpose() && self.must_not_start() => {
                    return Err(SessionError::new(Kind::CrossSite));
                }
                Step::Create => {
                    let (fresh, keep) =
                        self.with_state(|state| (state.fresh(), state.delta.identity == Identity::Keep));
                    // A flush before a renewal that waits for the response: the ID that was promised is the one after that.
                    let id = if keep { fresh.id } else { fresh.id.successor() };
                    (Action::Create(id, start(fresh.created_on, delta)), id, None)
                }
                Step::Apply(id) => (Action::Apply(id), id, self.with_state(|state| state.version_of(&id))),
                Step::Renew(id) => {
                    let (fresh, version) = self.with_state(|state| (state.fresh(), state.version_of(&id)));
                    (Action::Renew(id, fresh.id, renewal(fresh.created_on, delta)), fresh.id, version)
                }
                Step::Destroy(id) => (Action::Destroy(id), id, None),
            };
            let reply = self.commit(action.clone(), delta, conditions, version, budget).await?;
            match reply {
                Reply::Limit(limit) => return Err(SessionError::new(Kind::Limit(limit))),
                Reply::NotACounter(name) => return Err(SessionError::new(Kind::NotACounter(name))),
                Reply::Conflict { current, .. } => return Ok(Attempt::Lost(current)),
                Reply::RolledBack => return Err(SessionError::new(Kind::RolledBack)),
                Reply::TooManySessions => return Err(SessionError::new(Kind::TooManySessions)),
                Reply::Occupied => {
                    return Err(SessionError::unavailable(Some(StoreError::refused("the new session ID is taken"))));
                }
                Reply::Applied { .. } | Reply::Absent | Reply::Ended { .. } => {}
            }
            match next(&step, target, &seen, delta, &reply, &self.late_window()) {
                Next::Then(then) => step = then,
                done => {
                    let Reply::Applied { version, counters, confirmed, history } = reply else {
                        return Ok(Attempt::Applied(Applied::default()));
                    };
                    if let Some(told) = self.told(action.id()).filter(|told| is_lost(*told, &history)) {
                        // It is applied whatever comes of this.
                        let _ = self.miss(action.id(), told, version).await;
                    }
                    self.with_state(|state| state.applied(&action, delta, &done, version, &counters, &self.config));
                    telemetry::applied(&action);
                    if !confirmed {
                        return Err(SessionError::new(Kind::NotDurable));
                    }
                    return Ok(Attempt::Applied(Applied { counters }));
                }
            }
        }
        self.with_state(|state| state.gone = true);
        Err(SessionError::new(Kind::Gone))
    }

    async fn commit(
        &self,
        action: Action,
        delta: &Delta,
        conditions: &BTreeMap<String, Option<Bytes>>,
        seen: Option<Version>,
        budget: &Budget,
    ) -> Result<Reply, SessionError> {
        // Login, logout, and what takes their place: a failover must not undo them.
        let durable = action.logs_in().is_some() || action.ends_session();
        let commit = Commit {
            id: CommitId::random(),
            sessions: self.config.session_limit,
            durable,
            keep_history: self.config.rollback_detection,
            action,
            realm: Arc::clone(&self.config.realm),
            lifetimes: self.config.lifetimes,
            clear: delta.clear,
            changes: delta.changes.clone(),
            conditions: conditions.clone(),
            seen,
            limits: self.config.limits,
            deadline: budget.deadline(),
            remember: self.config.budget * 4,
        };
        let store = &*self.config.store;
        let (id, commit) = (commit.action.id(), &commit);
        let attempt = || -> BoxFuture<'_, Result<Reply, StoreError>> {
            Box::pin(async move {
                match store.commit(commit).await {
                    // As for a load: to the browser it is gone.
                    Err(error) if error.is_corrupt() => {
                        telemetry::corrupt(id, &error);
                        Ok(Reply::Absent)
                    }
                    other => other,
                }
            })
        };
        persist(store, budget, &self.config.waiters, commit.deadline, attempt).await
    }

    /// Looks at the successor that a late login found. `None`: the browser gets its cookie, and there is nothing to write.
    async fn follow(&self, successor: SessionId, delta: &Delta, budget: &Budget) -> Result<Option<Step>, SessionError> {
        let principal = match &delta.identity {
            Identity::LogIn(principal) | Identity::Replace(Some(principal)) => Some(principal),
            _ => None,
        };
        Ok(match self.fetch(&successor, budget).await? {
            Loaded::Alive(record) if record.principal.as_ref() == principal => {
                let to_write = delta.changes_attributes();
                self.with_state(|state| {
                    state.record = Some(record);
                    if !to_write {
                        state.seen = Seen::Alive(successor);
                        state.cookie = CookieChange::Keep(successor);
                    }
                });
                to_write.then_some(Step::Apply(successor))
            }
            Loaded::Ended { successor: Some(next), .. } => Some(Step::Follow(next)),
            Loaded::Alive(_) | Loaded::Ended { successor: None, .. } | Loaded::Absent => Some(Step::Create),
        })
    }
}

fn start(created_on: SystemTime, delta: &Delta) -> Start {
    let principal = match &delta.identity {
        Identity::LogIn(principal) | Identity::Replace(Some(principal)) => Some(principal.clone()),
        _ => None,
    };
    Start { created_on, principal }
}

fn renewal(created_on: SystemTime, delta: &Delta) -> Renewal {
    match &delta.identity {
        Identity::LogIn(principal) => Renewal::LogIn { principal: principal.clone() },
        Identity::Replace(principal) => {
            Renewal::Replace { start: start(created_on, delta), linked: principal.is_some() }
        }
        Identity::Reset => Renewal::Replace { start: start(created_on, delta), linked: false },
        Identity::Keep | Identity::Cycle | Identity::Destroy => Renewal::Keep,
    }
}

/// A login may follow a few renewals; see [`Slot::apply`].
const MAX_STEPS: usize = 16;
