//! The demo's accounts, and checking a password against them.
//!
//! A check costs some 20 MiB and tens of milliseconds of a whole core, on purpose. So it runs on threads of its own, few at a
//! time, behind a queue that is bounded as well; requests that need no password never wait for one that does.

use std::sync::{Arc, Mutex, PoisonError};

use argon2::password_hash::phc::{Output, PasswordHash};
use argon2::{Argon2, Block, Params};
use tokio::sync::Semaphore;

/// What is kept of the passwords: argon2id with 19 MiB, two passes, one lane, as OWASP recommends. They are written on the login
/// form, so publishing their hashes gives nothing away.
const ACCOUNTS: [(&str, &str); 2] = [
    ("alice", "$argon2id$v=19$m=19456,t=2,p=1$FFDD2GBp1cf2eZZJSMbDCA$NljIpr/tyZfq173O/+QpjQTbZ+z8TAT1tva6wTHWAdU"),
    ("bob", "$argon2id$v=19$m=19456,t=2,p=1$AC+sX4TrtIjYK4j9i/ihjA$nzlUjNVXw4ySz6aei5bHlV14eEdkHubEQvUIRD9sD9Q"),
];

/// The accounts of the load that `cargo xtask failover` and `upgrade` put on a cluster: `visitor-0`, `visitor-1` and so on, all with
/// the password `visitor`. Each simulated visitor has one of its own, so that none of them ends or crowds the sessions of alice.
const VISITOR: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$BsDMIy/mZccXbQTUzAFuZQ$AjxXlIKr8RRr2iIxN+Kl3MFX+z0DFuNS/p91up95hIM";

/// The hash of a long random password that was thrown away: for a name that has no account, this is checked instead, so that
/// the answer takes as long and does not tell which names exist.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$K/EqujhgU5WJ0Fl02ftpAw$c4Lz8ZS93AiQ1lCLYC5/MRFOPirCYugMXbdhY29zH3I";

/// Checks waiting for a thread, beyond which a login is told to come back later.
const MAX_WAITING: usize = 64;

/// Checks passwords.
#[derive(Clone)]
pub(crate) struct Accounts {
    places: Arc<Semaphore>,
    running: Arc<Semaphore>,
    /// What checks have worked in, for the next ones: as many as may run at once. Given back each time, it would not come back: of
    /// what was freed once glibc takes the next from its heaps, where such blocks, aligned as they are, leave gaps that the next
    /// one does not fit into. A node that had seen 40 logins kept 370 to 620 MB.
    memory: Arc<Mutex<Vec<Vec<Block>>>>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Right,
    Wrong,
    /// Too many are waiting.
    Busy,
}

impl Accounts {
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // Half of the cores, so that a storm of logins leaves room for everybody else.
        let running = (cores / 2).max(1);
        Self {
            places: Arc::new(Semaphore::new(MAX_WAITING + running)),
            running: Arc::new(Semaphore::new(running)),
            memory: Arc::default(),
        }
    }

    /// Checks `password` for the account `name`.
    pub(crate) async fn verify(&self, name: &str, password: String) -> Verdict {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return Verdict::Busy };
        let Ok(permit) = Arc::clone(&self.running).acquire_owned().await else { return Verdict::Busy };
        let account = hash_of(name);
        let hash = account.unwrap_or(NOBODY);
        let pool = Arc::clone(&self.memory);
        let matches = tokio::task::spawn_blocking(move || {
            let pool = || pool.lock().unwrap_or_else(PoisonError::into_inner);
            let mut memory = pool().pop().unwrap_or_default();
            let matches = matches(&password, hash, &mut memory);
            pool().push(memory);
            // Held by the thread, not by the request: a client that goes away does not make room for another check.
            drop((place, permit));
            matches
        });
        if matches.await.expect("checking a password does not panic") && account.is_some() {
            Verdict::Right
        } else {
            Verdict::Wrong
        }
    }
}

/// What is kept of the password of the account `name`, if there is such an account.
fn hash_of(name: &str) -> Option<&'static str> {
    let named = ACCOUNTS.iter().find(|(account, _)| *account == name).map(|(_, hash)| *hash);
    named.or_else(|| is_visitor(name).then_some(VISITOR))
}

/// At most six digits without leading zeros: one name for each visitor.
fn is_visitor(name: &str) -> bool {
    let number = name.strip_prefix("visitor-").unwrap_or_default();
    let is_number = !number.is_empty() && number.len() <= 6 && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number && (number == "0" || !number.starts_with('0'))
}

/// Checks a password in `memory`, which grows to what that takes.
fn matches(password: &str, hash: &str, memory: &mut Vec<Block>) -> bool {
    let hash = PasswordHash::new(hash).expect("the hashes above parse");
    let params = Params::try_from(&hash).expect("their parameters are good");
    let (salt, expected) = hash.salt.zip(hash.hash).expect("they are complete");
    memory.resize(params.block_count(), Block::new());
    let mut output = vec![0; expected.len()];
    // In its defaults it is argon2id in version 19, as they are.
    let hashed = Argon2::from(params).hash_password_into_with_memory(password.as_bytes(), &salt, &mut output, memory);
    // Compared in constant time.
    hashed.is_ok() && Output::new(&output).is_ok_and(|output| output == expected)
}
