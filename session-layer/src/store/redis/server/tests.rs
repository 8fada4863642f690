//! The server is the test: each connection meets what it says it is.

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::keys::Keys;
use super::super::status::Status;
use super::*;

fn identity(run_id: &str, role: &str, history: &str) -> Identity {
    let info = format!("run_id:{run_id}\r\nrole:{role}\r\nmaster_replid:{history}\r\nmaster_replid2:0\r\n");
    Identity::read(&info).expect("it names a server")
}

fn access() -> Access {
    let checks = Checks { keys: Keys::new("session"), status: Status::default(), wanted: vec![] };
    Access { login: Login::default(), database: 0, succession: Arc::default(), checks, warnings: Arc::default() }
}

/// Under one address: a server that begins as master `a`, and what answers the next connection.
async fn met(run_id: &'static str, role: &'static str, history: &'static str) -> (Arc<Server>, Result<(), String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (address, name) = (listener.local_addr().unwrap(), Address { host: "redis".into(), port: 6379 });
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let info = format!("run_id:{run_id}\r\nrole:{role}\r\nmaster_replid:{history}\r\nmaster_replid2:0\r\n");
        let mut said = BytesMut::new();
        for (packet, answer) in [(1, "%0\r\n".to_owned()), (2, format!("${}\r\n{info}\r\n", info.len()))] {
            client.read_buf(&mut said).await.unwrap();
            // Behind it the marker, which ends each packet.
            client.write_all(&[answer.as_bytes(), b"$4\r\n\0\0\0", &[packet], b"\r\n"].concat()).await.unwrap();
        }
        // Until the other end closes.
        let _ = client.read_buf(&mut said).await;
    });
    let server = Server::new(name, address, access(), Ok(identity("a", "master", "h")));
    let opened = server.connect().await.map(drop).map_err(|error| error.to_string());
    (server, opened)
}

async fn is_left(server: &Server) -> bool {
    tokio::time::timeout(Duration::from_millis(10), server.left()).await.is_ok()
}

#[tokio::test]
async fn another_connection_to_the_same_server_is_used() {
    let (server, opened) = met("a", "master", "h").await;
    assert_eq!((opened, is_left(&server).await), (Ok(()), false));
}

#[tokio::test]
async fn a_restarted_server_under_the_same_address_ends_the_epoch() {
    let (server, opened) = met("b", "master", "i").await;
    assert!(opened.unwrap_err().contains("another server answers"));
    assert!(is_left(&server).await);
}

#[tokio::test]
async fn a_replica_under_the_same_address_is_not_used() {
    let (server, opened) = met("b", "slave", "h").await;
    assert!(opened.unwrap_err().contains("another server answers under the same address, a replica"));
    assert!(!is_left(&server).await);
}

#[tokio::test]
async fn a_demoted_server_ends_the_epoch() {
    let (server, opened) = met("a", "slave", "i").await;
    assert!(opened.unwrap_err().contains("not a master any more"));
    assert!(is_left(&server).await);
}

#[tokio::test]
async fn a_server_that_does_not_name_itself_gets_no_second_connection() {
    let address = (Ipv4Addr::LOCALHOST, 1).into();
    let refused = Err("NOPERM this user has no permissions to run the 'info' command".to_owned());
    let server = Server::new(Address { host: "redis".into(), port: 1 }, address, access(), refused);
    let error = server.connect().await.err().expect("no connection").to_string();
    assert!(error.contains("needs INFO") && error.contains("NOPERM"), "{error}");
    assert!(!is_left(&server).await);
}
