//! The routes. Each names what it needs of the session by what it asks for: `Session` loads, `LazySession` does not, neither
//! costs nothing.

mod page; // the page itself, which counts a visit

mod forms; // what its forms send: attributes set and removed, without JavaScript

mod login; // log in and out

mod sessions; // where an account is logged in

mod compare; // ways to share a session, side by side
pub(crate) use compare::scheme;

mod cluster; // the dashboard

mod api; // the same as JSON

mod health; // for load balancers and for Prometheus

mod assets; // style, script and icon

pub(crate) mod time; // how times are written

pub(crate) use assets::assets;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post, put};

use crate::node::Node;
use crate::problem::Problem;

/// Routes that may look at the session.
pub(crate) fn with_sessions() -> Router<Node> {
    Router::new()
        .route("/", get(page::show))
        .route("/attributes", post(forms::set))
        .route("/attributes/remove", post(forms::remove))
        .route("/login", post(login::log_in).get(login::back))
        .route("/logout", post(login::log_out).get(login::back))
        .route(sessions::PATH, get(sessions::show))
        .route("/account/sessions/revoke", post(sessions::revoke).get(sessions::back))
        .route("/api/session", get(api::show))
        .route("/api/session/attributes/{name}", put(api::put).delete(api::delete))
        .route("/api/session/attributes/{name}/increment", post(api::increment))
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "There is nothing at this address.") })
}

/// Pages for which no session is asked.
pub(crate) fn pages() -> Router<Node> {
    compare::overview().merge(cluster::pages())
}

/// Routes that must work whatever happens to sessions.
pub(crate) fn without_sessions() -> Router<Node> {
    Router::new()
        .route("/livez", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .merge(cluster::api())
        .merge(assets())
}
