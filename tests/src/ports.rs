//! Free ports.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// Ports that nobody listens on, for servers that cannot take one by themselves.
///
/// From below the range that the system takes the ports of outgoing connections from: a container that is started again must
/// find its port free.
///
/// # Panics
///
/// When there is none.
pub fn free<const N: usize>() -> [u16; N] {
    std::array::from_fn(|_| one())
}

fn one() -> u16 {
    let mut given = GIVEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let given = given.get_or_insert_default();
    // Test binaries that run at the same time begin at different places.
    let first = std::process::id() as u16;
    let port = (0..10_000)
        .map(|n: u16| 20_000 + (first % 10_000 + n) % 10_000)
        .find(|port| !given.contains(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("one of 10,000 ports is free");
    given.insert(port);
    port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_given_once() {
        let ports: [u16; 5] = free();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 5);
        let _all = ports.map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("it is free"));
        let taken: [u16; 5] = free();
        assert!(taken.iter().all(|port| !ports.contains(port)));
    }
}
