//! Sessions in Redis: one HASH per session, one script per commit.
//!
//! The only place that talks to Redis, and names its client. In the order of a command's life: where Redis is (`url`, `builder`), who
//! leads (`topology`, `sentinel`, `name`, `identity`, `watchdog`), the connections to it (`epoch`, `server`, `resolve`, `connection`,
//! `backoff`, `durable`, `clock`) and to its replicas
//! (`replicas`, `reads`), what they speak (`hello`, `resp`), what is asked (`keys`, `scripts`), what it answers (`reply`), what it tells of
//! changes (`tracking`). Beside them `client`, for what no request waits for, and `observe`, for people to look at.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::AbortHandle;

use super::near_cache::NearCache;
use super::recent::Recent;
use super::{Freshness, Listed, Loaded, Record, SessionStore, StoreError};
use crate::commit::{Commit, Reply, Revocation, Revoked, Touch};
use crate::freshness::stands_in;
use crate::id::{SessionHandle, SessionId};

mod url;
use url::RedisUrl;

mod builder;
pub use builder::RedisStoreBuilder;

mod topology;
use topology::Master;

mod client;

mod sentinel;

mod watchdog;

mod name;

mod epoch;
use epoch::Epoch;

mod server;

mod identity;

mod resolve;
use resolve::Resolver;

mod backoff;

mod connection;
use connection::CallError;

mod packet;

mod hello;

mod resp;

mod durable;

mod replicas;

mod tracking;

mod rights;

mod status;
use status::Status;
pub use status::{Feature, StoreStatus};

mod eviction;
pub use eviction::Eviction;

mod reads;
pub use reads::ReadShares;
use reads::Reads;

mod clock;

mod keys;
use keys::Keys;

mod scripts;
use scripts::Script;

mod reply;

mod observe;
pub use observe::{
    Follower, Observation, Observed, ObservedSentinel, ObservedServer, Observer, Replication, SentinelEvent, Word,
};

mod telemetry;

/// Keeps sessions in Redis 7.0 or later, or Valkey; one server, or a master that sentinels watch.
///
/// It connects in the background, so that a node starts also when Redis is down, and finds the master again by itself when it
/// dies, freezes, or is deposed. An attempt that is made while there is no connection fails at once; nothing is queued, so nothing
/// happens later than whoever asked for it still waits.
///
/// Clones share one connection. Dropping the last one closes it.
///
/// # What Redis must be set to
///
/// `maxmemory-policy noeviction`, its default. Under any other policy a full Redis removes keys to make room: sessions, so that people are
/// logged out; tombstones, so that a request that was on its way at a logout is taken for a new visitor's; replies to commits, so that a
/// commit whose reply was lost takes effect twice when it is repeated; and lists of principals, so that a revocation misses sessions until
/// they are next used. With `noeviction` a full Redis refuses what would grow, and logouts still work. A server that evicts is used all
/// the same; [`status`](Self::status) and one warning per server say so. That is checked on each new master, and once a minute.
///
/// # What the Redis user must be allowed to do
///
/// ```text
/// ACL SETUSER session on >password ~session:* +client|tracking +del +echo +evalsha +exists +get +hdel +hexists +hget +hgetall +hincrby +hkeys +hlen +hmget +hset +info +pexpire +ping +pttl +rename +role +script|load +select +set +time +wait +zadd +zrange +zrem
/// ```
///
/// `~session:*` is for the default [`key_prefix`](RedisStoreBuilder::key_prefix). Some of these only some features need: `client|tracking`
/// and `ping` the near cache, `wait` commits that wait for replicas, `info` these three, replica reads, and the check for eviction;
/// `select` a database other than 0. ACLs are not replicated, so each server needs the user.
///
/// On connecting, the store asks the server whether the user may run all of them, on keys of each kind
/// (`redis.acl_check_cmd`, which runs nothing). Where a commit could stop half-way, the server is not used: attempts fail as if Redis were
/// down, with the missing permissions as the reason, until they are granted. Without what a feature needs, that feature is off;
/// [`status`](Self::status) and one warning say so. Rights that are taken away while the store is connected are noticed by the next script
/// that needs them, before it writes anything.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use session_layer::store::RedisStore;
///
/// let store = RedisStore::builder("redis://:password@localhost:6379").build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisStore {
    inner: Arc<Inner>,
}

struct Inner {
    url: RedisUrl,
    resolver: Resolver,
    keys: Keys,
    master: Arc<Master>,
    status: Status,
    /// Only where there are copies.
    recent: Option<Recent>,
    near_cache: Option<Arc<NearCache>>,
    reads: Reads,
    task: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.task.abort();
        // The task would do so too, when it next runs.
        self.master.send_replace(None);
    }
}

