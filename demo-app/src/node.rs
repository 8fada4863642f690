//! One node: its state, its routes, and the layers around them.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Request};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state};
use session_layer::SessionLayer;
use session_layer::store::{MemoryStore, NearCacheLimits, ReadShares, RedisStore, SessionStore, StoreStatus};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer};
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::{DefaultOnResponse, TraceLayer};
use tracing::{Level, Span};

use crate::accounts::Accounts;
use crate::cluster::{self, Picture, Sources, Status};
use crate::compare::Schemes;
use crate::config::{ConfigError, SessionSettings, StoreUrl};
use crate::drain::Limits;
use crate::metrics::Metrics;
use crate::{Fatal, drain, headers, metrics, origin, problem, routes, server, unread};

/// How long a request may wait for the session store, all its waiting together.
pub(crate) const STORE_BUDGET: Duration = Duration::from_secs(5);

/// How long a handler may take, its waiting for the body and for the session store included. The commit comes after it.
pub(crate) const HANDLER_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest request body: well above the largest attribute, so that the library's own limit is the one a client meets.
const MAX_BODY_BYTES: usize = 256 * 1024;

/// How many event streams of the dashboard a node keeps open at once. Each holds a connection and gets a page's worth of data whenever
/// the picture changes; so many people do not look at one cluster.
pub(crate) const MAX_STREAMS: usize = 256;

/// A node's state: cheap to clone, one per node. Two of them live in one process in the embedded cluster.
#[derive(Clone)]
pub(crate) struct Node(Arc<Inner>);

struct Inner {
    name: String,
    readiness: watch::Sender<Readiness>,
    picture: watch::Sender<Arc<Picture>>,
    store_up: Box<dyn Fn() -> bool + Send + Sync>,
    reads: OnceLock<Box<dyn Fn() -> ReadShares + Send + Sync>>,
    store_status: OnceLock<Box<dyn Fn() -> StoreStatus + Send + Sync>>,
    metrics: Metrics,
    accounts: Accounts,
    /// Places for event streams.
    streams: Arc<Semaphore>,
}

/// What `/readyz` tells a load balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    Starting,
    Ready,
    Draining,
}

impl Readiness {
    /// For those who ask.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Readiness::Starting => "starting",
            Readiness::Ready => "ready",
            Readiness::Draining => "draining",
        }
    }
}

impl Node {
    /// A node that is starting. `store_up` says whether its store answers.
    pub(crate) fn new(name: String, store_up: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            name,
            readiness: watch::Sender::new(Readiness::Starting),
            picture: watch::Sender::default(),
            store_up: Box::new(store_up),
            reads: OnceLock::new(),
            store_status: OnceLock::new(),
            metrics: Metrics::default(),
            accounts: Accounts::new(),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        }))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn store_up(&self) -> bool {
        (self.0.store_up)()
    }

    /// Where to ask how often what was read from, if there is a choice.
    pub(crate) fn count_reads(&self, reads: impl Fn() -> ReadShares + Send + Sync + 'static) {
        // Said once, when the node is put together.
        let _ = self.0.reads.set(Box::new(reads));
    }

    /// Where to ask what there is to know about the server of the store, if there is one.
    pub(crate) fn describe_store(&self, status: impl Fn() -> StoreStatus + Send + Sync + 'static) {
        // Said once, when the node is put together.
        let _ = self.0.store_status.set(Box::new(status));
    }

    pub(crate) fn store_status(&self) -> StoreStatus {
        self.0.store_status.get().map(|status| status()).unwrap_or_default()
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(crate) fn accounts(&self) -> &Accounts {
        &self.0.accounts
    }

    /// A place for one more event stream, until it is dropped; `None` while all are taken.
    pub(crate) fn stream_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.streams).try_acquire_owned().ok()
    }

    /// The cluster as this node sees it, and as it will see it.
    pub(crate) fn picture(&self) -> watch::Receiver<Arc<Picture>> {
        self.0.picture.subscribe()
    }

    /// Shows another picture of the cluster from now on.
    pub(crate) fn show(&self, picture: Arc<Picture>) {
        self.0.picture.send_replace(picture);
    }

    /// What it tells the other nodes of itself.
    pub(crate) fn status(&self) -> Status {
        let (requests, recent) = self.metrics().traffic();
        let state = self.readiness().word().to_owned();
        let reads = self.0.reads.get().map(|reads| reads()).unwrap_or_default();
        Status {
            name: self.name().to_owned(),
            state,
            store_up: self.store_up(),
            requests,
            recent,
            reads: reads.servers,
            near_cache: reads.near_cache,
            warnings: warnings(&self.store_status()),
        }
    }

    pub(crate) fn readiness(&self) -> Readiness {
        *self.0.readiness.borrow()
    }

    pub(crate) fn set_readiness(&self, readiness: Readiness) {
        self.0.readiness.send_replace(readiness);
    }

    /// Resolves when the node begins to stop. Answers that have no end by themselves, as event streams, end then
    /// (`stream.take_until(…)`); others need not care.
    pub(crate) fn draining(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut readiness = self.0.readiness.subscribe();
        // The node has gone: it does not get more stopped than that.
        async move { drop(readiness.wait_for(|readiness| *readiness == Readiness::Draining).await) }
    }
}

