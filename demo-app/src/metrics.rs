//! Counters for `/metrics`, in Prometheus' text format.
//!
//! Requests are counted by route template, never by path: a path is the client's to invent, and each would be a new time
//! series.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use session_layer::SessionEvent;
use session_layer::store::{Feature, StoreStatus};

use crate::accounts::Verdict;
use crate::node::Node;

/// How many of the last requests are kept: all that the dashboard shows may have been of one node.
const RECENT: usize = 20;

/// What this node has done since it started.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<Series, Tally>>,
    traffic: Mutex<Traffic>,
    logins_right: AtomicU64,
    logins_wrong: AtomicU64,
    logins_busy: AtomicU64,
    rolled_back: AtomicU64,
}

/// What visitors asked for.
#[derive(Debug, Default)]
struct Traffic {
    count: u64,
    /// When the last ones came, in milliseconds since 1970.
    recent: VecDeque<u64>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    route: String,
    method: &'static str,
    status: u16,
}

#[derive(Debug, Default)]
struct Tally {
    count: u64,
    took: Duration,
}

/// The layer that counts.
pub(crate) async fn count(State(node): State<Node>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let method = known(request.method());
    if is_a_visitors(&route) {
        node.metrics().visited();
    }
    let response = next.run(request).await;
    node.metrics().request(route, method, response.status(), started.elapsed());
    response
}

/// Whether people ask for it, as opposed to health checks, dashboards and browsers on their own.
fn is_a_visitors(route: &str) -> bool {
    let by_machines = ["/livez", "/readyz", "/metrics", "/favicon.ico"];
    !by_machines.contains(&route) && !route.starts_with("/static/") && !route.starts_with("/api/cluster")
}

/// Methods may be invented as well.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

impl Metrics {
    fn request(&self, route: String, method: &'static str, status: StatusCode, took: Duration) {
        let series = Series { route, method, status: status.as_u16() };
        let mut requests = self.requests.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let tally = requests.entry(series).or_default();
        tally.count += 1;
        tally.took += took;
    }

    fn visited(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let mut traffic = self.traffic.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        traffic.count += 1;
        traffic.recent.push_back(now);
        if traffic.recent.len() > RECENT {
            traffic.recent.pop_front();
        }
    }

    /// How many requests visitors have made, and when the last ones came.
    pub(crate) fn traffic(&self) -> (u64, Vec<u64>) {
        let traffic = self.traffic.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        (traffic.count, traffic.recent.iter().copied().collect())
    }

    pub(crate) fn login(&self, verdict: Verdict) {
        let counter = match verdict {
            Verdict::Right => &self.logins_right,
            Verdict::Wrong => &self.logins_wrong,
            Verdict::Busy => &self.logins_busy,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Something happened to a session.
    pub(crate) fn session(&self, event: &SessionEvent) {
        // Others may come with later versions of the library.
        if matches!(event, SessionEvent::RolledBack { .. }) {
            self.rolled_back.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Everything, as text.
    pub(crate) fn render(&self, server: &str, store_up: bool, store: &StoreStatus) -> String {
        let mut text = String::new();
        self.write(&mut text, server, store_up, store).expect("text can be appended to text");
        text
    }

    fn write(&self, out: &mut impl Write, server: &str, store_up: bool, store: &StoreStatus) -> std::fmt::Result {
        let version = env!("CARGO_PKG_VERSION");
        writeln!(out, "# HELP demo_node_info Which node this is.\n# TYPE demo_node_info gauge")?;
        writeln!(out, "demo_node_info{{server=\"{server}\",version=\"{version}\"}} 1")?;
        writeln!(out, "# HELP demo_store_up Whether the session store answers.\n# TYPE demo_store_up gauge")?;
        writeln!(out, "demo_store_up {}", u8::from(store_up))?;
        writeln!(
            out,
            "# HELP demo_store_evicts Whether Redis removes sessions when its memory is full.\n# TYPE demo_store_evicts gauge"
        )?;
        writeln!(out, "demo_store_evicts {}", u8::from(store.eviction.is_some()))?;
        writeln!(
            out,
            "# HELP demo_store_feature_off Whether a feature is off, since the Redis user lacks a permission.\n\
             # TYPE demo_store_feature_off gauge"
        )?;
        for feature in Feature::ALL {
            let (name, off) = (feature.name(), u8::from(store.off.contains_key(&feature)));
            writeln!(out, "demo_store_feature_off{{feature=\"{name}\"}} {off}")?;
        }
        writeln!(out, "# HELP demo_logins_total Login attempts.\n# TYPE demo_logins_total counter")?;
        for (result, counter) in
            [("right", &self.logins_right), ("wrong", &self.logins_wrong), ("busy", &self.logins_busy)]
        {
            writeln!(out, "demo_logins_total{{result=\"{result}\"}} {}", counter.load(Ordering::Relaxed))?;
        }
        writeln!(
            out,
            "# HELP demo_rollbacks_total Sessions found to lack a change that a failover lost.\n# TYPE demo_rollbacks_total counter"
        )?;
        writeln!(out, "demo_rollbacks_total {}", self.rolled_back.load(Ordering::Relaxed))?;
        let requests = self.requests.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        writeln!(out, "# HELP demo_requests_total Requests answered.\n# TYPE demo_requests_total counter")?;
        for (Series { route, method, status }, tally) in requests.iter() {
            let count = tally.count;
            writeln!(out, "demo_requests_total{{route=\"{route}\",method=\"{method}\",status=\"{status}\"}} {count}")?;
        }
        writeln!(
            out,
            "# HELP demo_request_seconds_total Time spent on them.\n# TYPE demo_request_seconds_total counter"
        )?;
        for (Series { route, method, status }, tally) in requests.iter() {
            let took = tally.took.as_secs_f64();
            writeln!(
                out,
                "demo_request_seconds_total{{route=\"{route}\",method=\"{method}\",status=\"{status}\"}} {took}"
            )?;
        }
        Ok(())
    }
}
