//! Commits that come at the same time.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::draft::{alive, all, apply, assert_ended, assert_met_end, create, create_with, draft, load, start};
use crate::id::SessionId;
use crate::store::{Action, Attributes, Loaded, Renewal, Reply, SessionStore, Version};

/// Each value is given once.
pub async fn concurrent_adds_are_all_counted(store: Arc<impl SessionStore>) {
    let id = create(&store).await;
    let adds = (0..200).map(|_| {
        let store = Arc::clone(&store);
        async move { apply(id).add("n", 1).applied(&store).await.1["n"] }
    });
    let values: BTreeSet<i64> = all(adds).await.into_iter().collect();
    assert_eq!(values, (1..=200).collect());
    assert_eq!(alive(&store, &id).await.attributes["n"], "200");
}

/// No request undoes another.
pub async fn concurrent_changes_of_different_attributes_are_all_kept(store: Arc<impl SessionStore>) {
    let id = create(&store).await;
    let changes = (0..100).map(|i: u32| {
        let store = Arc::clone(&store);
        async move { apply(id).set(&format!("a{i}"), &i.to_string()).applied(&store).await.0 }
    });
    let versions: BTreeSet<Version> = all(changes).await.into_iter().collect();
    assert_eq!(versions.len(), 100, "no version is given twice");
    let expected = (0..100_u32).map(|i| (format!("a{i}"), Bytes::from(i.to_string()))).collect::<Attributes>();
    assert_eq!(alive(&store, &id).await.attributes, expected);
}

/// The others are told what is there instead.
pub async fn of_concurrent_compare_and_sets_one_wins(store: Arc<impl SessionStore>) {
    let id = create_with(&store, &[("a", "free")]).await;
    let attempts = (0..50).map(|i: u32| {
        let store = Arc::clone(&store);
        async move { (i, apply(id).when("a", Some("free")).set("a", &i.to_string()).reply(&store).await) }
    });
    let replies = all(attempts).await;
    let (winners, losers): (Vec<_>, Vec<_>) =
        replies.into_iter().partition(|(_, reply)| matches!(reply, Reply::Applied { .. }));
    assert_eq!(winners.len(), 1);
    let current = Bytes::from(winners[0].0.to_string());
    assert_eq!(alive(&store, &id).await.attributes["a"], current);
    for (_, reply) in losers {
        assert_eq!(reply, Reply::Conflict { name: "a".into(), current: Some(current.clone()) });
    }
}

/// The others find the ID taken.
pub async fn of_concurrent_creations_one_wins(store: Arc<impl SessionStore>) {
    let id = SessionId::random();
    let attempts = (0..20).map(|i: u32| {
        let store = Arc::clone(&store);
        async move { draft(Action::Create(id, start())).set("by", &i.to_string()).reply(&store).await }
    });
    let replies = all(attempts).await;
    assert_eq!(replies.iter().filter(|reply| matches!(reply, Reply::Applied { .. })).count(), 1, "{replies:?}");
    assert_eq!(replies.iter().filter(|reply| **reply == Reply::Occupied).count(), 19, "{replies:?}");
}

/// The others are told where it went.
pub async fn of_concurrent_renewals_one_wins(store: Arc<impl SessionStore>) {
    let id = create(&store).await;
    let attempts = (0..20).map(|_| {
        let store = Arc::clone(&store);
        async move {
            let to = id.successor();
            (to, draft(Action::Renew(id, to, Renewal::Keep)).reply(&store).await)
        }
    });
    let (winners, losers): (Vec<_>, Vec<_>) =
        all(attempts).await.into_iter().partition(|(_, reply)| matches!(reply, Reply::Applied { .. }));
    assert_eq!(winners.len(), 1);
    let successor = Some(winners[0].0);
    for (to, reply) in losers {
        assert_met_end(&reply, successor);
        assert_eq!(load(&store, &to).await, Loaded::Absent);
    }
}

/// Writers that race with a logout either came before it or are told.
pub async fn nothing_changes_a_session_after_its_end(store: Arc<impl SessionStore>) {
    let id = create(&store).await;
    let writers = (0..40).map(|i: u32| {
        let store = Arc::clone(&store);
        async move {
            if i == 20 {
                draft(Action::Destroy(id)).applied(&store).await;
                assert_ended(&store, &id, None).await;
                return;
            }
            let reply = apply(id).set(&format!("a{i}"), "1").reply(&store).await;
            assert!(matches!(reply, Reply::Applied { .. } | Reply::Ended { successor: None, .. }), "{reply:?}");
        }
    });
    all(writers).await;
    assert_ended(&store, &id, None).await;
}
