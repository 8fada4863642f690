//! Nodes: apps in this process, whose handlers come along with the requests.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use cluster_tests::redis::{Machine, Redis};
use http::Extensions;
use session_layer::store::{RedisStore, SessionStore, TOMBSTONE_LIFETIME};
use session_layer::{SessionError, SessionLayer, SessionLayerBuilder, Sessions};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tower::ServiceExt;

pub(super) const SECRET: [u8; 32] = [7; 32];

/// Shared by all tests that do it no harm.
static SERVER: OnceCell<Machine> = OnceCell::const_new();

/// A part of a Redis, for the nodes of one test.
#[derive(Clone)]
pub(super) struct Place {
    port: u16,
    prefix: String,
    durable_replicas: u32,
}

/// Finds the key of the only live session.
const ONE_SESSION: &str = "local key for _, other in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do \
    if redis.call('TYPE', other).ok == 'hash' and redis.call('HEXISTS', other, '@c') == 1 then key = other end end";

impl Place {
    pub(super) async fn shared() -> Self {
        let server = SERVER.get_or_init(async || Machine::with_redis(&[]).await).await;
        Self::on(server.port(0))
    }

    pub(super) fn on(port: u16) -> Self {
        static USED: AtomicUsize = AtomicUsize::new(0);
        Self { port, prefix: format!("promise-{}", USED.fetch_add(1, Ordering::Relaxed)), durable_replicas: 0 }
    }

    /// Where logins, logouts and revocations must be on a replica.
    pub(super) fn durable(self) -> Self {
        Self { durable_replicas: 1, ..self }
    }

    /// The same sessions, by way of a proxy.
    pub(super) fn through(&self, proxy: u16) -> Self {
        Self { port: proxy, ..self.clone() }
    }

    pub(super) fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    pub(super) async fn admin(&self) -> Redis {
        Redis::new(TcpStream::connect(self.address()).await.expect("the server is up"))
    }

    /// What is here: every key with what it holds, from one moment. Not what commits leave to be recognised by.
    pub(super) async fn content(&self) -> BTreeMap<String, String> {
        const CONTENT: &str = "local all = {} for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do \
            local kind, held = redis.call('TYPE', key).ok, nil \
            if kind == 'hash' then held = redis.call('HGETALL', key) \
            elseif kind == 'zset' then held = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end \
            if held then all[#all + 1] = key all[#all + 1] = table.concat(held, ' ') end end return all";
        let answer = self.admin().await.command(&["EVAL", CONTENT, "0", &self.prefix]).await;
        let mut texts = texts(&answer).into_iter();
        std::iter::from_fn(|| Some((texts.next()?, texts.next()?))).collect()
    }

    /// Makes each tombstone look as if its session had ended so long ago, by its time to live, and tells how many there are.
    pub(super) async fn age_tombstones(&self, age: Duration) -> usize {
        const AGE: &str = "local found = 0 for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do \
            if redis.call('TYPE', key).ok == 'hash' and redis.call('HEXISTS', key, '@t') == 1 then \
              redis.call('PEXPIRE', key, ARGV[2]) found = found + 1 end end return found";
        let left = (TOMBSTONE_LIFETIME - age).as_millis().to_string();
        let answer = self.admin().await.command(&["EVAL", AGE, "0", &self.prefix, &left]).await;
        answer.trim_start_matches(':').trim().parse().unwrap_or_else(|_| panic!("{answer}"))
    }

    /// Makes the one live session look as if it had begun so much earlier.
    pub(super) async fn age_session(&self, by: Duration) {
        let script = format!("{ONE_SESSION} return redis.call('HINCRBY', key, '@b', '-' .. ARGV[2])");
        let answer =
            self.admin().await.command(&["EVAL", &script, "0", &self.prefix, &by.as_micros().to_string()]).await;
        assert!(answer.starts_with(':'), "{answer}");
    }

    /// How long the one live session has left; `None` if there is none.
    pub(super) async fn time_left(&self) -> Option<Duration> {
        let script = format!("{ONE_SESSION} return key and redis.call('PTTL', key) or -2");
        let answer = self.admin().await.command(&["EVAL", &script, "0", &self.prefix]).await;
        let left: i64 = answer.trim_start_matches(':').trim().parse().unwrap_or_else(|_| panic!("{answer}"));
        u64::try_from(left).ok().map(Duration::from_millis)
    }

