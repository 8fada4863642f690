//! Headers that every response carries: who answered, and what browsers may do with the answer.

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::origin::forwarded_scheme;

/// Names the node that answered, for scripts and for curious readers.
pub(crate) const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");

/// Nothing but this site's own files, forms that lead back to it, and no inline script or style. `connect-src` is for the
/// "keep refreshing" switch.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const FIXED: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // For browsers that do not know `frame-ancestors`.
    (header::X_FRAME_OPTIONS, "DENY"),
    // Not `no-referrer`: with that, browsers send `Origin: null` with the site's own forms, and the origin check would refuse
    // them wherever `Sec-Fetch-Site` is missing.
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Adds the headers; `name` is this node's.
pub(crate) async fn add(State(name): State<HeaderValue>, request: Request, next: Next) -> Response {
    let https = forwarded_scheme(request.headers()).eq_ignore_ascii_case("https");
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(SERVED_BY, name);
    for (name, value) in FIXED {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if https {
        // Over plain HTTP browsers ignore it, and anybody on the way could have written it.
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    response
}
