//! Stands between a replica and its master, and can be shut: nothing that the master says arrives any more, and the link stays up.
//!
//! Bytes, not commands as in `relay`: what a master sends its replicas is a stream without replies.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A valve that lives until it is dropped, open at first.
pub struct Valve {
    address: SocketAddr,
    open: Arc<watch::Sender<bool>>,
    _tasks: JoinSet<()>,
}

impl Valve {
    /// Listens on a free port of an address of this machine and connects to `server` for each client.
    ///
    /// # Panics
    ///
    /// When this machine has no such address.
    pub async fn start(host: Ipv4Addr, server: SocketAddr) -> Self {
        let listener = TcpListener::bind((host, 0)).await.unwrap_or_else(|error| panic!("{host}: {error}"));
        let address = listener.local_addr().expect("it listens");
        let open = Arc::new(watch::Sender::new(true));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, server, Arc::clone(&open)));
        Self { address, open, _tasks: tasks }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing that the server says arrives from now on; what the client says does, and no connection ends.
    pub fn shut(&self) {
        self.open.send_replace(false);
    }

    /// What was held back arrives, and all that follows.
    pub fn open(&self) {
        self.open.send_replace(true);
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, open: Arc<watch::Sender<bool>>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let open = open.subscribe();
        connections.spawn(async move {
            let Ok(server) = TcpStream::connect(server).await else { return };
            let (mut from_client, to_client) = client.into_split();
            let (from_server, mut to_server) = server.into_split();
            // Whichever side closes first, dropping both halves closes the other.
            tokio::select! {
                _ = copy(&mut from_client, &mut to_server) => {}
                () = downstream(from_server, to_client, open) => {}
            }
        });
    }
}

async fn downstream(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut open: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        // The sender lives as long as the one who accepts.
        let _ = open.wait_for(|open| *open).await;
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::relay::tests::server;

    #[tokio::test]
    async fn what_is_held_back_arrives_when_the_valve_is_opened() {
        let valve = Valve::start(Ipv4Addr::LOCALHOST, server().await).await;
        let mut client = TcpStream::connect(valve.address()).await.unwrap();
        let mut answer = [0; 5];
        client.write_all(b"PING\r\n").await.unwrap();
        client.read_exact(&mut answer).await.unwrap();
        valve.shut();
        client.write_all(b"PING\r\n").await.unwrap();
        let held = tokio::time::timeout(Duration::from_millis(200), client.read_exact(&mut answer)).await;
        assert!(held.is_err(), "{held:?}");
        valve.open();
        client.read_exact(&mut answer).await.unwrap();
    }
}
