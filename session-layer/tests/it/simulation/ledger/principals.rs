//! Sessions of principals: what a revocation must end, and what a list must hold.

use session_layer::store::{Listed, Revocation, Revoke, Revoked, StoreError};

use super::{Ledger, Moment, Owner};
use crate::simulation::check::Check;

impl Ledger {
    pub fn revoke_begins(&mut self, revocation: &Revocation) -> Moment {
        let moment = self.now();
        let (owner, which) = (Owner::new(&revocation.realm, &revocation.principal), &revocation.which);
        let kept = match which {
            Revoke::Others(handle) => self.find_handle(handle),
            Revoke::One(_) | Revoke::All => None,
        };
        let doomed = |ledger: &Self, ident: usize| match which {
            Revoke::One(handle) => ledger.find_handle(handle) == Some(ident),
            Revoke::Others(_) | Revoke::All => kept != Some(ident),
        };
        let theirs: Vec<_> =
            (0..self.idents.len()).filter(|ident| self.is_of(*ident, &owner) && doomed(self, *ident)).collect();
        for ident in &theirs {
            self.idents[*ident].ending = true;
        }
        if !matches!(which, Revoke::One(_)) {
            self.threatened.push(owner);
        }
        self.revocations.entry(revocation.id).or_insert_with(|| {
            let certain = !matches!(which, Revoke::One(_));
            let born = |ident: &usize| certain && self.idents[*ident].born && self.idents[*ident].gone.is_none();
            (moment, theirs.into_iter().filter(born).collect())
        });
        moment
    }

    pub fn revoke_ends(&mut self, revocation: &Revocation, revoked: &Result<Revoked, StoreError>) {
        let now = self.now();
        let owner = Owner::new(&revocation.realm, &revocation.principal);
        if !matches!(revocation.which, Revoke::One(_)) {
            self.spare(&owner);
        }
        let Ok(revoked) = revoked else { return };
        if revoked.ended > 0 {
            self.meet("a revocation of live sessions");
        }
        let (first, mut dead) = self.revocations[&revocation.id].clone();
        if first.at > revocation.deadline {
            self.fail(Check::NothingAppliesAfterItsDeadline, format!("a revocation, sent first at {first:?}"));
        }
        // What the list had lost was not found.
        dead.retain(|ident| self.surely_listed(*ident, first.tick, now.tick));
        if let (Revoke::One(handle), 1) = (revocation.which, revoked.ended) {
            dead.extend(self.find_handle(&handle));
        }
        // Those that were renewed meanwhile were renewed before, and went along.
        let mut next = 0;
        while let Some(&ident) = dead.get(next) {
            let children = (0..self.idents.len()).filter(|child| {
                self.idents[*child].parent == Some(ident) && self.idents[*child].born && self.is_of(*child, &owner)
            });
            let children: Vec<_> = children.filter(|child| !dead.contains(child)).collect();
            if !matches!(revocation.which, Revoke::One(_)) {
                dead.extend(children);
            }
            next += 1;
        }
        for ident in dead {
            self.idents[ident].revoked = true;
            self.is_gone(ident, now);
        }
    }

    /// The store loses a list, as a server does that evicts keys.
    pub fn loses(&mut self, owner: Owner) {
        let now = self.now();
        self.note(|| format!("the list of {} in {} is lost", owner.principal, owner.realm));
        let had_some =
            (0..self.idents.len()).any(|ident| self.is_of(ident, &owner) && self.surely_alive(ident, now.at));
        if had_some {
            self.meet("a list with live sessions that was lost");
        }
        self.lost.entry(owner).or_default().push(now.tick);
    }

    /// A commit or touch that began then has entered a session into its list.
    pub(super) fn enter(&mut self, ident: usize, began: Moment) {
        let now = self.now();
        let was_listed = self.surely_listed(ident, now.tick, now.tick);
        self.idents[ident].entered.push((began.tick, now.tick));
        if !was_listed && self.surely_listed(ident, now.tick + 1, now.tick + 1) && self.surely_alive(ident, now.at) {
            self.meet("a session that came back into a list that was lost");
        }
    }

    /// Whether it was in its list from then to then, as far as nothing else ended it.
    pub fn surely_listed(&self, ident: usize, from: u64, to: u64) -> bool {
        let known = &self.idents[ident];
        let Some(principal) = &known.principal else { return false };
        let losses = self.lost.get(&Owner::new(&known.realm, principal));
        let last = losses.and_then(|losses| losses.iter().rev().find(|tick| **tick <= to));
        last.is_none_or(|lost| known.entered.iter().any(|(began, ended)| began > lost && *ended < from))
    }

    pub(super) fn is_of(&self, ident: usize, owner: &Owner) -> bool {
        let known = &self.idents[ident];
        known.principal.as_deref() == Some(&owner.principal) && known.realm == owner.realm
    }

    pub fn list_ends(&mut self, owner: &Owner, began: Moment, listed: &Result<Vec<Listed>, StoreError>) {
        let now = self.now();
        let Ok(listed) = listed else { return };
        let principal = &*owner.principal;
        if let Some((most, _)) = self.limit
            && listed.len() > most
            // A login counts those that are listed.
            && !self.lost.contains_key(owner)
        {
            self.fail(Check::TheLimitIsKept, format!("{principal} has {} sessions, not {most}", listed.len()));
        }
        for session in listed {
            let Some(ident) = self.find_handle(&session.handle) else {
                self.fail(Check::TheIndexIsExact, format!("{principal} has a session that nobody made"));
                continue;
            };
            if self.idents[ident].realm != owner.realm {
                let what = format!("session #{ident} of {} is listed in {}", self.idents[ident].realm, owner.realm);
                self.fail(Check::EachRealmHasItsOwnLists, what);
            } else if !self.is_of(ident, owner) {
                self.fail(Check::NobodySeesWhatIsNotTheirs, format!("session #{ident} is not that of {principal}"));
            }
            if self.idents[ident].gone.is_some_and(|gone| gone < began.tick) {
                self.fail(
                    Check::TheIndexIsExact,
                    format!("the list of {principal} has session #{ident}, which is dead"),
                );
            }
        }
        for ident in 0..self.idents.len() {
            let theirs = self.is_of(ident, owner);
            let is_listed = || listed.iter().any(|listed| listed.handle == self.idents[ident].id.handle());
            // Born before: what was born during the call may have come after it.
            let old = self.sent.values().any(|sent| {
                sent.applied && sent.first.tick < began.tick && sent.action.target() == Some(&self.idents[ident].id)
            });
            let is_lost = || !self.surely_listed(ident, began.tick, now.tick);
            if theirs && old && self.surely_alive(ident, now.at) && !is_listed() && !is_lost() {
                self.fail(Check::TheIndexIsExact, format!("the list of {principal} misses session #{ident}"));
            }
        }
    }

    pub(super) fn threaten(&mut self, owner: &Owner, but: Option<usize>) {
        for ident in 0..self.idents.len() {
            if self.is_of(ident, owner) && but != Some(ident) {
                self.idents[ident].ending = true;
            }
        }
        self.threatened.push(owner.clone());
    }

    pub(super) fn spare(&mut self, owner: &Owner) {
        let at = self.threatened.iter().position(|other| other == owner);
        self.threatened.swap_remove(at.expect("it was threatened when the call began"));
    }
}
