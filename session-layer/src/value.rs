//! Values of attributes: from what a handler gives to the JSON text that is stored, and back.
//!
//! What is accepted reads back equal; anything else is refused when it is given, because a value that is found to be unreadable at a
//! later request can no longer be corrected by the code that wrote it.

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Kind, Limit, SessionError};

mod scan; // checks a JSON text and removes its whitespace

mod strict; // serialises, and refuses what JSON would change

/// The most levels of arrays and objects that a value may have: what `serde_json` reads.
pub(crate) const MAX_NESTING: usize = 127;

/// Why a value was refused; see [`SessionError::invalid_value`](crate::SessionError::invalid_value).
///
/// A value is stored only if it reads back equal. Each of these would be changed, or could never be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidValue {
    /// The text is not JSON (RFC 8259), or not UTF-8.
    NotJson,
    /// A string holds half of a surrogate pair (`"\ud800"`), which no Rust string can hold.
    LoneSurrogate,
    /// Arrays and objects are nested more than 127 levels deep, the most that `serde_json` reads.
    TooDeep,
    /// A number such as `1e999` is beyond the range of `f64`.
    NumberOutOfRange,
    /// A float is NaN or infinite. JSON has neither; `serde_json` would write `null`.
    NotFinite,
    /// An object has the same key twice. Readers disagree about which one counts (RFC 8259, section 4).
    DuplicateKey,
    /// An object's key begins with `$serde_json::private::`, by which `serde_json` marks values of its own.
    ReservedKey,
    /// A `Some` holds a value that is written as `null`, such as `Some(None)` or `Some(())`. It would be read as `None`.
    NullInSome,
    /// The value's `Serialize` implementation failed, or a map has keys that are not text, numbers or booleans.
    NotSerializable,
}

impl fmt::Display for InvalidValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotJson => "it is not JSON in UTF-8",
            Self::LoneSurrogate => "a string in it has half of a surrogate pair",
            Self::TooDeep => "it is nested more than 127 levels deep",
            Self::NumberOutOfRange => "a number in it is beyond the range of a 64-bit float",
            Self::NotFinite => "a number in it is NaN or infinite, which JSON cannot express",
            Self::DuplicateKey => "an object in it has the same key twice",
            Self::ReservedKey => "an object in it has a key that starts with `$serde_json::private::`",
            Self::NullInSome => "a `Some` in it is written as `null`, which is read as `None`",
            Self::NotSerializable => "it does not serialise, or a map in it has keys that are not text",
        })
    }
}

/// Why a text was not accepted.
enum Refusal {
    Invalid(InvalidValue),
    TooLong,
}

impl Refusal {
    fn of(self, name: &str) -> SessionError {
        SessionError::new(match self {
            Self::Invalid(reason) => Kind::InvalidValue(name.to_owned(), reason),
            Self::TooLong => Kind::Limit(Limit::Value(name.to_owned())),
        })
    }
}

/// Returns a value as compact JSON of at most `longest` bytes.
pub(crate) fn to_json<V: Serialize>(name: &str, value: &V, longest: usize) -> Result<Bytes, SessionError> {
    let json = strict::to_vec(value).map_err(|reason| Refusal::Invalid(reason).of(name))?;
    // A `RawValue` in it may hold any text, and a `Serialize` implementation may repeat keys.
    let compact = scan::compact(&json, longest).map_err(|refusal| refusal.of(name))?;
    Ok(Bytes::from(compact.unwrap_or(json)))
}

/// Returns a JSON text without its whitespace, if it has at most `longest` bytes then.
///
/// Always a copy: the text may be a part of a buffer that is much larger, and that buffer's `Drop` may be anybody's code.
pub(crate) fn checked_json(name: &str, json: &[u8], longest: usize) -> Result<Bytes, SessionError> {
    let compact = scan::compact(json, longest).map_err(|refusal| refusal.of(name))?;
    Ok(compact.map_or_else(|| Bytes::copy_from_slice(json), Bytes::from))
}

/// Reads a stored value. `null` is read as no value by a type that cannot hold it, since that is how a `None` is stored.
pub(crate) fn parse<T: DeserializeOwned>(name: &str, json: Option<Bytes>) -> Result<Option<T>, SessionError> {
    let Some(json) = json else { return Ok(None) };
    match serde_json::from_slice(&json) {
        Ok(value) => Ok(Some(value)),
        Err(_) if json.trim_ascii() == b"null" => Ok(None),
        Err(_) => Err(SessionError::new(Kind::Unreadable(name.to_owned()))),
    }
}
