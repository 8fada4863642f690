//! Who is logged in where: the lists of principals, and what ends sessions from elsewhere.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cluster_tests::lossy::Lossy;
use cluster_tests::redis::Machine;
use cluster_tests::wait::{ensure, eventually};
use session_layer::{AboveLimit, Session, SessionError, SessionHandle};
use tokio::runtime;
use tokio::task::{JoinHandle, JoinSet};

use super::{Browser, Node, Place, Shuffle, measured, times};

async fn handle(browser: &Browser, node: &Node) -> SessionHandle {
    let act = async |session: Session| Ok(session.handle().encode());
    SessionHandle::decode(&browser.ask(node, act).await.expect(200).body).expect("a handle")
}

/// The live sessions of a principal.
async fn of(node: &Node, principal: &str) -> BTreeSet<SessionHandle> {
    node.sessions.of(principal).await.expect("an answer").iter().map(|session| session.handle()).collect()
}

/// Looks at the lists again and again, from one moment each time, while other things go on.
struct Auditor {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(usize, usize)>,
}

impl Auditor {
    async fn start(place: &Place) -> Self {
        let (stop, place) = (Arc::new(AtomicBool::new(false)), place.clone());
        let mut redis = place.admin().await;
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let (mut looks, mut most) = (0, 0);
            while !stopped.load(Ordering::Relaxed) {
                let live = place.audit_with(&mut redis).await;
                most = live.into_values().max().unwrap_or(0).max(most);
                looks += 1;
            }
            (looks, most)
        });
        Self { stop, task }
    }

    /// How often it looked, and the most sessions of one principal that it saw at once.
    async fn stop(self) -> (usize, usize) {
        self.stop.store(true, Ordering::Relaxed);
        let (looks, most) = self.task.await.expect("the lists were exact at any time");
        assert!(looks > 2, "it looked {looks} times");
        (looks, most)
    }
}

/// Requests of a session, one after the other, on both nodes in turn.
struct Traffic {
    /// Its session has been ended, and whoever did so was told.
    ended: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Seen>,
}

#[derive(Default)]
struct Seen {
    alive: usize,
    refused: usize,
    gone: usize,
}

impl Traffic {
    fn start(browser: &Browser, nodes: &[Node; 2]) -> Self {
        let (ended, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (browser, nodes) = (browser.clone(), nodes.clone());
        let (told, stopped) = (Arc::clone(&ended), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let mut seen = Seen::default();
            for i in 0.. {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let over = told.load(Ordering::SeqCst);
                let act = async |session: Session| {
                    let alive = session.principal().is_some();
                    if alive {
                        session.increment("n", 1)?;
                    }
                    Ok(alive.to_string())
                };
                let answer = browser.ask(&nodes[i % 2], act).await.without_cookie();
                match (answer.status.as_u16(), &*answer.body) {
                    (200, "true") => {
                        assert!(!over, "a session was alive after its end had been answered");
                        assert_eq!(seen.gone + seen.refused, 0, "a session came back");
                        seen.alive += 1;
                    }
                    (200, "false") => seen.gone += 1,
                    (409, _) => seen.refused += 1,
                    _ => panic!("{answer:?}"),
                }
            }
            seen
        });
        Self { ended, stop, task }
    }

