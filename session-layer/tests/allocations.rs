//! What the layer allocates for a request that does not look at its session. A binary of its own, since it brings an allocator along.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use allocation_counter::measure;
use http::{HeaderValue, Request, Response, header};
use session_layer::store::{Action, Change, Commit, MemoryStore, Reply, SessionStore, Start};
use session_layer::{Session, SessionId, SessionLayer, SessionService};
use tokio::time::Instant;
use tower::{Layer, Service, service_fn};

/// As every server has put something there by the time a request is routed.
#[derive(Clone)]
struct Connection;

fn request() -> Request<()> {
    let mut request = Request::new(());
    request.extensions_mut().insert(Connection);
    request.headers_mut().insert(header::COOKIE, HeaderValue::from_static("theme=dark; __Host-session=x"));
    request
}

fn handler() -> impl Service<Request<()>, Response = Response<()>, Error = Infallible, Future: Send> + Clone {
    service_fn(async |_: Request<()>| Ok(Response::new(())))
}

/// How many allocations a request takes from where it enters the service to where its answer is there.
fn allocations<S>(mut service: S) -> u64
where
    S: Service<Request<()>, Response = Response<()>, Error = Infallible>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime can be built");
    let mut count = |request| {
        let mut answer = None;
        let counted = measure(|| answer = Some(runtime.block_on(service.call(request))));
        assert!(matches!(answer, Some(Ok(_))));
        counted.count_total
    };
    // The first request pays for what is made once.
    count(request());
    count(request())
}

#[test]
fn an_untouched_session_costs_one_slot_and_its_place_in_the_extensions() {
    let layer = SessionLayer::builder(MemoryStore::new()).secret([7; 32]).build().expect("the settings are good");
    let layered: SessionService<_, _> = layer.layer(handler());
    assert_eq!(allocations(layered) - allocations(handler()), 2);
}

/// What the store counts for sessions of a shape, and what they take.
fn counted_and_taken(names: usize, bytes: usize, principal: Option<&str>) -> (u64, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime can be built");
    let store = MemoryStore::new();
    let taken = measure(|| {
        for number in 0..3000 {
            let start =
                Start { created_on: SystemTime::now(), principal: principal.map(|name| format!("{name}{number}")) };
            let action = Action::Create(SessionId::random(), start);
            let mut commit = Commit::new(action, Instant::now() + Duration::from_secs(60));
            for name in 0..names {
                commit.changes.insert(format!("attribute {name}"), Change::Set(vec![b'1'; bytes].into()));
            }
            assert!(matches!(runtime.block_on(store.commit(&commit)), Ok(Reply::Applied { .. })));
        }
    });
    (store.usage().bytes as u64, taken.bytes_current as u64)
}

#[test]
fn a_store_in_memory_counts_about_what_it_takes() {
    for (names, bytes, principal) in
        [(0, 0, None), (1, 10, None), (3, 100, Some("alice")), (10, 2000, None), (40, 1, None)]
    {
        let (counted, taken) = counted_and_taken(names, bytes, principal);
        let percent = 100 * counted / taken;
        assert!((70..200).contains(&percent), "{names} of {bytes}: counted {counted}, taken {taken}, {percent} %");
    }
}

/// Stores something on the first request, and reads it after that; `waits` after it has loaded the session.
fn reader(waits: bool) -> impl Service<Request<()>, Response = Response<()>, Error = Infallible, Future: Send> + Clone {
    service_fn(move |request: Request<()>| async move {
        let session: Session = Session::from_extensions(request.extensions()).await.expect("the store answers");
        assert!(session.exists());
        if waits {
            tokio::task::yield_now().await;
        }
        Ok(Response::new(()))
    })
}

/// Most requests answer as soon as they have what they asked the store for.
#[test]
fn only_a_request_that_waits_with_its_session_loaded_pays_for_a_timer() {
    let layer = SessionLayer::builder(MemoryStore::new()).secret([7; 32]).build().expect("the settings are good");
    let writer = service_fn(async |request: Request<()>| {
        let session: Session = Session::from_extensions(request.extensions()).await.expect("the store answers");
        session.insert("a", 1).expect("it fits");
        Ok::<_, Infallible>(Response::new(()))
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime can be built");
    let Ok(answer) = runtime.block_on(layer.layer(writer).call(request()));
    let cookie = answer.headers()[header::SET_COOKIE].clone();
    let [at_once, after_waiting] = [false, true].map(|waits| {
        let mut inner = layer.layer(reader(waits));
        let cookie = cookie.clone();
        allocations(service_fn(move |mut request: Request<()>| {
            request.headers_mut().insert(header::COOKIE, cookie.clone());
            inner.call(request)
        }))
    });
    let waits = allocations(service_fn(async |_: Request<()>| {
        tokio::task::yield_now().await;
        Ok(Response::new(()))
    }));
    assert_eq!(after_waiting - at_once - (waits - allocations(handler())), 1);
}
