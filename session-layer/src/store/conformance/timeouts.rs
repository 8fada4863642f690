//! What prolongs a session, and what ends it without anybody asking.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::draft::{alive, apply, create_for, draft, load, pause, until_absent, until_ttl_is_below};
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
    apply(id).set("a", "1").applied(&store).await;
    assert!(alive(&store, &id).await.ttl > LONG - SPENT);
    until_ttl_is_below(&store, &id, LONG - SPENT).await;
    let to = id.successor();
    draft(Action::Renew(id, to, Renewal::Keep)).applied(&store).await;
    assert!(alive(&store, &to).await.ttl > LONG - SPENT);
}

/// And changes nothing else.
pub async fn a_touch_prolongs(store: Arc<impl SessionStore>) {
    let id = create_for(&store, LONG, None).await;
    let before = alive(&store, &id).await;
    until_ttl_is_below(&store, &id, LONG - SPENT).await;
    store.touch(&id).await.unwrap();
    let after = alive(&store, &id).await;
    assert!(after.ttl > LONG - SPENT, "{:?}", after.ttl);
    assert_eq!((after.attributes, after.version), (before.attributes, before.version));
}

/// It comes after the session's end as if it had not come.
pub async fn a_touch_revives_nothing(store: Arc<impl SessionStore>) {
    let id = create_for(&store, Duration::from_millis(100), None).await;
    until_absent(&store, &id).await;
    store.touch(&id).await.unwrap();
    assert_eq!(load(&store, &id).await, Loaded::Absent);
}

/// They last as long as they would have.
pub async fn a_touch_leaves_tombstones_alone(store: Arc<impl SessionStore>) {
    // There is something to be done before it is over.
    let short = Duration::from_secs(2);
    let (destroyed, renewed) = (create_for(&store, short, None).await, create_for(&store, short, None).await);
    draft(Action::Destroy(destroyed)).applied(&store).await;
    let to = renewed.successor();
    draft(Action::Renew(renewed, to, Renewal::Keep)).applied(&store).await;
    store.touch(&destroyed).await.unwrap();
    store.touch(&renewed).await.unwrap();
    until_absent(&store, &to).await;
    assert_eq!(load(&store, &destroyed).await, Loaded::Ended { successor: None });
    assert_eq!(load(&store, &renewed).await, Loaded::Ended { successor: Some(to) });
}

/// However busy it is, and never later.
pub async fn the_absolute_timeout_ends_a_session_in_use(store: Arc<impl SessionStore>) {
    let absolute = Duration::from_millis(2000);
    let started = Instant::now();
    let id = create_for(&store, Duration::from_millis(1800), Some(absolute)).await;
    loop {
        store.touch(&id).await.unwrap();
        let reply = apply(id).add("n", 1).reply(&store).await;
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
    store.touch(&id).await.unwrap();
    assert_eq!(load(&store, &id).await, Loaded::Absent);
}
