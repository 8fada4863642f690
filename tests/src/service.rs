//! Stands in front of several servers under one address, as a Kubernetes Service or a TCP load balancer does: each new connection leads
//! to the next server in turn, and stays with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::redis;
use crate::relay::lock;

/// A relay that lives until it is dropped.
pub struct Service {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

struct State {
    servers: Vec<SocketAddr>,
    /// How many connections were opened so far.
    opened: usize,
    /// How many were opened since it led to these servers.
    turn: usize,
}

impl Service {
    /// Listens on a free port of this machine; the first connection leads to the first server.
    ///
    /// # Panics
    ///
    /// When no port is free.
    pub async fn start(servers: &[SocketAddr]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("some port is free");
        let address = listener.local_addr().expect("it listens");
        let state = Arc::new(Mutex::new(State { servers: servers.to_vec(), opened: 0, turn: 0 }));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, _tasks: tasks }
    }

    /// For a store, with its user.
    pub fn url(&self) -> String {
        redis::url(self.address.port())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// New connections lead to these servers from now on, beginning with the first. Those that are open stay.
    pub fn lead_to(&self, servers: &[SocketAddr]) {
        let mut state = lock(&self.state);
        (state.servers, state.turn) = (servers.to_vec(), 0);
    }

    /// How many connections were opened so far.
    pub fn opened(&self) -> usize {
        lock(&self.state).opened
    }
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        let server = {
            let mut state = lock(&state);
            state.opened += 1;
            state.turn += 1;
            state.servers.get((state.turn - 1) % state.servers.len().max(1)).copied()
        };
        // Without a server, the connection is closed at once.
        let Some(server) = server else { continue };
        connections.spawn(async move {
            let Ok(mut server) = TcpStream::connect(server).await else { return };
            if client.set_nodelay(true).and(server.set_nodelay(true)).is_ok() {
                // Either side may reset the connection.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    /// A server that says its number and closes the connection.
    async fn numbered(number: u8) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.writable().await.unwrap();
                stream.try_write(&[number]).unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn new_connections_lead_to_the_servers_in_turn() {
        let servers = [numbered(1).await, numbered(2).await];
        let service = Service::start(&servers).await;
        let mut said = Vec::new();
        for _ in 0..3 {
            let mut stream = TcpStream::connect(service.address()).await.unwrap();
            stream.read_to_end(&mut said).await.unwrap();
        }
        service.lead_to(&servers[1..]);
        TcpStream::connect(service.address()).await.unwrap().read_to_end(&mut said).await.unwrap();
        assert_eq!((said.as_slice(), service.opened()), (&[1, 2, 1, 2][..], 4));
        service.lead_to(&[]);
        assert_eq!(TcpStream::connect(service.address()).await.unwrap().read_to_end(&mut said).await.unwrap(), 0);
    }
}
