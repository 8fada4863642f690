//! The settings of a layer: one setter for each, with what it costs.

use std::any::{TypeId, type_name};
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use http::header::CACHE_CONTROL;
use http::response::Parts;
use http::{HeaderName, StatusCode};

use super::config_error::{
    ConfigError, DEFAULT_NAME, DEVELOPMENT_NAME, check_late_window, check_longest, check_name, check_secret,
    check_timeouts, cookie_error, former_cookies, whole_millis,
};
use super::{CommitWhen, Config, OnEvent, Origin, SessionLayer};
use crate::budget::Waiters;
use crate::commit::{Lifetimes, SessionLimit};
use crate::delta::Limits;
use crate::event::SessionEvent;
use crate::freshness::Tokens;
use crate::session::DefaultSession;
use crate::signature::{LayerKind, Signer};
use crate::store::{ErasedStore, SessionStore};
use crate::telemetry;
use crate::transport::{Cookie, FormerCookie, SameSite, seconds};

mod cookie; // settings of the cookie, and of what caches are told about it

mod principals; // settings of the lists of principals

/// The settings of a [`SessionLayer`].
#[must_use = "settings do nothing until `build`"]
pub struct SessionLayerBuilder<K = DefaultSession> {
    settings: Settings,
    kind: PhantomData<fn() -> K>,
}

/// As given; nothing is checked before `build`.
struct Settings {
    store: Box<dyn ErasedStore>,
    secret: Option<Vec<u8>>,
    accepted_secrets: Vec<Vec<u8>>,
    cookie_name: Option<String>,
    realm: Option<String>,
    layer_kind: LayerKind,
    cookie_domain: Option<String>,
    cookie_path: String,
    same_site: SameSite,
    persistent_cookie: bool,
    partitioned: bool,
    cross_site_start: bool,
    kept_cache_headers: Vec<HeaderName>,
    former_cookies: Vec<FormerCookie>,
    development: bool,
    idle_timeout: Duration,
    absolute_timeout: Option<Duration>,
    touch_interval: Option<Duration>,
    late_window: Option<Duration>,
    budget: Duration,
    max_waiting: usize,
    limits: Limits,
    session_limit: Option<SessionLimit>,
    rollback_detection: bool,
    strict: bool,
    on_event: Option<Box<OnEvent>>,
    commit_when: Box<CommitWhen>,
}

impl SessionLayerBuilder {
    pub(super) fn new(store: impl SessionStore) -> Self {
        let settings = Settings {
            store: Box::new(store),
            secret: None,
            accepted_secrets: Vec::new(),
            cookie_name: None,
            realm: None,
            layer_kind: LayerKind::Default,
            cookie_domain: None,
            cookie_path: "/".to_owned(),
            same_site: SameSite::default(),
            persistent_cookie: false,
            partitioned: false,
            cross_site_start: false,
            kept_cache_headers: Vec::new(),
            former_cookies: Vec::new(),
            development: false,
            idle_timeout: Duration::from_secs(30 * 60),
            absolute_timeout: Some(Duration::from_secs(12 * 60 * 60)),
            touch_interval: None,
            late_window: None,
            budget: Duration::from_secs(5),
            max_waiting: 2_000,
            limits: Limits::default(),
            session_limit: None,
            rollback_detection: false,
            strict: false,
            on_event: None,
            commit_when: Box::new(|head| head.status.as_u16() < 500 && head.status != StatusCode::REQUEST_TIMEOUT),
        };
        Self { settings, kind: PhantomData }
    }
}

