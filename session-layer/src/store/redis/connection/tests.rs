//! The other end of these connections is the test.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::net::TcpListener;

use super::*;

/// A connection that is greeted, and its other end.
async fn pair() -> (Connection, Lost, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let login = Login::default();
    let (opened, server) = tokio::join!(Connection::open(address, &login, 0), async {
        let (mut server, _) = listener.accept().await.unwrap();
        heard(&mut server, &[b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n", &marker(1)[..]].concat()).await;
        server.write_all(b"%1\r\n$7\r\nversion\r\n$5\r\n7.0.1\r\n").await.unwrap();
        server.write_all(&echo(1)).await.unwrap();
        server
    });
    let (connection, lost) = opened.unwrap();
    assert_eq!(connection.server_version(), Some("7.0.1"));
    (connection, lost, server)
}

/// Resolves when the connection has sent something.
async fn asked(server: &TcpStream) {
    server.peek(&mut [0]).await.unwrap();
}

async fn heard(server: &mut TcpStream, expected: &[u8]) {
    let mut said = vec![0; expected.len()];
    server.read_exact(&mut said).await.unwrap();
    assert_eq!(said, expected);
}

/// How the n-th packet ends, and what a server says to that. The greeting is the first.
fn marker(packet: u8) -> Vec<u8> {
    [b"*2\r\n$4\r\nECHO\r\n".as_slice(), &echo(packet)].concat()
}

fn echo(packet: u8) -> Vec<u8> {
    [b"$4\r\n\0\0\0".as_slice(), &[packet], b"\r\n"].concat()
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
        heard(&mut server, &[PING.repeat(2), marker(2)].concat()).await;
        server.write_all(b"+first\r\n").await.unwrap();
        server.write_all(b"+sec").await.unwrap();
        server.write_all(b"ond\r\n").await.unwrap();
        server.write_all(&echo(2)).await.unwrap();
    });
    assert_eq!(text(answer), "second");
}

#[tokio::test]
async fn what_the_server_says_unasked_is_no_answer() {
    let (connection, _lost, mut server) = pair().await;
    let mut unasked = connection.unasked();
    let (first, second, ()) = tokio::join!(connection.call("PING", vec![]), connection.call("PING", vec![]), async {
        asked(&server).await;
        server.write_all(b">1\r\n$1\r\na\r\n+first\r\n>1\r\n$1\r\nb\r\n+second\r\n").await.unwrap();
        server.write_all(&echo(2)).await.unwrap();
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
        (b"$5\r\nhal".to_vec(), "closed"),
        ([b"+first\r\n+second\r\n", &echo(2)[..], b"+third\r\n"].concat(), "nobody asked"),
        (b"+first\r\n|1\r\n+key\r\n+value\r\n+second\r\n".to_vec(), "another protocol"),
        (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), "another protocol"),
    ] {
        let (connection, mut lost, mut server) = pair().await;
        let (first, second, why) = tokio::join!(
            connection.call("PING", vec![]),
            async { connection.call("PING", vec![]).await.and(connection.call("PING", vec![]).await) },
            async {
                asked(&server).await;
                server.write_all(&said).await.unwrap();
                server.shutdown().await.unwrap();
                lost.wait().await.to_string()
            }
        );
        assert!(why.contains(reason), "{why}");
        if reason == "nobody asked" {
            assert_eq!(text(first), "first");
        } else {
            assert!(matches!(first, Err(CallError::Lost(_))));
        }
        for answer in [second.map(drop), connection.read(Bytes::new()).await.map(drop)] {
            assert!(matches!(answer, Err(CallError::Lost(told)) if told.contains(reason)), "{reason}");
        }
    }
}

fn session(name: &str) -> Vec<u8> {
    format!("%2\r\n$2\r\n@c\r\n$1\r\n1\r\n$2\r\n@n\r\n$8\r\n{name}\r\n").into()
}

fn applied(commit: &str) -> Vec<u8> {
    format!("$11\r\n{commit}A17\r\n").into()
}

/// What the server says to two reads, two commits, and the marker of their packet.
struct Said {
    a: Vec<u8>,
    b: Vec<u8>,
    c: Vec<u8>,
    d: Vec<u8>,
    end: Vec<u8>,
}

/// Which of them got an answer, and why the connection ended.
async fn delivered(say: impl FnOnce(Said) -> Vec<Vec<u8>>) -> ([bool; 4], String) {
    // A pair of sessions that was mixed up once is not a reason to drop a connection again.
    static CASE: AtomicU32 = AtomicU32::new(0);
    let case = CASE.fetch_add(1, Ordering::Relaxed);
    let names = ["a", "b", "c", "d"].map(|name| format!("{name}{case:07}"));
    let [a, b, c, d] = &names;
    let said = Said { a: session(a), b: session(b), c: applied(c), d: applied(d), end: echo(2) };
    let (connection, mut lost, mut server) = pair().await;
    let key = |name: &str| Bytes::from(format!("session:{{ab0c}}:{name}"));
    let script = |commit: &str| {
        let words = ["digest", "2", "session"].map(|word| Bytes::from_static(word.as_bytes()));
        connection.run_script(words.into_iter().chain([key(commit)]).collect())
    };
    let answers = async { tokio::join!(connection.read(key(a)), connection.read(key(b)), script(c), script(d)) };
    let ((a, b, c, d), ()) = tokio::join!(answers, async {
        asked(&server).await;
        server.write_all(&say(said).concat()).await.unwrap();
        server.shutdown().await.unwrap();
    });
    ([a.is_ok(), b.is_ok(), c.is_ok(), d.is_ok()], lost.wait().await.to_string())
}

