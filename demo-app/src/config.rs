//! Settings: read from the environment, checked once at start, each described in one place ([`SETTINGS`]).
//!
//! A variable that is set to nothing counts as not set, since that is what `VARIABLE=${VARIABLE}` in a compose file makes of a
//! variable nobody gave. Every error names the variable and says how to mend it; none repeats a secret.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

/// The development secret that the repository publishes in `.env`, so that the cluster starts without any preparation.
/// Whoever has read the repository can sign cookies with it; it is refused unless `SESSION_DEVELOPMENT` is on.
pub(crate) const PUBLISHED_SECRET: &str = "development-only-session-secret-published-in-the-repository";

/// The Redis client's own warnings repeat what the library says better.
pub(crate) const DEFAULT_LOG: &str = "info,fred=error";

/// What the library asks of a secret.
const MIN_SECRET_BYTES: usize = 32;

/// A variable, its default, and what it is for.
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) default: &'static str,
    pub(crate) meaning: &'static str,
}

const fn setting(name: &'static str, default: &'static str, meaning: &'static str) -> Setting {
    Setting { name, default, meaning }
}

/// Every setting. `demo-app help` prints this table; nothing is read from the environment that is not in it.
pub(crate) const SETTINGS: [Setting; 16] = [
    setting("LISTEN", "127.0.0.1:8080", "address and port to listen on; port 0 takes a free one"),
    setting("SERVER_NAME", "1111", "the name this node shows on its page and in the X-Served-By header"),
    setting(
        "REDIS_URL",
        "none: the embedded cluster of two nodes",
        "where sessions are kept: redis://…, redis-sentinel://host:port,…/master-name, or memory: (one node, this process only)",
    ),
    setting(
        "SESSION_SECRET",
        "none, required with REDIS_URL",
        "signs session cookies; at least 32 bytes, the same on every node",
    ),
    setting("SESSION_SECRET_FILE", "none", "a file that holds the secret, instead of SESSION_SECRET"),
    setting(
        "SESSION_ACCEPTED_SECRETS",
        "none",
        "further secrets, separated by commas, whose cookies are accepted but not issued; for changing the secret without logging anybody out",
    ),
    setting("SESSION_IDLE_TIMEOUT_SECS", "1800", "ends a session this long after its last request"),
    setting(
        "SESSION_ABSOLUTE_TIMEOUT_SECS",
        "43200",
        "ends a session this long after it began or somebody logged in, however busy it is; 0: never for that reason",
    ),
    setting(
        "SESSION_DEVELOPMENT",
        "off (on in the embedded cluster)",
        "on: the cookie works over plain HTTP, and the published secret is accepted",
    ),
    setting(
        "PEERS",
        "none: the dashboard shows this node alone",
        "all nodes of the cluster, this one included, as host:port,host:port; the dashboard asks them how they are",
    ),
    setting(
        "SESSION_REPLICA_READS",
        "off",
        "on: sessions are read from Redis replicas where nobody can tell the difference who waits for answers; a logout may then reach the other node up to a second later",
    ),
    setting(
        "SESSION_NEAR_CACHE",
        "off",
        "on: sessions that were read stay in this node's memory until Redis says that they changed; a logout may then reach the other node up to a second later, usually within milliseconds",
    ),
    setting(
        "SESSION_ROLLBACK_DETECTION",
        "off",
        "on: a change that a failover of Redis lost is logged when its session comes again",
    ),
    setting("LOG_FORMAT", "text", "text or json, on standard output"),
    setting(
        "RUST_LOG",
        DEFAULT_LOG,
        "which log lines to write, for example debug or demo_app=debug,session_layer=trace",
    ),
    setting("NO_COLOR", "none", "anything: log text without colours"),
];

/// Checked settings.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    pub(crate) cluster: Cluster,
    pub(crate) sessions: SessionSettings,
}

/// What this process is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cluster {
    /// Two nodes and a front in this process.
    Embedded,
    /// One node of a cluster that others make up.
    Node { name: String, store: StoreUrl, peers: Vec<String> },
}

/// Where a node keeps sessions.
#[derive(PartialEq, Eq)]
pub(crate) enum StoreUrl {
    Memory,
    Redis(String),
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.write_str(match self {
            StoreUrl::Memory => "Memory",
            StoreUrl::Redis(_) => "Redis(..)",
        })
    }
}

/// What the session layer is built from.
#[derive(Debug, Clone)]
pub(crate) struct SessionSettings {
    pub(crate) secret: Secret,
    pub(crate) accepted: Vec<Secret>,
    pub(crate) idle_timeout: Duration,
    pub(crate) absolute_timeout: Option<Duration>,
    pub(crate) development: bool,
    pub(crate) replica_reads: bool,
    pub(crate) near_cache: bool,
    pub(crate) rollback_detection: bool,
}

/// A secret; its bytes do not print.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Vec<u8>);

