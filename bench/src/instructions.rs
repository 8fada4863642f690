//! What the layer itself costs, in instructions: counted under callgrind, which gives the same figure on every machine and however
//! busy it is. There the processor has no instructions for SHA-256, so the MAC is computed in software.

use std::convert::Infallible;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use axum::body::Body;
use axum::http::{Request, Response, header};
use session_layer::store::MemoryStore;
use session_layer::{LazySession, Session, SessionLayer};
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::contract::{SECRET, Size, WATCHED};

/// What is counted: by name in the file of results, and in words.
pub(crate) const COUNTED: &[(&str, &str)] = &[
    ("untouched", "a request that does not look at its session"),
    ("read", "a request that reads one of 8 attributes, of a session in the store in memory"),
];

type App = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Sends so many requests through the layer, or past it; what there is to count.
pub(crate) fn drive(what: &str, requests: usize) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
        let (mut app, cookie) = match what {
            "bare" => (BoxCloneSyncService::new(service_fn(untouched)), "session=x".to_owned()),
            "untouched" => layered(untouched).await?,
            "read" => layered(read).await?,
            _ => bail!("nothing is called {what}"),
        };
        for _ in 0..requests {
            let request = Request::builder().uri("/").header(header::COOKIE, &cookie).body(Body::empty())?;
            let response = app.ready().await?.call(request).await?;
            if !response.status().is_success() {
                bail!("status {}", response.status());
            }
        }
        Ok(())
    })
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

/// A handler behind the layer, and the cookie of a session of 1 KiB.
async fn layered<H, F>(handler: H) -> Result<(App, String)>
where
    H: Fn(Request<Body>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let layer = SessionLayer::builder(MemoryStore::new()).secret(SECRET).build()?;
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
    let cookie = response.headers().get(header::SET_COOKIE).context("no session was started")?.to_str()?;
    let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
    Ok((BoxCloneSyncService::new(layer.layer(service_fn(handler))), cookie))
}

/// Instructions per request, without those of the same request past the layer.
pub(crate) fn count(what: &str) -> Result<u64> {
    Ok(per_request(what)?.saturating_sub(per_request("bare")?))
}

/// The difference between many and more requests: what happens once is in both.
fn per_request(what: &str) -> Result<u64> {
    const MANY: u64 = 500;
    const MORE: u64 = 1500;
    Ok(collected(what, MORE)?.saturating_sub(collected(what, MANY)?) / (MORE - MANY))
}

fn collected(what: &str, requests: u64) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["drive", what, &requests.to_string()])
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
