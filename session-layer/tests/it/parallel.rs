//! Requests of one session at the same time, on two nodes.

use std::collections::BTreeSet;

use crate::fixture::{App, Browser, TestStore, layer};

/// A session with `n` at 0, and a browser at each of two nodes.
async fn two_nodes() -> (TestStore, [App; 2], [Browser; 2]) {
    let store = TestStore::default();
    let apps = [(); 2].map(|()| App::new(layer(&store).build().unwrap()));
    let browser = Browser::new(&apps[0]);
    browser.run("insert n 0; insert old 1").await.expect(200);
    let other = browser.at(&apps[1]);
    (store, apps, [browser, other])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_change_different_attributes_all_take_effect() {
    let (_, apps, browsers) = two_nodes().await;
    // All have loaded before the first one commits.
    let requests: Vec<_> = (0..50)
        .map(|i| {
            let reading = if i % 3 == 0 { "get n; " } else { "" };
            browsers[i % 2].start(&format!("{reading}hold all; insert attribute_{i} {i}"))
        })
        .collect();
    for (node, app) in apps.iter().enumerate() {
        app.gate("all").reached(25).await;
        assert!(node < 2);
    }
    apps.iter().for_each(|app| app.gate("all").open_for(25));
    for request in requests {
        request.await.unwrap().expect(200).without_cookie();
    }
    let names = browsers[0].run("names").await.body;
    let names: BTreeSet<_> = names.split(',').collect();
    assert_eq!(names.len(), 52);
    assert!((0..50).all(|i| names.contains(format!("attribute_{i}").as_str())));
}

#[tokio::test]
async fn a_removed_attribute_stays_removed_whatever_requests_in_flight_do_with_others() {
    let (_, apps, [one, other]) = two_nodes().await;
    let late = one.start("get old; hold late; insert new 1");
    apps[0].gate("late").reached(1).await;
    other.run("remove old").await.says("true");
    apps[0].gate("late").open();
    late.await.unwrap().expect(200);
    one.run("names").await.says("n,new");
    // Until somebody sets it again.
    other.run("insert old 2").await.expect(200);
    one.run("get old").await.says("2");
}

#[tokio::test]
async fn the_last_of_two_requests_that_set_one_attribute_wins() {
    let (_, apps, [one, other]) = two_nodes().await;
    let late = one.start("get old; hold late; insert old 2");
    apps[0].gate("late").reached(1).await;
    other.run("insert old 3").await.expect(200);
    apps[0].gate("late").open();
    late.await.unwrap().expect(200);
    other.run("get old").await.says("2");
}

#[tokio::test]
async fn clear_removes_what_the_request_has_not_seen_too() {
    let (_, apps, [one, other]) = two_nodes().await;
    let late = one.start("names; hold late; clear; insert kept 1");
    apps[0].gate("late").reached(1).await;
    other.run("insert unseen 3").await.expect(200);
    apps[0].gate("late").open();
    late.await.unwrap().expect(200);
    other.run("names").await.says("kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_are_exact_and_each_value_is_given_once() {
    let (_, _, browsers) = two_nodes().await;
    let requests: Vec<_> = (0..1000)
        .map(|i| match i % 4 {
            0 => browsers[i % 2].start_lazy("increment n; flush n"),
            _ => browsers[i % 2].start("increment n; flush n"),
        })
        .collect();
    let mut values = BTreeSet::new();
    for request in requests {
        values.insert(request.await.unwrap().expect(200).body.parse::<i64>().unwrap());
    }
    assert_eq!(values, (1..=1000).collect());
    browsers[1].run("get n").await.says("1000");
}

#[tokio::test]
async fn increments_of_requests_that_loaded_the_same_value_add_up() {
    let (_, apps, [one, other]) = two_nodes().await;
    let late = one.start("get n; hold late; increment n 5; get n");
    apps[0].gate("late").reached(1).await;
    other.run("increment n 7").await.expect(200);
    apps[0].gate("late").open();
    // What it reads is what it has seen, plus its own; a flush would bring the exact value.
    late.await.unwrap().says("0 5");
    other.run("get n").await.says("12");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn update_is_exact_with_many_writers() {
    let (_, _, browsers) = two_nodes().await;
    let requests: Vec<_> = (0..64).map(|i| browsers[i % 2].start("add cas; push list 1")).collect();
    let mut values = BTreeSet::new();
    for request in requests {
        values.insert(request.await.unwrap().expect(200).body.parse::<i64>().unwrap());
    }
    assert_eq!(values, (1..=64).collect());
    let list = browsers[0].run("get list").await.body;
    assert_eq!(list.matches('1').count(), 64);
}

#[tokio::test]
async fn an_update_takes_what_was_changed_before_it_along_in_the_same_step() {
    use crate::fixture::Call::{Apply, Load};
    let (store, _, [one, other]) = two_nodes().await;
    store.calls();
    one.run("insert a 1; remove old; add cas; get a; get cas").await.says("true 1 1 1");
    store.expect_calls(&[Load, Apply]);
    other.run("names").await.says("a,cas,n");
    // On an attribute that this request has changed itself, too.
    one.run("insert cas 10; add cas").await.says("11");
    other.run("remove cas; add cas; get cas").await.says("true 1 1");
    one.run("increment cas 4; add cas").await.says("6");
    one.run("clear; add cas; names").await.says("1 cas");
}

#[tokio::test]
async fn an_update_starts_a_session_where_there_is_none() {
    let (store, _, [one, _]) = two_nodes().await;
    let visitor = one.other();
    visitor.run("add cas").await.says("1").with_cookie();
    visitor.run("get cas").await.says("1");
    // After a logout it is the next session that it changes.
    visitor.run("log_out; add cas").await.says("1").with_cookie();
    visitor.run("get cas").await.says("1");
    assert_eq!(store.memory.len(), 2);
}

#[tokio::test]
async fn an_update_that_meets_a_faster_writer_starts_from_what_that_one_wrote() {
    use crate::fixture::Call::Apply;
    let (store, _, [one, other]) = two_nodes().await;
    let gate = store.hold(Apply);
    let slow = one.start("add cas");
    gate.reached(1).await;
    other.run("insert cas 41").await.expect(200);
    gate.open();
    slow.await.unwrap().says("42");
    // A writer that removes it meanwhile counts as well.
    let gate = store.hold(Apply);
    let slow = one.start("add cas");
    gate.reached(1).await;
    other.run("remove cas").await.expect(200);
    gate.open();
    slow.await.unwrap().says("1");
}

#[tokio::test(start_paused = true)]
async fn an_update_that_always_loses_is_a_typed_error_and_changes_nothing() {
    use session_layer::store::{
        Action, Commit, Listed, Loaded, MemoryStore, Reply, Revocation, Revoked, SessionStore, StoreError, Touch,
    };
    use session_layer::{SessionId, SessionLayer};

    /// Somebody else is always faster.
    struct Contended(MemoryStore);

    impl SessionStore for Contended {
        async fn load(&self, id: &SessionId) -> Result<Loaded, StoreError> {
            self.0.load(id).await
        }
        async fn commit(&self, commit: &Commit) -> Result<Reply, StoreError> {
            match (&commit.action, commit.conditions.keys().next()) {
                (Action::Apply(_), Some(name)) => Ok(Reply::Conflict { name: name.clone(), current: Some("7".into()) }),
                _ => self.0.commit(commit).await,
            }
        }
        async fn sessions_of(&self, realm: &str, principal: &str) -> Result<Vec<Listed>, StoreError> {
            self.0.sessions_of(realm, principal).await
        }
        async fn revoke(&self, revocation: &Revocation) -> Result<Revoked, StoreError> {
            self.0.revoke(revocation).await
        }
        async fn touch(&self, touch: &Touch) -> Result<(), StoreError> {
            self.0.touch(touch).await
        }
    }

    let layer = SessionLayer::builder(Contended(MemoryStore::new())).secret([1; 32]).build().unwrap();
    let browser = Browser::new(&App::new(layer));
    browser.run("insert n 0").await.expect(200);
    let answer = browser.run("insert a 1; add n").await.expect(409);
    assert!(answer.error.is_some_and(|error| error.is_contended()));
    // A handler that goes on all the same does not get a 2xx past it.
    let answer = browser.run("insert a 1; try add n").await.expect(409);
    assert!(answer.error.is_some_and(|error| error.is_contended()));
    browser.run("names; get n").await.says("n 0");
}

#[tokio::test]
async fn an_updates_closure_may_look_at_the_session() {
    use session_layer::Session;
    for ended in [false, true] {
        let (store, _, [one, _]) = two_nodes().await;
        let handler = move |session: Session| async move {
            if ended {
                session.log_out().unwrap();
                session.insert("n", 5).unwrap();
            }
            let other = session.clone();
            session.update("cas", move |cas: &mut Option<i64>| *cas = other.get("n").unwrap()).await
        };
        let layer = layer(&store).build().unwrap();
        let app = axum::Router::new().route("/run", axum::routing::post(handler)).layer(layer);
        let request = one.request("/run", "");
        // On a thread of its own: should it hang, then only that one.
        let (done, answer) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            done.send(runtime.block_on(tower::ServiceExt::oneshot(app, request)).unwrap()).unwrap();
        });
        let answer = answer.recv_timeout(std::time::Duration::from_secs(20)).expect("no deadlock");
        one.receive(&crate::fixture::Answer::read(answer).await.expect(200));
        one.run("get cas").await.says(if ended { "5" } else { "0" });
    }
}

/// Each of them is a new visitor's to the node that it meets. Only the last cookie stays, and what the others stored is lost to the
/// browser; so a page should start the session before its scripts send anything.
#[tokio::test]
async fn parallel_first_requests_start_a_session_each_and_one_cookie_stays() {
    let store = TestStore::default();
    let app = App::new(layer(&store).build().unwrap());
    let browser = Browser::new(&app);
    let requests: Vec<_> = (0..4).map(|i| browser.start(&format!("hold all; insert from_{i} 1"))).collect();
    app.gate("all").reached(4).await;
    app.gate("all").open_for(4);
    for request in requests {
        browser.receive(&request.await.unwrap().expect(200).with_cookie());
    }
    assert_eq!(store.memory.len(), 4);
    browser.run("names").await.says("from_3");

    // With a session from the page's own request, nothing is lost.
    let browser = browser.other();
    browser.run("insert started 1").await.with_cookie();
    let requests: Vec<_> = (0..4).map(|i| browser.start(&format!("hold all; insert from_{i} 1"))).collect();
    app.gate("all").reached(8).await;
    app.gate("all").open_for(4);
    for request in requests {
        request.await.unwrap().expect(200).without_cookie();
    }
    browser.run("names").await.says("from_0,from_1,from_2,from_3,started");
}

/// The old ID must not read for a second longer: after a login it may be known to somebody else, which is why the ID changed.
#[tokio::test]
async fn reads_that_arrive_after_a_renewal_under_the_old_id_see_no_session() {
    for renewal in ["cycle", "log_in alice"] {
        let (store, apps, [browser, other]) = two_nodes().await;
        let old = other.copy();
        let before: Vec<_> = (0..20).map(|_| old.start("exists; hold read; get n")).collect();
        apps[1].gate("read").reached(20).await;
        browser.run(renewal).await.expect(200).with_cookie();
        let after: Vec<_> = (0..20).map(|_| old.start("exists; ended")).collect();
        for read in after {
            read.await.unwrap().says("false true").without_cookie();
        }
        // What was loaded before it is shown; the browser keeps the new cookie in either case.
        apps[1].gate("read").open_for(20);
        for read in before {
            read.await.unwrap().says("true 0").without_cookie();
        }
        browser.run("exists; get n").await.says("true 0");
        assert_eq!(store.memory.len(), 1);
    }
}
