//! What machines ask. None of it waits for Redis: a node that cannot reach it still answers, and taking it out of rotation
//! for what its siblings cannot reach either would only take the site down.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::IntoResponse;
use serde::Serialize;

use crate::node::{Node, Readiness};

/// Not for caches: it is true now.
const NO_STORE: [(HeaderName, &str); 1] = [(header::CACHE_CONTROL, "no-store")];

/// The process is up.
pub(crate) async fn alive() -> impl IntoResponse {
    (NO_STORE, "alive\n")
}

#[derive(Serialize)]
struct Ready {
    status: &'static str,
    store: &'static str,
}

/// Whether to send requests here. The store's state is told, and does not count.
pub(crate) async fn ready(State(node): State<Node>) -> impl IntoResponse {
    let readiness = node.readiness();
    let code = if readiness == Readiness::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let status = readiness.word();
    (code, NO_STORE, Json(Ready { status, store: if node.store_up() { "up" } else { "down" } }))
}

/// Counters for Prometheus.
pub(crate) async fn metrics(State(node): State<Node>) -> impl IntoResponse {
    let text = node.metrics().render(node.name(), node.store_up(), &node.store_status());
    (NO_STORE, [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}
