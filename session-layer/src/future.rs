//! From the handler's response to the one that is sent: the commit stands between.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;
use tokio::runtime::Handle;

use crate::error::SessionError;
use crate::slot::{Running, Slot};
use crate::store::BoxFuture;
use crate::telemetry;

pin_project! {
    /// The response of a [`SessionService`](crate::SessionService).
    pub struct ResponseFuture<F, B> {
        #[pin]
        inner: Inner<F>,
        // None where a layer around this one commits.
        slot: Option<Arc<Slot>>,
        running: Running,
        // Boxed: most requests commit nothing, and every one is moved around with this.
        committing: Option<Box<Committing<B>>>,
    }

    impl<F, B> PinnedDrop for ResponseFuture<F, B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            // The client has gone or the handler failed: what a task of it still changes has nobody to answer for it.
            if let Some(slot) = this.slot {
                slot.seal();
            }
            if let Some(committing) = this.committing.take() {
                // A commit that has begun runs to its end even if the client goes.
                committing.runtime.spawn(committing.commit);
            }
        }
    }
}

pin_project! {
    #[project = InnerProjection]
    enum Inner<F> {
        Called { #[pin] future: F },
        // The handler is not called: the request came through two layers that use one cookie.
        Refused { error: Option<SessionError> },
    }
}

struct Committing<B> {
    response: Response<B>,
    commit: BoxFuture<'static, Result<(), SessionError>>,
    /// What goes on with the commit if this is dropped, wherever that happens.
    runtime: Handle,
}

impl<F, B> ResponseFuture<F, B> {
    pub(crate) fn new(future: F, slot: Option<Arc<Slot>>) -> Self {
        Self { inner: Inner::Called { future }, slot, running: Running::default(), committing: None }
    }

    pub(crate) fn refused(error: SessionError) -> Self {
        let inner = Inner::Refused { error: Some(error) };
        Self { inner, slot: None, running: Running::default(), committing: None }
    }
}

impl<F, B, E> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Default,
{
    type Output = Result<Response<B>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.committing.is_none() {
            let future = match this.inner.project() {
                InnerProjection::Called { future } => future,
                InnerProjection::Refused { error } => {
                    let error = error.take().expect("a future is not polled again after it is ready");
                    return Poll::Ready(Ok(replacement(error)));
                }
            };
            let Poll::Ready(response) = future.poll(cx) else {
                if let Some(slot) = this.slot {
                    this.running.poll(slot, cx);
                }
                return Poll::Pending;
            };
            let response = response?;
            let Some(slot) = this.slot else { return Poll::Ready(Ok(response)) };
            if slot.is_untouched() {
                return Poll::Ready(Ok(response));
            }
            let (head, body) = response.into_parts();
            let commit = slot.conclude(&head);
            let response = Response::from_parts(head, body);
            match commit {
                None => return Poll::Ready(Ok(finish(response, Ok(()), slot))),
                Some(commit) => {
                    let runtime = Handle::current();
                    *this.committing = Some(Box::new(Committing { response, commit, runtime }));
                }
            }
        }
        let (Some(committing), Some(slot)) = (&mut *this.committing, this.slot) else { unreachable!("set above") };
        // A store that panics is one whose answer was lost.
        let outcome = catch_unwind(AssertUnwindSafe(|| committing.commit.as_mut().poll(cx)))
            .unwrap_or_else(|_panic| Poll::Ready(Err(SessionError::unavailable(None))));
        let outcome = ready!(outcome);
        let Some(committing) = this.committing.take() else { unreachable!("set above") };
        Poll::Ready(Ok(finish(committing.response, outcome, slot)))
    }
}

/// The response as it is sent. Cookies follow what was applied, whatever the status.
fn finish<B: Default>(mut response: Response<B>, outcome: Result<(), SessionError>, slot: &Slot) -> Response<B> {
    let committed = outcome.is_ok();
    if let Err(error) = outcome {
        telemetry::not_committed(&error);
        response = replacement(error);
    }
    slot.write_headers(response.headers_mut(), committed);
    response
}

/// The answer that says this error instead of what the handler said.
fn replacement<B: Default>(error: SessionError) -> Response<B> {
    let mut response = Response::default();
    *response.status_mut() = error.status();
    error.describe(&mut response);
    response
}
