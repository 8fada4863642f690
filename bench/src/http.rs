//! A small HTTP/1.1 client that keeps its connection, so that the app is what is measured and not the client.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// By name. Whoever has them has the session.
pub(crate) type Cookies = Vec<(String, String)>;

pub(crate) struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
    pub(crate) sets_cookie: bool,
}

impl Connection {
    pub(crate) async fn open(app: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(app).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, request: Vec::new(), answer: Vec::with_capacity(4096) })
    }

    /// Sends a request without a body and reads the whole answer.
    pub(crate) async fn send(&mut self, cookies: &mut Cookies, method: &str, path: &str) -> Result<Answer<'_>> {
        self.request.clear();
        self.request.extend_from_slice(method.as_bytes());
        self.request.push(b' ');
        self.request.extend_from_slice(path.as_bytes());
        self.request.extend_from_slice(b" HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\n");
        if method == "POST" {
            self.request.extend_from_slice(b"Content-Length: 0\r\n");
        }
        for (i, (name, value)) in cookies.iter().enumerate() {
            self.request.extend_from_slice(if i == 0 { b"Cookie: " } else { b"; " });
            self.request.extend_from_slice(name.as_bytes());
            self.request.push(b'=');
            self.request.extend_from_slice(value.as_bytes());
        }
        self.request.extend_from_slice(if cookies.is_empty() { b"\r\n" } else { b"\r\n\r\n" });
        self.stream.write_all(&self.request).await?;

        self.answer.clear();
        let head = loop {
            if let Some(end) = find(&self.answer, b"\r\n\r\n") {
                break end;
            }
            self.fill().await?;
        };
        let text = std::str::from_utf8(&self.answer[..head]).context("the head is no text")?;
        let head_of_answer = Head::parse(text)?;
        for cookie in &head_of_answer.cookies {
            remember(cookies, cookie);
        }
        let (status, sets_cookie, end) =
            (head_of_answer.status, !head_of_answer.cookies.is_empty(), head + 4 + head_of_answer.length);
        while self.answer.len() < end {
            self.fill().await?;
        }
        if self.answer.len() > end {
            bail!("more came than was asked for");
        }
        Ok(Answer { status, body: &self.answer[head + 4..], sets_cookie })
    }

    async fn fill(&mut self) -> Result<()> {
        if self.stream.read_buf(&mut self.answer).await? == 0 {
            bail!("the app closed the connection");
        }
        Ok(())
    }
}

struct Head<'a> {
    status: u16,
    length: usize,
    /// `name=value` of each `Set-Cookie`.
    cookies: Vec<&'a str>,
}

impl<'a> Head<'a> {
    fn parse(text: &'a str) -> Result<Self> {
        let status = text.get(9..12).and_then(|status| status.parse().ok()).context("no status")?;
        let mut head = Self { status, length: 0, cookies: Vec::new() };
        for line in text.split("\r\n").skip(1) {
            let (name, value) = line.split_once(':').context("a header without a colon")?;
            if name.eq_ignore_ascii_case("content-length") {
                head.length = value.trim().parse()?;
            } else if name.eq_ignore_ascii_case("set-cookie") {
                head.cookies.push(value.trim().split(';').next().unwrap_or_default());
            }
        }
        Ok(head)
    }
}

/// A cookie as `name=value`, in the place of the one of that name.
pub(crate) fn remember(cookies: &mut Cookies, cookie: &str) {
    let Some((name, value)) = cookie.split_once('=') else { return };
    match cookies.iter_mut().find(|known| known.0 == name) {
        Some(known) => value.clone_into(&mut known.1),
        None => cookies.push((name.to_owned(), value.to_owned())),
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read() {
        let head = Head::parse("HTTP/1.1 200 OK\r\nset-cookie: a=b; Path=/\r\nContent-Length: 12").unwrap();
        assert_eq!((head.status, head.length, head.cookies), (200, 12, vec!["a=b"]));
    }

    #[test]
    fn a_cookie_takes_the_place_of_the_one_before() {
        let mut cookies = Vec::new();
        for cookie in ["a=1", "b=2", "a=3=="] {
            remember(&mut cookies, cookie);
        }
        assert_eq!(cookies, [("a".to_owned(), "3==".to_owned()), ("b".to_owned(), "2".to_owned())]);
    }
}
