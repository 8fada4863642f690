//! Random handlers, one request after the other, against a plain map: what they see while they run, and what is left after.
//!
//! Knows nothing of a particular store: [`check`] takes any.

use std::collections::BTreeMap;
use std::convert::Infallible;

use http::{Request, Response, StatusCode, header};
use proptest::prelude::*;
use session_layer::store::SessionStore;
use session_layer::{Session, SessionError, SessionLayer};
use tower::{Layer, Service, ServiceExt, service_fn};

const NAMES: [&str; 3] = ["a", "b", "c"];
const PRINCIPALS: [&str; 2] = ["alice", "bob"];

#[derive(Debug, Clone)]
pub enum Op {
    Insert(usize, i64),
    Remove(usize),
    Increment(usize, i64),
    Update(usize, i64),
    Clear,
    Flush,
    LogIn(usize),
    LogOut,
    Cycle,
    Reload,
}

/// What a handler does, and whether it fails in the end.
pub type Script = (Vec<Op>, bool);

pub fn scripts() -> impl Strategy<Value = Vec<Script>> {
    let name = || 0..NAMES.len();
    let op = prop_oneof![
        4 => (name(), -9..9_i64).prop_map(|(name, value)| Op::Insert(name, value)),
        3 => name().prop_map(Op::Remove),
        4 => (name(), -9..9_i64).prop_map(|(name, by)| Op::Increment(name, by)),
        2 => (name(), -9..9_i64).prop_map(|(name, by)| Op::Update(name, by)),
        1 => Just(Op::Clear),
        3 => Just(Op::Flush),
        2 => (0..PRINCIPALS.len()).prop_map(Op::LogIn),
        1 => Just(Op::LogOut),
        1 => Just(Op::Cycle),
        1 => Just(Op::Reload),
    ];
    let script = (proptest::collection::vec(op, 0..8), proptest::bool::weighted(0.15));
    proptest::collection::vec(script, 1..8)
}

/// What a handler sees after each operation.
#[derive(Debug, Clone, Default, PartialEq)]
struct View {
    attributes: BTreeMap<String, i64>,
    principal: Option<String>,
    exists: bool,
    /// What the operation itself answered.
    answer: Option<i64>,
}

/// What is stored, and what a handler has done to it.
#[derive(Debug, Clone, Default)]
struct Model {
    stored: Option<(BTreeMap<String, i64>, Option<String>)>,
    /// Changes that wait: set to, removed, or added to.
    pending: BTreeMap<String, Pending>,
    cleared: bool,
    principal: Option<String>,
    /// The session ends with this request; a message may start another one.
    replaced: bool,
    renewed: bool,
}

#[derive(Debug, Clone, Copy)]
enum Pending {
    To(Option<i64>),
    By(i64),
}

impl Model {
    fn attributes(&self) -> BTreeMap<String, i64> {
        let stored = self.stored.clone().unwrap_or_default().0;
        let mut attributes = if self.cleared || self.replaced { BTreeMap::new() } else { stored };
        for (name, pending) in &self.pending {
            let value = match pending {
                Pending::To(value) => *value,
                Pending::By(by) => Some(attributes.get(name).unwrap_or(&0) + by),
            };
            match value {
                Some(value) => attributes.insert(name.clone(), value),
                None => attributes.remove(name),
            };
        }
        attributes
    }

    fn view(&self, answer: Option<i64>) -> View {
        let exists = self.stored.is_some() && !self.replaced;
        View { attributes: self.attributes(), principal: self.principal.clone(), exists, answer }
    }

    /// Writes what waits, as far as that is done before the end.
    fn flush(&mut self) -> BTreeMap<String, i64> {
        if self.replaced || (self.pending.is_empty() && !self.cleared) {
            return BTreeMap::new();
        }
        let attributes = self.attributes();
        let leaves = self.pending.values().any(|pending| !matches!(pending, Pending::To(None)));
        if let Some(stored) = &mut self.stored {
            stored.0 = attributes.clone();
        } else if leaves {
            self.stored = Some((attributes.clone(), None));
        }
        self.cleared = false;
        let counted = std::mem::take(&mut self.pending).into_iter().filter(|(_, p)| matches!(p, Pending::By(_)));
        counted.map(|(name, _)| (name.clone(), attributes[&name])).collect()
    }

