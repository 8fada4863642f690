//! `demo-app healthcheck`: asks the node on this machine whether it is ready. The image has no curl, and needs none.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// Shorter than the interval at which health checks usually come.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Asks; `listen` is where the node listens.
pub(crate) async fn run(listen: SocketAddr) -> Result<(), String> {
    let address = reachable(listen);
    let url: axum::http::Uri = format!("http://{address}/readyz").parse().expect("an address makes a URL");
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<bytes::Bytes>>();
    match tokio::time::timeout(TIMEOUT, client.get(url)).await {
        Ok(Ok(response)) if response.status().is_success() => Ok(()),
        Ok(Ok(response)) => Err(format!("the node on {address} is not ready: {}", response.status())),
        Ok(Err(error)) => Err(format!("no answer from the node on {address}: {error}")),
        Err(_) => Err(format!("no answer from the node on {address} within {TIMEOUT:?}")),
    }
}

/// "Every address of this machine" can be listened on, but not asked.
fn reachable(listen: SocketAddr) -> SocketAddr {
    match listen {
        SocketAddr::V4(address) if address.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        SocketAddr::V6(address) if address.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        address => address,
    }
}
