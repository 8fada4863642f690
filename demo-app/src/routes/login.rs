//! Logging in and out.

use askama::Template;
use axum::extract::{Extension, Form, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use serde::Deserialize;
use session_layer::Session;

use super::sessions;
use crate::accounts::Verdict;
use crate::device::Device;
use crate::node::Node;
use crate::problem::{Failure, Problem};
use crate::server::Connection;

#[derive(Deserialize)]
pub(crate) struct Credentials {
    username: String,
    password: String,
    /// The page that the form was on.
    next: Option<String>,
}

impl Credentials {
    /// Only where this site's own forms lead: what a form sends may come from anybody.
    fn next(&self) -> &'static str {
        if self.next.as_deref() == Some(sessions::PATH) { sessions::PATH } else { "/" }
    }
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    next: &'static str,
}

/// Logs in: the session gets a new ID and keeps its attributes.
pub(crate) async fn log_in(
    State(node): State<Node>,
    Extension(connection): Extension<Connection>,
    session: Session,
    headers: HeaderMap,
    Form(credentials): Form<Credentials>,
) -> Result<Response, Failure> {
    let next = credentials.next();
    let Credentials { username, password, .. } = credentials;
    let verdict = node.accounts().verify(&username, password).await;
    node.metrics().login(verdict);
    match verdict {
        Verdict::Right => {
            Device::of(&headers, connection).note(&session)?;
            session.log_in(&username)?;
            Ok(Redirect::to(next).into_response())
        }
        // One answer for all failures, and nothing of the input in it: it does not tell which names have accounts.
        Verdict::Wrong => {
            let page = LoginPage { next }.render().expect("the template only inserts an address");
            let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
            Ok((StatusCode::UNAUTHORIZED, no_store, Html(page)).into_response())
        }
        Verdict::Busy => {
            let problem =
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "Too many people are logging in. Please try again.");
            Ok(([(header::RETRY_AFTER, HeaderValue::from_static("1"))], problem).into_response())
        }
    }
}

/// Logs out: the session ends on every server, with all that is in it.
pub(crate) async fn log_out(session: Session) -> Result<Redirect, Failure> {
    session.log_out()?;
    Ok(Redirect::to("/"))
}

/// Somebody reloaded the address of a form's answer.
pub(crate) async fn back() -> Redirect {
    Redirect::to("/")
}
