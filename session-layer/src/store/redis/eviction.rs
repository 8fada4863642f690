//! Whether a server throws sessions away when its memory is full.

use std::fmt;

use bytes::Bytes;

use super::connection::{CallError, Connection};
use super::resp::Frame;

/// How a server makes room when its memory is full: by removing keys. Sessions need `maxmemory-policy noeviction`, under which Redis
/// refuses writes instead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Eviction {
    /// `maxmemory-policy`: `allkeys-lru`, `volatile-ttl`, ….
    pub policy: String,
    /// `maxmemory` in bytes. While it is 0, nothing is evicted.
    pub maxmemory: u64,
}

/// Says what to change. A policy counts also while there is no limit: whoever sets one, since memory runs short, is not told then.
impl fmt::Display for Eviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, maxmemory } = self;
        match maxmemory {
            0 => write!(f, "evicts sessions as soon as a maxmemory is set (maxmemory-policy {policy})")?,
            _ => write!(f, "evicts sessions when its {maxmemory} bytes are full (maxmemory-policy {policy})")?,
        }
        f.write_str("; set maxmemory-policy noeviction")
    }
}

/// Asks a server; `None` if it evicts nothing.
pub(super) async fn ask(connection: &Connection) -> Result<Option<Eviction>, CallError> {
    match connection.call("INFO", vec![Bytes::from_static(b"memory")]).await? {
        Frame::BlobString { data } | Frame::VerbatimString { data } => Ok(read(&String::from_utf8_lossy(&data))),
        _ => Err(CallError::Server("INFO has an unknown form".to_owned())),
    }
}

fn read(info: &str) -> Option<Eviction> {
    let field = |name| info.lines().find_map(|line| line.split_once(':').filter(|field| field.0 == name));
    let policy = field("maxmemory_policy")?.1.trim();
    let maxmemory = field("maxmemory").and_then(|field| field.1.trim().parse().ok()).unwrap_or(0);
    (policy != "noeviction").then(|| Eviction { policy: policy.to_owned(), maxmemory })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_but_noeviction_evicts() {
        let info =
            "# Memory\r\nused_memory:1\r\nmaxmemory:1048576\r\nmaxmemory_human:1M\r\nmaxmemory_policy:volatile-lru\r\n";
        let eviction = read(info).unwrap();
        assert_eq!((eviction.policy.as_str(), eviction.maxmemory), ("volatile-lru", 1_048_576));
        assert!(eviction.to_string().ends_with("set maxmemory-policy noeviction"), "{eviction}");
        let unlimited = read(&info.replace("1048576", "0")).unwrap();
        assert!(unlimited.to_string().contains("as soon as a maxmemory is set"), "{unlimited}");
        assert_eq!(read(&info.replace("volatile-lru", "noeviction")), None);
        assert_eq!(read(""), None, "a server that does not say");
    }
}
