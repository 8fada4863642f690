//! Timeouts that a deploy changed, and requests that take longer than one.

use std::time::Duration;

use cluster_tests::wait::{ensure, eventually};
use session_layer::{LazySession, Session, SessionLayerBuilder};

use super::{Browser, Node, Place};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What the nodes are told: the idle timeout and the absolute one.
type Setting = (u64, u64);

fn with((idle, absolute): Setting) -> impl FnOnce(SessionLayerBuilder) -> SessionLayerBuilder {
    move |layer| layer.idle_timeout(seconds(idle)).absolute_timeout(seconds(absolute))
}

async fn request(browser: &Browser, node: &Node, kind: &str) {
    let answer = match kind {
        "reads" => browser.ask(node, async |session: Session| Ok(session.names().join(" "))).await,
        "writes" => browser.insert(node, "b", "1").await,
        _ => {
            let write = async |session: LazySession| session.insert("b", 1).map(|()| String::new());
            browser.send_lazy(node, write).await
        }
    };
    answer.expect(200).without_cookie();
}

/// Old and new setting, and between which times a session that is 300 seconds old has left after one request.
const CHANGES: [(&str, Setting, Setting, u64, u64); 4] = [
    ("raised idle timeout", (600, 3_600), (1_800, 3_600), 1_700, 1_800),
    ("lowered idle timeout", (600, 3_600), (60, 3_600), 1, 60),
    ("raised absolute timeout", (350, 350), (350, 3_600), 301, 350),
    ("lowered absolute timeout", (600, 3_600), (400, 400), 1, 100),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_timeout_reaches_a_session_with_its_next_request() {
    for (change, old, new, least, most) in CHANGES {
        for kind in ["reads", "writes", "writes blindly"] {
            let place = Place::shared().await;
            let (old, new) = (Node::with(&place, with(old)).await, Node::with(&place, with(new)).await);
            let browser = Browser::default();
            browser.insert(&old, "a", "1").await.expect(200).with_cookie();
            place.age_session(seconds(300)).await;
            request(&browser, &new, kind).await;
            // A touch is not waited for.
            eventually(&format!("{change}, {kind}"), seconds(10), async || {
                let left = place.time_left().await.unwrap_or_default();
                ensure(left > seconds(least) && left <= seconds(most), || format!("{left:?} are left"))
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_older_than_a_lowered_absolute_timeout_ends() {
    let place = Place::shared().await;
    let (old, new) = (Node::start(&place).await, Node::with(&place, with((60, 200))).await);
    let browser = Browser::default();
    browser.insert(&old, "a", "1").await.expect(200).with_cookie();
    place.age_session(seconds(300)).await;
    request(&browser, &new, "reads").await;
    eventually("the session's end", seconds(10), async || {
        ensure(place.time_left().await.is_none(), || "it is there".to_owned())
    })
    .await;
    assert_eq!(browser.read(&old, "a").await, "");
}

/// As servlet containers do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_takes_longer_than_the_idle_timeout_keeps_its_session() {
    let place = Place::shared().await;
    let node = Node::with(&place, with((3, 60))).await;
    for (writes, names) in [(false, "a"), (true, "a b")] {
        let browser = Browser::default();
        browser.insert(&node, "a", "1").await.expect(200).with_cookie();
        let slow = async move |session: Session| {
            tokio::time::sleep(seconds(5)).await;
            if writes {
                session.insert("b", 1)?;
            }
            Ok(String::new())
        };
        browser.ask(&node, slow).await.expect(200).without_cookie();
        let seen = browser.ask(&node, async |session: Session| Ok(session.names().join(" "))).await;
        assert_eq!(seen.expect(200).body, names);
    }
}
