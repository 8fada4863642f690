//! What nginx does for `/compare/sticky/`, for the embedded cluster's front: the same visitor, the same node.
//!
//! By a cookie of the front's own. The session's cookie would not do: a visitor without one must be sent somewhere, and the
//! session that is started there would then be looked for where the hash of its new cookie points; a login, which changes it,
//! would lose the way again.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::extract::Request;
use axum::http::{HeaderValue, header};

use crate::compare::Scheme;

const COOKIE: &str = "compare_route";

/// For a request of the sticky scheme: its visitor's place, and the cookie that a new one gets.
pub(crate) fn place(request: &Request) -> Option<(usize, Option<HeaderValue>)> {
    if !request.uri().path().starts_with(&Scheme::Sticky.path()) {
        return None;
    }
    let cookies = request.headers().get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let known = cookies
        .flat_map(|value| value.split(';'))
        .find_map(|cookie| cookie.trim().strip_prefix(COOKIE)?.strip_prefix('='));
    Some(match known {
        Some(visitor) => (hash(visitor), None),
        None => {
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes).expect("the operating system has random numbers");
            let visitor = format!("{:016x}", u64::from_be_bytes(bytes));
            let cookie = format!("{COOKIE}={visitor}; Path={}; HttpOnly; SameSite=Lax", Scheme::Sticky.path());
            (hash(&visitor), Some(HeaderValue::from_str(&cookie).expect("it is ASCII")))
        }
    })
}

fn hash(visitor: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    visitor.hash(&mut hasher);
    hasher.finish() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str, cookie: &str) -> Request {
        let request = axum::http::Request::builder().uri(path).header(header::COOKIE, cookie);
        request.body(axum::body::Body::empty()).unwrap()
    }

    #[test]
    fn a_visitor_keeps_the_place_of_the_first_request_whatever_other_cookies_come() {
        let (place, cookie) = super::place(&request("/compare/sticky/", "session=x")).unwrap();
        let cookie = cookie.expect("a new visitor gets a cookie").to_str().unwrap().to_owned();
        let (pair, attributes) = cookie.split_once(';').unwrap();
        assert_eq!(attributes, " Path=/compare/sticky/; HttpOnly; SameSite=Lax");
        for cookies in [pair.to_owned(), format!("a=b; {pair}; compare_sticky=y"), format!("compare_routes=z; {pair}")]
        {
            assert_eq!(super::place(&request("/compare/sticky/state", &cookies)), Some((place, None)), "{cookies}");
        }
    }

    #[test]
    fn everybody_else_takes_turns() {
        for path in ["/", "/compare", "/compare/none/", "/compare/shared/login"] {
            assert_eq!(super::place(&request(path, "compare_route=1")), None, "{path}");
        }
    }
}
