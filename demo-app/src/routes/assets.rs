//! Style sheet, script and icon: part of the binary, so that a node asked directly needs no files. In the cluster nginx serves
//! the same files itself.

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// A few minutes: a new version of the page and an old style sheet do not stay together for long.
const CACHE: &str = "public, max-age=300";

/// The files' routes.
pub(crate) fn assets<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/static/style.css", get(|| file("text/css; charset=utf-8", include_str!("../../static/style.css"))))
        .route(
            "/static/refresh.js",
            get(|| file("text/javascript; charset=utf-8", include_str!("../../static/refresh.js"))),
        )
        .route(
            "/static/compare.js",
            get(|| file("text/javascript; charset=utf-8", include_str!("../../static/compare.js"))),
        )
        .route(
            "/static/cluster.js",
            get(|| file("text/javascript; charset=utf-8", include_str!("../../static/cluster.js"))),
        )
        .route("/static/icon.svg", get(icon))
        // Browsers ask for it on their own wherever a page names no icon.
        .route("/favicon.ico", get(icon))
}

async fn icon() -> Response {
    file("image/svg+xml", include_str!("../../static/icon.svg")).await
}

async fn file(content_type: &'static str, content: &'static str) -> Response {
    ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, CACHE)], content).into_response()
}
