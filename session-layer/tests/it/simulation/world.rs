//! What clients asked for and were told, and what the ledger knows of the store.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use session_layer::store::{Action, Attributes, Commit, CommitId, Record, Reply, StoreError, Version};
use session_layer::test_util::history::Call;
use session_layer::{SessionError, SessionId};
use tokio::time::Instant;

use super::check::Check;
use super::copies::STALE;
use super::ledger::{Ledger, Moment};
use super::script::{Account, Script};
use super::settings::Settings;

mod answers; // what each of them must keep to

/// What makes copies worth a check.
pub const COPY_BEHIND: &str = "a read from a copy that lacked a change";

pub type Shared = Arc<Mutex<World>>;

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct World {
    pub settings: Arc<Settings>,
    pub ledger: Ledger,
    pub requests: Vec<Request>,
    /// Which segment each commit was for.
    pub commits: HashMap<CommitId, (usize, usize)>,
    /// What was in the store when all was over.
    pub last_looks: Vec<Seen>,
    serial: i64,
}

/// One request.
#[derive(Debug)]
pub struct Request {
    pub browser: usize,
    pub script: Script,
    pub presented: Option<SessionId>,
    /// The request whose answer last told the browser something of the session.
    told: Option<usize>,
    /// What it read came from a copy, and may be as old as that.
    copied_since: Option<u64>,
    pub invoked: Option<Moment>,
    /// The handler's own time, and what else does not count towards the budget.
    pub own_time: Duration,
    /// How many calls had a budget of their own.
    pub budgets: u32,
    pub seen: Vec<Seen>,
    pub segments: Vec<Segment>,
    /// What it cost the session that the browser presented: set when the handler has answered.
    pub ends_presented: bool,
    pub logs_in: Option<Account>,
    /// It asks for a new session, whatever became of the one before.
    pub resets: bool,
    /// What the layer knows of its own commits.
    learned: Vec<Action>,
    pub answer: Option<Answer>,
}

/// A session as a handler saw it.
#[derive(Debug)]
pub struct Seen {
    pub from: u64,
    pub to: u64,
    pub id: SessionId,
    /// Its attributes, if it was there.
    pub attributes: Option<Attributes>,
}

/// What is committed together.
#[derive(Debug)]
pub struct Segment {
    pub calls: BTreeMap<&'static str, Call>,
    pub from: u64,
    pub to: Option<u64>,
    pub outcome: Outcome,
    pub commits: Vec<CommitId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The handler failed, so nothing may be sent.
    Withdrawn,
    /// Nobody was told.
    Unknown,
    Applied,
    /// The client was told that it is not applied.
    Refused,
}

impl Outcome {
    pub fn of(error: &SessionError) -> Self {
        if error.is_unavailable() {
            Self::Unknown
        } else if error.is_not_durable() {
            Self::Applied
        } else {
            Self::Refused
        }
    }
}

#[derive(Debug)]
pub struct Answer {
    pub at: Moment,
    pub status: u16,
    /// The ID that the browser is to keep, or that it is to forget its own.
    pub cookie: Option<Option<SessionId>>,
    /// If the layer answered in place of the handler.
    pub error: Option<SessionError>,
}

impl World {
    pub fn new(settings: &Arc<Settings>, traced: bool) -> Shared {
        let ledger = Ledger::new(settings.idle_timeout, settings.limit, traced);
        Arc::new(Mutex::new(Self {
            settings: Arc::clone(settings),
            ledger,
            requests: Vec::new(),
            commits: HashMap::new(),
            last_looks: Vec::new(),
            serial: 0,
        }))
    }

    pub fn plan(&mut self, browser: usize, script: Script) -> usize {
        self.requests.push(Request {
            browser,
            script,
            presented: None,
            told: None,
            copied_since: None,
            invoked: None,
            own_time: Duration::ZERO,
            budgets: 1,
            seen: Vec::new(),
            segments: Vec::new(),
            ends_presented: false,
            logs_in: None,
            resets: false,
            learned: Vec::new(),
            answer: None,
        });
        self.requests.len() - 1
    }

    /// A number that nobody else writes, from which its writer can be told, with room to count up.
    pub fn fresh_number(&mut self, browser: usize) -> i64 {
        self.serial += 1;
        (browser as i64 + 1) * 1_000_000_000 + self.serial * 1000
    }

    pub fn invoked(&mut self, request: usize, presented: Option<SessionId>, told: Option<usize>) {
        let moment = self.ledger.now();
        self.ledger.note(|| {
            let Request { browser, script, .. } = &self.requests[request];
            format!("request {request} of browser {browser}: {script:?}")
        });
        if let Some(id) = presented {
            let name = self.ledger.name(&id);
            self.ledger.note(|| format!("request {request} presents {name}"));
        }
        let known = &mut self.requests[request];
        known.presented = presented;
        known.told = told;
        known.invoked = Some(moment);
    }

