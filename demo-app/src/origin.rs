//! Lets a request that may change something through only if it comes from this site's own pages, or from no browser at all.
//!
//! `SameSite=Lax` keeps the session cookie off cross-site POSTs, but "site" there ignores port and subdomain: another program
//! on another port of the same machine would be let in. `tower_http::csrf` comes close, but compares no schemes and reads only
//! `Host`, which some proxies replace by the name of the upstream.

use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::problem::Problem;

/// The check, as a layer.
pub(crate) async fn check(request: Request, next: Next) -> Response {
    if allowed(request.method(), request.uri(), request.headers()) {
        return next.run(request).await;
    }
    tracing::info!("refused a request from another origin");
    Problem::new(StatusCode::FORBIDDEN, "This request came from another site, so it was not carried out.")
        .into_response()
}

/// Whether this request may pass.
pub(crate) fn allowed(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE) {
        return true;
    }
    // Browsers send it from pages on HTTPS or on localhost, and no page can set or change it.
    let fetch_site = one(headers, "sec-fetch-site");
    if matches!(fetch_site, One::Is("same-origin" | "none")) {
        return true;
    }
    match one(headers, "origin") {
        One::Is(origin) => origin_of(origin).is_some_and(|origin| own_origin(uri, headers) == Some(origin)),
        One::Absent => matches!(fetch_site, One::Absent),
        One::Unusable => false,
    }
}

/// Scheme, host and port; the port never left out.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    fn new(scheme: &str, authority: &str) -> Option<Self> {
        let scheme = scheme.to_ascii_lowercase();
        let default_port = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let authority: axum::http::uri::Authority = authority.parse().ok()?;
        // A colon without a number after it is a port that does not parse, not one that was left out.
        let port = match authority.as_str().strip_prefix(authority.host())? {
            "" => default_port,
            port => port.strip_prefix(':')?.parse().ok()?,
        };
        Some(Self { scheme, host: authority.host().to_ascii_lowercase(), port })
    }
}

/// `null`, which sandboxed frames and some redirects send, is no origin.
fn origin_of(header: &str) -> Option<Origin> {
    let (scheme, authority) = header.split_once("://")?;
    Origin::new(scheme, authority)
}

/// The origin that the browser sees. The proxy in front overwrites the `X-Forwarded-…` headers; where there is none, a client
/// could invent them, but a page in a browser cannot, and pages are what this guards against.
fn own_origin(uri: &Uri, headers: &HeaderMap) -> Option<Origin> {
    let host = match one(headers, "x-forwarded-host") {
        One::Is(host) => host,
        One::Unusable => return None,
        One::Absent => match (uri.authority(), one(headers, header::HOST.as_str())) {
            (Some(authority), _) => authority.as_str(),
            (None, One::Is(host)) => host,
            (None, _) => return None,
        },
    };
    Origin::new(forwarded_scheme(headers), host)
}

/// The scheme the browser used: `https` only if the proxy in front says so.
pub(crate) fn forwarded_scheme(headers: &HeaderMap) -> &str {
    match one(headers, "x-forwarded-proto") {
        One::Is(scheme) => scheme,
        _ => "http",
    }
}

/// A header that makes sense only once.
enum One<'a> {
    Absent,
    Is(&'a str),
    Unusable,
}

fn one<'a>(headers: &'a HeaderMap, name: &str) -> One<'a> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => One::Absent,
        (Some(value), None) => value.to_str().map_or(One::Unusable, One::Is),
        _ => One::Unusable,
    }
}
