//! The lists of principals: which sessions each has, by realm.

use std::collections::HashMap;

use crate::id::SessionId;
use crate::record::Version;

/// Each session with the time at which its principal logged in. A listed session may have expired meanwhile.
#[derive(Clone, Default)]
pub(super) struct Lists(HashMap<String, HashMap<String, HashMap<SessionId, Version>>>);

impl Lists {
    pub(super) fn enter(&mut self, realm: &str, principal: &str, id: SessionId, since: Version) {
        if !self.0.contains_key(realm) {
            self.0.insert(realm.to_owned(), HashMap::new());
        }
        let Some(lists) = self.0.get_mut(realm) else { return };
        match lists.get_mut(principal) {
            Some(list) => drop(list.insert(id, since)),
            None => drop(lists.insert(principal.to_owned(), HashMap::from([(id, since)]))),
        }
    }

    /// Takes a session that is over from the lists of its principal, of which each realm has one, and drops lists with nothing left.
    pub(super) fn leave(&mut self, principal: &str, id: &SessionId) {
        for lists in self.0.values_mut() {
            if let Some(list) = lists.get_mut(principal) {
                list.remove(id);
                if list.is_empty() {
                    lists.remove(principal);
                }
            }
        }
    }

    pub(super) fn of(&self, realm: &str, principal: &str) -> impl Iterator<Item = (Version, SessionId)> {
        let list = self.0.get(realm).and_then(|lists| lists.get(principal));
        list.into_iter().flatten().map(|(id, since)| (*since, *id))
    }

    /// Loses a whole list, as a server that evicts keys does.
    #[cfg(any(test, feature = "test-util"))]
    pub(super) fn lose(&mut self, realm: &str, principal: &str) {
        if let Some(lists) = self.0.get_mut(realm) {
            lists.remove(principal);
        }
    }

    /// How many sessions are listed.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.values().flat_map(HashMap::values).map(HashMap::len).sum()
    }
}
