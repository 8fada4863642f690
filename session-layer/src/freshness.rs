//! How fresh what a request reads must be: the freshness token, and what is decided by it.
//!
//! A browser that was told of a version of its session must not be shown an older one, whichever node answers next. The token is
//! what it was told: a second small cookie, signed and bound to the ID. It is never authority. One that is missing, old, foreign or
//! forged means no more than that the master is asked.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::Mac;
use http::HeaderValue;

use crate::id::SessionId;
use crate::record::{Record, Version};
use crate::signature::{HmacSha256, keyed, length};
use crate::transport::Cookie;

/// What the name of a token's cookie ends with; before it is that of the session's. No layer's own cookie may end so.
pub(crate) const SUFFIX: &str = "-v";

const FORMAT: u8 = 2;
const SIGNED_LEN: usize = 1 + 8 + 8;
/// Half of the MAC: what a forger gains is a question to the master, or a copy that is a second older than it might be.
const MAC_LEN: usize = 16;
const TOKEN_LEN: usize = SIGNED_LEN + MAC_LEN;
const ENCODED_LEN: usize = (TOKEN_LEN * 4).div_ceil(3);

// With the padding of SHA-256 what is signed is one block, so that a MAC takes two: the other is HMAC's own. In software a block costs
// more than all else that is done about a token.
const _: () = assert!(SessionId::LEN + SIGNED_LEN + 9 <= 64);

/// What a browser was told of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) version: Version,
    /// When it was told, in seconds since the epoch by the clock of the node that did.
    pub(crate) sent: u64,
}

/// Writes and reads tokens.
pub(crate) struct Tokens {
    cookie: Cookie,
    signing: HmacSha256,
    accepted: Vec<HmacSha256>,
}

impl Tokens {
    /// Beside this cookie, under the same secrets.
    pub(crate) fn new(cookie: &Cookie, secret: &[u8], accepted: &[Vec<u8>]) -> Self {
        // A key for this use and name alone, so that nothing signed as another can be taken for a token, and none of it need be signed.
        let info = [&b"session-layer: freshness token key"[..], &length(&cookie.name), cookie.name.as_bytes()];
        let keyed = |secret: &[u8]| keyed(&info, secret);
        let signing = keyed(secret);
        let accepted = std::iter::once(signing.clone()).chain(accepted.iter().map(|secret| keyed(secret))).collect();
        Self { cookie: Self::cookie_beside(cookie), signing, accepted }
    }

    /// The cookie that carries the tokens of another one's sessions.
    pub(crate) fn cookie_beside(cookie: &Cookie) -> Cookie {
        Cookie { name: format!("{}{SUFFIX}", cookie.name), ..cookie.clone() }
    }

    /// The newest token for this ID in all `Cookie` headers of a request.
    pub(crate) fn read<'a>(&self, headers: impl Iterator<Item = &'a HeaderValue>, id: &SessionId) -> Option<Token> {
        let tokens = self.cookie.candidates(headers, ENCODED_LEN).filter_map(|value| self.verify(value, id));
        tokens.max_by_key(|token| (token.version, token.sent))
    }

    pub(crate) fn cookie_name(&self) -> &str {
        &self.cookie.name
    }

    /// `Set-Cookie` that makes the browser keep a token.
    pub(crate) fn keep(&self, id: &SessionId, token: Token) -> HeaderValue {
        self.cookie.keep(&self.sign(id, token))
    }

    /// `Set-Cookie` that makes the browser forget it.
    pub(crate) fn forget(&self) -> HeaderValue {
        self.cookie.forget()
    }

    fn sign(&self, id: &SessionId, token: Token) -> String {
        let mut bytes = [0; TOKEN_LEN];
        bytes[0] = FORMAT;
        bytes[1..9].copy_from_slice(&token.version.0.to_be_bytes());
        bytes[9..SIGNED_LEN].copy_from_slice(&token.sent.to_be_bytes());
        let mac = self.signing.clone().chain_update(id.as_bytes()).chain_update(&bytes[..SIGNED_LEN]);
        bytes[SIGNED_LEN..].copy_from_slice(&mac.finalize().into_bytes()[..MAC_LEN]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn verify(&self, value: &[u8], id: &SessionId) -> Option<Token> {
        let mut bytes = [0; TOKEN_LEN];
        let decoded = URL_SAFE_NO_PAD.decode_slice(value, &mut bytes).ok()?;
        if decoded != TOKEN_LEN || bytes[0] != FORMAT {
            return None;
        }
        let (signed, mac) = bytes.split_at(SIGNED_LEN);
        let ours = |key: &HmacSha256| {
            key.clone().chain_update(id.as_bytes()).chain_update(signed).verify_truncated_left(mac).is_ok()
        };
        let number = |at: usize| signed[at..at + 8].try_into().map(u64::from_be_bytes).ok();
        self.accepted.iter().any(ours).then(|| Some(Token { version: Version(number(1)?), sent: number(9)? }))?
    }
}

/// What a copy of a session must be to stand in for what the master has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// The oldest version that will do: the newest that the browser was told of.
    pub at_least: Version,
    /// How long ago it may have been read, where it was kept in memory since.
    pub max_age: Duration,
}

