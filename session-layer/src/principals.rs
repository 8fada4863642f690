//! Who is logged in where: the sessions of a principal, to list them and to end them from elsewhere.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::attribute::{Named, Reads};
use crate::budget::{Budget, persist};
use crate::commit::{CommitId, Revocation, Revoke};
use crate::error::{Kind, SessionError};
use crate::id::SessionHandle;
use crate::layer::Config;
use crate::store::Listed;
use crate::value::parse;

/// The sessions of principals, from [`SessionLayer::sessions`](crate::SessionLayer::sessions). A cheap clone.
///
/// The list of a principal's sessions changes in the same atomic step as the sessions themselves: it neither misses a live one
/// nor keeps a dead one. What is revoked is gone on every node at once, and nothing in flight brings it back.
///
/// Each layer has its own lists, also where several share a store, unless they were given one
/// [realm](crate::SessionLayerBuilder::realm).
///
/// # When Redis loses a list
///
/// A Redis that is set to remove keys when its memory is full (any `maxmemory-policy` but `noeviction`) may remove a list and keep the
/// sessions in it; somebody may delete one by hand. A session that its list has lost is in it again after its next commit, or its next
/// touch if it is only read (after the [touch interval](crate::SessionLayerBuilder::touch_interval), by default a twentieth of the idle
/// timeout), in its old place in the order of logins. Until then, [`of`](Self::of) does not show it,
/// [`revoke_all`](Self::revoke_all) and the other ways to end sessions do not end it and do not count it, and no limit counts it.
/// Nothing tells that a list is incomplete. To revoke once more after a touch interval ends all sessions that were used meanwhile; one
/// that was not used is found only after it is used again. A revocation is complete for sure only with `noeviction`.
///
/// ```
/// use session_layer::{Session, SessionError, Sessions};
///
/// async fn log_out_elsewhere(sessions: Sessions, session: Session) -> Result<String, SessionError> {
///     let Some(name) = session.principal() else { return Ok("nobody is logged in".to_owned()) };
///     let ended = sessions.revoke_others(&name, &session.handle()).await?;
///     Ok(format!("{ended} other sessions ended"))
/// }
/// ```
///
/// # Errors
///
/// Every method fails when the store does not answer within the budget, of which each call has one of its own; those that revoke,
/// also with [`SessionError::is_not_durable`] when the sessions have ended but no replica confirmed it.
#[derive(Clone)]
pub struct Sessions {
    config: Arc<Config>,
}

impl Sessions {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        Self { config }
    }

    /// The live sessions of a principal, those that logged in first first.
    ///
    /// # Errors
    ///
    /// See [`Sessions`].
    pub async fn of(&self, principal: &str) -> Result<Vec<PrincipalSession>, SessionError> {
        let realm = &*self.config.realm;
        let (store, budget) = (&*self.config.store, Budget::new(self.config.budget));
        let listed =
            persist(store, &budget, &self.config.waiters, budget.deadline(), || store.sessions_of(realm, principal))
                .await?;
        Ok(listed.into_iter().map(PrincipalSession).collect())
    }

    /// Ends one session of a principal. Tells whether there was such a one: a handle of somebody else's session ends nothing.
    ///
    /// # Errors
    ///
    /// See [`Sessions`].
    pub async fn revoke(&self, principal: &str, session: &SessionHandle) -> Result<bool, SessionError> {
        self.end(principal, Revoke::One(*session)).await.map(|ended| ended > 0)
    }

    /// Ends all sessions of a principal but one, and tells how many.
    ///
    /// # Errors
    ///
    /// See [`Sessions`].
    pub async fn revoke_others(&self, principal: &str, keep: &SessionHandle) -> Result<usize, SessionError> {
        self.end(principal, Revoke::Others(*keep)).await
    }

    /// Ends all sessions of a principal, after a password was changed, say, and tells how many.
    ///
    /// # Errors
    ///
    /// See [`Sessions`].
    pub async fn revoke_all(&self, principal: &str) -> Result<usize, SessionError> {
        self.end(principal, Revoke::All).await
    }

    async fn end(&self, principal: &str, which: Revoke) -> Result<usize, SessionError> {
        let (store, budget) = (&*self.config.store, Budget::new(self.config.budget));
        let revocation = Revocation {
            id: CommitId::random(),
            realm: Arc::clone(&self.config.realm),
            principal: principal.to_owned(),
            which,
            deadline: budget.deadline(),
            remember: self.config.budget * 4,
        };
        let deadline = revocation.deadline;
        let revoked = persist(store, &budget, &self.config.waiters, deadline, || store.revoke(&revocation)).await?;
        if revoked.confirmed { Ok(revoked.ended) } else { Err(SessionError::new(Kind::NotDurable)) }
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

/// One session in the list of its principal; a snapshot.
#[derive(Debug, Clone)]
pub struct PrincipalSession(Listed);

impl PrincipalSession {
    /// Names it; no ID, and no way to one.
    pub fn handle(&self) -> SessionHandle {
        self.0.handle
    }

    /// When the session was created; that may have been before the login.
    pub fn created_on(&self) -> SystemTime {
        self.0.record.created_on
    }

    /// When its principal logged in.
    pub fn logged_in_on(&self) -> SystemTime {
        self.0.logged_in_on
    }

    /// When it was last prolonged, which costs no write of its own: it follows from the time it has left. Up to the touch
    /// interval (by default a twentieth of the idle timeout) earlier than its last request; unknown, and then the time now, once
    /// the absolute timeout is what limits it.
    pub fn last_seen_on(&self) -> SystemTime {
        let idle_for = self.0.record.idle_timeout.saturating_sub(self.0.record.ttl);
        let capped = self.0.record.expires_on.is_some_and(|end| end <= SystemTime::now() + self.0.record.idle_timeout);
        if capped { SystemTime::now() } else { SystemTime::now() - idle_for }
    }

    /// Reads an attribute of it, what device it is on, say.
    ///
    /// # Errors
    ///
    /// When what is stored does not read as `T`.
    pub fn get<T: DeserializeOwned>(&self, name: impl Reads<T>) -> Result<Option<T>, SessionError> {
        let name = name.attribute_name();
        parse(name, self.raw(name))
    }

    /// The JSON text of an attribute of it as it is stored.
    pub fn raw(&self, name: impl Named) -> Option<Bytes> {
        self.0.record.attributes.get(name.attribute_name()).cloned()
    }
}
