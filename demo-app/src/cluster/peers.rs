//! Asking the nodes how they are: each what it knows of itself, twice a second.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::timeline::Entry;
use crate::node::Node;

/// Where a node tells.
pub(crate) const PATH: &str = "/api/cluster/node";
/// Where it shows all of what it sees.
pub(crate) const PICTURE_PATH: &str = "/api/cluster";

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
    /// What should be changed about its store's server.
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
}

/// What came of asking.
pub(super) struct Report {
    /// Which peer, in the order of the list.
    pub(super) place: usize,
    /// Nothing when it did not answer.
    pub(super) status: Option<Status>,
}

/// What is read of another node's picture.
#[derive(Deserialize)]
struct Remembered {
    events: Vec<serde_json::Value>,
}

/// The nodes to ask.
pub(super) struct Peers {
    addresses: Vec<String>,
    own: Node,
    client: Client<HttpConnector, Body>,
}

impl Peers {
    /// Without addresses there is only the node itself.
    pub(super) fn new(addresses: Vec<String>, own: Node) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(PATIENCE / 2));
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Self { addresses, own, client }
    }

    /// What they are called until they say how.
    pub(super) fn names(&self) -> Vec<String> {
        if self.addresses.is_empty() { vec![self.own.name().to_owned()] } else { self.addresses.clone() }
    }

    /// What happened so far, as the one knows it that remembers most; nothing when nobody answers in time.
    pub(super) async fn remembered(&self) -> Vec<Entry> {
        let asked = self.addresses.iter().map(|address| async move {
            let url = format!("http://{address}{PICTURE_PATH}");
            let Remembered { events } = get(&self.client, &url).await?;
            // Another version may know of kinds of events that this one does not.
            Some(events.into_iter().filter_map(|event| serde_json::from_value(event).ok()).collect::<Vec<_>>())
        });
        join_all(asked).await.into_iter().flatten().max_by_key(Vec::len).unwrap_or_default()
    }

    /// Asks all of them until the result is dropped.
    pub(super) fn ask(self, reports: &mpsc::Sender<Report>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        if self.addresses.is_empty() {
            let (own, reports) = (self.own, reports.clone());
            tasks.spawn(repeat(0, reports, async move || Some(own.status())));
            return tasks;
        }
        for (place, address) in self.addresses.into_iter().enumerate() {
            let (client, url) = (self.client.clone(), format!("http://{address}{PATH}"));
            tasks.spawn(repeat(place, reports.clone(), async move || get(&client, &url).await));
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

async fn get<T: DeserializeOwned>(client: &Client<HttpConnector, Body>, url: &str) -> Option<T> {
    let request = Request::get(url).body(Body::empty()).ok()?;
    let answer = async {
        let response = client.request(request).await.ok().filter(|response| response.status().is_success())?;
        Some(Limited::new(response.into_body(), LARGEST).collect().await.ok()?.to_bytes())
    };
    serde_json::from_slice(&timeout(PATIENCE, answer).await.ok()??).ok()
}
