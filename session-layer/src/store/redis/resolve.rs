//! From names to servers: resolves a name, and tries its addresses.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::connection::CallError;
use super::url::Address;

/// How long the operating system's resolver may take. One whose first name server is dead takes five seconds.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(6);
/// When the next address is tried while the ones before it have not answered: the least that RFC 8305 (section 5) recommends, since
/// servers are near and a failover is waiting.
const STAGGER: Duration = Duration::from_millis(100);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;

/// The addresses of a host and port.
type Lookup = dyn Fn(&str, u16) -> Vec<SocketAddr> + Send + Sync;

/// Turns names into addresses, by default with the operating system's resolver; it keeps none, which is left to the system.
#[derive(Clone, Default)]
pub(super) struct Resolver(Option<Arc<Lookup>>);

impl Resolver {
    /// Resolves names with a function; for tests.
    #[cfg(any(test, feature = "test-util"))]
    pub(super) fn new(lookup: impl Fn(&str, u16) -> Vec<SocketAddr> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(lookup)))
    }

    /// Returns at least one address, in the order in which they are tried.
    pub(super) async fn resolve(&self, name: &Address) -> Result<Vec<SocketAddr>, CallError> {
        let Address { host, port } = name;
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![(ip, *port).into()]);
        }
        let found = match &self.0 {
            Some(lookup) => lookup(host, *port),
            None => match timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host.as_str(), *port))).await {
                Ok(Ok(found)) => found.collect(),
                Ok(Err(error)) => return Err(CallError::Lost(format!("`{host}` cannot be resolved: {error}"))),
                Err(_) => {
                    let seconds = RESOLVE_TIMEOUT.as_secs();
                    return Err(CallError::Lost(format!("`{host}` cannot be resolved: no answer in {seconds} s")));
                }
            },
        };
        match in_turn(found) {
            none if none.is_empty() => Err(CallError::Lost(format!("`{host}` has no address"))),
            found => Ok(found),
        }
    }
}

/// The families by turns (RFC 8305, section 4), each address once.
fn in_turn(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut known = HashSet::new();
    let found: Vec<_> = found.into_iter().filter(|address| known.insert(*address)).collect();
    let Some(first) = found.first().map(SocketAddr::is_ipv6) else { return found };
    let (mut same, mut other) = found.into_iter().partition::<Vec<_>, _>(|address| address.is_ipv6() == first);
    let mut turns = Vec::with_capacity(same.len() + other.len());
    let (mut same, mut other) = (same.drain(..), other.drain(..));
    loop {
        let before = turns.len();
        turns.extend(same.next());
        turns.extend(other.next());
        if turns.len() == before {
            break;
        }
    }
    turns.truncate(MAX_ADDRESSES);
    turns
}

/// Tries addresses until one attempt succeeds (RFC 8305, section 5): the next one starts when one has failed, and at the latest after
/// [`STAGGER`]. Each attempt must end by itself. When one succeeds, the others are dropped.
pub(super) async fn first_usable<T, F>(
    addresses: Vec<SocketAddr>,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<T, CallError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, CallError>> + Send + 'static,
{
    let several = addresses.len() > 1;
    let mut waiting = addresses.into_iter();
    let mut running = JoinSet::new();
    let mut failures = Vec::new();
    loop {
        if let Some(address) = waiting.next() {
            let attempt = attempt(address);
            running.spawn(async move { (address, attempt.await) });
        }
        tokio::select! {
            done = running.join_next() => match done {
                Some(Ok((_, Ok(usable)))) => return Ok(usable),
                Some(Ok((address, Err(error)))) => failures.push((address, error)),
                // A panic, which was reported where it happened.
                Some(Err(_)) => {}
                None => return Err(summary(failures, several)),
            },
            () = sleep(STAGGER), if waiting.len() > 0 => {}
        }
    }
}

fn summary(mut failures: Vec<(SocketAddr, CallError)>, several: bool) -> CallError {
    if !several && let Some((_, error)) = failures.pop() {
        return error;
    }
    let reasons: Vec<_> = failures.iter().map(|(address, error)| format!("{address}: {error}")).collect();
    CallError::Lost(format!("none of its addresses is usable ({})", reasons.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn an_ip_address_needs_no_resolver() {
        let resolver = Resolver::new(|_, _| panic!("it is asked"));
        for host in ["10.0.0.1", "::1"] {
            let name = Address { host: host.into(), port: 1 };
            assert_eq!(resolver.resolve(&name).await.unwrap(), [(host.parse::<IpAddr>().unwrap(), 1).into()]);
        }
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_an_error() {
        let name = Address { host: "redis".into(), port: 1 };
        let error = Resolver::new(|_, _| vec![]).resolve(&name).await.unwrap_err();
        assert_eq!(error.to_string(), "`redis` has no address");
    }

    #[test]
    fn address_families_take_turns() {
        let found = addresses(&["[::1]:1", "[::2]:1", "[::1]:1", "[::3]:1", "10.0.0.1:1", "10.0.0.2:1"]);
        let expected = addresses(&["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1", "[::3]:1"]);
        assert_eq!(in_turn(found), expected);
        assert_eq!(in_turn(vec![]), []);
        let many: Vec<_> = (0..100).map(|port| SocketAddr::from(([10, 0, 0, 1], port))).collect();
        assert_eq!(in_turn(many).len(), MAX_ADDRESSES);
    }

    /// What an address does, by its last byte, and when: 1 succeeds, 2 fails at once, 3 never answers within its limit.
    async fn act(address: SocketAddr) -> Result<SocketAddr, CallError> {
        match address.to_string().split(':').next().and_then(|ip| ip.chars().last()) {
            Some('1') => Ok(address),
            Some('2') => Err(CallError::Server("the server is not a master; its role is slave".to_owned())),
            _ => {
                sleep(Duration::from_millis(500)).await;
                Err(CallError::Lost("no answer in 500 ms".to_owned()))
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_drops_all_packets_hides_no_other() {
        let started = tokio::time::Instant::now();
        let used = first_usable(addresses(&["10.0.0.3:1", "10.0.1.3:1", "10.0.0.1:1"]), act).await.unwrap();
        assert_eq!((used, started.elapsed()), (addresses(&["10.0.0.1:1"])[0], 2 * STAGGER));
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_address_is_tried_at_once_when_one_fails() {
        let started = tokio::time::Instant::now();
        let used = first_usable(addresses(&["10.0.0.2:1", "10.0.1.2:1", "10.0.0.1:1"]), act).await.unwrap();
        assert_eq!((used, started.elapsed()), (addresses(&["10.0.0.1:1"])[0], Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn when_no_address_is_usable_each_reason_is_given() {
        let error = first_usable(addresses(&["10.0.0.3:1", "10.0.0.2:1"]), act).await.unwrap_err().to_string();
        assert!(
            error.contains("10.0.0.3:1: no answer") && error.contains("10.0.0.2:1: the server is not a master"),
            "{error}"
        );
        let only = first_usable(addresses(&["10.0.0.2:1"]), act).await.unwrap_err().to_string();
        assert_eq!(only, "the server is not a master; its role is slave");
    }
}
