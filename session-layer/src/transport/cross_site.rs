//! Requests that another site started.

use http::{HeaderMap, HeaderName, Method};

use super::cookie::SameSite;

static SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
static MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
static DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Whether the browser may have a cookie that it did not send with this request, because another site started it.
///
/// Browsers say so in `Sec-Fetch-Site` (W3C, Fetch Metadata Request Headers), which no page can forge; a client that does not send
/// it is not a browser, or an old one. With [`SameSite::Lax`] they send the cookie along when somebody follows a link, which is a
/// navigation of the whole page by a safe method (RFC 6265bis, section 5.8.3): then there is none that they did not send.
pub(crate) fn is_withheld(same_site: SameSite, method: &Method, headers: &HeaderMap) -> bool {
    let is = |name: &HeaderName, value: &str| headers.get(name).is_some_and(|found| found == value);
    let follows_link = || {
        let is_page = is(&DEST, "document") || !headers.contains_key(&DEST);
        method.is_safe() && is(&MODE, "navigate") && is_page
    };
    match same_site {
        SameSite::None => false,
        SameSite::Strict => is(&SITE, "cross-site"),
        SameSite::Lax => is(&SITE, "cross-site") && !follows_link(),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// Method, `Sec-Fetch-Site`, `-Mode` and `-Dest`.
    fn withheld(same_site: SameSite, request: &str) -> bool {
        let mut words = request.split(' ');
        let method = words.next().unwrap().parse().unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in ["sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest"].into_iter().zip(words) {
            headers.insert(name, HeaderValue::from_str(value).unwrap());
        }
        is_withheld(same_site, &method, &headers)
    }

    /// Rows: a request. Columns: whether a cookie may be withheld that is `Strict`, `Lax` or `None`.
    #[test]
    fn cookies_are_withheld_from_requests_of_other_sites() {
        #[rustfmt::skip]
        let table = [
            ("POST cross-site navigate document",   [true,  true,  false]),
            ("POST cross-site cors empty",          [true,  true,  false]),
            ("GET cross-site navigate document",    [true,  false, false]),
            ("HEAD cross-site navigate document",   [true,  false, false]),
            ("GET cross-site navigate",             [true,  false, false]),
            ("GET cross-site navigate iframe",      [true,  true,  false]),
            ("GET cross-site no-cors image",        [true,  true,  false]),
            ("GET cross-site cors empty",           [true,  true,  false]),
            ("GET cross-site",                      [true,  true,  false]),
            ("POST same-site navigate document",    [false, false, false]),
            ("POST same-origin navigate document",  [false, false, false]),
            ("GET none navigate document",          [false, false, false]),
            ("POST",                                [false, false, false]),
            ("GET",                                 [false, false, false]),
        ];
        for (request, expected) in table {
            let found = [SameSite::Strict, SameSite::Lax, SameSite::None].map(|same_site| withheld(same_site, request));
            assert_eq!(found, expected, "{request}");
        }
    }
}
