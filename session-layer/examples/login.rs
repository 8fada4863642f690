//! Logging in and out: `cargo run -p session-layer --example login`, then http://127.0.0.1:3000. Anybody's password is `open sesame`.
//!
//! Logging in gives the session a new ID, so that whoever knew the old one has nothing; what was in the session stays.

use axum::extract::Form;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use serde::Deserialize;
use session_layer::store::MemoryStore;
use session_layer::{Attribute, ConfigError, Session, SessionError, SessionLayer};

/// A message for the next page.
const MESSAGE: Attribute<String> = Attribute::new("message");

async fn page(session: Session) -> Result<Html<String>, SessionError> {
    let message = session.get(MESSAGE)?.unwrap_or_default();
    if !message.is_empty() {
        session.remove(MESSAGE)?;
    }
    let form = match session.principal() {
        Some(user) => format!(
            "<p>You are {user}. <a href=/secret>The secret</a><form method=post action=/logout><button>Log out</button></form>"
        ),
        None => {
            "<form method=post action=/login><input name=username placeholder=Name><input name=password type=password \
                 placeholder=Password><button>Log in</button></form>"
                .to_owned()
        }
    };
    Ok(Html(format!("<!doctype html><p>{message}</p>{form}")))
}

#[derive(Deserialize)]
struct Credentials {
    username: String,
    password: String,
}

async fn log_in(session: Session, Form(credentials): Form<Credentials>) -> Result<Response, SessionError> {
    // A program would look up the user and verify a password hash, on a thread of its own. What it prints as HTML it would escape.
    let known = !credentials.username.is_empty() && credentials.username.chars().all(char::is_alphanumeric);
    if !known || credentials.password != "open sesame" {
        return Ok((StatusCode::UNAUTHORIZED, "Name or password are wrong").into_response());
    }
    session.log_in(credentials.username)?;
    session.insert(MESSAGE, "Welcome!")?;
    Ok(Redirect::to("/").into_response())
}

async fn log_out(session: Session) -> Result<Redirect, SessionError> {
    session.log_out()?;
    // What is stored after it starts another session.
    session.insert(MESSAGE, "Good bye!")?;
    Ok(Redirect::to("/"))
}

/// Lets nobody pass who is not logged in. Inside the session layer, outside what it protects.
async fn members_only(session: Session, request: axum::extract::Request, next: middleware::Next) -> Response {
    match session.principal() {
        Some(_) => next.run(request).await,
        None => (StatusCode::UNAUTHORIZED, "Log in first").into_response(),
    }
}

pub(crate) fn app() -> Result<Router, ConfigError> {
    let sessions = SessionLayer::builder(MemoryStore::new())
        .secret(b"an example's secret, known to everybody")
        .development(true)
        .build()?;
    let members = Router::new()
        .route("/secret", get(|| async { "Only members read this" }))
        .route_layer(middleware::from_fn(members_only));
    Ok(Router::new()
        .route("/", get(page))
        .route("/login", post(log_in))
        .route("/logout", post(log_out))
        .merge(members)
        .layer(sessions))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://127.0.0.1:3000");
    axum::serve(listener, app()?).await?;
    Ok(())
}
