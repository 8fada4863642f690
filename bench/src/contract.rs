//! What every app in the comparison serves, and what is stored in its sessions. An app differs from the others in how it keeps
//! sessions and in nothing else.
//!
//! | route | does |
//! |---|---|
//! | `GET /plain` | answers without a look at the session |
//! | `GET /read` | the value of one attribute, or `none` |
//! | `POST /write/{width}/{number}` | reads that attribute, gives it a new value of that width, answers with the old one |
//! | `POST /blind/{width}/{number}` | gives it a new value and answers `done`; needs not know the old one |
//! | `POST /start/{size}` | starts a session of that size and answers `done` |

use anyhow::{Result, bail};

/// The attribute that requests read and write.
pub(crate) const WATCHED: &str = "a3";
/// The idle timeout of every app: a session that is used must live on.
pub(crate) const IDLE_TIMEOUT_SECS: u64 = 30 * 60;
/// What signs or encrypts cookies where an app does that.
pub(crate) const SECRET: [u8; 64] = *b"a secret of a benchmark: published, and good for nothing else...";

/// How much is in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// Three short attributes.
    Small,
    /// 1 KiB in 8 attributes.
    Kib1,
    /// 16 KiB in 64 attributes.
    Kib16,
}

impl Size {
    pub(crate) fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "small" => Self::Small,
            "1k" => Self::Kib1,
            "16k" => Self::Kib16,
            _ => bail!("no size is called {name}"),
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Kib1 => "1k",
            Self::Kib16 => "16k",
        }
    }

    /// Of one value, in characters.
    pub(crate) fn width(self) -> usize {
        match self {
            Self::Small => 5,
            Self::Kib1 => 128,
            Self::Kib16 => 256,
        }
    }

    /// The attributes that a session starts with.
    pub(crate) fn attributes(self) -> Vec<(String, String)> {
        let names: Vec<String> = match self {
            Self::Small => [WATCHED, "lang", "theme"].map(String::from).into(),
            Self::Kib1 => (0..8).map(|i| format!("a{i}")).collect(),
            Self::Kib16 => (0..64).map(|i| format!("a{i}")).collect(),
        };
        names.into_iter().map(|name| (name, value(self.width(), 0))).collect()
    }
}

/// The value with this number: as wide as asked, and no two alike.
pub(crate) fn value(width: usize, number: u64) -> String {
    format!("{number:x>width$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_what_they_are_called() {
        let bytes = |size: Size| size.attributes().iter().map(|(_, value)| value.len()).sum::<usize>();
        assert_eq!((bytes(Size::Small), bytes(Size::Kib1), bytes(Size::Kib16)), (15, 1024, 16 * 1024));
        for size in [Size::Small, Size::Kib1, Size::Kib16] {
            assert!(size.attributes().iter().any(|(name, _)| name == WATCHED));
            assert_eq!(Size::parse(size.name()).unwrap(), size);
        }
        assert_eq!(value(8, 12), "xxxxxx12");
    }
}
