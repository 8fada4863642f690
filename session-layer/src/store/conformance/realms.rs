//! Lists of principals in realms: which sessions are in which, whatever the list was before.

use std::sync::Arc;

use super::draft::{
    Draft, REALM, alive, apply, assert_ended, draft, list_in, listed, listed_in, log_in, login, revocation, somebody,
    touch_in,
};
use crate::id::SessionId;
use crate::store::{AboveLimit, Action, Renewal, Revoke, SessionStore};

fn in_realm(mut draft: Draft, realm: &str) -> Draft {
    draft.0.realm = realm.into();
    draft
}

async fn log_in_to(store: &Arc<impl SessionStore>, realm: &str, principal: &str) -> SessionId {
    let id = SessionId::random();
    in_realm(draft(login(id, principal)), realm).applied(store).await;
    id
}

/// Where the principals of two layers have the same name, each layer sees, counts and ends its own sessions alone.
pub async fn each_realm_has_its_own_lists(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let [shop, admin] = [log_in_to(&store, "shop", alice).await, log_in_to(&store, "admin", alice).await];
    assert_eq!(listed_in(&store, "shop", alice).await, [shop.handle()]);
    assert_eq!(listed_in(&store, "admin", alice).await, [admin.handle()]);
    assert_eq!(listed_in(&store, "elsewhere", alice).await, []);

    // A limit counts no other realm's sessions, and evicts none.
    let next = SessionId::random();
    in_realm(draft(login(next, alice)), "shop").at_most(2, AboveLimit::Refuse).applied(&store).await;
    let last = SessionId::random();
    in_realm(draft(login(last, alice)), "shop").at_most(1, AboveLimit::EvictOldest).applied(&store).await;
    assert_eq!(listed_in(&store, "shop", alice).await, [last.handle()]);
    alive(&store, &admin).await;

    // Neither does a revocation, not even of one session by its handle.
    for (which, ended) in [(Revoke::One(admin.handle()), 0), (Revoke::Others(admin.handle()), 1), (Revoke::All, 0)] {
        let mut revocation = revocation(alice, which);
        revocation.realm = "shop".into();
        assert_eq!(store.revoke(&revocation).await.unwrap().ended, ended, "{which:?}");
    }
    assert_ended(&store, &last, None).await;
    alive(&store, &admin).await;
    assert_eq!(listed_in(&store, "admin", alice).await, [admin.handle()]);
}

/// Where one ends and the other begins.
pub async fn a_realm_does_not_run_into_its_principal(store: Arc<impl SessionStore>) {
    let tail = somebody();
    for ([realm, principal], [other_realm, other_principal]) in
        [(["a", "b:c"], ["a:b", "c"]), (["", "1:a:b"], ["a", "b"]), (["1:a", "b"], ["1", "a:b"])]
    {
        let [principal, other_principal] = [principal, other_principal].map(|name| format!("{name}{tail}"));
        let id = log_in_to(&store, realm, &principal).await;
        assert_eq!(listed_in(&store, realm, &principal).await, [id.handle()]);
        assert_eq!(listed_in(&store, other_realm, &other_principal).await, [], "{realm:?}, {principal:?}");
    }
}

/// A session whose list does not have it, here since its layer's realm was changed, is in the list after its next commit, with
/// the time of its login.
pub async fn a_commit_lists_a_session_that_was_not_listed(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let id = log_in(&store, alice).await;
    let since = list_in(&store, REALM, alice).await[0].logged_in_on;
    super::draft::pause().await;
    in_realm(apply(id).set("a", "1"), "changed").applied(&store).await;
    assert_listed_since(&store, "changed", alice, &id, since).await;
    let to = id.successor();
    in_realm(draft(Action::Renew(id, to, Renewal::Keep)), "changed again").applied(&store).await;
    assert_listed_since(&store, "changed again", alice, &to, since).await;
    // The old ID is in lists that were not told.
    assert_eq!(listed(&store, alice).await, []);
    assert_eq!(listed_in(&store, "changed", alice).await, []);
}

/// As a commit does, for sessions that are only read.
pub async fn a_touch_lists_a_session_that_was_not_listed(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let id = log_in(&store, alice).await;
    let since = list_in(&store, REALM, alice).await[0].logged_in_on;
    super::draft::pause().await;
    touch_in(&store, "changed", &id).await;
    assert_listed_since(&store, "changed", alice, &id, since).await;
    // A session that has ended enters no list.
    draft(Action::Destroy(id)).applied(&store).await;
    touch_in(&store, "changed", &id).await;
    assert_eq!(listed_in(&store, "changed", alice).await, []);
}

async fn assert_listed_since(
    store: &Arc<impl SessionStore>,
    realm: &str,
    principal: &str,
    id: &SessionId,
    since: std::time::SystemTime,
) {
    let listed = list_in(store, realm, principal).await;
    assert_eq!(listed.iter().map(|session| session.handle).collect::<Vec<_>>(), [id.handle()], "{realm}");
    let moved = listed[0].logged_in_on.duration_since(since).unwrap_or_else(|error| error.duration());
    // A store may learn meanwhile how far its server's clock is from ours.
    assert!(moved < std::time::Duration::from_millis(15), "{realm}: {moved:?} later");
}
