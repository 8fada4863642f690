//! What makes settings unusable, and how that is said.

use std::fmt;
use std::time::Duration;

use crate::freshness::{self, Tokens};
use crate::signature::{LayerKind, MIN_SECRET_LEN};
use crate::store::TOMBSTONE_LIFETIME;
use crate::transport::{Cookie, CookieFault, FormerCookie};

pub(super) fn check_secret(setting: &'static str, secret: &[u8]) -> Result<(), ConfigError> {
    if secret.len() < MIN_SECRET_LEN {
        let problem = format!("has {} bytes; at least {MIN_SECRET_LEN} random ones are needed", secret.len());
        return Err(ConfigError::new(setting, problem));
    }
    Ok(())
}

/// Longer than this is no time but a mistake, and would not fit into every clock that it is added to.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

pub(super) fn check_longest(setting: &'static str, duration: Duration) -> Result<(), ConfigError> {
    if duration > LONGEST {
        return Err(ConfigError::new(setting, "is longer than 100 years"));
    }
    Ok(())
}

/// What is left of a duration where milliseconds are kept.
pub(super) fn whole_millis(duration: Duration) -> Duration {
    duration - Duration::from_nanos(u64::from(duration.subsec_nanos() % 1_000_000))
}

pub(super) fn check_timeouts(idle: Duration, absolute: Option<Duration>) -> Result<(), ConfigError> {
    check_longest("idle_timeout", idle)?;
    check_longest("absolute_timeout", absolute.unwrap_or_default())?;
    // Stores keep milliseconds.
    if idle < Duration::from_millis(1) {
        return Err(ConfigError::new("idle_timeout", "must be at least a millisecond"));
    }
    if absolute.is_some_and(|absolute| absolute < idle) {
        let problem = format!("is shorter than `idle_timeout` ({idle:?}), which then would never matter");
        return Err(ConfigError::new("absolute_timeout", problem));
    }
    Ok(())
}

/// Longer than an answer takes that does not wait for the store.
const LATE_WINDOW: Duration = Duration::from_secs(10);

/// The late window, as set or by default.
pub(super) fn check_late_window(window: Option<Duration>, budget: Duration) -> Result<Duration, ConfigError> {
    let lifetime = TOMBSTONE_LIFETIME.as_secs();
    if budget >= TOMBSTONE_LIFETIME {
        let problem = format!("must be shorter than {lifetime} s, for which a store knows that a session ended");
        return Err(ConfigError::new("budget", problem));
    }
    let window = window.unwrap_or(LATE_WINDOW.max(budget));
    if window >= TOMBSTONE_LIFETIME {
        let problem = format!(
            "must be shorter than {lifetime} s, for which a store knows that a session ended, or every browser whose session \
             ended is refused for as long as that"
        );
        return Err(ConfigError::new("late_window", problem));
    }
    if window < budget {
        let problem = format!(
            "is shorter than `budget` ({budget:?}), which the answer that tells a browser of the end may take; choose a longer \
             window or a shorter budget"
        );
        return Err(ConfigError::new("late_window", problem));
    }
    Ok(window)
}

/// The cookie's name where none is given.
pub(super) const DEFAULT_NAME: &str = "__Host-session";
/// The same in development mode, where no browser would take the other.
pub(super) const DEVELOPMENT_NAME: &str = "session";

/// Checks that no other layer has a cookie of this name.
pub(super) fn check_name(kind: LayerKind, given: Option<&str>) -> Result<(), ConfigError> {
    let is_default = given.is_none_or(|name| [DEFAULT_NAME, DEVELOPMENT_NAME].contains(&name));
    if kind == LayerKind::Other && is_default {
        return Err(ConfigError::new(
            "cookie_name",
            "is that of the default layer, and a layer of another kind needs one of its own; give it one, such as `__Host-admin`",
        ));
    }
    if given.is_some_and(|name| name.ends_with(freshness::SUFFIX)) {
        return Err(ConfigError::new(
            "cookie_name",
            "ends with `-v`, as the second cookie of another layer may, which tells what its browser has seen; choose another ending",
        ));
    }
    Ok(())
}

pub(super) fn cookie_error(fault: CookieFault) -> ConfigError {
    match fault {
        CookieFault::Name => ConfigError::new(
            "cookie_name",
            "must be a token: letters, digits and !#$%&'*+-.^_`|~ (RFC 6265, section 4.1.1)",
        ),
        CookieFault::NameLength => {
            ConfigError::new("cookie_name", "is too long: browsers keep 4096 bytes of name and value together")
        }
        CookieFault::Path => ConfigError::new(
            "cookie_path",
            "must start with `/` and be written as in a URL: at most 1024 bytes of ASCII without spaces, `;`, `?` and `#`",
        ),
        CookieFault::Domain(problem) => ConfigError::new(
            "cookie_domain",
            format!("{problem}; a domain is a name such as `shop.example`, without scheme, port or path"),
        ),
        CookieFault::HostPrefix(prefix) => ConfigError::new(
            "cookie_name",
            format!(
                "starts with `{prefix}`, which browsers accept only for Secure cookies with path `/` and no domain; choose another \
                 name, or leave out `cookie_domain`, `cookie_path` and `development`"
            ),
        ),
        CookieFault::SecurePrefix(prefix) => ConfigError::new(
            "cookie_name",
            format!(
                "starts with `{prefix}`, which browsers accept only for Secure cookies; choose another name, or leave out \
                 `development`"
            ),
        ),
        CookieFault::SameSiteNone => ConfigError::new(
            "same_site",
            "is `None`, which browsers accept only for Secure cookies; leave out `development`",
        ),
        CookieFault::Partitioned => ConfigError::new(
            "partitioned",
            "needs a Secure cookie; leave out `development`, or switch `partitioned` off with it",
        ),
    }
}

/// What browsers are to forget: the cookies and, beside each, what they were told of its session.
pub(super) fn former_cookies(former: Vec<FormerCookie>, now: &Cookie) -> Result<Vec<Cookie>, ConfigError> {
    let mut cookies = Vec::new();
    for former in former {
        let cookie = former.cookie(now);
        if let Some(fault) = cookie.fault() {
            let ConfigError { setting, problem } = cookie_error(fault);
            return Err(ConfigError::new(
                "former_cookies",
                format!("names a cookie {:?} that no browser has kept: its `{setting}` {problem}", cookie.name),
            ));
        }
        if cookie.is_same_as(now) {
            let problem = format!("names the cookie {:?} as it is now, and would log everybody out", cookie.name);
            return Err(ConfigError::new("former_cookies", problem));
        }
        cookies.push(Tokens::cookie_beside(&cookie));
        cookies.push(cookie);
    }
    Ok(cookies)
}

/// A setting that cannot be used. `Display` names it and says how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    setting: &'static str,
    problem: String,
}

impl ConfigError {
    pub(crate) fn new(setting: &'static str, problem: impl Into<String>) -> Self {
        Self { setting, problem: problem.into() }
    }

    /// The name of the setting, as the builder's method has it.
    pub fn setting(&self) -> &'static str {
        self.setting
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "setting `{}` {}", self.setting, self.problem)
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_kept_to_the_millisecond() {
        let millis = Duration::from_millis(1_800_001);
        assert_eq!(whole_millis(millis), millis);
        assert_eq!(whole_millis(millis + Duration::from_nanos(999_999)), millis);
        assert_eq!(whole_millis(Duration::from_micros(1_999)), Duration::from_millis(1));
    }
}
