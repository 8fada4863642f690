//! The layer, and what its requests have in common.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderName;
use http::response::Parts;
use tower_layer::Layer;

use crate::budget::Waiters;
use crate::commit::{Lifetimes, SessionLimit};
use crate::delta::Limits;
use crate::event::SessionEvent;
use crate::freshness::Tokens;
use crate::principals::Sessions;
use crate::record::Record;
use crate::service::SessionService;
use crate::session::DefaultSession;
use crate::signature::Signer;
use crate::store::{ErasedStore, SessionStore};
use crate::transport::Cookie;

mod builder; // the settings, each with its default and what it costs
pub use builder::SessionLayerBuilder;

mod config_error; // what makes settings unusable
pub use config_error::ConfigError;

/// Gives every request a session: a tower layer for axum and any other tower service over `http` types.
///
/// ```
/// use std::time::Duration;
/// use session_layer::{SessionLayer, store::MemoryStore};
///
/// let layer = SessionLayer::builder(MemoryStore::new())
///     .secret(b"a secret of at least 32 bytes, from your secret store")
///     .idle_timeout(Duration::from_secs(30 * 60))
///     .build()?;
/// # Ok::<(), session_layer::ConfigError>(())
/// ```
///
/// # Where it goes among other layers
///
/// Changes are committed when the response comes back through this layer. What stands inside sees the session and has its
/// failures taken into account; what stands outside sees the committed answer.
///
/// | layer | where | the other way round |
/// |---|---|---|
/// | `TimeoutLayer` for handlers | inside | a handler that is cut off answers 408 and commits nothing; outside, the timeout could cut off a commit's answer, and the client cannot know what was applied |
/// | `CatchPanicLayer` | inside | a panic becomes a 500, commits nothing, and a cookie for what was flushed still goes out; outside, that cookie is lost |
/// | `CorsLayer` | outside | preflight requests would get a slot for nothing, and a 503 of this layer would lack the CORS headers |
/// | `CompressionLayer` | either | nothing: a replaced body is empty; outside is usual |
/// | `TraceLayer` | outside | the commit's events would lie outside the request's span, and its time outside the latency |
/// | `ConcurrencyLimitLayer` | outside | inside, a permit is given back before the commit has begun |
/// | `RetryLayer`, `Hedge` | outside, for requests that are safe to send twice | all attempts share one session: what a failed attempt changed is committed together with what the last one changed |
/// | what sets headers for caches (`CDN-Cache-Control`) | inside | outside, it sets them after this layer has removed them, and a cache may give one visitor's cookie to others |
/// | `from_fn` middleware that uses the session | inside | outside there is no session in the request |
///
/// A retry outside sees the committed answer: an attempt that its handler answered 5xx has left nothing behind. One that this layer
/// answered 503 may have been applied, so that sending it again counts twice; and both requests of a hedge are committed.
///
/// # More than one layer
///
/// A layer may wrap a part of an app and, as a clone of it, the whole app again: the inner one uses the session of the outer one, and
/// only the outer one commits and sets the cookie. So middleware between the two, the handler, and middleware around both share one
/// session. A clone is the same layer; two calls of [`build`](SessionLayerBuilder::build) make two layers, whatever their settings,
/// since their stores and closures cannot be compared.
///
/// Two different layers around one handler need different cookie names. With one name, each would start sessions, and the cookie of
/// one would replace that of the other. Such a request is refused before its handler is called: 500, an error in the log that names
/// both layers and where they were built, and a [`SessionError`](crate::SessionError) in the response's extensions
/// ([`is_shared_cookie`](crate::SessionError::is_shared_cookie)). Layers around different routes do not meet, and may share a name.
pub struct SessionLayer<K = DefaultSession> {
    config: Arc<Config>,
    kind: PhantomData<fn() -> K>,
}

impl SessionLayer {
    /// Begins with a store; every other setting has a default but the secret.
    pub fn builder(store: impl SessionStore) -> SessionLayerBuilder {
        SessionLayerBuilder::new(store)
    }
}

impl<K> SessionLayer<K> {
    /// The sessions of principals: to list them, and to end them from elsewhere.
    pub fn sessions(&self) -> Sessions {
        Sessions::new(Arc::clone(&self.config))
    }
}

impl<K> Clone for SessionLayer<K> {
    fn clone(&self) -> Self {
        Self { config: Arc::clone(&self.config), kind: PhantomData }
    }
}

impl<K> fmt::Debug for SessionLayer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionLayer").field("cookie", &self.config.cookie.name).finish_non_exhaustive()
    }
}

impl<S, K> Layer<S> for SessionLayer<K> {
    type Service = SessionService<S, K>;

    fn layer(&self, inner: S) -> Self::Service {
        SessionService::new(inner, Arc::clone(&self.config))
    }
}

/// What all requests of a layer have in common.
pub(crate) struct Config {
    /// What an error calls the layer.
    pub(crate) origin: Origin,
    pub(crate) store: Box<dyn ErasedStore>,
    pub(crate) signer: Signer,
    pub(crate) cookie: Cookie,
    /// Whose lists of principals its sessions are in.
    pub(crate) realm: Arc<str>,
    /// What browsers are to forget, IDs and tokens.
    pub(crate) former_cookies: Vec<Cookie>,
    /// Headers for caches that stay beside a `Set-Cookie`.
    pub(crate) kept_cache_headers: Vec<HeaderName>,
    /// Whether what a request of another site stores may start a session.
    pub(crate) cross_site_start: bool,
    pub(crate) lifetimes: Lifetimes,
    pub(crate) touch_interval: Duration,
    pub(crate) late_window: Duration,
    pub(crate) budget: Duration,
    pub(crate) waiters: Waiters,
    pub(crate) limits: Limits,
    pub(crate) session_limit: Option<SessionLimit>,
    pub(crate) commit_when: Box<CommitWhen>,
    /// Only where something depends on what browsers were told.
    pub(crate) tokens: Option<Tokens>,
    pub(crate) rollback_detection: bool,
    /// Whether a copy may stand in for what the master has.
    pub(crate) copies: bool,
    pub(crate) on_event: Option<Box<OnEvent>>,
}

impl Config {
    /// Whether a session that was loaded so long ago is to be prolonged.
    pub(crate) fn wants_touch(&self, record: &Record, since_load: Duration) -> bool {
        record.wants_touch(&self.lifetimes, self.touch_interval, since_load, SystemTime::now())
    }
}

/// Where a layer comes from, for the developer who has two.
pub(crate) struct Origin {
    pub(crate) kind: &'static str,
    pub(crate) built: &'static Location<'static>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionLayer")?;
        if self.kind != type_name::<DefaultSession>() {
            write!(f, "<{}>", self.kind)?;
        }
        write!(f, " built at {}", self.built)
    }
}

type CommitWhen = dyn Fn(&Parts) -> bool + Send + Sync;
type OnEvent = dyn Fn(&SessionEvent) + Send + Sync;