impl RedisStore {
    /// Starts with where Redis is:
    ///
    /// - `redis://[[user]:password@]host[:port][/database]`: one server.
    /// - `redis-sentinel://[[user]:password@]host[:port],…/master-name[/database]`: the master that these sentinels watch under
    ///   this name. User and password are those of the Redis servers; sentinels are asked without one.
    ///
    /// What has a meaning in a URL (`@ : / ? # %`) is written as `%` and two hexadecimal digits in a password.
    ///
    #[doc = include_str!("names.md")]
    pub fn builder(url: &str) -> RedisStoreBuilder {
        RedisStoreBuilder::new(url)
    }

    /// Whether there is a master at this moment. It says nothing about the next one.
    pub fn is_up(&self) -> bool {
        self.inner.master.borrow().is_some()
    }

    /// What there is to know about the server that is used: why none is, which features are off since the Redis user lacks a permission,
    /// and whether the server evicts sessions. For metrics, dashboards and health checks; costs no command. Each of these is in the log
    /// as well, once, at WARN.
    pub fn status(&self) -> StoreStatus {
        self.inner.status.get()
    }

    /// How often sessions were read from where since this store began.
    pub fn reads(&self) -> ReadShares {
        let near_cache = self.inner.near_cache.as_ref().map_or(0, |cache| cache.hits());
        ReadShares { near_cache, ..self.inner.reads.shares() }
    }

    /// Looks at all servers and sentinels from here on, over connections of its own, until the observer is dropped: for
    /// dashboards and logs. The store itself needs none.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn observe(&self) -> Observer {
        Observer::start(&self.inner.url, &self.inner.resolver)
    }

    fn epoch(&self) -> Result<Arc<Epoch>, StoreError> {
        let epoch = self.inner.master.borrow().clone();
        epoch.ok_or_else(|| {
            let problem = self.inner.status.problem().map_or(String::new(), |problem| format!(": {problem}"));
            StoreError::unavailable(format!("there is no connection to a Redis master{problem}"))
        })
    }

    /// Over the connection on which the server tells what changed, if there is one just now.
    async fn load_and_keep(&self, id: &SessionId, cache: &NearCache, epoch: &Arc<Epoch>) -> Result<Loaded, StoreError> {
        let session = id.handle();
        // In this order: what comes over a connection that was lost before, or is lost from now on, is not kept.
        let ticket = cache.ticket(&session);
        let tracking = epoch.tracking.connection();
        let connection = tracking.as_deref().unwrap_or(&epoch.connection);
        let key = self.inner.keys.session(&session);
        let read = pin!(connection.read(key.clone()));
        let (fields, ttl) = self.attempt(epoch, read).await?;
        epoch.reads.fetch_add(1, Ordering::Relaxed);
        let mut loaded = reply::loaded(&key, fields, ttl, epoch.clock())?;
        // What is absent is not kept: most who ask for such a session never come again.
        if let (Loaded::Alive(record), Some(_)) = (&mut loaded, &tracking) {
            cache.keep(session, ticket, record);
        }
        Ok(loaded)
    }

    async fn commit_once(&self, commit: &Commit, session: &SessionHandle) -> Result<Reply, StoreError> {
        let epoch = self.epoch()?;
        let script = scripts::script(commit);
        let deadline = || epoch.clock().redis_micros(commit.deadline);
        let arguments = || scripts::arguments(&self.inner.keys, commit, session, deadline());
        if !commit.durable {
            let call = pin!(epoch.run(script, arguments));
            let answer = self.attempt(&epoch, call).await?;
            return reply::committed(answer, commit);
        }
        let call = pin!(epoch.run_durable(script, commit.deadline, arguments));
        let (answer, on_replicas) = self.attempt(&epoch, call).await?;
        Ok(match reply::committed(answer, commit)? {
            Reply::Applied { version, counters, history, .. } => {
                Reply::Applied { version, counters, confirmed: on_replicas, history }
            }
            reply => reply,
        })
    }

    /// One attempt: it ends with the epoch at the latest. A call that comes by value is kept twice in here, which those of every request
    /// are too large for: they come pinned.
    async fn attempt<T>(
        &self,
        epoch: &Arc<Epoch>,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, StoreError> {
        let mut master = self.inner.master.subscribe();
        let over = master.wait_for(|now| !now.as_ref().is_some_and(|now| Arc::ptr_eq(now, epoch)));
        tokio::select! {
            biased;
            answer = call => answer.map_err(|error| epoch.judge(error)),
            _ = over => Err(StoreError::unavailable("the connection to the Redis master was given up")),
        }
    }
}

