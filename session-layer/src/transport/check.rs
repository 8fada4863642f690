//! Refuses a cookie that no browser would keep or send back, or that one would keep for less than it says.

use super::cookie::{Cookie, SameSite};
use super::domain;
use crate::signature::ENCODED_LEN;

/// What is wrong with a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CookieFault {
    Name,
    NameLength,
    Path,
    Domain(&'static str),
    HostPrefix(&'static str),
    SecurePrefix(&'static str),
    SameSiteNone,
    Partitioned,
}

/// Prefixes of names whose cookies browsers accept only with `Secure`, path `/` and no domain. Case does not matter to browsers
/// (RFC 6265bis, section 5.4). The longer one comes first, so that an error names it.
const HOST_PREFIXES: [&str; 2] = ["__Host-Http-", "__Host-"];

/// Those that need `Secure`. `__Http-` also needs `HttpOnly`, which every cookie of this crate has.
const SECURE_PREFIXES: [&str; 2] = ["__Secure-", "__Http-"];

/// Browsers ignore a cookie whose name and value are longer together, and an attribute that is longer (RFC 6265bis, section 5.6).
const LONGEST_PAIR: usize = 4096;
const LONGEST_ATTRIBUTE: usize = 1024;

impl Cookie {
    /// What is wrong with it, if anything.
    pub(crate) fn fault(&self) -> Option<CookieFault> {
        let prefix = |prefixes: [&'static str; 2]| {
            let has = |prefix: &&str| self.name.get(..prefix.len()).is_some_and(|p| p.eq_ignore_ascii_case(prefix));
            prefixes.into_iter().find(has)
        };
        // RFC 6265, section 4.1.1: the name is a token.
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        // Those that the path of a request has: in a URL the others are percent-encoded, or end the path.
        let in_path = |b: u8| b.is_ascii_graphic() && !b";?#\"<>`{}\\^|".contains(&b);
        if self.name.is_empty() || !self.name.bytes().all(token) {
            Some(CookieFault::Name)
        } else if self.name.len() + "-v=".len() + ENCODED_LEN > LONGEST_PAIR {
            Some(CookieFault::NameLength)
        } else if !self.path.starts_with('/') || !self.path.bytes().all(in_path) || self.path.len() > LONGEST_ATTRIBUTE
        {
            Some(CookieFault::Path)
        } else if let Some(problem) = self.domain.as_deref().and_then(domain::fault) {
            Some(CookieFault::Domain(problem))
        } else if let Some(prefix) = prefix(HOST_PREFIXES)
            && !(self.secure && self.path == "/" && self.domain.is_none())
        {
            Some(CookieFault::HostPrefix(prefix))
        } else if let Some(prefix) = prefix(SECURE_PREFIXES)
            && !self.secure
        {
            Some(CookieFault::SecurePrefix(prefix))
        } else if self.same_site == SameSite::None && !self.secure {
            Some(CookieFault::SameSiteNone)
        } else if self.partitioned && !self.secure {
            Some(CookieFault::Partitioned)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cookie::tests::cookie;
    use super::*;

    fn fault(change: impl FnOnce(&mut Cookie)) -> Option<CookieFault> {
        let mut cookie = cookie();
        change(&mut cookie);
        cookie.fault()
    }

    #[test]
    fn the_default_and_unusual_cookies_are_accepted() {
        assert_eq!(fault(|_| ()), None);
        let elsewhere = |c: &mut Cookie| {
            (c.name, c.path, c.domain) = ("__Secure-s".into(), "/shop".into(), Some("a.example".into()));
        };
        assert_eq!(fault(elsewhere), None);
        assert_eq!(fault(|c| (c.name, c.secure) = ("s".into(), false)), None);
        assert_eq!(fault(|c| c.same_site = SameSite::None), None);
        assert_eq!(fault(|c| (c.same_site, c.partitioned) = (SameSite::None, true)), None);
        for name in ["__Host-Http-s", "__Http-s", "__Hos-s", "__"] {
            assert_eq!(fault(|c| c.name = name.into()), None, "{name}");
        }
    }

    #[test]
    fn a_name_that_is_no_token_is_a_fault() {
        for name in ["", "a b", "s;x", "s=x", "größe"] {
            assert_eq!(fault(|c| c.name = name.into()), Some(CookieFault::Name), "{name}");
        }
        assert_eq!(fault(|c| c.name = "s".repeat(4000)), None);
        assert_eq!(fault(|c| c.name = "s".repeat(4096)), Some(CookieFault::NameLength));
    }

    #[test]
    fn a_path_that_no_request_has_is_a_fault() {
        let plain = |path: &str| fault(|c| (c.name, c.path) = ("s".into(), path.into()));
        for path in ["", "shop", "/a;b", "/a\u{e9}", "/a b", "/a?b", "/a#b", "/\n", "/\\", "/{id}", &"/a".repeat(513)] {
            assert_eq!(plain(path), Some(CookieFault::Path), "{path}");
        }
        for path in ["/", "/shop", "/shop/", "/a%20b", "/~a/b=c&d,e:f@g!$'()*+", &"/a".repeat(512)] {
            assert_eq!(plain(path), None, "{path}");
        }
    }

    #[test]
    fn a_domain_that_is_none_is_a_fault() {
        let fault = fault(|c| (c.name, c.domain) = ("s".into(), Some("a.example:443".into())));
        assert!(matches!(fault, Some(CookieFault::Domain(problem)) if problem.contains("port")), "{fault:?}");
    }

    #[test]
    fn a_prefix_promises_what_the_cookie_must_keep() {
        for prefix in HOST_PREFIXES {
            let plain = |change: fn(&mut Cookie)| {
                fault(|c| {
                    c.name = format!("{}s", prefix.to_ascii_lowercase());
                    change(c);
                })
            };
            assert_eq!(plain(|c| c.secure = false), Some(CookieFault::HostPrefix(prefix)));
            assert_eq!(plain(|c| c.path = "/shop".into()), Some(CookieFault::HostPrefix(prefix)));
            assert_eq!(plain(|c| c.domain = Some("a.example".into())), Some(CookieFault::HostPrefix(prefix)));
        }
        for prefix in SECURE_PREFIXES {
            let name = format!("{}s", prefix.to_ascii_uppercase());
            assert_eq!(fault(|c| (c.name, c.secure) = (name, false)), Some(CookieFault::SecurePrefix(prefix)));
        }
    }

    #[test]
    fn same_site_none_and_partitioned_need_secure() {
        let plain = |c: &mut Cookie| (c.name, c.secure) = ("s".into(), false);
        let none = |c: &mut Cookie| {
            plain(c);
            c.same_site = SameSite::None;
        };
        assert_eq!(fault(none), Some(CookieFault::SameSiteNone));
        let partitioned = |c: &mut Cookie| {
            plain(c);
            c.partitioned = true;
        };
        assert_eq!(fault(partitioned), Some(CookieFault::Partitioned));
    }
}
