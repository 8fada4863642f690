//! Answers that are lost, and attempts that are given up: a commit takes effect once, or not at all.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cluster_tests::lossy::Lossy;
use cluster_tests::redis::{Machine, Signal};
use cluster_tests::wait::{ensure, eventually};
use session_layer::{LazySession, Session};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::{Answer, Browser, Node, Place, measured, times};

/// Two nodes whose answers get lost on the way, and one that hears everything.
struct Net {
    place: Place,
    proxies: [Lossy; 2],
    lossy: [Node; 2],
    clean: Node,
}

impl Net {
    async fn start() -> Self {
        let place = Place::shared().await;
        let proxies = [Lossy::start(place.address()).await, Lossy::start(place.address()).await];
        let [first, second] = [0, 1].map(|i| place.through(proxies[i].port()));
        // An answer may be lost several times in a row, and each time there is another connection to be made.
        let patient = async |place| Node::with(place, |layer| layer.budget(Duration::from_secs(60))).await;
        let lossy = [patient(&first).await, patient(&second).await];
        Self { clean: Node::start(&place).await, place, proxies, lossy }
    }

    fn lose_every(&self, n: u64) {
        self.proxies.iter().for_each(|proxy| proxy.lose_every(n));
    }

    /// Ends the losing, and tells how many were lost.
    fn lost(&self) -> u64 {
        self.lose_every(0);
        self.proxies.iter().map(Lossy::lost).sum()
    }
}

