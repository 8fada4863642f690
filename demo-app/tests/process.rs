//! The binary itself, over real loopback ports: the embedded cluster, one node, the health check, errors at start.

use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Frame;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SETTINGS: [&str; 16] = [
    "LISTEN",
    "SERVER_NAME",
    "REDIS_URL",
    "PEERS",
    "SESSION_SECRET",
    "SESSION_SECRET_FILE",
    "SESSION_ACCEPTED_SECRETS",
    "SESSION_IDLE_TIMEOUT_SECS",
    "SESSION_ABSOLUTE_TIMEOUT_SECS",
    "SESSION_DEVELOPMENT",
    "SESSION_REPLICA_READS",
    "SESSION_NEAR_CACHE",
    "SESSION_ROLLBACK_DETECTION",
    "LOG_FORMAT",
    "RUST_LOG",
    "NO_COLOR",
];

const NODE: [(&str, &str); 4] = [
    ("LISTEN", "127.0.0.1:0"),
    ("REDIS_URL", "memory:"),
    ("SESSION_DEVELOPMENT", "on"),
    ("SESSION_SECRET", "a secret for the tests, 32 bytes or more"),
];

fn command(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo-app"));
    command.args(arguments);
    for setting in SETTINGS {
        // Not those of whoever runs the tests.
        command.env_remove(setting);
    }
    command.envs(variables.iter().copied());
    command
}

/// Runs it to its end.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    command(arguments, variables).output().expect("the binary runs")
}

/// A running demo-app; killed when dropped, also by a panic.
struct Server {
    child: Child,
    address: SocketAddr,
    lines: mpsc::Receiver<String>,
    /// What it said until it listened.
    first_lines: Vec<String>,
}

impl Server {
    /// Starts it and waits until it says where it listens.
    fn start(variables: &[(&str, &str)]) -> Self {
        let mut child = command(&[], variables).stdout(Stdio::piped()).spawn().expect("the binary starts");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut server = Self { child, address: ([127, 0, 0, 1], 0).into(), lines, first_lines: Vec::new() };
        server.first_lines = server.lines_until("listening on http://");
        let line = server.first_lines.last().expect("it said where");
        let (_, address) = line.split_once("listening on http://").unwrap();
        let end = address.find(|c: char| !c.is_ascii_digit() && !".:".contains(c)).unwrap_or(address.len());
        server.address = address[..end].parse().unwrap_or_else(|error| panic!("{error}: {line}"));
        server
    }

    fn embedded() -> Self {
        Self::start(&[("LISTEN", "127.0.0.1:0")])
    }

    fn wait_for(&self, text: &str) -> String {
        self.lines_until(text).pop().expect("the last one has the text")
    }

    /// Everything that it says until a line has this text, that line included.
    fn lines_until(&self, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line =
                self.lines.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| panic!("it never said {text:?}"));
            let is_last = line.contains(text);
            lines.push(line);
            if is_last {
                return lines;
            }
        }
    }

    fn terminate(&self) {
        self.signal("TERM");
    }

    fn signal(&self, name: &str) {
        let kill = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().expect("kill runs");
        assert!(kill.success());
    }

    /// Waits until it has ended by itself, in order.
    async fn ends(mut self) {
        let status = tokio::task::spawn_blocking(move || self.child.wait().unwrap()).await.unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that keeps the cookie and its connections.
struct Browser {
    client: Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>,
    address: SocketAddr,
    cookie: Option<String>,
}

struct Answer {
    status: StatusCode,
    server: String,
    body: String,
}

impl Browser {
    fn new(server: &Server) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { client, address: server.address, cookie: None }
    }

    async fn send(&mut self, method: Method, path: &str, body: &str) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header(header::ORIGIN, format!("http://{}", self.address))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let request = request.body(Full::from(body.to_owned())).unwrap();
        let response = self.client.request(request).await.expect("the server answers");
        if let Some(set) = response.headers().get(header::SET_COOKIE) {
            self.cookie = Some(set.to_str().unwrap().split(';').next().unwrap().to_owned());
        }
        let status = response.status();
        let server =
            response.headers().get("x-served-by").map(|name| name.to_str().unwrap().to_owned()).unwrap_or_default();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Answer { status, server, body: String::from_utf8(body.into()).unwrap() }
    }

    async fn get(&mut self, path: &str) -> Answer {
        let answer = self.send(Method::GET, path, "").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        answer
    }

    async fn session(&mut self) -> serde_json::Value {
        serde_json::from_str(&self.get("/api/session").await.body).unwrap()
    }
}

