//! What makes a cookie ours: an HMAC-SHA-256 over the ID and over how and when the browser was asked to keep it.
//!
//! A value that we did not sign is no session; there is no weaker decoder behind it, and the store is never asked about it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::id::SessionId;

/// The shortest secret that is accepted, in bytes: as long as the MAC it keys (RFC 2104, section 3).
pub(crate) const MIN_SECRET_LEN: usize = 32;

const FORMAT: u8 = 2;
const MAC_LEN: usize = 32;
const MAX_AGE_AT: usize = 1 + SessionId::LEN;
const SENT_AT: usize = MAX_AGE_AT + 4;
const SIGNED_LEN: usize = SENT_AT + 4;
const COOKIE_LEN: usize = SIGNED_LEN + MAC_LEN;
/// How long a signed value is as base64url; anything else is refused before it is decoded.
pub(crate) const ENCODED_LEN: usize = (COOKIE_LEN * 4).div_ceil(3);

// With the padding of SHA-256 what is signed is one block, so that a MAC takes two: the other is HMAC's own.
const _: () = assert!(SIGNED_LEN + 9 <= 64);

/// Which kind of session a layer gives its requests.
///
/// A type has no name that stays the same for sure: that of [`type_name`](std::any::type_name) may change with the compiler, and then a
/// deploy would log everybody out. So a kind is known by the name of its cookie, which the builder requires to be its own; this tells it
/// from the default kind where that has the same name all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerKind {
    Default,
    Other,
}

impl LayerKind {
    fn purpose(self) -> &'static [u8] {
        match self {
            Self::Default => b"session-layer: session ID key",
            Self::Other => b"session-layer: session ID key, another kind",
        }
    }
}

pub(crate) type HmacSha256 = Hmac<Sha256>;

/// What a cookie says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Presented {
    pub(crate) id: SessionId,
    /// The `Max-Age` that the browser was given with it, in seconds; `None` if it was to forget the cookie when it closes.
    pub(crate) max_age: Option<u32>,
    /// When it was sent, in seconds since the epoch by the clock of the node that did, modulo 2³²; 0 if it has no `max_age`.
    sent: u32,
}

impl Presented {
    /// A cookie that is sent now. `now` is in seconds since the epoch.
    pub(crate) fn new(id: SessionId, max_age: Option<u32>, now: u64) -> Self {
        // Without a lifetime the age does not matter, and one ID has one cookie.
        Self { id, max_age, sent: if max_age.is_some() { now as u32 } else { 0 } }
    }

    /// Whether the browser should be sent the cookie again, since it keeps it for another time than it is to be kept now (the setting
    /// has changed), or since a twentieth of that time may be over.
    pub(crate) fn is_due(&self, max_age: Option<u32>, now: impl FnOnce() -> u64) -> bool {
        let is_old = |max_age: u32| {
            // A cookie that seems to come from the future, from a node whose clock was wrong, is replaced as well.
            let apart = (now() as u32).wrapping_sub(self.sent);
            let age = u64::from(apart.min(apart.wrapping_neg()));
            // Whole seconds: up to one more may have passed.
            20 * (age + 1) > u64::from(max_age)
        };
        self.max_age != max_age || max_age.is_some_and(is_old)
    }

    /// Whether it was sent after the other one.
    pub(crate) fn is_newer_than(&self, other: &Self) -> bool {
        self.sent.wrapping_sub(other.sent) as i32 > 0
    }
}

/// Signs with one secret and accepts several, so that secrets rotate without logging anybody out: deploy the new one as
/// accepted, then sign with it, then drop the old.
pub(crate) struct Signer {
    signing: HmacSha256,
    accepted: Vec<HmacSha256>,
}

impl Signer {
    /// The cookie of one layer opens nothing under another layer's name, nor in a layer of another kind that was given the same name,
    /// since the keys depend on both.
    pub(crate) fn new(kind: LayerKind, cookie_name: &str, secret: &[u8], accepted: &[Vec<u8>]) -> Self {
        // The length keeps the name from running into what is before it.
        let info = [kind.purpose(), &length(cookie_name), cookie_name.as_bytes()];
        let keyed = |secret: &[u8]| keyed(&info, secret);
        let signing = keyed(secret);
        let accepted = std::iter::once(signing.clone()).chain(accepted.iter().map(|secret| keyed(secret))).collect();
        Self { signing, accepted }
    }

