use std::collections::{BTreeMap, BTreeSet};

use cluster_tests::browser::Browser;
use cluster_tests::cluster;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn writes_of_different_attributes_at_the_same_time_all_take_effect() {
    let cluster = cluster::shared().await;
    let browser = Browser::new();
    assert_eq!(browser.put(cluster.nginx(), "first", "0").await.status, 204);
    let mut expected = BTreeMap::from([("first".to_owned(), 0)]);
    for round in 1..=20 {
        let mut writes = JoinSet::new();
        for n in 0..50 {
            let (browser, site) = (browser.clone(), cluster.nodes()[n % 2]);
            writes.spawn(async move {
                let answer = browser.put(site, &format!("a{n}"), round.to_string()).await;
                assert_eq!((answer.status.as_u16(), answer.set_cookie()), (204, None), "{answer:?}");
            });
            expected.insert(format!("a{n}"), round);
        }
        writes.join_all().await;
        for site in cluster.nodes() {
            assert_eq!(browser.session(site).await["attributes"], serde_json::json!(expected), "round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_increments_at_the_same_time_give_each_value_once() {
    let cluster = cluster::shared().await;
    let browser = Browser::new();
    assert_eq!(browser.increment(cluster.nginx(), "hits").await.value(), 1);
    let mut increments = JoinSet::new();
    for n in 0..1000 {
        let (browser, site) = (browser.clone(), cluster.nodes()[n % 2]);
        increments.spawn(async move {
            let answer = browser.increment(site, "hits").await;
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.value()
        });
    }
    let values: BTreeSet<_> = increments.join_all().await.into_iter().collect();
    assert_eq!(values, (2..=1001).collect());
    for site in cluster.nodes() {
        assert_eq!(browser.session(site).await["attributes"]["hits"], 1001);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn visits_at_the_same_time_are_all_counted() {
    let cluster = cluster::shared().await;
    let browser = Browser::new();
    browser.get(cluster.nginx(), "/").await;
    let mut visits = JoinSet::new();
    for _ in 0..40 {
        let (browser, site) = (browser.clone(), cluster.nginx());
        visits.spawn(async move { crate::page::Page::visit(&browser, site).await.visits });
    }
    let seen: BTreeSet<_> = visits.join_all().await.into_iter().collect();
    assert_eq!(seen, (2..=41).collect());
}
