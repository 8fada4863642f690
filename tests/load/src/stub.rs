//! The visitors against a small server in this process, which can be made to do what no server should: each mistake must be
//! found.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::browser::{COOKIE, Site};
use crate::driver::{Load, Plan, lock};
use crate::report::Report;
use crate::visitors::{Findings, Visitors};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    None,
    /// A logout is answered, and its session lives on.
    LogoutForgotten,
    /// A login is answered, and its session does not last.
    LoginForgotten,
    /// Somebody sees somebody else's session.
    UsersMixed,
    /// An increment counts twice.
    CountedTwice,
    /// A write is acknowledged, and not stored.
    WriteForgotten,
    /// 503, whether or not it took effect: honest, but failed.
    Unavailable,
    /// A page is counted once more, as by a proxy that sends a `GET` again.
    VisitRepeated,
}

#[derive(Debug, Clone, Default)]
struct Session {
    account: Option<String>,
    visits: i64,
    attributes: BTreeMap<String, Value>,
}

struct Server {
    mistake: Mistake,
    sessions: Mutex<HashMap<String, Session>>,
    numbers: Mutex<HashMap<&'static str, u64>>,
}

type Shared = State<Arc<Server>>;
type SetCookie = [(HeaderName, String); 1];

impl Server {
    /// A number that was not given before under this name.
    fn next(&self, of: &'static str) -> u64 {
        let mut numbers = lock(&self.numbers);
        let number = numbers.entry(of).or_default();
        *number += 1;
        *number
    }

    /// Whether the mistake is made now: the first time, and every seventh from there on.
    fn errs(&self, mistake: Mistake) -> bool {
        self.mistake == mistake && self.next("chances") % 7 == 1
    }

    /// Changes the session of this cookie, or a new one.
    fn change<T>(&self, headers: &HeaderMap, change: impl FnOnce(&mut Session) -> T) -> (T, Option<SetCookie>) {
        let mut sessions = lock(&self.sessions);
        if let Some(session) = cookie(headers).and_then(|cookie| sessions.get_mut(&cookie)) {
            return (change(session), None);
        }
        let fresh = format!("id{}", self.next("IDs"));
        let session = sessions.entry(fresh.clone()).or_default();
        (change(session), Some(set_cookie(&fresh, "")))
    }
}

fn cookie(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get(header::COOKIE)?.to_str().ok()?;
    Some(cookies.split("; ").find_map(|pair| pair.strip_prefix(COOKIE)?.strip_prefix('='))?.to_owned())
}

fn set_cookie(value: &str, attributes: &str) -> SetCookie {
    [(header::SET_COOKIE, format!("{COOKIE}={value}; Path=/{attributes}"))]
}

async fn read(State(server): Shared, headers: HeaderMap) -> Json<Value> {
    let sessions = lock(&server.sessions);
    let mut id = cookie(&headers).filter(|cookie| sessions.contains_key(cookie));
    if id.is_some() && server.errs(Mistake::UsersMixed) {
        id = sessions.keys().find(|other| Some(*other) != id.as_ref()).cloned();
    }
    let session = id.as_ref().map(|id| sessions[id].clone()).unwrap_or_default();
    let created_on = id.as_ref().map(|_| "today");
    Json(json!({
        "session_id": id, "created_on": created_on, "account": session.account, "visits": session.visits,
        "attributes": session.attributes,
    }))
}

