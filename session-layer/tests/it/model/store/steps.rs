//! What may be done to a store, and how such steps are drawn.

use proptest::prelude::*;
use proptest::sample::Index;
use session_layer::store::{AboveLimit, SessionLimit};

use super::model::{NAMES, PRINCIPALS};

/// What is done next. An index stands for one of what there is by then.
#[derive(Debug, Clone)]
pub enum Step {
    Create(Begin, Vec<Edit>, Option<SessionLimit>),
    Apply(Index, Vec<Edit>, Guard),
    Cycle(Index, Vec<Edit>),
    LogIn(Index, usize, Vec<Edit>, Option<SessionLimit>),
    Replace(Index, Begin, bool, Vec<Edit>),
    Destroy(Index),
    /// A commit from before once more.
    Again(Index),
    /// A commit that nobody waits for any more.
    TooLate(Index),
    Load(Index),
    Touch(Index),
    List(usize),
    RevokeAll(usize),
    RevokeOthers(usize, Index),
    RevokeOne(usize, Index),
    /// So many seconds pass.
    Pass(u64),
}

#[derive(Debug, Clone)]
pub struct Begin {
    pub(super) principal: Option<usize>,
}

#[derive(Debug, Clone)]
pub enum Edit {
    Set(usize, u8),
    Remove(usize),
    Add(usize, i8),
    Clear,
}

/// Under which condition a change is made.
#[derive(Debug, Clone)]
pub enum Guard {
    None,
    /// The attribute is what the model says.
    Holds(usize),
    /// It is something else.
    Fails(usize),
    /// The request has seen a newer version.
    Newer,
}

pub fn steps(time_passes: bool) -> impl Strategy<Value = Vec<Step>> {
    let id = any::<Index>;
    let principal = || 0..PRINCIPALS.len();
    let name = || 0..NAMES.len();
    let begin = || proptest::option::of(principal()).prop_map(|principal| Begin { principal });
    let edits = || {
        let edit = prop_oneof![
            4 => (name(), any::<u8>()).prop_map(|(name, value)| Edit::Set(name, value)),
            2 => name().prop_map(Edit::Remove),
            3 => (name(), any::<i8>()).prop_map(|(name, by)| Edit::Add(name, by)),
            1 => Just(Edit::Clear),
        ];
        proptest::collection::vec(edit, 0..3)
    };
    let limit = || {
        let above = prop_oneof![Just(AboveLimit::EvictOldest), Just(AboveLimit::Refuse)];
        proptest::option::of((1..3_usize, above).prop_map(|(most, above)| SessionLimit { most, above }))
    };
    let guard = prop_oneof![
        4 => Just(Guard::None),
        2 => name().prop_map(Guard::Holds),
        1 => name().prop_map(Guard::Fails),
        1 => Just(Guard::Newer),
    ];
    let seconds = prop_oneof![4 => 1..50_u64, 1 => 50..400_u64];
    let step = prop_oneof![
        4 => (begin(), edits(), limit()).prop_map(|(begin, edits, limit)| Step::Create(begin, edits, limit)),
        6 => (id(), edits(), guard).prop_map(|(id, edits, guard)| Step::Apply(id, edits, guard)),
        2 => (id(), edits()).prop_map(|(id, edits)| Step::Cycle(id, edits)),
        3 => (id(), principal(), edits(), limit())
            .prop_map(|(id, principal, edits, limit)| Step::LogIn(id, principal, edits, limit)),
        1 => (id(), begin(), any::<bool>(), edits())
            .prop_map(|(id, begin, linked, edits)| Step::Replace(id, begin, linked, edits)),
        2 => id().prop_map(Step::Destroy),
        2 => id().prop_map(Step::Again),
        1 => id().prop_map(Step::TooLate),
        3 => id().prop_map(Step::Load),
        2 => id().prop_map(Step::Touch),
        2 => principal().prop_map(Step::List),
        1 => principal().prop_map(Step::RevokeAll),
        1 => (principal(), id()).prop_map(|(principal, id)| Step::RevokeOthers(principal, id)),
        1 => (principal(), id()).prop_map(|(principal, id)| Step::RevokeOne(principal, id)),
        3 => seconds.prop_map(Step::Pass),
    ];
    let possible = move |step: &Step| time_passes || !matches!(step, Step::Pass(_));
    proptest::collection::vec(step.prop_filter("time does not pass here", possible), 1..40)
}
