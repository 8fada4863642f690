//! The sessions of a principal: who is listed, who is ended, how many there may be.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::draft::{
    alive, all, apply, assert_ended, assert_met_end, attributes, create, create_with, draft, handles, list, listed,
    load, log_in, login, pause, revocation, revoke, somebody, start, touch_for, until_absent, until_ttl_is_below,
};
use crate::id::SessionId;
use crate::store::{AboveLimit, Action, Loaded, Record, Renewal, Reply, Revoke, SessionStore, Start};

/// With everything that is in it.
pub async fn a_login_lists_the_session_under_its_principal(store: Arc<impl SessionStore>) {
    let [alice, bob] = [somebody(), somebody()];
    assert_eq!(listed(&store, "nobody").await, []);
    let first = log_in(&store, alice).await;
    pause().await;
    let anonymous = create_with(&store, &[("device", "\"phone\"")]).await;
    let second = anonymous.successor();
    let principal = alice.to_owned();
    draft(Action::Renew(anonymous, second, Renewal::LogIn { principal })).applied(&store).await;
    log_in(&store, bob).await;
    let sessions = list(&store, alice).await;
    assert_eq!(sessions.iter().map(|session| session.handle).collect::<Vec<_>>(), [first.handle(), second.handle()]);
    let Record { attributes, principal, ttl, .. } = &sessions[1].record;
    assert_eq!(*attributes, self::attributes(&[("device", "\"phone\"")]));
    assert_eq!(principal.as_deref(), Some(alice));
    assert!(*ttl <= Duration::from_secs(60) && *ttl > Duration::from_secs(30), "{ttl:?}");
    let since = sessions[1].logged_in_on;
    assert!(sessions[0].logged_in_on < since);
    let age = SystemTime::now().duration_since(since).unwrap_or_default();
    assert!(age < Duration::from_secs(10), "{age:?}");
}

/// And keeps the time of the login.
pub async fn the_list_follows_a_renewal(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let id = log_in(&store, alice).await;
    let since = list(&store, alice).await[0].logged_in_on;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let to = id.successor();
    draft(Action::Renew(id, to, Renewal::Keep)).applied(&store).await;
    let sessions = list(&store, alice).await;
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0].handle, to.handle());
    // A store may learn meanwhile how far its server's clock is from ours.
    assert!(sessions[0].logged_in_on.duration_since(since).unwrap_or_default() < Duration::from_millis(250));
}

/// Destroyed, or replaced by a session of nobody.
pub async fn what_ends_is_no_longer_listed(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let (one, other) = (log_in(&store, alice).await, log_in(&store, alice).await);
    draft(Action::Destroy(one)).applied(&store).await;
    assert_eq!(listed(&store, alice).await, [other.handle()]);
    let renewal = Renewal::Replace { start: start(), linked: false };
    draft(Action::Renew(other, other.successor(), renewal)).applied(&store).await;
    assert_eq!(listed(&store, alice).await, []);
}

/// When somebody else logs in.
pub async fn a_session_of_another_principal_moves_lists(store: Arc<impl SessionStore>) {
    let [alice, bob, carol] = [somebody(), somebody(), somebody()];
    let id = log_in(&store, alice).await;
    let to = id.successor();
    let renewal = Renewal::LogIn { principal: bob.into() };
    draft(Action::Renew(id, to, renewal)).applied(&store).await;
    assert_eq!((listed(&store, alice).await, listed(&store, bob).await), (vec![], vec![to.handle()]));
    let last = to.successor();
    let start = Start { principal: Some(carol.into()), ..start() };
    draft(Action::Renew(to, last, Renewal::Replace { start, linked: true })).applied(&store).await;
    assert_eq!((listed(&store, bob).await, listed(&store, carol).await), (vec![], vec![last.handle()]));
}

/// And does not count towards the limit.
pub async fn what_expires_is_no_longer_listed(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let short = SessionId::random();
    let idle_timeout = Duration::from_secs(1);
    let stays = log_in(&store, alice).await;
    draft(login(short, alice)).lasting(idle_timeout, None).applied(&store).await;
    assert_eq!(listed(&store, alice).await.len(), 2);
    until_absent(&store, &short).await;
    assert_eq!(listed(&store, alice).await, [stays.handle()]);
    let next = SessionId::random();
    draft(login(next, alice)).at_most(2, AboveLimit::Refuse).applied(&store).await;
    assert_eq!(listed(&store, alice).await.len(), 2);
}

