//! Reads what Redis answers. Nothing here panics on anything that may be stored.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::clock::Clock;
use super::keys::{self, Keys};
use super::packet;
use super::resp::Frame;
use crate::commit::{Commit, Reply};
use crate::delta::Change;
use crate::error::Limit;
use crate::id::SessionId;
use crate::record::{Record, Version};
use crate::store::{Listed, Loaded, StoreError, TOMBSTONE_LIFETIME};

/// The largest number that the scripts, whose numbers are doubles, take for one.
const MAX_WHOLE: u64 = (1 << 53) - 1;

/// What `HGETALL` and `PTTL` of a session's key say together.
pub(super) fn loaded(key: &[u8], fields: Frame, ttl: i64, clock: Clock) -> Result<Loaded, StoreError> {
    let fields = pairs(fields)?;
    match ttl {
        // Nothing; or it expired between the two commands, or was created between them, which is as good as before and after.
        _ if fields.is_empty() => return Ok(Loaded::Absent),
        -2 => return Ok(Loaded::Absent),
        ttl if ttl < 0 => return Err(StoreError::corrupt("the session has no time to live")),
        _ => {}
    }
    let ttl = Duration::from_millis(ttl.unsigned_abs());
    let mut raw = Raw::default();
    for (name, value) in fields {
        raw.take(name, value)?;
    }
    let tag = packet::tag(key);
    match (raw.created, raw.tombstone) {
        (Some(_), _) if raw.name.is_none_or(|name| name != tag[..]) => {
            Err(StoreError::corrupt("the session is not the one that belongs there"))
        }
        (Some(created), _) => raw.record.alive(created, ttl, clock),
        (None, Some(tombstone)) => match tombstone.strip_prefix(&tag) {
            Some(successor) => Ok(Loaded::Ended { successor: self::successor(successor)?, age: age(ttl) }),
            None => Err(StoreError::corrupt("the tombstone is not the one that belongs there")),
        },
        (None, None) => Err(StoreError::corrupt("the session has no time of creation")),
    }
}

/// What the list of a principal says: key, time of login, fields and time to live of each session.
pub(super) fn listed(frame: Frame, keys: &Keys, clock: Clock) -> Result<Vec<Listed>, StoreError> {
    let Frame::Array { data: sessions, .. } = frame else { return Err(malformed("a list")) };
    let mut listed = Vec::with_capacity(sessions.len());
    for session in sessions {
        let Frame::Array { data, .. } = session else { return Err(malformed("a list")) };
        let [Frame::BlobString { data: key, .. }, since, fields, Frame::Number { data: ttl, .. }] =
            <[Frame; 4]>::try_from(data).map_err(|_| malformed("a list"))?
        else {
            return Err(malformed("a list"));
        };
        // Redis writes such a time as 1.7e+15.
        let Frame::BlobString { data: since, .. } = since else { return Err(malformed("a list")) };
        let since = text(&since).and_then(|since| since.parse::<f64>().ok()).ok_or_else(|| malformed("a list"))?;
        let handle = keys.handle(&key).ok_or_else(|| malformed("a list"))?;
        // One spoilt session does not spoil the list; its browser is told that it is gone as well.
        if let Ok(Loaded::Alive(record)) = loaded(&key, fields, ttl, clock) {
            listed.push(Listed { handle, logged_in_on: clock.system_time((since / 1000.0) as u64), record });
        }
    }
    Ok(listed)
}

/// What a revocation says: how many sessions it ended.
pub(super) fn revoked(frame: &Frame) -> Result<usize, StoreError> {
    let Frame::BlobString { data: reply, .. } = frame else { return Err(malformed("a revocation")) };
    match reply.split_first() {
        Some((b'V', count)) => {
            text(count).and_then(|count| count.parse().ok()).ok_or_else(|| malformed("a revocation"))
        }
        Some((b'T', _)) => Err(StoreError::unavailable("the revocation reached Redis after its deadline")),
        _ => Err(malformed("a revocation")),
    }
}

fn pairs(frame: Frame) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    let text = |frame: Frame| match frame {
        Frame::BlobString { data, .. } | Frame::SimpleString { data, .. } => Ok(data),
        _ => Err(malformed("HGETALL")),
    };
    match frame {
        // Out of a script, where everything is RESP2.
        Frame::Array { data, .. } => {
            let mut pairs = Vec::with_capacity(data.len() / 2);
            let mut data = data.into_iter();
            while let (Some(name), Some(value)) = (data.next(), data.next()) {
                pairs.push((text(name)?, text(value)?));
            }
            Ok(pairs)
        }
        Frame::Map { data, .. } => data.into_iter().map(|(name, value)| Ok((text(name)?, text(value)?))).collect(),
        _ => Err(malformed("HGETALL")),
    }
}

