//! Cookies that an earlier version of the app has set.

use super::cookie::Cookie;

/// A session cookie as an earlier version of the app has set it: its name, and for which hosts and paths. For
/// [`former_cookies`](crate::SessionLayerBuilder::former_cookies).
///
/// ```
/// use session_layer::FormerCookie;
///
/// let formerly = FormerCookie::new("session").domain("shop.example").path("/cart");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerCookie {
    name: String,
    domain: Option<String>,
    path: String,
    partitioned: bool,
}

impl FormerCookie {
    /// A cookie of this name for the host alone and all its paths, as the layer sets it by default.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), domain: None, path: "/".to_owned(), partitioned: false }
    }

    /// It was set for this domain; see [`cookie_domain`](crate::SessionLayerBuilder::cookie_domain).
    #[must_use]
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// It was set for this path; see [`cookie_path`](crate::SessionLayerBuilder::cookie_path). Default: `/`.
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// It was set as a partitioned cookie; see [`partitioned`](crate::SessionLayerBuilder::partitioned). Default: no.
    #[must_use]
    pub fn partitioned(mut self, partitioned: bool) -> Self {
        self.partitioned = partitioned;
        self
    }

    /// The cookie whose removal a browser accepts. `now` is the one that the layer sets.
    pub(crate) fn cookie(self, now: &Cookie) -> Cookie {
        // Browsers accept no removal of a cookie with a prefix without `Secure`, in development neither.
        let secure = now.secure || self.partitioned || self.name.starts_with("__");
        Cookie {
            name: self.name,
            domain: self.domain,
            path: self.path,
            same_site: now.same_site,
            secure,
            partitioned: self.partitioned,
            max_age: None,
        }
    }
}

impl Cookie {
    /// Whether a browser has one place for both.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        let domain = |cookie: &Self| cookie.domain.as_ref().map(|domain| domain.to_ascii_lowercase());
        (&self.name, domain(self), &self.path, self.partitioned)
            == (&other.name, domain(other), &other.path, other.partitioned)
    }
}
