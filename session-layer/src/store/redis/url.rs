//! Where Redis is, from one URL.

use std::fmt;

use crate::layer::ConfigError;

/// `redis://` is one server, `redis-sentinel://` the servers that these sentinels watch.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct RedisUrl {
    pub(super) servers: Servers,
    pub(super) login: Login,
    pub(super) database: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Servers {
    Standalone(Address),
    Sentinel { sentinels: Vec<Address>, master: String },
}

/// For the Redis servers; sentinels are asked without a password.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
const FORMS: &str = "write `redis://[[user]:password@]host[:port][/database]` or \
                     `redis-sentinel://[[user]:password@]host[:port],…/master-name[/database]`";

impl RedisUrl {
    /// Reads a URL. No error repeats any part of it that may hold the password.
    pub(super) fn parse(url: &str) -> Result<Self, ConfigError> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| error(format!("is no Redis URL; {FORMS}")))?;
        let sentinel = match scheme {
            "redis" => false,
            "redis-sentinel" => true,
            "rediss" => return Err(error("asks for TLS, which this version does not speak; use `redis://`")),
            "redis-cluster" => {
                return Err(error("asks for Redis Cluster, which this version does not speak; use `redis://`"));
            }
            _ => return Err(error(format!("has an unknown scheme; {FORMS}"))),
        };
        if rest.contains(['?', '#']) {
            return Err(error(
                "has a query or a fragment, which mean nothing here; write `?` and `#` in a password as %3F, %23",
            ));
        }
        // The last @: one in a password should be written %40, but there is no doubt what is meant.
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (parse_login(login)?, rest),
            None => (Login::default(), rest),
        };
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let port = if sentinel { SENTINEL_PORT } else { REDIS_PORT };
        let mut addresses =
            hosts.split(',').map(|address| parse_address(address, port)).collect::<Result<Vec<_>, _>>()?;
        if sentinel {
            let (master, database) = path.split_once('/').unwrap_or((path, ""));
            let master = decode(master)?;
            if master.is_empty() {
                return Err(error(
                    "names no master; put the name that the sentinels watch it under after the hosts: `/mymaster`",
                ));
            }
            let servers = Servers::Sentinel { sentinels: addresses, master };
            return Ok(Self { servers, login, database: parse_database(database)? });
        }
        let address = addresses.remove(0);
        if !addresses.is_empty() {
            return Err(error("names several hosts; with sentinels use `redis-sentinel://`"));
        }
        Ok(Self { servers: Servers::Standalone(address), login, database: parse_database(path)? })
    }
}

fn error(problem: impl Into<String>) -> ConfigError {
    ConfigError::new("url", problem)
}

fn parse_login(login: &str) -> Result<Login, ConfigError> {
    let Some((user, password)) = login.split_once(':') else {
        return Err(error("has a user but no password; write `user:password@`, or `:password@` for the default user"));
    };
    let some = |text: String| (!text.is_empty()).then_some(text);
    let login = Login { user: some(decode(user)?), password: some(decode(password)?) };
    if login.password.is_none() {
        return Err(error("has an empty password; leave out everything up to the `@` if there is none"));
    }
    Ok(login)
}

/// Addresses given one by one, each `host` or `host:port`.
pub(super) fn parse_replicas(addresses: &[String]) -> Result<Vec<Address>, ConfigError> {
    let named = |error: ConfigError| {
        let problem = error.to_string();
        ConfigError::new("replicas", problem.trim_start_matches("setting `url` "))
    };
    addresses.iter().map(|address| parse_address(address, REDIS_PORT).map_err(named)).collect()
}

fn parse_address(address: &str, default_port: u16) -> Result<Address, ConfigError> {
    // An IPv6 address stands in brackets, since it has colons of its own.
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(|| error("has a `[` without its `]`"))?;
            (host, port)
        }
        None => address.split_at(address.find(':').unwrap_or(address.len())),
    };
    if host.is_empty() {
        return Err(error("names no host; put it after the `//`, or after the `@`"));
    }
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if !host.chars().all(valid) {
        return Err(error(
            "has a host with a character that no host name has; in a password write `/` as %2F and `@` as %40",
        ));
    }
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => default_port,
        None => return Err(error("has something else than `:port` after a host")),
        // `parse` would also take "+1".
        Some(text) => match text.parse() {
            Ok(port) if port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => port,
            _ => return Err(error("has a port that is no number from 1 to 65535; in a password write `/` as %2F")),
        },
    };
    Ok(Address { host: host.to_owned(), port })
}

fn parse_database(text: &str) -> Result<u8, ConfigError> {
    match text {
        "" => Ok(0),
        _ if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map_err(|_| error("has a database number above 255"))
        }
        _ => Err(error("has a database that is no number; write `/0` or leave it out")),
    }
}

