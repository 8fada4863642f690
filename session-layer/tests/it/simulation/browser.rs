//! Browsers: they send requests in waves, keep the cookie of the answer that came last, and sometimes lose one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, Request, Response, header};
use session_layer::{SessionError, SessionId, SessionLayer};
use tokio::sync::Notify;
use tokio::time::sleep;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tracing::Instrument;

use super::check::Check;
use super::handler::serve;
use super::network::Network;
use super::random::Random;
use super::script::{Account, Op, Script};
use super::settings::Settings;
use super::spans::Spans;
use super::world::{Shared, lock};
use session_layer::store::SessionStore;

type Service = BoxCloneSyncService<Request<usize>, Response<String>, std::convert::Infallible>;

/// The realms of the layers that each node has; a browser uses one of them.
pub const REALMS: [&str; 2] = ["session", "admin"];

/// One app node: two layers of its own over the store that all share.
pub struct Node {
    services: [Service; 2],
    cut: Box<dyn Fn() + Send + Sync>,
    killed: Arc<Notify>,
}

impl Node {
    pub fn start<S: SessionStore + Clone>(world: &Shared, settings: &Settings, network: Network<S>) -> Self {
        let services = REALMS.map(|realm| Self::service(realm, world, settings, network.clone()));
        Self { services, cut: Box::new(move || network.cut()), killed: Arc::default() }
    }

    fn service<S: SessionStore + Clone>(
        realm: &str,
        world: &Shared,
        settings: &Settings,
        network: Network<S>,
    ) -> Service {
        let mut builder = SessionLayer::builder(network)
            .secret([7; 32])
            .realm(realm)
            .development(true)
            .idle_timeout(settings.idle_timeout)
            .touch_interval(settings.touch_interval)
            .absolute_timeout(settings.absolute_timeout)
            .budget(settings.budget)
            .late_window(settings.late_window)
            .max_waiting(settings.max_waiting);
        if let Some((most, above)) = settings.limit {
            builder = builder.max_sessions_per_principal(most, above);
        }
        let layer = builder.build().expect("the settings are good");
        let world = Arc::clone(world);
        let app = {
            let sessions = layer.sessions();
            service_fn(move |request: Request<usize>| {
                let served = serve(Arc::clone(&world), sessions.clone(), request);
                async { Ok(served.await) }
            })
        };
        BoxCloneSyncService::new(layer.layer(app))
    }

    /// Takes all its requests with it.
    pub fn kill(&self) {
        (self.cut)();
        self.killed.notify_waiters();
    }
}

/// The nodes that are up; a dead one is replaced by another of its kind.
pub type Cluster = Arc<Mutex<Vec<Arc<Node>>>>;

/// The cookies, each as `name=value`.
#[derive(Clone, Default)]
struct Jar {
    session: Option<String>,
    /// The request whose answer brought it, or removed it.
    since: Option<usize>,
    /// Those that it had before.
    old: Vec<String>,
    /// What it was told of its session, and by the answer to which request.
    token: Option<(String, usize)>,
}

#[derive(Clone)]
pub struct Browser {
    number: usize,
    world: Shared,
    cluster: Cluster,
    settings: Arc<Settings>,
    random: Arc<Mutex<Random>>,
    jar: Arc<Mutex<Jar>>,
    accounts: [Account; 2],
    looked_up: Arc<dyn Fn(SessionId) -> tokio::task::JoinHandle<bool> + Send + Sync>,
}

impl Browser {
    pub fn new(
        number: usize,
        world: &Shared,
        cluster: &Cluster,
        settings: &Arc<Settings>,
        random: Random,
        looked_up: Arc<dyn Fn(SessionId) -> tokio::task::JoinHandle<bool> + Send + Sync>,
    ) -> Self {
        let own = if settings.shared_accounts { 0 } else { 2 * number };
        Self {
            number,
            world: Arc::clone(world),
            cluster: Arc::clone(cluster),
            settings: Arc::clone(settings),
            random: Arc::new(Mutex::new(random)),
            jar: Arc::default(),
            accounts: [Account(own), Account(own + 1)],
            looked_up,
        }
    }

    pub async fn browse(self) {
        for _ in 0..self.settings.waves {
            let (pause, login) = {
                let mut random = lock(&self.random);
                let pause = match random.below(100) {
                    0..60 => random.below(50),
                    60..85 => random.between(1_000, 8_000),
                    85..95 => random.between(45_000, 62_000),
                    _ => random.between(70_000, 310_000),
                };
                (pause, random.chance(300))
            };
            sleep(Duration::from_millis(pause)).await;
            self.restore();
            if login { self.log_in_amid_requests().await } else { self.wave().await }
        }
    }

