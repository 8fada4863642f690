//! What one would write without a session crate: an ID in a cookie, and one JSON blob per session, read by GET and written by
//! SET EX. No signature, no limits, no protection against two requests at once; a read prolongs nothing. It is the limit of what a
//! session crate can reach that keeps one blob.
//!
//! One connection that all requests share, which was measured faster than a pool (docs of fred: "Client" against "Pool",
//! <https://docs.rs/fred/10.1.0/fred/clients/struct.Pool.html>), with `TCP_NODELAY`
//! (<https://docs.rs/fred/10.1.0/fred/types/config/struct.TcpConfig.html>), without which a request that is not alone on the
//! connection waits for the answer to the one before.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::SocketAddr;

use anyhow::Result;
use axum::Router;
use axum::extract::{FromRef, FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use fred::prelude::{Builder, Client, ClientLike, Config, Expiration, KeysInterface, ServerConfig};
use fred::types::config::TcpConfig;

use crate::contract::{IDLE_TIMEOUT_SECS, Size, WATCHED, value};

type Attributes = HashMap<String, String>;

pub(super) async fn app(redis: SocketAddr) -> Result<Router> {
    let config =
        Config { server: ServerConfig::new_centralized(redis.ip().to_string(), redis.port()), ..Config::default() };
    let client = Builder::from_config(config)
        .with_connection_config(|connection| connection.tcp = TcpConfig { nodelay: Some(true), ..TcpConfig::default() })
        .build()?;
    client.init().await?;
    Ok(Router::new()
        .route("/plain", get(|| async { "plain" }))
        .route("/read", get(read))
        .route("/write/{width}/{number}", post(write))
        .route("/blind/{width}/{number}", post(blind))
        .route("/start/{size}", post(start))
        .with_state(client))
}

async fn read(session: Stored) -> String {
    session.attributes.get(WATCHED).cloned().unwrap_or_else(|| "none".to_owned())
}

async fn write(mut session: Stored, Path((width, number)): Path<(usize, u64)>) -> Result<String, Failed> {
    let old = session.attributes.insert(WATCHED.to_owned(), value(width, number));
    session.save().await?;
    Ok(old.unwrap_or_else(|| "none".to_owned()))
}

async fn blind(mut session: Stored, Path((width, number)): Path<(usize, u64)>) -> Result<&'static str, Failed> {
    session.attributes.insert(WATCHED.to_owned(), value(width, number));
    session.save().await?;
    Ok("done")
}

async fn start(State(client): State<Client>, Path(size): Path<String>) -> Result<Response, Failed> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|_| Failed)?;
    let id = bytes.iter().fold(String::new(), |mut id, byte| {
        let _ = write!(id, "{byte:02x}");
        id
    });
    let attributes = Size::parse(&size).map_err(|_| Failed)?.attributes().into_iter().collect();
    let cookie = format!("id={id}; Path=/; HttpOnly; SameSite=Lax; Secure");
    Stored { client, key: Some(key(&id)), attributes }.save().await?;
    Ok(([(header::SET_COOKIE, cookie)], "done").into_response())
}

/// The session of a request.
struct Stored {
    client: Client,
    key: Option<String>,
    attributes: Attributes,
}

impl Stored {
    async fn save(&self) -> Result<(), Failed> {
        let json = serde_json::to_string(&self.attributes).map_err(|_| Failed)?;
        let expires = Some(Expiration::EX(i64::try_from(IDLE_TIMEOUT_SECS).map_err(|_| Failed)?));
        let key = self.key.as_deref().ok_or(Failed)?;
        self.client.set::<(), _, _>(key, json, expires, None, false).await.map_err(|_| Failed)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Stored
where
    Client: FromRef<S>,
{
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        let client = Client::from_ref(state);
        let cookie = parts.headers.get(header::COOKIE).and_then(|value| value.to_str().ok());
        let id = cookie.and_then(|cookie| cookie.split("; ").find_map(|pair| pair.strip_prefix("id=")));
        let Some(id) = id else { return Ok(Self { client, key: None, attributes: Attributes::new() }) };
        let key = key(id);
        let json: Option<Vec<u8>> = client.get(&key).await.map_err(|_| Failed)?;
        let attributes = match json {
            Some(json) => serde_json::from_slice(&json).map_err(|_| Failed)?,
            None => Attributes::new(),
        };
        Ok(Self { client, key: Some(key), attributes })
    }
}

fn key(id: &str) -> String {
    format!("session:{id}")
}

/// Redis did not answer, or there is nothing to write to.
struct Failed;

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}