fn decode(text: &str) -> Result<String, ConfigError> {
    let invalid = || error("has a `%` that is not followed by two hexadecimal digits; write `%` itself as %25");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                let (high, low) = (digit().ok_or_else(invalid)?, digit().ok_or_else(invalid)?);
                u8::try_from(high << 4 | low).map_err(|_| invalid())?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| error("has %-escapes that are not UTF-8"))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Hides the password.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisUrl")
            .field("servers", &self.servers)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(host: &str, port: u16) -> Address {
        Address { host: host.into(), port }
    }

    fn login(user: &str, password: &str) -> Login {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Login { user: some(user), password: some(password) }
    }

    #[track_caller]
    fn standalone(url: &str, host: &str, port: u16, login: Login, database: u8) {
        let servers = Servers::Standalone(address(host, port));
        assert_eq!(RedisUrl::parse(url), Ok(RedisUrl { servers, login, database }), "{url}");
    }

    #[test]
    fn urls_of_one_server() {
        standalone("redis://localhost", "localhost", 6379, login("", ""), 0);
        standalone("redis://localhost/", "localhost", 6379, login("", ""), 0);
        standalone("redis://redis-1:6380/15", "redis-1", 6380, login("", ""), 15);
        standalone("redis://:secret@10.0.0.1:7000", "10.0.0.1", 7000, login("", "secret"), 0);
        standalone("redis://app:secret@host/3", "host", 6379, login("app", "secret"), 3);
        standalone("redis://:p%40s%2Fs%3A%25%C3%BC@host", "host", 6379, login("", "p@s/s:%ü"), 0);
        standalone("redis://:p@ss:word@host:1", "host", 1, login("", "p@ss:word"), 0);
        standalone("redis://:sl/ash@host/1", "host", 6379, login("", "sl/ash"), 1);
        standalone("redis://[::1]:6390/2", "::1", 6390, login("", ""), 2);
        standalone("redis://[fe80::1]", "fe80::1", 6379, login("", ""), 0);
    }

    #[test]
    fn urls_of_sentinels() {
        let parsed = RedisUrl::parse("redis-sentinel://:secret@s1:26380,s2,[::1]:26382/mymaster/4").unwrap();
        let sentinels = vec![address("s1", 26380), address("s2", 26379), address("::1", 26382)];
        assert_eq!(parsed.servers, Servers::Sentinel { sentinels, master: "mymaster".into() });
        assert_eq!((parsed.login, parsed.database), (login("", "secret"), 4));
    }

    #[test]
    fn what_is_wrong_is_said_and_the_password_is_not() {
        for (url, says) in [
            ("", "no Redis URL"),
            ("localhost:6379", "no Redis URL"),
            ("http://host", "unknown scheme"),
            ("rediss://:hunter2@host", "TLS"),
            ("redis-cluster://host", "Cluster"),
            ("redis://", "no host"),
            ("redis://:hunter2@", "no host"),
            ("redis://:hunter2@:6379", "no host"),
            ("redis://hunter2@host", "no password"),
            ("redis://:@host", "empty password"),
            ("redis://:hunter2%@host", "`%`"),
            ("redis://:hunter2%4@host", "`%`"),
            ("redis://:hunter2%ff@host", "UTF-8"),
            ("redis://:hunter2?x@host", "query"),
            ("redis://host:0", "port"),
            ("redis://host:+1", "port"),
            ("redis://host:65536", "port"),
            ("redis://host:x", "port"),
            ("redis://[::1", "`]`"),
            ("redis://[::1]6379", "after a host"),
            ("redis://ho st", "character"),
            ("redis://:hunter2/x", "no host"),
            ("redis://a,b", "several hosts"),
            ("redis://host/x", "database"),
            ("redis://host/256", "database"),
            ("redis://host/1/2", "database"),
            ("redis-sentinel://s1,s2", "no master"),
            ("redis-sentinel://s1,,s2/m", "no host"),
            ("redis-sentinel://s1/m/x", "database"),
        ] {
            let error = RedisUrl::parse(url).expect_err(url).to_string();
            assert!(error.contains("`url`") && error.contains(says), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{url}: {error}");
        }
    }

    #[test]
    fn replicas_are_given_one_by_one() {
        let given = |texts: &[&str]| parse_replicas(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            given(&["a", "b:6380", "[::1]:1"]).unwrap(),
            [address("a", 6379), address("b", 6380), address("::1", 1)]
        );
        for text in ["", ":1", "a:x", "redis://a", "a/b"] {
            assert_eq!(given(&[text]).unwrap_err().setting(), "replicas", "{text}");
        }
    }

    #[test]
    fn debug_hides_the_password() {
        let url = RedisUrl::parse("redis://:hunter2@host").unwrap();
        assert!(!format!("{url:?} {:?}", url.login).contains("hunter2"));
    }
}
