//! Session IDs: 20 bytes from the operating system's generator. Nothing here prints one by accident.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// Names one session.
///
/// The first two bytes are a shard tag that survives renewal: the old and the new ID of a session share a Redis Cluster
/// slot, so that renewing stays one atomic script. The other 144 bits are fresh each time (OWASP asks for 64).
///
/// `Debug` hides it. [`encode`](Self::encode) is for showing it on purpose; without the signature that the cookie carries,
/// an ID opens nothing.
///
/// ```
/// use session_layer::SessionId;
///
/// let id = SessionId::random();
/// assert_eq!(format!("{id:?}"), "SessionId(..)");
/// assert_eq!(SessionId::decode(&id.encode()), Ok(id));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId([u8; SessionId::LEN]);

impl SessionId {
    /// How many bytes an ID has.
    pub const LEN: usize = 20;
    const SHARD_LEN: usize = 2;

    /// A new ID with a shard tag of its own.
    ///
    /// # Panics
    ///
    /// When the operating system has no random numbers to give; an ID without them would be guessable.
    pub fn random() -> Self {
        Self(random_bytes())
    }

    /// The ID that replaces this one: fresh, but in the same shard.
    pub fn successor(&self) -> Self {
        let mut next = Self::random();
        next.0[..Self::SHARD_LEN].copy_from_slice(&self.0[..Self::SHARD_LEN]);
        next
    }

    /// The bytes that stay the same when the ID is renewed.
    pub fn shard(&self) -> [u8; Self::SHARD_LEN] {
        [self.0[0], self.0[1]]
    }

    /// All bytes.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The SHA-256 of the ID: what a store may use as its key, so that a dump holds no ID.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }

    /// What names this session where its ID must not be seen.
    pub fn handle(&self) -> SessionHandle {
        SessionHandle { shard: self.shard(), digest: self.digest() }
    }

    /// The ID as base64url without padding, 27 characters; for showing it on purpose.
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    ///
    /// When the text is not base64url of 20 bytes.
    pub fn decode(text: &str) -> Result<Self, InvalidSessionId> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidSessionId(()))?;
        Self::try_from(bytes.as_slice())
    }

    /// Eight hexadecimal digits of the digest: enough to follow a session through logs, useless for entering it.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let digest = self.digest();
        Fingerprint(u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]))
    }
}

impl TryFrom<&[u8]> for SessionId {
    type Error = InvalidSessionId;

    fn try_from(bytes: &[u8]) -> Result<Self, InvalidSessionId> {
        bytes.try_into().map(Self).map_err(|_| InvalidSessionId(()))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(..)")
    }
}

/// Names one session of a principal, for lists and forms: the shard tag and the digest of its ID, from which the ID cannot be
/// found.
///
/// ```
/// use session_layer::{SessionHandle, SessionId};
///
/// let handle = SessionId::random().handle();
/// assert_eq!(SessionHandle::decode(&handle.encode()), Ok(handle));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionHandle {
    shard: [u8; SessionId::SHARD_LEN],
    digest: [u8; 32],
}

impl SessionHandle {
    #[cfg(feature = "redis")]
    pub(crate) fn new(shard: [u8; SessionId::SHARD_LEN], digest: [u8; 32]) -> Self {
        Self { shard, digest }
    }

    /// The shard tag of the session's ID.
    pub fn shard(&self) -> [u8; SessionId::SHARD_LEN] {
        self.shard
    }

    /// The SHA-256 of the session's ID.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The handle as base64url without padding.
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode([&self.shard[..], &self.digest[..]].concat())
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    ///
    /// When the text is not base64url of 34 bytes.
    pub fn decode(text: &str) -> Result<Self, InvalidSessionId> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidSessionId(()))?;
        let (shard, digest) = bytes.split_at_checked(SessionId::SHARD_LEN).ok_or(InvalidSessionId(()))?;
        let shard = shard.try_into().map_err(|_| InvalidSessionId(()))?;
        Ok(Self { shard, digest: digest.try_into().map_err(|_| InvalidSessionId(()))? })
    }
}

impl fmt::Debug for SessionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionHandle(..)")
    }
}

/// The text or the bytes were no session ID or handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidSessionId(());

impl fmt::Display for InvalidSessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("neither a session ID (20 bytes) nor a handle (34 bytes) as base64url without padding")
    }
}

impl std::error::Error for InvalidSessionId {}

/// What logs carry in place of an ID.
pub(crate) struct Fingerprint(u32);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// Bytes from the operating system's generator.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[cfg(any(test, feature = "test-util"))]
    if crate::test_util::random::fill(&mut bytes) {
        return bytes;
    }
    getrandom::fill(&mut bytes).expect("the operating system has no random numbers");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_is_fresh_but_stays_in_its_shard() {
        let id = SessionId::random();
        let next = id.successor();
        assert_eq!(id.shard(), next.shard());
        assert_ne!(id.as_bytes()[2..], next.as_bytes()[2..]);
    }

    #[test]
    fn ids_do_not_repeat() {
        let ids: std::collections::HashSet<_> = (0..10_000).map(|_| SessionId::random()).collect();
        assert_eq!(ids.len(), 10_000);
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["", "abc", "not base64!!", &"A".repeat(26), &"A".repeat(28)] {
            assert_eq!(SessionId::decode(text), Err(InvalidSessionId(())), "{text:?}");
        }
        // 27 characters carry 162 bits: the two spare ones must be zero, or one ID would have four spellings.
        assert!(SessionId::decode(&"A".repeat(27)).is_ok());
        assert!(SessionId::decode(&format!("{}B", "A".repeat(26))).is_err());
    }

    /// What is in Redis, in forms and in logs of one version must mean the same to the next. The digest is what `sha256sum` says.
    #[test]
    fn the_forms_of_an_id_do_not_change_from_version_to_version() {
        let id = SessionId::try_from(&std::array::from_fn::<u8, 20, _>(|at| at as u8)[..]).unwrap();
        assert_eq!(id.encode(), "AAECAwQFBgcICQoLDA0ODxAREhM");
        assert_eq!(SessionId::decode("AAECAwQFBgcICQoLDA0ODxAREhM"), Ok(id));
        assert_eq!(id.shard(), [0, 1]);
        let digest: String = id.digest().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, "e7aebf577f60412f0312d442c70a1fa6148c090bf5bab404caec29482ae779e8");
        assert_eq!(id.fingerprint().to_string(), "e7aebf57");
        let handle = id.handle();
        assert_eq!((handle.shard(), *handle.digest()), (id.shard(), id.digest()));
        assert_eq!(handle.encode(), "AAHnrr9Xf2BBLwMS1ELHCh-mFIwJC_W6tATK7ClIKud56A");
        assert_eq!(SessionHandle::decode("AAHnrr9Xf2BBLwMS1ELHCh-mFIwJC_W6tATK7ClIKud56A"), Ok(handle));
    }

    #[test]
    fn what_is_no_handle_is_refused() {
        for text in ["", "A", "AAA", "not base64!!", &SessionId::random().encode(), &"A".repeat(44), &"A".repeat(48)] {
            let error = SessionHandle::decode(text).expect_err(text);
            assert!(error.to_string().contains("handle (34 bytes)"), "{error}");
        }
    }

    #[test]
    fn neither_debug_nor_the_fingerprint_shows_the_id() {
        let id = SessionId::random();
        assert_eq!(format!("{id:?}"), "SessionId(..)");
        assert_eq!(format!("{:?}", id.handle()), "SessionHandle(..)");
        assert_eq!(id.fingerprint().to_string().len(), 8);
        assert!(!id.encode().contains(&id.fingerprint().to_string()));
    }
}
