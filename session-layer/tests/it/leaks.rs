//! Clients that go away leave nothing behind: no task, no state of their request, no place among those that wait for the store.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response, StatusCode, header};
use session_layer::store::{Commit, Listed, Loaded, Reply, Revocation, Revoked, SessionStore, StoreError, Touch};
use session_layer::{LazySession, Session, SessionError, SessionId, SessionLayer};
use tokio::runtime::Handle;
use tokio::time::{Instant, advance, sleep};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};

use crate::broken::{BrokenStore, Fault};
use crate::fixture::settle;

const REQUESTS: usize = 100_000;
/// So many at a time.
const AT_ONCE: usize = 100;
const MAX_WAITING: usize = 20;

/// The store, and something to count who still holds it.
#[derive(Clone)]
struct Counted {
    store: BrokenStore,
    _holder: Arc<()>,
}

impl SessionStore for Counted {
    async fn load(&self, id: &SessionId) -> Result<Loaded, StoreError> {
        self.store.load(id).await
    }

    async fn commit(&self, commit: &Commit) -> Result<Reply, StoreError> {
        self.store.commit(commit).await
    }

    async fn sessions_of(&self, realm: &str, principal: &str) -> Result<Vec<Listed>, StoreError> {
        self.store.sessions_of(realm, principal).await
    }

    async fn revoke(&self, revocation: &Revocation) -> Result<Revoked, StoreError> {
        self.store.revoke(revocation).await
    }

    async fn touch(&self, touch: &Touch) -> Result<(), StoreError> {
        self.store.touch(touch).await
    }
}

/// A request's body: what to do, and something to count handlers that are still there.
type Body = (usize, Arc<()>);

async fn serve(request: Request<Body>) -> Result<Response<String>, Infallible> {
    let run = async {
        let extensions = request.extensions();
        let kind = request.body().0;
        if kind.is_multiple_of(8) {
            LazySession::from_extensions(extensions)?.increment("hits", 1)?;
            return Ok(());
        }
        let session = Session::from_extensions(extensions).await?;
        session.increment("hits", 1)?;
        match kind % 8 {
            1 => drop(session.flush().await?),
            2 => session.update("list", |list: &mut Option<u64>| *list = Some(list.unwrap_or(0) + 1)).await?,
            3 => session.log_in("alice")?,
            4 => session.cycle_id()?,
            5 => sleep(Duration::from_millis(3)).await,
            6 => {
                // A task that outlives its request for a while.
                let later = session.clone();
                tokio::spawn(async move {
                    sleep(Duration::from_millis(2)).await;
                    let _too_late_or_not = later.flush().await;
                });
            }
            _ => {}
        }
        Ok::<_, SessionError>(())
    };
    let mut response = Response::default();
    if let Err(error) = run.await {
        *response.status_mut() = error.status();
    }
    Ok(response)
}

/// Polls a request so many times and drops it; tells its answer if it was faster.
async fn polled<T>(times: usize, request: impl Future<Output = T>) -> Option<T> {
    let mut request = pin!(request);
    let mut left = times;
    poll_fn(|context| {
        let Some(next) = left.checked_sub(1) else { return Poll::Ready(None) };
        left = next;
        let polled = request.as_mut().poll(context).map(Some);
        // Nobody else wakes who drops it.
        if left == 0 && polled.is_pending() {
            return Poll::Ready(None);
        }
        polled
    })
    .await
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_clients_that_go_away_leave_nothing_behind() {
    let (holder, body) = (Arc::new(()), Arc::new(()));
    let store = Counted { store: BrokenStore::new(None), _holder: Arc::clone(&holder) };
    let settings = SessionLayer::builder(store.clone()).secret([7; 32]).development(true);
    let layer =
        settings.max_waiting(MAX_WAITING).idle_timeout(Duration::from_secs(600)).build().expect("good settings");
    let app: BoxCloneSyncService<_, Response<String>, _> = BoxCloneSyncService::new(layer.layer(service_fn(serve)));
    let send = |kind: usize, cookie: &Option<String>| {
        let mut request = Request::new((kind, Arc::clone(&body)));
        if let Some(cookie) = cookie {
            request.headers_mut().insert(header::COOKIE, cookie.parse().expect("it was a header"));
        }
        app.clone().oneshot(request)
    };

    let mut chance = 1_u64;
    let mut random = move |below: usize| {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (chance >> 33) as usize % below
    };
    let mut calls = 0_u64;
    let trouble = move || {
        calls += 1;
        match calls % 7 {
            0 => Fault::CallLost,
            3 => Fault::AnswerLost,
            _ => Fault::None,
        }
    };
    store.store.faults(trouble);

    let mut cookie = None;
    let (mut gone, mut answered) = (0, 0);
    let before = tasks();
    while gone < REQUESTS {
        let requests: Vec<_> =
            (0..AT_ONCE).map(|_| tokio::spawn(polled(random(8), send(random(usize::MAX), &cookie)))).collect();
        for request in requests {
            match request.await.expect("no handler panics") {
                None => gone += 1,
                Some(Ok(response)) => {
                    answered += 1;
                    // So that the next ones come with a session that may be alive.
                    if let Some(set) = response.headers().get(header::SET_COOKIE) {
                        let set = set.to_str().expect("cookies are ASCII");
                        cookie = set.split(';').next().map(str::to_owned);
                    }
                }
            }
        }
    }
    println!("{gone} clients went away, {answered} had their answer");
    assert!(answered > gone / 100, "where nobody gets an answer, no late point was reached");

    // What was begun runs to its end, within its budget.
    sleep(Duration::from_secs(6)).await;
    assert_eq!(tasks(), before, "tasks");
    assert_eq!(Arc::strong_count(&body), 1, "handlers");

    // All places among those that wait are free: so many wait, and one more is told at once.
    store.store.faults(|| Fault::CallLost);
    let waiting: Vec<_> = (0..MAX_WAITING).map(|_| tokio::spawn(send(8, &cookie))).collect();
    sleep(Duration::from_millis(100)).await;
    assert!(waiting.iter().all(|request| !request.is_finished()), "each of them waits");
    let started = Instant::now();
    let Ok(refused) = send(8, &cookie).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(started.elapsed() < Duration::from_millis(20), "told at once");
    store.store.faults(Fault::default);
    for request in waiting {
        let Ok(response) = request.await.expect("no handler panics");
        assert_ne!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    // Without the layer nobody holds the store; a request's state would.
    drop((app, layer, store));
    advance(Duration::from_secs(6)).await;
    settle().await;
    assert_eq!(Arc::strong_count(&holder), 1, "states of requests");
    assert_eq!(tasks(), before, "tasks");
}
