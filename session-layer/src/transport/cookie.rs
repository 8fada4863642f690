//! The cookie: in, the ID that the browser presented; out, the ID that it should keep.

use std::fmt;
use std::time::Duration;

use http::HeaderValue;

use crate::id::SessionId;
use crate::signature::{ENCODED_LEN, Signer};

/// How many values that look like ours are verified at most. A browser sends one for each path and domain that set one;
/// without a bound a request could make the server compute as many MACs as fit into its headers.
const MAX_CANDIDATES: usize = 8;

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
#[derive(Debug, Clone)]
pub(crate) struct Cookie {
    pub(crate) name: String,
    pub(crate) domain: Option<String>,
    pub(crate) path: String,
    pub(crate) same_site: SameSite,
    pub(crate) secure: bool,
    /// `Max-Age`; without it the browser forgets the cookie when it closes.
    pub(crate) max_age: Option<Duration>,
}

/// What makes a cookie that no browser would keep, or that one would keep for less than it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CookieFault {
    Name,
    Path,
    Domain,
    HostPrefix,
    SecurePrefix,
    SameSiteNone,
}

impl Cookie {
    /// What is wrong with it, if anything.
    pub(crate) fn fault(&self) -> Option<CookieFault> {
        let prefixed = |prefix: &str| self.name.get(..prefix.len()).is_some_and(|p| p.eq_ignore_ascii_case(prefix));
        // RFC 6265, section 4.1.1: the name is a token, attribute values hold no `;` and no control characters.
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let value = |b: u8| (b' '..=b'~').contains(&b) && b != b';';
        if self.name.is_empty() || !self.name.bytes().all(token) {
            Some(CookieFault::Name)
        } else if !self.path.starts_with('/') || !self.path.bytes().all(value) {
            Some(CookieFault::Path)
        } else if self.domain.as_ref().is_some_and(|domain| domain.is_empty() || !domain.bytes().all(value)) {
            Some(CookieFault::Domain)
        } else if prefixed("__Host-") && !(self.secure && self.path == "/" && self.domain.is_none()) {
            Some(CookieFault::HostPrefix)
        } else if prefixed("__Secure-") && !self.secure {
            Some(CookieFault::SecurePrefix)
        } else if self.same_site == SameSite::None && !self.secure {
            Some(CookieFault::SameSiteNone)
        } else {
            None
        }
    }

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

