//! `Debug` for the values that pass between a request and a store: what is done, how much of it, and nothing that a session holds.
//! Stores are written by others, and what can be printed ends up in somebody's log.

use std::fmt;

use crate::commit::{Commit, Renewal, Reply, Revocation, Start};
use crate::session::Flushed;

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commit")
            .field("id", &self.id)
            .field("action", &self.action)
            .field("clear", &self.clear)
            .field("changes", &self.changes.len())
            .field("conditions", &self.conditions.len())
            .field("seen", &self.seen)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start").field("created_on", &self.created_on).finish_non_exhaustive()
    }
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("Keep"),
            Self::LogIn { .. } => f.debug_struct("LogIn").finish_non_exhaustive(),
            Self::Replace { start, linked } => {
                f.debug_struct("Replace").field("start", start).field("linked", linked).finish()
            }
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Applied { version, counters, confirmed, .. } => f
                .debug_struct("Applied")
                .field("version", version)
                .field("counters", &counters.len())
                .field("confirmed", confirmed)
                .finish(),
            Self::Absent => f.write_str("Absent"),
            Self::Ended { successor, age } => {
                f.debug_struct("Ended").field("successor", successor).field("age", age).finish()
            }
            Self::RolledBack => f.write_str("RolledBack"),
            Self::Conflict { name, .. } => f.debug_struct("Conflict").field("name", name).finish_non_exhaustive(),
            Self::NotACounter(name) => f.debug_tuple("NotACounter").field(name).finish(),
            Self::Limit(limit) => f.debug_tuple("Limit").field(limit).finish(),
            Self::TooManySessions => f.write_str("TooManySessions"),
            Self::Occupied => f.write_str("Occupied"),
        }
    }
}

impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocation")
            .field("id", &self.id)
            .field("which", &self.which)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Flushed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flushed").field("counters", &self.counters.len()).finish_non_exhaustive()
    }
}
