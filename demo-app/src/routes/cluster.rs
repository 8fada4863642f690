//! The dashboard: the picture as a page, as JSON, and as a stream of either. None of it asks for a session or waits for the store.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::page::tone;
use crate::cluster::{Mood, NodePicture, PATH as NODE_PATH, PICTURE_PATH, Picture, Role, ServerPicture, short};
use crate::node::Node;

const NO_STORE: (HeaderName, &str) = (header::CACHE_CONTROL, "no-store");

/// The shortest time between two pictures of a stream: faster than anybody sees, slower than offsets change under load.
const PACE: Duration = Duration::from_millis(200);

/// A stream ends by itself after this long, and browsers open another one. So nobody who waits for streams to end waits for longer:
/// an nginx that was reloaded, say, to take a node out of rotation.
const LONGEST: Duration = Duration::from_secs(20);

pub(crate) fn pages() -> Router<Node> {
    Router::new().route("/cluster", get(show))
}

/// For programs; not in the log, since they ask all the time.
pub(crate) fn api() -> Router<Node> {
    Router::new()
        .route(PICTURE_PATH, get(json))
        .route("/api/cluster/events", get(events))
        .route(NODE_PATH, get(async |State(node): State<Node>| ([NO_STORE], Json(node.status()))))
}

async fn json(State(node): State<Node>) -> impl IntoResponse {
    ([NO_STORE], Json(Picture::clone(&node.picture().borrow())))
}

#[derive(Template)]
#[template(path = "cluster.html")]
struct Page {
    live: String,
    embedded: bool,
}

async fn show(State(node): State<Node>) -> impl IntoResponse {
    let picture = Arc::clone(&node.picture().borrow());
    let page = Page { live: live(&picture), embedded: picture.store == "memory" };
    ([NO_STORE], Html(page.render().expect("the template only inserts text")))
}

#[derive(Deserialize)]
struct How {
    /// `html` for the page's own script.
    r#as: Option<String>,
}

