//! Reads to its end what a request still sends when its answer is there already: one that was refused for its size or its
//! origin, say.
//!
//! A server that closes a connection with unread bytes in it resets it, and the reset may overtake the answer (RFC 9112,
//! section 9.6). A proxy in front then has nothing to report but 502.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::timeout;

/// More than the proxy in front lets through. Whoever sends more is cut off.
const MOST: usize = 4 * 1024 * 1024;

/// Whoever sends more slowly is cut off as well.
const PATIENCE: Duration = Duration::from_secs(2);

/// The layer; outside everything that may answer without reading.
pub(crate) async fn read(request: Request, next: Next) -> Response {
    if request.headers().contains_key(header::EXPECT) {
        // Sends nothing before it is asked to.
        return next.run(request).await;
    }
    let unread = Arc::new(Mutex::new(None));
    let request = request.map(|body| Body::new(Lent { body: Some(body), unread: Arc::clone(&unread) }));
    let response = next.run(request).await;
    let body = unread.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(body) = body {
        // Too much, too slow, or gone: in each case the answer is on its way, and there is nothing more to do for it.
        let _ = timeout(PATIENCE, discard(body)).await;
    }
    response
}

async fn discard(mut body: Body) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > MOST {
            return;
        }
    }
}

/// A request's body that comes back when it is dropped before its end.
struct Lent {
    body: Option<Body>,
    unread: Arc<Mutex<Option<Body>>>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            *self.unread.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::http::StatusCode;
    use axum::middleware::from_fn;
    use axum::routing::post;
    use tower::ServiceExt;

    use super::*;

    const CHUNK: usize = 64 * 1024;

    /// A body of so many chunks, of which `taken` were read.
    struct Flood {
        chunks: usize,
        taken: Arc<AtomicUsize>,
    }

    impl HttpBody for Flood {
        type Data = Bytes;
        type Error = axum::Error;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
            let chunk = || Ok(Frame::data(Bytes::from(vec![0; CHUNK])));
            let more = self.taken.fetch_add(1, Ordering::Relaxed) < self.chunks;
            Poll::Ready(more.then(chunk))
        }
    }

    /// How many chunks are read of a body that the handler does not look at.
    async fn read_of(chunks: usize, headers: &[(header::HeaderName, &'static str)]) -> usize {
        let taken = Arc::new(AtomicUsize::new(0));
        let body = Body::new(Flood { chunks, taken: Arc::clone(&taken) });
        let mut request = Request::post("/").body(body).expect("a request");
        for (name, value) in headers {
            request.headers_mut().insert(name, header::HeaderValue::from_static(value));
        }
        let router = Router::new().route("/", post(|| async { StatusCode::PAYLOAD_TOO_LARGE })).layer(from_fn(read));
        let response = router.oneshot(request).await.expect("infallible");
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        taken.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn a_body_that_nobody_looked_at_is_read_to_its_end() {
        // The end is a read as well.
        assert_eq!(read_of(10, &[]).await, 11);
    }

    #[tokio::test]
    async fn a_body_without_end_is_given_up() {
        assert_eq!(read_of(usize::MAX, &[]).await, MOST / CHUNK + 1);
    }

    #[tokio::test]
    async fn who_waits_to_be_asked_is_not_asked() {
        assert_eq!(read_of(10, &[(header::EXPECT, "100-continue")]).await, 0);
    }
}
