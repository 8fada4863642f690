//! What one request changed, as a value: no IO, no clock, no store.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use crate::error::{Kind, SessionError};
use crate::record::Attributes;

/// What is to happen to one attribute.
#[derive(Clone, PartialEq, Eq)]
pub enum Change {
    /// It gets this JSON text, whatever it was.
    Set(Bytes),
    /// It goes.
    Remove,
    /// This is added to it, starting from 0 if it is absent. It must be a [counter](parse_counter).
    Add(i64),
}

/// Hides the value.
impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Set(_) => "Set(..)",
            Self::Remove => "Remove",
            Self::Add(_) => "Add(..)",
        })
    }
}

/// What is to happen to the session as such.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Nothing.
    #[default]
    Keep,
    /// It gets a new ID.
    Cycle,
    /// It gets a new ID, and this principal.
    LogIn(String),
    /// It ends.
    Destroy,
    /// It ends, and what was changed after that starts another one, with this principal.
    Replace(Option<String>),
    /// It ends, if there is one, and another one starts in any case, also with nothing in it.
    Reset,
}

/// Everything that one request changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Delta {
    /// All attributes that are not in `changes` go.
    pub(crate) clear: bool,
    pub(crate) changes: BTreeMap<String, Change>,
    pub(crate) identity: Identity,
}

impl Delta {
    pub(crate) fn is_empty(&self) -> bool {
        self.identity == Identity::Keep && !self.changes_attributes()
    }

    pub(crate) fn changes_attributes(&self) -> bool {
        self.clear || !self.changes.is_empty()
    }

    /// Whether anything would be there if it were applied to no session at all.
    pub(crate) fn leaves_attributes(&self) -> bool {
        self.changes.values().any(|change| *change != Change::Remove)
    }

    /// Whether the session that the request came with ends.
    pub(crate) fn replaces(&self) -> bool {
        matches!(self.identity, Identity::Destroy | Identity::Replace(_) | Identity::Reset)
    }

    /// Whether a session that it starts is meant to take the place of any that the browser may have.
    pub(crate) fn starts_on_purpose(&self) -> bool {
        matches!(self.identity, Identity::LogIn(_) | Identity::Replace(Some(_)) | Identity::Reset)
    }

    /// Whether nothing of the attributes from before is left.
    fn starts_anew(&self) -> bool {
        self.clear || self.replaces()
    }

    pub(crate) fn set(&mut self, name: &str, value: Bytes) {
        self.begin_anew();
        self.changes.insert(name.to_owned(), Change::Set(value));
    }

    pub(crate) fn remove(&mut self, name: &str) {
        if self.clear {
            // Nothing from before is left to remove.
            self.changes.remove(name);
        } else {
            // Also from a session that starts anew: a login may follow to one in which an earlier click has set it.
            self.changes.insert(name.to_owned(), Change::Remove);
        }
    }

    /// Adds to what this request already did to the attribute.
    pub(crate) fn add(&mut self, name: &str, by: i64) -> Result<(), SessionError> {
        let not_a_counter = || SessionError::new(Kind::NotACounter(name.to_owned()));
        let change = match self.changes.get(name) {
            Some(Change::Set(value)) => Change::Set(
                parse_counter(value).and_then(|old| old.checked_add(by)).map(counter_text).ok_or_else(not_a_counter)?,
            ),
            Some(Change::Remove) => Change::Set(checked(by).map(counter_text).ok_or_else(not_a_counter)?),
            Some(Change::Add(already)) => {
                Change::Add(already.checked_add(by).and_then(checked).ok_or_else(not_a_counter)?)
            }
            // Also where nothing is left to add to: a login may follow to a session in which an earlier click has counted.
            None => Change::Add(checked(by).ok_or_else(not_a_counter)?),
        };
        self.begin_anew();
        self.changes.insert(name.to_owned(), change);
        Ok(())
    }

    pub(crate) fn clear(&mut self) {
        self.clear = true;
        self.changes.clear();
    }

    pub(crate) fn cycle(&mut self) {
        self.identity = match std::mem::take(&mut self.identity) {
            Identity::Keep => Identity::Cycle,
            Identity::Destroy => Identity::Destroy,
            // These get a new ID already.
            other => other,
        };
    }

    /// `other` says that the session belongs to another principal now: nothing of theirs goes over.
    pub(crate) fn log_in(&mut self, principal: String, other: bool) {
        self.identity = match self.identity {
            Identity::Destroy | Identity::Replace(_) | Identity::Reset => Identity::Replace(Some(principal)),
            _ if other => Identity::Replace(Some(principal)),
            Identity::Keep | Identity::Cycle | Identity::LogIn(_) => Identity::LogIn(principal),
        };
    }

