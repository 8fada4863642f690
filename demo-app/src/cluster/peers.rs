//! Asking the nodes how they are: each what it knows of itself, twice a second.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use http_body_util::{BodyExt, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::node::Node;

/// Where a node tells.
pub(crate) const PATH: &str = "/api/cluster/node";

const INTERVAL: Duration = Duration::from_millis(500);
/// A node that takes longer is shown as one that is not there.
const PATIENCE: Duration = Duration::from_secs(1);
/// More than any answer has.
const LARGEST: usize = 64 * 1024;

/// What a node tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) name: String,
    /// `starting`, `ready` or `draining`.
    pub(crate) state: String,
    pub(crate) store_up: bool,
    /// Requests so far, but for those of health checks and dashboards.
    pub(crate) requests: u64,
    /// When the last ones came, in milliseconds since 1970.
    pub(crate) recent: Vec<u64>,
    /// How often it has read a session from which server. Versions before this one do not tell.
    #[serde(default)]
    pub(crate) reads: BTreeMap<String, u64>,
    /// The same from its own memory.
    #[serde(default)]
    pub(crate) near_cache: u64,
}

/// What came of asking.
pub(super) struct Report {
    /// Which peer, in the order of the list.
    pub(super) place: usize,
    /// Nothing when it did not answer.
    pub(super) status: Option<Status>,
}

/// The nodes to ask.
pub(super) struct Peers {
    addresses: Vec<String>,
    own: Node,
}

impl Peers {
    /// Without addresses there is only the node itself.
    pub(super) fn new(addresses: Vec<String>, own: Node) -> Self {
        Self { addresses, own }
    }

    /// What they are called until they say how.
    pub(super) fn names(&self) -> Vec<String> {
        if self.addresses.is_empty() { vec![self.own.name().to_owned()] } else { self.addresses.clone() }
    }

    /// Asks all of them until the result is dropped.
    pub(super) fn ask(self, reports: &mpsc::Sender<Report>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        if self.addresses.is_empty() {
            let (own, reports) = (self.own, reports.clone());
            tasks.spawn(repeat(0, reports, async move || Some(own.status())));
            return tasks;
        }
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(PATIENCE / 2));
        let client: Client<_, Body> =
            Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        for (place, address) in self.addresses.into_iter().enumerate() {
            let (client, url) = (client.clone(), format!("http://{address}{PATH}"));
            tasks.spawn(repeat(place, reports.clone(), async move || {
                let answer = timeout(PATIENCE, get(&client, &url)).await;
                answer.ok().flatten()
            }));
        }
        tasks
    }
}

async fn repeat(place: usize, reports: mpsc::Sender<Report>, ask: impl AsyncFn() -> Option<Status>) {
    loop {
        let status = ask().await;
        if reports.send(Report { place, status }).await.is_err() {
            return;
        }
        sleep(INTERVAL).await;
    }
}

async fn get(client: &Client<HttpConnector, Body>, url: &str) -> Option<Status> {
    let request = Request::get(url).body(Body::empty()).ok()?;
    let response = client.request(request).await.ok().filter(|response| response.status().is_success())?;
    let body = Limited::new(response.into_body(), LARGEST).collect().await.ok()?.to_bytes();
    serde_json::from_slice(&body).ok()
}
