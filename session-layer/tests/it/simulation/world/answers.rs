//! What an answer must keep to, judged when it comes and when the browser takes its cookie.

use session_layer::SessionId;
use session_layer::store::{Action, TOMBSTONE_LIFETIME};
use tokio::time::Instant;

use super::super::check::Check;
use super::super::ledger::Ended;
use super::{Outcome, Request, World};

impl World {
    /// Certainly so long after the end of its session that it was sent after that.
    fn arrived_long_after_the_end(&self, request: &Request) -> bool {
        self.ended(request).is_some_and(|(arrived, ended)| arrived > ended.latest + self.settings.late_window)
    }

    /// Certainly so that it may have been on its way when its session ended.
    fn arrived_late(&self, request: &Request) -> bool {
        self.ended(request).is_some_and(|(arrived, ended)| arrived <= ended.earliest + self.settings.late_window)
    }

    /// When a request arrived, and how the session ended that it presents, if a commit ended it.
    fn ended(&self, request: &Request) -> Option<(Instant, Ended)> {
        let ident = self.ledger.find(&request.presented?)?;
        Some((request.invoked?.at, self.ledger.idents[ident].ended?))
    }

    /// A browser takes the cookie of an answer, where it had that of another one.
    pub fn takes_cookie(&mut self, request: usize, before: Option<usize>) {
        let known = &self.requests[request];
        let (Some(presented), Some(before)) = (known.presented, before) else { return };
        let ends =
            |action: &Action| matches!(action, Action::Renew(..) | Action::Destroy(_)) && *action.id() == presented;
        let newer = self.requests[before].learned.iter().any(ends) && before != request;
        let own = known.learned.iter().any(ends) || known.logs_in.is_some() || known.resets;
        if newer && !own {
            let what = format!("the answer to request {request} replaces the cookie that request {before} brought");
            self.ledger.fail(Check::NoLateAnswerReplacesANewerCookie, what);
        }
    }

    /// What an answer by itself must keep to.
    pub(super) fn check_answer(&mut self, request: usize) {
        let known = &self.requests[request];
        let answer = known.answer.as_ref().expect("it was answered");
        let invoked = known.invoked.expect("it was sent");
        let mut failed: Vec<(Check, String)> = Vec::new();

        let mut met = Vec::new();
        let took = answer.at.at - invoked.at;
        let allowed = self.allowed(known);
        if took > allowed {
            failed.push((Check::NothingOutlivesItsBudget, format!("took {took:?}, not {allowed:?}")));
        }

        match (answer.status, &answer.error) {
            (503, _) if self.settings.is_calm() => {
                failed.push((Check::NoErrorButUnavailable, format!("503 without trouble: {:?}", answer.error)));
            }
            (500.., Some(error)) if error.status() != 503 => {
                failed.push((Check::NoErrorButUnavailable, format!("{error}")));
            }
            (409, Some(error)) if error.is_gone() => {
                if let Some(ident) = known.presented.and_then(|id| self.ledger.find(&id)) {
                    if self.ledger.surely_alive(ident, answer.at.at) {
                        failed.push((Check::ConflictsHaveAReason, format!("session #{ident} is alive")));
                    }
                    // What it started itself meanwhile, others may have ended.
                    if known.learned.is_empty() && self.arrived_long_after_the_end(known) {
                        failed.push((Check::ConflictsHaveAReason, format!("session #{ident} had ended long ago")));
                    }
                }
            }
            _ => {}
        }
        // A commit that failed in between leaves its handler a choice; to say that all is well is none.
        let lied = known.segments.iter().any(|segment| matches!(segment.outcome, Outcome::Unknown | Outcome::Refused));
        if (200..300).contains(&answer.status) && lied {
            failed.push((Check::AnswersAreHonest, "2xx although a flush had failed".to_owned()));
        }

        let applied = known.learned.iter().rev().find_map(|action| match action {
            Action::Create(id, _) | Action::Renew(_, id, _) => Some(Some(*id)),
            Action::Destroy(_) => Some(None),
            Action::Apply(_) => None,
        });
        // A login that follows to where another click of it went gives its cookie, which this request never made.
        let follows = known.logs_in.is_some_and(|account| {
            answer
                .cookie
                .flatten()
                .and_then(|id| self.ledger.find(&id))
                .is_some_and(|ident| self.ledger.idents[ident].principal.as_deref() == Some(account.name()))
        });
        if follows && answer.cookie != applied {
            met.push("a second click of a login that followed the first");
        }
        if let Some(error) = &answer.error {
            met.extend(match error {
                error if error.is_gone() => Some("409 for a session that ended meanwhile"),
                error if error.is_not_a_counter() => Some("409 for a text that was to be counted"),
                error if error.is_too_many_sessions() => Some("409 for one session too many"),
                error if error.is_not_durable() => Some("503 for what no replica confirmed"),
                error if error.is_unavailable() => Some("503 for a store in trouble"),
                _ => None,
            });
        }
        let only_removes = applied.is_none() && answer.cookie == Some(None);
        if answer.cookie != applied && !follows && !only_removes {
            let name = |cookie: Option<Option<SessionId>>| cookie.map(|id| id.map(|id| self.ledger.name(&id)));
            let what = format!("applied {:?}, cookie {:?}", name(applied), name(answer.cookie));
            failed.push((Check::CookiesFollowWhatWasApplied, what));
        }
        let ended = known.presented.and_then(|id| self.ledger.find(&id)).map(|ident| &self.ledger.idents[ident]);
        if only_removes {
            met.push("a removal cookie long after the end");
            if ended.is_none_or(|ident| ident.gone.is_none() || ident.ended.is_some_and(|ended| ended.linked)) {
                let what = "its cookie is removed, and a session is there or a successor is named".to_owned();
                failed.push((Check::CookiesFollowWhatWasApplied, what));
            }
        }
        // What nobody knows of when the answer comes, the next request would bring again.
        let reads_a_tombstone = ended.and_then(|ident| ident.ended).is_some_and(|ended| {
            !ended.linked
                && self.arrived_long_after_the_end(known)
                && answer.at.at < ended.earliest + TOMBSTONE_LIFETIME
                && known.learned.is_empty()
                && known.seen.first().is_some_and(|seen| seen.attributes.is_none())
        });
        if reads_a_tombstone && answer.error.is_none() && answer.status == 200 && !follows && !only_removes {
            let what = "the cookie of a session that ended long ago stays".to_owned();
            failed.push((Check::CookiesFollowWhatWasApplied, what));
        }
        let creates = known.learned.iter().any(|action| matches!(action, Action::Create(..)));
        let deliberate = known.logs_in.is_some() || known.resets;
        if known.resets && !known.learned.is_empty() {
            met.push(if creates { "a reset without a live session" } else { "a reset of a live session" });
        }
        if creates && !deliberate && self.arrived_long_after_the_end(known) {
            met.push("a new session long after the end of the one before");
        }
        if (creates || only_removes) && !deliberate && self.arrived_late(known) {
            let what = "it may have been on its way when its session ended, and changes the cookie".to_owned();
            failed.push((Check::NoLateAnswerReplacesANewerCookie, what));
        }

        met.into_iter().for_each(|situation| self.ledger.meet(situation));
        for (check, what) in failed {
            self.ledger.fail(check, format!("request {request}: {what}"));
        }
    }
}
