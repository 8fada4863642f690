//! No session at all: what is answered does not depend on who asks. The ceiling.

use axum::Router;
use axum::extract::Path;
use axum::routing::{get, post};

use crate::contract::{Size, value};

pub(super) fn app() -> Router {
    // What a session of 1 KiB would have there.
    let stored = value(Size::Kib1.width(), 0);
    Router::new()
        .route("/plain", get(|| async { "plain" }))
        .route("/read", get(move || std::future::ready(stored.clone())))
        .route("/write/{width}/{number}", post(write))
        .route("/blind/{width}/{number}", post(async |Path(_): Path<(usize, u64)>| "done"))
        .route("/start/{size}", post(async |Path(_): Path<String>| "done"))
}

/// The number before, so that the answer is the one that an app with sessions gives.
async fn write(Path((width, number)): Path<(usize, u64)>) -> String {
    value(width, number.saturating_sub(1))
}