    /// The first ID that was signed by us, from all `Cookie` headers of a request.
    pub(crate) fn read<'a>(
        &self,
        headers: impl Iterator<Item = &'a HeaderValue>,
        signer: &Signer,
    ) -> Option<SessionId> {
        self.candidates(headers, ENCODED_LEN).find_map(|value| signer.verify(value))
    }

    /// The values in all `Cookie` headers of a request that have our name and length, as many of them as are worth a MAC.
    ///
    /// Read as bytes: a stray non-ASCII cookie of somebody else must not hide ours, nor must junk of the same name, of which what
    /// has not even our form does not count towards the bound.
    pub(crate) fn candidates<'a>(
        &self,
        headers: impl Iterator<Item = &'a HeaderValue>,
        length: usize,
    ) -> impl Iterator<Item = &'a [u8]> {
        headers
            .flat_map(|header| header.as_bytes().split(|b| *b == b';'))
            .filter_map(|pair| value_of(pair, self.name.as_bytes()))
            .filter(move |value| value.len() == length)
            .take(MAX_CANDIDATES)
    }

    /// `Set-Cookie` that makes the browser keep `value`.
    pub(crate) fn keep(&self, value: &str) -> HeaderValue {
        // 0 would mean to forget it.
        self.header(value, self.max_age.map(|max_age| max_age.as_secs().max(1)))
    }

    /// `Set-Cookie` that makes the browser forget the value. Name, domain and path are those that it was kept under.
    pub(crate) fn forget(&self) -> HeaderValue {
        self.header("", Some(0))
    }

    fn header(&self, value: &str, max_age: Option<u64>) -> HeaderValue {
        let secure = if self.secure { "; Secure" } else { "" };
        let same_site = self.same_site.name();
        let mut text =
            [&self.name, "=", value, "; Path=", &self.path, "; HttpOnly; SameSite=", same_site, secure].concat();
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

/// The value of one `name=value` pair, if the name is this one. White space around both goes, and one pair of double quotes
/// around the value (RFC 6265, section 4.1.1).
fn value_of<'a>(pair: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = pair.trim_ascii().strip_prefix(name)?.trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
    Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::LayerKind;

    fn cookie() -> Cookie {
        Cookie {
            name: "__Host-session".into(),
            domain: None,
            path: "/".into(),
            same_site: SameSite::Lax,
            secure: true,
            max_age: None,
        }
    }

    fn signer() -> Signer {
        Signer::new(LayerKind::Default, "__Host-session", &[7; 32], &[])
    }

    fn read(headers: &[&[u8]]) -> Option<SessionId> {
        let headers: Vec<_> = headers.iter().map(|bytes| HeaderValue::from_bytes(bytes).unwrap()).collect();
        cookie().read(headers.iter(), &signer())
    }

    #[test]
    fn the_signed_value_is_found_whatever_stands_around_it() {
        let id = SessionId::random();
        let value = signer().sign(&id);
        let junk = "A".repeat(ENCODED_LEN);
        let short = "__Host-session=x; ".repeat(100);
        for header in [
            format!("__Host-session={value}"),
            format!("a=b; __Host-session={value}; c=d"),
            format!("a=b;__Host-session=\"{value}\""),
            format!(" __Host-session = {value} "),
            format!("__Host-session={junk}; __Host-session={value}"),
            format!("{short}__Host-session={value}; {short}"),
            format!("x__Host-session={junk}; __Host-session={value}"),
            format!("novalue; =; ;; __Host-session={value}"),
        ] {
            assert_eq!(read(&[header.as_bytes()]), Some(id), "{header}");
        }
        assert_eq!(read(&[b"a=b", b"c=d", format!("__Host-session={value}").as_bytes()]), Some(id));
        assert_eq!(read(&[format!("stray=\u{e9}\u{4e16}; __Host-session={value}").as_bytes()]), Some(id));
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
    fn quotes_count_only_as_a_pair() {
        let value = signer().sign(&SessionId::random());
        for header in [format!("__Host-session=\"{value}"), format!("__Host-session={value}\"")] {
            assert_eq!(read(&[header.as_bytes()]), None, "{header}");
        }
    }

    #[test]
    fn same_site_reads_as_browsers_expect_it() {
        let shown = [SameSite::Strict, SameSite::Lax, SameSite::None].map(|same_site| same_site.to_string());
        assert_eq!(shown, ["Strict", "Lax", "None"]);
    }

    #[test]
    fn no_log_line_shows_the_cookie() {
        let cookie = Cookie { max_age: Some(Duration::from_secs(60)), ..cookie() };
        let header = cookie.keep(&signer().sign(&SessionId::random()));
        assert!(header.is_sensitive() && cookie.forget().is_sensitive());
        assert!(header.to_str().unwrap().ends_with("; Max-Age=60"), "a persistent cookie says how long");
    }

    #[test]
    fn what_is_to_be_kept_for_less_than_a_second_is_not_forgotten_at_once() {
        let cookie = Cookie { max_age: Some(Duration::from_millis(999)), ..cookie() };
        assert!(cookie.keep("v").to_str().unwrap().ends_with("; Max-Age=1"));
    }

    #[test]
    fn at_most_eight_values_of_our_form_are_verified() {
        let value = signer().sign(&SessionId::random());
        let junk = format!("__Host-session={}; ", "A".repeat(ENCODED_LEN));
        let seven = format!("{}__Host-session={value}", junk.repeat(7));
        let eight = format!("{}__Host-session={value}", junk.repeat(8));
        assert!(read(&[seven.as_bytes()]).is_some());
        assert!(read(&[eight.as_bytes()]).is_none());
    }

    #[test]
    fn what_was_not_signed_is_nobody() {
        assert_eq!(read(&[]), None);
        for header in ["", "__Host-session", "__Host-session=", "__Host-session=abc", "session=abc", "=x", "\t;\t"] {
            assert_eq!(read(&[header.as_bytes()]), None, "{header}");
        }
        // Names are case-sensitive, and a name that merely begins like ours is another.
        let value = signer().sign(&SessionId::random());
        assert_eq!(read(&[format!("__host-session={value}").as_bytes()]), None);
        assert_eq!(read(&[format!("__Host-session2={value}").as_bytes()]), None);
    }

    #[test]
    fn the_header_says_what_the_defaults_promise() {
        let id = SessionId::random();
        let value = signer().sign(&id);
        assert_eq!(
            cookie().keep(&signer().sign(&id)).to_str().unwrap(),
            format!("__Host-session={value}; Path=/; HttpOnly; SameSite=Lax; Secure")
        );
        assert_eq!(cookie().forget(), "__Host-session=; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=0");
        let shop = Cookie {
            name: "s".into(),
            domain: Some("shop.example".into()),
            path: "/shop".into(),
            same_site: SameSite::Strict,
            secure: false,
            max_age: Some(Duration::from_secs(1800)),
        };
        assert_eq!(
            shop.header("v", shop.max_age.map(|age| age.as_secs())),
            "s=v; Path=/shop; HttpOnly; SameSite=Strict; Domain=shop.example; Max-Age=1800"
        );
    }

    #[test]
    fn a_cookie_that_browsers_would_refuse_is_a_fault() {
        let fault = |change: fn(&mut Cookie)| {
            let mut cookie = cookie();
            change(&mut cookie);
            cookie.fault()
        };
        assert_eq!(fault(|_| ()), None);
        assert_eq!(fault(|c| c.name = "a b".into()), Some(CookieFault::Name));
        assert_eq!(fault(|c| c.name = String::new()), Some(CookieFault::Name));
        assert_eq!(fault(|c| c.name = "s;x".into()), Some(CookieFault::Name));
        assert_eq!(fault(|c| c.secure = false), Some(CookieFault::HostPrefix));
        assert_eq!(fault(|c| c.path = "/shop".into()), Some(CookieFault::HostPrefix));
        assert_eq!(fault(|c| c.domain = Some("a.example".into())), Some(CookieFault::HostPrefix));
        assert_eq!(
            fault(|c| {
                c.name = "__secure-s".into();
                c.secure = false;
            }),
            Some(CookieFault::SecurePrefix)
        );
        let elsewhere = |c: &mut Cookie| {
            (c.name, c.path, c.domain) = ("__Secure-s".into(), "/shop".into(), Some("a.example".into()));
        };
        assert_eq!(fault(elsewhere), None);
        assert_eq!(fault(|c| (c.name, c.secure) = ("s".into(), false)), None);
        assert_eq!(fault(|c| c.same_site = SameSite::None), None);
        assert_eq!(fault(|c| c.path = "/a\u{e9}".into()), Some(CookieFault::Path));
        assert_eq!(fault(|c| (c.name, c.domain) = ("s".into(), Some(String::new()))), Some(CookieFault::Domain));
        assert_eq!(fault(|c| (c.name, c.domain) = ("s".into(), Some("a;b".into()))), Some(CookieFault::Domain));
        assert_eq!(fault(|c| c.path = "shop".into()), Some(CookieFault::Path));
        assert_eq!(fault(|c| c.path = "/a;b".into()), Some(CookieFault::Path));
        assert_eq!(fault(|c| c.domain = Some("a\nb".into())), Some(CookieFault::Domain));
        assert_eq!(
            fault(|c| {
                c.name = "s".into();
                c.secure = false;
                c.same_site = SameSite::None;
            }),
            Some(CookieFault::SameSiteNone)
        );
    }
}
