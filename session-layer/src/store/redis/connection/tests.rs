//! The other end of these connections is the test.

use tokio::net::TcpListener;

use super::*;

/// A connection that is greeted, and its other end.
async fn pair() -> (Connection, Lost, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
    let login = Login::default();
    let (opened, server) = tokio::join!(Connection::open(&address, &login, 0), async {
        let (mut server, _) = listener.accept().await.unwrap();
        heard(&mut server, b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n").await;
        server.write_all(b"%1\r\n$7\r\nversion\r\n$5\r\n7.0.1\r\n").await.unwrap();
        server
    });
    let (connection, lost) = opened.unwrap();
    assert_eq!(connection.server_version(), Some("7.0.1"));
    (connection, lost, server)
}

async fn heard(server: &mut TcpStream, expected: &[u8]) {
    let mut said = vec![0; expected.len()];
    server.read_exact(&mut said).await.unwrap();
    assert_eq!(said, expected);
}

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

fn text(answer: Result<Frame, CallError>) -> String {
    match answer {
        Ok(Frame::SimpleString { data }) => String::from_utf8_lossy(&data).into_owned(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_answer_to_a_call_that_was_given_up_goes_to_nobody_else() {
    let (connection, _lost, mut server) = pair().await;
    let mut given_up = Box::pin(connection.call("PING", vec![]));
    assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(given_up.as_mut().poll(cx))).await.is_pending());
    drop(given_up);
    let (answer, ()) = tokio::join!(connection.call("PING", vec![]), async {
        heard(&mut server, &PING.repeat(2)).await;
        server.write_all(b"+first\r\n").await.unwrap();
        server.write_all(b"+sec").await.unwrap();
        server.write_all(b"ond\r\n").await.unwrap();
    });
    assert_eq!(text(answer), "second");
}

#[tokio::test]
async fn what_the_server_says_unasked_is_no_answer() {
    let (connection, _lost, mut server) = pair().await;
    let mut unasked = connection.unasked();
    let (first, second, ()) = tokio::join!(connection.call("PING", vec![]), connection.call("PING", vec![]), async {
        server.write_all(b">1\r\n$1\r\na\r\n+first\r\n>1\r\n$1\r\nb\r\n+second\r\n").await.unwrap();
    });
    assert_eq!((text(first), text(second)), ("first".into(), "second".into()));
    for word in ["a", "b"] {
        assert_eq!(unasked.try_recv().unwrap(), [Frame::BlobString { data: word.into() }]);
    }
}

/// Each leaves it open what the server has done, and nobody waiting.
#[tokio::test]
async fn whatever_ends_it_those_who_wait_are_told_and_so_is_who_comes_later() {
    for (said, reason) in [
        (&b"$5\r\nhal"[..], "closed"),
        (b"+first\r\n+second\r\n+third\r\n", "nobody asked"),
        (b"+first\r\n|1\r\n+key\r\n+value\r\n+second\r\n", "another protocol"),
        (b"HTTP/1.1 400 Bad Request\r\n", "another protocol"),
    ] {
        let (connection, mut lost, mut server) = pair().await;
        let (first, second, why) = tokio::join!(
            connection.call("PING", vec![]),
            async { connection.call("PING", vec![]).await.and(connection.call("PING", vec![]).await) },
            async {
                server.write_all(said).await.unwrap();
                drop(server);
                lost.wait().await.to_string()
            }
        );
        assert!(why.contains(reason), "{why}");
        if said.starts_with(b"+") {
            assert_eq!(text(first), "first");
        } else {
            assert!(matches!(first, Err(CallError::Lost(_))));
        }
        assert!(matches!(second, Err(CallError::Lost(_))), "{second:?}");
        assert!(matches!(connection.read(Bytes::new()).await, Err(CallError::Lost(_))));
    }
}

#[tokio::test]
async fn what_the_server_does_not_take_is_given_up_with_the_connection() {
    let (connection, mut lost, server) = pair().await;
    let large = Bytes::from(vec![b'x'; 32 << 20]);
    let call = connection.call("SET", vec![large]);
    let (answer, why) = tokio::join!(call, async {
        // Some of it has come.
        server.readable().await.unwrap();
        connection.close();
        lost.wait().await
    });
    assert!(matches!((answer, why), (Err(CallError::Lost(_)), CallError::Lost(_))));
    drop(server);
}
