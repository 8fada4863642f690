//! The embedded cluster: what `docker compose up` starts, small enough for one process and with nothing to install.
//!
//! Two nodes listen on free ports of this machine and share a store in memory. In front of them is a proxy that does what the
//! real cluster's nginx does: it takes the nodes in turn whoever asks, serves static files itself, and tells the nodes which
//! scheme, host and address the request came from.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::uri::{Authority, PathAndQuery, Scheme};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use session_layer::store::MemoryStore;
use tokio::sync::watch;

use crate::cluster::{self, Sources};
use crate::config::SessionSettings;
use crate::drain::{self, Limits};
use crate::node::{self, Layers, Node, Readiness};
use crate::server::{self, Connection};
use crate::{Fatal, routes, sticky};

/// The nodes' names: those of the tutorials' two Tomcats.
const NAMES: [&str; 2] = ["1111", "2222"];

/// How long an idle connection to a node is kept: shorter than the node keeps it, so that a request never meets a connection
/// that is just being closed.
const IDLE_TO_NODES: Duration = Duration::from_secs(10);

/// Runs the cluster until the process is asked to stop.
pub(crate) async fn run(listen: SocketAddr, settings: &SessionSettings) -> Result<(), Fatal> {
    // The address people know comes first: if it is taken, nothing else needs to start.
    let listener = server::bind(listen).await?;
    let (stop, stopped) = watch::channel(());
    let (store, mut nodes, mut addresses, mut tasks) = (MemoryStore::new(), Vec::new(), Vec::new(), Vec::new());
    // Whoever is in front of the front is a browser on this machine: nothing is gained by waiting for it.
    let limits = Limits { silence: Duration::ZERO, ..Limits::default() };
    for name in NAMES {
        let listener = server::bind((Ipv4Addr::LOCALHOST, 0).into()).await?;
        let address = listener.local_addr()?;
        let node = Node::new(name.to_owned(), || true);
        // A layer of its own for each node, as in the real cluster: what they share is the store and the secret.
        let layers = Layers::new(store.clone(), settings, &node)?;
        let mut stopped = stopped.clone();
        tasks.push(tokio::spawn(node::serve(listener, node.clone(), layers, limits, async move {
            // The sender dropped says the same as a message.
            let _ = stopped.changed().await;
        })));
        tracing::info!("node {name} listens on http://{address}");
        nodes.push(node);
        addresses.push(address);
    }
    for node in &nodes {
        tokio::spawn(cluster::watch(node.clone(), Sources::embedded(&addresses)));
    }
    let asked_to_stop = server::asked_to_stop();
    tracing::info!("the cluster is ready: listening on http://{} (Ctrl-C stops it)", listener.local_addr()?);
    let stop_front = async {
        asked_to_stop.await;
        // The front would wait for their streams, and they for the front.
        nodes.iter().for_each(|node| node.set_readiness(Readiness::Draining));
    };
    drain::serve(listener, front(addresses), limits, stop_front).await;
    // The front has finished its requests, so the nodes have none.
    drop(stop);
    for task in tasks {
        task.await?;
    }
    Ok(())
}

#[derive(Clone)]
struct Front {
    nodes: Arc<[SocketAddr]>,
    turn: Arc<AtomicUsize>,
    client: Client<HttpConnector, Body>,
}

/// The proxy in front of `nodes`.
pub(crate) fn front(nodes: Vec<SocketAddr>) -> Router {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TO_NODES)
        .build(connector);
    routes::assets().fallback(forward).with_state(Front { nodes: nodes.into(), turn: Arc::default(), client })
}

async fn forward(
    State(front): State<Front>,
    Extension(connection): Extension<Connection>,
    mut request: Request,
) -> Response {
    let (turn, set_cookie) = match sticky::place(&request) {
        Some((place, set_cookie)) => (place, set_cookie),
        // One counter for all clients: strictly in turn, never sticky.
        None => (front.turn.fetch_add(1, Ordering::Relaxed), None),
    };
    let node = front.nodes[turn % front.nodes.len()];
    let host = host(&request);
    remove_hop_by_hop(request.headers_mut());
    if let Err(status) = address_to(node, &mut request) {
        return status.into_response();
    }
    let headers = request.headers_mut();
    // Overwritten, not appended to: what a client claims here counts for nothing.
    let client = HeaderValue::from_str(&connection.peer.ip().to_canonical().to_string()).expect("addresses are ASCII");
    headers.insert(HeaderName::from_static("x-real-ip"), client.clone());
    headers.insert(HeaderName::from_static("x-forwarded-for"), client);
    headers.insert(HeaderName::from_static("x-forwarded-proto"), HeaderValue::from_static("http"));
    for name in ["x-forwarded-host", "forwarded", "x-request-id"] {
        headers.remove(name);
    }
    if let Some(host) = host {
        headers.insert(HeaderName::from_static("x-forwarded-host"), host.clone());
        headers.insert(header::HOST, host);
    }
    // Both bodies stream: neither is read here.
    match front.client.request(request).await {
        Ok(response) => {
            let mut response = response.map(Body::new);
            remove_hop_by_hop(response.headers_mut());
            if let Some(cookie) = set_cookie {
                response.headers_mut().append(header::SET_COOKIE, cookie);
            }
            response
        }
        Err(error) => {
            tracing::warn!(%error, %node, "the node did not answer");
            (StatusCode::BAD_GATEWAY, "the node did not answer\n").into_response()
        }
    }
}

/// The host as the client wrote it, port included.
fn host(request: &Request) -> Option<HeaderValue> {
    match request.uri().authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => request.headers().get(header::HOST).cloned(),
    }
}

fn address_to(node: SocketAddr, request: &mut Request) -> Result<(), StatusCode> {
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(Authority::try_from(node.to_string()).expect("a socket address is an authority"));
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| StatusCode::BAD_REQUEST)?;
    Ok(())
}

/// Headers that speak about one connection (RFC 9110, section 7.6.1), and those that `Connection` names as such.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let always = [
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    for name in named.into_iter().chain(always) {
        headers.remove(name);
    }
}