/// How long the sentinels, or a look at where the name leads, may take to confirm a master. Normally it takes a tenth of that.
const CONFIRMATION: Duration = Duration::from_secs(1);

impl SessionStore for RedisStore {
    async fn load(&self, id: &SessionId) -> Result<Loaded, StoreError> {
        let epoch = self.epoch()?;
        if let Some(cache) = &self.inner.near_cache {
            return self.load_and_keep(id, cache, &epoch).await;
        }
        let key = self.inner.keys.session(&id.handle());
        let read = pin!(epoch.connection.read(key.clone()));
        let (fields, ttl) = self.attempt(&epoch, read).await?;
        epoch.reads.fetch_add(1, Ordering::Relaxed);
        reply::loaded(&key, fields, ttl, epoch.clock())
    }

    async fn commit(&self, commit: &Commit) -> Result<Reply, StoreError> {
        let session = commit.action.id().handle();
        let reply = self.commit_once(commit, &session).await;
        if let (Some(recent), Ok(Reply::Applied { version, .. })) = (&self.inner.recent, &reply) {
            recent.note(commit, *version);
        }
        if let Some(cache) = &self.inner.near_cache {
            // Also when nobody knows whether it was applied.
            cache.drop_session(&session);
            if let (Some(_), Some(principal)) = (commit.sessions, commit.action.logs_in()) {
                // It may have ended the oldest of theirs.
                cache.drop_principal(principal);
            }
        }
        reply
    }

    async fn sessions_of(&self, realm: &str, principal: &str) -> Result<Vec<Listed>, StoreError> {
        let epoch = self.epoch()?;
        let keys = &self.inner.keys;
        let answer = self.attempt(&epoch, epoch.run(Script::List, || scripts::listing(keys, realm, principal))).await?;
        reply::listed(answer, keys, epoch.clock())
    }

    async fn revoke(&self, revocation: &Revocation) -> Result<Revoked, StoreError> {
        let epoch = self.epoch()?;
        let deadline = revocation.deadline;
        let arguments = || scripts::revoking(&self.inner.keys, revocation, epoch.clock().redis_micros(deadline));
        let call = epoch.run_durable(Script::Revoke, deadline, arguments);
        let (answer, confirmed) = self.attempt(&epoch, call).await?;
        if let Some(recent) = &self.inner.recent {
            recent.ended_some();
        }
        if let Some(cache) = &self.inner.near_cache {
            cache.drop_principal(&revocation.principal);
        }
        Ok(Revoked { ended: reply::revoked(&answer)?, confirmed })
    }

    async fn touch(&self, touch: &Touch) -> Result<(), StoreError> {
        let epoch = self.epoch()?;
        let arguments = || scripts::touching(&self.inner.keys, touch);
        self.attempt(&epoch, epoch.run(Script::Touch, arguments)).await.map(drop)
    }

    fn has_copies(&self) -> bool {
        self.inner.recent.is_some()
    }

    async fn load_copy(&self, id: &SessionId, wanted: &Freshness) -> Option<Record> {
        let recent = self.inner.recent.as_ref()?;
        let session = id.handle();
        if let Some(cache) = &self.inner.near_cache
            && let Some(record) = cache.get(&session, wanted.max_age)
            && stands_in(record.version, wanted, recent.oldest(id))
        {
            cache.count();
            return Some(record);
        }
        let epoch = self.epoch().ok()?;
        let replica = epoch.replicas.pick()?;
        let key = self.inner.keys.session(&session);
        let read = self.attempt(&epoch, async { Ok(replica.read(key.clone()).await) });
        // Boxed: it is large, and a copy from memory need not carry it around.
        let (fields, ttl) = Box::pin(read).await.ok()??;
        let Ok(Loaded::Alive(record)) = reply::loaded(&key, fields, ttl, epoch.clock()) else { return None };
        // Asked after the answer came: what was committed here before the question must be in it.
        let good = stands_in(record.version, wanted, recent.oldest(id));
        good.then(|| {
            replica.count();
            record
        })
    }

    async fn confirm_master(&self) -> Result<bool, StoreError> {
        let epoch = self.epoch()?;
        let confirmed = async {
            epoch.confirmation().await;
            Ok(())
        };
        // It ends with the epoch: then this was no master.
        match tokio::time::timeout(CONFIRMATION, self.attempt(&epoch, confirmed)).await {
            Ok(confirmed) => confirmed.map(|()| true),
            Err(_elapsed) => Ok(false),
        }
    }

    async fn available(&self) {
        let mut master = self.inner.master.subscribe();
        // The sender lives as long as this store.
        let _ = master.wait_for(Option::is_some).await;
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("is_up", &self.is_up()).finish_non_exhaustive()
    }
}
