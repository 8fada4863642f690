//! How a handler gets at the session of its request.

use std::any::{TypeId, type_name};
use std::sync::Arc;

use http::{Extensions, Request};

use crate::error::{Kind, SessionError};
use crate::layer::Config;
use crate::session::{LazySession, Session};
use crate::slot::Slot;

/// What layers put into the request's extensions: the slot of the innermost layer, and the way to those around it.
#[derive(Clone)]
pub(crate) struct Slots {
    slot: Arc<Slot>,
    kind: TypeId,
    /// Only an app with several layers around one handler has any.
    outer: Option<Arc<Slots>>,
}

/// What a layer finds when a request comes to it.
pub(crate) enum Entered {
    /// The request has a slot of this layer now.
    First(Arc<Slot>),
    /// This layer also stands further out. The request has a slot there, which is used here too and committed there.
    Again,
    /// A different layer further out uses a cookie of this one.
    Refused(SessionError),
}

impl Slots {
    /// Gives the request a slot of a layer, unless it has one already.
    pub(crate) fn enter<K: 'static, B>(request: &mut Request<B>, config: &Arc<Config>) -> Entered {
        let kind = TypeId::of::<K>();
        let outer = request.extensions().get::<Self>().cloned();
        if let Some(outer) = &outer {
            if let Some(slot) = outer.around().map(|slots| &slots.slot).find(|slot| slot.can_be_used_by(config)) {
                // Another layer of the same kind may stand in between. Inside this one, this one's sessions are meant again.
                if !outer.of_kind(kind).is_some_and(|innermost| Arc::ptr_eq(innermost, slot)) {
                    let again = Self { slot: Arc::clone(slot), kind, outer: Some(Arc::new(outer.clone())) };
                    request.extensions_mut().insert(again);
                }
                return Entered::Again;
            }
            if let Some(error) = outer.around().find_map(|slots| slots.slot.conflict_with(config)) {
                // What middleware in between has stored is not committed either.
                outer.around().for_each(|slots| slots.slot.refuse(&error));
                return Entered::Refused(error);
            }
        }
        let slot = Slot::new(request, config);
        request.extensions_mut().insert(Self { slot: Arc::clone(&slot), kind, outer: outer.map(Arc::new) });
        Entered::First(slot)
    }

    /// From the innermost layer outwards.
    fn around(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |slots| slots.outer.as_deref())
    }

    fn of_kind(&self, kind: TypeId) -> Option<&Arc<Slot>> {
        self.around().find(|slots| slots.kind == kind).map(|slots| &slots.slot)
    }
}

fn slot<K: 'static>(extensions: &Extensions) -> Result<Arc<Slot>, SessionError> {
    match extensions.get::<Slots>().and_then(|slots| slots.of_kind(TypeId::of::<K>())) {
        Some(slot) => Ok(Arc::clone(slot)),
        None if type_name::<K>() == type_name::<crate::DefaultSession>() => {
            Err(SessionError::new(Kind::MissingLayer("SessionLayer")))
        }
        None => Err(SessionError::new(Kind::MissingLayer(type_name::<K>()))),
    }
}

impl Session {
    /// The session of a request, without axum: for tower, hyper and tonic services.
    ///
    /// ```
    /// # use session_layer::{Session, SessionError};
    /// async fn serve(request: http::Request<()>) -> Result<http::Response<String>, SessionError> {
    ///     let session = Session::from_extensions(request.extensions()).await?;
    ///     session.increment("visits", 1)?;
    ///     Ok(http::Response::new(format!("{:?}", session.get::<u64>("visits")?)))
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// When the store does not answer within the budget, or the request did not pass through a
    /// [`SessionLayer`](crate::SessionLayer).
    pub async fn from_extensions(extensions: &Extensions) -> Result<Self, SessionError> {
        Self::extract(extensions).await
    }
}

impl<K: 'static> Session<K> {
    /// [`from_extensions`](Session::from_extensions) for the layer of another kind.
    ///
    /// # Errors
    ///
    /// The same.
    pub async fn extract(extensions: &Extensions) -> Result<Self, SessionError> {
        let slot = slot::<K>(extensions)?;
        slot.load().await?;
        Ok(Self::new(slot))
    }
}

impl LazySession {
    /// The session of a request, without axum and without asking the store.
    ///
    /// # Errors
    ///
    /// When the request did not pass through a [`SessionLayer`](crate::SessionLayer).
    pub fn from_extensions(extensions: &Extensions) -> Result<Self, SessionError> {
        Self::extract(extensions)
    }
}

impl<K: 'static> LazySession<K> {
    /// [`from_extensions`](LazySession::from_extensions) for the layer of another kind.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn extract(extensions: &Extensions) -> Result<Self, SessionError> {
        slot::<K>(extensions).map(Self::new)
    }
}

/// The session of a request as the master has it, also where copies may stand in for it
/// ([`replica_reads`](crate::store::RedisStoreBuilder::replica_reads)): for what must not be a second late, such as a page that shows
/// what was just paid on another device. If the request has loaded a copy so far, it is loaded again, for everybody in the request.
///
/// ```
/// # #[cfg(feature = "axum")] {
/// use session_layer::{SessionError, Strict};
///
/// async fn account(Strict(session): Strict) -> Result<String, SessionError> {
///     Ok(format!("{:?}", session.get::<u64>("balance")?))
/// }
/// # }
/// ```
///
/// Without axum: [`Strict::from_extensions`]. Writes need it not: they are checked against what the master has in any case.
pub struct Strict<K = crate::DefaultSession>(pub Session<K>);

impl Strict {
    /// The session of a request, without axum.
    ///
    /// # Errors
    ///
    /// As [`Session::from_extensions`].
    pub async fn from_extensions(extensions: &Extensions) -> Result<Self, SessionError> {
        Self::extract(extensions).await
    }
}

impl<K: 'static> Strict<K> {
    /// [`from_extensions`](Strict::from_extensions) for the layer of another kind.
    ///
    /// # Errors
    ///
    /// The same.
    pub async fn extract(extensions: &Extensions) -> Result<Self, SessionError> {
        let slot = slot::<K>(extensions)?;
        slot.load_strictly().await?;
        Ok(Self(Session::new(slot)))
    }
}

#[cfg(feature = "axum")]
mod axum {
    use axum_core::extract::FromRequestParts;
    use http::request::Parts;

    use super::{LazySession, Session, SessionError, Strict};

    impl<K: 'static, S: Send + Sync> FromRequestParts<S> for Session<K> {
        type Rejection = SessionError;

        async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, SessionError> {
            Self::extract(&parts.extensions).await
        }
    }

    impl<K: 'static, S: Send + Sync> FromRequestParts<S> for Strict<K> {
        type Rejection = SessionError;

        async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, SessionError> {
            Self::extract(&parts.extensions).await
        }
    }

    impl<K: 'static, S: Send + Sync> FromRequestParts<S> for LazySession<K> {
        type Rejection = SessionError;

        async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, SessionError> {
            Self::extract(&parts.extensions)
        }
    }
}