#[tokio::test]
async fn in_the_embedded_cluster_6_refreshes_alternate_between_two_nodes_and_keep_the_session() {
    let server = Server::embedded();
    let mut browser = Browser::new(&server);
    let mut sessions = Vec::new();
    for visit in 1..=6 {
        let page = browser.get("/").await;
        let name = if visit % 2 == 1 { "1111" } else { "2222" };
        assert_eq!(page.server, name);
        assert!(page.body.contains(&format!("This is server {name}")), "{}", page.body);
        assert!(page.body.contains(&format!("id=\"visits\">{visit}<")), "{}", page.body);
        assert!(
            !page.body.contains(&format!("port <code>{}</code>", server.address.port())),
            "the node's port, not the front's"
        );
        let (_, facts) = page.body.split_once("id=\"session-id\"").unwrap();
        sessions.push(facts.split_once("</table>").unwrap().0.to_owned());
    }
    sessions.dedup();
    assert_eq!(sessions.len(), 1, "{sessions:?}");
}

/// Two nodes with four session layers each are in one mode.
#[test]
fn the_embedded_cluster_starts_with_one_warning() {
    let server = Server::embedded();
    let warnings: Vec<_> = server.first_lines.iter().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert!(warnings[0].contains("development mode"), "{warnings:?}");
}

#[tokio::test]
async fn two_browsers_share_the_round_robin_and_static_files_take_no_turn() {
    let server = Server::embedded();
    let (mut one, mut two) = (Browser::new(&server), Browser::new(&server));
    for _ in 0..3 {
        assert_eq!(one.get("/").await.server, "1111");
        for file in ["/static/style.css", "/static/refresh.js", "/static/icon.svg"] {
            assert_eq!(two.get(file).await.server, "", "the front has it");
        }
        assert_eq!(two.get("/").await.server, "2222");
    }
}

#[tokio::test]
async fn in_the_embedded_cluster_a_login_holds_on_both_nodes() {
    let server = Server::embedded();
    let mut browser = Browser::new(&server);
    browser.get("/").await;
    let before = browser.session().await["session_id"].clone();
    let answer = browser.send(Method::POST, "/login", "username=alice&password=wonderland").await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.body);
    for _ in 0..20 {
        let session = browser.session().await;
        assert_eq!(session["account"], "alice");
        assert_ne!(session["session_id"], before);
    }
    assert_eq!(browser.send(Method::POST, "/logout", "").await.status, StatusCode::SEE_OTHER);
    assert!(browser.session().await["account"].is_null());
}

#[tokio::test]
async fn in_the_embedded_cluster_a_visitor_of_the_sticky_scheme_stays_on_one_node() {
    let server = Server::embedded();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..30 {
        let mut browser = Browser::new(&server);
        let first = browser.get("/compare/sticky/state").await.server;
        for _ in 0..4 {
            assert_eq!(browser.get("/compare/sticky/state").await.server, first);
        }
        seen.insert(first);
    }
    assert_eq!(seen.len(), 2, "visitors are spread over both");
}

