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
}

pub(crate) const NONE: &str = "none";
pub(crate) const HAND_WRITTEN: &str = "hand-written";
pub(crate) const LAYER: &str = "layer";

/// All of them, in the order of the table.
pub(crate) const APPS: &[App] = &[
    App { name: NONE, title: "no session at all", keeps_sessions: false },
    App { name: HAND_WRITTEN, title: "hand-written", keeps_sessions: true },
    App { name: LAYER, title: "session-layer", keeps_sessions: true },
    #[cfg(feature = "peers")]
    App { name: "tower-sessions", title: "tower-sessions", keeps_sessions: true },
    #[cfg(feature = "peers")]
    App { name: "axum_session", title: "axum_session", keeps_sessions: true },
    #[cfg(feature = "peers")]
    App { name: "actix-session", title: "actix-session", keeps_sessions: true },
];

/// Serves an app until the process is ended. Says on standard output which port it got.
pub(crate) fn serve(name: &str, redis: SocketAddr) -> Result<()> {
    match name {
        NONE => on_tokio(async { serve_axum(none::app()).await }),
        HAND_WRITTEN => on_tokio(async { serve_axum(hand_written::app(redis).await?).await }),
        LAYER => on_tokio(async { serve_axum(layer::app(redis).await?).await }),
        #[cfg(feature = "peers")]
        "tower-sessions" => on_tokio(async { serve_axum(tower_sessions::app(redis).await?).await }),
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
