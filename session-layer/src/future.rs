//! From the handler's response to the one that is sent: the commit stands between.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;
use tokio::task::JoinHandle;

use crate::error::SessionError;
use crate::slot::Slot;
use crate::telemetry;

pin_project! {
    /// The response of a [`SessionService`](crate::SessionService).
    pub struct ResponseFuture<F, B> {
        #[pin]
        inner: F,
        slot: Arc<Slot>,
        committing: Option<Committing<B>>,
    }

    impl<F, B> PinnedDrop for ResponseFuture<F, B> {
        fn drop(this: Pin<&mut Self>) {
            // The client has gone or the handler failed: what a task of it still changes has nobody to answer for it.
            this.project().slot.seal();
        }
    }
}

struct Committing<B> {
    response: Response<B>,
    // A task of its own, so that a commit that has begun runs to its end even if the client goes.
    commit: JoinHandle<Result<(), SessionError>>,
}

impl<F, B> ResponseFuture<F, B> {
    pub(crate) fn new(inner: F, slot: Arc<Slot>) -> Self {
        Self { inner, slot, committing: None }
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
            let response = ready!(this.inner.poll(cx))?;
            if this.slot.is_untouched() {
                return Poll::Ready(Ok(response));
            }
            let (head, body) = response.into_parts();
            let commit = this.slot.conclude(&head);
            let response = Response::from_parts(head, body);
            match commit {
                None => return Poll::Ready(Ok(finish(response, Ok(()), this.slot))),
                Some(commit) => *this.committing = Some(Committing { response, commit }),
            }
        }
        let Some(Committing { commit, .. }) = this.committing else { unreachable!("set above") };
        let outcome = ready!(Pin::new(commit).poll(cx));
        let Some(Committing { response, .. }) = this.committing.take() else { unreachable!("set above") };
        // The task is aborted only when the runtime shuts down; then nobody knows whether the commit was applied.
        let outcome = outcome.unwrap_or_else(|_| Err(SessionError::unavailable(None)));
        Poll::Ready(Ok(finish(response, outcome, this.slot)))
    }
}

/// The response as it is sent. Cookies follow what was applied, whatever the status.
fn finish<B: Default>(mut response: Response<B>, outcome: Result<(), SessionError>, slot: &Slot) -> Response<B> {
    if let Err(error) = outcome {
        telemetry::not_committed(&error);
        response = Response::default();
        *response.status_mut() = error.status();
        error.describe(&mut response);
    }
    slot.write_headers(response.headers_mut());
    response
}
