//! What every store does, as checks that run on any of them.
//!
//! Each check is a function that takes a store and panics when the store does not keep the promise that its name states.
//! [`conformance!`](crate::conformance) makes a test of each.
//!
//! Time is the store's own, so that the checks wait for a state and not for a moment, with timeouts of some hundred milliseconds.

mod attributes; // what a commit does to them
pub use attributes::*;

mod once; // versions, repetitions, deadlines
pub use once::*;

mod identity; // new IDs, and IDs that have ended
pub use identity::*;

mod timeouts; // what prolongs a session
pub use timeouts::*;

mod concurrent; // commits at the same time
pub use concurrent::*;

mod principals; // whose sessions there are
pub use principals::*;

mod realms; // in which list each is
pub use realms::*;

mod hands; // checks that need a hand; no part of the macro
pub use hands::*;

mod draft; // what makes a check short

/// One `#[tokio::test]` per check. The expression makes the store, and may use `await`.
///
/// ```
/// use session_layer::store::MemoryStore;
///
/// session_layer::conformance!(MemoryStore::new());
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! conformance {
    ($store:expr) => {
        $crate::conformance! { @tests $store;
            a_created_session_loads_as_it_was_made
            an_unknown_id_is_absent
            a_commit_sets_removes_and_adds
            adding_to_what_is_absent_starts_from_zero
            names_and_values_are_kept_to_the_byte
            what_is_no_counter_stops_the_whole_commit
            counters_are_exact_up_to_18_digits
            a_condition_compares_bytes
            a_condition_that_does_not_hold_stops_the_whole_commit
            conditions_see_what_was_there_before_the_commit
            clear_leaves_only_what_the_commit_sets
            the_number_of_attributes_is_limited
            the_size_of_the_record_is_limited
            what_is_above_a_lowered_limit_may_stay_and_shrink
            the_size_of_the_record_stays_right
            versions_rise_with_each_commit
            a_session_older_than_seen_is_not_changed
            a_history_names_the_last_eight_versions
            a_commit_takes_effect_once
            a_repeated_commit_gets_its_first_reply
            a_commit_that_was_refused_stays_refused
            a_commit_after_its_deadline_is_not_applied
            an_applied_commit_is_known_after_its_deadline
            a_commit_that_was_forgotten_is_not_applied_again
            renewing_moves_everything_to_the_new_id
            renewing_changes_attributes_in_the_same_step
            logging_in_names_the_principal_and_restarts_the_absolute_timeout
            logging_in_may_end_the_absolute_timeout
            replacing_starts_from_nothing
            replacing_may_leave_no_trace_of_the_successor
            a_tombstone_takes_no_change
            a_tombstone_tells_how_long_ago_its_session_ended
            destroying_ends_a_session
            a_taken_id_is_not_created_over
            a_taken_id_is_not_renewed_to
            reading_does_not_prolong
            an_idle_session_ends
            a_commit_prolongs
            a_touch_prolongs
            a_touch_revives_nothing
            a_touch_leaves_tombstones_alone
            the_absolute_timeout_ends_a_session_in_use
            a_changed_idle_timeout_counts_from_the_next_commit
            a_changed_idle_timeout_counts_from_the_next_touch
            a_changed_absolute_timeout_counts_from_the_start_of_the_session
            a_changed_absolute_timeout_counts_from_the_login
            a_lowered_absolute_timeout_may_end_a_session_at_once
            concurrent_adds_are_all_counted
            concurrent_changes_of_different_attributes_are_all_kept
            of_concurrent_compare_and_sets_one_wins
            of_concurrent_creations_one_wins
            of_concurrent_renewals_one_wins
            nothing_changes_a_session_after_its_end
            a_login_lists_the_session_under_its_principal
            the_list_follows_a_renewal
            what_ends_is_no_longer_listed
            a_session_of_another_principal_moves_lists
            what_expires_is_no_longer_listed
            prolonging_keeps_a_session_listed
            revoking_one_ends_that_one_of_that_principal
            revoking_others_keeps_one
            revoking_all_ends_all
            a_revocation_takes_effect_once
            a_revocation_after_its_deadline_is_not_applied
            a_login_above_the_limit_evicts_the_oldest
            a_login_above_the_limit_is_refused
            a_second_login_in_the_same_session_counts_once
            of_concurrent_logins_no_more_than_the_limit_stay
            a_login_that_races_with_a_revocation_is_listed_or_gone
            a_durable_commit_says_whether_it_is
            each_realm_has_its_own_lists
            a_realm_does_not_run_into_its_principal
            a_commit_lists_a_session_that_was_not_listed
            a_touch_lists_a_session_that_was_not_listed
        }
    };
    (@tests $store:expr; $($check:ident)*) => {
        $(
            #[tokio::test]
            async fn $check() {
                let store = ::std::sync::Arc::new($store);
                $crate::store::conformance::$check(store).await;
            }
        )*
    };
}

#[cfg(test)]
mod tests {
    /// The list in the macro cannot forget one.
    #[test]
    fn every_check_is_in_the_suite() {
        let (_, suite) = include_str!("mod.rs").split_once("@tests $store;").expect("the list");
        let listed: Vec<&str> =
            suite.lines().map(str::trim).take_while(|line| *line != "}").filter(|line| !line.is_empty()).collect();
        let files = [
            include_str!("attributes.rs"),
            include_str!("once.rs"),
            include_str!("identity.rs"),
            include_str!("timeouts.rs"),
            include_str!("concurrent.rs"),
            include_str!("principals.rs"),
            include_str!("realms.rs"),
        ];
        let checks: Vec<&str> = files
            .iter()
            .flat_map(|file| file.lines())
            .filter_map(|line| line.strip_prefix("pub async fn "))
            .filter_map(|line| line.split_once('(').map(|(name, _)| name))
            .collect();
        assert!(checks.len() > 40);
        for check in checks {
            assert!(listed.contains(&check), "{check} is not in the suite");
        }
    }
}
