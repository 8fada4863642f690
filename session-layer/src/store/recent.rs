//! What this node itself has committed in the last seconds. A copy that does not have it yet is no good here, whatever else is known
//! of it: two requests of one browser may be on their way to this node at the same time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::commit::Commit;
use crate::id::SessionId;
use crate::record::Version;

/// Copies are a second old at most; what was committed longer ago is in them.
const HOLD: Duration = Duration::from_secs(2);
/// How many sessions are remembered; with more commits than this in two seconds no copy is used for as long.
const MAX_SESSIONS: usize = 65_536;

#[derive(Default)]
pub(crate) struct Recent(Mutex<State>);

#[derive(Default)]
struct State {
    versions: HashMap<SessionId, (Version, Instant)>,
    order: VecDeque<(SessionId, Instant)>,
    /// Until then no copy of anything is good enough.
    none_until: Option<Instant>,
}

/// No copy has this version.
const NONE: Version = Version(u64::MAX);

impl Recent {
    /// A commit took effect.
    pub(crate) fn note(&self, commit: &Commit, version: Version) {
        let (id, target) = (commit.action.id(), commit.action.target());
        if let Some(target) = target {
            self.committed(*target, version);
        }
        if target != Some(id) {
            self.ended(*id);
        }
    }

    /// A commit made this version of a session.
    fn committed(&self, id: SessionId, version: Version) {
        self.lock().note(id, version, Instant::now());
    }

    /// A commit ended a session, or moved it to another ID.
    fn ended(&self, id: SessionId) {
        self.committed(id, NONE);
    }

    /// Something ended sessions whose IDs are not known here.
    pub(crate) fn ended_some(&self) {
        self.lock().none_until = Some(Instant::now() + HOLD);
    }

    /// The oldest version of a session that may be shown here, as far as this node has a say in it.
    pub(crate) fn oldest(&self, id: &SessionId) -> Option<Version> {
        let (state, now) = (self.lock(), Instant::now());
        if state.none_until.is_some_and(|until| now < until) {
            return Some(NONE);
        }
        state.versions.get(id).map(|(version, _)| *version)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics between changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, id: SessionId, version: Version, now: Instant) {
        while let Some((oldest, until)) = self.order.front().copied().filter(|(_, until)| *until <= now) {
            self.order.pop_front();
            // Unless it was committed again since.
            if self.versions.get(&oldest).is_some_and(|(_, last)| *last == until) {
                self.versions.remove(&oldest);
            }
        }
        if self.order.len() >= MAX_SESSIONS {
            *self = Self { none_until: Some(now + HOLD), ..Self::default() };
        }
        let until = now + HOLD;
        let (newest, last) = self.versions.entry(id).or_insert((version, until));
        // Answers may come in another order than the commits were made in.
        (*newest, *last) = ((*newest).max(version), until);
        self.order.push_back((id, until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_newest_commit_counts_for_as_long_as_a_copy_may_lack_it() {
        let (recent, id) = (Recent::default(), SessionId::random());
        assert_eq!(recent.oldest(&id), None);
        recent.committed(id, Version(5));
        recent.committed(id, Version(3));
        assert_eq!(recent.oldest(&id), Some(Version(5)));
        tokio::time::advance(Duration::from_millis(1500)).await;
        recent.committed(id, Version(7));
        tokio::time::advance(Duration::from_millis(1500)).await;
        recent.committed(SessionId::random(), Version(1));
        assert_eq!(recent.oldest(&id), Some(Version(7)));
        tokio::time::advance(HOLD).await;
        recent.committed(SessionId::random(), Version(1));
        assert_eq!(recent.oldest(&id), None);
        assert_eq!(recent.lock().versions.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_ended_has_no_copy() {
        let (recent, id) = (Recent::default(), SessionId::random());
        recent.ended(id);
        assert_eq!(recent.oldest(&id), Some(NONE));
        let other = SessionId::random();
        recent.ended_some();
        assert_eq!(recent.oldest(&other), Some(NONE));
        tokio::time::advance(HOLD).await;
        assert_eq!(recent.oldest(&other), None);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_what_was_forgotten_is_not_shown() {
        let (recent, first) = (Recent::default(), SessionId::random());
        recent.committed(first, Version(9));
        for n in 0..MAX_SESSIONS as u64 {
            recent.committed(SessionId::random(), Version(n));
        }
        assert!(recent.lock().order.len() <= MAX_SESSIONS);
        assert_eq!(recent.oldest(&first), Some(NONE));
    }
}