/// Whether a copy will do, and which. Only for a browser that says what it was told, and was told more than a second ago: two of its
/// requests may be on their way at the same time, and the answer that came last may have brought the older token. After a second
/// every copy has what that token does not tell.
pub(crate) fn copy_wanted(
    told: Option<Token>,
    committed: Option<Version>,
    now: u64,
    max_age: Duration,
) -> Option<Freshness> {
    let told = told?;
    // Whole seconds: at least one has passed when they differ by two. A node whose clock is ahead makes others ask the master.
    if told.sent.checked_add(2)? > now {
        return None;
    }
    Some(Freshness { at_least: committed.map_or(told.version, |own| own.max(told.version)), max_age })
}

/// Whether a copy stands in for what the master has. `own` is the last commit of this session that this node made.
#[cfg(any(test, feature = "redis"))]
pub(crate) fn stands_in(copy: Version, wanted: &Freshness, own: Option<Version>) -> bool {
    copy >= wanted.at_least && own.is_none_or(|own| copy >= own)
}

/// Now, as tokens have it.
pub(crate) fn seconds_since_epoch() -> u64 {
    #[cfg(any(test, feature = "test-util"))]
    if let Some(since) = crate::test_util::clock::since_epoch() {
        return since.as_secs();
    }
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// How many of its last versions a record remembers where rollbacks are detected.
pub(crate) const HISTORY: usize = 8;

/// Whether a commit that was acknowledged as `told` is missing from what the master has: it is newer than the oldest version that
/// the record remembers, and not among them. What is older than those cannot be told any more.
pub(crate) fn is_lost(told: Version, history: &[Version]) -> bool {
    history.first().is_some_and(|oldest| told > *oldest) && !history.contains(&told)
}

/// The same for a record as it was loaded; without a memory of its own it remembers the version it has.
pub(crate) fn is_lost_in(told: Version, record: &Record) -> bool {
    if record.history.is_empty() { is_lost(told, &[record.version]) } else { is_lost(told, &record.history) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::tests::cookie;

    const OLD: &[u8] = &[1; 32];
    const NEW: &[u8] = &[2; 32];

    fn tokens(name: &str, secret: &[u8], accepted: &[&[u8]]) -> Tokens {
        let cookie = Cookie { name: name.into(), ..cookie() };
        let accepted: Vec<_> = accepted.iter().map(|secret| secret.to_vec()).collect();
        Tokens::new(&cookie, secret, &accepted)
    }

    fn token() -> Token {
        Token { version: Version(1_750_000_000_000_001), sent: 1_750_000_000 }
    }

    #[test]
    fn a_token_says_what_was_put_into_it_for_its_session_alone() {
        let (tokens, id) = (tokens("__Host-session", NEW, &[]), SessionId::random());
        let value = tokens.sign(&id, token());
        assert_eq!(value.len(), ENCODED_LEN);
        assert_eq!(tokens.verify(value.as_bytes(), &id), Some(token()));
        assert_eq!(tokens.verify(value.as_bytes(), &SessionId::random()), None, "a foreign one");
        let header = tokens.keep(&id, token());
        assert_eq!(header, format!("__Host-session-v={value}; Path=/; HttpOnly; SameSite=Lax; Secure"));
        assert_eq!(tokens.forget(), "__Host-session-v=; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=0");
        let cookie = HeaderValue::try_from(format!("__Host-session-v=junk; __Host-session-v={value}")).unwrap();
        assert_eq!(tokens.read([&cookie].into_iter(), &id), Some(token()));
    }

    /// A browser that was told of a version before a deploy need not ask the master after it. Made by another implementation of HKDF and
    /// HMAC (Python's `hmac`), as the one of format 1 after it, under which the name stood in what is signed.
    #[test]
    fn a_token_of_an_earlier_version_counts_unless_it_has_another_format() {
        let tokens = tokens("session", OLD, &[]);
        let id = SessionId::try_from(&std::array::from_fn::<u8, 20, _>(|at| at as u8)[..]).unwrap();
        let value = "AgAGN52gW2ABAAAAAGhO4YD37HbJwbPkkEo_uK9sdveF";
        assert_eq!(tokens.sign(&id, token()), value);
        assert_eq!(tokens.verify(value.as_bytes(), &id), Some(token()));
        assert_eq!(tokens.verify(b"AQAGN52gW2ABAAAAAGhO4YAq-9R6HUo5ySJrG4ORkl8b", &id), None);
    }

    /// A browser has two where they were sent for different paths or domains, by settings that were changed since, say.
    #[test]
    fn of_several_tokens_the_newest_counts() {
        let (tokens, id) = (tokens("s", NEW, &[]), SessionId::random());
        let older = Token { version: Version(token().version.0 - 1), sent: token().sent - 100 };
        let [older, newer] = [older, token()].map(|token| format!("s-v={}", tokens.sign(&id, token)));
        for cookies in [format!("{older}; {newer}"), format!("{newer}; {older}")] {
            let cookie = HeaderValue::try_from(cookies).unwrap();
            assert_eq!(tokens.read([&cookie].into_iter(), &id), Some(token()));
        }
    }

    #[test]
    fn a_changed_byte_anywhere_is_no_token() {
        let (tokens, id) = (tokens("s", NEW, &[]), SessionId::random());
        let value = tokens.sign(&id, token()).into_bytes();
        for at in 0..value.len() {
            let mut forged = value.clone();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(tokens.verify(&forged, &id), None, "byte {at}");
        }
        for text in ["", &"A".repeat(ENCODED_LEN), &"A".repeat(ENCODED_LEN - 1), "\u{e9}"] {
            assert_eq!(tokens.verify(text.as_bytes(), &id), None, "{text:?}");
        }
    }

    #[test]
    fn the_token_of_another_layer_is_none_and_secrets_rotate() {
        let id = SessionId::random();
        let value = tokens("admin", NEW, &[]).sign(&id, token());
        assert_eq!(tokens("session", NEW, &[]).verify(value.as_bytes(), &id), None);
        let value = tokens("s", OLD, &[]).sign(&id, token());
        assert_eq!(tokens("s", NEW, &[OLD]).verify(value.as_bytes(), &id), Some(token()));
        assert_eq!(tokens("s", NEW, &[]).verify(value.as_bytes(), &id), None);
    }

    #[test]
    fn a_copy_will_do_only_for_who_was_told_more_than_a_second_ago() {
        let age = Duration::from_secs(30);
        let told = |version, sent| Some(Token { version: Version(version), sent });
        for (told, committed, now, at_least) in [
            (None, None, 100, None),
            (None, Some(7), 100, None),
            (told(5, 100), None, 100, None),
            (told(5, 100), None, 101, None),
            (told(5, 100), None, 102, Some(5)),
            (told(5, 0), None, 102, Some(5)),
            (told(5, 103), None, 102, None),
            (told(5, u64::MAX), None, 102, None),
            (told(5, 100), Some(7), 200, Some(7)),
            (told(5, 100), Some(3), 200, Some(5)),
        ] {
            let wanted = copy_wanted(told, committed.map(Version), now, age);
            let expected = at_least.map(|version| Freshness { at_least: Version(version), max_age: age });
            assert_eq!(wanted, expected, "{told:?} {committed:?} {now}");
        }
    }

    #[test]
    fn a_copy_stands_in_if_it_has_what_the_browser_and_this_node_know_of() {
        let wanted = Freshness { at_least: Version(5), max_age: Duration::ZERO };
        for (copy, own, good) in [
            (4, None, false),
            (5, None, true),
            (6, None, true),
            (5, Some(6), false),
            (6, Some(6), true),
            (4, Some(3), false),
            (u64::MAX - 1, Some(u64::MAX), false),
        ] {
            assert_eq!(stands_in(Version(copy), &wanted, own.map(Version)), good, "{copy} {own:?}");
        }
    }

    #[test]
    fn what_was_told_and_is_not_remembered_was_lost_unless_it_is_too_old_to_tell() {
        for (told, history, lost) in [
            (5, &[][..], false),
            (5, &[5], false),
            (6, &[5], true),
            (4, &[5], false),
            (3, &[1, 3, 7], false),
            (4, &[1, 3, 7], true),
            (8, &[1, 3, 7], true),
            (1, &[2, 3], false),
        ] {
            let history: Vec<_> = history.iter().copied().map(Version).collect();
            assert_eq!(is_lost(Version(told), &history), lost, "{told} {history:?}");
        }
    }
}
