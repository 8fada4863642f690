//! What the layer allocates for a request that does not look at its session. A binary of its own, since it brings an allocator along.

use std::convert::Infallible;

use allocation_counter::measure;
use http::{HeaderValue, Request, Response, header};
use session_layer::store::MemoryStore;
use session_layer::{SessionLayer, SessionService};
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
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be built");
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
