//! Commits: which IDs they make known, how long those live, and what they end.

use session_layer::store::{AboveLimit, Action, Commit, Renewal, Reply, StoreError};
use tokio::time::Instant;

use super::{Ended, Ident, Ledger, Moment, Owner, Sent};
use crate::simulation::check::Check;

impl Ledger {
    pub fn commit_begins(&mut self, commit: &Commit) -> Moment {
        let moment = self.now();
        let of = self.find(commit.action.id());
        let owner = commit.action.logs_in().map(|principal| Owner::new(&commit.realm, principal));
        if !self.sent.contains_key(&commit.id) {
            let lineage = self.register(&commit.action, &commit.realm, of);
            let sent = Sent {
                first: moment,
                action: commit.action.clone(),
                absolute_timeout: commit.lifetimes.absolute_timeout,
                lineage,
                applied: false,
                unknown: false,
            };
            self.sent.insert(commit.id, sent);
        }
        if let (Action::Renew(..) | Action::Destroy(_), Some(of)) = (&commit.action, of) {
            self.idents[of].ending = true;
        }
        if let (Some(owner), Some((_, AboveLimit::EvictOldest))) = (owner, self.limit) {
            let target = commit.action.target().and_then(|id| self.find(id));
            self.threaten(&owner, target);
        }
        for ident in self.prolonged_by(&commit.action) {
            self.idents[ident].prolonging += 1;
        }
        moment
    }

    pub fn commit_ends(&mut self, commit: &Commit, began: Moment, reply: &Result<Reply, StoreError>) {
        let now = self.now();
        let first = self.sent[&commit.id].first;
        let of = self.find(commit.action.id());
        if let (Some(principal), Some((_, AboveLimit::EvictOldest))) = (commit.action.logs_in(), self.limit) {
            self.spare(&Owner::new(&commit.realm, principal));
        }
        let prolonged = self.prolonged_by(&commit.action);
        for ident in &prolonged {
            self.idents[*ident].prolonging -= 1;
        }
        match reply {
            Ok(Reply::Applied { .. }) => {
                if self.sent[&commit.id].applied {
                    self.meet("another copy of a commit that was applied");
                }
                if first.at > commit.deadline {
                    self.fail(Check::NothingAppliesAfterItsDeadline, format!("a commit, sent first at {first:?}"));
                }
                if !matches!(commit.action, Action::Create(..))
                    && let Some(of) = of
                {
                    self.is_alive(of, first, "took a change");
                }
                self.sent.get_mut(&commit.id).expect("it began").applied = true;
                for ident in prolonged {
                    self.prolong(ident, first.at);
                    self.enter(ident, first);
                }
                if let (Action::Renew(..) | Action::Destroy(_), Some(of)) = (&commit.action, of) {
                    self.is_gone(of, now);
                    self.idents[of].buried.get_or_insert(now.at);
                    let linked = match &commit.action {
                        Action::Renew(_, _, Renewal::Replace { linked, .. }) => *linked,
                        action => matches!(action, Action::Renew(..)),
                    };
                    let ended = Ended { earliest: first.at, latest: now.at, linked };
                    self.idents[of].ended.get_or_insert(ended);
                }
                let sent = self.sent.remove(&commit.id).expect("it began");
                self.born(&sent, of, now);
                self.sent.insert(commit.id, sent);
            }
            Ok(Reply::Absent | Reply::Ended { .. }) => {
                self.meet("a change to a session that was gone");
                if let Some(of) = of {
                    self.is_missing(of, now);
                }
            }
            Ok(_) if began.tick > first.tick => self.meet("another copy of a commit that was refused"),
            Ok(_) => {}
            Err(_) => {
                if began.at > commit.deadline {
                    self.meet("a commit that came after its deadline");
                } else {
                    self.sent.get_mut(&commit.id).expect("it began").unknown = true;
                }
                for ident in prolonged {
                    self.may_prolong(ident);
                }
            }
        }
    }

