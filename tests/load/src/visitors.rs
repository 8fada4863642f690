//! Many visitors of the demo, who do what visitors do and check every answer.
//!
//! Each has a browser of its own and sends one request at a time; the request that is due goes to one that is idle. Those who
//! were here last come again first, so most of the load is of sessions that are in use; the others step in while requests wait.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::answers::{COUNT, NOTE, NOTES_EACH, good, view};
use crate::browser::{Answer, Browser, Site, attribute, login_form};
use crate::driver::{Outcome, Request, Workload, lock};
pub use crate::findings::{Count, Findings};
use crate::model::{Action, Cookie, Finding, Model, View};

/// The password of the accounts `visitor-0`, `visitor-1` and so on, which the demo has for this load.
const PASSWORD: &str = "visitor";
/// Visitors enough for requests that wait this long, each of them: more than the longest wait for the store.
const WAITS: Duration = Duration::from_secs(7);
/// How long a visitor rests whose last request had no good answer. After the store's budget (5 s) whatever it began has
/// ended, so the next read tells what became of it.
const REST: Duration = Duration::from_secs(7);
/// How many requests are under way at once while visitors arrive, and while they are looked at in the end.
const AT_ONCE: usize = 24;
/// In percent, what is due: the rest of 100 is logins and logouts, in turn.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    /// `GET /api/session`.
    pub reads: u8,
    /// `GET /`: one that writes, too.
    pub visits: u8,
    /// `PUT` of an attribute.
    pub puts: u8,
    /// `POST …/increment`.
    pub increments: u8,
    /// `DELETE` of an attribute; a `PUT` where there is none.
    pub deletes: u8,
}

/// 70 % `GET`, 25 % writes, 5 % logins and logouts.
pub const MIX: Mix = Mix { reads: 60, visits: 10, puts: 13, increments: 9, deletes: 3 };

/// The visitors. Clones are the same ones.
#[derive(Clone)]
pub struct Visitors {
    inner: Arc<Inner>,
}

struct Inner {
    site: Site,
    mix: Mix,
    rest: Duration,
    started: Instant,
    idle: Mutex<Idle>,
    findings: Mutex<Findings>,
    /// How many of those that were here last come first.
    regulars: usize,
}

struct Idle {
    ready: Vec<Visitor>,
    resting: VecDeque<(Instant, Visitor)>,
    random: fastrand::Rng,
}

struct Visitor {
    number: i64,
    account: String,
    browser: Browser,
    model: Model,
    notes: i64,
    /// Cookies whose sessions have ended, and must stay ended.
    ended: Vec<String>,
}

impl Visitors {
    /// Lets so many visitors arrive that `rate` requests a second may wait for the longest that the store may take: each begins
    /// a session, and half of those who come first log in.
    ///
    /// # Errors
    ///
    /// When one could not.
    pub async fn arrive(site: Site, rate: u32, seed: u64) -> Result<Self, String> {
        Self::with_rest(site, rate, seed, REST).await
    }

    /// `rest` takes the place of [`REST`], for servers with less patience.
    pub(crate) async fn with_rest(site: Site, rate: u32, seed: u64, rest: Duration) -> Result<Self, String> {
        let regulars = (rate as usize).max(10);
        let population = (f64::from(rate) * WAITS.as_secs_f64()).ceil() as usize + regulars;
        let browser = Browser::new();
        let visitors = (0..population).map(|number| {
            let account = format!("visitor-{number}");
            let (browser, model) = (browser.another(), Model::new(&account));
            Visitor { number: number as i64, account, browser, model, notes: 0, ended: Vec::new() }
        });
        let idle = Idle { ready: Vec::new(), resting: VecDeque::new(), random: fastrand::Rng::with_seed(seed) };
        let inner = Inner {
            site,
            mix: MIX,
            rest,
            started: Instant::now(),
            idle: Mutex::new(idle),
            findings: Mutex::default(),
            regulars,
        };
        let all = Self { inner: Arc::new(inner) };
        let first = population - regulars / 2;
        let arrived = all.each(visitors, move |inner, mut visitor| async move {
            let log_in = visitor.number as usize >= first;
            for action in [Action::Set(visitor.new_note()), Action::LogIn].into_iter().take(1 + usize::from(log_in)) {
                if let Some(why) = visitor.act(&inner, action).await.failure {
                    return Err(format!("visitor {}: {action:?}: {why}", visitor.number));
                }
            }
            Ok(visitor)
        });
        let mut arrived = arrived.await.into_iter().collect::<Result<Vec<_>, _>>()?;
        arrived.sort_by_key(|visitor| visitor.number);
        lock(&all.inner.idle).ready = arrived;
        Ok(all)
    }

