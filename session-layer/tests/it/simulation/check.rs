//! What is checked, and what a run says when a check fails.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    Linearizable,
    CountersAreExact,
    NothingIsHalfWritten,
    WhatEndedStaysEnded,
    NoLiveSessionIsMissing,
    SessionsExpireInTime,
    TombstonesLastFiveMinutes,
    NobodySeesWhatIsNotTheirs,
    LoginEndsLoggedIn,
    TheIndexIsExact,
    EachRealmHasItsOwnLists,
    TheLimitIsKept,
    NoErrorButUnavailable,
    AnswersAreHonest,
    CookiesFollowWhatWasApplied,
    NothingOutlivesItsBudget,
    NothingAppliesAfterItsDeadline,
    ConflictsHaveAReason,
    NoLateAnswerReplacesANewerCookie,
}

impl Check {
    fn sentence(self) -> &'static str {
        match self {
            Self::Linearizable => "every attribute behaves as if there were one copy of it",
            Self::CountersAreExact => "acknowledged increments are all there, unknown ones at most once",
            Self::NothingIsHalfWritten => "a commit is there as a whole or not at all",
            Self::WhatEndedStaysEnded => "what has ended stays ended",
            Self::NoLiveSessionIsMissing => "a live session is never taken for a missing one",
            Self::SessionsExpireInTime => "a session expires when its timeout is over",
            Self::TombstonesLastFiveMinutes => "a tombstone lasts five minutes",
            Self::NobodySeesWhatIsNotTheirs => "nobody sees another's session",
            Self::LoginEndsLoggedIn => "a login ends logged in, whatever the order of answers",
            Self::TheIndexIsExact => "the list of a principal's sessions has every live one and no dead one",
            Self::EachRealmHasItsOwnLists => "no list has a session of another realm",
            Self::TheLimitIsKept => "a principal never has more sessions than allowed",
            Self::NoErrorButUnavailable => "no server error but 503, and none without trouble",
            Self::AnswersAreHonest => "what is acknowledged is in the store, what is refused is not",
            Self::CookiesFollowWhatWasApplied => "the cookie is that of what was applied",
            Self::NothingOutlivesItsBudget => "no request waits longer than its budget",
            Self::NothingAppliesAfterItsDeadline => "what was given up does not apply later",
            Self::ConflictsHaveAReason => "409 only to a request that may have been on its way when the session ended",
            Self::NoLateAnswerReplacesANewerCookie => "no late answer replaces a newer cookie",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

/// A check that failed.
#[derive(Debug, Clone)]
pub struct Violation {
    pub check: Check,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not kept: {}\n  {}", self.check, self.what)
    }
}
