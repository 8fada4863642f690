//! Checks that each reply belongs to the command that receives it.
//!
//! Redis answers in order, so a reply belongs to the oldest command that has none. Something between node and server that repeats, loses
//! or exchanges replies would show visitors each other's sessions. Two checks prevent that, and no reply of a packet is delivered before
//! both have passed for the whole packet:
//!
//! - Position: each packet of commands ends with a marker, `ECHO` of the packet's number. A reply too many or too few puts another reply
//!   into the marker's place.
//! - Identity: the HASH of a session names its session, and the reply to a script names the key that it is about, so that two replies of
//!   one packet cannot be exchanged either.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes};

use super::keys;
use super::resp::Frame;

/// Names a key: its last bytes. The scripts take them from the key as well (`string.sub(key, -8)`).
pub(super) type Tag = [u8; 8];

/// The tag of a key that is at least as long as a tag, as all keys that are read are.
pub(super) fn tag(key: &[u8]) -> Tag {
    key.last_chunk().copied().unwrap_or_default()
}

/// What the reply to a command must show of itself. Errors show nothing; they carry nothing of a session either.
#[derive(Debug)]
pub(super) enum Expected {
    /// Its position is all that can be checked.
    Anything,
    Number,
    /// A HASH that names the session with this tag, or nothing.
    Session(Tag),
    /// What a script says about this key: a text behind the key's tag, or a list behind the key (see `scripts`).
    Script(Bytes),
}

/// Why a connection cannot be used any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misplaced(pub(super) String);

impl Expected {
    /// What to expect from a script; the arguments of `EVALSHA` from the digest on.
    pub(super) fn from_script(arguments: &[Bytes]) -> Self {
        let index = match arguments.get(1).map(|keys| &keys[..]) {
            None | Some(b"0") => return Self::Anything,
            Some(b"1") => 2,
            Some(_) => 3,
        };
        arguments.get(index).map_or(Self::Anything, |key| Self::Script(key.clone()))
    }

    /// Returns the reply without what a script put before it.
    pub(super) fn check(self, reply: Frame) -> Result<Frame, Misplaced> {
        match (self, reply) {
            (_, error @ (Frame::SimpleError { .. } | Frame::BlobError { .. })) => Ok(error),
            (Self::Anything, reply) | (Self::Number, reply @ Frame::Number { .. }) => Ok(reply),
            (Self::Session(asked), Frame::Map { data }) => match named(&data) {
                Some(found) if found != asked && !SUSPECTS.is_stored(asked, found) => Err(misplaced("of a session")),
                found => {
                    if found == Some(asked) {
                        SUSPECTS.clear(asked);
                    }
                    Ok(Frame::Map { data })
                }
            },
            (Self::Script(key), Frame::BlobString { mut data }) if data.starts_with(&tag(&key)) => {
                data.advance(size_of::<Tag>());
                Ok(Frame::BlobString { data })
            }
            (Self::Script(key), Frame::Array { data }) => match <[Frame; 2]>::try_from(data) {
                Ok([Frame::BlobString { data: about }, list]) if about == key => Ok(list),
                _ => Err(misplaced("of a script")),
            },
            (expected, _) => Err(misplaced(match expected {
                Self::Session(_) => "of a session",
                Self::Script(_) => "of a script",
                Self::Number | Self::Anything => "that is a number",
            })),
        }
    }
}

fn misplaced(what: &str) -> Misplaced {
    Misplaced(format!("a reply {what} belongs to another command; something between here and Redis mixes up replies"))
}

/// The session that a HASH names; none if it is neither a session nor a tombstone.
fn named(fields: &[(Frame, Frame)]) -> Option<Tag> {
    let value = |name: &str| {
        fields.iter().find_map(|pair| match pair {
            (Frame::BlobString { data }, Frame::BlobString { data: value }) if data == name => Some(value),
            _ => None,
        })
    };
    let name = value(keys::NAME).or_else(|| value(keys::TOMBSTONE))?;
    name.first_chunk().copied()
}

/// Sessions in whose place another one was found, with how often in a row. Usually empty, which costs one look at a number.
struct Suspects {
    count: AtomicUsize,
    found: Mutex<VecDeque<(Tag, Tag, u32)>>,
}

static SUSPECTS: Suspects = Suspects { count: AtomicUsize::new(0), found: Mutex::new(VecDeque::new()) };

impl Suspects {
    const REMEMBERED: usize = 64;
    /// So often in a row no exchange of replies finds the same session in the place of another.
    const PROOF: u32 = 3;

    /// Another session was found. Returns whether Redis really holds it there, since somebody copied a key, say: each connection so far
    /// was dropped for it, and found it again. Then only this session is unusable, and not each connection that reads it.
    fn is_stored(&self, asked: Tag, found: Tag) -> bool {
        let mut suspects = self.lock();
        if let Some(known) = suspects.iter_mut().find(|known| known.0 == asked) {
            *known = (asked, found, if known.1 == found { known.2.saturating_add(1) } else { 1 });
            return known.2 > Self::PROOF;
        }
        suspects.truncate(Self::REMEMBERED - 1);
        suspects.push_front((asked, found, 1));
        self.count.store(suspects.len(), Ordering::Relaxed);
        false
    }