async fn page(State(server): Shared, headers: HeaderMap) -> Response {
    let times = 1 + i64::from(server.errs(Mistake::VisitRepeated));
    let (session, set) = server.change(&headers, |session| {
        session.visits += times;
        session.clone()
    });
    let id = set
        .as_ref()
        .map_or_else(|| cookie(&headers), |[(_, set)]| Some(set.split(['=', ';']).nth(1).expect("a value").to_owned()));
    let (id, visits) = (id.expect("there is a session"), session.visits);
    let account = session.account.map(|account| format!(r#"<b id="account-name">{account}</b>"#)).unwrap_or_default();
    let html = format!(r#"<td id="session-id"><code>{id}</code></td><b id="visits">{visits}</b>{account}"#);
    (set, Html(html)).into_response()
}

async fn set(State(server): Shared, Path(name): Path<String>, headers: HeaderMap, body: String) -> Response {
    let forgets = server.errs(Mistake::WriteForgotten);
    let value = serde_json::from_str(&body).expect("visitors send JSON");
    let ((), set) = server.change(&headers, |session| {
        if !forgets {
            session.attributes.insert(name, value);
        }
    });
    (StatusCode::NO_CONTENT, set, ()).into_response()
}

async fn remove(State(server): Shared, Path(name): Path<String>, headers: HeaderMap) -> StatusCode {
    let (removed, _) = server.change(&headers, |session| session.attributes.remove(&name));
    if removed.is_some() { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }
}

async fn increment(State(server): Shared, Path(name): Path<String>, headers: HeaderMap) -> Response {
    let by = 1 + i64::from(server.errs(Mistake::CountedTwice));
    let (value, set) = server.change(&headers, |session| {
        let value = session.attributes.get(&name).and_then(Value::as_i64).unwrap_or(0) + by;
        session.attributes.insert(name, value.into());
        value
    });
    (set, Json(json!({ "value": value }))).into_response()
}

async fn log_in(State(server): Shared, headers: HeaderMap, form: String) -> (StatusCode, SetCookie) {
    let account = form.split(['=', '&']).nth(1).expect("a name").to_owned();
    let fresh = format!("id{}", server.next("IDs"));
    let forgets = server.errs(Mistake::LoginForgotten);
    let mut sessions = lock(&server.sessions);
    let mut session = cookie(&headers).and_then(|cookie| sessions.remove(&cookie)).unwrap_or_default();
    session.account = Some(account);
    if !forgets {
        sessions.insert(fresh.clone(), session);
    }
    (StatusCode::SEE_OTHER, set_cookie(&fresh, ""))
}

async fn log_out(State(server): Shared, headers: HeaderMap) -> (StatusCode, SetCookie) {
    if !server.errs(Mistake::LogoutForgotten) {
        lock(&server.sessions).remove(&cookie(&headers).expect("visitors who log out are logged in"));
    }
    (StatusCode::SEE_OTHER, set_cookie("", "; Max-Age=0"))
}

async fn unavailable(State(server): Shared, request: Request, next: Next) -> Response {
    // Visitors arrive and are looked at in good times.
    let may_fail = server.next("requests") > ARRIVALS && request.uri() != "/api/session";
    let (before, after) =
        (may_fail && server.errs(Mistake::Unavailable), may_fail && server.errs(Mistake::Unavailable));
    if before {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let answer = next.run(request).await;
    if after { StatusCode::SERVICE_UNAVAILABLE.into_response() } else { answer }
}

const RATE: u32 = 150;
/// Each visitor's first request, and the logins of half of those who come first.
const ARRIVALS: u64 = 8 * RATE as u64 + RATE as u64 / 2;

async fn run(mistake: Mistake) -> (Report, Findings) {
    let server = Arc::new(Server { mistake, sessions: Mutex::default(), numbers: Mutex::default() });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let site = Site { port: listener.local_addr().unwrap().port() };
    let router = Router::new()
        .route("/", get(page))
        .route("/api/session", get(read))
        .route("/api/session/attributes/{name}", put(set).delete(remove))
        .route("/api/session/attributes/{name}/increment", post(increment))
        .route("/login", post(log_in))
        .route("/logout", post(log_out))
        .layer(from_fn_with_state(Arc::clone(&server), unavailable))
        .with_state(server);
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let visitors = Visitors::with_rest(site, RATE, 7, Duration::from_millis(100)).await.unwrap();
    let report = Load::start(Plan { rate: RATE, at_most: Duration::from_secs(4) }, visitors.clone()).finish().await;
    let findings = visitors.verify().await;
    serving.abort();
    println!("{mistake:?}\n{report}{findings}");
    assert_eq!(findings.verified, visitors.population() as u64);
    assert!(report.sent_share() > 0.95, "{report}");
    if mistake != Mistake::Unavailable {
        assert_eq!(report.failed(), 0, "{report}");
    }
    (report, findings)
}

#[tokio::test]
async fn a_server_that_does_as_it_says_passes() {
    let (report, findings) = run(Mistake::None).await;
    assert!(findings.are_good() && findings.lost.count == 0, "{findings}");
    assert_eq!((findings.doubts, findings.repeated, findings.resurrected), (0, 0, 0));
    assert!(findings.logins > 75 && findings.logouts > 0 && findings.tried > 80, "{findings}");
    // The mix is what it should be, roughly.
    let sent = report.total_sent() as f64;
    let share = |prefix: &str| {
        let kinds = report.kinds.iter().filter(|(kind, _)| kind.starts_with(prefix));
        kinds.map(|(_, kind)| kind.sent as f64).sum::<f64>() / sent
    };
    assert!((share("GET") - 0.70).abs() < 0.06, "{report}");
    assert!((share("POST /log") - 0.05).abs() < 0.03, "{report}");
}

#[tokio::test]
async fn a_logout_that_does_not_last_is_found() {
    let (_, findings) = run(Mistake::LogoutForgotten).await;
    assert!(findings.resurrected > 0 && findings.lost_durable.count == findings.resurrected, "{findings}");
}

#[tokio::test]
async fn a_login_that_does_not_last_is_found() {
    // From the beginning: half of those who come first log in. Some log out before they could have noticed.
    assert!(run(Mistake::LoginForgotten).await.1.lost_durable.count > 5);
}

#[tokio::test]
async fn somebody_elses_session_is_found() {
    assert!(run(Mistake::UsersMixed).await.1.wrong.count > 10);
}

#[tokio::test]
async fn an_increment_that_counts_twice_is_found() {
    assert!(run(Mistake::CountedTwice).await.1.wrong.count > 3);
}

#[tokio::test]
async fn an_acknowledged_write_that_is_not_there_is_counted() {
    let (_, findings) = run(Mistake::WriteForgotten).await;
    // A seventh of those who came with a note have none.
    assert!(findings.lost.count >= u64::from(RATE), "{findings}");
    assert_eq!(findings.wrong.count, 0, "{findings}");
}

#[tokio::test]
async fn requests_that_may_or_may_not_have_taken_effect_are_failed_and_nothing_more() {
    let (report, findings) = run(Mistake::Unavailable).await;
    assert!(report.failed() > 10 && findings.doubts > 5, "{report}{findings}");
    assert!(findings.are_good() && findings.lost.count == 0, "{findings}");
}

#[tokio::test]
async fn a_get_that_a_proxy_sent_again_is_told_apart_from_a_mistake() {
    let (_, findings) = run(Mistake::VisitRepeated).await;
    assert!(findings.repeated > 0 && findings.are_good(), "{findings}");
}