    pub(crate) fn destroy(&mut self) {
        *self = Self { identity: Identity::Destroy, ..Self::default() };
    }

    pub(crate) fn reset(&mut self) {
        *self = Self { identity: Identity::Reset, ..Self::default() };
    }

    /// A change to the attributes after the session was destroyed is the first one of the next session.
    fn begin_anew(&mut self) {
        if self.identity == Identity::Destroy {
            self.identity = Identity::Replace(None);
        }
    }

    /// Sets or removes.
    pub(crate) fn assign(&mut self, name: &str, value: Option<Bytes>) {
        match value {
            Some(value) => self.set(name, value),
            None => self.remove(name),
        }
    }

    /// Takes over what was changed after this.
    pub(crate) fn merge(&mut self, later: Self) -> Result<(), SessionError> {
        if later.starts_anew() {
            *self = later;
            return Ok(());
        }
        for (name, change) in later.changes {
            match change {
                Change::Set(value) => self.set(&name, value),
                Change::Remove => self.remove(&name),
                Change::Add(by) => self.add(&name, by)?,
            }
        }
        self.identity = later.identity;
        Ok(())
    }

    /// What the attribute is once this is applied to a session that has `stored`.
    pub(crate) fn overlay(&self, name: &str, stored: Option<Bytes>) -> Option<Bytes> {
        let anew = self.starts_anew();
        let stored = if anew { None } else { stored };
        match self.changes.get(name) {
            None => stored,
            Some(Change::Set(value)) => Some(value.clone()),
            Some(Change::Remove) => None,
            Some(Change::Add(by)) => match stored {
                None => Some(counter_text(*by)),
                // What cannot be counted stays what it is; the store refuses the commit.
                Some(old) => Some(parse_counter(&old).and_then(|n| n.checked_add(*by)).map_or(old, counter_text)),
            },
        }
    }

    /// The attributes once this is applied to `stored`.
    pub(crate) fn apply_to(&self, stored: &mut Attributes) {
        let mut next: Attributes = if self.starts_anew() { Attributes::new() } else { std::mem::take(stored) };
        for name in self.changes.keys() {
            let old = next.remove(name);
            if let Some(value) = self.overlay(name, old) {
                next.insert(name.clone(), value);
            }
        }
        *stored = next;
    }
}

/// The longest attribute name, in bytes.
pub(crate) const MAX_NAME_LEN: usize = 128;

/// Checks an attribute's name: 1 to 128 bytes without control characters. A leading `@` is kept for what a store keeps of its
/// own beside the attributes.
///
/// # Errors
///
/// When the name breaks a rule; [`SessionError::is_invalid_name`].
pub(crate) fn check_name(name: &str) -> Result<(), SessionError> {
    let valid =
        (1..=MAX_NAME_LEN).contains(&name.len()) && !name.starts_with('@') && !name.chars().any(char::is_control);
    if valid { Ok(()) } else { Err(SessionError::new(Kind::InvalidName)) }
}

pub(crate) fn check_principal(principal: &str) -> Result<(), SessionError> {
    let valid = (1..=256).contains(&principal.len()) && !principal.chars().any(char::is_control);
    if valid { Ok(()) } else { Err(SessionError::new(Kind::InvalidPrincipal)) }
}

/// How large a session may become; see the builder for the defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The longest value, in bytes of JSON.
    pub value_bytes: usize,
    /// How many attributes.
    pub attributes: usize,
    /// Names and values of all attributes together, in bytes.
    pub record_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { value_bytes: 64 * 1024, attributes: 256, record_bytes: 256 * 1024 }
    }
}

/// How many digits a counter may have before it is incremented: two such numbers cannot overflow 64 bits, so that a store can
/// check all counters of a commit before it writes any.
pub(crate) const MAX_COUNTER_DIGITS: usize = 18;

