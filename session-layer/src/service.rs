//! The middleware itself: gives each request a slot for its session and sees to the response.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use crate::extract::{Entered, Slots};
use crate::future::ResponseFuture;
use crate::layer::Config;

/// What [`SessionLayer`](crate::SessionLayer) makes of a service.
///
/// Takes any request body. A response body must be `Default`, since a response whose session could not be committed is
/// replaced by an empty one; axum's, tonic's and http-body-util's bodies are.
pub struct SessionService<S, K> {
    inner: S,
    config: Arc<Config>,
    kind: PhantomData<fn() -> K>,
}

impl<S, K> SessionService<S, K> {
    pub(crate) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config, kind: PhantomData }
    }
}

impl<S: Clone, K> Clone for SessionService<S, K> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), Arc::clone(&self.config))
    }
}

impl<S: fmt::Debug, K> fmt::Debug for SessionService<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, K, ReqBody, ResBody> Service<Request<ReqBody>> for SessionService<S, K>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Default,
    K: 'static,
{
    type Response = Response<ResBody>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        match Slots::enter::<K, _>(&mut request, &self.config) {
            Entered::First(slot) => ResponseFuture::new(self.inner.call(request), Some(slot)),
            Entered::Again => ResponseFuture::new(self.inner.call(request), None),
            Entered::Refused(error) => ResponseFuture::refused(error),
        }
    }
}
