//! The same pages without a browser: what scripts get.

use std::collections::BTreeSet;
use std::time::Duration;

use cluster_tests::browser::Browser;
use cluster_tests::cluster::{self, NODES, REDIS, SENTINELS};
use cluster_tests::raw::RawRequest;
use cluster_tests::wait::{ensure, eventually};
use http::Method;
use tokio::time::Instant;

const FORM: [(&str, &str); 1] = [("content-type", "application/x-www-form-urlencoded")];

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_ended_from_another_is_gone_on_both_nodes() {
    let cluster = cluster::alone().await;
    let (desk, phone) = (Browser::new(), Browser::new());
    // Bob's, so that sessions of other tests are not in the list.
    for browser in [&phone, &desk] {
        assert_eq!(browser.log_in(cluster.nginx(), "bob", "builder").await.status, 303);
    }
    let page = desk.get(cluster.nginx(), "/account/sessions").await;
    let id = phone.session(cluster.nginx()).await["session_id"].as_str().expect("an ID").to_owned();
    assert!(page.text().contains("Where bob is logged in") && !page.text().contains(&id), "{}", page.text());
    let path = "/account/sessions/revoke";
    let ended = desk.send(cluster.nginx(), Method::POST, path, &FORM, "others=all".into()).await.expect("an answer");
    assert_eq!(ended.status, 303, "{ended:?}");
    for site in cluster.nodes() {
        assert!(phone.session(site).await["session_id"].is_null());
        assert_eq!(desk.session(site).await["account"], "bob");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sticky_visitors_stay_on_their_node_and_are_spread_over_both() {
    let cluster = cluster::shared().await;
    let mut nodes = BTreeSet::new();
    for _ in 0..30 {
        let browser = Browser::new();
        let path = "/compare/sticky/login";
        let answer =
            browser.send(cluster.nginx(), Method::POST, path, &[], Default::default()).await.expect("an answer");
        assert_eq!(answer.status, 303, "{answer:?}");
        let node = answer.node().expect("a node answered").to_owned();
        for _ in 0..5 {
            let state = browser.get(cluster.nginx(), "/compare/sticky/state").await.json();
            assert_eq!((&state["server"], state["account"].is_string()), (&node.as_str().into(), true), "{state}");
        }
        nodes.insert(node);
    }
    assert_eq!(nodes.len(), 2, "{nodes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_tells_scripts_how_it_is() {
    let cluster = cluster::alone().await;
    let master = cluster.master().await.expect("a healthy cluster has a master");
    let reader = Browser::new();
    reader.log_in_as_alice(cluster.nginx()).await;
    for site in cluster.nodes() {
        let picture = eventually("a picture in which all is well", Duration::from_secs(20), async || {
            let answer = Browser::new().send(site, Method::GET, "/api/cluster", &[], Default::default()).await?;
            let picture = answer.json();
            reader.session(site).await;
            let reads =
                picture["servers"].as_array().expect("a list").iter().filter_map(|server| server["reads"].as_u64());
            ensure(picture["mood"] == "well" && reads.sum::<u64>() > 0, || picture.to_string()).map(|()| picture)
        })
        .await;
        let names = |list: &str, field: &str| -> Vec<String> {
            let list = picture[list].as_array().expect("a list");
            list.iter().map(|one| one[field].as_str().unwrap().split(':').next().unwrap().to_owned()).collect()
        };
        assert_eq!(names("nodes", "name"), NODES.map(|(_, name)| name));
        assert_eq!(names("servers", "address"), REDIS);
        assert_eq!(names("sentinels", "address"), SENTINELS);
        assert!(picture["master"].as_str().is_some_and(|shown| shown.starts_with(master)), "{picture}");
        for server in picture["servers"].as_array().expect("a list") {
            let leads = server["address"].as_str().is_some_and(|address| address.starts_with(master));
            assert_eq!((&server["leads"], server["role"] == "master"), (&leads.into(), leads), "{server}");
            assert!(leads || server["link_up"] == true, "{server}");
        }
        let shares =
            picture["servers"].as_array().expect("a list").iter().filter_map(|server| server["read_share"].as_f64());
        let all: f64 = shares.sum();
        assert!((all - 1.0).abs() < 0.01, "all reads together are {all}: {picture}");
        assert!(picture["headline"].as_str().is_some_and(|line| line.starts_with("All is well")), "{picture}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_comes_through_nginx_as_it_is_sent_and_ends_when_its_node_drains() {
    let cluster = cluster::alone().await;
    let head = "GET /api/cluster/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut stream = RawRequest::start(cluster.nginx().port, head).await;
    let started = Instant::now();
    // The whole answer so far, until it holds this many pictures.
    let text = stream.read_until(|text| text.matches("event: picture").count() >= 4).await;
    println!("four pictures after {:.1?}", started.elapsed());
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("text/event-stream"), "{text}");
    let node = NODES.into_iter().find(|(_, name)| text.contains(&format!("x-served-by: {name}")));
    let (service, _) = node.unwrap_or_else(|| panic!("no node: {text}"));
    let asked = Instant::now();
    // Ends when the node has stopped: with the stream open it would take the whole drain.
    cluster.container(service).stop().await;
    println!("{service} stopped after {:.1?}", asked.elapsed());
    stream.answer().await.expect("it ends in order");
    assert!(asked.elapsed() < Duration::from_secs(15), "the node waited for its stream: {:.1?}", asked.elapsed());
}
