//! New IDs, and what an ID is good for that has ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::draft::{
    alive, apply, assert_ended, assert_lasts, assert_met_end, attributes, create, create_with, draft, load, log_in,
    login, pause, revoke, somebody, start,
};
use crate::id::SessionId;
use crate::store::{AboveLimit, Action, Loaded, Renewal, Reply, Revoke, SessionStore, Start, Version};

/// And leaves a tombstone that names it.
pub async fn renewing_moves_everything_to_the_new_id(store: Arc<impl SessionStore>) {
    let id = SessionId::random();
    let (idle, absolute) = (Duration::from_secs(60), Some(Duration::from_secs(600)));
    let start = Start { principal: Some("alice".into()), ..start() };
    draft(Action::Create(id, start)).lasting(idle, absolute).set("a", "1").set("n", "2").applied(&store).await;
    let before = alive(&store, &id).await;
    let to = id.successor();
    let (version, _) = draft(Action::Renew(id, to, Renewal::Keep)).lasting(idle, absolute).applied(&store).await;
    let after = alive(&store, &to).await;
    assert_eq!(after.attributes, before.attributes);
    assert_eq!((after.created_on, after.idle_timeout), (before.created_on, before.idle_timeout));
    assert_eq!((&after.principal, after.version), (&before.principal, version));
    assert_lasts(&after, Duration::from_secs(600));
    assert!(after.ttl > Duration::from_secs(30), "{:?}", after.ttl);
    assert_ended(&store, &id, Some(to)).await;
}

/// One step: nobody sees the one without the other.
pub async fn renewing_changes_attributes_in_the_same_step(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("a", "1"), ("gone", "1"), ("n", "1")]).await;
    let to = id.successor();
    let renew =
        draft(Action::Renew(id, to, Renewal::Keep)).set("a", "2").remove("gone").add("n", 1).when("a", Some("1"));
    let (_, counters) = renew.applied(&store).await;
    assert_eq!(counters, BTreeMap::from([("n".into(), 2)]));
    assert_eq!(alive(&store, &to).await.attributes, attributes(&[("a", "2"), ("n", "2")]));
    let last = to.successor();
    draft(Action::Renew(to, last, Renewal::Keep)).clear().set("b", "1").applied(&store).await;
    assert_eq!(alive(&store, &last).await.attributes, attributes(&[("b", "1")]));
}

/// What was in the session before the login stays.
pub async fn logging_in_names_the_principal_and_restarts_the_absolute_timeout(store: Arc<impl SessionStore>) {
    let id = SessionId::random();
    let (idle, absolute) = (Duration::from_secs(60), Some(Duration::from_secs(600)));
    draft(Action::Create(id, start())).lasting(idle, absolute).set("cart", "[1]").applied(&store).await;
    let before = alive(&store, &id).await;
    let to = id.successor();
    draft(Action::Renew(id, to, Renewal::LogIn { principal: "bob".into() }))
        .lasting(idle, Some(Duration::from_secs(1200)))
        .set("a", "1")
        .applied(&store)
        .await;
    let after = alive(&store, &to).await;
    assert_eq!(after.attributes, attributes(&[("cart", "[1]"), ("a", "1")]));
    assert_eq!((after.created_on, after.principal.as_deref()), (before.created_on, Some("bob")));
    assert_lasts(&after, Duration::from_secs(1200));
    assert_ended(&store, &id, Some(to)).await;
    // The next login is another principal's.
    let last = to.successor();
    draft(Action::Renew(to, last, Renewal::LogIn { principal: "carol".into() })).applied(&store).await;
    assert_eq!(alive(&store, &last).await.principal.as_deref(), Some("carol"));
}

/// When the setting is gone by then.
pub async fn logging_in_may_end_the_absolute_timeout(store: Arc<impl SessionStore>) {
    let id = SessionId::random();
    let (idle, absolute) = (Duration::from_secs(60), Some(Duration::from_secs(20)));
    draft(Action::Create(id, start())).lasting(idle, absolute).applied(&store).await;
    let to = id.successor();
    let renewal = Renewal::LogIn { principal: "bob".into() };
    draft(Action::Renew(id, to, renewal)).applied(&store).await;
    let record = alive(&store, &to).await;
    assert_eq!(record.expires_on, None);
    assert!(record.ttl > Duration::from_secs(30), "{:?}", record.ttl);
}

/// Nothing of the old session goes over.
pub async fn replacing_starts_from_nothing(store: Arc<impl SessionStore>) {
    let id = SessionId::random();
    let old = Start { principal: Some("alice".into()), ..start() };
    let (idle, absolute) = (Duration::from_secs(60), Some(Duration::from_secs(600)));
    draft(Action::Create(id, old)).lasting(idle, absolute).set("secret", "1").set("n", "5").applied(&store).await;
    let to = id.successor();
    let created_on = SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_456);
    let new = Start { created_on, principal: None };
    let renew = draft(Action::Renew(id, to, Renewal::Replace { start: new, linked: true }))
        .lasting(Duration::from_secs(90), None);
    let (version, counters) = renew.set("flash", "\"bye\"").add("n", 1).applied(&store).await;
    assert_eq!(counters, BTreeMap::from([("n".into(), 1)]));
    let record = alive(&store, &to).await;
    assert_eq!(record.attributes, attributes(&[("flash", "\"bye\""), ("n", "1")]));
    assert_eq!((record.created_on, record.idle_timeout), (created_on, Duration::from_secs(90)));
    assert_eq!((record.principal, record.expires_on, record.version), (None, None, version));
    assert_ended(&store, &id, Some(to)).await;
}

