//! axum_session with its Redis pool, as the README of axum_session has it for a database
//! (<https://docs.rs/axum_session/0.22.1/axum_session/>).
//!
//! It keeps sessions in the node's memory for an hour by default, and another node's changes are not seen meanwhile. Behind a load
//! balancer that is not sticky that loses writes, so it is switched off the way its documents name: `with_memory_lifetime(0)` "will
//! cause it to be loaded from the database each request"
//! (<https://docs.rs/axum_session/0.22.1/axum_session/struct.SessionConfig.html#method.with_memory_lifetime>). `SessionMode::Manual`
//! creates no session for those who need none, which is its fastest mode
//! (<https://docs.rs/axum_session/0.22.1/axum_session/enum.SessionMode.html>). Cookies are not signed unless asked.

use std::net::SocketAddr;

use anyhow::Result;
use axum::Router;
use axum::extract::Path;
use axum::routing::{get, post};
use axum_session::{Session, SessionConfig, SessionLayer, SessionMode, SessionStore};
use axum_session_redispool::SessionRedisPool;
use redis_pool::SingleRedisPool;
use time::Duration;

use crate::contract::{IDLE_TIMEOUT_SECS, Size, WATCHED, value};

type RedisSession = Session<SessionRedisPool>;

pub(super) async fn app(redis: SocketAddr) -> Result<Router> {
    let client = redis::Client::open(format!("redis://{redis}"))?;
    let pool = SingleRedisPool::from(client);
    let config = SessionConfig::default()
        .with_lifetime(Duration::seconds(IDLE_TIMEOUT_SECS as i64))
        .with_memory_lifetime(Duration::seconds(0))
        .with_mode(SessionMode::Manual);
    let store = SessionStore::<SessionRedisPool>::new(Some(pool.into()), config).await?;
    Ok(Router::new()
        .route("/plain", get(|| async { "plain" }))
        .route("/read", get(read))
        .route("/write/{width}/{number}", post(write))
        .route("/blind/{width}/{number}", post(blind))
        .route("/start/{size}", post(start))
        .layer(SessionLayer::new(store)))
}

async fn read(session: RedisSession) -> String {
    session.get(WATCHED).unwrap_or_else(|| "none".to_owned())
}

async fn write(session: RedisSession, Path((width, number)): Path<(usize, u64)>) -> String {
    let old = session.get(WATCHED);
    session.set(WATCHED, value(width, number));
    old.unwrap_or_else(|| "none".to_owned())
}

async fn blind(session: RedisSession, Path((width, number)): Path<(usize, u64)>) -> &'static str {
    session.set(WATCHED, value(width, number));
    "done"
}

async fn start(session: RedisSession, Path(size): Path<String>) -> &'static str {
    session.create_data();
    for (name, value) in Size::parse(&size).map(Size::attributes).unwrap_or_default() {
        session.set(&name, value);
    }
    "done"
}
