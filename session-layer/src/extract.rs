//! How a handler gets at the session of its request.

use std::any::type_name;
use std::marker::PhantomData;
use std::sync::Arc;

use http::Extensions;

use crate::error::{Kind, SessionError};
use crate::session::{LazySession, Session};
use crate::slot::Slot;

/// What the layer puts into the request's extensions, one type per kind of session.
pub(crate) struct Handle<K> {
    slot: Arc<Slot>,
    kind: PhantomData<fn() -> K>,
}

impl<K> Handle<K> {
    pub(crate) fn new(slot: Arc<Slot>) -> Self {
        Self { slot, kind: PhantomData }
    }
}

impl<K> Clone for Handle<K> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.slot))
    }
}

fn slot<K: 'static>(extensions: &Extensions) -> Result<Arc<Slot>, SessionError> {
    match extensions.get::<Handle<K>>() {
        Some(handle) => Ok(Arc::clone(&handle.slot)),
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
