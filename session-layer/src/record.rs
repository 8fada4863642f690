//! What a store keeps of a session.

use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::commit::Lifetimes;

/// The attributes of a session by name, each as the JSON text that was stored; parsed when somebody asks for one.
///
/// A map whose clones share what is in it, until one of them is changed: most requests only read what a store or a cache has.
///
/// ```
/// use session_layer::store::Attributes;
///
/// let stored = Attributes::from([("visits".to_owned(), "1".into())]);
/// let mut changed = stored.clone();
/// changed.insert("visits".to_owned(), "2".into());
/// assert_eq!((&stored["visits"][..], &changed["visits"][..]), (&b"1"[..], &b"2"[..]));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes(Arc<BTreeMap<String, Bytes>>);

impl Attributes {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Deref for Attributes {
    type Target = BTreeMap<String, Bytes>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Attributes {
    fn deref_mut(&mut self) -> &mut Self::Target {
        Arc::make_mut(&mut self.0)
    }
}

impl From<BTreeMap<String, Bytes>> for Attributes {
    fn from(attributes: BTreeMap<String, Bytes>) -> Self {
        Self(Arc::new(attributes))
    }
}

impl<const N: usize> From<[(String, Bytes); N]> for Attributes {
    fn from(attributes: [(String, Bytes); N]) -> Self {
        BTreeMap::from(attributes).into()
    }
}

impl FromIterator<(String, Bytes)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (String, Bytes)>>(attributes: I) -> Self {
        attributes.into_iter().collect::<BTreeMap<_, _>>().into()
    }
}

impl IntoIterator for Attributes {
    type Item = (String, Bytes);
    type IntoIter = btree_map::IntoIter<String, Bytes>;

    fn into_iter(self) -> Self::IntoIter {
        Arc::unwrap_or_clone(self.0).into_iter()
    }
}

impl<'a> IntoIterator for &'a Attributes {
    type Item = (&'a String, &'a Bytes);
    type IntoIter = btree_map::Iter<'a, String, Bytes>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// Orders the states of one session. Each commit gets a higher one, and no number is ever given twice: a store takes the
/// larger of the last version plus one and its own clock in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// A session as loaded.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// The attributes.
    pub attributes: Attributes,
    /// When the session was created, to the millisecond. Renewing the ID keeps it.
    pub created_on: SystemTime,
    /// Ends the session this long after its last request, as its last commit or touch said.
    pub idle_timeout: Duration,
    /// Ends the session this long after its start, as its last commit or touch said; see [`Lifetimes`](crate::store::Lifetimes).
    pub absolute_timeout: Option<Duration>,
    /// Ends the session at this time whatever happens: its start and the absolute timeout.
    pub expires_on: Option<SystemTime>,
    /// How long it has left if nobody prolongs it.
    pub ttl: Duration,
    /// The state that was loaded.
    pub version: Version,
    /// Who is logged in.
    pub principal: Option<String>,
    /// The versions that it had last, the loaded one included, oldest first, if the commits that made them asked for that
    /// ([`Commit::keep_history`](crate::store::Commit::keep_history)) and no other came in between; else empty.
    pub history: Vec<Version>,
}

impl Record {
    /// Whether prolonging the session is worth a command: so much of its time to live is used up, or the settings were changed since
    /// it was prolonged last, and reach it by that.
    ///
    /// An interval is only compared with the time to live of a session whose timeouts are those of the settings, since it may be longer
    /// than all the time that another session has left.
    pub(crate) fn wants_touch(
        &self,
        lifetimes: &Lifetimes,
        touch_interval: Duration,
        since_load: Duration,
        now: SystemTime,
    ) -> bool {
        if self.lifetimes() != *lifetimes {
            return true;
        }
        let longest = match self.expires_on {
            Some(end) => self.idle_timeout.min(end.duration_since(now).unwrap_or_default()),
            None => self.idle_timeout,
        };
        longest.saturating_sub(self.ttl.saturating_sub(since_load)) > touch_interval
    }

    fn lifetimes(&self) -> Lifetimes {
        Lifetimes { idle_timeout: self.idle_timeout, absolute_timeout: self.absolute_timeout }
    }

