//! Names of keys and reserved fields.
//!
//! | key | holds |
//! |---|---|
//! | `prefix:{shard}:digest` | a session, or its tombstone |
//! | `prefix:{shard}:commit` | the reply to a commit |
//! | `prefix:{principal}:length:realm:principal` | the list of a principal's sessions; `length` is that of the realm, in bytes |
//! | `prefix:{revocation}:commit` | the reply to a revocation |
//!
//! The shard tag, four hexadecimal digits, is Redis Cluster's hash tag: a session, its successor and the replies to its commits lie in
//! one slot. A key holds the SHA-256 of the ID, never the ID.
//!
//! No two of these are ever the same key. A prefix holds no brace, so the first `{` of a key tells where its prefix ends, and what is in
//! the braces tells its kind, since neither word has four hexadecimal digits. The length tells where a realm ends, whatever bytes
//! realm and principal hold.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;

use crate::commit::CommitId;
use crate::id::SessionHandle;

// Reserved fields of a session's HASH; no attribute name starts with `@`. The scripts know them too.

/// When the session was created, in milliseconds since the epoch. "The session exists" means that this field is there.
pub(super) const CREATED: &str = "@c";
/// Its lifetimes in milliseconds: the idle timeout; after a space the absolute one, or nothing if there is none. In one field, so that a commit can
/// compare both with those of its layer at once.
pub(super) const LIFETIMES: &str = "@i";
/// When its principal logged in, or when it was created where nobody is logged in, in microseconds of Redis' clock: what the absolute
/// timeout counts from, and a session's place in the list of its principal.
pub(super) const BEGAN: &str = "@b";
/// The version.
pub(super) const VERSION: &str = "@v";
/// Bytes of the names and values of all attributes.
pub(super) const SIZE: &str = "@s";
/// The principal; absent if nobody is logged in.
pub(super) const PRINCIPAL: &str = "@p";
/// The versions that it had last, separated by spaces, oldest first; absent where rollbacks are not detected.
pub(super) const HISTORY: &str = "@h";
/// The tag of the session's own key, so that nobody takes it for another one's; see [`packet`](super::packet).
pub(super) const NAME: &str = "@n";
/// The one field of a tombstone: the tag of its key, and behind that the bytes of the successor's ID, or nothing.
pub(super) const TOMBSTONE: &str = "@t";

/// What is in the braces of keys that belong to no session.
pub(super) const SPACES: [&str; 2] = ["principal", "revocation"];

/// Makes keys.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// Where a session is.
    pub(super) fn session(&self, session: &SessionHandle) -> Bytes {
        self.key(session.shard(), session.digest())
    }

    /// Which session a key belongs to.
    pub(super) fn handle(&self, key: &[u8]) -> Option<SessionHandle> {
        let rest = key.strip_prefix(self.prefix.as_bytes())?.strip_prefix(b":{")?;
        let (shard, digest) = (rest.get(..4)?, rest.get(4..)?.strip_prefix(b"}:")?);
        let shard = u16::from_str_radix(std::str::from_utf8(shard).ok()?, 16).ok()?.to_be_bytes();
        let mut bytes = [0; 32];
        let decoded = URL_SAFE_NO_PAD.decode_slice(digest, &mut bytes).ok()?;
        (decoded == bytes.len()).then(|| SessionHandle::new(shard, bytes))
    }

    /// Where the reply to a commit is remembered.
    pub(super) fn commit(&self, session: &SessionHandle, commit: &CommitId) -> Bytes {
        self.key(session.shard(), &commit.0)
    }

    /// What the keys of the lists of a realm start with; the principal follows.
    pub(super) fn lists(&self, realm: &str) -> Bytes {
        let mut length = [0; 20];
        let length = decimal(realm.len(), &mut length);
        [self.prefix.as_bytes(), b":{principal}:", length, b":", realm.as_bytes(), b":"].concat().into()
    }

    /// Where the list of a principal's sessions is.
    pub(super) fn list(&self, realm: &str, principal: &str) -> Bytes {
        [&self.lists(realm), principal.as_bytes()].concat().into()
    }

    /// Where the reply to a revocation is remembered.
    pub(super) fn revocation(&self, revocation: &CommitId) -> Bytes {
        let mut key = format!("{}:{{revocation}}:", self.prefix);
        URL_SAFE_NO_PAD.encode_string(revocation.0, &mut key);
        key.into()
    }

    fn key(&self, shard: [u8; 2], name: &[u8]) -> Bytes {
        // Put together by hand: a commit needs two keys, and formatting them took longer than all else about them.
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let tag = shard.map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        let mut encoded = [0; (LONGEST_NAME * 4).div_ceil(3)];
        let length = URL_SAFE_NO_PAD.encode_slice(name, &mut encoded).expect("no name is longer");
        [self.prefix.as_bytes(), b":{", tag.as_flattened(), b"}:", &encoded[..length]].concat().into()
    }
}

