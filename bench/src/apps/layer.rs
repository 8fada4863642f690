//! This project's layer with its defaults: signed cookies, sliding expiry, commits that take effect once. And the same with the near
//! cache, which is off by default.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::extract::Path;
use axum::routing::{get, post};
use session_layer::store::{NearCacheLimits, RedisStore, SessionStore};
use session_layer::{LazySession, Session, SessionError, SessionLayer};

use crate::contract::{IDLE_TIMEOUT_SECS, SECRET, Size, WATCHED, value};

/// Room for all sessions that a scenario has; by default there is room for 10,000, and 64 MiB.
pub(super) const NEAR_CACHE: NearCacheLimits = NearCacheLimits { sessions: 100_000, bytes: 256 * 1024 * 1024 };

pub(super) async fn app(redis: SocketAddr, near_cache: Option<NearCacheLimits>) -> Result<Router> {
    let store = RedisStore::builder(&format!("redis://{redis}")).near_cache(near_cache).build()?;
    store.available().await;
    let sessions =
        SessionLayer::builder(store).secret(SECRET).idle_timeout(Duration::from_secs(IDLE_TIMEOUT_SECS)).build()?;
    Ok(Router::new()
        .route("/plain", get(|| async { "plain" }))
        .route("/read", get(read))
        .route("/write/{width}/{number}", post(write))
        .route("/blind/{width}/{number}", post(blind))
        .route("/start/{size}", post(start))
        .layer(sessions))
}

async fn read(session: Session) -> Result<String, SessionError> {
    Ok(session.get::<String>(WATCHED)?.unwrap_or_else(|| "none".to_owned()))
}

async fn write(session: Session, Path((width, number)): Path<(usize, u64)>) -> Result<String, SessionError> {
    let old = session.get::<String>(WATCHED)?;
    session.insert(WATCHED, value(width, number))?;
    Ok(old.unwrap_or_else(|| "none".to_owned()))
}

async fn blind(session: LazySession, Path((width, number)): Path<(usize, u64)>) -> Result<&'static str, SessionError> {
    session.insert(WATCHED, value(width, number))?;
    Ok("done")
}

async fn start(session: LazySession, Path(size): Path<String>) -> Result<&'static str, SessionError> {
    for (name, value) in Size::parse(&size).map(Size::attributes).unwrap_or_default() {
        session.insert(name.as_str(), &value)?;
    }
    Ok("done")
}