/// The fields of a session as stored.
#[derive(Default)]
struct Raw {
    created: Option<Bytes>,
    name: Option<Bytes>,
    tombstone: Option<Bytes>,
    record: RawRecord,
}

#[derive(Default)]
struct RawRecord {
    attributes: BTreeMap<String, Bytes>,
    lifetimes: Option<Bytes>,
    began: Option<Bytes>,
    version: Option<Bytes>,
    size: Option<Bytes>,
    principal: Option<Bytes>,
    history: Option<Bytes>,
}

impl Raw {
    fn take(&mut self, name: Bytes, value: Bytes) -> Result<(), StoreError> {
        let name = text(&name).ok_or_else(|| StoreError::corrupt("an attribute's name is not UTF-8"))?;
        let field = match name {
            keys::CREATED => &mut self.created,
            keys::NAME => &mut self.name,
            keys::TOMBSTONE => &mut self.tombstone,
            keys::LIFETIMES => &mut self.record.lifetimes,
            keys::BEGAN => &mut self.record.began,
            keys::VERSION => &mut self.record.version,
            keys::SIZE => &mut self.record.size,
            keys::PRINCIPAL => &mut self.record.principal,
            keys::HISTORY => &mut self.record.history,
            // Of a later version, which runs beside this one during an upgrade.
            _ if name.starts_with('@') => return Ok(()),
            _ => {
                self.record.attributes.insert(name.to_owned(), value);
                return Ok(());
            }
        };
        *field = Some(value);
        Ok(())
    }
}

impl RawRecord {
    fn alive(self, created: Bytes, ttl: Duration, clock: Clock) -> Result<Loaded, StoreError> {
        let required = |name, value: Option<Bytes>| whole(name, &value.unwrap_or_default());
        let created = required(keys::CREATED, Some(created))?;
        let (idle_timeout, absolute_timeout) = lifetimes(&self.lifetimes.unwrap_or_default())?;
        let began = required(keys::BEGAN, self.began)?;
        let version = Version(required(keys::VERSION, self.version)?);
        required(keys::SIZE, self.size)?;
        let principal = self.principal.map(|principal| {
            text(&principal).map(str::to_owned).ok_or_else(|| StoreError::corrupt("the principal is not UTF-8"))
        });
        Ok(Loaded::Alive(Record {
            attributes: self.attributes.into(),
            created_on: SystemTime::UNIX_EPOCH + Duration::from_millis(created),
            idle_timeout: Duration::from_millis(idle_timeout),
            absolute_timeout: absolute_timeout.map(Duration::from_millis),
            expires_on: absolute_timeout.map(|timeout| clock.system_time(began / 1000 + timeout)),
            ttl,
            version,
            principal: principal.transpose()?,
            history: self
                .history
                .map(|history| versions(&history))
                .filter(|history| history.last() == Some(&version))
                .unwrap_or_default(),
        }))
    }
}

/// The idle timeout and the absolute one, in milliseconds.
fn lifetimes(value: &[u8]) -> Result<(u64, Option<u64>), StoreError> {
    let space = value.iter().position(|byte| *byte == b' ').unwrap_or_default();
    let (idle, absolute) = (&value[..space], value.get(space + 1..).unwrap_or_default());
    let absolute = if absolute.is_empty() { None } else { Some(whole(keys::LIFETIMES, absolute)?) };
    Ok((whole(keys::LIFETIMES, idle)?, absolute))
}

/// Versions as the scripts write them, separated by spaces; anything else is none.
fn versions(history: &[u8]) -> Vec<Version> {
    let version = |word: &str| word.parse().ok().map(Version);
    text(history).and_then(|text| text.split_ascii_whitespace().map(version).collect()).unwrap_or_default()
}

