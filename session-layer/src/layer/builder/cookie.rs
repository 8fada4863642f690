//! The settings of the cookie, and of what caches are told about it.

use http::HeaderName;

use super::SessionLayerBuilder;
use crate::transport::SameSite;

impl<K> SessionLayerBuilder<K> {
    /// The cookie's name. Default: `__Host-session`, which browsers accept only over HTTPS, for this host and the whole of it
    /// (RFC 6265bis, section 4.1.3); in development mode `session`. A name that ends with `-v` is refused: `<name>-v` is the second
    /// cookie of the layer named `<name>`, for [`rollback_detection`](Self::rollback_detection) and copies.
    pub fn cookie_name(mut self, name: impl Into<String>) -> Self {
        self.settings.cookie_name = Some(name.into());
        self
    }

    /// Sends the cookie to this domain and all hosts below it. Default: to this host alone. Needs a name without `__Host-`.
    ///
    /// A domain is a name such as `shop.example`: no scheme, port, path, leading dot, `*`, or IP address, since browsers would
    /// ignore the whole cookie (RFC 6265, section 5.3). Every host below the domain can read and replace the cookie. Browsers also
    /// ignore a public suffix such as `co.uk`; which names are public suffixes is not checked here.
    pub fn cookie_domain(mut self, domain: impl Into<String>) -> Self {
        self.settings.cookie_domain = Some(domain.into());
        self
    }

    /// Sends the cookie only below this path. Default: `/`. A path is no protection between apps of one host, since scripts of one
    /// can reach the other (RFC 6265, section 8.6). Another path needs a name without `__Host-`.
    pub fn cookie_path(mut self, path: impl Into<String>) -> Self {
        self.settings.cookie_path = path.into();
        self
    }

    /// Whether the cookie comes along on requests that another site started. Default: [`SameSite::Lax`].
    pub fn same_site(mut self, same_site: SameSite) -> Self {
        self.settings.same_site = same_site;
        self
    }

    /// Headers for caches that stay as the handler set them on a response that also carries a cookie of this layer. Default: none.
    ///
    /// With a cookie, `Cache-Control` is always `no-store`, and headers that could allow a cache to store the response all the same
    /// are removed: `Expires`, `Surrogate-Control`, `Edge-Control`, `X-Accel-Expires` and every header whose name ends in
    /// `-Cache-Control`, such as `CDN-Cache-Control` (RFC 9213, section 2.2: a cache that has a header of its own ignores
    /// `Cache-Control`). A cache that stored the response would give one visitor's session to others.
    ///
    /// Name a header here if the app cannot do without it and it does not make a cache store the response, or if the cache removes
    /// `Set-Cookie`: `Surrogate-Control: content="ESI/1.0"`, for example, also switches on the processing of a page.
    ///
    /// ```
    /// use http::HeaderName;
    /// use session_layer::{SessionLayer, store::MemoryStore};
    ///
    /// let layer = SessionLayer::builder(MemoryStore::new())
    ///     .secret([7; 32])
    ///     .keep_cache_headers([HeaderName::from_static("surrogate-control")])
    ///     .build()?;
    /// # Ok::<(), session_layer::ConfigError>(())
    /// ```
    pub fn keep_cache_headers(mut self, headers: impl IntoIterator<Item = HeaderName>) -> Self {
        self.settings.kept_cache_headers = headers.into_iter().collect();
        self
    }

    /// Lets the browser keep a cookie of its own for each site that embeds this one in a frame (`Partitioned`, CHIPS). Default: off.
    ///
    /// For a widget or app that other sites embed: together with [`SameSite::None`] its session works in the frame also in browsers
    /// that refuse third-party cookies, and what is done in one site's frame is not seen in another's. Without [`SameSite::None`] no
    /// browser sends the cookie from a frame of another site. A partitioned cookie is Secure, so that it does not go together with
    /// [`development`](Self::development).
    ///
    /// `SameSite::None` gives up the protection that `SameSite` is against forged requests (CSRF): the embedding site can send
    /// requests with the frame's session. Check `Origin` or `Sec-Fetch-Site`, or use tokens in forms. Browsers keep the partitioned
    /// and the other cookie of one name apart: after switching this on or off, name the cookie before the change in
    /// `former_cookies`.
    #[doc(alias = "CHIPS")]
    pub fn partitioned(mut self, partitioned: bool) -> Self {
        self.settings.partitioned = partitioned;
        self
    }

    /// Lets the cookie outlive the browser: its `Max-Age` is the idle timeout, and it is sent again whenever the session is
    /// prolonged. Default: off, the browser drops it when it closes.
    ///
    /// What it costs: such an answer, overtaken by that of a login, puts the ID from before the login back into the browser, which is
    /// then not logged in; nobody else's session is touched.
    pub fn persistent_cookie(mut self, persistent: bool) -> Self {
        self.settings.persistent_cookie = persistent;
        self
    }

    /// Lets the cookie travel over plain HTTP, for development: it is not `Secure`, its default name is `session`, and a warning is
    /// logged. Default: off. Anybody on the way can read such a cookie.
    pub fn development(mut self, development: bool) -> Self {
        self.settings.development = development;
        self
    }
}
