//! Logins that are clicked twice: the second click continues in the session that the first one began.

use crate::fixture::{App, Browser, TestStore, setup};

/// Somebody is logged in as bob, and both clicks log in as alice; each does what its text says after that. Both commit, one after the
/// other, as both saw the session of before.
async fn both_clicks(before: &str, first: &str, second: &str) -> (TestStore, Browser) {
    let (store, browser) = setup();
    let app = App::new(crate::fixture::layer(&store).build().unwrap());
    let browser = browser.at(&app);
    browser.run(&format!("log_in bob; {before}")).await.expect(200).with_cookie();
    let clicks = [("a", first), ("b", second)]
        .map(|(name, ops)| (name, browser.start(&format!("hold {name}; log_in alice; {ops}"))));
    for (name, _) in &clicks {
        app.gate(name).reached(1).await;
    }
    for (name, click) in clicks {
        app.gate(name).open();
        browser.receive(&click.await.unwrap().expect(200).with_cookie());
    }
    browser.run("principal").await.says("alice");
    (store, browser)
}

#[tokio::test(start_paused = true)]
async fn what_both_clicks_of_a_login_count_is_counted_twice() {
    let (store, browser) = both_clicks("insert clicks 7", "increment clicks", "increment clicks").await;
    browser.run("get clicks").await.says("2");
    assert_eq!(store.memory.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_second_click_of_a_login_removes_is_removed() {
    let (_store, browser) = both_clicks("insert hint 1", "insert hint 2", "remove hint").await;
    browser.run("names").await.says("");
}

#[tokio::test(start_paused = true)]
async fn what_is_counted_after_logging_out_starts_from_zero() {
    let (_store, browser) = setup();
    browser.run("insert clicks 7").await.expect(200).with_cookie();
    let answer =
        browser.run("log_out; increment clicks; increment clicks; remove other").await.expect(200).with_cookie();
    browser.receive(&answer);
    browser.run("get clicks; names").await.says("2 clicks");
}
