//! One error for whoever uses a session, with questions to ask it.

use std::fmt;
use std::sync::Arc;

use http::StatusCode;

use crate::store::StoreError;
use crate::value::InvalidValue;

/// Why a session could not be read or changed.
///
/// Ask it what it is (`is_…`), or turn it into a response: [`status`](Self::status) says which. With the `axum` feature it is
/// `IntoResponse`, so that `?` works in handlers. When a commit fails after the handler has answered, the layer replaces the
/// response and puts the error into its extensions, where an outer layer finds it:
///
/// ```
/// # use session_layer::SessionError;
/// fn page(response: http::Response<String>) -> http::Response<String> {
///     match response.extensions().get::<SessionError>() {
///         Some(error) if error.is_unavailable() => response.map(|_| "Please try again in a moment.".to_owned()),
///         _ => response,
///     }
/// }
/// ```
#[derive(Debug, Clone)]
pub struct SessionError {
    kind: Kind,
    source: Option<Arc<StoreError>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Unavailable,
    Refused,
    Busy,
    Gone,
    RolledBack,
    NotACounter(String),
    Contended(String),
    Limit(Limit),
    InvalidName,
    InvalidPrincipal,
    InvalidValue(String, InvalidValue),
    Unreadable(String),
    TooManySessions,
    NotDurable,
    TooLate,
    CrossSite,
    MissingLayer(&'static str),
    SharedCookie { name: String, layers: [String; 2] },
}

/// A limit that a change would break.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// The value of this attribute is longer than allowed.
    Value(String),
    /// The session would have more attributes than allowed.
    Attributes,
    /// Names and values of all attributes together would be larger than allowed.
    Record,
}

impl SessionError {
    pub(crate) fn new(kind: Kind) -> Self {
        Self { kind, source: None }
    }

    pub(crate) fn unavailable(source: Option<StoreError>) -> Self {
        Self { kind: Kind::Unavailable, source: source.map(Arc::new) }
    }

    pub(crate) fn refused(source: StoreError) -> Self {
        Self { kind: Kind::Refused, source: Some(Arc::new(source)) }
    }

    /// Returns whether the store did not do its part: it did not answer within the budget, too many requests were waiting for it
    /// already, or it [refused](Self::is_refused). Whether a change was applied is not known. 503.
    pub fn is_unavailable(&self) -> bool {
        matches!(self.kind, Kind::Unavailable | Kind::Refused | Kind::Busy)
    }

    /// Returns whether the store answered with a definite no that waiting does not change: out of memory, a full disk, a missing
    /// permission. The error's [source](std::error::Error::source) carries the store's own words. 503.
    ///
    /// The refused attempt wrote nothing. An earlier attempt of the same request whose reply was lost may have been applied.
    ///
    /// ```
    /// # use session_layer::SessionError;
    /// fn advice(error: &SessionError) -> &'static str {
    ///     if error.is_refused() { "an operator must look at the store" } else { "trying again may help" }
    /// }
    /// ```
    pub fn is_refused(&self) -> bool {
        self.kind == Kind::Refused
    }

    /// The session ended while the request was on its way (logged out, revoked, renewed, expired, or lost in a failover), and
    /// nothing was written. 409.
    pub fn is_gone(&self) -> bool {
        matches!(self.kind, Kind::Gone | Kind::RolledBack)
    }

    /// An attribute that should have been incremented is no integer of at most 18 digits; nothing of that commit was
    /// applied. 409.
    pub fn is_not_a_counter(&self) -> bool {
        matches!(self.kind, Kind::NotACounter(_))
    }

    /// An `update` lost against other writers each time it tried. 409.
    pub fn is_contended(&self) -> bool {
        matches!(self.kind, Kind::Contended(_))
    }

    /// A change would break a limit; nothing of it was applied. 413.
    pub fn is_limit(&self) -> bool {
        self.limit().is_some()
    }

    /// Which limit, if it is one.
    pub fn limit(&self) -> Option<&Limit> {
        match &self.kind {
            Kind::Limit(limit) => Some(limit),
            _ => None,
        }
    }

    /// The principal has as many sessions as allowed, and further logins are refused. 409.
    pub fn is_too_many_sessions(&self) -> bool {
        self.kind == Kind::TooManySessions
    }

    /// A login, logout or revocation was applied, but no replica confirmed it in time: a failover in this moment might undo it. The
    /// cookie of what was applied goes out with the answer. 503.
    pub fn is_not_durable(&self) -> bool {
        self.kind == Kind::NotDurable
    }

    /// The name is empty, too long, holds a control character, or starts with `@`. 422.
    pub fn is_invalid_name(&self) -> bool {
        self.kind == Kind::InvalidName
    }

    /// The value cannot be stored so that it reads back equal; [`invalid_value`](Self::invalid_value) says why. 422.
    pub fn is_invalid_value(&self) -> bool {
        self.invalid_value().is_some()
    }

    /// Returns why a value was refused, if this is such an error.
    pub fn invalid_value(&self) -> Option<InvalidValue> {
        match self.kind {
            Kind::InvalidValue(_, reason) => Some(reason),
            _ => None,
        }
    }

