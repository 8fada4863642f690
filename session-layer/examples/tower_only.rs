//! Without axum: a plain function behind the layer, served by hyper. `cargo run -p session-layer --example tower_only`, then
//! http://127.0.0.1:3000.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use session_layer::store::MemoryStore;
use session_layer::{ConfigError, Session, SessionError, SessionLayer};
use tower::{Service, ServiceBuilder, service_fn};

async fn visit<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, SessionError> {
    let session = Session::from_extensions(request.extensions()).await?;
    session.increment("visits", 1)?;
    let visits = session.get::<u64>("visits")?.unwrap_or_default();
    Ok(Response::new(Full::from(format!("visit number {visits}"))))
}

/// What axum does with an error by itself.
async fn answer<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(visit(request).await.unwrap_or_else(|error| {
        let mut response = Response::new(Full::from(error.to_string()));
        *response.status_mut() = error.status();
        if error.status() == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response
    }))
}

type Answer = Response<Full<Bytes>>;

pub(crate) fn service<B: Send + 'static>()
-> Result<impl Service<Request<B>, Response = Answer, Error = Infallible, Future: Send> + Clone, ConfigError> {
    let sessions = SessionLayer::builder(MemoryStore::new())
        .secret(b"an example's secret, known to everybody")
        .development(true)
        .build()?;
    Ok(ServiceBuilder::new().layer(sessions).service(service_fn(answer)))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://127.0.0.1:3000");
    let service = service::<hyper::body::Incoming>()?;
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            let connection = auto::Builder::new(TokioExecutor::new());
            if let Err(error) = connection.serve_connection(TokioIo::new(stream), service).await {
                eprintln!("a connection failed: {error}");
            }
        });
    }
}
