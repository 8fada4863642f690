//! The schemes side by side, and each by itself. A "login" here is a click: what is of interest is whether it is still there at
//! the next request.

use askama::Template;
use axum::extract::{Extension, State};
use axum::http::header;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use session_layer::{Attribute, Session};

use super::page::tone;
use crate::compare::Scheme;
use crate::node::Node;
use crate::problem::Failure;

/// Which node logged the guest in.
const BY: Attribute<String> = Attribute::new("logged_in_by");

/// The page of all three. It asks for no session.
pub(crate) fn overview() -> Router<Node> {
    Router::new().route("/compare", get(all)).route("/compare/", get(|| async { Redirect::permanent("/compare") }))
}

/// One scheme's pages, to be wrapped in its layer.
pub(crate) fn scheme(scheme: Scheme) -> Router<Node> {
    let path = scheme.path();
    Router::new()
        .route(&path, get(show))
        .route(&format!("{path}state"), get(state))
        .route(&format!("{path}login"), post(log_in).get(back))
        .route(&format!("{path}logout"), post(log_out).get(back))
        .layer(Extension(scheme))
}

#[derive(Template)]
#[template(path = "compare.html")]
struct Overview;

async fn all() -> impl IntoResponse {
    // The same for everybody, and new with the next version.
    ([(header::CACHE_CONTROL, "no-cache")], Html(Overview.render().expect("the template inserts nothing")))
}

/// What one request found: who answered, and whether the login was there.
#[derive(Serialize)]
struct Found {
    scheme: &'static str,
    server: String,
    account: Option<String>,
    logged_in_by: Option<String>,
}

impl Found {
    fn new(scheme: Scheme, node: &Node, session: &Session) -> Self {
        Self {
            scheme: scheme.name(),
            server: node.name().to_owned(),
            account: session.principal(),
            logged_in_by: session.get(BY).ok().flatten(),
        }
    }
}

/// For the page of all three. Only reads, and so does the next: a node that does not know the session leaves the cookie as it is.
async fn state(Extension(scheme): Extension<Scheme>, State(node): State<Node>, session: Session) -> Json<Found> {
    Json(Found::new(scheme, &node, &session))
}

#[derive(Template)]
#[template(path = "compare_scheme.html")]
struct Page {
    scheme: Scheme,
    found: Found,
    tone: u32,
}

/// One scheme by itself, for who has no JavaScript, or wants to refresh by hand.
async fn show(Extension(scheme): Extension<Scheme>, State(node): State<Node>, session: Session) -> Response {
    let page = Page { scheme, found: Found::new(scheme, &node, &session), tone: tone(node.name()) };
    Html(page.render().expect("the template only inserts text")).into_response()
}

async fn log_in(
    Extension(scheme): Extension<Scheme>,
    State(node): State<Node>,
    session: Session,
) -> Result<Redirect, Failure> {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).expect("the operating system has random numbers");
    session.insert(BY, node.name())?;
    session.log_in(format!("guest-{:04x}", u16::from_be_bytes(bytes)))?;
    Ok(Redirect::to(&scheme.path()))
}

async fn log_out(Extension(scheme): Extension<Scheme>, session: Session) -> Result<Redirect, Failure> {
    session.log_out()?;
    Ok(Redirect::to(&scheme.path()))
}

/// Somebody reloaded the address of a form's answer.
async fn back(Extension(scheme): Extension<Scheme>) -> Redirect {
    Redirect::to(&scheme.path())
}