    /// This one attribute does not read as the type asked for; its bytes are kept. 500, unless the handler knows better.
    pub fn is_unreadable(&self) -> bool {
        matches!(self.kind, Kind::Unreadable(_))
    }

    /// Another site started the request, so that the browser may have a session cookie that it did not send, and what the handler
    /// stored would have started a session in its place; nothing was written. 403. See
    /// [`cross_site_start`](crate::SessionLayerBuilder::cross_site_start).
    pub fn is_cross_site(&self) -> bool {
        self.kind == Kind::CrossSite
    }

    /// The response's head is out: what needs it can no longer be changed. 500.
    pub fn is_too_late(&self) -> bool {
        self.kind == Kind::TooLate
    }

    /// The request did not pass through a `SessionLayer`. 500.
    pub fn is_missing_layer(&self) -> bool {
        matches!(self.kind, Kind::MissingLayer(_))
    }

    /// The request came through two different layers that use one cookie, and was refused; the error names both. 500. See
    /// [`SessionLayer`](crate::SessionLayer#more-than-one-layer).
    pub fn is_shared_cookie(&self) -> bool {
        matches!(self.kind, Kind::SharedCookie { .. })
    }

    /// The status that says this to a client.
    pub fn status(&self) -> StatusCode {
        match self.kind {
            Kind::Unavailable | Kind::Refused | Kind::Busy | Kind::NotDurable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Gone | Kind::RolledBack | Kind::NotACounter(_) | Kind::Contended(_) | Kind::TooManySessions => {
                StatusCode::CONFLICT
            }
            Kind::CrossSite => StatusCode::FORBIDDEN,
            Kind::Limit(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::InvalidName | Kind::InvalidPrincipal | Kind::InvalidValue(..) => StatusCode::UNPROCESSABLE_ENTITY,
            Kind::Unreadable(_) | Kind::TooLate | Kind::MissingLayer(_) | Kind::SharedCookie { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Unavailable => f.write_str("the session store did not answer in time"),
            Kind::Refused => f.write_str("the session store refused"),
            Kind::Busy => f.write_str("too many requests are already waiting for the session store"),
            Kind::Gone => f.write_str("the session ended while the request was on its way; nothing was written"),
            Kind::RolledBack => {
                f.write_str("the session store lost the state this request has seen; nothing was written")
            }
            Kind::NotACounter(name) => {
                write!(f, "attribute {name:?} cannot be incremented: it is not an integer of at most 18 digits")
            }
            Kind::Contended(name) => {
                write!(f, "attribute {name:?} was changed by others each time it was to be updated")
            }
            Kind::Limit(Limit::Value(name)) => write!(f, "the value of attribute {name:?} is too long"),
            Kind::Limit(Limit::Attributes) => f.write_str("the session would have too many attributes"),
            Kind::Limit(Limit::Record) => f.write_str("the attributes of the session would be too large together"),
            Kind::InvalidName => {
                f.write_str("an attribute name has 1 to 128 bytes, no control characters, and does not start with `@`")
            }
            Kind::InvalidPrincipal => f.write_str("a principal has 1 to 256 bytes and no control characters"),
            Kind::InvalidValue(name, reason) => write!(f, "the value for attribute {name:?} is refused: {reason}"),
            Kind::Unreadable(name) => write!(f, "attribute {name:?} does not read as the type asked for"),
            Kind::TooManySessions => f.write_str("this account has as many sessions as allowed; end one of them first"),
            Kind::NotDurable => f.write_str("it was done, but no replica of the session store confirmed it in time"),
            Kind::CrossSite => f.write_str(
                "another site started the request, and a session started by it could replace the one that the browser has; nothing was \
                 written",
            ),
            Kind::TooLate => f.write_str("the response's head is out; the session can no longer be changed this way"),
            Kind::SharedCookie { name, layers: [outer, inner] } => write!(
                f,
                "two session layers use the cookie {name:?} in one request: {outer}, and inside it {inner}; give one of them another \
                 `cookie_name`, or use clones of one layer"
            ),
            Kind::MissingLayer(layer) => {
                write!(f, "no session in this request: add `.layer({layer})` around its route")
            }
        }
    }
}

impl std::error::Error for SessionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}

#[cfg(feature = "axum")]
impl axum_core::response::IntoResponse for SessionError {
    fn into_response(self) -> axum_core::response::Response {
        // A missing layer is the developer's mistake and they are who reads it; other details stay with the server.
        let mut response = (self.status(), self.to_string()).into_response();
        self.describe(&mut response);
        response
    }
}

impl SessionError {
    /// Marks a response that reports this error: `Retry-After` where trying again may help, no caching, and the error itself
    /// for outer layers.
    pub(crate) fn describe<B>(self, response: &mut http::Response<B>) {
        let headers = response.headers_mut();
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(http::header::RETRY_AFTER, http::HeaderValue::from_static("1"));
        }
        headers.insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
        response.extensions_mut().insert(self);
    }
}