/// A logout with a message on the next page: a late login must not follow there.
pub async fn replacing_may_leave_no_trace_of_the_successor(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("a", "1")]).await;
    let to = id.successor();
    draft(Action::Renew(id, to, Renewal::Replace { start: start(), linked: false }))
        .set("b", "2")
        .applied(&store)
        .await;
    assert_ended(&store, &id, None).await;
    assert_eq!(alive(&store, &to).await.attributes, attributes(&[("b", "2")]));
}

/// Neither of a renewed session nor of a destroyed one.
pub async fn a_tombstone_takes_no_change(store: Arc<impl SessionStore>) {
    let (renewed, destroyed) = (create(&store).await, create(&store).await);
    let to = renewed.successor();
    draft(Action::Renew(renewed, to, Renewal::Keep)).applied(&store).await;
    draft(Action::Destroy(destroyed)).applied(&store).await;
    for (id, successor) in [(renewed, Some(to)), (destroyed, None)] {
        let newest = Version(u64::MAX);
        assert_met_end(&apply(id).set("a", "1").reply(&store).await, successor);
        assert_met_end(&apply(id).clear().seen(newest).reply(&store).await, successor);
        assert_met_end(&draft(Action::Renew(id, id.successor(), Renewal::Keep)).reply(&store).await, successor);
        assert_met_end(&draft(Action::Destroy(id)).reply(&store).await, successor);
        assert_ended(&store, &id, successor).await;
    }
}

/// However it ended, and to whatever asks.
pub async fn a_tombstone_tells_how_long_ago_its_session_ended(store: Arc<impl SessionStore>) {
    // The store's clock counts milliseconds, and is not ours.
    const INACCURACY: Duration = Duration::from_millis(5);
    let mut graves = Vec::new();
    for end in ["destroyed", "renewed", "replaced", "revoked", "evicted"] {
        let principal = somebody();
        let id = log_in(&store, principal).await;
        let before = Instant::now();
        let renew = |renewal| draft(Action::Renew(id, id.successor(), renewal));
        match end {
            "destroyed" => drop(draft(Action::Destroy(id)).applied(&store).await),
            "renewed" => drop(renew(Renewal::Keep).applied(&store).await),
            "replaced" => drop(renew(Renewal::Replace { start: start(), linked: false }).applied(&store).await),
            "revoked" => assert_eq!(revoke(&store, principal, Revoke::All).await, 1),
            _ => {
                let login = draft(login(SessionId::random(), principal));
                login.at_most(1, AboveLimit::EvictOldest).applied(&store).await;
            }
        }
        graves.push((end, id, before, Instant::now()));
    }
    for (end, id, before, after) in graves {
        // What cannot be taken for none, nor for all of a tombstone's time.
        while after.elapsed() < Duration::from_millis(100) {
            pause().await;
        }
        let asked = Instant::now();
        let ages = [
            match load(&store, &id).await {
                Loaded::Ended { age, .. } => age,
                other => panic!("{end}: {other:?}"),
            },
            age_in(&apply(id).set("a", "1").reply(&store).await),
            age_in(&draft(Action::Renew(id, id.successor().successor(), Renewal::Keep)).reply(&store).await),
            age_in(&draft(Action::Destroy(id)).reply(&store).await),
        ];
        let (least, most) = (asked - after, before.elapsed());
        for age in ages {
            let fits = age + INACCURACY >= least && age <= most + INACCURACY;
            assert!(fits, "{end}: {age:?} ago, not between {least:?} and {most:?}");
        }
    }
}

fn age_in(reply: &Reply) -> Duration {
    match reply {
        Reply::Ended { age, .. } => *age,
        other => panic!("expected that the session had ended, got {other:?}"),
    }
}

/// At once, and with the version it had.
pub async fn destroying_ends_a_session(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("a", "1")]).await;
    let version = alive(&store, &id).await.version;
    // Attributes, conditions and limits mean nothing to it.
    let (last, counters) = draft(Action::Destroy(id)).seen(version).limits(0, 0).applied(&store).await;
    assert_eq!((last, counters), (version, BTreeMap::new()));
    assert_ended(&store, &id, None).await;
}

/// Neither a session nor a tombstone.
pub async fn a_taken_id_is_not_created_over(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("a", "1")]).await;
    let again = || draft(Action::Create(id, start())).set("a", "2");
    assert_eq!(again().reply(&store).await, Reply::Occupied);
    assert_eq!(alive(&store, &id).await.attributes, attributes(&[("a", "1")]));
    draft(Action::Destroy(id)).applied(&store).await;
    assert_eq!(again().reply(&store).await, Reply::Occupied);
    assert_ended(&store, &id, None).await;
}

/// Both sessions stay what they are.
pub async fn a_taken_id_is_not_renewed_to(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("a", "1")]).await;
    let taken = id.successor();
    draft(Action::Create(taken, start())).set("b", "2").applied(&store).await;
    for renewal in [Renewal::Keep, Renewal::Replace { start: start(), linked: true }] {
        assert_eq!(draft(Action::Renew(id, taken, renewal)).reply(&store).await, Reply::Occupied);
    }
    assert_eq!(alive(&store, &id).await.attributes, attributes(&[("a", "1")]));
    assert_eq!(alive(&store, &taken).await.attributes, attributes(&[("b", "2")]));
}
