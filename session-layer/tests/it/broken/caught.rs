//! The suite that every store passes catches each mistake, by the check that is named after it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use session_layer::store::conformance as suite;

use super::{BrokenStore, Defect, Fault};

/// Whether a check on this store panics.
async fn fails(check: impl Future<Output = ()> + Send + 'static) -> bool {
    // As a task, since that is where the runtime catches panics.
    tokio::spawn(AssertUnwindSafe(check)).await.is_err()
}

/// The same for a check whose hand is no `Send`.
async fn fails_here(check: impl Future<Output = ()> + 'static) -> bool {
    tokio::task::LocalSet::new().run_until(async { tokio::task::spawn_local(check).await.is_err() }).await
}

fn store(defect: Option<Defect>) -> Arc<BrokenStore> {
    Arc::new(BrokenStore::new(defect))
}

/// The next call meets this; those after it go well.
fn once(store: &BrokenStore, fault: Fault) {
    let mut fault = Some(fault);
    store.faults(move || fault.take().unwrap_or_default());
}

macro_rules! caught {
    ($($defect:ident by $check:ident;)*) => {$(
        #[tokio::test(start_paused = true)]
        async fn $check() {
            assert!(fails(suite::$check(store(Some(Defect::$defect)))).await, "not caught");
            suite::$check(store(None)).await;
        }
    )*};
}

mod by_a_check_of_the_macro {
    use super::*;

    caught! {
        WritesBackTheWholeRecord by concurrent_changes_of_different_attributes_are_all_kept;
        UpsertsOnSave by an_unknown_id_is_absent;
        ForgetsARemoval by a_commit_sets_removes_and_adds;
        AppliesBeforeAllChecksPassed by what_is_no_counter_stops_the_whole_commit;
        IgnoresConditions by a_condition_that_does_not_hold_stops_the_whole_commit;
        IgnoresTheCommitId by a_commit_takes_effect_once;
        ReadModifyWritesACounter by concurrent_adds_are_all_counted;
        KeepsTheOldIdAlive by renewing_moves_everything_to_the_new_id;
        TouchRevivesATombstone by a_touch_leaves_tombstones_alone;
        NeverProlongs by a_commit_prolongs;
        WritesIntoADestroyedSession by a_tombstone_takes_no_change;
        MissesASessionInTheIndex by the_list_follows_a_renewal;
        KeepsADeadSessionInTheIndex by what_ends_is_no_longer_listed;
        ExceedsTheLimit by of_concurrent_logins_no_more_than_the_limit_stay;
        AppliesAfterTheDeadline by a_commit_after_its_deadline_is_not_applied;
        ForgetsThatItRefused by a_commit_that_was_refused_stays_refused;
        SharesListsBetweenRealms by each_realm_has_its_own_lists;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_read_is_never_absent() {
    let check = |defect| {
        let store = store(defect);
        let hand = Arc::clone(&store);
        suite::a_failed_read_is_never_absent(store, move || once(&hand, Fault::CallLost))
    };
    assert!(fails(check(Some(Defect::AnswersAbsentForAFailedRead))).await, "not caught");
    check(None).await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_answer_is_never_success() {
    let check = |defect| {
        let store = store(defect);
        let hand = Arc::clone(&store);
        suite::a_dropped_answer_is_never_success(store, move || once(&hand, Fault::AnswerLost))
    };
    assert!(fails(check(Some(Defect::ReportsSuccessForADroppedAnswer))).await, "not caught");
    check(None).await;
}

#[tokio::test(start_paused = true)]
async fn a_touch_does_not_prolong_a_tombstone() {
    let check = |defect| suite::a_touch_does_not_prolong_a_tombstone(store(defect), tokio::time::sleep);
    assert!(fails_here(check(Some(Defect::TouchProlongsATombstone))).await, "not caught");
    check(None).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_list_is_whole_again_after_a_commit_or_touch() {
    let check = |defect| {
        let store = store(defect);
        let hand = Arc::clone(&store);
        let lose = async move |realm: &str, principal: &str| hand.lose_list(realm, principal);
        suite::a_lost_list_is_whole_again_after_a_commit_or_touch(store, lose)
    };
    assert!(fails_here(check(Some(Defect::NeverRepairsAList))).await, "not caught");
    check(None).await;
}

/// Suites that every store passes, a good one included, are the point of it.
mod a_store_without_mistakes {
    use super::*;

    session_layer::conformance!(BrokenStore::new(None));
}

#[test]
fn every_mistake_has_its_check() {
    let source = include_str!("caught.rs");
    for defect in Defect::ALL {
        let by_macro = format!("{defect:?} by ");
        let by_hand = format!("Some(Defect::{defect:?})");
        assert!(source.contains(&by_macro) || source.contains(&by_hand), "{defect:?}");
    }
}
