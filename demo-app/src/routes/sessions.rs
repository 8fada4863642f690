//! Where an account is logged in, and how that ends from here. Sessions are named by handles, from which no ID can be found.
//!
//! Strict, since a session that was ended elsewhere must not end others, not even for the second that copies may be behind.

use std::time::SystemTime;

use askama::Template;
use axum::extract::{Extension, Form, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use serde::Deserialize;
use session_layer::{PrincipalSession, SessionHandle, Sessions, Strict};

use super::time::{ago, readable, rfc3339};
use crate::device::DEVICE;
use crate::node::Node;
use crate::problem::{Failure, Problem};

/// The page's address, also after logging in on it.
pub(crate) const PATH: &str = "/account/sessions";

#[derive(Template)]
#[template(path = "sessions.html")]
struct Page {
    server: String,
    account: String,
    devices: Vec<Shown>,
    /// What was just done.
    notice: Option<String>,
}

#[derive(Template)]
#[template(path = "sessions_login.html")]
struct LoginFirst;

/// A line of the page.
struct Shown {
    handle: String,
    name: String,
    address: Option<String>,
    is_phone: bool,
    is_this: bool,
    since: Moment,
    last_seen: Moment,
}

/// A time, for people and for programs.
struct Moment {
    exact: String,
    readable: String,
    ago: String,
}

#[derive(Deserialize)]
pub(crate) struct Outcome {
    ended: Option<usize>,
}

/// Lists them, this one first.
pub(crate) async fn show(
    State(node): State<Node>,
    Extension(sessions): Extension<Sessions>,
    Strict(session): Strict,
    Query(Outcome { ended }): Query<Outcome>,
) -> Result<Response, Failure> {
    let Some(account) = session.principal() else { return Ok(log_in_first()) };
    let (own, now) = (session.handle(), SystemTime::now());
    let mut devices: Vec<_> = sessions.of(&account).await?.iter().map(|listed| shown(listed, &own, now)).collect();
    devices.sort_by_key(|device| !device.is_this);
    let page = Page { server: node.name().to_owned(), account, devices, notice: ended.map(notice) };
    Ok(Html(page.render().expect("the template only inserts text and numbers")).into_response())
}

fn notice(ended: usize) -> String {
    match ended {
        0 => "There was nothing left to end.".to_owned(),
        1 => "One session was ended.".to_owned(),
        _ => format!("{ended} sessions were ended."),
    }
}

fn log_in_first() -> Response {
    let page = LoginFirst.render().expect("the template inserts nothing");
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (StatusCode::UNAUTHORIZED, no_store, Html(page)).into_response()
}

fn shown(listed: &PrincipalSession, own: &SessionHandle, now: SystemTime) -> Shown {
    let handle = listed.handle();
    let is_this = handle == *own;
    // What does not read as a device, since somebody set it to something else, is none.
    let device = listed.get(DEVICE).ok().flatten();
    let moment =
        |time| Moment { exact: rfc3339(time).unwrap_or_default(), readable: readable(time), ago: ago(time, now) };
    Shown {
        handle: handle.encode(),
        name: device.as_ref().map_or_else(|| "An unknown device".to_owned(), |device| device.name()),
        address: device.as_ref().map(|device| device.address().to_owned()),
        is_phone: device.as_ref().is_some_and(|device| device.is_phone()),
        is_this,
        since: moment(listed.logged_in_on()),
        last_seen: moment(if is_this { now } else { listed.last_seen_on() }),
    }
}

/// Which to end: the session with this handle, or all but the one that asks.
#[derive(Deserialize)]
pub(crate) struct Which {
    session: Option<String>,
    others: Option<String>,
}

/// Ends one of the account's sessions, or all others. What is ended is gone on every server at once.
pub(crate) async fn revoke(
    Extension(sessions): Extension<Sessions>,
    Strict(session): Strict,
    Form(which): Form<Which>,
) -> Result<Response, Failure> {
    let Some(account) = session.principal() else { return Ok(log_in_first()) };
    let ended = match which {
        Which { session: None, others: Some(_) } => sessions.revoke_others(&account, &session.handle()).await?,
        Which { session: Some(handle), others: None } => {
            let handle = SessionHandle::decode(&handle).map_err(|_| unclear())?;
            if handle == session.handle() {
                session.log_out()?;
                return Ok(Redirect::to("/").into_response());
            }
            usize::from(sessions.revoke(&account, &handle).await?)
        }
        _ => return Err(unclear().into()),
    };
    Ok(Redirect::to(&format!("{PATH}?ended={ended}")).into_response())
}

fn unclear() -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "The form does not say which session to end.")
}

/// Somebody reloaded the address of the form's answer.
pub(crate) async fn back() -> Redirect {
    Redirect::to(PATH)
}