    pub(crate) fn sign(&self, cookie: &Presented) -> String {
        let mut bytes = [0; COOKIE_LEN];
        bytes[0] = FORMAT;
        bytes[1..MAX_AGE_AT].copy_from_slice(cookie.id.as_bytes());
        bytes[MAX_AGE_AT..SENT_AT].copy_from_slice(&cookie.max_age.unwrap_or_default().to_be_bytes());
        bytes[SENT_AT..SIGNED_LEN].copy_from_slice(&cookie.sent.to_be_bytes());
        let mac = self.signing.clone().chain_update(&bytes[..SIGNED_LEN]).finalize().into_bytes();
        bytes[SIGNED_LEN..].copy_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What `value` says, if one of the accepted secrets signed it. MACs are compared in constant time.
    pub(crate) fn verify(&self, value: &[u8]) -> Option<Presented> {
        if value.len() != ENCODED_LEN {
            return None;
        }
        let mut bytes = [0; COOKIE_LEN];
        let decoded = URL_SAFE_NO_PAD.decode_slice(value, &mut bytes).ok()?;
        if decoded != COOKIE_LEN || bytes[0] != FORMAT {
            return None;
        }
        let (signed, mac) = bytes.split_at(SIGNED_LEN);
        let genuine = self.accepted.iter().any(|key| key.clone().chain_update(signed).verify_slice(mac).is_ok());
        let number = |at: usize| signed[at..at + 4].try_into().map(u32::from_be_bytes).ok();
        genuine.then(|| {
            Some(Presented {
                id: SessionId::try_from(&signed[1..MAX_AGE_AT]).ok()?,
                max_age: number(MAX_AGE_AT).filter(|max_age| *max_age != 0),
                sent: number(SENT_AT)?,
            })
        })?
    }
}

/// The key for one secret and one use of it, which `info` tells from all others (HKDF, RFC 5869).
pub(crate) fn keyed(info: &[&[u8]], secret: &[u8]) -> HmacSha256 {
    let mut key = [0; 32];
    Hkdf::<Sha256>::new(None, secret)
        .expand_multi_info(info, &mut key)
        .expect("32 bytes are within what HKDF-SHA-256 can give");
    HmacSha256::new_from_slice(&key).expect("HMAC takes a key of any length")
}

/// A name's length as it is fed to a MAC or to the derivation of a key, before the name.
pub(crate) fn length(name: &str) -> [u8; 8] {
    (name.len() as u64).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &[u8] = &[1; 32];
    const NEW: &[u8] = &[2; 32];

    fn cookie() -> Presented {
        Presented::new(SessionId::random(), Some(1800), 1_800_000_000)
    }

    fn signer(secret: &[u8], accepted: &[&[u8]]) -> Signer {
        let accepted: Vec<_> = accepted.iter().map(|secret| secret.to_vec()).collect();
        Signer::new(LayerKind::Default, "session", secret, &accepted)
    }

    #[test]
    fn what_was_signed_verifies_and_is_short() {
        for max_age in [None, Some(1), Some(1800), Some(u32::MAX)] {
            let (signer, cookie) = (signer(NEW, &[]), Presented { max_age, ..cookie() });
            let value = signer.sign(&cookie);
            assert_eq!(value.len(), ENCODED_LEN);
            assert!("__Host-session=".len() + value.len() < 100);
            assert_eq!(signer.verify(value.as_bytes()), Some(cookie));
        }
    }

    /// Whoever was logged in before a deploy is so after it. Made by another implementation of HKDF and HMAC (Python's `hmac`).
    #[test]
    fn a_cookie_of_an_earlier_version_opens_its_session() {
        let value = "AgABAgMEBQYHCAkKCwwNDg8QERITAAAHCGtJ0gBK4ntMA-ggREjI6b1bcret05WizyHi6eczXcnfEg1B3g";
        let id = SessionId::try_from(&std::array::from_fn::<u8, 20, _>(|at| at as u8)[..]).unwrap();
        let cookie = Presented::new(id, Some(1800), 1_800_000_000);
        assert_eq!(signer(OLD, &[]).sign(&cookie), value);
        assert_eq!(signer(OLD, &[]).verify(value.as_bytes()), Some(cookie));
    }

    #[test]
    fn a_changed_byte_anywhere_is_no_session() {
        let signer = signer(NEW, &[]);
        let value = signer.sign(&cookie()).into_bytes();
        for at in 0..value.len() {
            let mut forged = value.clone();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(signer.verify(&forged), None, "byte {at}");
        }
    }

    #[test]
    fn another_length_or_format_is_no_session() {
        let signer = signer(NEW, &[]);
        let value = signer.sign(&cookie());
        for text in ["", &value[1..], &value[..value.len() - 1], &format!("{value}A")] {
            assert_eq!(signer.verify(text.as_bytes()), None, "{text:?}");
        }
        // A correct MAC over another format is refused too: what it would mean is not for this version to guess.
        let mut bytes = vec![FORMAT + 1];
        bytes.extend([0; SIGNED_LEN - 1]);
        let mac = signer.signing.clone().chain_update(&bytes).finalize().into_bytes();
        bytes.extend(mac);
        assert_eq!(signer.verify(URL_SAFE_NO_PAD.encode(bytes).as_bytes()), None);
    }

    #[test]
    fn the_cookie_of_another_name_opens_nothing() {
        let value = Signer::new(LayerKind::Default, "admin", NEW, &[]).sign(&cookie());
        assert_eq!(signer(NEW, &[]).verify(value.as_bytes()), None);
    }

    #[test]
    fn the_cookie_of_another_kind_opens_nothing_under_the_same_name() {
        let [visitor, admin] =
            [LayerKind::Default, LayerKind::Other].map(|kind| Signer::new(kind, "session", NEW, &[]));
        let cookie = cookie();
        for (ours, others) in [(&visitor, &admin), (&admin, &visitor)] {
            assert_eq!(ours.verify(ours.sign(&cookie).as_bytes()), Some(cookie));
            assert_eq!(ours.verify(others.sign(&cookie).as_bytes()), None);
        }
    }

    #[test]
    fn a_cookie_is_due_before_more_than_a_twentieth_of_its_time_is_over() {
        let cookie = Presented { max_age: Some(1800), ..cookie() };
        let due = |max_age, later: i64| cookie.is_due(max_age, || 1_800_000_000_u64.wrapping_add_signed(later));
        assert!(!due(Some(1800), 0) && !due(Some(1800), 89));
        assert!(due(Some(1800), 90) && due(Some(1800), 1_000_000));
        // Clocks of two nodes differ by a little, or by a lot.
        assert!(!due(Some(1800), -89));
        assert!(due(Some(1800), -90) && due(Some(1800), -1_000_000));
        // One that is kept shortly is due with each request.
        let short = Presented { max_age: Some(20), ..cookie };
        assert!(!short.is_due(Some(20), || 1_800_000_000) && short.is_due(Some(20), || 1_800_000_001));
        let short = Presented { max_age: Some(19), ..cookie };
        assert!(short.is_due(Some(19), || 1_800_000_000));
    }

    #[test]
    fn a_cookie_is_due_when_the_setting_has_changed() {
        let kept = Presented { max_age: Some(1800), ..cookie() };
        let session = Presented { max_age: None, ..cookie() };
        assert!(kept.is_due(None, || 1_800_000_000) && kept.is_due(Some(3600), || 1_800_000_000));
        assert!(session.is_due(Some(1800), || 1_800_000_000));
        assert!(!session.is_due(None, || 1_900_000_000), "one that goes when the browser closes has no age");
    }

    #[test]
    fn the_age_of_a_cookie_is_right_when_seconds_no_longer_fit_32_bits() {
        let last = u64::from(u32::MAX);
        let cookie = Presented::new(SessionId::random(), Some(1800), last - 10);
        assert!(!cookie.is_due(Some(1800), || last + 10) && cookie.is_due(Some(1800), || last + 100));
        let later = Presented::new(cookie.id, Some(60), last + 10);
        assert!(later.is_newer_than(&cookie) && !cookie.is_newer_than(&later) && !cookie.is_newer_than(&cookie));
    }

    #[test]
    fn secrets_rotate_in_three_deploys_without_a_logout() {
        let cookie = cookie();
        let deploys = [signer(OLD, &[]), signer(OLD, &[NEW]), signer(NEW, &[OLD]), signer(NEW, &[])];
        for (before, after) in deploys.iter().zip(&deploys[1..]) {
            // While the deploy rolls, both generations answer, in both orders.
            assert_eq!(after.verify(before.sign(&cookie).as_bytes()), Some(cookie));
            assert_eq!(before.verify(after.sign(&cookie).as_bytes()), Some(cookie));
        }
        assert_eq!(deploys[3].verify(deploys[0].sign(&cookie).as_bytes()), None);
    }
}
