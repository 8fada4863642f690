//! What makes a cookie ours: an HMAC-SHA-256 over its purpose, the cookie's name and the ID.
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

const FORMAT: u8 = 1;
const MAC_LEN: usize = 32;
const SIGNED_LEN: usize = 1 + SessionId::LEN + MAC_LEN;
/// How long a signed value is as base64url; anything else is refused before it is decoded.
pub(crate) const ENCODED_LEN: usize = (SIGNED_LEN * 4).div_ceil(3);

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
            Self::Default => b"session ID\0",
            Self::Other => b"session ID of another kind\0",
        }
    }
}

pub(crate) type HmacSha256 = Hmac<Sha256>;

/// Signs with one secret and accepts several, so that secrets rotate without logging anybody out: deploy the new one as
/// accepted, then sign with it, then drop the old.
pub(crate) struct Signer {
    signing: HmacSha256,
    accepted: Vec<HmacSha256>,
}

impl Signer {
    /// `kind` and `cookie_name` are part of what is signed: the cookie of one layer opens nothing under another layer's name, nor in a
    /// layer of another kind that was given the same name.
    pub(crate) fn new(kind: LayerKind, cookie_name: &str, secret: &[u8], accepted: &[Vec<u8>]) -> Self {
        let keyed = |secret: &[u8]| {
            let mut mac = keyed(&[b"session-layer: cookie signing key"], secret);
            mac.update(kind.purpose());
            // The length keeps the name from running into what follows.
            mac.update(&length(cookie_name));
            mac.update(cookie_name.as_bytes());
            mac
        };
        let signing = keyed(secret);
        let accepted = std::iter::once(signing.clone()).chain(accepted.iter().map(|secret| keyed(secret))).collect();
        Self { signing, accepted }
    }

    pub(crate) fn sign(&self, id: &SessionId) -> String {
        let mut bytes = [0; SIGNED_LEN];
        bytes[0] = FORMAT;
        bytes[1..=SessionId::LEN].copy_from_slice(id.as_bytes());
        let mac = self.signing.clone().chain_update(&bytes[..=SessionId::LEN]).finalize().into_bytes();
        bytes[1 + SessionId::LEN..].copy_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The ID in `value`, if one of the accepted secrets signed it. MACs are compared in constant time.
    pub(crate) fn verify(&self, value: &[u8]) -> Option<SessionId> {
        if value.len() != ENCODED_LEN {
            return None;
        }
        let mut bytes = [0; SIGNED_LEN];
        let decoded = URL_SAFE_NO_PAD.decode_slice(value, &mut bytes).ok()?;
        if decoded != SIGNED_LEN || bytes[0] != FORMAT {
            return None;
        }
        let (signed, mac) = bytes.split_at(1 + SessionId::LEN);
        let genuine = self.accepted.iter().any(|key| key.clone().chain_update(signed).verify_slice(mac).is_ok());
        genuine.then(|| SessionId::try_from(&signed[1..]).ok())?
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

    fn signer(secret: &[u8], accepted: &[&[u8]]) -> Signer {
        let accepted: Vec<_> = accepted.iter().map(|secret| secret.to_vec()).collect();
        Signer::new(LayerKind::Default, "session", secret, &accepted)
    }

    #[test]
    fn what_was_signed_verifies_and_is_short() {
        let (signer, id) = (signer(NEW, &[]), SessionId::random());
        let value = signer.sign(&id);
        assert_eq!(value.len(), ENCODED_LEN);
        assert!("__Host-session=".len() + value.len() < 100);
        assert_eq!(signer.verify(value.as_bytes()), Some(id));
    }

    /// Whoever was logged in before a deploy is so after it. Made by another implementation of HKDF and HMAC (Python's `hmac`).
    #[test]
    fn a_cookie_of_an_earlier_version_opens_its_session() {
        let value = "AQABAgMEBQYHCAkKCwwNDg8QERIT2vW5cD-TxP9nPZP1VsyStvuZFCtUsUnJ0bIMybY5tiU";
        let id = SessionId::try_from(&std::array::from_fn::<u8, 20, _>(|at| at as u8)[..]).unwrap();
        assert_eq!(signer(OLD, &[]).sign(&id), value);
        assert_eq!(signer(OLD, &[]).verify(value.as_bytes()), Some(id));
    }

    #[test]
    fn a_changed_byte_anywhere_is_no_session() {
        let signer = signer(NEW, &[]);
        let value = signer.sign(&SessionId::random()).into_bytes();
        for at in 0..value.len() {
            let mut forged = value.clone();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(signer.verify(&forged), None, "byte {at}");
        }
    }

    #[test]
    fn another_length_or_format_is_no_session() {
        let signer = signer(NEW, &[]);
        let value = signer.sign(&SessionId::random());
        for text in ["", &value[1..], &value[..value.len() - 1], &format!("{value}A")] {
            assert_eq!(signer.verify(text.as_bytes()), None, "{text:?}");
        }
        // A correct MAC over another format is refused too: what it would mean is not for this version to guess.
        let mut bytes = vec![FORMAT + 1];
        bytes.extend(SessionId::random().as_bytes());
        let mac = signer.signing.clone().chain_update(&bytes).finalize().into_bytes();
        bytes.extend(mac);
        assert_eq!(signer.verify(URL_SAFE_NO_PAD.encode(bytes).as_bytes()), None);
    }

    #[test]
    fn the_cookie_of_another_name_opens_nothing() {
        let value = Signer::new(LayerKind::Default, "admin", NEW, &[]).sign(&SessionId::random());
        assert_eq!(signer(NEW, &[]).verify(value.as_bytes()), None);
    }

    #[test]
    fn the_cookie_of_another_kind_opens_nothing_under_the_same_name() {
        let [visitor, admin] =
            [LayerKind::Default, LayerKind::Other].map(|kind| Signer::new(kind, "session", NEW, &[]));
        let id = SessionId::random();
        for (ours, others) in [(&visitor, &admin), (&admin, &visitor)] {
            assert_eq!(ours.verify(ours.sign(&id).as_bytes()), Some(id));
            assert_eq!(ours.verify(others.sign(&id).as_bytes()), None);
        }
    }

    #[test]
    fn secrets_rotate_in_three_deploys_without_a_logout() {
        let id = SessionId::random();
        let deploys = [signer(OLD, &[]), signer(OLD, &[NEW]), signer(NEW, &[OLD]), signer(NEW, &[])];
        for (before, after) in deploys.iter().zip(&deploys[1..]) {
            // While the deploy rolls, both generations answer, in both orders.
            assert_eq!(after.verify(before.sign(&id).as_bytes()), Some(id));
            assert_eq!(before.verify(after.sign(&id).as_bytes()), Some(id));
        }
        assert_eq!(deploys[3].verify(deploys[0].sign(&id).as_bytes()), None);
    }
}