    /// A commit or touch prolonged the session by these settings.
    pub(crate) fn prolong(&mut self, lifetimes: &Lifetimes) {
        let began = match (self.expires_on, self.absolute_timeout) {
            (Some(end), Some(timeout)) => end.checked_sub(timeout),
            // Without one it is not known when somebody logged in.
            _ => Some(self.created_on).filter(|_| self.principal.is_none()),
        };
        self.expires_on = began.zip(lifetimes.absolute_timeout).map(|(began, timeout)| began + timeout);
        self.idle_timeout = lifetimes.idle_timeout;
        self.absolute_timeout = lifetimes.absolute_timeout;
        self.ttl = lifetimes.idle_timeout;
    }
}

/// Hides names and values of attributes and the principal: what a session holds is nobody's log's business.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("attributes", &self.attributes.len())
            .field("created_on", &self.created_on)
            .field("ttl", &self.ttl)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(ttl_secs: u64, expires_in: Option<u64>) -> Record {
        Record {
            attributes: Attributes::new(),
            created_on: SystemTime::UNIX_EPOCH,
            idle_timeout: Duration::from_secs(100),
            absolute_timeout: expires_in.map(Duration::from_secs),
            expires_on: expires_in.map(|secs| SystemTime::UNIX_EPOCH + Duration::from_secs(secs)),
            ttl: Duration::from_secs(ttl_secs),
            version: Version(1),
            principal: Some("alice".into()),
            history: Vec::new(),
        }
    }

    #[test]
    fn a_touch_is_worth_it_only_when_it_prolongs_by_more_than_the_interval() {
        let wants_after = |record: Record, secs: u64| {
            let (interval, since_load) = (Duration::from_secs(5), Duration::from_secs(secs));
            record.wants_touch(&record.lifetimes(), interval, since_load, SystemTime::UNIX_EPOCH)
        };
        let wants = |record| wants_after(record, 0);
        assert!(!wants(record(100, None)));
        assert!(!wants(record(95, None)));
        assert!(wants(record(94, None)));
        assert!(!wants(record(50, Some(50))), "the absolute timeout is what limits it");
        assert!(wants(record(40, Some(50))));
        assert!(!wants(record(40, Some(0))));
        assert_eq!([5, 6, 200].map(|secs| wants_after(record(100, None), secs)), [false, true, true]);
    }

    #[test]
    fn a_changed_setting_makes_a_touch_worth_it_at_once() {
        let lifetimes = |idle, absolute: Option<u64>| Lifetimes {
            idle_timeout: Duration::from_secs(idle),
            absolute_timeout: absolute.map(Duration::from_secs),
        };
        let wants = |now: Lifetimes| {
            // An interval longer than the session's own timeout, as that of a raised setting may be.
            let interval = Duration::from_secs(360);
            record(100, Some(500)).wants_touch(&now, interval, Duration::ZERO, SystemTime::UNIX_EPOCH)
        };
        assert!(!wants(lifetimes(100, Some(500))));
        for (idle, absolute) in [(7200, Some(500)), (50, Some(500)), (100, Some(600)), (100, Some(400)), (100, None)] {
            assert!(wants(lifetimes(idle, absolute)), "{idle} {absolute:?}");
        }
    }

    #[test]
    fn a_session_is_known_to_end_by_the_settings_that_prolonged_it() {
        let at = |secs| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(secs));
        let prolonged = |mut record: Record, absolute: Option<u64>| {
            let absolute_timeout = absolute.map(Duration::from_secs);
            record.prolong(&Lifetimes { idle_timeout: Duration::from_secs(30), absolute_timeout });
            assert_eq!((record.idle_timeout, record.ttl), (Duration::from_secs(30), Duration::from_secs(30)));
            assert_eq!(record.absolute_timeout, absolute_timeout);
            record.expires_on
        };
        assert_eq!(prolonged(record(1, Some(500)), Some(600)), at(600));
        assert_eq!(prolonged(record(1, Some(500)), None), None);
        assert_eq!(prolonged(record(1, None), Some(600)), None, "the login may have been at any time");
        assert_eq!(prolonged(Record { principal: None, ..record(1, None) }, Some(600)), at(600));
    }

    #[test]
    fn clones_share_their_attributes_until_one_is_changed() {
        let stored = Attributes::from([("a".to_owned(), "1".into())]);
        let mut changed = stored.clone();
        assert!(Arc::ptr_eq(&stored.0, &changed.0));
        changed.remove("a");
        assert_eq!((stored.len(), changed.len()), (1, 0));
    }

    #[test]
    fn debug_shows_no_content() {
        let mut record = record(1, None);
        record.attributes.insert("cart".into(), Bytes::from_static(b"\"secret\""));
        let text = format!("{record:?}");
        assert!(!text.contains("secret") && !text.contains("cart") && !text.contains("alice"), "{text}");
    }
}