    async fn stop(self) -> Seen {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.expect("no session lived on or came back")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_revoked_during_traffic_is_gone_on_every_node_and_the_rest_goes_on() {
    let place = Place::shared().await;
    let nodes = Node::pair(&place).await;
    let auditor = Auditor::start(&place).await;
    let (mut alive, mut refused) = (0, 0);
    for round in 0..times(5, 100) {
        let browsers: Vec<_> = std::iter::repeat_with(Browser::default).take(8).collect();
        for (i, browser) in browsers.iter().enumerate() {
            browser.log_in(&nodes[i % 2], if i < 7 { "alice" } else { "bob" }).await.expect(200);
        }
        let traffic: Vec<_> = browsers.iter().map(|browser| Traffic::start(browser, &nodes)).collect();
        let mut handles = Vec::new();
        for browser in &browsers {
            handles.push(handle(browser, &nodes[0]).await);
        }
        assert_eq!(of(&nodes[1], "alice").await, handles[..7].iter().copied().collect());
        let end = |which: std::ops::Range<usize>| {
            traffic[which].iter().for_each(|traffic| traffic.ended.store(true, Ordering::SeqCst));
        };

        let sessions = &nodes[round % 2].sessions;
        assert!(!sessions.revoke("alice", &handles[7]).await.unwrap(), "bob's is not hers to end");
        assert!(sessions.revoke("alice", &handles[0]).await.unwrap());
        end(0..1);
        assert!(!sessions.revoke("alice", &handles[0]).await.unwrap());
        assert_eq!(of(&nodes[0], "alice").await, handles[1..7].iter().copied().collect());

        // Each revokes all others: one comes second and finds itself gone, or finds nobody left.
        assert_eq!(sessions.revoke_others("alice", &handles[6]).await.unwrap(), 5);
        end(1..6);
        assert_eq!(of(&nodes[0], "alice").await, handles[6..7].iter().copied().collect());
        assert_eq!(browsers[6].principal(&nodes[1]).await.as_deref(), Some("alice"));

        assert_eq!(sessions.revoke_all("alice").await.unwrap(), 1);
        end(6..7);
        assert_eq!(of(&nodes[1], "alice").await, [].into());
        assert_eq!(of(&nodes[1], "bob").await, [handles[7]].into());
        for (i, traffic) in traffic.into_iter().enumerate() {
            let seen = traffic.stop().await;
            assert!(i < 7 || seen.refused + seen.gone == 0, "bob's session goes on");
            (alive, refused) = (alive + seen.alive, refused + seen.refused);
        }
        assert_eq!(sessions.revoke_all("bob").await.unwrap(), 1);
    }
    let (looks, _) = auditor.stop().await;
    measured(format!(
        "revoked during traffic: {alive} requests before, {refused} refused in the middle; lists exact {looks} times"
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_races_revoke_all_is_either_ended_by_it_or_listed() {
    let place = Place::shared().await;
    let nodes = Node::pair(&place).await;
    let auditor = Auditor::start(&place).await;
    let (mut ended, mut stayed) = (0, 0);
    for _ in 0..times(40, 300) {
        let (answered, mut logins) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        for i in 0..8 {
            let (node, answered) = (nodes[i % 2].clone(), Arc::clone(&answered));
            logins.spawn(async move {
                let browser = Browser::default();
                // Not all at once.
                for visit in 0..i {
                    browser.insert(&node, "visit", &visit.to_string()).await.expect(200);
                }
                browser.log_in(&node, "alice").await.expect(200).with_cookie();
                answered.fetch_add(1, Ordering::SeqCst);
                browser
            });
        }
        while answered.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        let before = answered.load(Ordering::SeqCst);
        let revoked = nodes[1].sessions.revoke_all("alice").await.unwrap();
        assert!(revoked >= before, "{before} logins had been answered, {revoked} were ended");
        let mut alive = BTreeSet::new();
        for browser in logins.join_all().await {
            if browser.principal(&nodes[0]).await.is_some() {
                alive.insert(handle(&browser, &nodes[1]).await);
            }
        }
        assert_eq!(alive.len() + revoked, 8);
        assert_eq!(of(&nodes[0], "alice").await, alive);
        assert_eq!(nodes[0].sessions.revoke_all("alice").await.unwrap(), alive.len());
        (ended, stayed) = (ended + revoked, stayed + alive.len());
    }
    auditor.stop().await;
    assert!(ended > 0 && stayed > 0, "no race: {ended} ended, {stayed} stayed");
    measured(format!("logins racing revoke_all: {ended} ended by it, {stayed} came after it and are listed"));
}

async fn logins_at_the_limit(above: AboveLimit) {
    const LOGINS: usize = 64;
    const MOST: usize = 3;
    let place = Place::shared().await;
    let node = async || Node::with(&place, |layer| layer.max_sessions_per_principal(MOST, above)).await;
    let nodes = [node().await, node().await];
    let auditor = Auditor::start(&place).await;
    for round in 0..times(3, 50) {
        let mut logins = JoinSet::new();
        for i in 0..LOGINS {
            let node = nodes[i % 2].clone();
            logins.spawn(async move {
                let browser = Browser::default();
                if i % 3 == 0 {
                    browser.insert(&node, "cart", "tea").await.expect(200);
                }
                let answer = browser.log_in(&node, "alice").await;
                (browser, answer)
            });
        }
        let (mut accepted, mut alive) = (0, BTreeSet::new());
        for (browser, answer) in logins.join_all().await {
            if answer.status == 200 {
                accepted += 1;
                drop(answer.with_cookie());
            } else {
                assert!(answer.error.as_ref().is_some_and(SessionError::is_too_many_sessions), "{answer:?}");
                drop(answer.expect(409).without_cookie());
            }
            if browser.principal(&nodes[round % 2]).await.is_some() {
                alive.insert(handle(&browser, &nodes[0]).await);
            }
        }
        assert_eq!(accepted, if above == AboveLimit::Refuse { MOST } else { LOGINS });
        assert_eq!(alive.len(), MOST);
        assert_eq!(of(&nodes[1], "alice").await, alive);
        assert_eq!(nodes[0].sessions.revoke_all("alice").await.unwrap(), MOST);
    }
    let (looks, most) = auditor.stop().await;
    assert_eq!(most, MOST, "never more, at any time");
    measured(format!("{LOGINS} logins at once, at most {MOST} ({above:?}): never more in {looks} looks"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_never_more_sessions_than_the_limit_when_the_oldest_gives_way() {
    logins_at_the_limit(AboveLimit::EvictOldest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_never_more_sessions_than_the_limit_when_further_logins_are_refused() {
    logins_at_the_limit(AboveLimit::Refuse).await;
}

/// All that changes who is logged in where; whatever it is told, it goes on.
async fn live(node: Node, random: &mut Shuffle, changes: usize) {
    let browsers: Vec<_> = std::iter::repeat_with(Browser::default).take(4).collect();
    for _ in 0..changes {
        let (browser, what) = (&browsers[random.below(4)], random.below(9));
        let principal = ["alice", "bob"][random.below(2)];
        match what {
            0 => drop(browser.insert(&node, "cart", "tea").await),
            1..=3 => drop(browser.log_in(&node, principal).await),
            4 => drop(browser.log_out(&node).await),
            5 => drop(browser.ask(&node, async |session: Session| session.cycle_id().map(|()| String::new())).await),
            6 => drop(node.sessions.revoke_all(principal).await),
            _ => {
                let Ok(sessions) = node.sessions.of(principal).await else { continue };
                let Some(session) = sessions.first() else { continue };
                match what {
                    7 => drop(node.sessions.revoke(principal, &session.handle()).await),
                    _ => drop(node.sessions.revoke_others(principal, &session.handle()).await),
                }
            }
        }
    }
}

/// How many connections the server has, with the one that asks.
async fn clients(place: &Place) -> usize {
    place.admin().await.command(&["CLIENT", "LIST"]).await.matches("addr=").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_between_any_two_commands_leaves_the_lists_exact() {
    // Of its own: the connections of other tests come and go as they like.
    let machine = Machine::with_redis(&[]).await;
    let place = Place::on(machine.port(0));
    let survivor = Node::with(&place, |layer| layer.max_sessions_per_principal(2, AboveLimit::EvictOldest)).await;
    let mut deaths = 0;
    let before = clients(&place).await;
    'lives: for seed in 1..=times(2, 50) as u64 {
        for commands in 0.. {
            // A runtime of its own, so that nothing of the node is left when it dies: no task, no connection.
            let body = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
            let proxy = Lossy::start(place.address()).await;
            let through = place.through(proxy.port());
            let limited = async move {
                Node::with(&through, |layer| layer.max_sessions_per_principal(2, AboveLimit::EvictOldest)).await
            };
            let node = body.spawn(limited).await.expect("no panic");
            proxy.go_dark_after(commands);
            let mut life = body.spawn(async move { live(node, &mut Shuffle(seed), 12).await });
            let died = tokio::select! {
                () = proxy.is_dark() => true,
                lived = &mut life => { lived.expect("no panic"); false }
            };
            body.shutdown_background();
            drop(proxy);

            // What the node sent last may be in the server's hands still; it has been done when its connections are gone.
            eventually("the end of the dead node's connections", Duration::from_secs(20), async || {
                let now = clients(&place).await;
                ensure(now <= before, || format!("{now} connections, of {before} before it"))
            })
            .await;
            let live = place.audit().await;
            for principal in ["alice", "bob"] {
                assert_eq!(of(&survivor, principal).await.len(), live.get(principal).copied().unwrap_or(0));
                assert!(live.get(principal).is_none_or(|live| *live <= 2), "{live:?}");
                survivor.sessions.revoke_all(principal).await.expect("an answer");
            }
            assert_eq!(place.audit().await, [].into());
            if !died {
                continue 'lives;
            }
            deaths += 1;
        }
    }
    assert!(deaths > 10, "{deaths} deaths");
    measured(format!("a node dropped after each of its commands: {deaths} deaths, lists exact after each"));
}
