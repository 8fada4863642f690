//! Requests whose bytes arrive when the test says so, and requests that no HTTP library would send.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::browser::Answer;

/// Longer than any answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection on which one request is being written.
pub struct RawRequest {
    stream: TcpStream,
    read: Vec<u8>,
    started: Instant,
}

impl RawRequest {
    /// Connects and sends the first bytes. End the request's head with `Connection: close`, or the answer has no end.
    pub async fn start(port: u16, bytes: impl AsRef<[u8]>) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.set_nodelay(true).expect("a socket has this option");
        let mut request = Self { stream, read: Vec::new(), started: Instant::now() };
        request.send(bytes).await;
        request
    }

    /// Sends more.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("the server takes what the client sends");
    }

    /// Waits for `100 Continue`: the handler is there and waits for the body. The head has to ask for it.
    pub async fn body_is_wanted(&mut self) {
        let wanted = b"HTTP/1.1 100 Continue\r\n\r\n";
        while self.read.len() < wanted.len() {
            self.read_more().await.expect("the server asks for the body before it closes the connection");
        }
        let read = self.read.drain(..wanted.len()).collect::<Vec<_>>();
        assert_eq!(String::from_utf8_lossy(&read), String::from_utf8_lossy(wanted));
    }

    /// The answer: everything until the server closes the connection. `None` if it closed without one.
    pub async fn answer(mut self) -> Option<Answer> {
        while self.read_more().await.is_some() {}
        let took = self.started.elapsed();
        parse(&self.read).map(|(status, headers, body)| Answer { status, headers, body, took })
    }

    /// What has come so far, as soon as it fulfils a condition.
    pub async fn read_until(&mut self, condition: impl Fn(&str) -> bool) -> String {
        loop {
            let text = String::from_utf8_lossy(&self.read).into_owned();
            if condition(&text) {
                return text;
            }
            assert!(self.read_more().await.is_some(), "the answer has ended: {text}");
        }
    }

    async fn read_more(&mut self) -> Option<()> {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await.expect("no answer in time");
        // A server may close the connection under a request that it does not want to read to its end.
        matches!(read, Ok(1..)).then_some(())
    }
}

fn parse(bytes: &[u8]) -> Option<(StatusCode, HeaderMap, bytes::Bytes)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let mut lines = bytes[..end].split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    let status = StatusCode::from_bytes(lines.next()?.split(|byte| *byte == b' ').nth(1)?).ok()?;
    let mut headers = HeaderMap::new();
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        headers.append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
    }
    Some((status, headers, bytes::Bytes::copy_from_slice(&bytes[end + 4..])))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_body_is_sent_when_the_server_asks_for_it() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = vec![0; 4];
            stream.read_exact(&mut seen).await.unwrap();
            assert_eq!(seen, b"head");
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            stream.read_exact(&mut seen).await.unwrap();
            assert_eq!(seen, b"body");
            stream.write_all(b"HTTP/1.1 409 Conflict\r\nA: 1\r\nA:  2 \r\n\r\nsorry").await.unwrap();
        });
        let mut request = RawRequest::start(port, "head").await;
        request.body_is_wanted().await;
        request.send("body").await;
        let answer = request.answer().await.expect("there is one");
        server.await.unwrap();
        assert_eq!(answer.status, StatusCode::CONFLICT);
        assert_eq!(answer.headers.get_all("a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(answer.body, "sorry");
    }

    #[test]
    fn half_an_answer_is_none() {
        assert!(parse(b"").is_none());
        assert!(parse(b"HTTP/1.1 200 OK\r\nA: 1\r\n").is_none());
    }
}
