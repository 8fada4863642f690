//! Tells visits from requests that only look: these must not start a session or count.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};

/// Whether a person will see the answer now.
pub(crate) struct Visit(pub(crate) bool);

impl<S: Sync> FromRequestParts<S> for Visit {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(parts.method != Method::HEAD && !is_ahead(&parts.headers)))
    }
}

/// Whether a browser loads this ahead of a visit that may never come. The header is `Sec-Purpose` (Fetch standard); the others are
/// what Chromium, Firefox and Safari sent before there was one.
fn is_ahead(headers: &HeaderMap) -> bool {
    let says = |name: &str, purpose: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        // `prefetch;prerender` is a prefetch as well.
        values.flat_map(|value| value.split([';', ','])).any(|word| word.trim().eq_ignore_ascii_case(purpose))
    };
    says("sec-purpose", "prefetch")
        || says("purpose", "prefetch")
        || says("x-moz", "prefetch")
        || says("x-purpose", "preview")
}
