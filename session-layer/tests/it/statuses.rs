//! Which answers are committed, by their status, and that cookies follow what was applied.

use crate::fixture::setup;

/// Each status, whether changes are committed under it, and whether a handler that lost a flush may send it.
const TABLE: [(u16, bool, bool); 22] = [
    (100, true, false),
    (101, true, false),
    (103, true, false),
    (200, true, false),
    (204, true, false),
    (205, true, false),
    (206, true, false),
    (299, true, false),
    (301, true, false),
    (303, true, false),
    (304, true, false),
    (308, true, false),
    (400, true, true),
    (404, true, true),
    (408, false, true),
    (409, true, true),
    (499, true, true),
    (500, false, true),
    (503, false, true),
    (599, false, true),
    // Invalid, and to be treated like 5xx (RFC 9110, section 15).
    (600, false, true),
    (999, false, true),
];

#[tokio::test]
async fn a_status_says_whether_changes_are_committed() {
    for (status, committed, _) in TABLE {
        let (store, browser) = setup();
        let answer = browser.run(&format!("insert a 1; status {status}")).await.expect(status);
        assert_eq!(store.memory.len(), usize::from(committed), "{status}");
        if committed {
            answer.with_cookie()
        } else {
            answer.without_cookie()
        };
    }
}

#[tokio::test]
async fn a_cookie_of_what_was_flushed_goes_out_under_any_status() {
    for (status, ..) in TABLE {
        let (store, browser) = setup();
        let answer = browser.run(&format!("insert a 1; flush; insert b 1; status {status}")).await.expect(status);
        assert_eq!(answer.with_cookie().headers["cache-control"], "no-store");
        assert_eq!(store.memory.len(), 1);
    }
}

#[tokio::test]
async fn a_status_that_claims_success_is_replaced_after_a_lost_flush() {
    use crate::fixture::{Call::Create, Fault};
    for (status, _, admits) in TABLE {
        let (store, browser) = setup();
        store.next(Create, Fault::Refuse);
        let answer = browser.run(&format!("insert a 1; try flush; status {status}")).await;
        assert_eq!(answer.status.as_u16(), if admits { status } else { 503 }, "{status}");
    }
}