/// What one of the commit scripts says: one string, whose first byte tells the kind. The scripts keep the very string to answer a
/// repetition with.
pub(super) fn committed(frame: Frame, commit: &Commit) -> Result<Reply, StoreError> {
    let Frame::BlobString { data: reply, .. } = frame else {
        return Err(malformed("a commit"));
    };
    let Some((kind, rest)) = reply.split_first() else {
        return Err(malformed("a commit"));
    };
    match (kind, rest) {
        (b'A', _) => applied(rest, commit),
        (b'N', _) => Ok(Reply::Absent),
        (b'E', _) => ended(rest),
        (b'R', _) => Ok(Reply::RolledBack),
        (b'C', _) => conflict(rest, commit),
        (b'X', _) => {
            let name = text(rest).and_then(|index| nth(index, commit.changes.keys()));
            Ok(Reply::NotACounter(name.ok_or_else(|| malformed("a commit"))?))
        }
        (b'S', _) => Ok(Reply::TooManySessions),
        (b'L', b"A") => Ok(Reply::Limit(Limit::Attributes)),
        (b'L', b"R") => Ok(Reply::Limit(Limit::Record)),
        (b'O', _) => Ok(Reply::Occupied),
        (b'T', _) => Err(StoreError::unavailable("the commit reached Redis after its deadline")),
        _ => Err(malformed("a commit")),
    }
}

/// What is left of the tombstone's time in milliseconds, a space, and the successor's bytes, if there is one.
fn ended(rest: &[u8]) -> Result<Reply, StoreError> {
    let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(|| malformed("a commit"))?;
    let (left, successor) = (text(&rest[..space]), &rest[space + 1..]);
    let left = left.and_then(|left| left.parse::<i64>().ok()).ok_or_else(|| malformed("a commit"))?;
    // A tombstone that we did not write, or that lasts forever, is what it is to a load: no session, and no reason to refuse its
    // browser another.
    let (Ok(left), Ok(successor)) = (u64::try_from(left), self::successor(successor)) else { return Ok(Reply::Absent) };
    Ok(Reply::Ended { successor, age: age(Duration::from_millis(left)) })
}

/// How long ago a session ended whose tombstone has so much time left.
fn age(left: Duration) -> Duration {
    TOMBSTONE_LIFETIME.saturating_sub(left)
}

/// `version value value …`, the values in the order of the names that were added to; on a line of its own what the session
/// remembered, if the commit asked for that.
fn applied(rest: &[u8], commit: &Commit) -> Result<Reply, StoreError> {
    let rest = text(rest).ok_or_else(|| malformed("a commit"))?;
    let (words, history) = rest.split_once('\n').unwrap_or((rest, ""));
    let mut words = words.split(' ');
    let version = words.next().and_then(|word| word.parse().ok()).ok_or_else(|| malformed("a commit"))?;
    let mut counters = BTreeMap::new();
    for (name, change) in &commit.changes {
        if let Change::Add(_) = change {
            let value = words.next().and_then(|word| word.parse().ok()).ok_or_else(|| malformed("a commit"))?;
            counters.insert(name.clone(), value);
        }
    }
    let history = versions(history.as_bytes());
    Ok(Reply::Applied { version: Version(version), counters, confirmed: true, history })
}

/// `index-` or `index+bytes`.
fn conflict(rest: &[u8], commit: &Commit) -> Result<Reply, StoreError> {
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (index, current) = rest.split_at(digits);
    let name =
        text(index).and_then(|index| nth(index, commit.conditions.keys())).ok_or_else(|| malformed("a commit"))?;
    match current.split_first() {
        Some((b'+', bytes)) => Ok(Reply::Conflict { name, current: Some(Bytes::copy_from_slice(bytes)) }),
        Some((b'-', _)) => Ok(Reply::Conflict { name, current: None }),
        _ => Err(malformed("a commit")),
    }
}

/// Counts from 1, as Lua does.
fn nth<'a>(index: &str, mut names: impl Iterator<Item = &'a String>) -> Option<String> {
    names.nth(index.parse::<usize>().ok()?.checked_sub(1)?).cloned()
}

fn successor(bytes: &[u8]) -> Result<Option<SessionId>, StoreError> {
    match bytes {
        [] => Ok(None),
        bytes => {
            SessionId::try_from(bytes).map(Some).map_err(|_| StoreError::corrupt("the tombstone names no session ID"))
        }
    }
}

