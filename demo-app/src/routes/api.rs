//! The session as JSON, and its attributes one by one.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use session_layer::{LazySession, Session};

use super::page::VISITS;
use super::time::rfc3339;
use crate::device::DEVICE;
use crate::node::Node;
use crate::problem::{Failure, Problem};
use crate::server::Connection;

#[derive(Serialize)]
pub(crate) struct SessionJson {
    session_id: Option<String>,
    created_on: Option<String>,
    server: ServerJson,
    account: Option<String>,
    /// `null` when somebody stored something else than a number under its name.
    visits: Option<i64>,
    /// As stored, digit by digit; `null` for what is no JSON.
    attributes: BTreeMap<String, Option<Box<RawValue>>>,
}

#[derive(Serialize)]
struct ServerJson {
    name: String,
    address: String,
    port: u16,
}

/// Only reads: counts no visit, and starts no session.
pub(crate) async fn show(
    State(node): State<Node>,
    Extension(connection): Extension<Connection>,
    session: Session,
) -> Json<SessionJson> {
    let (address, port) = address_and_port(connection);
    let exists = session.exists();
    let names = session.names().into_iter().filter(|name| name != DEVICE.name());
    Json(SessionJson {
        session_id: exists.then(|| session.id().encode()),
        created_on: exists.then(|| rfc3339(session.created_on())).flatten(),
        server: ServerJson { name: node.name().to_owned(), address, port },
        account: session.principal(),
        visits: session.get(VISITS).map(|visits| visits.unwrap_or(0)).ok(),
        attributes: names.map(|name| (name.clone(), json_text(&session, &name))).collect(),
    })
}

/// Creates or replaces an attribute, without loading the session: one round trip. The body is in before anything is decided,
/// so a session that ended while it was still coming is found to be gone.
pub(crate) async fn put(
    session: LazySession,
    name: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Failure> {
    let name = checked(name)?;
    let body = body
        .map_err(|rejection| Problem::new(rejection.status(), "The body did not arrive in full, or is too large."))?;
    session.insert_json(&name, body)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes an attribute.
pub(crate) async fn delete(session: Session, name: Result<Path<String>, PathRejection>) -> Result<StatusCode, Failure> {
    let name = checked(name)?;
    if session.raw(&name).is_none() {
        // Nothing is recorded, since this answer says that nothing was done: a removal all the same would take away what
        // another request has set in the meantime.
        return Err(Problem::new(StatusCode::NOT_FOUND, "There is no such attribute in this session.").into());
    }
    session.remove(&name)?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Serialize)]
pub(crate) struct Counted {
    value: i64,
}

/// Adds one, on top of what every other server has added.
pub(crate) async fn increment(
    session: LazySession,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Counted>, Failure> {
    let name = checked(name)?;
    session.increment(&name, 1)?;
    let flushed = session.flush().await?;
    match flushed.counter(&name) {
        Some(value) => Ok(Json(Counted { value })),
        None => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "The store gave no value for the counter.").into()),
    }
}

/// A name that is not even UTF-8 is a bad name like others; which those are is the library's to say.
fn checked(name: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    name.map(|Path(name)| name)
        .map_err(|_| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "The attribute's name is not UTF-8."))
}

/// An attribute as stored, if that is JSON.
pub(crate) fn json_text(session: &Session, name: &str) -> Option<Box<RawValue>> {
    serde_json::from_slice(&session.raw(name)?).ok()
}

/// This server's end of the connection.
pub(crate) fn address_and_port(connection: Connection) -> (String, u16) {
    (connection.local.ip().to_canonical().to_string(), connection.local.port())
}