    /// How many there are.
    pub fn population(&self) -> usize {
        let idle = lock(&self.inner.idle);
        idle.ready.len() + idle.resting.len()
    }

    /// What was found out so far.
    pub fn findings(&self) -> Findings {
        lock(&self.inner.findings).clone()
    }

    /// Looks at every visitor's session once more, and tries every cookie whose session has ended. After the load, when all
    /// is well again: an answer that is not good here is wrong.
    pub async fn verify(&self) -> Findings {
        let visitors: Vec<_> = {
            let mut idle = lock(&self.inner.idle);
            let resting = std::mem::take(&mut idle.resting);
            let resting = resting.into_iter().map(|(until, visitor)| (Some(until), visitor));
            std::mem::take(&mut idle.ready).into_iter().map(|visitor| (None, visitor)).chain(resting).collect()
        };
        let verified = self.each(visitors, |inner, (until, mut visitor)| async move {
            if let Some(until) = until {
                sleep_until(until).await;
            }
            visitor.verify(&inner).await;
            visitor
        });
        let verified = verified.await;
        lock(&self.inner.idle).ready.extend(verified);
        self.findings()
    }

    /// Does something with each of `items`, some at a time.
    async fn each<I: Send + 'static, T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        items: impl IntoIterator<Item = I>,
        act: impl Fn(Arc<Inner>, I) -> F,
    ) -> Vec<T> {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut tasks = JoinSet::new();
        for item in items {
            let work = act(Arc::clone(&self.inner), item);
            let places = Arc::clone(&places);
            tasks.spawn(async move {
                let _place = places.acquire_owned().await.expect("nobody closes it");
                work.await
            });
        }
        tasks.join_all().await
    }
}

impl Workload for Visitors {
    fn begin(&self, _: u64) -> Option<Request> {
        let (mut visitor, action) = self.inner.next()?;
        let kind = kind(action, visitor.model.has_session());
        let inner = Arc::clone(&self.inner);
        Some(Request::new(kind, async move {
            let outcome = visitor.act(&inner, action).await;
            inner.give_back(visitor);
            outcome
        }))
    }
}

fn kind(action: Action, has_session: bool) -> &'static str {
    match action {
        // Costs the store nothing.
        Action::Read if !has_session => "GET without a session",
        Action::Read => "GET /api/session",
        Action::Visit => "GET /",
        Action::Set(_) => "PUT attribute",
        Action::Remove => "DELETE attribute",
        Action::Increment => "POST increment",
        Action::LogIn => "POST /login",
        Action::LogOut => "POST /logout",
    }
}

/// Whether requests of this kind wait for the store.
pub fn needs_the_store(kind: &str) -> bool {
    kind != "GET without a session"
}

impl Inner {
    fn next(&self) -> Option<(Visitor, Action)> {
        let mut idle = lock(&self.idle);
        let now = Instant::now();
        while idle.resting.front().is_some_and(|(until, _)| *until <= now) {
            let (_, visitor) = idle.resting.pop_front().expect("it was there");
            idle.ready.push(visitor);
        }
        let ready = idle.ready.len();
        if ready == 0 {
            return None;
        }
        let chosen = idle.random.usize(ready.saturating_sub(self.regulars)..ready);
        let mut visitor = idle.ready.swap_remove(chosen);
        let percent = idle.random.u8(0..100);
        let action = visitor.choose(self.mix, percent);
        Some((visitor, action))
    }

    fn give_back(&self, visitor: Visitor) {
        let mut idle = lock(&self.idle);
        if visitor.model.is_in_doubt() {
            idle.resting.push_back((Instant::now() + self.rest, visitor));
        } else {
            idle.ready.push(visitor);
        }
    }

    fn note(&self, visitor: &Visitor, findings: Vec<Finding>) {
        if findings.is_empty() {
            return;
        }
        let mut all = lock(&self.findings);
        let who = format!("after {:.2?}, visitor {}", self.started.elapsed(), visitor.number);
        for finding in findings {
            match finding {
                Finding::Wrong(what) => all.wrong.add(1, || format!("{who}: {what}")),
                Finding::LostDurable(what) => all.lost_durable.add(1, || format!("{who}: {what}")),
                Finding::Lost(writes, what) => all.lost.add(writes, || format!("{who}: {what}")),
                Finding::Missing => all.missing += 1,
                Finding::Repeated(visits) => all.repeated += visits,
            }
        }
    }
}

impl Visitor {
    fn new_note(&mut self) -> i64 {
        self.notes += 1;
        self.number * NOTES_EACH + self.notes
    }