    /// Sometimes the browser comes with a cookie from before, as one does that was restored.
    fn restore(&self) {
        let mut jar = lock(&self.jar);
        let mut random = lock(&self.random);
        if random.chance(100) && !jar.old.is_empty() {
            let old = random.below(jar.old.len() as u64) as usize;
            jar.session = Some(jar.old[old].clone());
            jar.since = None;
            lock(&self.world).ledger.note(|| format!("browser {} has an old cookie", self.number));
        }
    }

    async fn wave(&self) {
        let scripts = {
            let mut random = lock(&self.random);
            let count = random.between(1, self.settings.most_parallel);
            (0..count).map(|_| Script::any(&mut random, &self.settings, &self.accounts)).collect()
        };
        self.send_all(scripts, true).await;
    }

    /// Somebody logs in, perhaps with a double click, while the page still asks for other things. The browser ends logged in,
    /// whichever answer comes last.
    async fn log_in_amid_requests(&self) {
        let account = lock(&self.random).pick(&self.accounts);
        let scripts = {
            let mut random = lock(&self.random);
            let count = random.between(1, self.settings.most_parallel);
            let mut scripts: Vec<_> = (0..count).map(|_| Script::harmless(&mut random, &self.settings)).collect();
            for _ in 0..random.between(1, 2) {
                let at = random.below(scripts.len() as u64 + 1) as usize;
                scripts.insert(at, Script::log_in(&mut random, &self.settings, account));
            }
            scripts
        };
        let before = lock(&self.jar).session.as_deref().and_then(id_of);
        let sent = self.send_all(scripts, false).await;
        // Others may end what belongs to a shared account.
        if self.settings.shared_accounts {
            return;
        }
        let logged_in = {
            let world = lock(&self.world);
            let known = |request: &usize| &world.requests[*request];
            // Without a session to begin with each request begins one of its own, and the last answer wins.
            let began_alive = before.is_some()
                && sent.iter().all(|(request, _)| {
                    let seen = &known(request).seen;
                    known(request).presented == before && seen.first().is_none_or(|seen| seen.attributes.is_some())
                });
            // Requests that came late saw the tombstone of the session that was there.
            let began_alive = began_alive
                || (before.is_some_and(|id| {
                    let ledger = &world.ledger;
                    let first = sent.iter().filter_map(|(request, _)| known(request).invoked).map(|at| at.tick).min();
                    ledger.find(&id).is_some_and(|ident| {
                        ledger.idents[ident].buried.is_some()
                            && ledger.idents[ident].gone.is_some_and(|gone| Some(gone) > first)
                    })
                }) && sent.iter().all(|(request, _)| known(request).presented == before));
            began_alive
                && sent.iter().any(|(request, delivered)| {
                    let answer = &known(request).answer;
                    *delivered
                        && known(request).logs_in == Some(account)
                        && answer.as_ref().is_some_and(|answer| answer.status == 200)
                })
        };
        if !logged_in {
            return;
        }
        lock(&self.world).ledger.meet("a login amid requests, all answers in");
        let kept = lock(&self.jar).session.as_deref().and_then(id_of);
        let alive = match kept {
            Some(id) => (self.looked_up)(id).await.expect("it only reads"),
            None => false,
        };
        let ledger = &mut lock(&self.world).ledger;
        let whose = kept.and_then(|id| ledger.find(&id)).and_then(|ident| ledger.idents[ident].principal.clone());
        if !alive || whose.as_deref() != Some(account.name()) {
            let what = format!(
                "browser {} logged in as {}; its cookie is {:?} of {whose:?}, alive: {alive}",
                self.number,
                account.name(),
                kept.map(|id| ledger.name(&id))
            );
            ledger.fail(Check::LoginEndsLoggedIn, what);
        }
    }

