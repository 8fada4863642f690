//! Counts visits, with sessions in memory: `cargo run -p session-layer --example counter`, then http://127.0.0.1:3000.

use axum::Router;
use axum::routing::get;
use session_layer::store::MemoryStore;
use session_layer::{Attribute, ConfigError, Session, SessionError, SessionLayer};

const VISITS: Attribute<u64> = Attribute::new("visits");

async fn visit(session: Session) -> Result<String, SessionError> {
    session.increment(VISITS, 1)?;
    let visits = session.get(VISITS)?.unwrap_or_default();
    Ok(format!("visit number {visits}"))
}

pub(crate) fn app() -> Result<Router, ConfigError> {
    let sessions = SessionLayer::builder(MemoryStore::new())
        .secret(b"an example's secret, known to everybody")
        .development(true) // the cookie travels over plain HTTP
        .build()?;
    Ok(Router::new().route("/", get(visit)).layer(sessions))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://127.0.0.1:3000");
    axum::serve(listener, app()?).await?;
    Ok(())
}
