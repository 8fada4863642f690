//! What a request gets that arrives after the end of its session: within the late window it may have been on its way when the session
//! ended; after that it is a new visitor's.

use std::time::Duration;

use session_layer::store::{Action, Commit, Loaded, MemoryStore, Reply, SessionStore, Start, TOMBSTONE_LIFETIME};
use session_layer::{AboveLimit, SessionId, Sessions};
use tokio::time::{Instant, advance};

use crate::fixture::Call::{Apply, Create, Destroy, Load, Renew};
use crate::fixture::{App, Browser, Fault, TestStore, layer, millis, minutes};

const WINDOW: Duration = Duration::from_secs(10);

struct Setup {
    store: TestStore,
    sessions: Sessions,
    app: App,
    browser: Browser,
}

/// Alice is logged in, with something in her cart.
async fn logged_in() -> Setup {
    let store = TestStore::default();
    let layer = layer(&store).max_sessions_per_principal(1, AboveLimit::EvictOldest).build().unwrap();
    let (sessions, app) = (layer.sessions(), App::new(layer));
    let browser = Browser::new(&app);
    browser.run("insert cart [1,2]; log_in alice").await.expect(200).with_cookie();
    store.calls();
    Setup { store, sessions, app, browser }
}

/// Whether the tombstone names the session that took over.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Successor {
    None,
    Linked,
}

/// All ways in which a session ends without its browser knowing.
const ENDS: [(&str, Successor); 8] = [
    ("logged out in another tab", Successor::None),
    ("the answer to its logout was lost", Successor::None),
    ("reset in another tab", Successor::None),
    ("revoked", Successor::None),
    ("evicted by the limit", Successor::None),
    ("logged in in another tab", Successor::Linked),
    ("the answer to its login was lost", Successor::Linked),
    ("the answer to its `cycle_id` was lost", Successor::Linked),
];

/// The session ended that way, so long ago. The browser still has its cookie.
async fn ended(how: &str, ago: Duration) -> Setup {
    let setup = logged_in().await;
    let (other_tab, elsewhere) = (setup.browser.copy(), setup.browser.other());
    match how {
        "logged out in another tab" => drop(other_tab.run("log_out").await.expect(200).with_removal()),
        // The browser of the setup never receives what the copy gets.
        "the answer to its logout was lost" => drop(other_tab.run("destroy").await.expect(200)),
        "reset in another tab" => drop(other_tab.run("reset").await.expect(200).with_cookie()),
        "revoked" => assert_eq!(setup.sessions.revoke_all("alice").await.unwrap(), 1),
        "evicted by the limit" => drop(elsewhere.run("log_in alice").await.expect(200)),
        "logged in in another tab" | "the answer to its login was lost" => {
            drop(other_tab.run("log_in alice").await.expect(200).with_cookie());
        }
        _ => drop(other_tab.run("cycle").await.expect(200).with_cookie()),
    }
    setup.store.calls();
    advance(ago).await;
    setup
}

const WRITES: [&str; 8] = [
    "insert a 1",
    "increment a",
    "insert a 1; flush",
    "push a 1",
    "clear; insert a 1",
    "cycle; insert a 1",
    "log_out; insert a 1",
    "remove cart; insert a 1",
];

