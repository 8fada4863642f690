//! What caches between the app and its visitors are told.

use http::header::{CACHE_CONTROL, EXPIRES, VARY};
use http::{HeaderMap, HeaderName, HeaderValue};

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Headers that tell some cache to store a response although `Cache-Control` says `no-store`, and that do not follow the naming
/// of RFC 9213.
const OTHERS: [&str; 3] = ["surrogate-control", "edge-control", "x-accel-expires"];

/// Keeps caches from storing a response, whatever its handler has told them, except in the headers of `kept`.
///
/// `Cache-Control: no-store` alone is not enough: a cache that is named by a header of its own, such as `CDN-Cache-Control`, goes
/// by that one and ignores `Cache-Control` (RFC 9213, section 2.2). Without it the cache falls back to `Cache-Control`.
pub(crate) fn forbid_storing(headers: &mut HeaderMap, kept: &[HeaderName]) {
    headers.insert(CACHE_CONTROL, NO_STORE);
    // Most responses have none, and then nothing is allocated.
    let others: Vec<_> =
        headers.keys().filter(|name| speaks_to_caches(name) && !kept.contains(name)).cloned().collect();
    for name in others {
        headers.remove(name);
    }
}

/// Whether a header other than `Cache-Control` may tell a cache to store the response.
fn speaks_to_caches(name: &HeaderName) -> bool {
    let text = name.as_str();
    // Names of targeted fields end so (RFC 9213, section 2.4), and so do `X-LiteSpeed-Cache-Control` and the like.
    text.ends_with("-cache-control") || *name == EXPIRES || OTHERS.contains(&text)
}

/// Keeps a response that says something about a session from those without it: `Vary: Cookie`, and `no-store` where the handler
/// has not said how to cache it.
pub(crate) fn mark_as_read(headers: &mut HeaderMap) {
    vary_on_cookie(headers);
    headers.entry(CACHE_CONTROL).or_insert(NO_STORE);
}

/// Adds `Cookie` to `Vary` unless it is covered already (RFC 9110, section 12.5.5).
fn vary_on_cookie(headers: &mut HeaderMap) {
    let covered = headers.get_all(VARY).iter().any(|value| {
        value
            .as_bytes()
            .split(|b| *b == b',')
            .any(|field| field.trim_ascii().eq_ignore_ascii_case(b"cookie") || field.trim_ascii() == b"*")
    });
    if !covered {
        headers.append(VARY, HeaderValue::from_static("cookie"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names that are left, in order.
    fn left(names: &[&'static str], kept: &[&'static str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for name in names {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("max-age=60"));
        }
        let kept: Vec<_> = kept.iter().map(|name| HeaderName::from_static(name)).collect();
        forbid_storing(&mut headers, &kept);
        assert_eq!(headers.get_all(CACHE_CONTROL).iter().collect::<Vec<_>>(), ["no-store"]);
        let mut left: Vec<_> = headers.keys().map(ToString::to_string).filter(|name| name != "cache-control").collect();
        left.sort();
        left
    }

    #[test]
    fn every_header_that_allows_storing_is_removed() {
        let names = [
            "cache-control",
            "expires",
            "cdn-cache-control",
            "cloudflare-cdn-cache-control",
            "vercel-cdn-cache-control",
            "netlify-cdn-cache-control",
            "akamai-cache-control",
            "a-cache-nobody-has-heard-of-cache-control",
            "surrogate-control",
            "edge-control",
            "x-accel-expires",
            "x-litespeed-cache-control",
        ];
        assert_eq!(left(&names, &[]), [""; 0]);
        // The same header twice is removed as well.
        assert_eq!(left(&["cdn-cache-control", "cdn-cache-control"], &[]), [""; 0]);
    }

    #[test]
    fn other_headers_stay() {
        let names = ["content-type", "etag", "surrogate-key", "cache-tag", "cache-status", "age", "x-cache-controller"];
        let mut sorted = names.to_vec();
        sorted.sort_unstable();
        assert_eq!(left(&names, &[]), sorted);
    }

    #[test]
    fn headers_that_an_app_must_keep_stay() {
        assert_eq!(left(&["surrogate-control", "edge-control"], &["surrogate-control"]), ["surrogate-control"]);
    }
}
