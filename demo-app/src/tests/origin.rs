//! Who may send unsafe requests.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, Method, Request, StatusCode, Uri};

use super::client::Cluster;
use crate::origin::allowed;

const HOST: (&str, &str) = ("host", "demo.test:8080");

fn pass(method: Method, headers: &[(&str, &str)]) -> bool {
    let pairs = headers.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()));
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(name, value);
    }
    allowed(&method, &Uri::from_static("/login"), &map)
}

#[test]
fn safe_methods_pass_from_anywhere() {
    for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE] {
        assert!(pass(method, &[HOST, ("sec-fetch-site", "cross-site"), ("origin", "https://evil.test")]));
    }
}

#[test]
fn unsafe_methods_pass_from_this_origin_and_from_no_browser() {
    let table: &[(bool, &[(&str, &str)])] = &[
        // curl
        (true, &[HOST]),
        // browsers that say where a request comes from
        (true, &[HOST, ("sec-fetch-site", "same-origin")]),
        (true, &[HOST, ("sec-fetch-site", "none")]),
        (true, &[HOST, ("sec-fetch-site", "same-origin"), ("origin", "null")]),
        (false, &[HOST, ("sec-fetch-site", "same-site")]),
        (false, &[HOST, ("sec-fetch-site", "cross-site")]),
        (false, &[HOST, ("sec-fetch-site", "")]),
        (false, &[HOST, ("sec-fetch-site", "same-site"), ("origin", "http://demo.test:9090")]),
        (false, &[HOST, ("sec-fetch-site", "cross-site"), ("origin", "https://evil.test")]),
        (false, &[HOST, ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")]),
        // browsers that do not: plain HTTP on another machine, or old ones
        (true, &[HOST, ("origin", "http://demo.test:8080")]),
        (true, &[HOST, ("origin", "http://DEMO.test:8080")]),
        (true, &[("host", "demo.test"), ("origin", "http://demo.test")]),
        (true, &[("host", "demo.test:80"), ("origin", "http://demo.test")]),
        (true, &[("host", "[::1]:8080"), ("origin", "http://[::1]:8080")]),
        (false, &[HOST, ("origin", "http://demo.test")]),
        (false, &[HOST, ("origin", "http://demo.test:8081")]),
        (false, &[HOST, ("origin", "http://demo.test:")]),
        (false, &[HOST, ("origin", "https://demo.test:8080")]),
        (false, &[HOST, ("origin", "http://evil.test:8080")]),
        (false, &[HOST, ("origin", "http://demo.test.evil.test:8080")]),
        (false, &[HOST, ("origin", "null")]),
        (false, &[HOST, ("origin", "")]),
        (false, &[HOST, ("origin", "demo.test:8080")]),
        (false, &[HOST, ("origin", "ftp://demo.test:8080")]),
        (false, &[HOST, ("origin", "http://demo.test:8080"), ("origin", "https://evil.test")]),
        (false, &[("origin", "http://demo.test:8080")]),
        // behind a proxy
        (true, &[("host", "app1:8080"), ("x-forwarded-host", "demo.test"), ("origin", "http://demo.test")]),
        (true, &[("host", "demo.test"), ("x-forwarded-proto", "https"), ("origin", "https://demo.test")]),
        (true, &[("host", "demo.test:443"), ("x-forwarded-proto", "https"), ("origin", "https://demo.test")]),
        (false, &[("host", "demo.test"), ("x-forwarded-proto", "https"), ("origin", "http://demo.test")]),
        (false, &[("host", "demo.test"), ("x-forwarded-host", "other.test"), ("origin", "http://demo.test")]),
    ];
    for (expected, headers) in table {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            assert_eq!(pass(method, headers), *expected, "{headers:?}");
        }
    }
}

#[tokio::test]
async fn a_request_from_another_site_changes_nothing() {
    let mut browser = Cluster::new().browser();
    browser.api(Method::PUT, "/api/session/attributes/colour", "\"green\"").await.with_status(StatusCode::NO_CONTENT);
    let requests = [
        ("PUT", "/api/session/attributes/colour"),
        ("DELETE", "/api/session/attributes/colour"),
        ("POST", "/api/session/attributes/colour/increment"),
        ("POST", "/attributes"),
        ("POST", "/attributes/remove"),
        ("POST", "/login"),
        ("POST", "/logout"),
    ];
    for (method, path) in requests {
        let request = Request::builder().method(method).uri(path).header("sec-fetch-site", "cross-site");
        let answer = browser.send(request.body(Body::from("1")).unwrap()).await.with_status(StatusCode::FORBIDDEN);
        assert_eq!(answer.set_cookie(), None, "{method} {path}");
    }
    assert_eq!(browser.session().await["attributes"]["colour"], "green");
}
