//! What the answer tells the browser, and the caches on its way.

use http::{HeaderMap, HeaderValue, header};

use super::Slot;
use crate::freshness::{Token, Tokens, seconds_since_epoch};
use crate::layer::Config;
use crate::signature::Presented;
use crate::state::CookieChange;
use crate::transport::{Cookie, forbid_storing, mark_as_read};

impl Slot {
    /// Writes cookies and cache headers. `committed`: what this answer waited for took effect.
    pub(crate) fn write_headers(&self, headers: &mut HeaderMap, committed: bool) {
        let live = if committed { self.live_cookie() } else { None };
        let former = self.former_cookies(live.is_some());
        // By the cookie's own age: whatever else is prolonged, other browsers and nodes may have done that.
        let is_due = |cookie: &Presented| {
            former.iter().any(|former| self.is_current(former))
                || cookie.is_due(self.config.cookie.max_age, seconds_since_epoch)
        };
        if let Some(cookie) = live.filter(is_due) {
            self.with_state(|state| state.cookie = CookieChange::Keep(cookie.id));
        }
        let token_cookie = self.token_cookie();
        let (change, read) = self.with_state(|state| (state.cookie, state.read));
        let Config { cookie, signer, .. } = &*self.config;
        let set_cookie = match &change {
            CookieChange::None => None,
            CookieChange::Keep(id) => {
                let presented = Presented::new(*id, cookie.max_age, seconds_since_epoch());
                Some(cookie.keep(&signer.sign(&presented)))
            }
            CookieChange::Forget => Some(cookie.forget()),
        };
        if read {
            mark_as_read(headers);
        }
        // RFC 9111, section 7.3: a cache may store a response with `Set-Cookie` and hand one user's cookie to another.
        if set_cookie.is_some() || token_cookie.is_some() || !former.is_empty() {
            forbid_storing(headers, &self.config.kept_cache_headers);
        }
        let removals = former.into_iter().map(Cookie::forget);
        for value in removals.chain(set_cookie).chain(token_cookie) {
            headers.append(header::SET_COOKIE, value);
        }
    }

    /// The cookie that the browser has, if it is to keep it and its session is known to be alive: sent again by the answer of a late
    /// request, another one could replace the cookie of a login.
    fn live_cookie(&self) -> Option<Presented> {
        let candidates = self.presented.get()?;
        let id = self.with_state(|state| {
            let is_kept = state.failed.is_none() && matches!(state.cookie, CookieChange::None);
            if is_kept { state.lives() } else { None }
        });
        candidates.find(&id?).copied()
    }

    /// Those of the former cookies that the browser is to forget.
    fn former_cookies(&self, is_alive: bool) -> Vec<&Cookie> {
        if self.config.former_cookies.is_empty() || self.presented.get().is_none() {
            return Vec::new();
        }
        // Which cookie was set for which domain and path, no request tells. One of several may be a former one with the live session: so
        // they are removed only by an answer that sends it again, or if none is alive. A single one may be a former one as well: it
        // goes with an answer that replaces it or has the browser forget it.
        let (is_known, is_replaced) = self.with_state(|state| {
            let is_replaced = !matches!(state.cookie, CookieChange::None);
            (is_alive || is_replaced || state.has_none(), is_replaced)
        });
        let came = |cookie: &&Cookie| {
            let sent = cookie.count(self.cookies.iter(), 2);
            match self.is_current(cookie) {
                false => sent > 0,
                true if is_replaced => sent > 0,
                true => sent > 1 && is_known,
            }
        };
        self.config.former_cookies.iter().filter(came).collect()
    }

    /// Whether a former cookie has a name that is in use.
    fn is_current(&self, cookie: &Cookie) -> bool {
        let token = self.config.tokens.as_ref().map(Tokens::cookie_name);
        cookie.name == self.config.cookie.name || Some(cookie.name.as_str()) == token
    }

    /// What the browser is to be told of its session: its version, when that is another than it was told. Goes and comes with the ID.
    fn token_cookie(&self) -> Option<HeaderValue> {
        let tokens = self.config.tokens.as_ref()?;
        // Who never asked for the session does not pay for a MAC.
        self.presented.get()?;
        let (cookie, seen, version, rolled_back) =
            self.with_state(|state| (state.cookie, state.seen.id(), state.newest_version(), state.rolled_back));
        let sent = seconds_since_epoch();
        let keep = |id, version| tokens.keep(&id, Token { version, sent });
        match cookie {
            CookieChange::Forget => Some(tokens.forget()),
            CookieChange::Keep(id) => Some(version.map_or_else(|| tokens.forget(), |version| keep(id, version))),
            CookieChange::None => {
                let (id, version) = (seen?, version?);
                (rolled_back || self.told(&id).is_none_or(|told| told < version)).then(|| keep(id, version))
            }
        }
    }
}
