use std::time::Duration;

use cluster_tests::browser::Browser;
use cluster_tests::cluster::{self, NODES, REDIS, SENTINELS};
use cluster_tests::wait::{ensure, eventually};

use crate::page::Page;

/// A cluster that starts has a minute on a busy machine.
const STARTED: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn sessions_outlive_the_nodes_that_began_them() {
    let cluster = cluster::alone().await;
    let browser = Browser::new();
    browser.log_in_as_alice(cluster.nginx()).await;
    let before = Page::visit(&browser, cluster.nginx()).await;
    for (service, name) in NODES {
        cluster.container(service).kill().await;
        // The other one serves everybody meanwhile, and no visitor notices.
        for visit in 0..4 {
            let page = Page::visit(&browser, cluster.nginx()).await;
            assert_ne!(page.server, name, "visit {visit}");
            assert_eq!((&page.session_id, page.account.as_deref()), (&before.session_id, Some("alice")));
        }
        cluster.container(service).start().await;
        eventually("the node takes part again", STARTED, async || {
            let answer = browser.get(cluster.nginx(), "/").await;
            ensure(answer.node() == Some(name), || format!("{:?} answered", answer.node()))
        })
        .await;
    }
    let after = Page::visit(&browser, cluster.nginx()).await;
    assert_eq!((after.session_id, after.created_on), (before.session_id, before.created_on));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_outlive_a_restart_of_everything() {
    let cluster = cluster::alone().await;
    let browser = Browser::new();
    browser.log_in_as_alice(cluster.nginx()).await;
    browser.put(cluster.nginx(), "basket", r#"["tea"]"#).await;
    let before = browser.session(cluster.nginx()).await;
    let ended = browser.copy();
    let other = Browser::new();
    other.log_in_as_alice(cluster.nginx()).await;
    ended.set_session_cookie(&other.session_cookie().expect("a login gives a cookie"));
    other.log_out(cluster.nginx()).await;

    // In the order in which Compose does it: those that depend on others stop first and start last.
    let nodes = NODES.map(|(service, _)| service);
    let order = [&REDIS[..], &SENTINELS, &nodes, &["nginx"]].concat();
    for service in order.iter().rev() {
        cluster.container(service).stop().await;
    }
    for service in &order {
        cluster.container(service).start().await;
    }
    for site in cluster.nodes().into_iter().chain([cluster.nginx()]) {
        let after = eventually("the session is back", STARTED, async || {
            let answer = browser.send(site, http::Method::GET, "/api/session", &[], Default::default()).await?;
            ensure(answer.status == 200, || format!("{answer:?}")).map(|()| answer.json())
        })
        .await;
        for part in ["session_id", "created_on", "account", "attributes"] {
            assert_eq!(after[part], before[part], "{part}");
        }
        assert!(ended.session(site).await["session_id"].is_null(), "a logout is kept as well");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_published_secret_is_refused_outside_development() {
    let env = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../.env")).expect(".env is there");
    let secret = env.lines().find(|line| line.starts_with("SESSION_SECRET=")).expect(".env has a secret");
    let image = &cluster::shared().await.container("app1").inspect("{{.Config.Image}}").await;
    let run = |development: &'static str| async move {
        let settings = ["--env", "REDIS_URL=memory:", "--env", secret, "--env", development];
        // Ends by itself where it starts: a port that it may not listen on is asked for last.
        let end = ["--network", "none", "--env", "LISTEN=192.0.2.1:1", image];
        cluster_tests::docker::run("docker", &[&["run", "--rm"], &settings[..], &end].concat()).await.unwrap_err()
    };
    let refused = run("SESSION_DEVELOPMENT=").await;
    assert!(refused.contains("SESSION_SECRET"), "{refused}");
    let accepted = run("SESSION_DEVELOPMENT=1").await;
    assert!(accepted.contains("LISTEN") && !accepted.contains("SESSION_SECRET: "), "{accepted}");
}
