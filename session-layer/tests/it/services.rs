//! Services that are not axum's: any request body, a response body of one's own, no Clone, no Send.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::{Request, Response, header};
use session_layer::{LazySession, Session, SessionError};
use tower::{Layer, Service, ServiceExt};

use crate::fixture::Call::{Apply, Create, Load};
use crate::fixture::{Fault, TestStore, layer};

/// A body that is nothing but `Default`.
#[derive(Default, Debug, PartialEq)]
struct Text(String);

/// A service that is neither `Clone` nor `Send`, with a request body that is nothing at all.
struct Counter {
    ready: Rc<Cell<u32>>,
    fails: bool,
}

struct Nothing;

#[derive(Debug, PartialEq)]
struct OwnError;

impl Service<Request<Nothing>> for Counter {
    type Response = Response<Text>;
    type Error = OwnError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response<Text>, OwnError>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), OwnError>> {
        self.ready.set(self.ready.get() + 1);
        match self.ready.get() {
            _ if self.fails => Poll::Ready(Err(OwnError)),
            3 => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    }

    fn call(&mut self, request: Request<Nothing>) -> Self::Future {
        let ready = Rc::clone(&self.ready);
        Box::pin(async move {
            assert_eq!(ready.get(), 3, "called only when ready");
            let visits = visit(&request).await.map_err(|_| OwnError)?;
            Ok(Response::new(Text(visits)))
        })
    }
}

async fn visit(request: &Request<Nothing>) -> Result<String, SessionError> {
    let session = Session::from_extensions(request.extensions()).await?;
    session.increment("visits", 1)?;
    let lazy = LazySession::from_extensions(request.extensions())?;
    lazy.increment("visits", 1)?;
    Ok(format!("{:?}", session.get::<u64>("visits")?))
}

fn request(cookie: Option<&str>) -> Request<Nothing> {
    let mut request = Request::new(Nothing);
    if let Some(cookie) = cookie {
        request.headers_mut().insert(header::COOKIE, cookie.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn a_service_without_clone_send_or_axum_has_sessions() {
    let store = TestStore::default();
    let sessions = layer(&store).build().unwrap();
    let mut service = sessions.layer(Counter { ready: Rc::default(), fails: false });
    // `poll_ready` is the inner service's.
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert_eq!(service.poll_ready(&mut cx), Poll::Pending);
    assert_eq!(service.poll_ready(&mut cx), Poll::Pending);
    assert_eq!(service.poll_ready(&mut cx), Poll::Ready(Ok(())));
    let response = service.call(request(None)).await.unwrap();
    assert_eq!(response.body(), &Text("Some(2)".into()));
    let cookie = response.headers()[header::SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
    let response = service.call(request(Some(&cookie))).await.unwrap();
    assert_eq!(response.body(), &Text("Some(4)".into()));
    store.expect_calls(&[Create, Load, Apply]);
    // A failed commit replaces its answer by an empty one.
    store.next(Apply, Fault::Refuse);
    let response = service.call(request(Some(&cookie))).await.unwrap();
    assert_eq!((response.status().as_u16(), response.body()), (503, &Text::default()));
}

#[tokio::test]
async fn the_inner_services_errors_pass_through() {
    let sessions = layer(&TestStore::default()).build().unwrap();
    let mut service = sessions.layer(Counter { ready: Rc::default(), fails: true });
    assert_eq!(service.ready().await.err(), Some(OwnError));
}

#[tokio::test]
async fn a_request_that_did_not_pass_through_the_layer_has_no_session() {
    let request = request(None);
    assert!(Session::from_extensions(request.extensions()).await.unwrap_err().is_missing_layer());
    assert!(LazySession::from_extensions(request.extensions()).unwrap_err().is_missing_layer());
}

#[test]
fn handles_may_go_anywhere() {
    fn anywhere<T: Send + Sync + Clone + 'static>() {}
    anywhere::<Session>();
    anywhere::<LazySession>();
    anywhere::<Session<Rc<()>>>();
    anywhere::<SessionError>();
    anywhere::<session_layer::SessionLayer<Rc<()>>>();
}