#[tokio::test(start_paused = true)]
async fn a_write_long_after_the_end_starts_a_new_session() {
    for (how, _) in ENDS {
        for write in WRITES {
            let Setup { store, browser, .. } = ended(how, WINDOW + millis(1)).await;
            let before = browser.cookie();
            browser.run(write).await.expect(200).with_cookie();
            store.expect_calls(&[Load, Create]);
            assert_ne!(browser.cookie(), before);
            browser.run("names; principal; get cart; ended").await.says("a nobody none false");
        }
        let Setup { store, browser, .. } = ended(how, WINDOW + millis(1)).await;
        browser.lazy("insert a 1").await.expect(200).with_cookie();
        store.expect_calls(&[Apply, Create]);
        browser.lazy("increment a; flush").await.expect(200).without_cookie();
        browser.run("get a; names").await.says("2 a");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_within_the_late_window_is_refused_without_a_cookie() {
    for (how, _) in ENDS {
        for ago in [Duration::ZERO, WINDOW] {
            for write in WRITES.into_iter().chain(["remove cart", "clear", "cycle"]) {
                let Setup { store, browser, .. } = ended(how, ago).await;
                let before = store.memory.len();
                browser.run(write).await.expect(409).without_cookie();
                assert_eq!(store.memory.len(), before, "{write}, {how} {ago:?} ago");
            }
            let Setup { browser, .. } = ended(how, ago).await;
            browser.lazy("insert a 1").await.expect(409).without_cookie();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_long_after_the_end_removes_a_cookie_without_a_successor() {
    for (how, successor) in ENDS {
        for ago in [WINDOW, WINDOW + millis(1), TOMBSTONE_LIFETIME - millis(1)] {
            for read in [
                "exists; ended; get cart",
                "exists; ended; get cart; status 404",
                "exists; ended; get cart; status 500",
            ] {
                let Setup { store, browser, .. } = ended(how, ago).await;
                let answer = browser.run(read).await;
                assert_eq!(answer.body, "false true none");
                store.expect_calls(&[Load]);
                match successor {
                    Successor::None if ago > WINDOW => drop(answer.with_removal()),
                    _ => drop(answer.without_cookie()),
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_stores_nothing_long_after_the_end_is_a_read() {
    for change in ["remove cart", "clear", "cycle", "log_out", "insert a 1; log_out", "log_out; insert a 1; remove a"] {
        let Setup { store, browser, .. } = ended("revoked", WINDOW + millis(1)).await;
        browser.run(change).await.expect(200).with_removal();
        store.expect_calls(&[Load]);
        let Setup { browser, .. } = ended("the answer to its login was lost", WINDOW + millis(1)).await;
        browser.run(change).await.expect(200).without_cookie();
    }
    let Setup { store, browser, .. } = ended("revoked", WINDOW + millis(1)).await;
    browser.lazy("remove cart").await.expect(200).with_removal();
    store.expect_calls(&[Apply]);
    // What only asks whether there is a cookie learns nothing of the session.
    let Setup { browser, .. } = ended("revoked", WINDOW + millis(1)).await;
    browser.lazy("presented").await.says("true").without_cookie();
}

#[tokio::test(start_paused = true)]
async fn a_repeated_login_follows_to_the_successor_however_late() {
    for ago in [Duration::ZERO, WINDOW + millis(1), TOMBSTONE_LIFETIME - millis(1)] {
        let Setup { store, browser, .. } = ended("the answer to its login was lost", ago).await;
        browser.run("exists").await.says("false").without_cookie();
        browser.run("log_in alice").await.expect(200).with_cookie();
        browser.run("principal; get cart").await.says("alice [1,2]");
        assert_eq!(store.memory.len(), 1);
        let Setup { browser, .. } = ended("revoked", ago).await;
        browser.run("log_in alice; insert a 1").await.expect(200).with_cookie();
        browser.run("principal; names").await.says("alice a");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_counts_by_when_it_arrived_however_long_it_takes() {
    for (arrives, status) in [(WINDOW, 409), (WINDOW + millis(1), 200)] {
        for ops in ["sleep 60000; insert a 1", "sleep 60000; increment a; flush"] {
            let Setup { browser, .. } = ended("revoked", arrives).await;
            browser.lazy(ops).await.expect(status);
        }
        // The load takes long.
        let Setup { store, browser, .. } = ended("revoked", arrives).await;
        store.next(Load, Fault::Delay(Duration::from_secs(4)));
        browser.run("insert a 1").await.expect(status);
    }
    // It arrived before the end, and finds a tombstone that is older than the window.
    let Setup { browser, app, .. } = logged_in().await;
    let late = browser.start_lazy("hold late; insert a 1");
    app.gate("late").reached(1).await;
    browser.copy().run("log_out").await.expect(200);
    advance(minutes(1)).await;
    app.gate("late").open();
    late.await.unwrap().expect(409).without_cookie();
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_loaded_alive_stays_ended_however_long_ago() {
    let Setup { browser, app, store, .. } = logged_in().await;
    let late = browser.start("get cart; hold late; insert a 1");
    app.gate("late").reached(1).await;
    browser.copy().run("log_out").await.expect(200);
    advance(minutes(1)).await;
    app.gate("late").open();
    late.await.unwrap().expect(409).without_cookie();
    assert!(store.memory.is_empty());
}

#[tokio::test(start_paused = true)]
async fn has_ended_stays_true_after_the_handler_starts_another_session() {
    let Setup { browser, .. } = ended("revoked", minutes(1)).await;
    browser.run("ended; exists; insert a 1; flush; ended; exists").await.says("true false true true").with_cookie();
    browser.run("ended; get a").await.says("false 1");
}

#[tokio::test(start_paused = true)]
async fn the_late_window_can_be_set() {
    for (ago, status) in [(Duration::from_secs(60), 409), (Duration::from_secs(61), 200)] {
        let store = TestStore::default();
        let app = App::new(layer(&store).late_window(Duration::from_secs(60)).build().unwrap());
        let browser = Browser::new(&app);
        browser.run("insert a 1").await.expect(200);
        browser.copy().run("log_out").await.expect(200);
        advance(ago).await;
        browser.run("insert a 1").await.expect(status);
    }
    // Unless it is set, it is as long as the budget at least.
    let store = TestStore::default();
    let app = App::new(layer(&store).budget(Duration::from_secs(60)).build().unwrap());
    let browser = Browser::new(&app);
    browser.run("insert a 1").await.expect(200);
    browser.copy().run("log_out").await.expect(200);
    advance(Duration::from_secs(60)).await;
    browser.run("insert a 1").await.expect(409);
}

#[tokio::test(start_paused = true)]
async fn the_token_goes_and_comes_with_the_cookie_of_a_new_visitor() {
    let store = TestStore::default();
    let app = App::new(layer(&store).rollback_detection(true).persistent_cookie(true).build().unwrap());
    for (ops, removes) in [("exists", true), ("insert a 1", false)] {
        let browser = Browser::new(&app);
        browser.run("insert a 1; log_in alice").await.expect(200);
        browser.copy().run("log_out").await.expect(200);
        advance(minutes(1)).await;
        let answer = browser.run(ops).await.expect(200);
        let ends = if removes { "; Max-Age=0" } else { "; Max-Age=1800" };
        let cookies = answer.set_cookies();
        assert!(cookies.len() == 2 && cookies.iter().all(|cookie| cookie.ends_with(ends)), "{ops}: {cookies:?}");
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(browser.cookie_named("__Host-session-v").is_some(), !removes);
    }
}

// Reset.

#[tokio::test(start_paused = true)]
async fn a_reset_starts_a_new_session_whatever_became_of_the_one_before() {
    for (how, _) in ENDS {
        for ago in [Duration::ZERO, WINDOW + millis(1)] {
            for ops in ["reset", "insert b 1; reset; insert a 1", "reset; insert a 1; flush", "reset; push a 1"] {
                let Setup { store, browser, .. } = ended(how, ago).await;
                let before = browser.cookie();
                browser.run(ops).await.expect(200).with_cookie();
                store.expect_calls(&[Load, Create]);
                assert_ne!(browser.cookie(), before);
                let names = if ops == "reset" { "" } else { "a" };
                browser.run("exists; principal; names").await.says(&format!("true nobody {names}"));
            }
            let Setup { store, browser, .. } = ended(how, ago).await;
            browser.lazy("reset; insert a 1").await.expect(200).with_cookie();
            store.expect_calls(&[Renew, Create]);
            browser.run("names").await.says("a");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_ends_the_session_that_is_alive() {
    for lazy in [false, true] {
        let Setup { store, browser, .. } = logged_in().await;
        let old = browser.copy();
        let ops = "reset; insert a 1";
        if lazy { browser.lazy(ops).await } else { browser.run(ops).await }.expect(200).with_cookie();
        assert_eq!(store.memory.len(), 1);
        browser.run("exists; principal; names").await.says("true nobody a");
        old.run("exists; ended").await.says("false true");
        // A late login does not take over what was begun by somebody else.
        old.run("log_in alice").await.expect(200).with_cookie();
        old.run("principal; names").await.says("alice ");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_starts_a_session_for_a_visitor_without_one() {
    let Setup { browser, .. } = logged_in().await;
    let (visitor, blind) = (browser.other(), browser.other());
    let told = visitor.run("reset; id").await.expect(200).with_cookie().body;
    visitor.run("id; exists").await.says(&format!("{told} true"));
    blind.lazy("reset").await.expect(200).with_cookie();
    blind.run("exists").await.says("true");
    // Expired long ago.
    advance(minutes(31)).await;
    for lazy in [false, true] {
        let expired = visitor.copy();
        if lazy { expired.lazy("reset").await } else { expired.run("reset").await }.expect(200).with_cookie();
        expired.run("exists").await.says("true");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_takes_effect_also_when_the_session_ends_meanwhile() {
    for end in ["log_out", "cycle", "log_in alice"] {
        let Setup { browser, app, .. } = logged_in().await;
        let late = browser.start("get cart; hold late; reset; insert a 1");
        app.gate("late").reached(1).await;
        browser.copy().run(end).await.expect(200);
        app.gate("late").open();
        browser.receive(&late.await.unwrap().expect(200).with_cookie());
        browser.run("principal; names").await.says("nobody a");
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_after_a_reset_counts() {
    let Setup { browser, .. } = logged_in().await;
    browser.run("reset; insert a 1; log_in bob").await.expect(200).with_cookie();
    browser.run("principal; names").await.says("bob a");
    let Setup { store, browser, .. } = logged_in().await;
    browser.run("reset; insert a 1; destroy").await.expect(200).with_removal();
    store.expect_calls(&[Load, Destroy]);
    // A handler that fails starts nothing.
    let Setup { browser, .. } = logged_in().await;
    browser.run("reset; status 500").await.expect(500).without_cookie();
    browser.run("principal").await.says("alice");
}

// Stores.

#[tokio::test(start_paused = true)]
async fn a_tombstone_in_memory_ages_with_the_clock() {
    let (store, id) = (MemoryStore::new(), SessionId::random());
    let commit = |action| Commit::new(action, Instant::now() + Duration::from_secs(5));
    let start = Start { created_on: std::time::UNIX_EPOCH, principal: None };
    store.commit(&commit(Action::Create(id, start))).await.unwrap();
    store.commit(&commit(Action::Destroy(id))).await.unwrap();
    let ended = Instant::now();
    for step in [0, 10, 1, 288] {
        advance(Duration::from_secs(step)).await;
        let (successor, age) = (None, ended.elapsed());
        assert_eq!(store.load(&id).await.unwrap(), Loaded::Ended { successor, age });
        assert_eq!(store.commit(&commit(Action::Apply(id))).await.unwrap(), Reply::Ended { successor, age });
    }
    advance(Duration::from_secs(1)).await;
    assert_eq!(store.load(&id).await.unwrap(), Loaded::Absent);
}