/// Does something `n` times, `at_once` of them at a time, and gives what came of each in no order.
async fn each<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    n: usize,
    at_once: usize,
    act: impl Fn(usize) -> F,
) -> Vec<T> {
    let (mut tasks, mut done) = (JoinSet::new(), Vec::with_capacity(n));
    for i in 0..n {
        if tasks.len() == at_once {
            done.extend(tasks.join_next().await.map(|task| task.expect("no panic")));
        }
        tasks.spawn(act(i));
    }
    done.extend(tasks.join_all().await);
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_whose_answers_get_lost_count_exactly_once() {
    let net = Net::start().await;
    let browser = Browser::default();
    browser.insert(&net.clean, "cart", "tea").await.expect(200);
    let n = times(500, 10_000);
    let every = times(20, 100);
    net.lose_every(every as u64);
    let values = each(n, 16, |i| {
        let answer = browser.send(&net.lossy[i % 2], async |session: Session| {
            session.increment("n", 1)?;
            let value = session.flush().await?.counter("n").expect("it was incremented");
            // A second commit of the same request, with the answer.
            session.increment("answers", 1)?;
            Ok(value.to_string())
        });
        async {
            let started = Instant::now();
            (answer.await, started.elapsed())
        }
    })
    .await;
    let lost = net.lost();
    let (values, times): (Vec<_>, Vec<_>) = values.into_iter().unzip();
    let slowest = times.into_iter().max().unwrap_or_default();
    let values: BTreeSet<usize> = values.into_iter().map(|answer| answer.expect(200).body.parse().unwrap()).collect();
    assert_eq!(values, (1..=n).collect(), "each value is given once");
    assert_eq!(browser.read(&net.clean, "n").await, n.to_string());
    assert_eq!(browser.read(&net.clean, "answers").await, n.to_string());
    assert!(lost as usize >= n / every, "only {lost} answers were lost");
    measured(format!(
        "{n} increments, two commits each, {lost} answers lost: exactly {n}; the slowest took {slowest:?}"
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_and_logouts_whose_answers_get_lost_take_effect_once_and_nobody_is_logged_out_or_revived() {
    let net = Arc::new(Net::start().await);
    let n = times(50, 1_000);
    net.lose_every(5);
    let browsers = each(n, 8, |i| {
        let net = Arc::clone(&net);
        async move {
            let browser = Browser::default();
            browser.insert(&net.clean, "cart", "tea").await.expect(200);
            let before = browser.copy();
            browser.log_in(&net.lossy[i % 2], &format!("user{i}")).await.expect(200).with_cookie();
            before.insert(&net.clean, "late", "yes").await.expect_gone();
            (i, browser)
        }
    })
    .await;
    let (logins, lost_logins) = (browsers.len(), net.lost());
    assert_eq!(net.place.audit().await, (0..n).map(|i| (format!("user{i}"), 1)).collect());
    for (i, browser) in &browsers {
        assert_eq!(browser.principal(&net.clean).await, Some(format!("user{i}")));
        assert_eq!(browser.read(&net.clean, "cart").await, "\"tea\"");
    }

    net.lose_every(5);
    let ended = each(n, 8, |i| {
        let (net, browser) = (Arc::clone(&net), browsers[i].1.clone());
        async move {
            let before = browser.copy();
            if i % 2 == 0 {
                browser.log_out(&net.lossy[0]).await.expect(200).with_removal();
                before.insert(&net.clean, "late", "yes").await.expect_gone();
            }
            before
        }
    });
    ended.await;
    let lost = net.lost();
    let expected = browsers.iter().enumerate().filter(|(place, _)| place % 2 == 1);
    assert_eq!(net.place.audit().await, expected.map(|(_, (i, _))| (format!("user{i}"), 1)).collect());
    assert!(lost_logins as usize >= n / 5 && lost > lost_logins, "{lost_logins} and {lost} answers were lost");
    measured(format!(
        "{logins} logins, {} logouts, {lost} answers lost: each once, nobody logged out or revived",
        n / 2
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creating_updating_renewing_and_revoking_take_effect_once_when_answers_get_lost() {
    let net = Arc::new(Net::start().await);
    let n = times(40, 1_000);
    net.lose_every(6);

    // One session each, with the ID that the browser was told.
    let browsers = each(n, 8, |i| {
        let net = Arc::clone(&net);
        async move {
            let browser = Browser::default();
            browser.insert(&net.lossy[i % 2], "cart", "tea").await.expect(200).with_cookie();
            browser
        }
    })
    .await;
    assert_eq!(net.place.live_sessions().await, n);

    // A list to which both nodes add: no item is missing, none is there twice. Two at a time, since a try that lost has an answer to
    // lose as well.
    let pushed = each(n, 2, |i| {
        browsers[0].send(&net.lossy[i % 2], async move |session: Session| {
            session.update("list", |list: &mut Option<Vec<usize>>| list.get_or_insert_default().push(i)).await?;
            Ok(String::new())
        })
    });
    pushed.await.into_iter().for_each(|answer| drop(answer.expect(200)));
    let mut list: Vec<usize> = serde_json::from_str(&browsers[0].read(&net.clean, "list").await).unwrap();
    list.sort_unstable();
    assert_eq!(list, (0..n).collect::<Vec<_>>());

    // Renewals: the session goes on under the one ID that was sent.
    each(n, 8, |i| {
        let (net, browser) = (Arc::clone(&net), browsers[i].clone());
        async move {
            let before = browser.copy();
            let cycle = async |session: Session| session.cycle_id().map(|()| String::new());
            browser.ask(&net.lossy[i % 2], cycle).await.expect(200).with_cookie();
            assert_eq!(browser.read(&net.clean, "cart").await, "\"tea\"");
            before.insert(&net.clean, "late", "yes").await.expect_gone();
        }
    })
    .await;
    assert_eq!(net.place.live_sessions().await, n);

    // Revocations: the number is right, although the sessions were gone when the question was repeated.
    each(n, 8, |i| {
        let (net, browser) = (Arc::clone(&net), browsers[i].clone());
        async move { drop(browser.log_in(&net.clean, &format!("user{}", i / 2)).await.expect(200)) }
    })
    .await;
    let ended = each(n / 2, 8, |user| {
        let net = Arc::clone(&net);
        async move { net.lossy[user % 2].sessions.revoke_all(&format!("user{user}")).await.expect("an answer") }
    });
    assert_eq!(ended.await, vec![2; n / 2]);
    assert_eq!(net.place.live_sessions().await, 0);
    let lost = net.lost();
    assert!(lost as usize >= n / 2, "only {lost} answers were lost");
    measured(format!("{n} each of create, update, renew, and {} revoke_all; {lost} answers lost: each once", n / 2));
}

const BUDGET: Duration = Duration::from_millis(400);

/// All that a request can change, each on a session of its own, waiting for the word before it is committed.
struct Waiting {
    requests: Vec<JoinHandle<Answer>>,
    go: watch::Sender<bool>,
}

impl Waiting {
    /// `patient` prepares the sessions; so little time as `nodes` have is meant for what comes after that.
    async fn park(patient: &Node, nodes: &[Node; 2], of_each: usize) -> Self {
        let go = watch::Sender::new(false);
        let mut requests = Vec::new();
        for what in ["insert", "count", "update", "log_in", "log_out", "cycle", "create", "blind"] {
            for i in 0..of_each {
                let browser = Browser::default();
                if what != "create" {
                    browser.insert(patient, "cart", "tea").await.expect(200);
                }
                if what == "log_out" {
                    browser.log_in(patient, "alice").await.expect(200);
                }
                let request = loop {
                    let (here, parked) = oneshot::channel();
                    let request = Self::request(what, &browser, &nodes[i % 2], here, go.subscribe());
                    // One that could not even load its session in time changes nothing either, and is not meant here.
                    if parked.await.is_ok() {
                        break request;
                    }
                };
                requests.push(request);
            }
        }
        Self { requests, go }
    }

    fn request(
        what: &'static str,
        browser: &Browser,
        node: &Node,
        here: oneshot::Sender<()>,
        mut go: watch::Receiver<bool>,
    ) -> JoinHandle<Answer> {
        let parked = async move {
            here.send(()).expect("the test waits for it");
            go.wait_for(|go| *go).await.expect("the test goes on");
        };
        if what == "blind" {
            return tokio::spawn(browser.send_lazy(node, async move |session: LazySession| {
                parked.await;
                session.insert("late", true)?;
                Ok(String::new())
            }));
        }
        tokio::spawn(browser.send(node, async move |session: Session| {
            parked.await;
            match what {
                "count" => session.increment("late", 1)?,
                "update" => session.update("cart", |cart: &mut Option<String>| *cart = None).await?,
                "log_in" => session.log_in("late")?,
                "log_out" => session.log_out()?,
                "cycle" => session.cycle_id()?,
                _ => session.insert("late", true)?,
            }
            Ok(String::new())
        }))
    }

    /// Lets them commit to a frozen server: all give up, in time, and no browser is told anything.
    async fn give_up(self) {
        let started = Instant::now();
        self.go.send_replace(true);
        for request in self.requests {
            let answer = request.await.expect("no panic");
            assert!(answer.error.as_ref().is_some_and(session_layer::SessionError::is_unavailable), "{answer:?}");
            answer.expect(503).without_cookie();
        }
        let took = started.elapsed();
        assert!((BUDGET..BUDGET * 4).contains(&took), "a budget of {BUDGET:?} was over after {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_given_up_at_the_end_of_the_budget_never_applies() {
    let machine = Machine::with_redis(&[]).await;
    let place = Place::on(machine.port(0));
    let node = async || Node::with(&place, |layer| layer.budget(BUDGET)).await;
    let (patient, nodes) = (Node::start(&place).await, [node().await, node().await]);
    for of_each in [5, times(5, 50)] {
        let waiting = Waiting::park(&patient, &nodes, of_each).await;
        let all = waiting.requests.len() as u64;
        let before = place.content().await;
        let mut admin = machine.admin().await;
        admin.command(&["CONFIG", "RESETSTAT"]).await;

        // Shorter than the watchdog's patience: the connections last, and what they carried waits in the server's socket.
        machine.signal(machine.port(0), Signal::Stop).await;
        waiting.give_up().await;
        machine.signal(machine.port(0), Signal::Continue).await;
        eventually("a server that reads what had been sent to it", Duration::from_secs(10), async || {
            let scripts = machine.admin().await.calls().await.get("evalsha").copied().unwrap_or(0);
            ensure(scripts >= all, || format!("{scripts} of {all} scripts"))
        })
        .await;
        assert_eq!(place.content().await, before);
    }

    // Longer than that: the connections are given up as well, before anything else can be sent on them.
    let waiting = Waiting::park(&patient, &nodes, 5).await;
    let before = place.content().await;
    machine.signal(machine.port(0), Signal::Stop).await;
    waiting.give_up().await;
    for node in &nodes {
        eventually("a node that has left the frozen server", Duration::from_secs(10), async || {
            ensure(!node.store.is_up(), || "still there".to_owned())
        })
        .await;
    }
    machine.signal(machine.port(0), Signal::Continue).await;
    for node in &nodes {
        eventually("a node that is back", Duration::from_secs(10), async || {
            ensure(node.store.is_up(), || "not yet".to_owned())
        })
        .await;
    }
    assert_eq!(place.content().await, before);
    place.audit().await;
}