    /// A request reads a session from a copy: at most a second old, and nothing older than the browser had been told when it sent the
    /// request. What was under way at the same time it need not have been told of.
    pub fn copied(&mut self, request: usize, id: &SessionId, copy: &Record, newest: Option<Version>) {
        let told = self.requests[request].told.and_then(|told| self.requests[told].answer.as_ref());
        let since = self.ledger.tick_of(Instant::now() - STALE).max(told.map_or(0, |answer| answer.at.tick));
        self.requests[request].copied_since = Some(since);
        self.ledger.copy_is_read(id, since, copy);
        self.ledger.meet(if newest == Some(copy.version) { "a read from a copy" } else { COPY_BEHIND });
    }

    /// Since when what this request has just read may have been so; it began to read at `began`.
    pub fn read_since(&mut self, request: usize, began: u64) -> u64 {
        self.requests[request].copied_since.take().map_or(began, |since| since.min(began))
    }

    /// A request's commit is on its way.
    pub fn sends(&mut self, request: usize, commit: &Commit) {
        let Some(at) = self.requests[request].segments.len().checked_sub(1) else {
            let what = format!("request {request} committed something before its handler asked for it");
            return self.ledger.fail(Check::AnswersAreHonest, what);
        };
        if self.commits.insert(commit.id, (request, at)).is_none() {
            self.requests[request].segments[at].commits.push(commit.id);
        }
    }

    /// The layer was told that it was applied.
    pub fn learns(&mut self, request: usize, action: &Action) {
        self.requests[request].learned.push(action.clone());
    }

    pub fn note_commit(&mut self, request: Option<usize>, commit: &Commit, reply: &Result<Reply, StoreError>) {
        let ledger = &mut self.ledger;
        if ledger.trace.is_none() {
            return;
        }
        let name = ledger.name(commit.action.id());
        let target = commit.action.target().map(|id| ledger.name(id));
        let kind = match &commit.action {
            Action::Create(..) => "create",
            Action::Apply(_) => "change",
            Action::Renew(..) => "renew",
            Action::Destroy(_) => "destroy",
        };
        let changes: Vec<_> = commit
            .changes
            .iter()
            .map(|(name, change)| match change {
                session_layer::store::Change::Set(value) => format!("{name}={}", String::from_utf8_lossy(value)),
                other => format!("{name} {other:?}"),
            })
            .collect();
        let (logs_in, clear) = (commit.action.logs_in(), commit.clear);
        // Versions follow the clock of the machine.
        let reply = match reply {
            Ok(Reply::Applied { counters, .. }) => format!("applied, {counters:?}"),
            Ok(other) => format!("{other:?}"),
            Err(error) => error.to_string(),
        };
        ledger.note(|| {
            format!(
                "commit {:?} of request {request:?}: {kind} {name} to {target:?}, login {logs_in:?}, clear {clear}, \
                 {changes:?}: {reply}",
                commit.id
            )
        });
    }

    pub fn answered(
        &mut self,
        request: usize,
        status: u16,
        cookie: Option<Option<SessionId>>,
        error: Option<SessionError>,
    ) {
        let at = self.ledger.now();
        let cookie_name = cookie.map(|id| id.map(|id| self.ledger.name(&id)));
        self.ledger.note(|| format!("answer to request {request}: {status} {error:?}, cookie {cookie_name:?}"));
        let known = &mut self.requests[request];
        let outcome = error.as_ref().map_or(Outcome::Applied, Outcome::of);
        if let Some(last) = known.segments.last_mut()
            && last.to.is_none()
            && last.outcome == Outcome::Unknown
        {
            last.outcome = outcome;
            last.to = (outcome == Outcome::Applied).then_some(at.tick);
        }
        known.answer = Some(Answer { at, status, cookie, error });
        self.check_answer(request);
    }

    /// The longest that a request may take. Timers are a millisecond coarse.
    fn allowed(&self, request: &Request) -> Duration {
        self.settings.budget * request.budgets + request.own_time + Duration::from_millis(10)
    }

    /// The store has applied a commit that arrived then: not one that its request had long given up.
    pub fn applies(&mut self, request: usize, commit: &CommitId, arrived: Moment) {
        let known = &self.requests[request];
        let invoked = known.invoked.expect("it was sent");
        let late = arrived.at - invoked.at;
        // Unless this is but another copy of one that was.
        let first = !(self.ledger.sent[commit].applied || self.ledger.sent[commit].unknown);
        if first && late > self.allowed(known) {
            let what = format!("request {request}: a commit was applied {late:?} after the request came");
            self.ledger.fail(Check::NothingAppliesAfterItsDeadline, what);
        }
    }
}