/// Reads an attribute as a counter: a JSON integer of at most 18 digits, as `increment` writes it.
///
/// ```
/// use session_layer::store::parse_counter;
///
/// assert_eq!(parse_counter(b"-42"), Some(-42));
/// for text in ["", "-", "-0", "07", "1.0", "1e3", " 1", "\"1\"", "1000000000000000000"] {
///     assert_eq!(parse_counter(text.as_bytes()), None, "{text}");
/// }
/// ```
pub fn parse_counter(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit) && digits.len() <= MAX_COUNTER_DIGITS,
        _ => false,
    };
    if canonical { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// What [`parse_counter`] reads.
pub(crate) fn counter_text(value: i64) -> Bytes {
    Bytes::from(value.to_string())
}

/// A step that is no larger than a counter may be.
fn checked(by: i64) -> Option<i64> {
    (by.unsigned_abs() < 10_u64.pow(MAX_COUNTER_DIGITS as u32)).then_some(by)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &'static str) -> Change {
        Change::Set(Bytes::from_static(text.as_bytes()))
    }

    /// Changes to one attribute fold into one.
    #[track_caller]
    fn check(steps: &[Change], folded: Change) {
        let mut delta = Delta::default();
        for step in steps {
            match step {
                Change::Set(value) => delta.set("a", value.clone()),
                Change::Remove => delta.remove("a"),
                Change::Add(by) => delta.add("a", *by).unwrap(),
            }
        }
        assert_eq!(delta.changes["a"], folded);
        assert_eq!(delta.changes.len(), 1);
    }

    #[test]
    fn changes_of_one_attribute_fold_into_one() {
        use Change::{Add, Remove};
        check(&[set("1"), set("2")], set("2"));
        check(&[set("1"), Remove], Remove);
        check(&[set("1"), Add(2)], set("3"));
        check(&[Remove, set("1")], set("1"));
        check(&[Remove, Remove], Remove);
        check(&[Remove, Add(2)], set("2"));
        check(&[Add(1), Add(-3)], Add(-2));
        check(&[Add(1), set("7")], set("7"));
        check(&[Add(1), Remove], Remove);
    }

    #[test]
    fn what_cannot_count_is_refused_and_changes_nothing() {
        let mut delta = Delta::default();
        delta.set("a", Bytes::from_static(b"\"text\""));
        assert!(delta.add("a", 1).unwrap_err().is_not_a_counter());
        assert_eq!(delta.changes["a"], set("\"text\""));
        assert!(delta.add("b", i64::MIN).unwrap_err().is_not_a_counter());
        delta.add("c", 999_999_999_999_999_999).unwrap();
        assert!(delta.add("c", 1).unwrap_err().is_not_a_counter());
        assert!(!delta.changes.contains_key("b"));
    }

    #[test]
    fn after_clear_only_what_came_later_is_left() {
        let mut delta = Delta::default();
        delta.set("a", Bytes::from_static(b"1"));
        delta.clear();
        delta.set("b", Bytes::from_static(b"2"));
        delta.remove("c");
        delta.add("d", 5).unwrap();
        let mut attributes: Attributes =
            ["a", "b", "c", "d"].map(|name| (name.to_owned(), Bytes::from_static(b"0"))).into();
        delta.apply_to(&mut attributes);
        let left: Vec<_> = attributes.iter().map(|(name, value)| (name.as_str(), &value[..])).collect();
        assert_eq!(left, [("b", &b"2"[..]), ("d", &b"5"[..])]);
    }

    /// What `a` is after what a request changed first, and then.
    #[track_caller]
    fn merged(first: &[Change], then: &[Change], expected: Change) {
        let [mut merged, later] = [first, then].map(|changes| {
            let mut delta = Delta::default();
            for change in changes {
                delta.changes.insert("a".to_owned(), change.clone());
            }
            delta
        });
        merged.merge(later).unwrap();
        assert_eq!(merged.changes["a"], expected);
        assert_eq!(merged.changes.len(), 1);
    }

    #[test]
    fn what_was_changed_later_comes_on_top_of_what_was_changed_first() {
        use Change::{Add, Remove};
        merged(&[set("1")], &[], set("1"));
        merged(&[], &[Remove], Remove);
        merged(&[set("1")], &[set("2")], set("2"));
        merged(&[set("1")], &[Remove], Remove);
        merged(&[set("1")], &[Add(2)], set("3"));
        merged(&[Remove], &[set("1")], set("1"));
        merged(&[Remove], &[Add(2)], set("2"));
        merged(&[Add(1)], &[Add(2)], Add(3));
        let mut first = Delta::default();
        first.set("text", Bytes::from_static(b"\"x\""));
        let mut later = Delta::default();
        later.add("text", 1).unwrap();
        assert!(first.merge(later).unwrap_err().is_not_a_counter());
    }

    #[test]
    fn what_starts_anew_leaves_nothing_of_what_was_changed_first() {
        for end in [Delta::clear, Delta::destroy, Delta::reset] {
            let mut first = Delta::default();
            first.set("a", Bytes::from_static(b"1"));
            let mut later = Delta::default();
            end(&mut later);
            later.set("b", Bytes::from_static(b"2"));
            first.merge(later.clone()).unwrap();
            assert_eq!(first, later);
        }
        let (mut first, mut later) = (Delta::default(), Delta::default());
        first.set("a", Bytes::from_static(b"1"));
        later.log_in("alice".into(), false);
        first.merge(later).unwrap();
        assert_eq!((first.identity, first.changes.len()), (Identity::LogIn("alice".into()), 1));
    }

    #[track_caller]
    fn identity(steps: &[&str], expected: Identity) {
        let mut delta = Delta::default();
        for step in steps {
            match *step {
                "set" => delta.set("a", Bytes::from_static(b"1")),
                "remove" => delta.remove("a"),
                "cycle" => delta.cycle(),
                "destroy" => delta.destroy(),
                "reset" => delta.reset(),
                principal => delta.log_in(principal.to_owned(), false),
            }
        }
        assert_eq!(delta.identity, expected, "{steps:?}");
    }

    #[test]
    fn the_last_word_about_the_session_counts() {
        use Identity::{Cycle, Destroy, Keep, LogIn, Replace, Reset};
        identity(&["set"], Keep);
        identity(&["cycle"], Cycle);
        identity(&["cycle", "alice"], LogIn("alice".into()));
        identity(&["alice", "cycle"], LogIn("alice".into()));
        identity(&["alice", "bob"], LogIn("bob".into()));
        identity(&["alice", "destroy"], Destroy);
        identity(&["destroy", "cycle"], Destroy);
        identity(&["destroy", "remove"], Destroy);
        identity(&["destroy", "set"], Replace(None));
        identity(&["destroy", "alice"], Replace(Some("alice".into())));
        identity(&["destroy", "alice", "cycle"], Replace(Some("alice".into())));
        identity(&["destroy", "set", "destroy"], Destroy);
        identity(&["reset", "set", "remove", "cycle"], Reset);
        identity(&["alice", "reset"], Reset);
        identity(&["destroy", "set", "reset"], Reset);
        identity(&["reset", "alice"], Replace(Some("alice".into())));
        identity(&["reset", "destroy"], Destroy);
    }

    #[test]
    fn a_login_of_somebody_else_takes_nothing_over() {
        let log_in = |other| {
            let mut delta = Delta::default();
            delta.log_in("bob".into(), other);
            (delta.replaces(), delta.overlay("a", Some(Bytes::from_static(b"1"))).is_some())
        };
        assert_eq!(log_in(true), (true, false));
        assert_eq!(log_in(false), (false, true));
    }

    #[test]
    fn assigning_nothing_removes() {
        let mut delta = Delta::default();
        delta.assign("a", Some(Bytes::from_static(b"1")));
        assert_eq!(delta.changes["a"], set("1"));
        delta.assign("a", None);
        assert_eq!(delta.changes["a"], Change::Remove);
    }

    #[test]
    fn destroying_drops_what_was_changed_before() {
        let mut delta = Delta::default();
        delta.set("a", Bytes::from_static(b"1"));
        delta.destroy();
        assert!(!delta.changes_attributes());
        delta.set("flash", Bytes::from_static(b"\"bye\""));
        assert_eq!(delta.overlay("a", Some(Bytes::from_static(b"1"))), None);
    }

    #[test]
    fn names_keep_to_the_rules() {
        for name in ["a", "cart.items", "größe", &"x".repeat(128), "a@b", "with space"] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
        for name in ["", "@a", "a\nb", "a\0", "\u{85}", &"x".repeat(129)] {
            assert!(check_name(name).unwrap_err().is_invalid_name(), "{name:?}");
        }
    }

    #[test]
    fn principals_keep_to_the_rules() {
        for principal in ["a", "@a", "älice@example.com", &"x".repeat(256)] {
            assert!(check_principal(principal).is_ok(), "{principal:?}");
        }
        for principal in ["", "a\nb", "\u{85}", &"x".repeat(257)] {
            assert!(check_principal(principal).is_err(), "{principal:?}");
        }
    }

    #[test]
    fn a_counter_is_an_integer_as_json_has_it() {
        let most = 999_999_999_999_999_999;
        for number in [0, 1, -1, 9, 10, -10, 42, most, -most] {
            assert_eq!(parse_counter(&counter_text(number)), Some(number));
            assert_eq!(checked(number), Some(number));
        }
        for text in ["", "-", "-0", "00", "07", "+1", "--1", "1.0", "1e3", " 1", "1 ", "a", "1a", "1000000000000000000"]
        {
            assert_eq!(parse_counter(text.as_bytes()), None, "{text:?}");
        }
        for step in [most + 1, -most - 1, i64::MAX, i64::MIN] {
            assert_eq!(checked(step), None, "{step}");
        }
    }

    #[test]
    fn debug_shows_no_value() {
        for (change, shown) in [(set("1"), "Set(..)"), (Change::Remove, "Remove"), (Change::Add(7), "Add(..)")] {
            assert_eq!(format!("{change:?}"), shown);
        }
        let mut delta = Delta::default();
        delta.set("a", Bytes::from_static(b"\"secret\""));
        assert!(!format!("{delta:?}").contains("secret"));
    }
}