    /// Sessions that live longer when the action applies.
    fn prolonged_by(&self, action: &Action) -> Vec<usize> {
        action.target().and_then(|id| self.find(id)).into_iter().collect()
    }

    /// Makes the IDs that an action introduces known; tells whose attributes it changes.
    fn register(&mut self, action: &Action, realm: &str, of: Option<usize>) -> Option<usize> {
        let id = match action {
            Action::Apply(_) | Action::Destroy(_) => return of.map(|of| self.idents[of].lineage),
            Action::Create(id, _) | Action::Renew(_, id, _) => *id,
        };
        let (parent, principal) = self.origin(action, of);
        let carries_over = matches!(action, Action::Renew(_, _, Renewal::Keep | Renewal::LogIn { .. }));
        let lineage = match of.filter(|_| carries_over) {
            Some(of) => self.idents[of].lineage,
            None => {
                self.lineages += 1;
                self.lineages - 1
            }
        };
        // A request that has tried to create or renew may try once more under the same ID; what it is then, `born` says.
        if self.find(&id).is_some() {
            return Some(lineage);
        }
        let now = Instant::now();
        let threatened =
            principal.as_ref().is_some_and(|principal| self.threatened.contains(&Owner::new(realm, principal)));
        let absolute = if carries_over { of.and_then(|of| self.idents[of].absolute) } else { None };
        self.by_id.insert(id, self.idents.len());
        self.by_handle.insert(id.handle(), self.idents.len());
        self.idents.push(Ident {
            id,
            realm: realm.to_owned(),
            lineage,
            principal,
            parent,
            born: false,
            gone: None,
            buried: None,
            ended: None,
            revoked: false,
            ending: threatened,
            entered: Vec::new(),
            at_least_until: now,
            at_most_until: now,
            absolute,
            prolonging: 0,
        });
        Some(lineage)
    }

    /// What a new ID is renewed from, and whose it is.
    fn origin(&self, action: &Action, of: Option<usize>) -> (Option<usize>, Option<String>) {
        match action {
            Action::Create(_, start) => (None, start.principal.clone()),
            Action::Renew(_, _, Renewal::Keep) => (of, of.and_then(|of| self.idents[of].principal.clone())),
            Action::Renew(_, _, Renewal::LogIn { principal, .. }) => (of, Some(principal.clone())),
            Action::Renew(_, _, Renewal::Replace { start, .. }) => (of, start.principal.clone()),
            Action::Apply(_) | Action::Destroy(_) => (of, None),
        }
    }

    fn born(&mut self, Sent { action, absolute_timeout, first, lineage, .. }: &Sent, of: Option<usize>, now: Moment) {
        let Some(ident) = action.target().and_then(|id| self.find(id)) else { return };
        if !matches!(action, Action::Apply(_)) && !self.idents[ident].born {
            let (parent, principal) = self.origin(action, of);
            let known = &mut self.idents[ident];
            (known.parent, known.principal) = (parent, principal);
            known.lineage = lineage.unwrap_or(known.lineage);
        }
        let begins = match action {
            Action::Create(..) | Action::Renew(_, _, Renewal::Replace { .. } | Renewal::LogIn { .. }) => true,
            Action::Renew(_, _, Renewal::Keep) | Action::Apply(_) | Action::Destroy(_) => false,
        };
        if begins && !self.idents[ident].born {
            self.idents[ident].absolute = absolute_timeout.map(|timeout| (first.at + timeout, now.at + timeout));
        }
        if matches!(action, Action::Apply(_)) {
            return;
        }
        self.idents[ident].born = true;
        self.prolong(ident, first.at);
        let parent_was_revoked = self.idents[ident].parent.is_some_and(|parent| {
            self.idents[parent].revoked && self.idents[parent].principal == self.idents[ident].principal
        });
        if parent_was_revoked {
            // Its parent cannot have been renewed after that, so it was there and went along.
            self.idents[ident].revoked = true;
            self.idents[ident].ending = true;
            self.is_gone(ident, now);
        }
    }
}