#[tokio::test]
async fn the_embedded_clusters_dashboard_shows_both_nodes_and_says_that_there_is_no_redis() {
    let server = Server::embedded();
    let mut browser = Browser::new(&server);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let picture: serde_json::Value = serde_json::from_str(&browser.get("/api/cluster").await.body).expect("JSON");
        let nodes = picture["nodes"].as_array().cloned().unwrap_or_default();
        if nodes.iter().filter(|node| node["state"] == "ready").count() == 2 {
            assert_eq!((&nodes[0]["name"], &nodes[1]["name"]), (&"1111".into(), &"2222".into()));
            assert_eq!((&picture["front"], &picture["store"]), (&"front".into(), &"memory".into()));
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{picture:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let page = browser.get("/cluster").await.body;
    assert!(page.contains("There is no Redis here"), "{page}");
}

#[tokio::test]
async fn the_front_streams_bodies_to_the_node() {
    let server = Server::embedded();
    let mut browser = Browser::new(&server);
    browser.get("/").await;
    // The second half is sent only after somebody else was served: the front cannot have waited for it.
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::put(format!("http://{}/api/session/attributes/slow", server.address))
        .header(header::COOKIE, browser.cookie.clone().unwrap())
        .body(Frames(receiver))
        .unwrap();
    let put = tokio::spawn(client.request(request));
    sender.send(Bytes::from_static(b"\"first half, ")).await.unwrap();
    browser.get("/").await;
    sender.send(Bytes::from_static(b"second half\"")).await.unwrap();
    drop(sender);
    assert_eq!(put.await.unwrap().unwrap().status(), StatusCode::NO_CONTENT);
    assert_eq!(browser.session().await["attributes"]["slow"], "first half, second half");
}

/// A body whose pieces come when the test sends them.
struct Frames(tokio::sync::mpsc::Receiver<Bytes>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[tokio::test]
async fn forwarded_headers_of_a_client_count_for_nothing_at_the_front() {
    let server = Server::embedded();
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    // A page of another site that could forge these would pass the origin check.
    let head = format!(
        "POST /logout HTTP/1.1\r\nHost: {}\r\nOrigin: http://evil.test\r\nX-Forwarded-Host: evil.test\r\n\
         X-Forwarded-Proto: http\r\nConnection: close, x-forwarded-proto\r\nContent-Length: 0\r\n\r\n",
        server.address
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

#[test]
fn a_taken_port_is_named_and_so_is_the_way_to_another() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for variables in [&NODE[1..], &[]] {
        let output = run(&[], &[variables, &[("LISTEN", address.to_string().as_str())]].concat());
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        let port = address.port().to_string();
        assert!(error.contains(&format!("port {port} ")) && error.contains("LISTEN="), "{error}");
        assert!(!error.contains("panicked"), "{error}");
    }
}

#[test]
fn a_bad_setting_ends_the_program_with_a_sentence_that_names_it() {
    for (variable, value) in [
        ("LISTEN", "nowhere"),
        ("SESSION_SECRET", "short"),
        ("SESSION_ABSOLUTE_TIMEOUT_SECS", "1"),
        ("REDIS_URL", "redis-sentinel://nobody"),
        ("LOG_FORMAT", "xml"),
        ("RUST_LOG", "===="),
    ] {
        let output = run(&[], &[&NODE[..], &[(variable, value)]].concat());
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.starts_with(&format!("demo-app: {variable}: ")), "{error}");
    }
}

#[test]
fn what_it_does_not_know_is_answered_by_its_help() {
    let output = run(&["serve"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("demo-app healthcheck"));
    let help = String::from_utf8(run(&["--help"], &[]).stdout).unwrap();
    assert!(SETTINGS.iter().all(|setting| help.contains(setting)), "{help}");
}

#[tokio::test]
async fn the_health_check_tells_a_node_that_is_ready_from_one_that_is_not_there() {
    let server = Server::start(&NODE);
    let port = server.address.port();
    for listen in [format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}")] {
        let output = run(&["healthcheck"], &[("LISTEN", &listen)]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    drop(server);
    let output = run(&["healthcheck"], &[("LISTEN", &format!("127.0.0.1:{port}"))]);
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test]
async fn a_node_shows_its_name_and_the_address_it_was_asked_at() {
    let server = Server::start(&[&NODE[..], &[("SERVER_NAME", "3333"), ("LOG_FORMAT", "json")]].concat());
    let session = Browser::new(&server).session().await;
    let expected = serde_json::json!({ "name": "3333", "address": "127.0.0.1", "port": server.address.port() });
    assert_eq!(session["server"], expected);
    let line = server.wait_for("\"url.path\":\"/api/session\"");
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["span"]["server"], "3333", "{line}");
}

#[tokio::test]
async fn a_node_starts_while_redis_is_down_and_serves_what_needs_no_session() {
    // Bound and not listening: connections are refused for as long as this lives.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("redis://127.0.0.1:{}", nobody.local_addr().unwrap().port());
    let server = Server::start(&[&NODE[..], &[("REDIS_URL", &url)]].concat());
    let mut browser = Browser::new(&server);
    let ready: serde_json::Value = serde_json::from_str(&browser.get("/readyz").await.body).unwrap();
    assert_eq!(ready, serde_json::json!({ "status": "ready", "store": "down" }));
    browser.get("/livez").await;
    browser.get("/static/style.css").await;
    assert!(browser.get("/metrics").await.body.contains("demo_store_up 0"));
    assert!(browser.session().await["session_id"].is_null(), "without a cookie nobody asks Redis");
}

#[cfg(unix)]
#[tokio::test]
async fn asked_to_stop_a_node_finishes_what_it_has_begun() {
    let server = Server::start(&NODE);
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let head = format!("PUT /api/session/attributes/a HTTP/1.1\r\nHost: {}\r\nContent-Length: 1\r\n", server.address);
    stream.write_all(format!("{head}Expect: 100-continue\r\n\r\n").as_bytes()).await.unwrap();
    // "100 Continue" is sent when the handler asks for the body: the request has begun.
    let mut begun = [0; 12];
    stream.read_exact(&mut begun).await.unwrap();
    assert_eq!(&begun, b"HTTP/1.1 100");
    server.terminate();
    server.wait_for("stopping");
    stream.write_all(b"1").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("HTTP/1.1 204 "), "{answer}");
    server.ends().await;
}

/// Sends a request over a connection, and reads its answer, or all there is when the server closes.
async fn ask(stream: &mut tokio::net::TcpStream, path: &str, end: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: here\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains(end) && stream.read_buf(&mut answer).await.unwrap() > 0 {}
    String::from_utf8(answer).unwrap()
}

#[cfg(unix)]
#[tokio::test]
async fn asked_to_stop_a_node_answers_what_still_comes_on_its_connections_and_closes_them() {
    let server = Server::start(&NODE);
    let connect = || tokio::net::TcpStream::connect(server.address);
    let (mut one, mut two, mut silent) = (connect().await.unwrap(), connect().await.unwrap(), connect().await.unwrap());
    for stream in [&mut one, &mut two, &mut silent] {
        assert!(!ask(stream, "/livez", "alive").await.contains("connection: close"));
    }
    server.terminate();
    // From this line on, every answer closes its connection.
    server.wait_for("draining");
    // A session still works, and who asks is told that this node goes.
    let session = ask(&mut one, "/api/session", "\0").await;
    assert!(session.starts_with("HTTP/1.1 200 ") && session.contains("\r\nconnection: close\r\n"), "{session}");
    let ready = ask(&mut two, "/readyz", "\0").await;
    assert!(ready.starts_with("HTTP/1.1 503 ") && ready.contains("draining"), "{ready}");
    // On the third connection nothing comes any more. It is closed, in order, and then nothing keeps the node.
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    server.ends().await;
}

#[cfg(unix)]
#[tokio::test]
async fn asked_to_stop_a_node_serves_whom_the_kernel_has_let_in() {
    let server = Server::start(&NODE);
    // It does not run while the connections are made; when it goes on, it finds them and the signal at once.
    server.signal("STOP");
    let mut streams = Vec::new();
    for _ in 0..100 {
        let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"POST /api/session/attributes/n/increment HTTP/1.1\r\nHost: here\r\n").await.unwrap();
        stream.write_all(b"Sec-Fetch-Site: same-origin\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        streams.push(stream);
    }
    server.terminate();
    server.signal("CONT");
    for mut stream in streams {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"value\":1"), "{answer}");
    }
    server.ends().await;
}

#[cfg(unix)]
#[tokio::test]
async fn the_embedded_cluster_stops_when_asked_and_waits_for_no_browser() {
    for signal in ["TERM", "INT"] {
        let server = Server::embedded();
        let mut browser = tokio::net::TcpStream::connect(server.address).await.unwrap();
        ask(&mut browser, "/livez", "alive").await;
        let asked = std::time::Instant::now();
        server.signal(signal);
        server.ends().await;
        // A node would have waited for its proxy for longer than this.
        assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    }
}

/// What hashing a password takes is used again, not left behind.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_leave_no_memory_behind() {
    let server = Server::start(&NODE);
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
    };
    let before = resident();
    for _ in 0..3 {
        let mut logins = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let mut browser = Browser::new(&server);
            logins
                .spawn(async move { browser.send(Method::POST, "/login", "username=alice&password=wonderland").await });
        }
        for answer in logins.join_all().await {
            assert_eq!(answer.status, StatusCode::SEE_OTHER);
        }
    }
    let at_once = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64 / 2).max(1);
    let (after, most) = (resident(), before + 20 * at_once + 30);
    println!("{before} MB before, {after} MB after 60 logins");
    assert!(after <= most, "{before} MB before, {after} MB after 60 logins");
}
