//! Finds our values in the `Cookie` headers of a request.

use http::HeaderValue;

use super::cookie::Cookie;
use crate::id::SessionId;
use crate::signature::{ENCODED_LEN, Presented, Signer};

/// How many values that look like ours are verified at most. A browser sends one for each path and domain that set one;
/// without a bound a request could make the server compute as many MACs as fit into its headers.
const MAX_CANDIDATES: usize = 8;

/// The cookies in a request that we signed, in the order in which they came: one as a rule. A browser has several after the domain or
/// path of the cookie has changed, and their order does not say which of them is good.
#[derive(Default)]
pub(crate) struct Candidates {
    first: Option<Presented>,
    /// Empty as a rule, and then without an allocation.
    more: Vec<Presented>,
}

impl Candidates {
    fn add(&mut self, cookie: Presented) {
        // One ID under two scopes is one session. The newer of the two is the one that is sent again, and so tells when it is due.
        if let Some(known) = self.first.iter_mut().chain(&mut self.more).find(|known| known.id == cookie.id) {
            if cookie.is_newer_than(known) {
                *known = cookie;
            }
        } else if self.first.is_none() {
            self.first = Some(cookie);
        } else {
            self.more.push(cookie);
        }
    }

    pub(crate) fn first(&self) -> Option<SessionId> {
        self.first.map(|cookie| cookie.id)
    }

    pub(crate) fn are_several(&self) -> bool {
        !self.more.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Presented> {
        self.first.iter().chain(&self.more)
    }

    pub(crate) fn find(&self, id: &SessionId) -> Option<&Presented> {
        self.iter().find(|cookie| cookie.id == *id)
    }
}

impl Cookie {
    /// The cookies that we signed, from all `Cookie` headers of a request.
    pub(crate) fn read<'a>(&self, headers: impl Iterator<Item = &'a HeaderValue>, signer: &Signer) -> Candidates {
        let mut found = Candidates::default();
        for cookie in self.candidates(headers, ENCODED_LEN).filter_map(|value| signer.verify(value)) {
            found.add(cookie);
        }
        found
    }

    /// How many cookies of this name the browser sent, whatever they are; `most` is as far as it matters.
    pub(crate) fn count<'a>(&self, headers: impl Iterator<Item = &'a HeaderValue>, most: usize) -> usize {
        self.values(headers).take(most).count()
    }

    fn values<'a>(&self, headers: impl Iterator<Item = &'a HeaderValue>) -> impl Iterator<Item = &'a [u8]> {
        headers
            .flat_map(|header| header.as_bytes().split(|b| *b == b';'))
            .filter_map(|pair| value_of(pair, self.name.as_bytes()))
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
        self.values(headers).filter(move |value| value.len() == length).take(MAX_CANDIDATES)
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
    use super::super::cookie::tests::cookie;
    use super::*;
    use crate::signature::LayerKind;

    fn signer() -> Signer {
        Signer::new(LayerKind::Default, "__Host-session", &[7; 32], &[])
    }

    fn read(headers: &[&[u8]]) -> Option<SessionId> {
        read_all(headers).first()
    }

    fn read_all(headers: &[&[u8]]) -> Candidates {
        let headers: Vec<_> = headers.iter().map(|bytes| HeaderValue::from_bytes(bytes).unwrap()).collect();
        cookie().read(headers.iter(), &signer())
    }

    fn sign(id: SessionId) -> String {
        signer().sign(&Presented::new(id, None, 0))
    }

    #[test]
    fn the_signed_value_is_found_whatever_stands_around_it() {
        let id = SessionId::random();
        let value = sign(id);
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
    fn quotes_count_only_as_a_pair() {
        let value = sign(SessionId::random());
        for header in [format!("__Host-session=\"{value}"), format!("__Host-session={value}\"")] {
            assert_eq!(read(&[header.as_bytes()]), None, "{header}");
        }
    }

    #[test]
    fn at_most_eight_values_of_our_form_are_verified() {
        let value = sign(SessionId::random());
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
        let value = sign(SessionId::random());
        assert_eq!(read(&[format!("__host-session={value}").as_bytes()]), None);
        assert_eq!(read(&[format!("__Host-session2={value}").as_bytes()]), None);
    }

    #[test]
    fn all_signed_values_are_found_in_their_order_and_each_id_once() {
        let ids: [SessionId; 3] = std::array::from_fn(|_| SessionId::random());
        let [a, b, c] = ids.map(|id| format!("__Host-session={}", sign(id)));
        let junk = format!("__Host-session={}", "A".repeat(ENCODED_LEN));
        let found = read_all(&[format!("{a}; {junk}; {b}; {a}").as_bytes(), c.as_bytes()]);
        assert_eq!(found.iter().map(|cookie| cookie.id).collect::<Vec<_>>(), ids);
        assert!(found.are_several() && found.find(&ids[2]).is_some() && found.find(&SessionId::random()).is_none());
        assert!(!read_all(&[format!("{a}; {junk}; {a}").as_bytes()]).are_several());
    }

    #[test]
    fn of_two_cookies_with_one_id_the_newer_tells_its_age() {
        let id = SessionId::random();
        let [old, new] = [1_000, 2_000].map(|sent| Presented::new(id, Some(60), sent));
        for order in [[old, new], [new, old]] {
            let pairs = order.map(|cookie| format!("__Host-session={}", signer().sign(&cookie)));
            assert_eq!(read_all(&[pairs.join("; ").as_bytes()]).find(&id), Some(&new));
        }
    }

    #[test]
    fn cookies_of_the_name_are_counted_whatever_they_hold() {
        let count = |text: &'static str| cookie().count([HeaderValue::from_static(text)].iter(), 9);
        assert_eq!(count("__Host-session=x; a=b; __Host-session=; __Host-session2=y; __Host-session"), 2);
        assert_eq!(count("a=b"), 0);
    }
}