/// What whoever runs the servers should change, a sentence each.
fn warnings(status: &StoreStatus) -> Vec<String> {
    let server = status.server.as_deref().unwrap_or("Redis");
    let eviction = status.eviction.as_ref().map(|eviction| format!("{server} {eviction}."));
    let off = status.off.iter().map(|(feature, reason)| format!("On {server}, {feature} is off: {reason}."));
    eviction.into_iter().chain(off).collect()
}

/// Runs one node until the process is asked to stop.
pub(crate) async fn run(
    listen: SocketAddr,
    name: String,
    store: StoreUrl,
    peers: Vec<String>,
    settings: &SessionSettings,
) -> Result<(), Fatal> {
    let (node, layers, redis) = match store {
        StoreUrl::Memory => {
            let node = Node::new(name, || true);
            let layers = Layers::new(MemoryStore::new(), settings, &node)?;
            (node, layers, None)
        }
        StoreUrl::Redis(url) => {
            // Returns at once and connects behind the scenes: a node starts while Redis is down.
            let store = RedisStore::builder(&url)
                .replica_reads(settings.replica_reads)
                .near_cache(settings.near_cache.then(NearCacheLimits::default));
            let store = store.build().map_err(|error| ConfigError::new("REDIS_URL", error))?;
            let (observer, reads, up, status) = (store.observe(), store.clone(), store.clone(), store.clone());
            let node = Node::new(name, move || up.is_up());
            let layers = Layers::new(store, settings, &node)?;
            node.count_reads(move || reads.reads());
            node.describe_store(move || status.status());
            (node, layers, Some(observer))
        }
    };
    let listener = server::bind(listen).await?;
    let asked_to_stop = server::asked_to_stop();
    tracing::info!(server = node.name(), "listening on http://{}", listener.local_addr()?);
    let sources = Sources { front: (!peers.is_empty()).then_some("nginx"), peers, redis };
    tokio::spawn(cluster::watch(node.clone(), sources));
    serve(listener, node, layers, Limits::default(), asked_to_stop).await;
    Ok(())
}

/// Serves a node until `stop` is ready.
pub(crate) async fn serve(
    listener: tokio::net::TcpListener,
    node: Node,
    layers: Layers,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    node.set_readiness(Readiness::Ready);
    let draining = node.clone();
    let stop = async move {
        stop.await;
        draining.set_readiness(Readiness::Draining);
    };
    drain::serve(listener, router(node, layers), limits, stop).await;
}

/// The session layers around a node's routes.
pub(crate) struct Layers {
    /// That of the demo itself.
    pub(crate) sessions: SessionLayer,
    /// Those that it is compared with.
    pub(crate) schemes: Schemes,
}

impl Layers {
    /// Those of a node that keeps its sessions in `store`.
    pub(crate) fn new(
        store: impl SessionStore + Clone,
        settings: &SessionSettings,
        node: &Node,
    ) -> Result<Self, ConfigError> {
        Ok(Self { sessions: session_layer(store.clone(), settings, node)?, schemes: Schemes::new(store, settings)? })
    }
}