fn whole(field: &'static str, value: &[u8]) -> Result<u64, StoreError> {
    let digits = !value.is_empty() && value.len() <= 16 && value.iter().all(u8::is_ascii_digit);
    text(value)
        .filter(|_| digits)
        .and_then(|text| text.parse().ok())
        .filter(|number| *number <= MAX_WHOLE)
        .ok_or_else(|| StoreError::corrupt(format!("the reserved field {field} is not what we write")))
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn malformed(what: &str) -> StoreError {
    StoreError::refused(format!("the answer to {what} has an unknown form"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::Action;

    fn hash(fields: &[(&str, &[u8])]) -> Frame {
        let blob = |bytes: &[u8]| Frame::BlobString { data: Bytes::copy_from_slice(bytes) };
        let data = fields.iter().map(|(name, value)| (blob(name.as_bytes()), blob(value))).collect();
        Frame::Map { data }
    }

    fn load(fields: &[(&str, &[u8])], ttl: i64) -> Result<Loaded, StoreError> {
        loaded(KEY, hash(fields), ttl, super::super::clock::Samples::new().clock())
    }

    const KEY: &[u8] = b"session:{ab0c}:ABCDEFGH";
    const LEAST: [(&str, &[u8]); 6] = [
        ("@c", b"1700000000123"),
        ("@n", b"ABCDEFGH"),
        ("@b", b"1700000000456789"),
        ("@i", b"60000 "),
        ("@v", b"7"),
        ("@s", b"2"),
    ];

    #[test]
    fn a_session_is_read_with_all_its_fields() {
        let more: [(&str, &[u8]); 4] =
            [("@p", "älice".as_bytes()), ("@z", b"of a later version"), ("a", b"\xff\0"), ("b", b"")];
        let Loaded::Alive(record) = load(&[&LEAST[..], &more[..]].concat(), 1234).unwrap() else {
            panic!("it is alive")
        };
        assert_eq!(record.created_on, SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123));
        assert_eq!((record.idle_timeout, record.ttl), (Duration::from_secs(60), Duration::from_millis(1234)));
        assert_eq!((record.version, record.principal.as_deref(), record.expires_on), (Version(7), Some("älice"), None));
        let attributes: Vec<_> = record.attributes.iter().map(|(name, value)| (name.as_str(), &value[..])).collect();
        assert_eq!(attributes, [("a", &b"\xff\0"[..]), ("b", b"")]);
    }

    #[test]
    fn a_history_counts_only_if_it_ends_with_the_version() {
        for (history, expected) in
            [("3 5 7", &[3, 5, 7][..]), ("7", &[7]), ("3 5", &[]), ("3 x 7", &[]), ("", &[]), ("\u{ff} 7", &[])]
        {
            let Loaded::Alive(record) = load(&[&LEAST[..], &[("@h", history.as_bytes())]].concat(), 5).unwrap() else {
                panic!("it is alive")
            };
            assert_eq!(record.history, expected.iter().copied().map(Version).collect::<Vec<_>>(), "{history:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_absent_whichever_command_missed_it() {
        assert_eq!(load(&[], -2).unwrap(), Loaded::Absent);
        assert_eq!(load(&[], 60_000).unwrap(), Loaded::Absent);
        assert_eq!(load(&LEAST, -2).unwrap(), Loaded::Absent);
        // It ends within this millisecond, and is there.
        assert!(matches!(load(&LEAST, 0).unwrap(), Loaded::Alive(record) if record.ttl.is_zero()));
    }

    #[test]
    fn tombstones_name_a_successor_or_nobody() {
        let id = SessionId::random();
        let ended = |successor, seconds_ago| Loaded::Ended { successor, age: Duration::from_secs(seconds_ago) };
        let read = |tombstone: &[&[u8]], ttl| load(&[("@t", &tombstone.concat())], ttl);
        assert_eq!(read(&[b"ABCDEFGH"], 300_000).unwrap(), ended(None, 0));
        assert_eq!(read(&[b"ABCDEFGH"], 289_000).unwrap(), ended(None, 11));
        assert_eq!(read(&[b"ABCDEFGH", id.as_bytes()], 0).unwrap(), ended(Some(id), 300));
        // Of a later version, which keeps them longer.
        assert_eq!(read(&[b"ABCDEFGH"], 400_000).unwrap(), ended(None, 0));
        for broken in [&[&b"ABCDEFGH"[..], b"short"][..], &[b"another.", id.as_bytes()], &[b"ABC"], &[b""]] {
            assert!(read(broken, 5).unwrap_err().is_corrupt(), "{broken:?}");
        }
    }

    #[test]
    fn what_we_would_not_write_is_corrupt() {
        assert!(load(&LEAST, -1).unwrap_err().is_corrupt(), "it would never end");
        for (field, value) in [
            ("@c", &b""[..]),
            ("@c", b"-1"),
            ("@n", b"another."),
            ("@n", b""),
            ("@i", b"1e3"),
            ("@i", b" 1"),
            ("@v", b"9007199254740992"),
            ("@v", b"00000000000000001"),
            ("@s", b"x"),
            ("@i", b"60000"),
            ("@i", b" 60000"),
            ("@i", b"60000 x"),
            ("@i", b"60000 1 1"),
            ("@b", b""),
            ("@b", b"\xff"),
            ("@p", b"\xff"),
        ] {
            let mut fields: Vec<_> = LEAST.into_iter().filter(|(name, _)| *name != field).collect();
            fields.push((field, value));
            assert!(load(&fields, 5).unwrap_err().is_corrupt(), "{field}: {value:?}");
        }
        for (missing, _) in LEAST {
            let fields: Vec<_> = LEAST.into_iter().filter(|(name, _)| *name != missing).collect();
            assert!(load(&fields, 5).unwrap_err().is_corrupt(), "without {missing}");
        }
    }

    fn commit() -> Commit {
        let set = Change::Set(Bytes::new());
        let changes = [("a", Change::Add(1)), ("b", set), ("c", Change::Add(2))];
        let mut commit = Commit::new(Action::Apply(SessionId::random()), tokio::time::Instant::now());
        commit.changes = changes.map(|(name, change)| (name.into(), change)).into();
        commit.conditions = [("x", None), ("y", None)].map(|(name, expected)| (name.into(), expected)).into();
        commit
    }

    fn reply(text: &[u8]) -> Result<Reply, StoreError> {
        committed(Frame::BlobString { data: Bytes::copy_from_slice(text) }, &commit())
    }

    #[test]
    fn every_reply_of_the_scripts_is_understood() {
        let counters: BTreeMap<_, _> = [("a".to_owned(), -3), ("c".to_owned(), 1_999_999_999_999_999_998)].into();
        let applied = |history: &[u64]| {
            let history = history.iter().copied().map(Version).collect();
            Reply::Applied { version: Version(17), counters: BTreeMap::clone(&counters), confirmed: true, history }
        };
        assert_eq!(reply(b"A17 -3 1999999999999999998").unwrap(), applied(&[]));
        assert_eq!(reply(b"A17 -3 1999999999999999998\n").unwrap(), applied(&[]));
        assert_eq!(reply(b"A17 -3 1999999999999999998\n3 9").unwrap(), applied(&[3, 9]));
        assert_eq!(reply(b"N").unwrap(), Reply::Absent);
        let ended = |successor, seconds_ago| Reply::Ended { successor, age: Duration::from_secs(seconds_ago) };
        assert_eq!(reply(b"E300000 ").unwrap(), ended(None, 0));
        assert_eq!(reply(b"E289000 ").unwrap(), ended(None, 11));
        let id = SessionId::random();
        assert_eq!(reply(&[b"E1000 ", &id.as_bytes()[..]].concat()).unwrap(), ended(Some(id), 299));
        // Tombstones that are none of ours: one that never ends, and one that names no ID.
        assert_eq!(reply(b"E-1 ").unwrap(), Reply::Absent);
        assert_eq!(reply(b"E1000 short").unwrap(), Reply::Absent);
        assert_eq!(reply(b"R").unwrap(), Reply::RolledBack);
        let conflict = |name: &str, current| Reply::Conflict { name: name.to_owned(), current };
        assert_eq!(reply(b"C1-").unwrap(), conflict("x", None));
        assert_eq!(reply(b"C2+").unwrap(), conflict("y", Some(Bytes::new())));
        assert_eq!(reply(b"C2+-1\0").unwrap(), conflict("y", Some(Bytes::from_static(b"-1\0"))));
        assert_eq!(reply(b"X3").unwrap(), Reply::NotACounter("c".into()));
        assert_eq!(reply(b"LA").unwrap(), Reply::Limit(Limit::Attributes));
        assert_eq!(reply(b"LR").unwrap(), Reply::Limit(Limit::Record));
        assert_eq!(reply(b"O").unwrap(), Reply::Occupied);
        assert!(reply(b"T").unwrap_err().is_unavailable());
    }

    #[test]
    fn no_other_reply_is_taken_for_one() {
        for text in [
            "", "E", "E5", "Ex ", "A", "Ax 1 2", "A17", "A17 1", "A17 1 x", "C", "C0-", "C3-", "C1", "C1x", "X0", "X4",
            "X", "L", "LX", "?",
        ] {
            let error = reply(text.as_bytes()).unwrap_err();
            assert!(!error.is_unavailable() && !error.is_corrupt(), "{text:?}");
        }
        assert!(committed(Frame::Null, &commit()).is_err());
        assert!(loaded(KEY, Frame::Null, 5, super::super::clock::Samples::new().clock()).is_err());
    }
}
