//! What the layer itself costs, in instructions: counted under callgrind, which gives the same figure on every machine and however
//! busy it is. There the processor has no instructions for SHA-256, so the MAC is computed in software.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::body::Body;
use axum::http::{Request, Response, header};
use session_layer::store::{MemoryStore, NearCacheLimits, RedisStore, SessionStore};
use session_layer::{LazySession, Session, SessionLayer};
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::contract::{SECRET, Size, WATCHED};
use crate::http::{Cookies, remember};

/// What is counted: by name in the file of results, and in words.
pub(crate) const COUNTED: &[(&str, &str)] = &[
    ("untouched", "a request that does not look at its session"),
    ("read", "a request that reads one of 8 attributes, of a session in the store in memory"),
    (NEAR_CACHE, "a request that reads one of 8 attributes, of a session in the near cache"),
];

pub(crate) const NEAR_CACHE: &str = "near-cache";

type App = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Sends so many requests through the layer, or past it; what there is to count.
pub(crate) fn drive(what: &str, redis: SocketAddr, requests: usize) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        match what {
            "bare" => {
                let (mut app, mut cookies) = (BoxCloneSyncService::new(service_fn(untouched)), Cookies::new());
                remember(&mut cookies, "session=x");
                send(&mut app, &mut cookies, requests).await
            }
            "untouched" => {
                let (mut app, mut cookies) = layered(MemoryStore::new(), untouched).await?;
                send(&mut app, &mut cookies, requests).await
            }
            "read" => {
                let (mut app, mut cookies) = layered(MemoryStore::new(), read).await?;
                send(&mut app, &mut cookies, requests).await
            }
            NEAR_CACHE => read_from_near_cache(redis, requests).await,
            _ => bail!("nothing is called {what}"),
        }
    })
}

async fn read_from_near_cache(redis: SocketAddr, requests: usize) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(100);
    let store = RedisStore::builder(&format!("redis://{redis}")).near_cache(NearCacheLimits::default()).build()?;
    store.available().await;
    let (mut app, mut cookies) = layered(store.clone(), read).await?;
    while store.reads().near_cache == 0 {
        tokio::time::sleep(PAUSE).await;
        send(&mut app, &mut cookies, 1).await?;
    }
    let before = store.reads().near_cache;
    send(&mut app, &mut cookies, requests).await?;
    let missed = requests as u64 - (store.reads().near_cache - before);
    // It is read anew every 30 seconds, and when this machine was so busy that Redis was not heard of for one.
    if missed > requests as u64 / 1000 {
        bail!("{missed} of {requests} reads were not from the near cache");
    }
    Ok(())
}

async fn send(app: &mut App, cookies: &mut Cookies, requests: usize) -> Result<()> {
    /// So often other tasks get their turn: the store must hear of Redis.
    const TURN: usize = 50;
    let mut value = as_header(cookies);
    for number in 0..requests {
        let request = Request::builder().uri("/").header(header::COOKIE, &value).body(Body::empty())?;
        let response = app.ready().await?.call(request).await?;
        if !response.status().is_success() {
            bail!("status {}", response.status());
        }
        if response.headers().contains_key(header::SET_COOKIE) {
            take_cookies(cookies, &response)?;
            value = as_header(cookies);
        }
        if number % TURN == 0 {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

fn as_header(cookies: &Cookies) -> String {
    cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
}

fn take_cookies(cookies: &mut Cookies, response: &Response<Body>) -> Result<()> {
    for cookie in response.headers().get_all(header::SET_COOKIE) {
        remember(cookies, cookie.to_str()?.split(';').next().unwrap_or_default());
    }
    Ok(())
}

async fn untouched(_: Request<Body>) -> Result<Response<Body>, Infallible> {
    Ok(Response::new(Body::empty()))
}

async fn read(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let session = Session::from_extensions(request.extensions()).await;
    let value = session.and_then(|session| session.get::<String>(WATCHED));
    let mut response = Response::new(Body::empty());
    if !matches!(value, Ok(Some(_))) {
        *response.status_mut() = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
    }
    Ok(response)
}

/// A handler behind the layer, and the cookies of a session of 1 KiB.
async fn layered<S, H, F>(store: S, handler: H) -> Result<(App, Cookies)>
where
    S: SessionStore,
    H: Fn(Request<Body>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let layer = SessionLayer::builder(store).secret(SECRET).build()?;
    let start = layer.layer(service_fn(async |request: Request<Body>| {
        let session = LazySession::from_extensions(request.extensions());
        let filled = session.and_then(|session| {
            Size::Kib1.attributes().iter().try_for_each(|(name, value)| session.insert(name.as_str(), value))
        });
        let mut response = Response::new(Body::empty());
        if filled.is_err() {
            *response.status_mut() = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
        }
        Ok::<_, Infallible>(response)
    }));
    let response = start.oneshot(Request::new(Body::empty())).await?;
    let mut cookies = Cookies::new();
    take_cookies(&mut cookies, &response)?;
    if cookies.is_empty() {
        bail!("no session was started: status {}", response.status());
    }
    Ok((BoxCloneSyncService::new(layer.layer(service_fn(handler))), cookies))
}

/// Instructions per request, without those of the same request past the layer.
pub(crate) fn count(what: &str, redis: SocketAddr) -> Result<u64> {
    // What a store does by itself meanwhile is counted too, and more of it the longer it takes: the least is nearest to the truth.
    const TRIES: usize = 3;
    let tries = if what == NEAR_CACHE { TRIES } else { 1 };
    let counts = (0..tries).map(|_| per_request(what, redis)).collect::<Result<Vec<_>>>()?;
    let least = counts.into_iter().min().context("it was tried")?;
    Ok(least.saturating_sub(per_request("bare", redis)?))
}

/// The difference between many and more requests: what happens once is in both.
fn per_request(what: &str, redis: SocketAddr) -> Result<u64> {
    const MANY: u64 = 1000;
    const MORE: u64 = 11_000;
    let (many, more) = (collected(what, redis, MANY)?, collected(what, redis, MORE)?);
    Ok(more.saturating_sub(many) / (MORE - MANY))
}

fn collected(what: &str, redis: SocketAddr, requests: u64) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["drive", what, &redis.to_string(), &requests.to_string()])
        .stdin(Stdio::null())
        .output()
        .context("cannot start valgrind: `apt-get install valgrind` on Debian and Ubuntu")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("valgrind failed: {said}");
    }
    let line = said.lines().find_map(|line| line.split_once("Collected : ")).context("callgrind tells no figure")?;
    Ok(line.1.trim().parse()?)
}