impl<K> SessionLayerBuilder<K> {
    /// Signs cookies, and is accepted. At least 32 bytes, the same on every node; keys are derived from it (HKDF), so that any
    /// such bytes will do. Required.
    pub fn secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.settings.secret = Some(secret.as_ref().to_vec());
        self
    }

    /// Secrets whose cookies are accepted as well. Default: none.
    ///
    /// To rotate without logging anybody out: deploy 1 adds the new secret here, deploy 2 signs with it and keeps the old one
    /// here, deploy 3 drops the old one once the longest session that it signed has ended. Each costs one more MAC for a cookie
    /// that the ones before it did not sign.
    pub fn accepted_secrets<T: AsRef<[u8]>>(mut self, secrets: impl IntoIterator<Item = T>) -> Self {
        self.settings.accepted_secrets = secrets.into_iter().map(|secret| secret.as_ref().to_vec()).collect();
        self
    }

    /// Ends a session this long after its last request, which is over when its response's head is out: a request that has loaded the
    /// session keeps it alive as long as it runs. Default: 30 minutes, the longest idle timeout that OWASP suggests for low-risk
    /// applications. Kept to the millisecond.
    ///
    /// A changed setting reaches a session that exists with its next request, of whatever kind: the request's commit carries it, and a
    /// request that only reads prolongs the session at once if the session has other timeouts than the settings say. So a raised timeout
    /// logs nobody out, and a lowered one counts from the next request on; a session without further requests keeps the one it had.
    ///
    /// During a rolling deploy that changes a timeout, each node applies its own setting, and the last request decides: a session ends as
    /// soon as the shorter timeout says if its last request went to a node with that. A session whose requests alternate between old and
    /// new nodes is prolonged with each of them, which costs Redis one command more per read until the deploy is over.
    #[doc(alias = "maxInactiveInterval")]
    #[doc(alias = "ttl")]
    pub fn idle_timeout(mut self, idle_timeout: Duration) -> Self {
        self.settings.idle_timeout = idle_timeout;
        self
    }

    /// Ends a session this long after it began or somebody logged in, however busy it is. Default: 12 hours (ASVS 5.0, 7.3.2, asks
    /// for a limit; NIST SP 800-63B, section 2.2.3, names this one); `None` switches it off. Kept to the millisecond.
    ///
    /// A changed setting reaches a session that exists with its next request, as for [`idle_timeout`](Self::idle_timeout), and counts from
    /// the session's start or login, not from the change. A session that is older than a lowered timeout ends with that request: one that
    /// only reads is still served, one that stores something gets 409. During a rolling deploy, the first request that reaches a node with
    /// the lowered timeout ends such a session for all nodes; raise it on all nodes first if that must not happen.
    pub fn absolute_timeout(mut self, absolute_timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.absolute_timeout = absolute_timeout.into();
        self
    }

    /// How much of a session's idle timeout must be used up before a request prolongs it. Default: a twentieth of it, so that a
    /// busy session costs a prolonging command now and then instead of with each request, and may end that much early. A session whose
    /// timeouts are not those of the settings, since these were changed, is prolonged at once.
    pub fn touch_interval(mut self, touch_interval: Duration) -> Self {
        self.settings.touch_interval = Some(touch_interval);
        self
    }

    /// How long after the end of its session a request still counts as late: it may have been on its way when the session ended, so
    /// its changes are refused with 409, and its answer leaves the browser's cookie alone. A request that arrives later than that is a
    /// new visitor's; see [`Session::has_ended`](crate::Session::has_ended). Default: 10 seconds, or the budget if that is longer.
    ///
    /// The window must cover the answer that tells the browser of the end (within the budget), plus the way of the requests that the
    /// browser sent until then, including what they spend in a proxy's queue. Too short, and the answer to a late request can replace
    /// the cookie of a login with that of an empty session. Longer costs only patience: for so long a browser that was logged out
    /// elsewhere gets 409 for what it wants to store, unless it logs in or the handler calls [`reset`](crate::Session::reset).
    ///
    /// Must not be shorter than the budget, and must be shorter than the five minutes for which a store knows that a session ended.
    pub fn late_window(mut self, late_window: Duration) -> Self {
        self.settings.late_window = Some(late_window);
        self
    }

    /// How long one request waits for the store in total; load, flushes and commit spend it, the handler's own time does not.
    /// Default: 5 seconds, longer than a failover of the reference cluster. What has no answer by then is answered 503.
    pub fn budget(mut self, budget: Duration) -> Self {
        self.settings.budget = budget;
        self
    }

    /// How many requests may wait for a store in trouble at once; further ones are answered 503 at once. Default: 2,000: what waits
    /// holds memory and a connection.
    pub fn max_waiting(mut self, max_waiting: usize) -> Self {
        self.settings.max_waiting = max_waiting;
        self
    }

    /// The longest value of an attribute, in bytes of JSON as it is stored: without whitespace. Default: 64 KiB.
    pub fn max_value_bytes(mut self, bytes: usize) -> Self {
        self.settings.limits.value_bytes = bytes;
        self
    }

    /// How many attributes a session may have. Default: 256.
    pub fn max_attributes(mut self, attributes: usize) -> Self {
        self.settings.limits.attributes = attributes;
        self
    }

    /// How large names and values of all attributes of a session may be together, in bytes. Default: 256 KiB: every request that reads
    /// the session carries it.
    pub fn max_record_bytes(mut self, bytes: usize) -> Self {
        self.settings.limits.record_bytes = bytes;
        self
    }

    /// For which responses the request's changes are committed, judged by the head. Default: all but 408, 5xx and what is above, so
    /// that a handler that failed leaves the session as it was, except for what it flushed. Statuses above 599 are invalid and count
    /// as 5xx (RFC 9110, section 15). Not asked where no code looked at the session.
    ///
    /// Redirects, 204 and 304 are committed, and so is the 101 that opens a WebSocket. But browsers may ignore the cookie of a 1xx
    /// response (RFC 6265, section 3): start the session before, in the page that opens the WebSocket.
    pub fn commit_when(mut self, commit_when: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.settings.commit_when = Box::new(commit_when);
        self
    }

    /// Notices when the store has lost a change that its browser was told of, which a failover of Redis can do to all but logins,
    /// logouts and revocations. The session's next request reports [`SessionEvent::RolledBack`], logs a warning, and goes on with
    /// what is there. Default: off.
    ///
    /// What it costs: each session remembers its last eight versions (some 140 bytes in Redis), and browsers get a second cookie
    /// whenever the version changed, `<name>-v`, which says what they were told; a commit also costs a MAC or two. Nodes with and
    /// without it can run side by side: what was changed by a node without it is not reported.
    pub fn rollback_detection(mut self, rollback_detection: bool) -> Self {
        self.settings.rollback_detection = rollback_detection;
        self
    }

    /// Always asks the master, although the store has copies at hand. Default: off. For an app's second layer, over the same store,
    /// where it must not show anything a second late; for single routes there is [`Strict`](crate::Strict). Its sessions should be its
    /// own, under another cookie name: it tells browsers of no versions, so that a layer with copies would not know what was changed here.
    pub fn strict(mut self, strict: bool) -> Self {
        self.settings.strict = strict;
        self
    }

    /// Is told what happens to sessions, to count it, say. Called while a request is served, so it must not block for long; no lock of
    /// the session is held. Default: no callback; each event is logged in any case.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use session_layer::{SessionEvent, SessionLayer, store::MemoryStore};
    ///
    /// static ROLLED_BACK: AtomicU64 = AtomicU64::new(0);
    ///
    /// let layer = SessionLayer::builder(MemoryStore::new())
    ///     .secret([7; 32])
    ///     .rollback_detection(true)
    ///     .on_event(|event| {
    ///         if let SessionEvent::RolledBack { .. } = event {
    ///             ROLLED_BACK.fetch_add(1, Ordering::Relaxed);
    ///         }
    ///     })
    ///     .build()?;
    /// # Ok::<(), session_layer::ConfigError>(())
    /// ```
    pub fn on_event(mut self, on_event: impl Fn(&SessionEvent) + Send + Sync + 'static) -> Self {
        self.settings.on_event = Some(Box::new(on_event));
        self
    }

    /// Makes this the layer of [`Session<Other>`](crate::Session), so that an app can have two. It needs a
    /// [cookie name](Self::cookie_name) of its own: with one cookie between them, each login in one layer would end that in the other. No
    /// cookie of the default kind opens a session of another kind, even under the same name and secret.
    ///
    /// ```
    /// use session_layer::{Session, SessionLayer, store::MemoryStore};
    ///
    /// struct Admin;
    ///
    /// let admin: SessionLayer<Admin> = SessionLayer::builder(MemoryStore::new())
    ///     .secret([7; 32])
    ///     .cookie_name("__Host-admin")
    ///     .kind::<Admin>()
    ///     .build()?;
    ///
    /// async fn handler(visitor: Session, admin: Session<Admin>) {}
    /// # Ok::<(), session_layer::ConfigError>(())
    /// ```
    pub fn kind<Other: 'static>(mut self) -> SessionLayerBuilder<Other> {
        let is_default = TypeId::of::<Other>() == TypeId::of::<DefaultSession>();
        self.settings.layer_kind = if is_default { LayerKind::Default } else { LayerKind::Other };
        SessionLayerBuilder { settings: self.settings, kind: PhantomData }
    }

    /// Checks all settings.
    ///
    /// # Errors
    ///
    /// When a setting is missing, out of range, or contradicts another; the error names it.
    #[track_caller]
    pub fn build(self) -> Result<SessionLayer<K>, ConfigError> {
        let settings = self.settings;
        let secret =
            settings.secret.ok_or_else(|| ConfigError::new("secret", "is missing; give at least 32 random bytes"))?;
        check_secret("secret", &secret)?;
        for secret in &settings.accepted_secrets {
            check_secret("accepted_secrets", secret)?;
        }
        check_timeouts(settings.idle_timeout, settings.absolute_timeout)?;
        let touch_interval = settings.touch_interval.unwrap_or(settings.idle_timeout / 20);
        check_longest("touch_interval", touch_interval)?;
        if touch_interval >= settings.idle_timeout {
            return Err(ConfigError::new(
                "touch_interval",
                "must be shorter than `idle_timeout`, or no request prolongs a session",
            ));
        }
        check_longest("budget", settings.budget)?;
        if settings.budget.is_zero() {
            return Err(ConfigError::new("budget", "must not be zero, or no store can answer in time"));
        }
        let late_window = check_late_window(settings.late_window, settings.budget)?;
        if settings.session_limit.is_some_and(|limit| limit.most == 0) {
            return Err(ConfigError::new("max_sessions_per_principal", "must be at least 1, or nobody can log in"));
        }
        let default_name = if settings.development { DEVELOPMENT_NAME } else { DEFAULT_NAME };
        check_name(settings.layer_kind, settings.cookie_name.as_deref())?;
        if settings.realm.as_ref().is_some_and(String::is_empty) {
            return Err(ConfigError::new("realm", "must not be empty; leave it out for the cookie's name"));
        }
        let cookie = Cookie {
            name: settings.cookie_name.unwrap_or_else(|| default_name.to_owned()),
            domain: settings.cookie_domain,
            path: settings.cookie_path,
            same_site: settings.same_site,
            secure: !settings.development,
            partitioned: settings.partitioned,
            max_age: settings.persistent_cookie.then(|| seconds(settings.idle_timeout)),
        };
        if let Some(fault) = cookie.fault() {
            return Err(cookie_error(fault));
        }
        let former_cookies = former_cookies(settings.former_cookies, &cookie)?;
        if settings.kept_cache_headers.contains(&CACHE_CONTROL) {
            return Err(ConfigError::new(
                "keep_cache_headers",
                "must not name `cache-control`: with a cookie it is always `no-store`, or caches give one visitor's cookie to others",
            ));
        }
        if settings.development {
            telemetry::development_cookie(&cookie.name);
        }
        let copies = settings.store.has_copies() && !settings.strict;
        let tokens = settings.rollback_detection || copies;
        let config = Config {
            origin: Origin { kind: type_name::<K>(), built: Location::caller() },
            tokens: tokens.then(|| Tokens::new(&cookie, &secret, &settings.accepted_secrets)),
            rollback_detection: settings.rollback_detection,
            copies,
            on_event: settings.on_event,
            store: settings.store,
            signer: Signer::new(settings.layer_kind, &cookie.name, &secret, &settings.accepted_secrets),
            realm: settings.realm.unwrap_or_else(|| cookie.bare_name().to_owned()).into(),
            cookie,
            former_cookies,
            cross_site_start: settings.cross_site_start,
            kept_cache_headers: settings.kept_cache_headers,
            // As stores keep them: else no session would ever have the timeouts that it should.
            lifetimes: Lifetimes {
                idle_timeout: whole_millis(settings.idle_timeout),
                absolute_timeout: settings.absolute_timeout.map(whole_millis),
            },
            touch_interval,
            late_window,
            budget: settings.budget,
            waiters: Waiters::new(settings.max_waiting),
            limits: settings.limits,
            session_limit: settings.session_limit,
            commit_when: settings.commit_when,
        };
        Ok(SessionLayer { config: Arc::new(config), kind: PhantomData })
    }
}