    /// How many live sessions there are.
    pub(super) async fn live_sessions(&self) -> usize {
        self.content().await.values().filter(|fields| fields.split(' ').any(|field| field == "@c")).count()
    }

    /// Looks, in one moment, whether the lists of principals name exactly the live sessions of each, and gives how many each has.
    ///
    /// Fails if not.
    pub(super) async fn audit(&self) -> BTreeMap<String, usize> {
        self.audit_with(&mut self.admin().await).await
    }

    pub(super) async fn audit_with(&self, redis: &mut Redis) -> BTreeMap<String, usize> {
        const AUDIT: &str = "local found, prefix = {}, ARGV[1] .. ':{principal}:7:session:' \
            for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do \
            local kind = redis.call('TYPE', key).ok \
            if kind == 'hash' and redis.call('HEXISTS', key, '@c') == 1 then \
              local principal = redis.call('HGET', key, '@p') \
              if principal then found[#found + 1] = principal \
                if not redis.call('ZSCORE', prefix .. principal, key) then \
                  return redis.error_reply('a live session of ' .. principal .. ' is not listed') end end \
            elseif kind == 'zset' then \
              for _, session in ipairs(redis.call('ZRANGE', key, 0, -1)) do \
                local principal = redis.call('HGET', session, '@p') \
                if not principal or prefix .. principal ~= key or redis.call('HEXISTS', session, '@c') == 0 then \
                  return redis.error_reply(key .. ' lists a dead session') end end end end return found";
        let answer = redis.command(&["EVAL", AUDIT, "0", &self.prefix]).await;
        assert!(!answer.starts_with('-'), "{answer}");
        let mut live = BTreeMap::new();
        for principal in texts(&answer) {
            *live.entry(principal).or_default() += 1;
        }
        live
    }
}

/// The texts in an answer; none of ours has a line break.
pub(super) fn texts(answer: &str) -> Vec<String> {
    let mut lines = answer.split("\r\n");
    let mut texts = Vec::new();
    while let Some(line) = lines.next() {
        if line.starts_with('$') && line != "$-1" {
            texts.extend(lines.next().map(str::to_owned));
        }
    }
    texts
}

type Boxed = Pin<Box<dyn Future<Output = Result<String, SessionError>> + Send>>;

type Handler = Box<dyn FnOnce(Extensions) -> Boxed + Send>;

/// What a request's handler does: once, although what travels with a request must be a clone.
#[derive(Clone)]
pub(super) struct Act(Arc<Mutex<Option<Handler>>>);

impl Act {
    pub(super) fn new<F>(act: impl FnOnce(Extensions) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<String, SessionError>> + Send + 'static,
    {
        Self(Arc::new(Mutex::new(Some(Box::new(|extensions| Box::pin(act(extensions)))))))
    }
}

async fn handle(mut request: Request) -> Result<String, SessionError> {
    let act = request.extensions_mut().remove::<Act>().expect("requests bring their handler along");
    let act = act.0.lock().unwrap().take().expect("a request is handled once");
    act(std::mem::take(request.extensions_mut())).await
}

/// An app with a store of its own.
#[derive(Clone)]
pub(super) struct Node {
    app: Router,
    pub(super) store: RedisStore,
    pub(super) sessions: Sessions,
}

impl Node {
    pub(super) async fn start(place: &Place) -> Self {
        Self::with(place, |layer| layer).await
    }

    pub(super) async fn pair(place: &Place) -> [Self; 2] {
        [Self::start(place).await, Self::start(place).await]
    }

    pub(super) async fn with(place: &Place, change: impl FnOnce(SessionLayerBuilder) -> SessionLayerBuilder) -> Self {
        let url = format!("redis://{}", place.address());
        let store = RedisStore::builder(&url).key_prefix(&place.prefix).durable_replicas(place.durable_replicas);
        let store = store.build().expect("the settings are good");
        let up = tokio::time::timeout(Duration::from_secs(10), store.available()).await;
        up.expect("the store connects");
        let layer = change(SessionLayer::builder(store.clone()).secret(SECRET)).build().expect("the settings are good");
        let sessions = layer.sessions();
        Self { app: Router::new().fallback(handle).layer(layer), store, sessions }
    }

    pub(super) fn serve(&self, request: Request) -> impl Future<Output = Response> + Send + use<> {
        let response = self.app.clone().oneshot(request);
        async { response.await.into_response() }
    }
}
