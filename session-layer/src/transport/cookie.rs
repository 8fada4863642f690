//! The cookie's name and attributes, and the `Set-Cookie` headers made of them.

use std::fmt;
use std::time::Duration;

use http::HeaderValue;

/// When a browser sends the cookie along with a request that another site started (RFC 6265bis, section 5.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SameSite {
    /// Never, not even when somebody follows a link to the site.
    Strict,
    /// Only when somebody follows a link to the site. The default: it keeps other sites' forms from using the session, and links
    /// from mails working.
    #[default]
    Lax,
    /// Always; needs `Secure`, and the app needs its own protection against forged requests.
    None,
}

impl SameSite {
    fn name(self) -> &'static str {
        match self {
            Self::Strict => "Strict",
            Self::Lax => "Lax",
            Self::None => "None",
        }
    }
}

impl fmt::Display for SameSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The cookie's name and attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cookie {
    pub(crate) name: String,
    pub(crate) domain: Option<String>,
    pub(crate) path: String,
    pub(crate) same_site: SameSite,
    pub(crate) secure: bool,
    /// Kept apart for each site that embeds this one (CHIPS).
    pub(crate) partitioned: bool,
    /// `Max-Age` in [`seconds`]; without it the browser forgets the cookie when it closes.
    pub(crate) max_age: Option<u32>,
}

/// The longest that browsers keep a cookie, whatever its `Max-Age` says (RFC 6265bis, section 5.5).
const LONGEST_KEPT: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// A lifetime as `Max-Age` has it: whole seconds, at least one, since 0 would mean to forget the cookie.
pub(crate) fn seconds(lifetime: Duration) -> u32 {
    u32::try_from(lifetime.min(LONGEST_KEPT).as_secs().max(1)).unwrap_or(u32::MAX)
}

impl Cookie {
    /// The name without the prefix that tells browsers what to ask of it (RFC 6265bis, section 4.1.3).
    pub(crate) fn bare_name(&self) -> &str {
        // The longest first: it begins like another.
        ["__Host-Http-", "__Http-", "__Host-", "__Secure-"]
            .iter()
            .find_map(|prefix| {
                let (start, rest) = self.name.split_at_checked(prefix.len())?;
                (start.eq_ignore_ascii_case(prefix) && !rest.is_empty()).then_some(rest)
            })
            .unwrap_or(&self.name)
    }

    /// `Set-Cookie` that makes the browser keep `value`.
    pub(crate) fn keep(&self, value: &str) -> HeaderValue {
        self.header(value, self.max_age)
    }

    /// `Set-Cookie` that makes the browser forget the value. Name, domain and path are those that it was kept under.
    pub(crate) fn forget(&self) -> HeaderValue {
        self.header("", Some(0))
    }

    fn header(&self, value: &str, max_age: Option<u32>) -> HeaderValue {
        let secure = if self.secure { "; Secure" } else { "" };
        let partitioned = if self.partitioned { "; Partitioned" } else { "" };
        let same_site = self.same_site.name();
        let mut text =
            [&self.name, "=", value, "; Path=", &self.path, "; HttpOnly; SameSite=", same_site, secure, partitioned]
                .concat();
        if let Some(domain) = &self.domain {
            text.push_str("; Domain=");
            text.push_str(domain);
        }
        if let Some(max_age) = max_age {
            text.push_str(&format!("; Max-Age={max_age}"));
        }
        let mut header = HeaderValue::try_from(text).expect("`fault` lets nothing pass that a header cannot hold");
        header.set_sensitive(true);
        header
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// As by default.
    pub(crate) fn cookie() -> Cookie {
        Cookie {
            name: "__Host-session".into(),
            domain: None,
            path: "/".into(),
            same_site: SameSite::Lax,
            secure: true,
            partitioned: false,
            max_age: None,
        }
    }

    #[test]
    fn a_bare_name_has_no_prefix() {
        for (name, bare) in [
            ("__Host-session", "session"),
            ("__Secure-session", "session"),
            ("__Http-session", "session"),
            ("__Host-Http-session", "session"),
            ("__host-session", "session"),
            ("session", "session"),
            ("x__Host-session", "x__Host-session"),
            ("__Host-__Secure-s", "__Secure-s"),
            ("__Host-", "__Host-"),
        ] {
            assert_eq!(Cookie { name: name.into(), ..cookie() }.bare_name(), bare);
        }
    }

    #[test]
    fn same_site_reads_as_browsers_expect_it() {
        let shown = [SameSite::Strict, SameSite::Lax, SameSite::None].map(|same_site| same_site.to_string());
        assert_eq!(shown, ["Strict", "Lax", "None"]);
    }

    #[test]
    fn no_log_line_shows_the_cookie() {
        let cookie = Cookie { max_age: Some(60), ..cookie() };
        let header = cookie.keep("v");
        assert!(header.is_sensitive() && cookie.forget().is_sensitive());
        assert!(header.to_str().unwrap().ends_with("; Max-Age=60"), "a persistent cookie says how long");
    }

    #[test]
    fn lifetimes_are_whole_seconds_from_one_to_400_days() {
        let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
        for (lifetime, expected) in [
            (Duration::from_millis(1), 1),
            (Duration::from_millis(1_999), 1),
            (Duration::from_secs(1800), 1800),
            (days(400), 34_560_000),
            (days(401), 34_560_000),
            (days(36_500), 34_560_000),
        ] {
            assert_eq!(seconds(lifetime), expected, "{lifetime:?}");
        }
    }

    #[test]
    fn the_header_says_what_the_defaults_promise() {
        assert_eq!(cookie().keep("v"), "__Host-session=v; Path=/; HttpOnly; SameSite=Lax; Secure");
        assert_eq!(cookie().forget(), "__Host-session=; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=0");
        let shop = Cookie {
            name: "s".into(),
            domain: Some("shop.example".into()),
            path: "/shop".into(),
            same_site: SameSite::Strict,
            secure: false,
            partitioned: false,
            max_age: Some(1800),
        };
        assert_eq!(shop.keep("v"), "s=v; Path=/shop; HttpOnly; SameSite=Strict; Domain=shop.example; Max-Age=1800");
    }

    #[test]
    fn a_partitioned_cookie_is_set_and_removed_as_one() {
        let cookie = Cookie { partitioned: true, same_site: SameSite::None, ..cookie() };
        assert_eq!(cookie.keep("v"), "__Host-session=v; Path=/; HttpOnly; SameSite=None; Secure; Partitioned");
        assert!(cookie.forget().to_str().unwrap().contains("; Partitioned; Max-Age=0"));
    }
}