/// A number in decimal digits, without the cost of formatting: every commit names its realm's lists.
fn decimal(mut number: usize, digits: &mut [u8; 20]) -> &[u8] {
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[first..];
        }
    }
}

/// That of a session, in bytes: a digest.
const LONGEST_NAME: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::SessionId;

    /// What a key is for.
    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Use {
        Session(SessionHandle),
        Commit([u8; 2], CommitId),
        List(String, String),
        Revocation(CommitId),
    }

    fn key(prefix: &str, of: &Use) -> Bytes {
        let keys = Keys::new(prefix);
        match of {
            Use::Session(session) => keys.session(session),
            Use::Commit(shard, commit) => keys.commit(&SessionHandle::new(*shard, [0; 32]), commit),
            Use::List(realm, principal) => keys.list(realm, principal),
            Use::Revocation(revocation) => keys.revocation(revocation),
        }
    }

    /// Reads prefix and use out of a key.
    fn read(key: &[u8]) -> Option<(String, Use)> {
        let text = std::str::from_utf8(key).ok()?;
        let (prefix, rest) = text.split_once(":{")?;
        let (tag, name) = rest.split_once("}:")?;
        let commit = |name: &str| Some(CommitId(URL_SAFE_NO_PAD.decode(name).ok()?.try_into().ok()?));
        let of = match tag {
            "principal" => {
                let (length, rest) = name.split_once(':')?;
                let (realm, principal) = rest.split_at_checked(length.parse().ok()?)?;
                Use::List(realm.to_owned(), principal.strip_prefix(':')?.to_owned())
            }
            "revocation" => Use::Revocation(commit(name)?),
            shard => match Keys::new(prefix).handle(key) {
                Some(session) => Use::Session(session),
                None => Use::Commit(u16::from_str_radix(shard, 16).ok()?.to_be_bytes(), commit(name)?),
            },
        };
        Some((prefix.to_owned(), of))
    }

    proptest! {
        /// Since each key says what it is for, no two that are for something else are the same, whatever prefixes, realms and principals
        /// look like.
        #[test]
        fn every_key_tells_its_prefix_and_its_use(
            prefix in "[a-z:]{1,8}|session(:principal|:revocation|:7)*|[^{}\\p{Cc}]{1,10}",
            of in prop_oneof![
                any::<([u8; 2], [u8; 32])>().prop_map(|(shard, digest)| Use::Session(SessionHandle::new(shard, digest))),
                any::<([u8; 2], [u8; 16])>().prop_map(|(shard, commit)| Use::Commit(shard, CommitId(commit))),
                ("[a-z0-9:{}]{0,8}|.{0,10}|\\PC{0,10}", "[a-z0-9:{}]{0,20}|.{0,20}|\\{ab0c\\}:[A-Za-z0-9_-]{43}")
                    .prop_map(|(realm, principal)| Use::List(realm, principal)),
                any::<[u8; 16]>().prop_map(|commit| Use::Revocation(CommitId(commit))),
            ],
        ) {
            prop_assert_eq!(read(&key(&prefix, &of)), Some((prefix, of)));
        }
    }

    #[test]
    fn a_key_has_the_prefix_the_shard_and_a_digest() {
        let id =
            SessionId::try_from(&[0xab, 0x0c, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20][..])
                .unwrap();
        let keys = Keys::new("session");
        let key = String::from_utf8(keys.session(&id.handle()).to_vec()).unwrap();
        assert_eq!(key, format!("session:{{ab0c}}:{}", URL_SAFE_NO_PAD.encode(id.digest())));
        assert!(!key.contains(&id.encode()));
        // With its header it still fits what Redis' allocator hands out for 64 bytes.
        assert_eq!(key.len(), 58);
        assert_eq!(keys.commit(&id.handle(), &CommitId([0; 16])), "session:{ab0c}:AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(keys.handle(key.as_bytes()), Some(id.handle()));
        assert_eq!(keys.handle(b"session:{ab0c}:short"), None);
        assert_eq!(keys.list("admin", "alice"), "session:{principal}:5:admin:alice");
        assert_eq!(keys.revocation(&CommitId([0; 16])), "session:{revocation}:AAAAAAAAAAAAAAAAAAAAAA");
        assert!(keys.session(&id.successor().handle()).starts_with(b"session:{ab0c}:"));
    }
}
