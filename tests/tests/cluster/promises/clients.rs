//! Clients that give up: their requests take effect wholly or not at all.

use std::sync::Arc;
use std::time::Duration;

use cluster_tests::lossy::Lossy;
use cluster_tests::wait::{ensure, eventually};
use session_layer::Session;
use tokio::sync::Notify;
use tokio::time::Instant;

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
    let (mut random, mut visitors) = (Shuffle(5), Vec::new());
    let rounds = times(300, 10_000);
    // How long clients wait at most. It settles where some are answered, some go before their commit began, and some in between,
    // however fast this machine is.
    let mut patience = 1_000;
    for round in 0..rounds {
        // With a session of its own: the commit that it leaves behind may come a moment later.
        let browser = Browser::default();
        browser.insert(&nodes[round % 2], "cart", "tea").await.expect(200);
        let request = tokio::spawn(browser.send(&nodes[round % 2], async |session: Session| {
            change(&session, 1)?;
            Ok(String::new())
        }));
        let (began, waits) = (Instant::now(), Duration::from_micros(random.below(patience) as u64));
        // Timers are too coarse for this.
        while began.elapsed() < waits {
            tokio::task::yield_now().await;
        }
        request.abort();
        let answer = request.await.ok();
        let answered = answer.is_some();
        let applied = whole(&browser, &nodes[(round + 1) % 2]).await;
        if let Some(answer) = answer {
            answer.expect(200);
            assert!(applied, "it was answered");
            patience -= patience / 8;
        } else if !applied {
            patience += patience / 4;
        }
        visitors.push((browser, answered));
    }
    let (mut undone, mut unseen) = (0, 0);
    for (browser, answered) in visitors {
        let applied = whole(&browser, &nodes[0]).await;
        assert!(applied || !answered, "it was answered");
        undone += usize::from(!applied);
        unseen += usize::from(applied && !answered);
    }
    let gone = undone + unseen;
    assert!(undone > 0 && unseen > 0, "{gone} clients went, {unseen} of them after their commit began");
    measured(format!(
        "{gone} of {rounds} clients gone: {undone} changed nothing, {unseen} all they asked for, none a half"
    ));
}

/// Whether a session has all of its one change. It has all or nothing of it.
async fn whole(browser: &Browser, node: &Node) -> bool {
    let found = all(browser, node).await;
    assert!([[0; 3], [1; 3]].contains(&found), "half-applied, or twice: {found:?}");
    found == [1; 3]
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
