//! What a commit does to the attributes of a session.

use std::collections::BTreeMap;

use crate::commit::{Commit, Reply};
use crate::delta::{Change, Limits, counter_text, parse_counter};
use crate::error::Limit;
use crate::record::Attributes;

/// Changes attributes as the commit says, or tells why not; then they are as good as dropped.
pub(super) fn change(attributes: &mut Attributes, commit: &Commit) -> Result<BTreeMap<String, i64>, Reply> {
    for (name, expected) in &commit.conditions {
        let current = attributes.get(name);
        if current != expected.as_ref() {
            return Err(Reply::Conflict { name: name.clone(), current: current.cloned() });
        }
    }
    let before = size(attributes);
    if commit.clear {
        attributes.clear();
    }
    let mut counters = BTreeMap::new();
    for (name, change) in &commit.changes {
        match change {
            Change::Set(value) => {
                attributes.insert(name.clone(), value.clone());
            }
            Change::Remove => {
                attributes.remove(name);
            }
            Change::Add(by) => {
                let old = attributes.get(name).map_or(Some(0), |value| parse_counter(value));
                let (Some(old), Some(by)) = (old, parse_counter(&counter_text(*by))) else {
                    return Err(Reply::NotACounter(name.clone()));
                };
                let new = old + by;
                attributes.insert(name.clone(), counter_text(new));
                counters.insert(name.clone(), new);
            }
        }
    }
    broken_limit(before, size(attributes), &commit.limits).map_or(Ok(counters), |limit| Err(Reply::Limit(limit)))
}

/// How many attributes, and how many bytes of names and values.
fn size(attributes: &Attributes) -> (usize, usize) {
    (attributes.len(), attributes.iter().map(|(name, value)| name.len() + value.len()).sum())
}

/// What was within the limits of an earlier setting may stay, and shrink.
fn broken_limit(before: (usize, usize), after: (usize, usize), limits: &Limits) -> Option<Limit> {
    if after.0 > limits.attributes.max(before.0) {
        Some(Limit::Attributes)
    } else if after.1 > limits.record_bytes.max(before.1) {
        Some(Limit::Record)
    } else {
        None
    }
}
