use std::time::Duration;

use bytes::Bytes;
use cluster_tests::browser::{Answer, Browser, COOKIE, Site};
use cluster_tests::cluster::{self, Cluster, redis_key};
use cluster_tests::docker::Container;
use cluster_tests::raw::RawRequest;
use http::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

/// What a visitor with a session has.
struct Visitor {
    browser: Browser,
    cookie: String,
    id: String,
}

impl Visitor {
    async fn new(site: Site) -> Self {
        let browser = Browser::new();
        assert_eq!(browser.put(site, "basket", r#"["tea"]"#).await.status, 204);
        let cookie = browser.session_cookie().expect("a first write starts a session");
        let id = browser.session(site).await["session_id"].as_str().expect("there is a session").to_owned();
        Self { browser, cookie, id }
    }
}

/// Sends `Cookie` lines as they are, bytes that no library would send included, and returns what session was found. `None`: the
/// request was refused with a 4xx.
async fn session_behind(site: Site, cookies: &[Vec<u8>]) -> Option<Value> {
    let mut head = b"GET /api/session HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n".to_vec();
    for line in cookies {
        head.extend([b"Cookie: ", &line[..], b"\r\n"].concat());
    }
    let answer = RawRequest::start(site.port, [head, b"\r\n".to_vec()].concat()).await.answer().await?;
    assert_eq!(answer.set_cookie(), None, "a request that only reads neither gives nor removes a cookie: {answer:?}");
    match answer.status.as_u16() {
        200 => Some(answer.json()["session_id"].clone()),
        400..500 => None,
        _ => panic!("{answer:?}"),
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Expected {
    TheSession,
    Nobody,
    Refused,
}
use Expected::{Nobody, Refused, TheSession};

#[tokio::test(flavor = "multi_thread")]
async fn whatever_stands_in_the_cookie_the_answer_is_the_session_or_nobodys() {
    let cluster = cluster::shared().await;
    let [node, _] = cluster.nodes();
    let visitor = Visitor::new(node).await;
    let good = format!("{COOKIE}={}", visitor.cookie);
    let forged = format!("{COOKIE}={}", forge(&visitor.cookie));
    let junk = |count: usize| format!("{COOKIE}=x{count}; ").repeat(count);
    let table: Vec<(&str, Vec<Vec<u8>>, Expected)> = vec![
        ("the good one", vec![good.clone().into()], TheSession),
        ("none", vec![], Nobody),
        ("an empty line", vec![vec![]], Nobody),
        ("a name alone", vec![COOKIE.into()], Nobody),
        ("no value", vec![format!("{COOKIE}=").into()], Nobody),
        ("another's format", vec![format!("{COOKIE}=0b5c2c1e-7a1c-4a65-8f4e-1f5f3c6f8a11").into()], Nobody),
        ("the ID alone", vec![format!("{COOKIE}={}", visitor.id).into()], Nobody),
        ("forged", vec![forged.clone().into()], Nobody),
        ("cut", vec![good[..good.len() - 1].into()], Nobody),
        ("one more", vec![format!("{good}A").into()], Nobody),
        ("another name", vec![good.replacen(COOKIE, "Session", 1).into()], Nobody),
        ("quoted", vec![format!("{COOKIE}=\"{}\"", visitor.cookie).into()], TheSession),
        ("no UTF-8", vec![[format!("{COOKIE}=").as_bytes(), b"\xff\xfe\x80"].concat()], Nobody),
        ("a stray non-ASCII cookie", vec![format!("name=J\u{fc}rgen; {good}; x=\u{4e16}").into()], TheSession),
        ("a stray cookie of no encoding", vec![[b"a=\xff\xe9; ", good.as_bytes(), b"; b=\x80"].concat()], TheSession),
        ("100 of our name before", vec![format!("{}{good}", junk(100)).into()], TheSession),
        ("100 of our name after", vec![format!("{good}; {}", junk(100)).into()], TheSession),
        ("100 before and after", vec![format!("{}{good}; {}", junk(100), junk(100)).into()], TheSession),
        ("a forged one before", vec![format!("{forged}; {good}").into()], TheSession),
        ("100 forged ones before", vec![format!("{}{good}", format!("{forged}; ").repeat(100)).into()], Nobody),
        ("several lines", vec![b"a=b".to_vec(), forged.clone().into(), good.clone().into()], TheSession),
        ("odd signs", vec![format!(";;=; =x;\t; ,{COOKIE}=1; {good};").into()], TheSession),
        ("8 KiB", vec![format!("{COOKIE}={}", "A".repeat(8 << 10)).into()], Nobody),
        ("8 KiB beside the good one", vec![format!("big={}; {good}", "A".repeat(8 << 10)).into()], TheSession),
        ("a NUL", vec![format!("{COOKIE}=\0; {good}").into()], Refused),
        ("1 MiB", vec![format!("{COOKIE}={}", "A".repeat(1 << 20)).into()], Refused),
    ];
    for (what, cookies, expected) in &table {
        // nginx refuses what no node would, and otherwise changes nothing.
        for site in cluster.nodes().into_iter().chain([cluster.nginx()]) {
            let found = match session_behind(site, cookies).await {
                Some(Value::Null) => Nobody,
                Some(id) if id == visitor.id.as_str() => TheSession,
                Some(id) => panic!("{what}: somebody else's session {id}"),
                None => Refused,
            };
            assert_eq!(found, *expected, "{what} at port {}", site.port);
        }
    }
    // All this did the session no harm.
    assert_eq!(visitor.browser.session(node).await["attributes"], json!({ "basket": ["tea"] }));
    cluster.no_node_panicked().await;
}

/// Another last byte of the ID, under the same signature.
fn forge(cookie: &str) -> String {
    let mut bytes = cookie.as_bytes().to_vec();
    bytes[20] = if bytes[20] == b'A' { b'B' } else { b'A' };
    String::from_utf8(bytes).expect("it is base64")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_or_expired_cookie_does_not_keep_anybody_from_writing_or_logging_in() {
    let cluster = cluster::shared().await;
    let [node, other] = cluster.nodes();
    let expired = Visitor::new(node).await;
    assert_eq!(cluster.redis(&["pexpire", &redis_key(&expired.id), "1"]).await, "1");
    sleep(Duration::from_millis(2)).await;
    for cookie in [forge(&expired.cookie), "x".repeat(8 << 10), expired.cookie] {
        for write in [true, false] {
            let browser = Browser::new();
            browser.set_session_cookie(&cookie);
            if write {
                let answer = browser.put(node, "basket", "1").await;
                assert_eq!(answer.status, 204, "{answer:?}");
                assert!(answer.set_cookie().is_some(), "a fresh visitor: {answer:?}");
            }
            browser.log_in_as_alice(other).await;
            let session = browser.session(node).await;
            assert_eq!(session["account"], "alice");
            assert_ne!(session["session_id"], expired.id.as_str());
            assert_eq!(session["attributes"], if write { json!({ "basket": 1 }) } else { json!({}) });
        }
    }
}

/// Method, path, content type, body, and the statuses that are right.
type BadRequest = (Method, String, &'static str, Vec<u8>, &'static [u16]);

async fn send(site: Site, browser: &Browser, method: Method, path: &str, kind: &str, body: impl Into<Bytes>) -> Answer {
    let headers: &[_] = if kind.is_empty() { &[] } else { &[("content-type", kind)] };
    browser.send(site, method, path, headers, body.into()).await.unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_told_so_and_change_nothing() {
    const FORM: &str = "application/x-www-form-urlencoded";
    let cluster = cluster::shared().await;
    let [node, _] = cluster.nodes();
    let visitor = Visitor::new(node).await;
    let at = |name: &str| format!("/api/session/attributes/{name}");
    let long = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
    let table: Vec<BadRequest> = vec![
        (Method::PUT, at("a"), "", b"".to_vec(), &[422]),
        (Method::PUT, at("a"), "", b"{".to_vec(), &[422]),
        (Method::PUT, at("a"), "application/json", b"[1,]".to_vec(), &[422]),
        (Method::PUT, at("a"), "text/plain", b"not json".to_vec(), &[422]),
        (Method::PUT, at("a"), "", b"1 2".to_vec(), &[422]),
        (Method::PUT, at("a"), "", b"\"\xff\"".to_vec(), &[422]),
        (Method::PUT, at("a"), "", b"\0".to_vec(), &[422]),
        (Method::PUT, at("a"), "", "[".repeat(10_000).into(), &[422]),
        (Method::PUT, at("a"), "", long((64 << 10) + 1).into(), &[413]),
        (Method::PUT, at("a"), "", long(1 << 20).into(), &[413]),
        (Method::PUT, at("a"), "", long(3 << 20).into(), &[413]),
        (Method::PUT, at(""), "", b"1".to_vec(), &[404]),
        (Method::PUT, at("a/b"), "", b"1".to_vec(), &[404, 405]),
        (Method::PUT, at("@c"), "", b"1".to_vec(), &[422]),
        (Method::PUT, at("%40v"), "", b"1".to_vec(), &[422]),
        (Method::PUT, at("%00"), "", b"1".to_vec(), &[400, 422]),
        (Method::PUT, at("%0a"), "", b"1".to_vec(), &[422]),
        (Method::PUT, at("%ff"), "", b"1".to_vec(), &[422]),
        (Method::PUT, at(&"n".repeat(300)), "", b"1".to_vec(), &[422]),
        (Method::PUT, at(&"n".repeat(60_000)), "", b"1".to_vec(), &[414, 422]),
        (Method::DELETE, at("nothing"), "", b"".to_vec(), &[404]),
        (Method::DELETE, at("@c"), "", b"".to_vec(), &[404, 422]),
        (Method::POST, at("@v/increment"), "", b"".to_vec(), &[422]),
        (Method::POST, at("basket/increment"), "", b"".to_vec(), &[409]),
        (Method::POST, "/login".into(), "", b"".to_vec(), &[415]),
        (Method::POST, "/login".into(), "application/json", b"{}".to_vec(), &[415]),
        (Method::POST, "/login".into(), FORM, b"".to_vec(), &[422]),
        (Method::POST, "/login".into(), FORM, b"username=alice".to_vec(), &[422]),
        (Method::POST, "/login".into(), FORM, b"username=%ff&password=%00".to_vec(), &[401, 422]),
        (Method::POST, "/login".into(), FORM, [b"username=alice&password=", &[b'x'; 1 << 19][..]].concat(), &[413]),
        (Method::POST, "/attributes".into(), FORM, b"name=%40c&value=1".to_vec(), &[422]),
        (Method::POST, "/attributes".into(), FORM, b"value=1".to_vec(), &[422]),
        (Method::PATCH, at("a"), "", b"1".to_vec(), &[405]),
        (Method::GET, "/nowhere".into(), "", b"".to_vec(), &[404]),
        (Method::GET, "/%".into(), "", b"".to_vec(), &[400, 404]),
    ];
    for (method, path, kind, body, expected) in table {
        for site in [node, cluster.nginx()] {
            let answer = send(site, &visitor.browser, method.clone(), &path, kind, body.clone()).await;
            let shown = format!("{method} {} at port {}", &path[..path.len().min(80)], site.port);
            assert!(expected.contains(&answer.status.as_u16()), "{shown}: {answer:?}, not {expected:?}");
            assert_eq!(answer.set_cookie(), None, "{shown}");
        }
    }
    assert_eq!(visitor.browser.session(node).await["attributes"], json!({ "basket": ["tea"] }));
    visitor.browser.log_in_as_alice(node).await;
    cluster.no_node_panicked().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_full_says_so_and_stays_as_it_was() {
    let cluster = cluster::shared().await;
    let [node, other] = cluster.nodes();
    let many = Visitor::new(node).await;
    for n in 1..256 {
        assert_eq!(many.browser.put(node, &format!("a{n}"), "1").await.status, 204, "attribute {n}");
    }
    assert_eq!(many.browser.put(other, "one-too-many", "1").await.status, 413);
    assert_eq!(many.browser.increment(other, "one-too-many").await.status, 413);
    assert_eq!(many.browser.put(other, "a1", "2").await.status, 204, "one that is there can be replaced");
    assert_eq!(many.browser.session(node).await["attributes"].as_object().map(|all| all.len()), Some(256));

    let large = Visitor::new(node).await;
    let value = format!("\"{}\"", "x".repeat(60_000));
    for n in 0..4 {
        assert_eq!(large.browser.put(node, &format!("a{n}"), value.clone()).await.status, 204);
    }
    assert_eq!(large.browser.put(other, "a4", value).await.status, 413);
    for visitor in [many, large] {
        visitor.browser.log_in_as_alice(other).await;
        assert_eq!(visitor.browser.session(node).await["attributes"]["basket"], json!(["tea"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_refused_unread_does_not_cost_the_answer() {
    let cluster = cluster::shared().await;
    let evil = ("origin", "https://evil.example");
    let form = ("content-type", "application/x-www-form-urlencoded");
    // Refused for its origin, for its method, for its type; the larger ones for their size alone.
    let table = [("/login", evil, 403), ("/livez", form, 405), ("/login", ("accept", "*/*"), 415)];
    for size in [200 << 10, 300 << 10, 1900 << 10] {
        for (path, header, expected) in table {
            for site in cluster.nodes().into_iter().chain([cluster.nginx()]).cycle().take(12) {
                let body = Bytes::from(vec![b'x'; size]);
                let answer = Browser::new().send(site, Method::POST, path, &[header], body).await;
                let status = answer.map(|answer| answer.status.as_u16());
                let right = status == Ok(expected) || size > 256 << 10 && status == Ok(413);
                assert!(right, "{} KiB to {path} at port {}: {status:?}, not {expected}", size >> 10, site.port);
            }
        }
    }
}

/// Spoils a stored session, then does all that a visitor does with it; login must work whatever was there.
async fn spoilt(cluster: &Cluster, master: &Container, what: &str, commands: &[&[&str]]) {
    let [node, other] = cluster.nodes();
    for first in ["page", "api", "put", "increment", "delete", "logout", "login"] {
        let visitor = Visitor::new(node).await;
        visitor.browser.increment(node, "hits").await;
        let key = redis_key(&visitor.id);
        for command in commands {
            let command: Vec<_> = command.iter().map(|word| if *word == "KEY" { &*key } else { word }).collect();
            master.redis_cli(&command).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        let browser = &visitor.browser;
        let answer = match first {
            "page" => browser.get(node, "/").await,
            "api" => browser.get(node, "/api/session").await,
            "put" => browser.put(node, "basket", "1").await,
            "increment" => browser.increment(node, "hits").await,
            "delete" => browser.delete(node, "basket").await,
            "logout" => browser.log_out(node).await,
            _ => browser.log_in(node, "alice", "wonderland").await,
        };
        assert!(answer.status.as_u16() < 500, "{what}, {first}: {answer:?}");
        for site in [node, other] {
            for path in ["/", "/api/session"] {
                let answer = browser.get(site, path).await;
                assert_eq!(answer.status, 200, "{what}, {first}, then {path}: {answer:?}");
            }
        }
        browser.log_in_as_alice(other).await;
        assert_eq!(browser.session(node).await["account"], "alice", "{what}, {first}, then a login");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_wrote_into_redis_spoils_that_session_at_most_and_never_locks_its_user_out() {
    let cluster = cluster::shared().await;
    let table: &[(&str, &[&[&str]])] = &[
        ("another type: text", &[&["set", "KEY", "x", "ex", "100"]]),
        ("another type: list", &[&["del", "KEY"], &["rpush", "KEY", "x"], &["expire", "KEY", "100"]]),
        ("no time to live", &[&["persist", "KEY"]]),
        ("no created field", &[&["hdel", "KEY", "@c"]]),
        ("no version", &[&["hdel", "KEY", "@v"]]),
        ("no idle timeout", &[&["hdel", "KEY", "@i"]]),
        ("no size", &[&["hdel", "KEY", "@s"]]),
        ("created: empty", &[&["hset", "KEY", "@c", ""]]),
        ("created: far too large", &[&["hset", "KEY", "@c", "99999999999999999999"]]),
        ("version: not a number", &[&["hset", "KEY", "@v", "1x"]]),
        ("idle timeout: negative", &[&["hset", "KEY", "@i", "-1"]]),
        ("idle timeout: none", &[&["hset", "KEY", "@i", "0"]]),
        ("absolute timeout: not a number", &[&["hset", "KEY", "@i", "1800000 soon"]]),
        ("no time of its start", &[&["hdel", "KEY", "@b"]]),
        ("time of its start: not a number", &[&["hset", "KEY", "@b", "today"]]),
        ("size: not a number", &[&["hset", "KEY", "@s", "{}"]]),
        ("a tombstone's field beside the others", &[&["hset", "KEY", "@t", "x"]]),
        ("a tombstone that leads nowhere", &[&["del", "KEY"], &["hset", "KEY", "@t", "x"], &["expire", "KEY", "100"]]),
        ("an unknown reserved field", &[&["hset", "KEY", "@z", "from a newer version"]]),
        ("nobody's name", &[&["hset", "KEY", "@p", ""]]),
        ("an attribute cut in the middle", &[&["hset", "KEY", "basket", r#"["te"#]]),
        ("attributes that are no JSON", &[&["hset", "KEY", "basket", "\u{1}", "hits", "many", "visits", "none"]]),
        (
            "an attribute of no encoding",
            &[&["eval", r"return redis.call('HSET', KEYS[1], 'basket', '\255\254')", "1", "KEY"]],
        ),
        ("a name of no encoding", &[&["eval", r"return redis.call('HSET', KEYS[1], '\255\254', '1')", "1", "KEY"]]),
        ("counters of another kind", &[&["hset", "KEY", "hits", "1.5", "visits", "99999999999999999999"]]),
        ("page state of another kind", &[&["hset", "KEY", "visits", "{}", "recent_servers", "7"]]),
        (
            "nothing but a field of somebody else",
            &[&["del", "KEY"], &["hset", "KEY", "a", "b"], &["expire", "KEY", "100"]],
        ),
    ];
    let master = cluster.container(cluster.master().await.expect("a healthy cluster has a master"));
    for (what, commands) in table {
        spoilt(&cluster, master, what, commands).await;
    }
    cluster.no_node_panicked().await;
}
