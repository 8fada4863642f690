//! Login, logout and renewal, and the requests that come late for them.

use std::time::Duration;

use session_layer::Session;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::{Answer, Browser, Node, Place, Shuffle, measured, times};

const PARALLEL: usize = 50;

/// Somebody with something in the cart.
async fn visitor(node: &Node) -> Browser {
    let browser = Browser::default();
    browser.insert(node, "cart", "tea").await.expect(200).with_cookie();
    browser
}

/// The orders in which answers may arrive; `first` is the one to come first, and to come last.
fn orders(answers: usize, first: usize, random: &mut Shuffle) -> Vec<Vec<usize>> {
    let in_order: Vec<_> = (0..answers).collect();
    let reversed: Vec<_> = in_order.iter().rev().copied().collect();
    let mut shuffled = in_order.clone();
    random.shuffle(&mut shuffled);
    let others = || in_order.iter().copied().filter(|i| *i != first);
    let login_first = std::iter::once(first).chain(others()).collect();
    let login_last = others().chain([first]).collect();
    vec![in_order.clone(), reversed, shuffled, login_first, login_last]
}

/// What one of the parallel requests does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    WriteUnseen,
    Count,
    LogIn,
}

fn send(
    browser: &Browser,
    node: &Node,
    kind: Kind,
    number: usize,
) -> std::pin::Pin<Box<dyn Future<Output = Answer> + Send>> {
    let name = format!("a{number}");
    match kind {
        Kind::Read => Box::pin(
            browser.send(node, async |session: Session| Ok(session.get::<String>("cart")?.unwrap_or_default())),
        ),
        Kind::Write => Box::pin(browser.send(node, async move |session: Session| {
            session.insert(name.as_str(), number)?;
            Ok(String::new())
        })),
        Kind::WriteUnseen => Box::pin(browser.send_lazy(node, async move |session: session_layer::LazySession| {
            session.insert(name.as_str(), number)?;
            Ok(String::new())
        })),
        Kind::Count => Box::pin(browser.send(node, async |session: Session| {
            session.increment("n", 1)?;
            session.flush().await?;
            Ok(String::new())
        })),
        Kind::LogIn => Box::pin(browser.send(node, async |session: Session| {
            session.insert("device", "laptop")?;
            session.log_in("alice")?;
            Ok(String::new())
        })),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_parallel_requests_during_a_login_lose_nothing_and_the_browser_ends_logged_in() {
    let nodes = Node::pair(&Place::shared().await).await;
    let mut random = Shuffle(1);
    let (rounds, mut refused) = (times(30, 1_000), 0);
    for round in 0..rounds {
        let before = visitor(&nodes[0]).await;
        let login = random.below(PARALLEL);
        let kinds: [Kind; PARALLEL] = std::array::from_fn(|i| match i {
            _ if i == login => Kind::LogIn,
            _ => [Kind::Read, Kind::Write, Kind::WriteUnseen, Kind::Count][i % 4],
        });
        let mut requests = JoinSet::new();
        for (i, kind) in kinds.into_iter().enumerate() {
            let answer = send(&before, &nodes[(i + round) % 2], kind, i);
            requests.spawn(async move { (i, answer.await) });
        }
        let (mut answers, mut expected, mut count) = (Vec::new(), Vec::new(), 0);
        while let Some(answer) = requests.join_next().await {
            let (i, answer) = answer.expect("no panic");
            match kinds[i] {
                Kind::LogIn => {
                    answers.push((i, answer.clone().expect(200).with_cookie()));
                    // While others are still on their way.
                    let old = before.copy();
                    assert_eq!(old.read(&nodes[round % 2], "cart").await, "", "the old ID is dead");
                    old.insert(&nodes[(round + 1) % 2], "late", "yes").await.expect_gone();
                    continue;
                }
                Kind::Read => drop(answer.clone().expect(200)),
                _ if answer.status == 409 => {
                    drop(answer.clone().expect_gone());
                    refused += 1;
                }
                Kind::Count => count += i32::from(answer.clone().expect(200).status == 200),
                Kind::Write | Kind::WriteUnseen => {
                    drop(answer.clone().expect(200));
                    expected.push(format!("a{i}"));
                }
            }
            answers.push((i, answer.without_cookie()));
        }
        let login = answers.iter().position(|(i, _)| *i == login).expect("it was answered");
        for order in orders(PARALLEL, login, &mut random) {
            let browser = before.copy();
            order.iter().for_each(|answer| browser.receive(&answers[*answer].1));
            expected.extend(["cart", "device"].map(String::from));
            expected.extend((count > 0).then(|| "n".to_owned()));
            expected.sort();
            expected.dedup();
            let act = async |session: Session| {
                let (principal, n) = (session.principal().unwrap_or_default(), session.get::<i32>("n")?.unwrap_or(0));
                Ok(format!("{principal} {n} {}", session.names().join(" ")))
            };
            let seen = browser.ask(&nodes[random.below(2)], act).await.expect(200).body;
            assert_eq!(seen, format!("alice {count} {}", expected.join(" ")), "round {round}");
        }
    }
    measured(format!("{rounds} rounds of {PARALLEL} requests during a login: {refused} late writes refused with 409"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_double_clicked_login_whose_first_answer_was_thrown_away_ends_logged_in_with_its_cart() {
    let place = Place::shared().await;
    let nodes = Node::pair(&place).await;
    let log_in = |browser: &Browser, click: usize, principal: String| {
        browser.send(&nodes[click % 2], async move |session: Session| {
            session.insert(format!("click{click}").as_str(), true)?;
            session.log_in(principal)?;
            Ok(String::new())
        })
    };
    for round in 0..times(20, 500) {
        let principal = format!("user{round}");
        let browser = visitor(&nodes[0]).await;
        // At the same time, or one after the other; both present the ID from before.
        let (first, second) =
            (log_in(&browser, round, principal.clone()), log_in(&browser, round + 1, principal.clone()));
        let (first, second) = if round % 2 == 0 {
            tokio::join!(tokio::spawn(first), tokio::spawn(second))
        } else {
            (tokio::spawn(first).await, tokio::spawn(second).await)
        };
        first.expect("no panic").expect(200);
        browser.receive(&second.expect("no panic").expect(200).with_cookie());
        for (i, node) in nodes.iter().enumerate() {
            assert_eq!(browser.principal(node).await.as_deref(), Some(&*principal));
            assert_eq!(browser.read(node, "cart").await, "\"tea\"");
            assert_eq!(browser.read(node, &format!("click{}", round + i)).await, "true");
            assert_eq!(node.sessions.of(&principal).await.expect("an answer").len(), 1);
        }
    }
    place.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_click_that_logs_in_somebody_else_gets_a_session_of_its_own() {
    let nodes = Node::pair(&Place::shared().await).await;
    let browser = visitor(&nodes[0]).await;
    let late = browser.copy();
    browser.log_in(&nodes[0], "alice").await.expect(200).with_cookie();
    late.log_in(&nodes[1], "bob").await.expect(200).with_cookie();
    assert_eq!(late.principal(&nodes[0]).await.as_deref(), Some("bob"));
    assert_eq!(late.read(&nodes[0], "cart").await, "", "what alice put in stays hers");
    assert_eq!(browser.principal(&nodes[1]).await.as_deref(), Some("alice"));
    assert_eq!(browser.read(&nodes[1], "cart").await, "\"tea\"");
}

/// A request that has loaded its session and waits before it goes on.
struct Parked {
    loaded: Semaphore,
    go: watch::Sender<bool>,
}

impl Parked {
    async fn wait(&self) {
        let mut go = self.go.subscribe();
        self.loaded.add_permits(1);
        go.wait_for(|go| *go).await.expect("the test goes on");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logout_in_one_tab_and_login_in_another_outlast_what_the_first_tab_still_had_in_flight() {
    let place = Place::shared().await;
    let nodes = Node::pair(&place).await;
    let mut random = Shuffle(2);
    for round in 0..times(10, 200) {
        let browser = visitor(&nodes[0]).await;
        browser.log_in(&nodes[0], "alice").await.expect(200);
        let before = browser.copy();

        let parked = std::sync::Arc::new(Parked { loaded: Semaphore::new(0), go: watch::Sender::new(false) });
        let late = |what: &'static str| {
            let parked = std::sync::Arc::clone(&parked);
            async move |session: Session| {
                parked.wait().await;
                match what {
                    "read" => assert_eq!(session.get::<String>("cart")?.as_deref(), Some("tea")),
                    "write" => session.insert("late", true)?,
                    "remove" => drop(session.remove("cart")?),
                    "count" => session.increment("n", 1)?,
                    "flush" => {
                        session.insert("late", true)?;
                        session.flush().await?;
                    }
                    "update" => session.update("cart", |cart: &mut Option<String>| *cart = Some("late".into())).await?,
                    "clear" => session.clear()?,
                    "cycle" => session.cycle_id()?,
                    "logout" => session.log_out()?,
                    other => panic!("{other}"),
                }
                Ok(what.to_owned())
            }
        };
        let whats = ["read", "write", "remove", "count", "flush", "update", "clear", "cycle", "logout", "read"];
        let mut requests: Vec<_> = (whats.into_iter().enumerate())
            .map(|(i, what)| tokio::spawn(before.send(&nodes[i % 2], late(what))))
            .collect();
        let unseen = std::sync::Arc::clone(&parked);
        requests.push(tokio::spawn(before.send_lazy(&nodes[0], async move |session: session_layer::LazySession| {
            unseen.wait().await;
            session.insert("late", true)?;
            Ok(String::new())
        })));
        let all = u32::try_from(requests.len()).expect("few");
        parked.loaded.acquire_many(all).await.expect("open").forget();

        browser.log_out(&nodes[round % 2]).await.expect(200).with_removal();
        browser.log_in(&nodes[(round + 1) % 2], "alice").await.expect(200).with_cookie();
        let cookie = browser.cookie();
        parked.go.send_replace(true);

        let mut answers = Vec::new();
        for (i, request) in requests.into_iter().enumerate() {
            let answer = request.await.expect("no panic");
            answers.push(match whats.get(i) {
                // A logout that comes late has nothing left to do.
                Some(&("read" | "logout")) => answer.expect(200).without_cookie(),
                _ => answer.expect_gone(),
            });
        }
        random.shuffle(&mut answers);
        answers.iter().for_each(|answer| browser.receive(answer));
        assert_eq!(browser.cookie(), cookie);
        for node in &nodes {
            assert_eq!(browser.principal(node).await.as_deref(), Some("alice"));
            assert_eq!(browser.read(node, "late").await, "");
            assert_eq!(before.principal(node).await, None, "the old session stays ended");
            assert_eq!(node.sessions.of("alice").await.expect("an answer").len(), 1);
        }
        browser.log_out(&nodes[0]).await.expect(200);
        assert_eq!(place.audit().await.get("alice"), None);
    }
    assert_eq!(place.live_sessions().await, 0, "nothing was revived under another ID");
}

/// How a session ended, and whether its tombstone names a successor.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Revoked,
    LostLogout,
    LostLogin,
    LostRenewal,
}

/// The browser's session ended on the other node, so long ago; nothing that reached the browser told it.
async fn missed(place: &Place, nodes: &[Node; 2], end: End, ago: Duration) -> Browser {
    let browser = visitor(&nodes[0]).await;
    browser.log_in(&nodes[0], "alice").await.expect(200);
    let lost = browser.copy();
    match end {
        End::Revoked => assert_eq!(nodes[1].sessions.revoke_all("alice").await.expect("an answer"), 1),
        End::LostLogout => drop(lost.log_out(&nodes[1]).await.expect(200)),
        End::LostLogin => drop(lost.log_in(&nodes[1], "alice").await.expect(200)),
        End::LostRenewal => {
            let cycle = async |session: Session| session.cycle_id().map(|()| String::new());
            drop(lost.ask(&nodes[1], cycle).await.expect(200));
        }
    }
    assert!(place.age_tombstones(ago).await > 0);
    browser
}

/// Not refused for as long as the tombstone lasts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_that_missed_the_end_starts_anew_after_the_late_window() {
    for end in [End::Revoked, End::LostLogout, End::LostLogin, End::LostRenewal] {
        let place = Place::shared().await;
        let nodes = Node::pair(&place).await;
        let linked = matches!(end, End::LostLogin | End::LostRenewal);
        let blind = |browser: &Browser| {
            browser.send_lazy(&nodes[0], async |session: session_layer::LazySession| {
                session.insert("b", 1)?;
                Ok(String::new())
            })
        };
        // Some seconds are left of the window, for a machine that stands still.
        let late = missed(&place, &nodes, end, Duration::from_secs(2)).await;
        late.insert(&nodes[0], "a", "x").await.expect_gone();
        blind(&late).await.expect_gone();
        late.ask(&nodes[1], async |session: Session| Ok(session.has_ended().to_string())).await.without_cookie();

        for writes_blindly in [false, true] {
            let late = missed(&place, &nodes, end, Duration::from_secs(11)).await;
            let before = late.cookie();
            let answer = if writes_blindly { blind(&late).await } else { late.insert(&nodes[0], "b", "1").await };
            late.receive(&answer.expect(200).with_cookie());
            assert_ne!(late.cookie(), before);
            let names = async |session: Session| Ok(session.names().join(" "));
            assert_eq!(late.ask(&nodes[1], names).await.expect(200).body, "b", "{end:?}");
            assert_eq!(late.principal(&nodes[1]).await, None);
        }

        let late = missed(&place, &nodes, end, Duration::from_secs(11)).await;
        let read = late.ask(&nodes[0], async |session: Session| Ok(session.has_ended().to_string())).await.expect(200);
        assert_eq!(read.body, "true");
        if linked {
            drop(read.without_cookie())
        } else {
            drop(read.with_removal())
        }

        // A repeated login still continues where the lost answer went.
        let late = missed(&place, &nodes, End::LostLogin, Duration::from_secs(290)).await;
        late.log_in(&nodes[0], "alice").await.expect(200).with_cookie();
        assert_eq!(late.read(&nodes[1], "cart").await, "\"tea\"");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_starts_another_session_at_once() {
    let place = Place::shared().await;
    let nodes = Node::pair(&place).await;
    for end in [End::Revoked, End::LostLogout, End::LostLogin, End::LostRenewal] {
        for ago in [0, 11] {
            let late = missed(&place, &nodes, end, Duration::from_secs(ago)).await;
            let reset = async |session: Session| {
                session.reset()?;
                session.insert("oauth_state", "x")?;
                Ok(String::new())
            };
            late.ask(&nodes[0], reset).await.expect(200).with_cookie();
            assert_eq!(late.read(&nodes[1], "oauth_state").await, "\"x\"");
            assert_eq!(late.read(&nodes[1], "cart").await, "");
        }
    }
}

#[test]
fn an_order_has_each_answer_once() {
    for order in orders(5, 3, &mut Shuffle(3)) {
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4], "{order:?}");
    }
}
