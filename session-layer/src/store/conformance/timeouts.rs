//! What prolongs a session, and what ends it without anybody asking.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::draft::{
    alive, apply, assert_ended, assert_lasts, create_for, draft, load, pause, touch, touch_for, until_absent,
    until_ttl_is_below,
};
use crate::id::SessionId;
use crate::store::{Action, Loaded, Renewal, Reply, SessionStore};

/// Longer than a busy machine stands still: no such session ends by itself between two steps of a check.
const LONG: Duration = Duration::from_secs(10);
/// What is spent of it until it is prolonged.
const SPENT: Duration = Duration::from_millis(500);

/// That is what a touch is for.
pub async fn reading_does_not_prolong(store: Arc<impl SessionStore>) {
    let id = create_for(&store, Duration::from_millis(300), None).await;
    let started = Instant::now();
    while let Loaded::Alive(_) = load(&store, &id).await {
        assert!(started.elapsed() < Duration::from_secs(2), "it is still there");
        pause().await;
    }
    assert_eq!(load(&store, &id).await, Loaded::Absent);
}

/// Absent, and not a tombstone.
pub async fn an_idle_session_ends(store: Arc<impl SessionStore>) {
    let id = create_for(&store, Duration::from_millis(150), None).await;
    until_absent(&store, &id).await;
    assert_eq!(apply(id).set("a", "1").reply(&store).await, Reply::Absent);
    assert_eq!(draft(Action::Renew(id, id.successor(), Renewal::Keep)).reply(&store).await, Reply::Absent);
    assert_eq!(draft(Action::Destroy(id)).reply(&store).await, Reply::Absent);
}

/// To the full idle timeout.
pub async fn a_commit_prolongs(store: Arc<impl SessionStore>) {
    let id = create_for(&store, LONG, None).await;
    until_ttl_is_below(&store, &id, LONG - SPENT).await;
    apply(id).lasting(LONG, None).set("a", "1").applied(&store).await;
    assert!(alive(&store, &id).await.ttl > LONG - SPENT);
    until_ttl_is_below(&store, &id, LONG - SPENT).await;
    let to = id.successor();
    draft(Action::Renew(id, to, Renewal::Keep)).lasting(LONG, None).applied(&store).await;
    assert!(alive(&store, &to).await.ttl > LONG - SPENT);
}

/// And changes nothing else.
pub async fn a_touch_prolongs(store: Arc<impl SessionStore>) {
    let id = create_for(&store, LONG, None).await;
    let before = alive(&store, &id).await;
    until_ttl_is_below(&store, &id, LONG - SPENT).await;
    touch_for(&store, &id, LONG, None).await;
    let after = alive(&store, &id).await;
    assert!(after.ttl > LONG - SPENT, "{:?}", after.ttl);
    assert_eq!((after.attributes, after.version), (before.attributes, before.version));
}

/// It comes after the session's end as if it had not come.
pub async fn a_touch_revives_nothing(store: Arc<impl SessionStore>) {
    let id = create_for(&store, Duration::from_millis(100), None).await;
    until_absent(&store, &id).await;
    touch(&store, &id).await;
    assert_eq!(load(&store, &id).await, Loaded::Absent);
}

/// They last as long as they would have.
pub async fn a_touch_leaves_tombstones_alone(store: Arc<impl SessionStore>) {
    // There is something to be done before it is over.
    let short = Duration::from_secs(2);
    let (destroyed, renewed) = (create_for(&store, short, None).await, create_for(&store, short, None).await);
    draft(Action::Destroy(destroyed)).applied(&store).await;
    let to = renewed.successor();
    draft(Action::Renew(renewed, to, Renewal::Keep)).lasting(short, None).applied(&store).await;
    touch_for(&store, &destroyed, short, None).await;
    touch_for(&store, &renewed, short, None).await;
    until_absent(&store, &to).await;
    assert_ended(&store, &destroyed, None).await;
    assert_ended(&store, &renewed, Some(to)).await;
}

/// However busy it is, and never later.
pub async fn the_absolute_timeout_ends_a_session_in_use(store: Arc<impl SessionStore>) {
    let absolute = Duration::from_millis(2000);
    let started = Instant::now();
    let idle = Duration::from_millis(1800);
    let id = create_for(&store, idle, Some(absolute)).await;
    loop {
        touch_for(&store, &id, idle, Some(absolute)).await;
        let reply = apply(id).lasting(idle, Some(absolute)).add("n", 1).reply(&store).await;
        let elapsed = started.elapsed();
        if reply == Reply::Absent {
            // The store's clock counts milliseconds, and is not ours.
            assert!(elapsed >= absolute - Duration::from_millis(5), "{elapsed:?}");
            break;
        }
        assert!(matches!(reply, Reply::Applied { .. }), "{reply:?}");
        assert!(elapsed < Duration::from_secs(6), "it is still there");
        pause().await;
    }
    touch(&store, &id).await;
    assert_eq!(load(&store, &id).await, Loaded::Absent);
}

