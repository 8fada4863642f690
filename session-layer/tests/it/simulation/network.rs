//! What stands between a node and the store: calls that take their time, overtake each other, get lost on the way there or back,
//! or arrive when nobody waits for them any more. What arrives is written into the ledger.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use session_layer::SessionId;
use session_layer::store::{
    Commit, Freshness, Listed, Loaded, Record, Reply, Revocation, Revoked, SessionStore, StoreError, Touch,
};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::ledger::Owner;
use super::random::Random;
use super::settings::Settings;
use super::spans::current_request;
use super::world::{Shared, lock};

/// The store as one node sees it.
#[derive(Clone)]
pub struct Network<S> {
    store: S,
    world: Shared,
    settings: Arc<Settings>,
    random: Arc<Mutex<Random>>,
    alive: Arc<AtomicBool>,
    quiet: bool,
}

/// What becomes of one call. Times are from when it was sent.
struct Fate {
    arrives: Option<Duration>,
    answer: Answer,
}

enum Answer {
    Comes(Duration),
    /// The caller is told that the connection broke, at some time; the call may still be on its way.
    Breaks(Duration),
    /// The server says no, at once.
    Refused,
    Never,
}

impl<S: SessionStore + Clone> Network<S> {
    pub fn new(store: S, world: Shared, settings: Arc<Settings>, random: Random) -> Self {
        let random = Arc::new(Mutex::new(random));
        Self { store, world, settings, random, alive: Arc::new(AtomicBool::new(true)), quiet: false }
    }

    /// The same store without trouble.
    pub fn quiet(&self) -> Self {
        Self { quiet: true, alive: Arc::new(AtomicBool::new(true)), ..self.clone() }
    }

    /// The node is gone: what it sent may still arrive, and no answer comes back.
    pub fn cut(&self) {
        self.alive.store(false, Ordering::Relaxed);
    }

    fn fate(&self) -> Fate {
        if self.quiet {
            return Fate { arrives: Some(Duration::ZERO), answer: Answer::Comes(Duration::ZERO) };
        }
        let mut random = lock(&self.random);
        let settings = &self.settings;
        let takes = |random: &mut Random| Duration::from_millis(random.below(settings.call_takes_millis + 1));
        let arrives = takes(&mut random);
        // Long after its caller gave up, sometimes.
        let longest = if random.chance(300) { 2000 } else { 40 };
        let late = arrives + Duration::from_millis(random.below(longest));
        let breaks = Answer::Breaks(takes(&mut random));
        let happens = random.below(1000);
        let (lost, answer_lost) = (settings.call_lost, settings.call_lost + settings.answer_lost);
        let hangs = answer_lost + settings.hangs;
        match happens {
            n if n < lost => Fate { arrives: None, answer: breaks },
            n if n < answer_lost => {
                Fate { arrives: Some(if random.chance(500) { late } else { arrives }), answer: breaks }
            }
            n if n < hangs => Fate { arrives: random.chance(500).then_some(late), answer: Answer::Never },
            n if n < hangs + settings.refused => Fate { arrives: None, answer: Answer::Refused },
            _ => Fate { arrives: Some(arrives), answer: Answer::Comes(takes(&mut random)) },
        }
    }

    async fn travel<T: Send + 'static>(
        &self,
        what: impl FnOnce() -> String,
        call: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        if !self.alive.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        let Fate { arrives, answer } = self.fate();
        lock(&self.world).ledger.note(|| {
            let fate = match &answer {
                Answer::Comes(_) => "",
                Answer::Breaks(_) if arrives.is_some() => ", answer lost",
                Answer::Breaks(_) => ", call lost",
                Answer::Refused => ", refused",
                Answer::Never => ", hangs",
            };
            format!("sent: {}{fate}", what())
        });
        let (arrived, there) = oneshot::channel();
        if let Some(arrives) = arrives {
            // A task of its own: what was sent arrives whether or not somebody still waits.
            tokio::spawn(async move {
                if !arrives.is_zero() {
                    sleep(arrives).await;
                }
                let _nobody_waits = arrived.send(call.await);
            });
        }
        let answer = match answer {
            Answer::Comes(takes) => {
                let answer = there.await.expect("the store answers");
                if !takes.is_zero() {
                    sleep(takes).await;
                }
                answer
            }
            Answer::Breaks(after) => {
                sleep(after).await;
                Err(StoreError::unavailable("the connection broke"))
            }
            Answer::Refused => Err(StoreError::refused("not today")),
            Answer::Never => std::future::pending().await,
        };
        if !self.alive.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        answer
    }

    fn is_unconfirmed(&self) -> bool {
        !self.quiet && lock(&self.random).chance(self.settings.unconfirmed)
    }
}

