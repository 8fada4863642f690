//! The apps: one per way to keep sessions.

mod hand_written;
mod layer;
mod none;

#[cfg(feature = "peers")]
mod actix_session;
#[cfg(feature = "peers")]
mod axum_session;
#[cfg(feature = "peers")]
mod tower_sessions;

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;

use anyhow::{Result, bail};
use axum::Router;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;

/// One way to keep sessions.
pub(crate) struct App {
    /// On the command line.
    pub(crate) name: &'static str,
    /// In the table.
    pub(crate) title: &'static str,
    /// Whether it keeps anything at all.
    pub(crate) keeps_sessions: bool,
    /// Whether it reads from its own memory what has not changed for two seconds.
    pub(crate) near_cache: bool,
}

pub(crate) const NONE: &str = "none";
pub(crate) const HAND_WRITTEN: &str = "hand-written";
pub(crate) const LAYER: &str = "layer";
pub(crate) const LAYER_NEAR_CACHE: &str = "layer-near-cache";
pub(crate) const TOWER_SESSIONS: &str = "tower-sessions";

/// All of them, in the order of the table.
pub(crate) const APPS: &[App] = &[
    App { keeps_sessions: false, ..app(NONE, "no session at all") },
    app(HAND_WRITTEN, "hand-written"),
    app(LAYER, "session-layer"),
    App { near_cache: true, ..app(LAYER_NEAR_CACHE, "session-layer, near cache") },
    #[cfg(feature = "peers")]
    app(TOWER_SESSIONS, "tower-sessions"),
    #[cfg(feature = "peers")]
    app("axum_session", "axum_session"),
    #[cfg(feature = "peers")]
    app("actix-session", "actix-session"),
];

const fn app(name: &'static str, title: &'static str) -> App {
    App { name, title, keeps_sessions: true, near_cache: false }
}

/// Serves an app until the process is ended. Says on standard output which port it got.
pub(crate) fn serve(name: &str, redis: SocketAddr) -> Result<()> {
    match name {
        NONE => on_tokio(async { serve_axum(none::app()).await }),
        HAND_WRITTEN => on_tokio(async { serve_axum(hand_written::app(redis).await?).await }),
        LAYER => on_tokio(async { serve_axum(layer::app(redis, None).await?).await }),
        LAYER_NEAR_CACHE => on_tokio(async { serve_axum(layer::app(redis, Some(layer::NEAR_CACHE)).await?).await }),
        #[cfg(feature = "peers")]
        TOWER_SESSIONS => on_tokio(async { serve_axum(tower_sessions::app(redis).await?).await }),
        #[cfg(feature = "peers")]
        "axum_session" => on_tokio(async { serve_axum(axum_session::app(redis).await?).await }),
        #[cfg(feature = "peers")]
        "actix-session" => actix_session::serve(redis),
        _ => bail!("no app is called {name}"),
    }
}

/// One core is what each app gets, so one worker is what Tokio would choose for itself.
fn on_tokio(serve: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?.block_on(serve)
}

async fn serve_axum(app: Router) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    ready(listener.local_addr()?)?;
    // Without it an answer could wait for the acknowledgement of the one before.
    let listener = listener.tap_io(|connection| {
        let _ = connection.set_nodelay(true);
    });
    axum::serve(listener, app).await?;
    Ok(())
}

fn ready(address: SocketAddr) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", address.port())?;
    Ok(out.flush()?)
}