/// A picture now, and each time that it changes. Whoever comes back after a break misses nothing, since each is whole.
async fn events(State(node): State<Node>, Query(How { r#as }): Query<How>) -> Response {
    let Some(place) = node.stream_place() else {
        let sentence = "Too many people are watching this cluster. Please try again in half a minute.";
        return (StatusCode::SERVICE_UNAVAILABLE, [NO_STORE, (header::RETRY_AFTER, "30")], sentence).into_response();
    };
    let as_html = r#as.as_deref() == Some("html");
    let pictures = pictures(node.picture()).map(move |picture| {
        let event = Event::default().event("picture").retry(Duration::from_millis(500));
        let event =
            if as_html { event.data(live(&picture)) } else { event.json_data(&*picture).expect("pictures serialise") };
        Ok::<_, Infallible>(event)
    });
    let ends = Box::pin(async move {
        tokio::select! {
            () = node.draining() => {}
            () = sleep(LONGEST) => {}
        }
        // With the stream's end; a client that goes away drops all of this.
        drop(place);
    });
    // Buffered, events would come late and in heaps.
    let headers = [NO_STORE, (HeaderName::from_static("x-accel-buffering"), "no")];
    (headers, Sse::new(pictures.take_until(ends)).keep_alive(KeepAlive::default())).into_response()
}

fn pictures(picture: watch::Receiver<Arc<Picture>>) -> impl Stream<Item = Arc<Picture>> + Send {
    stream::unfold((picture, None::<Instant>), async |(mut picture, last)| {
        if let Some(last) = last {
            tokio::time::sleep_until(last + PACE).await;
            picture.changed().await.ok()?;
        }
        let now = Arc::clone(&picture.borrow_and_update());
        Some((now, (picture, Some(Instant::now()))))
    })
}

/// The part of the page that changes.
#[derive(Template)]
#[template(path = "cluster_live.html")]
struct Live<'a> {
    picture: &'a Picture,
    /// The busiest second that a chart shows.
    most: f32,
}

fn live(picture: &Picture) -> String {
    let most = picture.nodes.iter().flat_map(|node| &node.history).fold(0.0, |most: f32, rate| most.max(*rate));
    let live = Live { picture, most };
    live.render().expect("the template only inserts text and numbers")
}

/// A line between two rows of the map; across 1,200 units, down 40.
struct Wire {
    path: String,
    tone: Option<u32>,
    up: bool,
}

const ACROSS: usize = 1200;

/// The middle of a column.
fn column(place: usize, columns: usize) -> usize {
    ACROSS * (2 * place + 1) / (2 * columns)
}

fn straight(from: usize, to: usize) -> String {
    format!("M{from} 0C{from} 20 {to} 20 {to} 40")
}

impl Live<'_> {
    fn mood(&self) -> &'static str {
        match self.picture.mood {
            Mood::Unknown => "unknown",
            Mood::Well => "good",
            Mood::Reduced => "busy",
            Mood::FailingOver => "bad",
        }
    }

    /// From the front to the nodes.
    fn front_wires(&self) -> Vec<Wire> {
        let nodes = &self.picture.nodes;
        let wire = |(place, node): (usize, &NodePicture)| Wire {
            path: straight(ACROSS / 2, column(place, nodes.len())),
            tone: Some(tone(&node.name)),
            up: node.state == "ready",
        };
        nodes.iter().enumerate().map(wire).collect()
    }

    /// From the nodes to the master.
    fn store_wires(&self) -> Vec<Wire> {
        let servers = &self.picture.servers;
        let Some(master) = servers.iter().position(|server| server.leads) else { return Vec::new() };
        let nodes = &self.picture.nodes;
        let alive = nodes.iter().enumerate().filter(|(_, node)| node.state != "down");
        let wire = |(place, node): (usize, &NodePicture)| Wire {
            path: straight(column(place, nodes.len()), column(master, servers.len())),
            tone: Some(tone(&node.name)),
            up: node.store_up,
        };
        alive.map(wire).collect()
    }

    /// From the master to its replicas, below them.
    fn replication_wires(&self) -> Vec<Wire> {
        let servers = &self.picture.servers;
        let Some(master) = servers.iter().position(|server| server.leads) else { return Vec::new() };
        let from = column(master, servers.len());
        let wire = |(place, server): (usize, &ServerPicture)| {
            let to = column(place, servers.len());
            Wire { path: format!("M{from} 0C{from} 44 {to} 44 {to} 0"), tone: None, up: server.link_up? }.into()
        };
        servers.iter().enumerate().filter_map(wire).collect()
    }

    fn tone(&self, server: &str) -> u32 {
        tone(server)
    }

    fn name<'a>(&self, address: &'a str) -> &'a str {
        short(address)
    }

    /// The rest of the address.
    fn port<'a>(&self, address: &'a str) -> &'a str {
        &address[short(address).len()..]
    }

    fn role(&self, server: &ServerPicture) -> &'static str {
        match (server.role, server.leads) {
            (Role::Down, _) => "down",
            (Role::Master, true) => "master",
            (Role::Master, false) => "was master",
            (Role::Replica, true) => "to be master",
            (Role::Replica, false) => "replica",
        }
    }

    fn role_class(&self, server: &ServerPicture) -> String {
        format!("is-{}", self.role(server).replace(' ', "-"))
    }

    /// What there is to say about a server besides its role.
    fn remark(&self, server: &ServerPicture) -> String {
        match (server.role, server.link_up, server.behind_bytes) {
            (Role::Down, ..) => "no answer".to_owned(),
            (Role::Master, ..) => {
                let count = self.picture.servers.iter().filter(|other| other.link_up == Some(true)).count();
                format!("{count} following")
            }
            (_, Some(false), _) => "link is down".to_owned(),
            (_, _, Some(0)) => "up to date".to_owned(),
            (_, _, Some(bytes)) if bytes < 10_000 => format!("{bytes} B behind"),
            (_, _, Some(bytes)) => format!("{} KB behind", bytes / 1000),
            _ => "following".to_owned(),
        }
    }

    /// "67 % of reads".
    fn read_share(&self, server: &ServerPicture) -> Option<String> {
        server.read_share.map(|share| format!("{:.0} % of reads", 100.0 * share))
    }

    /// The outline of a node's chart: 60 across, 20 down.
    fn chart(&self, node: &NodePicture) -> String {
        let most = self.most.max(1.0);
        let mut path = "M0 20".to_owned();
        for (second, rate) in node.history.iter().enumerate() {
            let height = 19.0 * rate / most;
            path.push_str(&format!("L{second} {y:.1}L{next} {y:.1}", y = 20.0 - height, next = second + 1));
        }
        path.push_str("L60 20Z");
        path
    }

    fn rate(&self, rate: &f32) -> String {
        if *rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
    }
}
