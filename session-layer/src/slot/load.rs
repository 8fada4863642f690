//! Finds and loads the session of a request.

use std::time::Duration;

use super::Slot;
use crate::budget::{Budget, persist};
use crate::commit::Seen;
use crate::error::SessionError;
use crate::event::SessionEvent;
use crate::freshness::{copy_wanted, is_lost_in, seconds_since_epoch};
use crate::id::SessionId;
use crate::record::{Record, Version};
use crate::signature::Presented;
use crate::store::{BoxFuture, Loaded, StoreError};
use crate::telemetry;

impl Slot {
    /// Loads the session, once for all who ask within this request.
    pub(crate) async fn load(&self) -> Result<(), SessionError> {
        let _events = self.send_events_at_the_end();
        if self.presented().is_some() {
            self.loaded.get_or_try_init(|| self.load_presented()).await?;
        }
        self.with_state(|state| state.read = true);
        Ok(())
    }

    async fn load_presented(&self) -> Result<(), SessionError> {
        // A commit of this request may change the session at the same time.
        let _order = self.flushing.lock().await;
        self.choose(self.config.copies, &self.budget).await
    }

    /// Finds the session among the cookies that the browser presented: the first one that is alive. If none is, the request came with
    /// the one that ended last, for that must not start anew; only if none has a tombstone it came with what is absent.
    pub(super) async fn choose(&self, copies: bool, budget: &Budget) -> Result<(), SessionError> {
        if !matches!(self.with_state(|state| state.seen), Seen::Unseen(_)) {
            return Ok(());
        }
        // Boxed: it is large, and a request with one good cookie, as nearly all are, never has it.
        let mut dead: Option<Box<(SessionId, Loaded)>> = None;
        for Presented { id, .. } in self.candidates().iter() {
            let copy = if copies { self.copy(id).await } else { None };
            let copied = copy.is_some();
            let loaded = match copy {
                Some(copy) => Loaded::Alive(copy),
                // Boxed: what asks the store is large, and whoever has a copy, or no cookie, need not carry it around.
                None => Box::pin(self.fetch(id, budget)).await?,
            };
            if matches!(loaded, Loaded::Alive(_)) {
                self.see(*id, loaded, copied);
                return Ok(());
            }
            if dead.as_ref().is_none_or(|dead| is_stronger(&loaded, &dead.1)) {
                dead = Some(Box::new((*id, loaded)));
            }
        }
        if let Some(dead) = dead {
            let (id, loaded) = *dead;
            self.see(id, loaded, false);
        }
        Ok(())
    }

    fn see(&self, id: SessionId, loaded: Loaded, copied: bool) {
        let late_window = self.late_window();
        self.with_state(|state| {
            state.copied = copied;
            state.see(id, loaded, &late_window);
        });
    }

    /// The same, from the master, whatever this request has loaded so far.
    pub(crate) async fn load_strictly(&self) -> Result<(), SessionError> {
        self.with_state(|state| state.strict = true);
        self.load().await?;
        if self.with_state(|state| state.copied) {
            self.reload().await?;
        }
        Ok(())
    }

    /// A copy of the session that will do for this browser.
    async fn copy(&self, id: &SessionId) -> Option<Record> {
        let token = self.token(id);
        let (strict, committed) = self.with_state(|state| (state.strict, state.committed));
        let longest = self.config.touch_interval.min(LONGEST_COPY);
        let wanted = copy_wanted(token, committed, seconds_since_epoch(), longest).filter(|_| !strict)?;
        self.config.store.load_copy(id, &wanted).await.filter(|copy| copy.version >= wanted.at_least)
    }

    /// Loads the session again. `false` when it is gone.
    pub(crate) async fn reload(&self) -> Result<bool, SessionError> {
        let _events = self.send_events_at_the_end();
        let _order = self.turn().await;
        let Some(id) = self.with_state(|state| state.seen.id()) else { return Ok(false) };
        let late = self.late_budget();
        let budget = late.as_ref().unwrap_or(&self.budget);
        let loaded = self.fetch(&id, budget).await?;
        let is_to_be_chosen = self.with_state(|state| {
            let was_copied = std::mem::take(&mut state.copied);
            if let Loaded::Alive(record) = loaded {
                state.record = Some(record);
                return false;
            }
            state.record = None;
            // Else `seen` stays: to a request that knew it alive, a session that ended is a conflict and no reason to start another.
            // That a copy showed it is no such knowledge; nor is it a reason to pass by other cookies of the browser.
            let is_news = was_copied && state.committed.is_none();
            if is_news {
                state.seen = Seen::Unseen(id);
            }
            is_news
        });
        if is_to_be_chosen {
            self.choose(false, budget).await?;
        }
        Ok(self.with_state(|state| state.record.is_some()))
    }

    pub(super) async fn fetch(&self, id: &SessionId, budget: &Budget) -> Result<Loaded, SessionError> {
        let store = &*self.config.store;
        let told = self.told(id);
        let attempt = || -> BoxFuture<'_, Result<Loaded, StoreError>> {
            Box::pin(async move {
                match store.load(id).await {
                    // One spoilt session must not lock its user out: to the browser it is gone.
                    Err(error) if error.is_corrupt() => {
                        telemetry::corrupt(id, &error);
                        Ok(Loaded::Absent)
                    }
                    Ok(Loaded::Alive(record)) => {
                        if let Some(told) = told.filter(|told| is_lost_in(*told, &record)) {
                            self.miss(id, told, record.version).await?;
                        }
                        Ok(Loaded::Alive(record))
                    }
                    other => other,
                }
            })
        };
        persist(store, budget, &self.config.waiters, budget.deadline(), attempt).await
    }

    /// Handles a record that lacks a version that its browser was told of. Either this server is not the master any more, and the request
    /// asks again; or the change is lost.
    pub(super) async fn miss(&self, id: &SessionId, told: Version, found: Version) -> Result<(), StoreError> {
        if !self.config.store.confirm_master().await? {
            return Ok(());
        }
        // In any case: as long as the browser says so, every read asks the sentinels, and no copy will do.
        let known = self.with_state(|state| std::mem::replace(&mut state.rolled_back, true));
        if known || !self.config.rollback_detection {
            return Ok(());
        }
        telemetry::rolled_back(id);
        let event = SessionEvent::RolledBack { session: id.handle(), lost: told, found };
        self.with_state(|state| state.events.push(event));
        Ok(())
    }
}

/// Which of two cookies without a live session a request counts as having come with: the one whose session ended last, since that is
/// the one that the request may be late for.
fn is_stronger(loaded: &Loaded, than: &Loaded) -> bool {
    match (loaded, than) {
        (Loaded::Ended { age, .. }, Loaded::Ended { age: than, .. }) => age < than,
        (Loaded::Ended { .. }, _) => true,
        _ => false,
    }
}

/// How long a copy may be kept in memory. What the server says about it in the meantime counts; this is for what it forgets to say.
const LONGEST_COPY: Duration = Duration::from_secs(30);
