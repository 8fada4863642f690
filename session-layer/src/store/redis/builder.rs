//! The settings of a store, and what they make.

use std::fmt;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::keys::{self, Keys};
use super::reads::Reads;
use super::resolve::Resolver;
use super::rights::Checks;
use super::status::{Feature, Status};
use super::topology::{self, Master, Topology};
use super::url::{self, RedisUrl, Servers};
use super::{Inner, RedisStore, replicas, tracking};
use crate::layer::ConfigError;
use crate::store::near_cache::{NearCache, NearCacheLimits};
use crate::store::recent::Recent;

/// Settings of a [`RedisStore`].
#[derive(Clone)]
#[must_use = "settings do nothing until `build`"]
pub struct RedisStoreBuilder {
    url: String,
    key_prefix: String,
    durable_replicas: Option<u32>,
    replica_reads: bool,
    replicas: Option<Vec<String>>,
    near_cache: Option<NearCacheLimits>,
    resolver: Resolver,
}

/// Hides the URL, which may hold a password.
impl fmt::Debug for RedisStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStoreBuilder").field("key_prefix", &self.key_prefix).finish_non_exhaustive()
    }
}

impl RedisStoreBuilder {
    pub(super) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            key_prefix: "session".to_owned(),
            durable_replicas: None,
            replica_reads: false,
            replicas: None,
            near_cache: None,
            resolver: Resolver::default(),
        }
    }

    /// What all keys start with. Default: `session`. Apps that share a Redis need one each.
    ///
    /// No two prefixes have a key in common, also where one begins like the other: after the prefix comes `:{`, and a prefix holds no brace.
    /// One that ends with `:principal` or `:revocation` is refused, since what it names reads as a part of another prefix's keys.
    pub fn key_prefix(mut self, key_prefix: impl Into<String>) -> Self {
        self.key_prefix = key_prefix.into();
        self
    }

    /// How many replicas must have a login, logout or revocation before it counts (`WAIT`). Default: 1 with sentinels, so that a
    /// failover undoes none that was answered; 0 with one server, where there is nobody to fail over to. Each costs these
    /// requests a round trip from the master to its replicas.
    pub fn durable_replicas(mut self, replicas: u32) -> Self {
        self.durable_replicas = Some(replicas);
        self
    }

    /// Lets sessions be read from replicas where that shows no browser anything older than it was told. Default: off, the master is
    /// asked.
    ///
    /// A replica is read from while it is proven to be less than a second behind, and what it has is used if it is at least as new as
    /// what the browser was told, and as what this node itself committed. Everything else asks the master: a browser's first request
    /// and those within a second or two of a change, what is not on the replica, and what a replica does not answer within 100 ms.
    /// Which parts of an app must never see anything older says [`Strict`](crate::Strict); lists and ends of a principal's sessions
    /// always ask the master.
    ///
    /// What it costs: one more connection per replica and node, four questions a second on each; a second cookie, `<name>-v`, whenever
    /// a session's version changed; and a logout or revocation on one node may reach reads on another up to a second later. Writes are
    /// never based on it: what has ended refuses them at once.
    ///
    /// A browser is told of versions only by nodes that have this, the [near cache](Self::near_cache), or
    /// [`rollback_detection`](crate::SessionLayerBuilder::rollback_detection). While others run beside them, in the deploy that switches
    /// it on, say, what was changed on one of those may be missing here for a second; who minds switches detection on a deploy earlier.
    pub fn replica_reads(mut self, replica_reads: bool) -> Self {
        self.replica_reads = replica_reads;
        self
    }

    /// The replicas to read from, each as `host` or `host:port`, with the login of the URL. Default: those that the master names,
    /// under the addresses by which it knows them.
    pub fn replicas(mut self, replicas: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.replicas = Some(replicas.into_iter().map(Into::into).collect());
        self
    }

    /// Keeps sessions that were read in this node's memory, so that reading them again costs no round trip, until the server says that
    /// they changed. Default: off.
    ///
    /// It is used as a replica would be: only for a browser that was told of nothing newer, more than a second ago; what to mind when it is
    /// switched on stands at [`replica_reads`](Self::replica_reads). Redis says what changed over a connection of its own (`CLIENT
    /// TRACKING`), usually within a millisecond. When it has not been heard of for a second, when that connection is lost, and when the
    /// master changes, the cache is empty. A session stays at most 30 seconds, and no longer than the layer's `touch_interval`, so that it
    /// is prolonged as if it were read.
    ///
    /// What it costs: memory, up to the limits; one more connection and four questions a second; in Redis a table of who read what, one
    /// message per node for each change of a session that it has; a second cookie, `<name>-v`, whenever a
    /// session's version changed. A logout or revocation on one node reaches reads on another when Redis' message does, a second later
    /// at worst. Writes are never based on it: what has ended refuses them at once.
    pub fn near_cache(mut self, limits: impl Into<Option<NearCacheLimits>>) -> Self {
        self.near_cache = limits.into();
        self
    }

    /// Resolves names with a function instead of the operating system's resolver: for tests of names that move or have several
    /// addresses.
    #[cfg(feature = "test-util")]
    pub fn resolver(mut self, lookup: impl Fn(&str, u16) -> Vec<std::net::SocketAddr> + Send + Sync + 'static) -> Self {
        self.resolver = Resolver::new(lookup);
        self
    }

    /// Makes the store, which starts to connect; does not wait for it.
    ///
    /// # Errors
    ///
    /// When the URL or the prefix cannot be used, or outside a Tokio runtime. That Redis is down is no error.
    pub fn build(self) -> Result<RedisStore, ConfigError> {
        let url = RedisUrl::parse(&self.url)?;
        if self.key_prefix.is_empty() || self.key_prefix.contains(|c: char| c.is_control() || "{}".contains(c)) {
            let problem =
                "must not be empty, nor contain a control character, `{` or `}`, which mark a key's hash slot";
            return Err(ConfigError::new("key_prefix", problem));
        }
        if let Some((of, space)) = self.key_prefix.rsplit_once(':')
            && keys::SPACES.contains(&space)
        {
            let problem = format!(
                "ends with `:{space}`, which reads as a part of the keys of prefix `{of}`; choose another ending"
            );
            return Err(ConfigError::new("key_prefix", problem));
        }
        let Ok(runtime) = Handle::try_current() else {
            return Err(ConfigError::new("url", "needs a Tokio runtime to connect; call `build` inside one"));
        };
        let master = Arc::new(Master::new(None));
        let replicas = self.durable_replicas.unwrap_or(match url.servers {
            Servers::Standalone(_) => 0,
            Servers::Sentinel { .. } => 1,
        });
        if self.replicas.is_some() && !self.replica_reads {
            return Err(ConfigError::new(
                "replicas",
                "are given, but `replica_reads` is off, so that nothing is read from them",
            ));
        }
        let given = self.replicas.as_deref().map(url::parse_replicas).transpose()?;
        let keys = Keys::new(&self.key_prefix);
        let wanted = [
            (Feature::NearCache, self.near_cache.is_some()),
            (Feature::ReplicaReads, self.replica_reads),
            (Feature::DurableCommits, replicas > 0),
        ];
        let wanted = wanted.into_iter().filter_map(|(feature, is_wanted)| is_wanted.then_some(feature)).collect();
        let status = Status::default();
        let checks = Checks { keys: keys.clone(), status: status.clone(), wanted };
        let replica_reads = self.replica_reads.then(|| replicas::Settings {
            given,
            resolver: self.resolver.clone(),
            login: url.login.clone(),
            database: url.database,
            checks: checks.clone(),
        });
        let near_cache = self.near_cache.map(|limits| Arc::new(NearCache::new(limits)));
        let tracking = near_cache.clone().map(|cache| tracking::Settings { cache, keys: keys.clone() });
        let recent = (self.replica_reads || near_cache.is_some()).then(Recent::default);
        let reads = Reads::default();
        let topology = Topology::new(url.clone(), self.resolver.clone(), replicas, reads.clone(), checks);
        let task = runtime
            .spawn(topology::keep_connected(topology, replica_reads, tracking, Arc::clone(&master)))
            .abort_handle();
        let resolver = self.resolver;
        Ok(RedisStore {
            inner: Arc::new(Inner { url, resolver, keys, master, status, recent, near_cache, reads, task }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_that_reads_as_part_of_anothers_keys_is_refused() {
        let error = |prefix: &str| RedisStoreBuilder::new("redis://h").key_prefix(prefix).build().unwrap_err();
        for (prefix, says) in [
            ("session:principal", "which reads as a part of the keys of prefix `session`"),
            ("shop:session:revocation", "which reads as a part of the keys of prefix `shop:session`"),
            ("", "must not be empty"),
            ("a{b", "which mark a key's hash slot"),
            ("a}", "which mark a key's hash slot"),
            ("a\n", "control character"),
        ] {
            let error = error(prefix);
            assert!(error.setting() == "key_prefix" && error.to_string().contains(says), "{prefix:?}: {error}");
        }
        for good in ["session", "shop:session", "principal", "session:principals", "a:principal:b"] {
            assert_eq!(error(good).setting(), "url", "{good:?} is good, and there is no runtime here");
        }
    }
}
