//! Errors, drawn once, in an outer layer: as a page for a browser, as JSON (RFC 9457) for a program.
//!
//! Whoever refuses a request only says the status and, where there is more to tell, a sentence. That covers the session layer
//! too, whose answers to a failed commit are empty: its error stands in the response's extensions.

use askama::Template;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use session_layer::SessionError;

/// What went wrong, for the client to read.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
    /// The session ended: a page offers to log in, which starts another one.
    ended: bool,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), ended: false }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Why a handler gave up.
#[derive(Debug)]
pub(crate) enum Failure {
    Session(SessionError),
    Problem(Problem),
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        Failure::Session(error)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Failure::Problem(problem)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Failure::Session(error) => error.into_response(),
            Failure::Problem(problem) => problem.into_response(),
        }
    }
}

/// The layer that draws. It keeps the response's headers: a cookie, `Retry-After` and `Allow` mean what they meant.
pub(crate) async fn draw(request: Request, next: Next) -> Response {
    let html = wants_html(request.uri().path(), request.headers());
    let response = next.run(request).await;
    let Some(problem) = problem_of(&response) else { return response };
    let (content_type, body) = if html { page(&problem) } else { json(&problem) };
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    Response::from_parts(parts, Body::from(body))
}

/// Programs say nothing or `*/*`; browsers ask for HTML by name, except for what they fetch as data.
fn wants_html(path: &str, headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    !path.starts_with("/api/") && accepted.any(|value| value.contains("text/html"))
}

fn problem_of(response: &Response) -> Option<Problem> {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return None;
    }
    let extensions = response.extensions();
    if let Some(problem) = extensions.get::<Problem>() {
        return Some(problem.clone());
    }
    if let Some(error) = extensions.get::<SessionError>() {
        return Some(Problem { ended: error.is_gone(), ..Problem::new(status, detail(error)) });
    }
    // What other layers and extractors refuse comes empty or as a line of plain text: wrong method, too slow, too large, no
    // form. Handlers' own pages and JSON stay as they are.
    let content_type = response.headers().get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let own = content_type.starts_with(b"text/html") || content_type.starts_with(b"application/");
    (!own).then(|| Problem::new(status, explain(status)))
}

fn detail(error: &SessionError) -> String {
    if error.is_refused() {
        return "The session store refused to save this; its operator finds the reason in this server's log. Please try again later."
            .to_owned();
    }
    if error.is_unavailable() {
        return "The session store does not answer at the moment. If you changed something, it is not known whether that was \
                saved. Please try again shortly."
            .to_owned();
    }
    if error.is_gone() {
        return "This session has ended, here or on another server, so nothing was saved. Log in, or go back to the page \
                and try again."
            .to_owned();
    }
    let text = error.to_string();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), letters.as_str()),
        None => text,
    }
}

fn explain(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "There is nothing at this address.",
        StatusCode::METHOD_NOT_ALLOWED => "This address does not take requests of this kind.",
        StatusCode::REQUEST_TIMEOUT => "The request took too long, so it was given up and nothing was saved.",
        StatusCode::PAYLOAD_TOO_LARGE => "The request is larger than this server takes.",
        status if status.is_server_error() => "Something went wrong on the server.",
        _ => "The request could not be carried out.",
    }
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    status: u16,
    title: &'a str,
    detail: &'a str,
    ended: bool,
}

#[derive(Serialize)]
struct ProblemJson<'a> {
    status: u16,
    title: &'a str,
    detail: &'a str,
}

fn page(problem: &Problem) -> (&'static str, String) {
    let (status, title) = (problem.status.as_u16(), title(problem.status));
    let page = ProblemPage { status, title, detail: &problem.detail, ended: problem.ended };
    ("text/html; charset=utf-8", page.render().expect("the template only inserts text"))
}

fn json(problem: &Problem) -> (&'static str, String) {
    let (status, title) = (problem.status.as_u16(), title(problem.status));
    let body = ProblemJson { status, title, detail: &problem.detail };
    ("application/problem+json", serde_json::to_string(&body).expect("numbers and text serialise"))
}

fn title(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Error")
}
