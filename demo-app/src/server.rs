//! Where a server listens, what it knows of a connection, and when it is to end; what lies between is in [`crate::drain`].

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

/// The two ends of the connection that a request came on; an extension of every request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connection {
    /// This server's end: what the page shows as address and port.
    pub(crate) local: SocketAddr,
    /// The other end: the client, or the proxy in front.
    pub(crate) peer: SocketAddr,
}

/// Listens on `address`; the error of a taken port says what to do.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, crate::Fatal> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            let (ip, port) = (address.ip(), address.port());
            let other = SocketAddr::new(ip, port.checked_add(1).unwrap_or(8080));
            format!(
                "port {port} on {ip} is taken by another program; stop that, or choose another port with the variable LISTEN, \
                 for example LISTEN={other}"
            )
            .into()
        }
        _ => format!("cannot listen on {address}: {error}; choose another address with the variable LISTEN").into(),
    })
}

/// Ready when the process is asked to end: Ctrl-C, or SIGTERM as from Docker. It listens for them from this call on, not only
/// when it is awaited: called before anybody is told that the server runs, it makes every end one in order.
pub(crate) fn asked_to_stop() -> impl Future<Output = ()> {
    #[cfg(unix)]
    let [mut interrupt, mut terminate] = {
        use tokio::signal::unix::{SignalKind, signal};
        [SignalKind::interrupt(), SignalKind::terminate()].map(|kind| signal(kind).expect("it can be listened for"))
    };
    async move {
        #[cfg(unix)]
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        #[cfg(not(unix))]
        tokio::signal::ctrl_c().await.expect("it can be listened for");
        tracing::info!("stopping");
        // Whoever presses it twice does not want to wait for others.
        tokio::spawn(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                tracing::info!("stopping at once");
                std::process::exit(130);
            }
        });
    }
}
