//! Sessions of principals: what a revocation must end, and what a list must hold.

use session_layer::store::{Listed, Revocation, Revoke, Revoked, StoreError};

use super::{Ledger, Moment};
use crate::simulation::check::Check;

impl Ledger {
    pub fn revoke_begins(&mut self, revocation: &Revocation) -> Moment {
        let moment = self.now();
        let Revocation { principal, which, .. } = revocation;
        let kept = match which {
            Revoke::Others(handle) => self.find_handle(handle),
            Revoke::One(_) | Revoke::All => None,
        };
        let doomed = |ledger: &Self, ident: usize| match which {
            Revoke::One(handle) => ledger.find_handle(handle) == Some(ident),
            Revoke::Others(_) | Revoke::All => kept != Some(ident),
        };
        let theirs: Vec<_> = (0..self.idents.len())
            .filter(|ident| self.idents[*ident].principal.as_ref() == Some(principal) && doomed(self, *ident))
            .collect();
        for ident in &theirs {
            self.idents[*ident].ending = true;
        }
        if !matches!(which, Revoke::One(_)) {
            self.threatened.push(principal.clone());
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
        if !matches!(revocation.which, Revoke::One(_)) {
            self.spare(&revocation.principal);
        }
        let Ok(revoked) = revoked else { return };
        if revoked.ended > 0 {
            self.meet("a revocation of live sessions");
        }
        let (first, mut dead) = self.revocations[&revocation.id].clone();
        if first.at > revocation.deadline {
            self.fail(Check::NothingAppliesAfterItsDeadline, format!("a revocation, sent first at {first:?}"));
        }
        if let (Revoke::One(handle), 1) = (revocation.which, revoked.ended) {
            dead.extend(self.find_handle(&handle));
        }
        // Those that were renewed meanwhile were renewed before, and went along.
        let mut next = 0;
        while let Some(&ident) = dead.get(next) {
            let children = (0..self.idents.len()).filter(|child| {
                let child = &self.idents[*child];
                child.parent == Some(ident) && child.born && child.principal.as_ref() == Some(&revocation.principal)
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

    pub fn list_ends(&mut self, principal: &str, began: Moment, listed: &Result<Vec<Listed>, StoreError>) {
        let now = self.now();
        let Ok(listed) = listed else { return };
        if let Some((most, _)) = self.limit
            && listed.len() > most
        {
            self.fail(Check::TheLimitIsKept, format!("{principal} has {} sessions, not {most}", listed.len()));
        }
        for session in listed {
            let Some(ident) = self.find_handle(&session.handle) else {
                self.fail(Check::TheIndexIsExact, format!("{principal} has a session that nobody made"));
                continue;
            };
            if self.idents[ident].principal.as_deref() != Some(principal) {
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
            let theirs = self.idents[ident].principal.as_deref() == Some(principal);
            let is_listed = || listed.iter().any(|listed| listed.handle == self.idents[ident].id.handle());
            // Born before: what was born during the call may have come after it.
            let old = self.sent.values().any(|sent| {
                sent.applied && sent.first.tick < began.tick && sent.action.target() == Some(&self.idents[ident].id)
            });
            if theirs && old && self.surely_alive(ident, now.at) && !is_listed() {
                self.fail(Check::TheIndexIsExact, format!("the list of {principal} misses session #{ident}"));
            }
        }
    }

    pub(super) fn threaten(&mut self, principal: &str, but: Option<usize>) {
        for (at, ident) in self.idents.iter_mut().enumerate() {
            if ident.principal.as_deref() == Some(principal) && but != Some(at) {
                ident.ending = true;
            }
        }
        self.threatened.push(principal.to_owned());
    }

    pub(super) fn spare(&mut self, principal: &str) {
        let at = self.threatened.iter().position(|other| other == principal);
        self.threatened.swap_remove(at.expect("it was threatened when the call began"));
    }
}