#[tokio::test]
async fn no_reply_of_a_packet_is_delivered_if_one_is_out_of_place() {
    let bytes = |text: &str| text.as_bytes().to_vec();
    let (none, ttl, error) = (|| bytes("%0\r\n"), || bytes(":60000\r\n"), || bytes("-OOM no\r\n"));
    let (whole, why) = delivered(|s| vec![s.a, ttl(), s.b, ttl(), s.c, s.d, s.end]).await;
    assert_eq!(whole, [true; 4], "{why}");
    let (whole, why) = delivered(|s| vec![none(), ttl(), s.b, ttl(), error(), s.d, s.end]).await;
    assert_eq!(whole, [true, true, false, true], "{why}");
    assert!(why.contains("closed"), "{why}");
    type Case<'a> = (&'a str, Box<dyn FnOnce(Said) -> Vec<Vec<u8>> + 'a>);
    let t = ttl;
    let cases: Vec<Case<'_>> = vec![
        ("a read twice", Box::new(|s| vec![s.a.clone(), s.a, t(), s.b, t(), s.c, s.d, s.end])),
        ("a script twice", Box::new(|s| vec![s.a, t(), s.b, t(), s.c.clone(), s.c, s.d, s.end])),
        ("the last one twice", Box::new(|s| vec![s.a, t(), s.b, t(), s.c, s.d.clone(), s.d, s.end])),
        ("a read in another's place", Box::new(|s| vec![s.a.clone(), t(), s.a, t(), s.c, s.d, s.end])),
        ("a script in another's place", Box::new(|s| vec![s.a, t(), s.b, t(), s.c.clone(), s.c, s.end])),
        ("no read", Box::new(|s| vec![t(), s.b, t(), s.c, s.d, s.end])),
        ("no script", Box::new(|s| vec![s.a, t(), s.b, t(), s.d, s.end])),
        ("no last one", Box::new(|s| vec![s.a, t(), s.b, t(), s.c, s.end])),
        ("reads exchanged", Box::new(|s| vec![s.b, t(), s.a, t(), s.c, s.d, s.end])),
        ("a read exchanged for an absent one", Box::new(|s| vec![s.b, t(), none(), t(), s.c, s.d, s.end])),
        ("scripts exchanged", Box::new(|s| vec![s.a, t(), s.b, t(), s.d, s.c, s.end])),
        ("a read exchanged for a script", Box::new(|s| vec![s.c, t(), s.b, t(), s.a, s.d, s.end])),
        ("the marker of the packet before", Box::new(|s| vec![s.a, t(), s.b, t(), s.c, s.d, echo(1)])),
        ("the marker of the packet behind", Box::new(|s| vec![s.a, t(), s.b, t(), s.c, s.d, echo(3)])),
        ("a marker that is refused", Box::new(|s| vec![s.a, t(), s.b, t(), s.c, s.d, error()])),
    ];
    for (what, say) in cases {
        let (delivered, why) = delivered(say).await;
        assert_eq!(delivered, [false; 4], "{what}");
        assert!(why.contains("ECHO") || why.contains("mixes up replies"), "{what}: {why}");
    }
}

#[tokio::test]
async fn small_replies_do_not_wait_for_large_commands_behind_them() {
    let (connection, _lost, mut server) = pair().await;
    let large = || connection.call("SET", vec![Bytes::from(vec![b'x'; PACKET_SIZE])]);
    let (told, first_came) = oneshot::channel();
    let first = async {
        let answer = large().await;
        told.send(()).unwrap();
        answer
    };
    let (first, second, ()) = tokio::join!(first, large(), async {
        asked(&server).await;
        server.write_all(&[b"+first\r\n", &echo(2)[..]].concat()).await.unwrap();
        first_came.await.unwrap();
        server.write_all(&[b"+second\r\n", &echo(3)[..]].concat()).await.unwrap();
    });
    assert_eq!((text(first), text(second)), ("first".into(), "second".into()));
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

/// What opening a connection to a server in this mode says.
async fn opened_in(mode: &str) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, login) = (listener.local_addr().unwrap(), Login::default());
    let (opened, ()) = tokio::join!(Connection::open(address, &login, 0), async {
        let (mut server, _) = listener.accept().await.unwrap();
        asked(&server).await;
        let hello = format!("%1\r\n$4\r\nmode\r\n${}\r\n{mode}\r\n", mode.len());
        server.write_all(&[hello.as_bytes(), &echo(1)].concat()).await.unwrap();
    });
    opened.map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_member_of_a_redis_cluster_is_refused_in_one_sentence() {
    assert_eq!(opened_in("standalone").await, Ok(()));
    let refused = opened_in("cluster").await.unwrap_err();
    assert!(
        refused.contains("Redis Cluster") && refused.contains("cluster-enabled no") && !refused.contains(". "),
        "{refused}"
    );
    let refused = opened_in("sentinel").await.unwrap_err();
    assert!(refused.contains("redis-sentinel://"), "{refused}");
}