    fn apply(&mut self, op: &Op) -> View {
        let mut answer = None;
        match op {
            Op::Insert(name, value) => {
                self.pending.insert(NAMES[*name].into(), Pending::To(Some(*value)));
            }
            Op::Remove(name) => {
                answer = Some(self.attributes().contains_key(NAMES[*name]).into());
                self.pending.insert(NAMES[*name].into(), Pending::To(None));
                if self.cleared {
                    // Nothing is left to remove, and what is counted next is counted from zero.
                    self.pending.remove(NAMES[*name]);
                }
            }
            Op::Increment(name, by) => {
                let pending = self.pending.entry(NAMES[*name].into()).or_insert(Pending::By(0));
                *pending = match *pending {
                    Pending::To(value) => Pending::To(Some(value.unwrap_or(0) + by)),
                    Pending::By(before) => Pending::By(before + by),
                };
            }
            Op::Update(name, by) => {
                let value = self.attributes().get(NAMES[*name]).unwrap_or(&0) + by;
                self.pending.insert(NAMES[*name].into(), Pending::To(Some(value)));
                self.flush();
                answer = Some(value);
            }
            Op::Clear => {
                self.pending.clear();
                self.cleared = true;
            }
            Op::Flush => {
                let counters = self.flush();
                answer = (!counters.is_empty()).then(|| counters.values().sum());
            }
            Op::LogIn(principal) => {
                let principal = PRINCIPALS[*principal].to_owned();
                self.replaced |= self.principal.as_ref().is_some_and(|current| *current != principal);
                self.principal = Some(principal);
                self.renewed = true;
            }
            Op::LogOut => {
                self.pending.clear();
                (self.cleared, self.replaced, self.principal) = (false, true, None);
            }
            Op::Cycle => self.renewed = true,
            Op::Reload => {}
        }
        self.view(answer)
    }

    fn ends(&mut self, failed: bool) {
        if !failed && self.replaced {
            let attributes = self.attributes();
            let begins = self.principal.is_some() || !attributes.is_empty();
            self.stored = begins.then(|| (attributes, self.principal.clone()));
        } else if !failed {
            self.flush();
            if self.renewed && self.principal.is_some() {
                self.stored.get_or_insert_default().1 = self.principal.clone();
            }
        }
        let stored = self.stored.take();
        let principal = stored.as_ref().and_then(|(_, principal)| principal.clone());
        *self = Self { stored, principal, ..Self::default() };
    }
}

async fn act(op: &Op, session: &Session) -> Result<Option<i64>, SessionError> {
    let mut answer = None;
    match op {
        Op::Insert(name, value) => session.insert(NAMES[*name], value)?,
        Op::Remove(name) => answer = Some(session.remove(NAMES[*name])?.into()),
        Op::Increment(name, by) => session.increment(NAMES[*name], *by)?,
        Op::Update(name, by) => {
            let change = |value: &mut Option<i64>| {
                *value = Some(value.unwrap_or(0) + by);
                *value
            };
            answer = session.update(NAMES[*name], change).await?;
        }
        Op::Clear => session.clear()?,
        Op::Flush => {
            let flushed = session.flush().await?;
            let counters: Vec<_> = NAMES.into_iter().filter_map(|name| flushed.counter(name)).collect();
            answer = (!counters.is_empty()).then(|| counters.iter().sum());
        }
        Op::LogIn(principal) => session.log_in(PRINCIPALS[*principal])?,
        Op::LogOut => session.log_out()?,
        Op::Cycle => session.cycle_id()?,
        Op::Reload => {
            session.reload().await?;
        }
    }
    Ok(answer)
}

fn look(session: &Session, answer: Option<i64>) -> Result<View, SessionError> {
    let mut attributes = BTreeMap::new();
    for name in session.names() {
        let value = session.get(name.as_str())?.expect("it was named");
        attributes.insert(name, value);
    }
    for name in NAMES {
        assert_eq!(session.get::<i64>(name)?, attributes.get(name).copied());
    }
    Ok(View { attributes, principal: session.principal(), exists: session.exists(), answer })
}

/// What the handler saw first, and after each operation.
async fn serve(request: Request<Script>) -> Result<Response<Vec<View>>, Infallible> {
    let run = async {
        let session = Session::from_extensions(request.extensions()).await?;
        let mut views = vec![look(&session, None)?];
        for op in &request.body().0 {
            let answer = act(op, &session).await?;
            views.push(look(&session, answer)?);
        }
        Ok::<_, SessionError>(views)
    };
    let views = run.await.expect("nothing here is an error");
    let mut response = Response::new(views);
    if request.body().1 {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    Ok(response)
}

/// Sends the requests of one browser, and panics where its handlers do not see what the model says. `alive` counts the sessions in the
/// store, which has none at first.
pub async fn check(store: impl SessionStore, alive: impl AsyncFn() -> usize, scripts: Vec<Script>) {
    let layer = SessionLayer::builder(store).secret([7; 32]).development(true).build().expect("good settings");
    let mut app = layer.layer(service_fn(serve));
    let mut cookie: Option<String> = None;
    let mut model = Model::default();
    for script in scripts {
        let expected: Vec<_> = {
            let first = model.view(None);
            std::iter::once(first).chain(script.0.iter().map(|op| model.apply(op))).collect()
        };
        let failed = script.1;
        let mut request = Request::new(script);
        if let Some(cookie) = &cookie {
            request.headers_mut().insert(header::COOKIE, cookie.parse().expect("it was a header"));
        }
        let Ok(response) = app.ready().await.expect("always ready").call(request).await;
        assert_eq!(*response.body(), expected);
        if let Some(set) = response.headers().get(header::SET_COOKIE) {
            let set = set.to_str().expect("cookies are ASCII");
            cookie = (!set.contains("Max-Age=0")).then(|| set.split(';').next().unwrap_or_default().to_owned());
        }
        model.ends(failed);
        assert_eq!(alive().await, usize::from(model.stored.is_some()), "sessions in the store");
        assert_eq!(cookie.is_some(), model.stored.is_some(), "the browser knows of the session");
    }
}
