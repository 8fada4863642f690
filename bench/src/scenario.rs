//! What is measured: which requests, over which session, and what must come back.

use anyhow::{Result, bail};

use crate::contract::{Size, value};
use crate::http::{Connection, Cookies};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requests {
    /// A route that does not look at its session.
    Untouched,
    /// A route that looks for a session, asked by somebody without one.
    Anonymous,
    /// Reads one attribute.
    Read,
    /// Reads one attribute and changes it.
    ReadWrite,
    /// Changes one attribute.
    BlindWrite,
    /// Nine reads, then a blind write.
    Mix,
}

impl Requests {
    /// Whether there are many more sessions than are visited at a time. Who reads and writes without a pause has always just written,
    /// and is told by no copy what their session is; visitors pause.
    pub(crate) fn of_a_crowd(self) -> bool {
        self == Self::Mix
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scenario {
    /// On the command line, and in the file of results.
    pub(crate) name: &'static str,
    /// In the table.
    pub(crate) title: &'static str,
    pub(crate) requests: Requests,
    pub(crate) size: Size,
    /// How many send requests at once, each the next one when the last was answered.
    pub(crate) users: usize,
    /// Whether Redis is half a millisecond away each way.
    pub(crate) far: bool,
}

const MANY: usize = 32;

pub(crate) const SCENARIOS: &[Scenario] = &[
    near("untouched", "untouched route, valid cookie", Requests::Untouched, Size::Kib1),
    near("anonymous", "reading route, no cookie", Requests::Anonymous, Size::Kib1),
    near("read", "read, 1 KiB in 8", Requests::Read, Size::Kib1),
    near("read-16k", "read, 16 KiB in 64", Requests::Read, Size::Kib16),
    near("write", "read and write, 1 KiB in 8", Requests::ReadWrite, Size::Kib1),
    near("blind", "blind write, 1 KiB in 8", Requests::BlindWrite, Size::Kib1),
    near("blind-16k", "blind write, 16 KiB in 64", Requests::BlindWrite, Size::Kib16),
    near("mix", "nine reads, one blind write, 1 KiB in 8, 40,000 sessions", Requests::Mix, Size::Kib1),
    far("far-read-1", "read, 1 user", Requests::Read, 1),
    far("far-read-4", "read, 4 users", Requests::Read, 4),
    far("far-write-1", "read and write, 1 user", Requests::ReadWrite, 1),
    far("far-write-4", "read and write, 4 users", Requests::ReadWrite, 4),
    far("far-blind-1", "blind write, 1 user", Requests::BlindWrite, 1),
    far("far-blind-4", "blind write, 4 users", Requests::BlindWrite, 4),
];

const fn near(name: &'static str, title: &'static str, requests: Requests, size: Size) -> Scenario {
    Scenario { name, title, requests, size, users: MANY, far: false }
}

const fn far(name: &'static str, title: &'static str, requests: Requests, users: usize) -> Scenario {
    Scenario { name, title, requests, size: Size::Kib1, users, far: true }
}

/// One user, and what they know of their session.
pub(crate) struct User {
    cookies: Cookies,
    scenario: Scenario,
    keeps_sessions: bool,
    /// Of the value that was written last.
    number: u64,
    sent: u64,
}

impl User {
    /// The users of a mix are as far in it as their numbers say, so that there are as many writes at any time.
    pub(crate) fn new(number: usize, scenario: Scenario, keeps_sessions: bool) -> Self {
        Self { cookies: Cookies::new(), scenario, keeps_sessions, number: 0, sent: number as u64 }
    }

    /// Starts a session, unless the scenario is about having none.
    pub(crate) async fn start(&mut self, connection: &mut Connection) -> Result<()> {
        if self.scenario.requests != Requests::Anonymous && self.keeps_sessions {
            let path = format!("/start/{}", self.scenario.size.name());
            let answer = connection.send(&mut self.cookies, "POST", &path).await?;
            if answer.status != 200 || answer.body != b"done" || !answer.sets_cookie {
                bail!("no session was started: status {}, cookie: {}", answer.status, answer.sets_cookie);
            }
        }
        Ok(())
    }

    /// Sends the next request and checks its answer.
    pub(crate) async fn go(&mut self, connection: &mut Connection) -> Result<()> {
        self.sent += 1;
        match self.scenario.requests {
            Requests::Untouched => self.expect(connection, "GET", "/plain", b"plain").await,
            Requests::Anonymous if self.keeps_sessions => self.expect(connection, "GET", "/read", b"none").await,
            Requests::Anonymous | Requests::Read => self.read(connection).await,
            Requests::ReadWrite => {
                let (width, old) = (self.width(), self.number);
                let path = format!("/write/{width}/{}", old + 1);
                self.expect(connection, "POST", &path, value(width, old).as_bytes()).await?;
                self.number += 1;
                Ok(())
            }
            Requests::BlindWrite => self.write_blindly(connection).await,
            Requests::Mix if self.sent.is_multiple_of(10) => self.write_blindly(connection).await,
            Requests::Mix => self.read(connection).await,
        }
    }

    /// What was written last must be there at the end.
    pub(crate) async fn check(&mut self, connection: &mut Connection) -> Result<()> {
        match self.scenario.requests {
            Requests::Anonymous => Ok(()),
            Requests::Untouched if !self.keeps_sessions => Ok(()),
            _ => self.read(connection).await,
        }
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<()> {
        // Without sessions there is one answer for everybody.
        let expected =
            if self.keeps_sessions { value(self.width(), self.number) } else { value(Size::Kib1.width(), 0) };
        self.expect(connection, "GET", "/read", expected.as_bytes()).await
    }

    async fn write_blindly(&mut self, connection: &mut Connection) -> Result<()> {
        let path = format!("/blind/{}/{}", self.width(), self.number + 1);
        self.expect(connection, "POST", &path, b"done").await?;
        self.number += 1;
        Ok(())
    }

    fn width(&self) -> usize {
        self.scenario.size.width()
    }

    async fn expect(&mut self, connection: &mut Connection, method: &str, path: &str, body: &[u8]) -> Result<()> {
        let answer = connection.send(&mut self.cookies, method, path).await?;
        // A cookie is taken as a browser would take it; whether it is the right one shows in what is read with it.
        if answer.status != 200 || answer.body != body {
            let start = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
            bail!("{method} {path}: status {}, {:?} instead of {:?}", answer.status, start(answer.body), start(body));
        }
        Ok(())
    }
}