/// The list lives as long as the session, whatever prolongs it, and nothing else does.
pub async fn prolonging_keeps_a_session_listed(store: Arc<impl SessionStore>) {
    let prolong = async |touch: bool| {
        let alice = somebody();
        // Longer than a busy machine stands still.
        let idle_timeout = Duration::from_secs(3);
        let id = SessionId::random();
        draft(login(id, alice)).lasting(idle_timeout, None).applied(&store).await;
        let begun = Instant::now();
        while begun.elapsed() < idle_timeout + Duration::from_millis(300) {
            until_ttl_is_below(&store, &id, idle_timeout - Duration::from_millis(300)).await;
            if touch {
                touch_for(&store, &id, idle_timeout, None).await;
            } else {
                apply(id).lasting(idle_timeout, None).set("a", "1").applied(&store).await;
            }
        }
        assert_eq!(listed(&store, alice).await, [id.handle()], "prolonged by touches: {touch}");
    };
    tokio::join!(prolong(true), prolong(false));
}

/// A handle of somebody else's session ends nothing.
pub async fn revoking_one_ends_that_one_of_that_principal(store: Arc<impl SessionStore>) {
    let [alice, bob] = [somebody(), somebody()];
    let (one, other) = (log_in(&store, alice).await, log_in(&store, alice).await);
    let bobs = log_in(&store, bob).await;
    assert_eq!(revoke(&store, alice, Revoke::One(bobs.handle())).await, 0);
    assert_eq!(revoke(&store, alice, Revoke::One(one.handle())).await, 1);
    assert_eq!(revoke(&store, alice, Revoke::One(one.handle())).await, 0);
    assert_ended(&store, &one, None).await;
    assert_eq!((listed(&store, alice).await, listed(&store, bob).await), (vec![other.handle()], vec![bobs.handle()]));
    assert_met_end(&apply(one).set("a", "1").reply(&store).await, None);
}

/// The one that asks, say.
pub async fn revoking_others_keeps_one(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let sessions = [log_in(&store, alice).await, log_in(&store, alice).await, log_in(&store, alice).await];
    assert_eq!(revoke(&store, alice, Revoke::Others(sessions[1].handle())).await, 2);
    assert_eq!(listed(&store, alice).await, [sessions[1].handle()]);
    for id in [sessions[0], sessions[2]] {
        assert_ended(&store, &id, None).await;
    }
}

/// Of that principal.
pub async fn revoking_all_ends_all(store: Arc<impl SessionStore>) {
    let [alice, bob] = [somebody(), somebody()];
    let sessions = [log_in(&store, alice).await, log_in(&store, alice).await];
    let bobs = log_in(&store, bob).await;
    assert_eq!(revoke(&store, alice, Revoke::All).await, 2);
    assert_eq!((listed(&store, alice).await, listed(&store, bob).await), (vec![], vec![bobs.handle()]));
    for id in sessions {
        assert_ended(&store, &id, None).await;
    }
    assert_eq!(revoke(&store, "nobody", Revoke::All).await, 0);
}

/// Sessions that began after it do not fall to its repetition.
pub async fn a_revocation_takes_effect_once(store: Arc<impl SessionStore>) {
    let alice = somebody();
    log_in(&store, alice).await;
    let revocation = revocation(alice, Revoke::All);
    let first = store.revoke(&revocation).await.unwrap();
    assert_eq!(first.ended, 1);
    let later = log_in(&store, alice).await;
    assert_eq!(store.revoke(&revocation).await.unwrap(), first);
    assert_eq!(listed(&store, alice).await, [later.handle()]);
}

/// Whoever asked has been told that it failed.
pub async fn a_revocation_after_its_deadline_is_not_applied(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let id = log_in(&store, alice).await;
    let mut revocation = revocation(alice, Revoke::All);
    revocation.deadline = Instant::now() - Duration::from_millis(5);
    assert!(store.revoke(&revocation).await.unwrap_err().is_unavailable());
    assert_eq!(listed(&store, alice).await, [id.handle()]);
}