impl AsRef<[u8]> for Secret {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A setting that cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConfigError(String);

impl ConfigError {
    /// An error about `variable`: what is wrong with it, and what to do.
    pub(crate) fn new(variable: &str, mend: impl fmt::Display) -> Self {
        Self(format!("{variable}: {mend}"))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// Reads one variable; a test gives its own.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process. What is not UTF-8 reads as replacement characters, which no setting accepts silently.
pub(crate) fn process_environment(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

impl Config {
    /// Reads and checks all settings of the server.
    pub(crate) fn read(environment: Environment<'_>) -> Result<Self, ConfigError> {
        let get = |name: &str| non_empty(environment, name);
        let cluster = match get("REDIS_URL") {
            None => embedded(get("SERVER_NAME"))?,
            Some(url) => Cluster::Node {
                name: server_name(get("SERVER_NAME"))?,
                store: store_url(url)?,
                peers: peers(get("PEERS"))?,
            },
        };
        let development = cluster == Cluster::Embedded || switch("SESSION_DEVELOPMENT", get("SESSION_DEVELOPMENT"))?;
        let secret = match secret(get("SESSION_SECRET"), get("SESSION_SECRET_FILE"), development)? {
            Some(secret) => secret,
            None if cluster == Cluster::Embedded => random_secret(),
            None => {
                return Err(ConfigError::new(
                    "SESSION_SECRET",
                    "is not set; give every node the same secret, for example from `openssl rand -base64 48`, here or in a \
                     file named by SESSION_SECRET_FILE",
                ));
            }
        };
        let accepted = accepted_secrets(get("SESSION_ACCEPTED_SECRETS"), development)?;
        let idle_timeout = seconds("SESSION_IDLE_TIMEOUT_SECS", get("SESSION_IDLE_TIMEOUT_SECS"), 1800)?;
        let Some(idle_timeout) = idle_timeout else {
            return Err(ConfigError::new(
                "SESSION_IDLE_TIMEOUT_SECS",
                "0 would end every session at once; use 1 or more",
            ));
        };
        let absolute_timeout = seconds("SESSION_ABSOLUTE_TIMEOUT_SECS", get("SESSION_ABSOLUTE_TIMEOUT_SECS"), 43_200)?;
        Ok(Config {
            listen: listen(environment)?,
            cluster,
            sessions: SessionSettings {
                secret,
                accepted,
                idle_timeout,
                absolute_timeout,
                development,
                replica_reads: switch("SESSION_REPLICA_READS", get("SESSION_REPLICA_READS"))?,
                near_cache: switch("SESSION_NEAR_CACHE", get("SESSION_NEAR_CACHE"))?,
                rollback_detection: switch("SESSION_ROLLBACK_DETECTION", get("SESSION_ROLLBACK_DETECTION"))?,
            },
        })
    }
}

/// `LISTEN` alone: the health check needs nothing else, and must not fail for another setting's sake.
pub(crate) fn listen(environment: Environment<'_>) -> Result<SocketAddr, ConfigError> {
    let text = non_empty(environment, "LISTEN").unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    text.parse().map_err(|_| {
        ConfigError::new(
            "LISTEN",
            format!("{text:?} is no address with a port; write it like 127.0.0.1:8080 or [::]:8080"),
        )
    })
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// `LOG_FORMAT`: read before everything else, so that later errors can be logged.
pub(crate) fn log_format(environment: Environment<'_>) -> Result<LogFormat, ConfigError> {
    match non_empty(environment, "LOG_FORMAT").as_deref() {
        None | Some("text") => Ok(LogFormat::Text),
        Some("json") => Ok(LogFormat::Json),
        Some(other) => Err(ConfigError::new("LOG_FORMAT", format!("{other:?} is neither text nor json"))),
    }
}

fn non_empty(environment: Environment<'_>, name: &str) -> Option<String> {
    environment(name).filter(|value| !value.is_empty())
}

fn embedded(name: Option<String>) -> Result<Cluster, ConfigError> {
    match name {
        None => Ok(Cluster::Embedded),
        Some(_) => Err(ConfigError::new(
            "SERVER_NAME",
            "is set, but without REDIS_URL this is the embedded cluster, whose nodes are named 1111 and 2222; unset it, or set \
             REDIS_URL to run one node",
        )),
    }
}

/// The name goes into a response header, so it has to fit into one.
fn server_name(name: Option<String>) -> Result<String, ConfigError> {
    let name = name.unwrap_or_else(|| "1111".to_owned());
    if name.len() > 64 || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Err(ConfigError::new(
            "SERVER_NAME",
            "use at most 64 ASCII letters, digits, dots, dashes and underscores",
        ));
    }
    Ok(name)
}

/// `host:port,host:port`.
fn peers(list: Option<String>) -> Result<Vec<String>, ConfigError> {
    let list = list.unwrap_or_default();
    let peers: Vec<_> = list.split(',').map(str::trim).filter(|peer| !peer.is_empty()).map(str::to_owned).collect();
    for peer in &peers {
        let authority = peer.parse::<axum::http::uri::Authority>().ok();
        if authority.is_none_or(|authority| authority.port_u16().is_none() || peer.contains('@')) {
            return Err(ConfigError::new(
                "PEERS",
                format!("{peer:?} is no host with a port; write app1:8080,app2:8080"),
            ));
        }
    }
    Ok(peers)
}

fn store_url(url: String) -> Result<StoreUrl, ConfigError> {
    match url.split_once(':') {
        Some(("memory", "")) => Ok(StoreUrl::Memory),
        // What follows the scheme is the library's to check: it knows which servers it can talk to.
        Some(("redis" | "rediss" | "redis-sentinel" | "redis-cluster", _)) => Ok(StoreUrl::Redis(url)),
        _ => Err(ConfigError::new(
            "REDIS_URL",
            "write redis://host:port, redis-sentinel://host:port,host:port/master-name, or memory:; unset it for the embedded \
             cluster",
        )),
    }
}

fn switch(variable: &str, value: Option<String>) -> Result<bool, ConfigError> {
    match value.map(|value| value.to_ascii_lowercase()).as_deref() {
        None | Some("0" | "false" | "off" | "no") => Ok(false),
        Some("1" | "true" | "on" | "yes") => Ok(true),
        Some(other) => Err(ConfigError::new(variable, format!("{other:?} is neither on nor off"))),
    }
}

/// 0 is `None`.
fn seconds(variable: &str, value: Option<String>, default: u32) -> Result<Option<Duration>, ConfigError> {
    let seconds = match value {
        None => default,
        Some(value) => value.parse().map_err(|_| {
            ConfigError::new(
                variable,
                format!("{value:?} is no number of seconds; write a whole number such as {default}"),
            )
        })?,
    };
    Ok((seconds > 0).then(|| Duration::from_secs(seconds.into())))
}

fn secret(text: Option<String>, file: Option<String>, development: bool) -> Result<Option<Secret>, ConfigError> {
    match (text, file) {
        (None, None) => Ok(None),
        (Some(text), None) => checked_secret("SESSION_SECRET", text.as_bytes(), development).map(Some),
        (None, Some(path)) => {
            let bytes = fs::read(&path).map_err(|error| {
                ConfigError::new(
                    "SESSION_SECRET_FILE",
                    format!("cannot read {path:?}: {error}; check path and permissions"),
                )
            })?;
            checked_secret("SESSION_SECRET_FILE", &bytes, development).map(Some)
        }
        (Some(_), Some(_)) => Err(ConfigError::new(
            "SESSION_SECRET",
            "SESSION_SECRET_FILE is set as well; which one counts? Unset one of them",
        )),
    }
}

fn accepted_secrets(list: Option<String>, development: bool) -> Result<Vec<Secret>, ConfigError> {
    let list = list.unwrap_or_default();
    let secrets = list.split(',').map(str::as_bytes).filter(|secret| !secret.trim_ascii().is_empty());
    secrets.map(|secret| checked_secret("SESSION_ACCEPTED_SECRETS", secret, development)).collect()
}

fn checked_secret(variable: &str, bytes: &[u8], development: bool) -> Result<Secret, ConfigError> {
    // Editors and `echo` end a file with a line break, and a list has spaces; nobody means them to be part of the secret.
    let bytes = bytes.trim_ascii();
    if bytes.len() < MIN_SECRET_BYTES {
        return Err(ConfigError::new(
            variable,
            format!(
                "has {} bytes, which is too short; use at least {MIN_SECRET_BYTES}, for example from `openssl rand -base64 48`",
                bytes.len()
            ),
        ));
    }
    // What stands for bytes of the environment that are no text: of random ones about half would be one and the same.
    if variable != "SESSION_SECRET_FILE" && String::from_utf8_lossy(bytes).contains(char::REPLACEMENT_CHARACTER) {
        return Err(ConfigError::new(
            variable,
            "holds bytes that are no text; make it with `openssl rand -base64 48`, or keep it in a SESSION_SECRET_FILE",
        ));
    }
    if bytes == PUBLISHED_SECRET.as_bytes() && !development {
        return Err(ConfigError::new(
            variable,
            "is the development secret that everybody can read in .env; make one with `openssl rand -base64 48`, or set \
             SESSION_DEVELOPMENT=on on a machine that nobody else can reach",
        ));
    }
    Ok(Secret(bytes.to_vec()))
}

/// The embedded cluster's sessions end with its process, so its secret may as well.
fn random_secret() -> Secret {
    let mut bytes = vec![0; MIN_SECRET_BYTES];
    getrandom::fill(&mut bytes).expect("the operating system has random numbers");
    Secret(bytes)
}
