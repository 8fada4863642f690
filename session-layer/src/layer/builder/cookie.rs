//! The settings of the cookie, and of what caches are told about it.

use http::HeaderName;

use super::SessionLayerBuilder;
use crate::transport::{FormerCookie, SameSite};

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

    /// Whether the cookie comes along on requests that another site started. Default: [`SameSite::Lax`]. What a handler may store in a
    /// request to which the cookie did not come along: [`cross_site_start`](Self::cross_site_start).
    pub fn same_site(mut self, same_site: SameSite) -> Self {
        self.settings.same_site = same_site;
        self
    }

    /// Lets what a handler stores start a session also when another site started the request and the browser may therefore have held
    /// back the cookie of a session. Default: off, such a request is answered 403
    /// ([`is_cross_site`](crate::SessionError::is_cross_site)) and nothing is written.
    ///
    /// With [`SameSite::Lax`] browsers send no cookie with a form or script of another site, and with [`SameSite::Strict`] none when
    /// somebody follows a link. To the app the visitor then looks new. If a handler stored something, the new session's cookie would
    /// replace the one that the browser holds, and log the visitor out; any site could do that to any visitor. What the handler stored
    /// could only be dropped, which a 2xx must not hide, so the answer is an error instead.
    ///
    /// Requests are told by `Sec-Fetch-Site: cross-site`, which all current browsers send over HTTPS. With `Lax`, a link that leads to
    /// the page itself is no such request: browsers send the cookie with it, and a first visit from a search engine starts a session
    /// as usual. With `Strict`, a page that stores something (a count of visits) answers 403 to whoever comes by a link. It can ask
    /// [`is_withheld`](crate::Session::is_withheld) first and store nothing then; or use `Lax`.
    /// Reading, and requests that bring a cookie of this layer along, are not affected, nor is [`SameSite::None`].
    ///
    /// A handler starts a session on purpose by [`reset`](crate::Session::reset), and by [`log_in`](crate::Session::log_in): it has checked
    /// who this is, and a response by form from an identity provider (SAML, `response_mode=form_post`) is such a request. So that no other site logs a visitor in to an
    /// account of its own choice (login CSRF), check `Origin` before a password, and the `state` of a provider's response.
    ///
    /// An example is a payment provider that has the visitor's browser post a form to the shop when the payment is made. The session
    /// is not at hand there. Take the order's number from the form, check the provider's signature, record the payment with the order
    /// and answer with a redirect (303) to a page of the shop: a `Lax` cookie comes along with that, and the page finds cart and login
    /// as they were. If the handler cannot do without the session, the cookie must be [`SameSite::None`], with protection against
    /// forged requests everywhere else.
    pub fn cross_site_start(mut self, allowed: bool) -> Self {
        self.settings.cross_site_start = allowed;
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
    /// [`former_cookies`](Self::former_cookies).
    #[doc(alias = "CHIPS")]
    pub fn partitioned(mut self, partitioned: bool) -> Self {
        self.settings.partitioned = partitioned;
        self
    }

    /// Lets the cookie outlive the browser. Default: off, the browser drops it when it closes.
    ///
    /// The cookie's `Max-Age` is the idle timeout, at most 400 days, since browsers keep no cookie longer (RFC 6265bis, section 5.5):
    /// a longer idle timeout is allowed, but a visitor must come back within 400 days. The cookie says, signed, when it was sent and
    /// for how long. The first request that reads or writes its live session after a twentieth of that time gets it again, so that
    /// an active visitor stays logged in, whoever else writes the session. A request that neither loads nor writes it, one that only
    /// calls [`is_presented`](crate::LazySession::is_presented), and one that is answered with an error of this layer get no cookie.
    ///
    /// A change of this setting, or of the idle timeout, reaches a browser with the next such request. Switched off, that request is
    /// answered with a cookie without `Max-Age`, which the browser drops when it closes; a browser that does not come back keeps the
    /// old one until its `Max-Age` is over. During a rolling deploy nodes of both versions answer with the cookie as they know it.
    ///
    /// What it costs: a MAC and a `Set-Cookie` each twentieth of the idle timeout for each browser, and `Cache-Control: no-store` on
    /// those answers. An answer with a resent cookie that arrives after that of a login which began later puts the ID from before the
    /// login back into the browser, which is then not logged in; nobody else's session is touched.
    pub fn persistent_cookie(mut self, persistent: bool) -> Self {
        self.settings.persistent_cookie = persistent;
        self
    }

    /// Cookies under which an earlier version of the app kept its sessions, and which are to be removed from browsers. Default: none.
    ///
    /// To a browser, cookies of one name with different domains or paths, or one that is partitioned and one that is not, are
    /// different cookies. After such a setting has changed it keeps the old cookie and sends both. Whatever is set here, of up to 8
    /// cookies in a request that are signed by this layer, the first one whose session is alive is the session. A dead one before it
    /// costs one more round trip with each request, and a [`LazySession`](crate::LazySession) that writes loads the session first.
    ///
    /// With this setting, the next answer about the session also removes the former cookies, and sends the live session's cookie as it
    /// is set now. It does so as long as the browser sends more than one cookie of the name, so name every scope that was ever used. A
    /// login, and whatever else sets or removes the cookie, removes the former ones too.
    /// A former cookie with another name is removed, but never read: its name may lack the protection that the name has now
    /// (`__Host-`). Changing the name therefore logs everybody out.
    ///
    /// Keep the setting for as long as browsers may have the former cookies: until they close, and with
    /// [`persistent_cookie`](Self::persistent_cookie) for the idle timeout.
    ///
    /// ```
    /// use session_layer::{FormerCookie, SessionLayer, store::MemoryStore};
    ///
    /// // The cookie was for all of shop.example, then for its cart; now it is for this host.
    /// let layer = SessionLayer::builder(MemoryStore::new())
    ///     .secret([7; 32])
    ///     .cookie_name("session")
    ///     .former_cookies([
    ///         FormerCookie::new("session").domain("shop.example"),
    ///         FormerCookie::new("session").path("/cart"),
    ///     ])
    ///     .build()?;
    /// # Ok::<(), session_layer::ConfigError>(())
    /// ```
    pub fn former_cookies(mut self, cookies: impl IntoIterator<Item = FormerCookie>) -> Self {
        self.settings.former_cookies = cookies.into_iter().collect();
        self
    }

    /// Lets the cookie travel over plain HTTP, for development: it is not `Secure`, its default name is `session`, and a warning is
    /// logged. Default: off. Anybody on the way can read such a cookie.
    pub fn development(mut self, development: bool) -> Self {
        self.settings.development = development;
        self
    }
}