/// Those that logged in first.
pub async fn a_login_above_the_limit_evicts_the_oldest(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let id = SessionId::random();
        draft(login(id, alice)).at_most(2, AboveLimit::EvictOldest).applied(&store).await;
        sessions.push(id);
        pause().await;
    }
    assert_eq!(listed(&store, alice).await, handles(&sessions[2..]));
    for id in &sessions[..2] {
        assert_ended(&store, id, None).await;
    }
    // A limit that was lowered meanwhile.
    let last = SessionId::random();
    draft(login(last, alice)).at_most(1, AboveLimit::EvictOldest).applied(&store).await;
    assert_eq!(listed(&store, alice).await, [last.handle()]);
}

/// And changes nothing.
pub async fn a_login_above_the_limit_is_refused(store: Arc<impl SessionStore>) {
    let [alice, bob] = [somebody(), somebody()];
    let first = log_in(&store, alice).await;
    let anonymous = create(&store).await;
    let renewal = Renewal::LogIn { principal: alice.into() };
    let refused = draft(Action::Renew(anonymous, anonymous.successor(), renewal)).at_most(1, AboveLimit::Refuse);
    assert_eq!(refused.reply(&store).await, Reply::TooManySessions);
    assert_eq!(alive(&store, &anonymous).await.principal, None);
    assert_eq!(listed(&store, alice).await, [first.handle()]);
    draft(login(SessionId::random(), bob)).at_most(1, AboveLimit::Refuse).applied(&store).await;
}

/// It takes its own place.
pub async fn a_second_login_in_the_same_session_counts_once(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let id = log_in(&store, alice).await;
    let to = id.successor();
    let renewal = Renewal::LogIn { principal: alice.into() };
    draft(Action::Renew(id, to, renewal)).at_most(1, AboveLimit::Refuse).applied(&store).await;
    assert_eq!(listed(&store, alice).await, [to.handle()]);
}

/// However many come at once.
pub async fn of_concurrent_logins_no_more_than_the_limit_stay(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let logins = (0..20).map(|_| {
        let store = Arc::clone(&store);
        async move {
            let id = SessionId::random();
            draft(login(id, alice)).at_most(3, AboveLimit::EvictOldest).applied(&store).await;
            assert!(listed(&store, alice).await.len() <= 3);
            id
        }
    });
    let sessions = all(logins).await;
    let stayed = listed(&store, alice).await;
    assert_eq!(stayed.len(), 3);
    for id in sessions {
        let is_alive = matches!(load(&store, &id).await, Loaded::Alive(_));
        assert_eq!(is_alive, stayed.contains(&id.handle()));
    }
}

/// Never alive and not listed.
pub async fn a_login_that_races_with_a_revocation_is_listed_or_gone(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let steps = (0..40).map(|i: u32| {
        let store = Arc::clone(&store);
        async move {
            if i % 4 == 3 {
                revoke(&store, alice, Revoke::All).await;
                return None;
            }
            let anonymous = create(&store).await;
            let id = anonymous.successor();
            let renewal = Renewal::LogIn { principal: alice.into() };
            draft(Action::Renew(anonymous, id, renewal)).applied(&store).await;
            Some(id)
        }
    });
    let sessions = all(steps).await;
    let stayed = listed(&store, alice).await;
    for id in sessions.into_iter().flatten() {
        let is_alive = matches!(load(&store, &id).await, Loaded::Alive(_));
        assert_eq!(is_alive, stayed.contains(&id.handle()));
    }
}

/// A store whose setup has a replica, or needs none, confirms; also a repetition.
pub async fn a_durable_commit_says_whether_it_is(store: Arc<impl SessionStore>) {
    let alice = somebody();
    let mut commit = draft(login(SessionId::random(), alice));
    commit.0.durable = true;
    let first = commit.reply(&store).await;
    assert!(matches!(first, Reply::Applied { confirmed: true, .. }), "{first:?}");
    assert_eq!(commit.reply(&store).await, first);
    let mut logout = draft(Action::Destroy(*commit.0.action.id()));
    logout.0.durable = true;
    let reply = logout.reply(&store).await;
    assert!(matches!(reply, Reply::Applied { confirmed: true, .. }), "{reply:?}");
    assert!(store.revoke(&revocation(alice, Revoke::All)).await.unwrap().confirmed);
}
