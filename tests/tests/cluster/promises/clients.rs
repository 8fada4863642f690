//! Clients that give up: their requests take effect wholly or not at all.

use std::sync::Arc;
use std::time::Duration;

use cluster_tests::lossy::Lossy;
use cluster_tests::wait::{ensure, eventually};
use session_layer::Session;
use tokio::sync::Notify;

use super::{Browser, Node, Place, Shuffle, measured, times};

const WHILE: Duration = Duration::from_secs(10);

/// The three attributes that each request changes together.
async fn all(browser: &Browser, node: &Node) -> [i64; 3] {
    let act = async |session: Session| {
        let all = ["set", "also", "count"].map(|name| session.get::<i64>(name));
        let [set, also, count] = all;
        Ok(serde_json::to_string(&[set?, also?, count?].map(Option::unwrap_or_default)).expect("JSON"))
    };
    serde_json::from_str(&browser.ask(node, act).await.expect(200).body).expect("three numbers")
}

async fn has_ended(browser: &Browser, node: &Node) -> bool {
    let act = async |session: Session| Ok(session.has_ended().to_string());
    browser.ask(node, act).await.expect(200).body == "true"
}

fn change(session: &Session, to: i64) -> Result<(), session_layer::SessionError> {
    session.insert("set", to)?;
    session.insert("also", to)?;
    session.increment("count", 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gone_before_the_commit_began_leaves_the_session_as_it_was() {
    let nodes = Node::pair(&Place::shared().await).await;
    let browser = Browser::default();
    browser.insert(&nodes[0], "cart", "tea").await.expect(200);
    for _ in 0..times(20, 500) {
        let reached = Arc::new(Notify::new());
        let here = Arc::clone(&reached);
        let request = browser.send(&nodes[0], async move |session: Session| {
            change(&session, 1)?;
            session.log_in("mallory")?;
            here.notify_one();
            std::future::pending().await
        });
        let request = tokio::spawn(request);
        reached.notified().await;
        request.abort();
        assert!(request.await.expect_err("it was aborted").is_cancelled());
        assert_eq!(all(&browser, &nodes[1]).await, [0; 3]);
        assert_eq!(browser.principal(&nodes[1]).await, None);
    }
    assert!(nodes[0].sessions.of("mallory").await.expect("an answer").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gone_while_the_commit_runs_leaves_the_session_wholly_before_or_wholly_after() {
    let nodes = Node::pair(&Place::shared().await).await;
    let browser = Browser::default();
    browser.insert(&nodes[0], "cart", "tea").await.expect(200);
    let (mut random, mut applied, mut gone, mut unseen) = (Shuffle(5), 0, 0, 0);
    let rounds = times(300, 10_000);
    for round in 0..rounds {
        let request = tokio::spawn(browser.send(&nodes[round % 2], async move |session: Session| {
            change(&session, applied + 1)?;
            Ok(String::new())
        }));
        // While it loads, while it commits, or when all is done.
        tokio::time::sleep(Duration::from_micros(random.below(if round % 3 == 0 { 300 } else { 3_000 }) as u64)).await;
        request.abort();
        let answer = request.await.ok();
        gone += i64::from(answer.is_none());
        let before = applied;
        // A commit that began runs to its end, which may be a moment away.
        let [set, also, count] = all(&browser, &nodes[1]).await;
        assert!(set == also && also == count, "half-applied: {set} {also} {count}");
        assert!(count == applied || count == applied + 1, "{count} of {applied}");
        let answered = answer.is_some();
        if let Some(answer) = answer {
            answer.expect(200);
            assert_eq!(count, applied + 1, "it was answered");
        }
        if count == applied {
            // It may not have begun at all. Whatever it was going to do is done before the next one begins.
            settle(&browser, &nodes[1], &mut applied).await;
        } else {
            applied = count;
        }
        unseen += i64::from(applied > before && !answered);
    }
    let undone = gone - unseen;
    assert!(undone > 0 && unseen > 0, "{gone} clients went, {unseen} of them after their commit began");
    measured(format!(
        "{gone} of {rounds} clients gone: {undone} changed nothing, {unseen} all they asked for, none a half"
    ));
}

/// Waits until no commit seems to be under way any more: the numbers have not moved for a while.
async fn settle(browser: &Browser, node: &Node, applied: &mut i64) {
    let mut quiet = 0;
    while quiet < 5 {
        let [set, also, count] = all(browser, node).await;
        assert!(set == also && also == count, "half-applied: {set} {also} {count}");
        quiet = if count == *applied { quiet + 1 } else { 0 };
        *applied = count;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_client_has_gone_is_repeated_until_it_is_known_to_have_taken_effect_once() {
    let place = Place::shared().await;
    let clean = Node::start(&place).await;
    for _ in 0..times(5, 100) {
        let proxy = Lossy::start(place.address()).await;
        let lossy = Node::start(&place.through(proxy.port())).await;
        let browser = Browser::default();
        browser.insert(&clean, "cart", "tea").await.expect(200);
        let before = browser.copy();
        proxy.lose_every(1);
        let request = tokio::spawn(browser.send(&lossy, async |session: Session| {
            change(&session, 1)?;
            session.log_in("alice")?;
            Ok(String::new())
        }));
        eventually("a login that was applied", WHILE, async || {
            ensure(has_ended(&before, &clean).await, || "not so far".to_owned())
        })
        .await;
        request.abort();
        assert!(request.await.is_err(), "it was not answered");
        proxy.lose_every(0);
        // It was applied, and nobody was told: who comes back with the old ID is not logged in, and a login finds everything.
        assert_eq!(before.principal(&clean).await, None);
        browser.log_in(&clean, "alice").await.expect(200).with_cookie();
        assert_eq!(browser.principal(&clean).await.as_deref(), Some("alice"));
        assert_eq!(all(&browser, &clean).await, [1; 3]);
        assert_eq!(place.audit().await, [("alice".to_owned(), 1)].into());
        clean.sessions.revoke_all("alice").await.expect("an answer");
    }
}
