//! Reads what Redis answers. Nothing here panics on anything that may be stored.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fred::types::Resp3Frame as Frame;

use super::clock::Clock;
use super::keys::{self, Keys};
use crate::commit::{Commit, Reply};
use crate::delta::Change;
use crate::error::Limit;
use crate::id::SessionId;
use crate::record::{Attributes, Record, Version};
use crate::store::{Listed, Loaded, StoreError};

/// The largest number that the scripts, whose numbers are doubles, take for one.
const MAX_WHOLE: u64 = (1 << 53) - 1;

/// What `HGETALL` and `PTTL` say together.
pub(super) fn loaded(fields: Frame, ttl: Frame, clock: &Clock) -> Result<Loaded, StoreError> {
    let fields = pairs(fields)?;
    let Frame::Number { data: ttl, .. } = ttl else {
        return Err(malformed("PTTL"));
    };
    match ttl {
        // Nothing, or it expired between the two commands; or it was created between them, which is as good as after.
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
    match (raw.created, raw.tombstone) {
        (Some(created), _) => raw.record.alive(created, ttl, clock),
        (None, Some(successor)) => Ok(Loaded::Ended { successor: self::successor(&successor)? }),
        (None, None) => Err(StoreError::corrupt("the session has no time of creation")),
    }
}

/// What the list of a principal says: key, time of login, fields and time to live of each session.
pub(super) fn listed(frame: Frame, keys: &Keys, clock: &Clock) -> Result<Vec<Listed>, StoreError> {
    let Frame::Array { data: sessions, .. } = frame else { return Err(malformed("a list")) };
    let mut listed = Vec::with_capacity(sessions.len());
    for session in sessions {
        let Frame::Array { data, .. } = session else { return Err(malformed("a list")) };
        let [Frame::BlobString { data: key, .. }, since, fields, ttl] =
            <[Frame; 4]>::try_from(data).map_err(|_| malformed("a list"))?
        else {
            return Err(malformed("a list"));
        };
        // Redis writes such a time as 1.7e+15.
        let Frame::BlobString { data: since, .. } = since else { return Err(malformed("a list")) };
        let since = text(&since).and_then(|since| since.parse::<f64>().ok()).ok_or_else(|| malformed("a list"))?;
        let handle = keys.handle(&key).ok_or_else(|| malformed("a list"))?;
        // One spoilt session does not spoil the list; its browser is told that it is gone as well.
        if let Ok(Loaded::Alive(record)) = loaded(fields, ttl, clock) {
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
    tombstone: Option<Bytes>,
    record: RawRecord,
}

#[derive(Default)]
struct RawRecord {
    attributes: Attributes,
    idle: Option<Bytes>,
    ends: Option<Bytes>,
    version: Option<Bytes>,
    size: Option<Bytes>,
    principal: Option<Bytes>,
}

impl Raw {
    fn take(&mut self, name: Bytes, value: Bytes) -> Result<(), StoreError> {
        let name = text(&name).ok_or_else(|| StoreError::corrupt("an attribute's name is not UTF-8"))?;
        let field = match name {
            keys::CREATED => &mut self.created,
            keys::TOMBSTONE => &mut self.tombstone,
            keys::IDLE => &mut self.record.idle,
            keys::ENDS => &mut self.record.ends,
            keys::VERSION => &mut self.record.version,
            keys::SIZE => &mut self.record.size,
            keys::PRINCIPAL => &mut self.record.principal,
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
    fn alive(self, created: Bytes, ttl: Duration, clock: &Clock) -> Result<Loaded, StoreError> {
        let required = |name, value: Option<Bytes>| whole(name, &value.unwrap_or_default());
        let created = required(keys::CREATED, Some(created))?;
        let idle_timeout = Duration::from_millis(required(keys::IDLE, self.idle)?);
        let version = Version(required(keys::VERSION, self.version)?);
        required(keys::SIZE, self.size)?;
        let expires_on = self.ends.map(|ends| whole(keys::ENDS, &ends)).transpose()?;
        let principal = self.principal.map(|principal| {
            text(&principal).map(str::to_owned).ok_or_else(|| StoreError::corrupt("the principal is not UTF-8"))
        });
        Ok(Loaded::Alive(Record {
            attributes: self.attributes,
            created_on: SystemTime::UNIX_EPOCH + Duration::from_millis(created),
            idle_timeout,
            expires_on: expires_on.map(|millis| clock.system_time(millis)),
            ttl,
            version,
            principal: principal.transpose()?,
        }))
    }
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
        // A tombstone that we did not write is what it is to a load: no session, and no reason to refuse its browser another.
        (b'E', _) => Ok(successor(rest).map_or(Reply::Absent, |successor| Reply::Ended { successor })),
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

/// `version value value …`, the values in the order of the names that were added to.
fn applied(rest: &[u8], commit: &Commit) -> Result<Reply, StoreError> {
    let mut words = text(rest).ok_or_else(|| malformed("a commit"))?.split(' ');
    let version = words.next().and_then(|word| word.parse().ok()).ok_or_else(|| malformed("a commit"))?;
    let mut counters = BTreeMap::new();
    for (name, change) in &commit.changes {
        if let Change::Add(_) = change {
            let value = words.next().and_then(|word| word.parse().ok()).ok_or_else(|| malformed("a commit"))?;
            counters.insert(name.clone(), value);
        }
    }
    Ok(Reply::Applied { version: Version(version), counters, confirmed: true })
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
