//! The page: which server answered, and which session it found.

use askama::Template;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::Html;
use session_layer::store::parse_counter;
use session_layer::{Attribute, Session, SessionError};

use super::api::address_and_port;
use super::time::readable;
use crate::device::DEVICE;
use crate::node::Node;
use crate::problem::Failure;
use crate::server::Connection;
use crate::visit::Visit;

/// How often the page was asked for in this session. A counter: every visit counts, also those at the same time.
pub(crate) const VISITS: Attribute<i64> = Attribute::new("visits");

/// The servers that answered last, the newest at the end. An attribute as any other, written as a whole: of two visits at the
/// same moment one may be missing in this strip, but never in the count.
const RECENT: Attribute<Vec<String>> = Attribute::new("recent_servers");

/// How many servers the strip shows.
const STRIP: usize = 20;

#[derive(Template)]
#[template(path = "page.html")]
struct Page {
    server: String,
    tone: u32,
    address: String,
    port: u16,
    /// None if this request does not start one.
    session_id: Option<String>,
    created_on: String,
    /// The browser came with the cookie of a session that has ended.
    ended: bool,
    visits: i64,
    full: bool,
    account: Option<String>,
    recent: Vec<Mark>,
    attributes: Vec<Shown>,
}

/// A server in the strip.
struct Mark {
    tone: u32,
    name: String,
}

/// An attribute in the table.
struct Shown {
    name: String,
    value: Option<String>,
}

/// Counts a visit and shows the page. A first visit starts a session, so that the ID on the page is the one in the cookie. A request
/// that is not a visit only looks.
pub(crate) async fn show(
    State(node): State<Node>,
    Extension(connection): Extension<Connection>,
    Visit(is_visit): Visit,
    session: Session,
) -> Result<(StatusCode, Html<String>), Failure> {
    let mut recent = recent(&session, is_visit.then_some(node.name()));
    let mut starts_none = false;
    if is_visit {
        session.insert(RECENT, &recent)?;
    }
    let counted =
        if is_visit { count_visit(&session).await } else { Ok(session.get(VISITS).ok().flatten().unwrap_or(0)) };
    let (status, visits) = match counted {
        Ok(visits) => (StatusCode::OK, visits),
        // The session ended a moment ago, or just now. This visit may have been on its way when it did, so it starts no other session;
        // a later one will.
        Err(error) if error.is_gone() && !session.reload().await? => {
            session.forgive_failed_flush();
            recent.drain(..recent.len().saturating_sub(1));
            starts_none = true;
            (StatusCode::OK, 0)
        }
        // The session is full. The page is where a person can remove something from it, so it is shown, under a status that says
        // that this visit does not count.
        Err(error) if error.is_limit() => (error.status(), session.get(VISITS).ok().flatten().unwrap_or(0)),
        Err(error) => return Err(error.into()),
    };
    let starts = (is_visit && !starts_none) || session.exists();
    let (address, port) = address_and_port(connection);
    let page = Page {
        server: node.name().to_owned(),
        tone: tone(node.name()),
        address,
        port,
        session_id: starts.then(|| session.id().encode()),
        created_on: if starts { readable(session.created_on()) } else { String::new() },
        ended: starts_none || session.has_ended(),
        visits,
        full: status != StatusCode::OK,
        account: session.principal(),
        recent: recent.into_iter().map(|name| Mark { tone: tone(&name), name }).collect(),
        attributes: attributes(&session),
    };
    Ok((status, Html(page.render().expect("the template only inserts text and numbers"))))
}

/// The strip, with this server at its end if it has a visit. What does not read as a strip, because somebody wrote something else under its name,
/// starts over.
fn recent(session: &Session, server: Option<&str>) -> Vec<String> {
    let mut recent = session.get(RECENT).ok().flatten().unwrap_or_default();
    recent.extend(server.map(str::to_owned));
    recent.drain(..recent.len().saturating_sub(STRIP));
    recent
}

/// Adds one visit, now, and says which one it is: exact, however many come at the same time on however many servers.
async fn count_visit(session: &Session) -> Result<i64, SessionError> {
    if session.raw(VISITS).is_none_or(|stored| parse_counter(&stored).is_some()) {
        session.increment(VISITS, 1)?;
    } else {
        // Somebody stored something else under this name, which is allowed; the count starts over instead of failing.
        session.insert(VISITS, 1)?;
    }
    Ok(session.flush().await?.counter(VISITS).unwrap_or(1))
}

/// All attributes but those that are shown in a better way, here or on the page of devices.
fn attributes(session: &Session) -> Vec<Shown> {
    let elsewhere = [VISITS.name(), RECENT.name(), DEVICE.name()];
    let names = session.names().into_iter().filter(|name| !elsewhere.contains(&name.as_str()));
    names
        .map(|name| {
            let value = super::api::json_text(session, &name).map(|json| json.get().to_owned());
            Shown { name, value }
        })
        .collect()
}

/// Which of the style sheet's colours a server has: always the same one, and different ones for 1111 and 2222.
pub(crate) fn tone(server: &str) -> u32 {
    server.bytes().map(u32::from).sum::<u32>() % 6
}
