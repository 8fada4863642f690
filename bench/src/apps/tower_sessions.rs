//! tower-sessions with its Redis store, as the README of the store has it
//! (<https://docs.rs/tower-sessions-redis-store/0.16.0/tower_sessions_redis_store/>), with one difference in its favour: one
//! connection instead of a pool of six, which is faster on one core ("Number of connections" in fred's
//! <https://docs.rs/fred/10.1.0/fred/clients/struct.Pool.html>), and `TCP_NODELAY`
//! (<https://docs.rs/fred/10.1.0/fred/types/config/struct.TcpConfig.html>).
//!
//! `OnInactivity` is an idle timeout; a read does not prolong it, and `with_always_save`, which would, writes the whole session back
//! with every request (<https://docs.rs/tower-sessions/0.14.0/tower_sessions/struct.SessionManagerLayer.html>). It is left off, as in
//! the README. Cookies are not signed unless asked; they are not asked to.

use std::net::SocketAddr;

use anyhow::Result;
use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::{get, post};
use time::Duration;
use tower_sessions::session::Error;
use tower_sessions::{Expiry, Session, SessionManagerLayer};
use tower_sessions_redis_store::RedisStore;
use tower_sessions_redis_store::fred::prelude::{ClientLike, Config, ConnectionConfig, Pool, ServerConfig};
use tower_sessions_redis_store::fred::types::config::TcpConfig;

use crate::contract::{IDLE_TIMEOUT_SECS, Size, WATCHED, value};

pub(super) async fn app(redis: SocketAddr) -> Result<Router> {
    let config =
        Config { server: ServerConfig::new_centralized(redis.ip().to_string(), redis.port()), ..Config::default() };
    let tcp = TcpConfig { nodelay: Some(true), ..TcpConfig::default() };
    let connection = ConnectionConfig { tcp, ..ConnectionConfig::default() };
    let pool = Pool::new(config, None, Some(connection), None, 1)?;
    pool.connect();
    pool.wait_for_connect().await?;
    let idle_timeout = Duration::seconds(IDLE_TIMEOUT_SECS as i64);
    let sessions = SessionManagerLayer::new(RedisStore::new(pool)).with_expiry(Expiry::OnInactivity(idle_timeout));
    Ok(Router::new()
        .route("/plain", get(|| async { "plain" }))
        .route("/read", get(read))
        .route("/write/{width}/{number}", post(write))
        .route("/blind/{width}/{number}", post(blind))
        .route("/start/{size}", post(start))
        .layer(sessions))
}

async fn read(session: Session) -> Result<String, StatusCode> {
    Ok(session.get(WATCHED).await.map_err(failed)?.unwrap_or_else(|| "none".to_owned()))
}

async fn write(session: Session, Path((width, number)): Path<(usize, u64)>) -> Result<String, StatusCode> {
    let old = session.get(WATCHED).await.map_err(failed)?;
    session.insert(WATCHED, value(width, number)).await.map_err(failed)?;
    Ok(old.unwrap_or_else(|| "none".to_owned()))
}

async fn blind(session: Session, Path((width, number)): Path<(usize, u64)>) -> Result<&'static str, StatusCode> {
    session.insert(WATCHED, value(width, number)).await.map_err(failed)?;
    Ok("done")
}

async fn start(session: Session, Path(size): Path<String>) -> Result<&'static str, StatusCode> {
    for (name, value) in Size::parse(&size).map(Size::attributes).unwrap_or_default() {
        session.insert(&name, value).await.map_err(failed)?;
    }
    Ok("done")
}

fn failed(_: Error) -> StatusCode {
    StatusCode::INTERNAL_SERVER_ERROR
}
