//! Finds our values in the `Cookie` headers of a request.

use http::HeaderValue;

use super::cookie::Cookie;
use crate::id::SessionId;
use crate::signature::{ENCODED_LEN, Signer};

/// How many values that look like ours are verified at most. A browser sends one for each path and domain that set one;
/// without a bound a request could make the server compute as many MACs as fit into its headers.
const MAX_CANDIDATES: usize = 8;

impl Cookie {
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
    fn quotes_count_only_as_a_pair() {
        let value = signer().sign(&SessionId::random());
        for header in [format!("__Host-session=\"{value}"), format!("__Host-session={value}\"")] {
            assert_eq!(read(&[header.as_bytes()]), None, "{header}");
        }
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
}
