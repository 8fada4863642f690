//! The counter with sessions in Redis. Start it twice, on two ports: both count the same visits.
//!
//! ```text
//! REDIS_URL=redis://127.0.0.1:6379 PORT=3001 cargo run -p session-layer --example redis
//! REDIS_URL=redis://127.0.0.1:6379 PORT=3002 cargo run -p session-layer --example redis
//! ```
//!
//! With sentinels: `REDIS_URL=redis-sentinel://host1:26379,host2:26379,host3:26379/mymaster`.

use std::env;

use axum::Router;
use axum::routing::get;
use session_layer::store::RedisStore;
use session_layer::{Session, SessionError, SessionLayer};

async fn visit(session: Session) -> Result<String, SessionError> {
    session.increment("visits", 1)?;
    // The exact number, whatever other nodes count at the same time.
    let visits = session.flush().await?.counter("visits");
    Ok(format!("visit number {}", visits.unwrap_or_default()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".to_owned());
    let port = env::var("PORT").unwrap_or_else(|_| "3000".to_owned());

    // Connects in the background, so that this starts also while Redis is down; requests then wait for it, up to their budget.
    let sessions = SessionLayer::builder(RedisStore::builder(&url).build()?)
        .secret(b"the same on every node, and not this one")
        .development(true)
        .build()?;
    let app = Router::new().route("/", get(visit)).layer(sessions);

    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("http://127.0.0.1:{port}");
    axum::serve(listener, app).await?;
    Ok(())
}