const SHORT: Duration = Duration::from_secs(60);
const RAISED: Duration = Duration::from_secs(600);

/// Raised or lowered: the settings of the layer that commits count, not those that the session began with.
pub async fn a_changed_idle_timeout_counts_from_the_next_commit(store: Arc<impl SessionStore>) {
    let id = create_for(&store, SHORT, None).await;
    apply(id).lasting(RAISED, None).set("a", "1").applied(&store).await;
    assert_idle_timeout(&store, &id, RAISED).await;
    let to = id.successor();
    draft(Action::Renew(id, to, Renewal::Keep)).lasting(SHORT, None).applied(&store).await;
    assert_idle_timeout(&store, &to, SHORT).await;
    let last = to.successor();
    draft(Action::Renew(to, last, Renewal::LogIn { principal: "alice".into() }))
        .lasting(RAISED, None)
        .applied(&store)
        .await;
    assert_idle_timeout(&store, &last, RAISED).await;
}

/// And its version stays.
pub async fn a_changed_idle_timeout_counts_from_the_next_touch(store: Arc<impl SessionStore>) {
    let id = create_for(&store, SHORT, None).await;
    let version = alive(&store, &id).await.version;
    for idle_timeout in [RAISED, SHORT] {
        touch_for(&store, &id, idle_timeout, None).await;
        assert_idle_timeout(&store, &id, idle_timeout).await;
        assert_eq!(alive(&store, &id).await.version, version);
    }
}

async fn assert_idle_timeout(store: &Arc<impl SessionStore>, id: &SessionId, expected: Duration) {
    let record = alive(store, id).await;
    assert_eq!(record.idle_timeout, expected);
    assert!(record.ttl <= expected && record.ttl > expected - SHORT / 2, "{:?} left of {expected:?}", record.ttl);
}

/// Where nobody is logged in.
pub async fn a_changed_absolute_timeout_counts_from_the_start_of_the_session(store: Arc<impl SessionStore>) {
    let hour = Duration::from_secs(3600);
    let id = create_for(&store, SHORT, Some(hour)).await;
    apply(id).lasting(SHORT, Some(hour * 2)).set("a", "1").applied(&store).await;
    assert_lasts(&alive(&store, &id).await, hour * 2);
    touch_for(&store, &id, SHORT, Some(hour)).await;
    assert_lasts(&alive(&store, &id).await, hour);
    touch_for(&store, &id, SHORT, None).await;
    assert_eq!(alive(&store, &id).await.expires_on, None);
    // What is left of it is what the session has left.
    apply(id).lasting(hour * 3, Some(hour)).set("a", "2").applied(&store).await;
    let record = alive(&store, &id).await;
    assert!(record.ttl <= hour && record.ttl > hour - SHORT, "{:?}", record.ttl);
}

/// A login is a fresh start; what was before it does not count.
pub async fn a_changed_absolute_timeout_counts_from_the_login(store: Arc<impl SessionStore>) {
    let id = create_for(&store, SHORT, None).await;
    tokio::time::sleep(LATER).await;
    let to = id.successor();
    draft(Action::Renew(id, to, Renewal::LogIn { principal: "alice".into() }))
        .lasting(SHORT, None)
        .applied(&store)
        .await;
    apply(to).lasting(SHORT, Some(LATER)).set("a", "1").applied(&store).await;
    touch_for(&store, &to, SHORT, Some(LATER)).await;
    alive(&store, &to).await;
}

/// So much that a busy machine does between two steps what it should.
const LATER: Duration = Duration::from_millis(1500);

/// To its browser it has expired.
pub async fn a_lowered_absolute_timeout_may_end_a_session_at_once(store: Arc<impl SessionStore>) {
    let [written, renewed, touched] = [
        create_for(&store, SHORT, None).await,
        create_for(&store, SHORT, None).await,
        create_for(&store, SHORT, None).await,
    ];
    let age = Duration::from_millis(100);
    tokio::time::sleep(age + Duration::from_millis(20)).await;
    assert_eq!(apply(written).lasting(SHORT, Some(age)).set("a", "1").reply(&store).await, Reply::Absent);
    let renew = draft(Action::Renew(renewed, renewed.successor(), Renewal::Keep)).lasting(SHORT, Some(age));
    assert_eq!(renew.reply(&store).await, Reply::Absent);
    touch_for(&store, &touched, SHORT, Some(age)).await;
    for id in [written, renewed, touched] {
        assert_eq!(load(&store, &id).await, Loaded::Absent);
    }
}