    /// Sends them at about the same time and waits until all that comes back has come back. Tells the number of each, and whether
    /// its answer reached the browser.
    async fn send_all(&self, scripts: Vec<Script>, spread: bool) -> Vec<(usize, bool)> {
        let mut tasks = Vec::new();
        for script in scripts {
            let number = lock(&self.world).plan(self.number, script);
            let browser = self.clone();
            let waits = lock(&self.random).below(if spread { 20 } else { 8 });
            // All know the cookie from before if they are one page's; else some may see another's answer.
            let cookie = (!spread).then(|| lock(&self.jar).clone());
            tasks.push((
                number,
                tokio::spawn(async move {
                    sleep(Duration::from_millis(waits)).await;
                    browser.send(number, cookie).await
                }),
            ));
        }
        let mut sent = Vec::new();
        for (number, task) in tasks {
            // A handler that panics takes its connection along.
            sent.push((number, task.await.unwrap_or(false)));
        }
        sent
    }

    async fn send(&self, number: usize, cookies: Option<Jar>) -> bool {
        let Jar { session, token, .. } = cookies.unwrap_or_else(|| lock(&self.jar).clone());
        let mut request = Request::new(number);
        for cookie in session.iter().chain(token.as_ref().map(|(token, _)| token)) {
            request.headers_mut().append(header::COOKIE, cookie.parse().expect("it came from a header"));
        }
        let (goes, thrown_away, arrives) = {
            let mut random = lock(&self.random);
            let goes = random.chance(self.settings.client_goes).then(|| Duration::from_millis(random.below(40)));
            let thrown_away = random.chance(self.settings.answer_thrown_away);
            let arrives = Duration::from_millis(random.below(self.settings.answer_takes_millis + 1));
            (goes, thrown_away, arrives)
        };
        let node = {
            let nodes = lock(&self.cluster);
            let at = lock(&self.random).below(nodes.len() as u64) as usize;
            Arc::clone(&nodes[at])
        };
        lock(&self.world).invoked(number, session.as_deref().and_then(id_of), token.map(|(_, request)| request));
        let gone = async {
            match goes {
                Some(after) => sleep(after).await,
                None => std::future::pending().await,
            }
        };
        let response = tokio::select! {
            biased;
            () = node.killed.notified() => None,
            () = gone => None,
            response = self.service(&node).oneshot(request).instrument(Spans::request(number)) => response.ok(),
        };
        let Some(response) = response else {
            let ledger = &mut lock(&self.world).ledger;
            ledger.note(|| format!("request {number} was cut off"));
            ledger.meet("a request that was cut off");
            return false;
        };
        let [set, token] = [COOKIE, TOKEN].map(|name| set_cookie(response.headers(), name));
        let kept = set.as_ref().map(|cookie| cookie.as_deref().and_then(id_of));
        let error = response.extensions().get::<SessionError>().cloned();
        lock(&self.world).answered(number, response.status().as_u16(), kept, error);
        if thrown_away {
            lock(&self.world).ledger.meet("an answer that the browser threw away");
            return false;
        }
        sleep(arrives).await;
        if let Some(cookie) = set {
            lock(&self.world).ledger.note(|| format!("browser {} takes the cookie of request {number}", self.number));
            let mut jar = lock(&self.jar);
            lock(&self.world).takes_cookie(number, jar.since);
            let before = std::mem::replace(&mut jar.session, cookie);
            jar.old.extend(before);
            jar.since = Some(number);
        }
        if let Some(token) = token {
            lock(&self.jar).token = token.map(|token| (token, number));
        }
        true
    }

    /// Of the node, the layer that this browser uses.
    fn service(&self, node: &Node) -> Service {
        node.services[if self.settings.two_realms { self.number % 2 } else { 0 }].clone()
    }

    /// Ends with a look at the session that is left.
    pub async fn look(&self) {
        self.send_all(vec![Script::one(Op::List(self.accounts[0]))], true).await;
    }
}

/// The cookies' names in development.
const COOKIE: &str = "session=";
const TOKEN: &str = "session-v=";

/// The `name=value` that a browser sends back, or `None` inside if it is to forget it.
fn set_cookie(headers: &HeaderMap, name: &str) -> Option<Option<String>> {
    let mut values = headers.get_all(header::SET_COOKIE).iter().map(|value| value.to_str().expect("cookies are ASCII"));
    let value = values.find(|value| value.starts_with(name))?;
    let pair = value.split(';').next().unwrap_or_default();
    Some((!value.contains("Max-Age=0")).then(|| pair.to_owned()))
}

/// The ID in a cookie, which stands between a byte for the format and the signature.
fn id_of(cookie: &str) -> Option<SessionId> {
    let bytes = URL_SAFE_NO_PAD.decode(cookie.split_once('=')?.1).ok()?;
    SessionId::try_from(bytes.get(1..=SessionId::LEN)?).ok()
}
