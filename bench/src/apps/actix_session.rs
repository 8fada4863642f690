//! actix-session with its Redis store, an actix app of its own, as its front page has it
//! (<https://docs.rs/actix-session/0.11.0/actix_session/>).
//!
//! Cookies are signed instead of encrypted, which is the cheaper of what its documents offer
//! (<https://docs.rs/actix-session/0.11.0/actix_session/config/enum.CookieContentSecurity.html>). The state lives for the idle timeout
//! after a change (`TtlExtensionPolicy::OnStateChanges`, its default); `OnEveryRequest` would prolong it by reads too, for one more
//! command each.

use std::net::SocketAddr;

use actix_session::config::{BrowserSession, CookieContentSecurity};
use actix_session::storage::RedisSessionStore;
use actix_session::{Session, SessionGetError, SessionInsertError, SessionMiddleware};
use actix_web::cookie::Key;
use actix_web::web::{Path, get, post};
use actix_web::{App, HttpServer};
use anyhow::{Context, Result};
use time::Duration;

use crate::contract::{IDLE_TIMEOUT_SECS, SECRET, Size, WATCHED, value};

pub(super) fn serve(redis: SocketAddr) -> Result<()> {
    actix_web::rt::System::new().block_on(async {
        let store = RedisSessionStore::new(format!("redis://{redis}")).await?;
        let server = HttpServer::new(move || {
            let idle_timeout = Duration::seconds(IDLE_TIMEOUT_SECS as i64);
            let sessions = SessionMiddleware::builder(store.clone(), Key::from(&SECRET))
                .cookie_content_security(CookieContentSecurity::Signed)
                .session_lifecycle(BrowserSession::default().state_ttl(idle_timeout))
                .build();
            App::new()
                .wrap(sessions)
                .route("/plain", get().to(async || "plain"))
                .route("/read", get().to(read))
                .route("/write/{width}/{number}", post().to(write))
                .route("/blind/{width}/{number}", post().to(blind))
                .route("/start/{size}", post().to(start))
        })
        .workers(1)
        .bind("127.0.0.1:0")?;
        super::ready(*server.addrs().first().context("no address")?)?;
        Ok(server.run().await?)
    })
}

async fn read(session: Session) -> Result<String, SessionGetError> {
    Ok(session.get(WATCHED)?.unwrap_or_else(|| "none".to_owned()))
}

async fn write(session: Session, path: Path<(usize, u64)>) -> Result<String, actix_web::Error> {
    let (width, number) = path.into_inner();
    let old = session.get(WATCHED)?;
    session.insert(WATCHED, value(width, number))?;
    Ok(old.unwrap_or_else(|| "none".to_owned()))
}

async fn blind(session: Session, path: Path<(usize, u64)>) -> Result<&'static str, SessionInsertError> {
    let (width, number) = path.into_inner();
    session.insert(WATCHED, value(width, number))?;
    Ok("done")
}

async fn start(session: Session, size: Path<String>) -> Result<&'static str, SessionInsertError> {
    for (name, value) in Size::parse(&size).map(Size::attributes).unwrap_or_default() {
        session.insert(name, value)?;
    }
    Ok("done")
}