/// The session layer, from the settings; the node counts what happens to sessions.
pub(crate) fn session_layer(
    store: impl SessionStore,
    settings: &SessionSettings,
    node: &Node,
) -> Result<SessionLayer, ConfigError> {
    let node = node.clone();
    let builder = SessionLayer::builder(store)
        .secret(&settings.secret)
        .accepted_secrets(&settings.accepted)
        .idle_timeout(settings.idle_timeout)
        .absolute_timeout(settings.absolute_timeout)
        .budget(STORE_BUDGET)
        .rollback_detection(settings.rollback_detection)
        .on_event(move |event| node.metrics().session(event))
        .development(settings.development);
    builder.build().map_err(|error| {
        let variable = match error.setting() {
            "idle_timeout" => "SESSION_IDLE_TIMEOUT_SECS",
            "absolute_timeout" => "SESSION_ABSOLUTE_TIMEOUT_SECS",
            "accepted_secrets" => "SESSION_ACCEPTED_SECRETS",
            _ => "SESSION_SECRET",
        };
        ConfigError::new(variable, error)
    })
}

/// The node's routes in their layers. A layer added later is further out; read from below for the way in.
pub(crate) fn router(node: Node, Layers { sessions, schemes }: Layers) -> Router {
    let name = HeaderValue::from_str(node.name()).expect("a server's name fits into a header");
    // For the page that lists an account's sessions and ends them.
    let principals = Extension(sessions.sessions());

    let mut with_sessions = in_session_layer(routes::with_sessions().layer(principals), sessions);
    for (scheme, layer) in schemes.0 {
        with_sessions = with_sessions.merge(in_session_layer(routes::scheme(scheme), layer));
    }

    with_sessions
        .merge(routes::pages())
        // Outside the session layer: who may not come in is turned away before any session is looked at.
        .layer(from_fn(origin::check))
        .layer(RequestBodyLimitLayer::new(MAX_BODY_BYTES))
        // Outside all that can refuse a request, since it draws their refusals.
        .layer(from_fn(problem::draw))
        // Outside what writes bodies. Nothing secret is in them that a guess beside it could be compressed with: the session
        // ID opens nothing, and the cookie is in no body.
        .layer(CompressionLayer::new())
        // Sees the status that the client sees, and how long everything took. Health checks are not worth a line.
        .layer(
            TraceLayer::new_for_http()
                .make_span_with({
                    let node = node.clone();
                    move |request: &Request| span(&node, request)
                })
                .on_response(DefaultOnResponse::new().level(Level::INFO)),
        )
        .merge(routes::without_sessions())
        // For panics in the layers above, and in routes without a session.
        .layer(CatchPanicLayer::new())
        // Outside the panics, so that they are counted.
        .layer(from_fn_with_state(node.clone(), metrics::count))
        .layer(from_fn_with_state(name, headers::add))
        // Outside all that may answer without having read the request.
        .layer(from_fn(unread::read))
        // The proxy in front gives each request an ID; who comes without one gets one, and finds it in the answer.
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .with_state(node)
}

/// Routes in a session layer, and what belongs inside it.
fn in_session_layer(routes: Router<Node>, sessions: SessionLayer) -> Router<Node> {
    routes
        // Inside the session layer, so that a panic is a 500 to it like any other: nothing is committed, but the cookie of
        // what the handler flushed before is still sent.
        .layer(CatchPanicLayer::new())
        // Inside the session layer as well: 408 commits nothing, which is what the answer says. Outside it would cut the wait
        // for a commit that takes effect all the same.
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, HANDLER_TIMEOUT))
        .layer(sessions)
}

/// Path without query, and nothing of the session: neither belongs in a log.
fn span(node: &Node, request: &Request) -> Span {
    let id = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok()).unwrap_or_default();
    tracing::info_span!(
        "request",
        server = node.name(),
        http.request.method = %request.method(),
        url.path = request.uri().path(),
        request.id = id,
    )
}