    /// The right session was found.
    fn clear(&self, asked: Tag) {
        if self.count.load(Ordering::Relaxed) > 0 {
            let mut suspects = self.lock();
            suspects.retain(|known| known.0 != asked);
            self.count.store(suspects.len(), Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Tag, Tag, u32)>> {
        // Nothing panics between changes that belong together.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Appends the marker that ends a packet.
pub(super) fn write_marker(out: &mut Vec<u8>, packet: u32) {
    out.extend_from_slice(b"*2\r\n$4\r\nECHO\r\n$4\r\n");
    out.extend_from_slice(&packet.to_be_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Checks what stands in a marker's place. A server that refuses everything just now (`BUSY`, `NOAUTH`) refuses the marker as well: that
/// is good as long as the packet brought nothing else.
pub(super) fn check_marker<'a>(
    packet: u32,
    reply: &Frame,
    mut replies: impl Iterator<Item = &'a Frame>,
) -> Result<(), Misplaced> {
    match reply {
        Frame::BlobString { data } if data[..] == packet.to_be_bytes() => Ok(()),
        Frame::SimpleError { data } | Frame::BlobError { data } => {
            if replies.all(|reply| matches!(reply, Frame::SimpleError { .. } | Frame::BlobError { .. })) {
                return Ok(());
            }
            Err(Misplaced(format!("the server does not answer ECHO: {}", String::from_utf8_lossy(data))))
        }
        _ => Err(Misplaced(
            "there is a reply too many or too few; something between here and Redis mixes up replies".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(bytes: &[u8]) -> Frame {
        Frame::BlobString { data: Bytes::copy_from_slice(bytes) }
    }

    fn hash(fields: &[(&str, &[u8])]) -> Frame {
        Frame::Map { data: fields.iter().map(|(name, value)| (blob(name.as_bytes()), blob(value))).collect() }
    }

    fn error() -> Frame {
        Frame::SimpleError { data: Bytes::from_static(b"OOM") }
    }

    #[test]
    fn a_hash_belongs_to_the_session_that_it_names() {
        let asked = tag(b"session:{ab0c}:ABCDEFGH");
        let check = |fields: &[(&str, &[u8])]| Expected::Session(asked).check(hash(fields)).is_ok();
        assert!(check(&[("@c", b"1"), ("@n", b"ABCDEFGH"), ("a", b"1")]));
        assert!(check(&[("@t", b"ABCDEFGH")]) && check(&[("@t", b"ABCDEFGH and a successor")]));
        assert!(check(&[]), "absent");
        assert!(check(&[("name", b"value")]), "somebody else's HASH names no session, and shows none");
        assert!(!check(&[("@c", b"1"), ("@n", b"another.")]));
        assert!(!check(&[("@t", b"a third. and a successor")]));
        assert!(Expected::Session(asked).check(error()).is_ok());
        for reply in [blob(b"ABCDEFGHA1"), Frame::Number { data: 1 }, Frame::Null, Frame::Array { data: vec![] }] {
            assert!(Expected::Session(asked).check(reply).is_err());
        }
        assert!(Expected::Number.check(hash(&[])).is_err());
    }

    #[test]
    fn a_stored_copy_of_a_session_costs_three_connections() {
        let check =
            |asked, found: &[u8; 8]| Expected::Session(asked).check(hash(&[("@c", b"1"), ("@n", found)])).is_ok();
        let read = |found: &[u8; 8]| check(*b"one copy", found);
        assert!(!read(b"original") && !read(b"original") && !read(b"original"));
        assert!(read(b"original"), "Redis holds it there; the reader then rejects it");
        assert!(!read(b"3rd one.") && !read(b"original"));
        assert!(!read(b"original") && read(b"one copy") && !read(b"original"));
        assert!(!check(*b"2nd copy", b"original"));
    }

    #[test]
    fn a_script_says_which_key_its_reply_is_about() {
        let script = |keys: &[&'static str]| {
            let count = Bytes::from(keys.len().to_string());
            let keys = keys.iter().map(|key| Bytes::from_static(key.as_bytes()));
            Expected::from_script(&[Bytes::from_static(b"digest"), count].into_iter().chain(keys).collect::<Vec<_>>())
        };
        let checked = script(&["session", "the commit", "successor"]).check(blob(b"e commitA17")).unwrap();
        assert_eq!(checked, blob(b"A17"));
        assert!(script(&["session", "the commit"]).check(blob(b"r commitA17")).is_err());
        assert!(script(&["session", "the commit"]).check(error()).is_ok());
        assert_eq!(script(&["the session"]).check(blob(b" session1")).unwrap(), blob(b"1"));
        let list = |key| Frame::Array { data: vec![blob(key), Frame::Array { data: vec![] }] };
        assert_eq!(script(&["list:alice"]).check(list(b"list:alice")).unwrap(), Frame::Array { data: vec![] });
        assert!(script(&["list:alice"]).check(list(b"list:malice")).is_err());
        for reply in [Frame::Number { data: 1 }, hash(&[]), Frame::Null, Frame::Array { data: vec![] }, blob(b"1")] {
            assert!(script(&["list:alice"]).check(reply).is_err());
        }
        let of_none = [b"digest".as_slice(), b"0", b"an argument", b"another"].map(Bytes::from_static);
        assert!(matches!(Expected::from_script(&of_none), Expected::Anything));
    }

    #[test]
    fn a_marker_proves_the_position_of_its_packet() {
        let mut out = Vec::new();
        write_marker(&mut out, 7);
        assert_eq!(out, b"*2\r\n$4\r\nECHO\r\n$4\r\n\0\0\0\x07\r\n");
        let check = |reply: Frame, replies: &[Frame]| check_marker(7, &reply, replies.iter()).is_ok();
        assert!(check(blob(&[0, 0, 0, 7]), &[hash(&[]), error()]));
        for wrong in [blob(&[0, 0, 0, 6]), blob(b"A17"), Frame::Number { data: 7 }, hash(&[])] {
            assert!(!check(wrong, &[]));
        }
        assert!(check(error(), &[error(), error()]));
        assert!(!check(error(), &[error(), hash(&[])]));
    }
}
