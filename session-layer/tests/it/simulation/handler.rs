//! The app: a tower service that does what a request's script says, and writes down what it saw.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use session_layer::test_util::history::Call;
use session_layer::{LazySession, Session, SessionError, SessionId, Sessions};

use super::script::{ALL, Account, End, NOTE, Op, PAIR, Script};
use super::world::{Outcome, Seen, Segment, Shared, lock};

/// What a handler does; panics where its script says so.
pub async fn serve(world: Shared, sessions: Sessions, request: Request<usize>) -> Response<String> {
    let number = *request.body();
    let (script, browser) = {
        let world = lock(&world);
        let known = &world.requests[number];
        (known.script.clone(), known.browser)
    };
    let mut handler =
        Handler { world, number, browser, calls: BTreeMap::new(), replaces: false, renews: false, id: None };
    let outcome = handler.run(&script, &sessions, &request).await;
    let status = match outcome {
        Ok(()) => match script.end {
            End::Ok => StatusCode::OK,
            End::ClientError => StatusCode::NOT_FOUND,
            End::ServerError => StatusCode::INTERNAL_SERVER_ERROR,
            End::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            // Without the panic hook, which would print each of them.
            End::Panic => std::panic::resume_unwind(Box::new("as the script says")),
        },
        Err(error) => error.status(),
    };
    let commits = !status.is_server_error() && status != StatusCode::REQUEST_TIMEOUT;
    handler.concludes(commits);
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

struct Handler {
    world: Shared,
    number: usize,
    browser: usize,
    /// What was changed since the last commit, one call for each attribute.
    calls: BTreeMap<&'static str, Call>,
    /// The session ends with this request, and what is changed from there on is another one's.
    replaces: bool,
    renews: bool,
    /// The session that exists, if that is known for sure.
    id: Option<SessionId>,
}

enum Handle {
    Lazy(LazySession),
    Loaded(Session),
}

impl Handler {
    async fn run(
        &mut self,
        script: &Script,
        sessions: &Sessions,
        request: &Request<usize>,
    ) -> Result<(), SessionError> {
        let handle = if script.lazy {
            Handle::Lazy(LazySession::from_extensions(request.extensions())?)
        } else {
            let from = self.tick();
            let session = Session::from_extensions(request.extensions()).await?;
            let presented = lock(&self.world).requests[self.number].presented;
            if let Some(id) = presented {
                self.sees(from, id, &session, session.exists());
                self.id = session.exists().then_some(id);
            }
            Handle::Loaded(session)
        };
        for op in &script.ops {
            let done = match &handle {
                Handle::Lazy(session) => self.blind(*op, session),
                Handle::Loaded(session) => self.step(*op, session, sessions).await,
            };
            if let Err(error) = done
                && script.minds_errors
            {
                return Err(error);
            }
        }
        Ok(())
    }

    fn tick(&self) -> u64 {
        lock(&self.world).ledger.now().tick
    }

    fn sees(&self, from: u64, id: SessionId, session: &Session, there: bool) {
        let attributes = there.then(|| {
            session
                .names()
                .into_iter()
                .filter_map(|name| session.raw(name.as_str()).map(|value| (name, value)))
                .collect()
        });
        let mut world = lock(&self.world);
        let to = world.ledger.now().tick;
        let from = world.read_since(self.number, from);
        world.requests[self.number].seen.push(Seen { from, to, id, attributes });
    }

    fn spends(&self, time: Duration, budgets: u32) {
        let known = &mut lock(&self.world).requests[self.number];
        known.own_time += time;
        known.budgets += budgets;
    }

    /// Folds a call into those of the same commit; `None` where one call cannot say it.
    fn folded(&self, name: &str, call: Call) -> Option<Call> {
        match (self.calls.get(name), call) {
            (Some(Call::Set(value)), Call::Increment(_)) => (*value >= 0).then_some(Call::Set(value + 1)),
            (Some(Call::Remove(_)), Call::Increment(_)) => Some(Call::Set(1)),
            (Some(Call::Increment(_)), Call::Increment(_)) => None,
            (_, call) => Some(call),
        }
    }

    /// Records a call if `change` took it.
    fn record(
        &mut self,
        name: &'static str,
        call: Call,
        change: impl FnOnce() -> Result<(), SessionError>,
    ) -> Result<(), SessionError> {
        if let Some(call) = self.folded(name, call) {
            change()?;
            self.calls.insert(name, call);
        }
        Ok(())
    }

    fn number(&self) -> i64 {
        lock(&self.world).fresh_number(self.browser)
    }

    /// The session ends, and what is changed from here on is another one's.
    fn resets(&mut self, reset: Result<(), SessionError>) -> Result<(), SessionError> {
        reset?;
        self.calls.clear();
        (self.replaces, self.renews) = (true, true);
        let known = &mut lock(&self.world).requests[self.number];
        known.resets = true;
        known.logs_in = None;
        Ok(())
    }

    fn blind(&mut self, op: Op, session: &LazySession) -> Result<(), SessionError> {
        match op {
            Op::Reset => self.resets(session.reset()),
            Op::Set(name) => {
                let value = self.number();
                self.record(name, Call::Set(value), || session.insert(name, value))
            }
            Op::Remove(name) => self.record(name, Call::Remove(None), || session.remove(name)),
            Op::Increment(name) => self.record(name, Call::Increment(None), || session.increment(name, 1)),
            Op::Text => {
                let value = self.number();
                self.record(NOTE, Call::Set(-value), || session.insert(NOTE, text(value)))
            }
            Op::Pair => {
                let value = self.number();
                PAIR.into_iter()
                    .try_for_each(|name| self.record(name, Call::Set(value), || session.insert(name, value)))
            }
            other => unreachable!("{other:?} is nothing to do blindly"),
        }
    }

    async fn step(&mut self, op: Op, session: &Session, sessions: &Sessions) -> Result<(), SessionError> {
        match op {
            Op::Set(name) => {
                let value = self.number();
                self.record(name, Call::Set(value), || session.insert(name, value))
            }
            Op::Remove(name) => self.record(name, Call::Remove(None), || session.remove(name).map(|_| ())),
            Op::Increment(name) => self.record(name, Call::Increment(None), || session.increment(name, 1)),
            Op::Text => {
                let value = self.number();
                self.record(NOTE, Call::Set(-value), || session.insert(NOTE, text(value)))
            }
            Op::Pair => {
                let value = self.number();
                PAIR.into_iter()
                    .try_for_each(|name| self.record(name, Call::Set(value), || session.insert(name, value)))
            }
            Op::Clear => {
                session.clear()?;
                self.calls = ALL.map(|name| (name, Call::Remove(None))).into();
                Ok(())
            }
            Op::Flush => self.flush(session).await,
            Op::Update(name) => self.update(name, session).await,
            Op::Reload => self.reload(session).await,
            Op::LogIn(account) => self.log_in(account, session),
            Op::LogOut | Op::Destroy => {
                if op == Op::LogOut {
                    session.log_out()?
                } else {
                    session.destroy()?
                }
                self.calls.clear();
                self.replaces = true;
                self.renews = true;
                lock(&self.world).requests[self.number].resets = false;
                Ok(())
            }
            Op::Reset => self.resets(session.reset()),
            Op::Cycle => {
                session.cycle_id()?;
                self.renews = true;
                Ok(())
            }
            Op::RevokeAll(account) => {
                self.spends(Duration::ZERO, 1);
                sessions.revoke_all(account.name()).await.map(|_| ())
            }
            Op::RevokeOthers(account) => {
                self.spends(Duration::ZERO, 1);
                sessions.revoke_others(account.name(), &session.handle()).await.map(|_| ())
            }
            Op::RevokeFirst(account) => {
                self.spends(Duration::ZERO, 2);
                match sessions.of(account.name()).await?.first() {
                    Some(first) => sessions.revoke(account.name(), &first.handle()).await.map(|_| ()),
                    None => Ok(()),
                }
            }
            Op::List(account) => {
                self.spends(Duration::ZERO, 1);
                sessions.of(account.name()).await.map(|_| ())
            }
            Op::Sleep(millis) => {
                self.spends(Duration::from_millis(millis + 1), 0);
                tokio::time::sleep(Duration::from_millis(millis)).await;
                Ok(())
            }
        }
    }

    fn log_in(&mut self, account: Account, session: &Session) -> Result<(), SessionError> {
        let other = session.principal().is_some_and(|principal| principal != account.name());
        session.log_in(account.name())?;
        self.replaces |= other;
        self.renews = true;
        lock(&self.world).requests[self.number].logs_in = Some(account);
        Ok(())
    }

    async fn flush(&mut self, session: &Session) -> Result<(), SessionError> {
        if self.replaces || self.calls.is_empty() {
            // Waits for the response, or has nothing to do.
            return session.flush().await.map(|_| ());
        }
        let at = self.sends();
        let flushed = session.flush().await;
        if flushed.is_ok() && self.takes_back(at, session) {
            return Ok(());
        }
        let counters = flushed.as_ref().ok().cloned().unwrap_or_default();
        self.settles(at, flushed.as_ref().err(), |name, call| match call {
            Call::Increment(_) => Call::Increment(counters.counter(name)),
            other => other,
        });
        if flushed.is_ok() && !self.renews && session.exists() {
            self.id = Some(session.id());
        }
        flushed.map(|_| ())
    }

    async fn update(&mut self, name: &'static str, session: &Session) -> Result<(), SessionError> {
        let Some(call) = self.folded(name, Call::Increment(None)) else { return Ok(()) };
        let change = |value: &mut Option<i64>| {
            let next = value.unwrap_or(0) + 1;
            *value = Some(next);
            next
        };
        // The pauses between its tries are its own.
        self.spends(Duration::from_millis(200), 0);
        if self.replaces {
            session.update(name, change).await?;
            self.calls.insert(name, call);
            return Ok(());
        }
        self.calls.insert(name, call);
        let at = self.sends();
        let updated = session.update(name, change).await;
        if updated.is_ok() && self.takes_back(at, session) {
            return Ok(());
        }
        let value = updated.as_ref().ok().copied();
        self.settles(at, updated.as_ref().err(), |of, call| match call {
            Call::Increment(_) if of == name => Call::Increment(value),
            other => other,
        });
        if updated.is_ok() && !self.renews && session.exists() {
            self.id = Some(session.id());
        }
        updated.map(|_| ())
    }

    async fn reload(&mut self, session: &Session) -> Result<(), SessionError> {
        let from = self.tick();
        let there = session.reload().await?;
        // What is pending lies over what is stored.
        if let Some(id) = self.id
            && self.calls.is_empty()
            && !self.replaces
        {
            self.sees(from, id, session, there);
        }
        Ok(())
    }

    /// A commit begins with what was changed so far.
    fn sends(&mut self) -> usize {
        let calls = std::mem::take(&mut self.calls);
        let mut world = lock(&self.world);
        let from = world.ledger.now().tick;
        let segments = &mut world.requests[self.number].segments;
        segments.push(Segment { calls, from, to: None, outcome: Outcome::Unknown, commits: Vec::new() });
        segments.len() - 1
    }

    /// Who logs in over a tombstone changes a session that only the answer's commit starts or finds: nothing was sent.
    fn takes_back(&mut self, at: usize, session: &Session) -> bool {
        let known = &mut lock(&self.world).requests[self.number];
        let waits = known.logs_in.is_some() && !session.exists() && known.segments[at].commits.is_empty();
        if waits {
            self.calls = known.segments.remove(at).calls;
        }
        waits
    }

    /// A commit in the middle of the handler has ended.
    fn settles(&self, at: usize, error: Option<&SessionError>, answer: impl Fn(&str, Call) -> Call) {
        let mut world = lock(&self.world);
        let to = world.ledger.now().tick;
        world.ledger.note(|| format!("flush {at} of request {}: {error:?}", self.number));
        let segment = &mut world.requests[self.number].segments[at];
        segment.outcome = error.map_or(Outcome::Applied, Outcome::of);
        if segment.outcome == Outcome::Applied {
            segment.to = Some(to);
            for (name, call) in &mut segment.calls {
                *call = answer(name, *call);
            }
        }
    }

    /// The handler has answered; from here on it is the layer's turn.
    fn concludes(&mut self, commits: bool) {
        let at = self.sends();
        let known = &mut lock(&self.world).requests[self.number];
        if !commits {
            known.segments[at].outcome = Outcome::Withdrawn;
        }
        known.ends_presented = commits && self.renews;
        if !commits {
            known.logs_in = None;
            known.resets = false;
        }
    }
}

fn text(value: i64) -> String {
    format!("t{value}")
}

/// An attribute as the number that stands for it in a history.
pub fn number_of(value: &Bytes) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    match text.strip_prefix("\"t").and_then(|text| text.strip_suffix('"')) {
        Some(digits) => digits.parse::<i64>().ok().map(|value| -value),
        None => text.parse().ok(),
    }
}