impl<S: SessionStore + Clone> SessionStore for Network<S> {
    async fn load(&self, id: &SessionId) -> Result<Loaded, StoreError> {
        let (store, world, id) = (self.store.clone(), self.world.clone(), *id);
        let call = async move {
            let began = lock(&world).ledger.now();
            let loaded = store.load(&id).await;
            let ledger = &mut lock(&world).ledger;
            let name = ledger.name(&id);
            ledger.note(|| {
                let what = match &loaded {
                    Ok(Loaded::Alive(record)) => format!("alive, of {:?}", record.principal),
                    Ok(Loaded::Absent) => "absent".to_owned(),
                    Ok(Loaded::Ended { .. }) => "a tombstone".to_owned(),
                    Err(error) => error.to_string(),
                };
                format!("load {name}: {what}")
            });
            ledger.load_ends(&id, began, &loaded);
            loaded
        };
        self.travel(|| "load".to_owned(), call).await
    }

    fn has_copies(&self) -> bool {
        self.store.has_copies()
    }

    async fn load_copy(&self, id: &SessionId, wanted: &Freshness) -> Option<Record> {
        if !self.alive.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        let copy = self.store.load_copy(id, wanted).await?;
        let newest = match self.store.load(id).await {
            Ok(Loaded::Alive(record)) => Some(record.version),
            _ => None,
        };
        // The layer looks again whether it is new enough.
        if copy.version >= wanted.at_least {
            let request = current_request().expect("copies are read in requests");
            lock(&self.world).copied(request, id, &copy, newest);
        }
        Some(copy)
    }

    async fn commit(&self, commit: &Commit) -> Result<Reply, StoreError> {
        let request = current_request();
        if let Some(request) = request {
            lock(&self.world).sends(request, commit);
        }
        let (store, world, sent) = (self.store.clone(), self.world.clone(), commit.clone());
        let call = async move {
            let began = lock(&world).ledger.commit_begins(&sent);
            let reply = store.commit(&sent).await;
            let mut world = lock(&world);
            world.note_commit(request, &sent, &reply);
            if let (Ok(Reply::Applied { .. }), Some(request)) = (&reply, request) {
                world.applies(request, &sent.id, began);
            }
            world.ledger.commit_ends(&sent, began, &reply);
            reply
        };
        let what = || format!("commit {:?} of request {request:?}", commit.id);
        let reply = self.travel(what, call).await;
        if let (Ok(Reply::Applied { .. }), Some(request)) = (&reply, request) {
            lock(&self.world).learns(request, &commit.action);
        }
        match reply {
            Ok(Reply::Applied { version, counters, .. }) if commit.durable && self.is_unconfirmed() => {
                Ok(Reply::Applied { version, counters, confirmed: false, history: Vec::new() })
            }
            other => other,
        }
    }

    async fn sessions_of(&self, realm: &str, principal: &str) -> Result<Vec<Listed>, StoreError> {
        let (store, world) = (self.store.clone(), self.world.clone());
        let (realm, principal) = (realm.to_owned(), principal.to_owned());
        let call = async move {
            let began = lock(&world).ledger.now();
            let listed = store.sessions_of(&realm, &principal).await;
            lock(&world).ledger.list_ends(&Owner::new(&realm, &principal), began, &listed);
            listed
        };
        self.travel(|| "list".to_owned(), call).await
    }

    async fn revoke(&self, revocation: &Revocation) -> Result<Revoked, StoreError> {
        let (store, world, revocation) = (self.store.clone(), self.world.clone(), revocation.clone());
        let what = {
            let principal = revocation.principal.clone();
            move || format!("revoke sessions of {principal}")
        };
        let call = async move {
            lock(&world).ledger.revoke_begins(&revocation);
            let revoked = store.revoke(&revocation).await;
            let ledger = &mut lock(&world).ledger;
            ledger.note(|| format!("revoke {:?} of {}: {revoked:?}", revocation.which, revocation.principal));
            ledger.revoke_ends(&revocation, &revoked);
            revoked
        };
        let revoked = self.travel(what, call).await?;
        Ok(if self.is_unconfirmed() { Revoked { confirmed: false, ..revoked } } else { revoked })
    }

    async fn touch(&self, touch: &Touch) -> Result<(), StoreError> {
        let (store, world, touch) = (self.store.clone(), self.world.clone(), touch.clone());
        let call = async move {
            let began = lock(&world).ledger.touch_begins(&touch.id);
            let touched = store.touch(&touch).await;
            let ledger = &mut lock(&world).ledger;
            ledger.touch_ends(&touch.id, began, &touched);
            touched
        };
        self.travel(|| "touch".to_owned(), call).await
    }
}
