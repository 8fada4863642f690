use cluster_tests::browser::{Browser, COOKIE};
use cluster_tests::cluster::{self, Cluster, InUse, redis_key};
use cluster_tests::raw::RawRequest;

/// How many sessions have an attribute of this name, counted in Redis itself.
const HOW_MANY_HAVE: &str = "local n = 0
    for _, key in ipairs(redis.call('KEYS', 'session:*')) do
        if redis.call('TYPE', key).ok == 'hash' then n = n + redis.call('HEXISTS', key, ARGV[1]) end
    end
    return n";

/// Ends a session on one node while a `PUT` waits for its body on the other, and checks what the `PUT` does then.
async fn a_put_is_late(name: &str, end: impl AsyncFnOnce(&Cluster, &Browser)) -> (InUse, Browser, String) {
    let cluster = cluster::shared().await;
    let [first, second] = cluster.nodes();
    let browser = Browser::new();
    browser.log_in_as_alice(second).await;
    browser.put(second, "basket", r#"["tea"]"#).await;
    let before = browser.copy();
    let id = before.session(second).await["session_id"].as_str().expect("there is a session").to_owned();

    let cookie = before.session_cookie().expect("a login gives a cookie");
    let head = format!(
        "PUT /api/session/attributes/{name} HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {COOKIE}={cookie}\r\n\
         Content-Length: 6\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    );
    let mut put = RawRequest::start(first.port, head).await;
    // The handler is there and waits.
    put.body_is_wanted().await;
    end(&cluster, &browser).await;
    put.send(r#""late""#).await;
    let answer = put.answer().await.expect("an answer");
    assert_eq!((answer.status.as_u16(), answer.set_cookie()), (409, None), "{answer:?}");

    // Gone under its old ID, and what the request wrote is nowhere else either.
    for site in cluster.nodes() {
        let session = before.session(site).await;
        assert!(session["session_id"].is_null() && session["account"].is_null(), "{session}");
    }
    assert_eq!(cluster.redis(&["hkeys", &redis_key(&id)]).await, "@t", "only a tombstone is left");
    assert_eq!(cluster.redis(&["eval", HOW_MANY_HAVE, "0", name]).await, "0");
    (cluster, browser, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_whose_body_comes_after_the_logout_is_refused_and_revives_nothing() {
    let (_cluster, browser, _) = a_put_is_late("late-for-logout", async |cluster, browser| {
        assert_eq!(browser.log_out(cluster.nodes()[1]).await.status, 303);
    })
    .await;
    assert_eq!(browser.session_cookie(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_whose_body_comes_after_the_id_changed_is_refused_and_leaves_the_new_one_alone() {
    let (cluster, browser, id) = a_put_is_late("late-for-login", async |cluster, browser| {
        browser.log_in_as_alice(cluster.nodes()[1]).await;
    })
    .await;
    let session = browser.session(cluster.nodes()[0]).await;
    assert_eq!(session["account"], "alice");
    assert_ne!(session["session_id"], id);
    assert_eq!(session["attributes"], serde_json::json!({ "basket": ["tea"] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_was_clicked_twice_ends_logged_in_whichever_answer_comes_last() {
    let cluster = cluster::shared().await;
    let [first, second] = cluster.nodes();
    for round in 0..10 {
        let browser = Browser::new();
        assert_eq!(browser.put(first, "basket", r#"["tea"]"#).await.status, 204);
        let (one, two) = (browser.copy(), browser.copy());
        tokio::join!(one.log_in_as_alice(first), two.log_in_as_alice(second));
        for browser in [one, two] {
            for site in cluster.nodes() {
                let session = browser.session(site).await;
                assert_eq!(session["account"], "alice", "round {round}: {session}");
                assert_eq!(session["attributes"]["basket"][0], "tea", "round {round}: {session}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_still_has_the_cookie_of_a_session_that_ended_can_read_and_log_in() {
    let cluster = cluster::shared().await;
    let [first, second] = cluster.nodes();
    let browser = Browser::new();
    browser.log_in_as_alice(first).await;
    browser.put(first, "basket", r#"["tea"]"#).await;
    let behind = browser.copy();
    assert_eq!(browser.log_out(second).await.status, 303);

    let answer = behind.get(first, "/api/session").await;
    assert_eq!((answer.status.as_u16(), answer.set_cookie()), (200, None), "{answer:?}");
    let answer = behind.put(first, "basket", "1").await;
    assert_eq!((answer.status.as_u16(), answer.set_cookie()), (409, None), "{answer:?}");
    let answer = behind.log_in(second, "bob", "builder").await;
    assert_eq!(answer.status, 303, "{answer:?}");
    let session = behind.session(first).await;
    assert_eq!((&session["account"], &session["attributes"]), (&"bob".into(), &serde_json::json!({})));
}
