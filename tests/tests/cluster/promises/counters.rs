//! One attribute of one session, and 64 writers on two nodes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use session_layer::{Session, SessionError};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Answer, Browser, Node, Place, measured, times};

const TASKS: usize = 64;

/// The default.
const BUDGET: Duration = Duration::from_secs(5);

/// 64 tasks on two nodes, each of which sends its requests one after the other; what each request was answered, by its number.
async fn from_64_tasks<F>(
    browser: &Browser,
    nodes: &[Node; 2],
    each: usize,
    act: impl Fn(usize, Session) -> F + Clone + Send + Sync + 'static,
) -> Vec<(usize, Answer)>
where
    F: Future<Output = Result<String, SessionError>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (browser, node, act) = (browser.clone(), nodes[task % 2].clone(), act.clone());
        tasks.spawn(async move {
            let mut answers = Vec::new();
            for i in 0..each {
                let act = act.clone();
                let answer = browser.ask(&node, move |session| act(task * each + i, session)).await;
                answers.push((task * each + i, answer.without_cookie()));
            }
            answers
        });
    }
    tasks.join_all().await.concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_from_64_tasks_over_two_nodes_give_each_value_once() {
    let nodes = Node::pair(&Place::shared().await).await;
    let browser = Browser::default();
    browser.insert(&nodes[0], "cart", "tea").await.expect(200);
    let each = times(10, 200);
    let values = from_64_tasks(&browser, &nodes, each, |_, session| async move {
        session.increment("n", 1)?;
        let value = session.flush().await?.counter("n");
        Ok(value.expect("it was incremented").to_string())
    })
    .await;
    let values: BTreeSet<usize> =
        values.into_iter().map(|(_, answer)| answer.expect(200).body.parse().expect("a number")).collect();
    assert_eq!(values, (1..=TASKS * each).collect());
    assert_eq!(browser.read(&nodes[1], "n").await, (TASKS * each).to_string());
    measured(format!("{TASKS} tasks, two nodes, {} increments: each value once", TASKS * each));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_from_64_tasks_over_two_nodes_are_exact() {
    let nodes = Node::pair(&Place::shared().await).await;
    let (each, rounds, most, mut lost) = (10, times(1, 20), Arc::new(AtomicUsize::new(0)), 0);
    for _ in 0..rounds {
        let browser = Browser::default();
        browser.insert(&nodes[0], "cart", "tea").await.expect(200);
        let seen = Arc::clone(&most);
        let answers = from_64_tasks(&browser, &nodes, each, move |item, session| {
            let most = Arc::clone(&seen);
            async move {
                let mut tries = 0;
                let push = |list: &mut Option<Vec<usize>>| {
                    tries += 1;
                    most.fetch_max(tries, Ordering::Relaxed);
                    let list = list.get_or_insert_default();
                    list.push(item);
                    list.len()
                };
                // What is set beside it is written in the same step.
                session.insert(format!("task{}", item % TASKS).as_str(), item)?;
                session.update("list", push).await.map(|length| length.to_string())
            }
        })
        .await;
        let (mut lengths, mut items) = (BTreeSet::new(), BTreeSet::new());
        for (item, answer) in answers {
            // Who was always slower is told so.
            if answer.error.as_ref().is_some_and(SessionError::is_contended) {
                lost += 1;
                continue;
            }
            lengths.insert(answer.expect(200).body.parse::<usize>().expect("a number"));
            items.insert(item);
        }
        assert_eq!(lengths, (1..=items.len()).collect(), "nobody saw what somebody else saw");
        let list: Vec<usize> = serde_json::from_str(&browser.read(&nodes[1], "list").await).expect("a list");
        assert_eq!(list.len(), items.len(), "no item is there twice");
        assert_eq!(list.into_iter().collect::<BTreeSet<_>>(), items);
    }
    let (all, most) = (TASKS * each * rounds, most.load(Ordering::Relaxed));
    assert!(lost * 20 <= all, "{lost} of {all} updates were always slower than others");
    measured(format!(
        "{TASKS} tasks, two nodes, {all} updates of one list: exact; {most} tries at most, {lost} refused with 409"
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_that_loses_each_time_is_a_conflict_and_writes_nothing() {
    let nodes = Node::pair(&Place::shared().await).await;
    let browser = Browser::default();
    browser.insert(&nodes[0], "list", "0").await.expect(200);
    let (rival, other, started) = (browser.clone(), nodes[1].clone(), Instant::now());
    let answer = browser.ask(&nodes[0], async move |session: Session| {
        session.insert("beside", true)?;
        let mut tries = 0;
        let outcome = session
            .update("list", |list: &mut Option<String>| {
                tries += 1;
                // Between this request's reading and its writing somebody else writes, each time.
                let value = tries.to_string();
                let faster = rival.insert(&other, "list", &value);
                let faster = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(faster));
                faster.expect(200);
                *list = Some("mine".to_owned());
            })
            .await;
        let error = outcome.expect_err("it loses each time");
        assert!(error.is_contended(), "{error}");
        measured(format!("an update that always loses: a typed error after {tries} tries"));
        Err(error)
    });
    let answer = answer.await;
    assert!(answer.error.as_ref().is_some_and(SessionError::is_contended), "{answer:?}");
    assert!(started.elapsed() < 2 * BUDGET, "{:?}", started.elapsed());
    answer.expect(409).without_cookie();
    assert_ne!(browser.read(&nodes[0], "list").await, "\"mine\"");
    assert_eq!(browser.read(&nodes[0], "beside").await, "", "nothing of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_that_cannot_count_is_a_conflict_and_nothing_of_that_commit_is_applied() {
    let nodes = Node::pair(&Place::shared().await).await;
    for (stored, by) in [
        ("\"text\"", 1),
        ("\"1\"", 1),
        ("1.5", 1),
        ("1e3", 1),
        ("-0", 1),
        ("true", 1),
        ("null", 1),
        ("[1]", 1),
        ("9223372036854775807", 1),
        ("-9223372036854775808", -1),
        ("9223372036854775807", -1),
        ("1000000000000000000", 0),
        ("99999999999999999999999", 1),
    ] {
        let browser = Browser::default();
        let put = async move |session: Session| {
            session.insert_json("n", stored)?;
            session.insert("old", true)?;
            session.insert("ok", 1)?;
            Ok(String::new())
        };
        browser.ask(&nodes[0], put).await.expect(200);
        // By a handler that looks, one that does not, and one that flushes.
        for how in ["loaded", "lazy", "flush"] {
            let change = async move |session: Session| {
                session.insert("new", true)?;
                session.remove("old")?;
                session.increment("ok", 1)?;
                session.increment("n", by)?;
                if how == "flush" {
                    session.flush().await?;
                }
                Ok(String::new())
            };
            let answer = if how == "lazy" {
                let change = async move |session: session_layer::LazySession| {
                    session.insert("new", true)?;
                    session.remove("old")?;
                    session.increment("ok", 1)?;
                    session.increment("n", by)?;
                    Ok(String::new())
                };
                browser.send_lazy(&nodes[1], change).await
            } else {
                browser.ask(&nodes[1], change).await
            };
            assert!(answer.error.as_ref().is_some_and(SessionError::is_not_a_counter), "{stored} {how}: {answer:?}");
            answer.expect(409).without_cookie();
            let all = async |session: Session| {
                let raw = |name: &String| String::from_utf8(session.raw(name.as_str()).unwrap().to_vec()).unwrap();
                Ok(session.names().iter().map(|name| format!("{name}={}", raw(name))).collect::<Vec<_>>().join(" "))
            };
            let seen = browser.ask(&nodes[0], all).await.expect(200).body;
            assert_eq!(seen, format!("n={stored} ok=1 old=true"), "{how}");
        }
    }
    // The largest that counts, and back.
    let browser = Browser::default();
    let put = async |session: Session| session.insert_json("n", "999999999999999999").map(|()| String::new());
    browser.ask(&nodes[0], put).await.expect(200);
    for (by, then) in [(1, "1000000000000000000"), (0, "")] {
        let add = async move |session: Session| session.increment("n", by).map(|()| String::new());
        let answer = browser.ask(&nodes[1], add).await;
        match then {
            "" => assert_eq!(answer.status, 409, "19 digits are one too many to go on from"),
            then => assert_eq!(browser.read(&nodes[0], "n").await, then),
        }
    }
}