    /// What it does next, if `percent` of all are smaller.
    fn choose(&mut self, mix: Mix, percent: u8) -> Action {
        if self.model.is_in_doubt() {
            return Action::Read;
        }
        let bounds =
            [mix.reads, mix.visits, mix.puts, mix.increments, mix.deletes].into_iter().scan(0, |sum, share| {
                *sum += share;
                Some(*sum)
            });
        match bounds.take_while(|bound| percent >= *bound).count() {
            0 => Action::Read,
            1 => Action::Visit,
            3 => Action::Increment,
            4 if self.model.has_note() => Action::Remove,
            2 | 4 => Action::Set(self.new_note()),
            _ if self.model.is_logged_in() => Action::LogOut,
            _ => Action::LogIn,
        }
    }

    /// Sends the request, and learns from the answer.
    async fn act(&mut self, inner: &Inner, action: Action) -> Outcome {
        let before = self.browser.session_cookie();
        let answer = self.send(inner.site, action).await;
        let after = self.browser.session_cookie();
        let cookie = match (&before, &after) {
            (before, after) if before == after => Cookie::Untouched,
            (_, Some(_)) => Cookie::Set,
            (_, None) => Cookie::Removed,
        };
        let outcome = |failure| Outcome {
            status: answer.as_ref().map(|answer| answer.status).map_err(Clone::clone),
            node: answer.as_ref().ok().and_then(Answer::node).map(str::to_owned),
            failure,
        };
        match answer.as_ref().map_err(Clone::clone).and_then(|answer| good(self.number, action, answer)) {
            Ok(good) => {
                let findings = self.model.answered(action, &good, cookie);
                inner.note(self, findings);
                if matches!(action, Action::LogIn | Action::LogOut) && cookie != Cookie::Untouched {
                    self.ended.extend(before);
                }
                if !self.model.has_session() {
                    // Of a session that is gone: presenting it again would be refused.
                    self.browser.clear_cookies();
                }
                let mut findings = lock(&inner.findings);
                match action {
                    Action::Read => {}
                    Action::LogIn => findings.logins += 1,
                    Action::LogOut => findings.logouts += 1,
                    _ => findings.writes += 1,
                }
                outcome(None)
            }
            Err(why) => {
                let is_refusal = answer.as_ref().is_ok_and(|answer| answer.status.is_client_error());
                self.model.failed(action, is_refusal, cookie);
                lock(&inner.findings).doubts += u64::from(self.model.is_in_doubt());
                outcome(Some(why))
            }
        }
    }

    async fn send(&self, site: Site, action: Action) -> Result<Answer, String> {
        let (method, path, headers, body) = match action {
            Action::Read => (Method::GET, "/api/session".to_owned(), &[][..], Bytes::new()),
            Action::Visit => (Method::GET, "/".to_owned(), &[][..], Bytes::new()),
            Action::Set(value) => (Method::PUT, attribute(NOTE), &[][..], value.to_string().into()),
            Action::Remove => (Method::DELETE, attribute(NOTE), &[][..], Bytes::new()),
            Action::Increment => (Method::POST, format!("{}/increment", attribute(COUNT)), &[][..], Bytes::new()),
            Action::LogIn => {
                let (headers, form) = login_form(&self.account, PASSWORD);
                return self.browser.send(site, Method::POST, "/login", &headers, form).await;
            }
            Action::LogOut => (Method::POST, "/logout".to_owned(), &[][..], Bytes::new()),
        };
        self.browser.send(site, method, &path, headers, body).await
    }

    async fn verify(&mut self, inner: &Inner) {
        if let Some(why) = self.act(inner, Action::Read).await.failure {
            inner.note(self, vec![Finding::Wrong(format!("its session could not be looked at in the end: {why}"))]);
        }
        lock(&inner.findings).verified += 1;
        let present = self.browser.another();
        for cookie in &self.ended {
            present.set_session_cookie(cookie);
            let answer = present.send(inner.site, Method::GET, "/api/session", &[], Bytes::new()).await;
            let view = answer.and_then(|answer| match answer.status {
                StatusCode::OK => view(self.number, &answer),
                status => Err(status.to_string()),
            });
            let mut findings = lock(&inner.findings);
            findings.tried += 1;
            match view {
                Ok(View { id: None, .. }) => {}
                Ok(view) => {
                    findings.resurrected += 1;
                    let number = self.number;
                    findings.lost_durable.add(1, || format!("visitor {number}: an ended session lives: {view:?}"));
                }
                Err(why) => findings.wrong.add(1, || format!("a cookie could not be tried again: {why}")),
            }
        }
    }
}
