//! The dashboard while things happen to what it shows.

use cluster_tests::cluster::{self, InUse, NODES, SENTINELS};
use cluster_tests::wait::{ensure, eventually};
use jiff::Timestamp;

use super::chromium::{Chromium, SOON};

/// The new master is to be marked within a second of its election; a busy machine gets three.
const MARKED: i64 = 3_000;

/// Notes when the page first shows another master than now, by the clock of this machine.
const WATCH: &str = "
    const leader = () => document.querySelector('[data-role=master]')?.dataset.server;
    const before = leader();
    window.marked = null;
    window.silent = 0;
    new MutationObserver(() => {
        if (leader() && leader() !== before) window.marked ??= Date.now();
        if (document.getElementById('live').classList.contains('stale')) window.silent += 1;
    }).observe(document.getElementById('live'), { childList: true, subtree: true, attributes: true });
    return before";

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_shows_a_failover_while_it_happens() {
    let cluster = cluster::alone().await;
    let master = cluster.master().await.expect("a healthy cluster has a master");
    let browser = Chromium::open(cluster.nginx()).await;
    browser.goto("/cluster").await;
    live(&browser).await;
    let shown = browser.run(WATCH).await;
    assert!(shown.as_str().is_some_and(|shown| shown.starts_with(master)), "{shown} for {master}");

    // Together: Docker may take as long to say that it is dead as the failover takes.
    let in_progress = "return document.querySelector('.headline.bad') !== null";
    tokio::join!(cluster.container(master).kill(), browser.wait_for("a failover in progress", in_progress));
    browser.keep_picture("cluster-failing-over").await;
    browser.wait_for("another master", "return window.marked !== null").await;
    let marked = browser.run("return window.marked").await.as_i64().expect("a time");
    let elected = elected(&cluster).await;
    let late = marked - elected;
    println!("the new master was marked {late} ms after its election");
    assert!(late <= MARKED, "marked {late} ms after the election");
    assert_eq!(browser.run("return window.silent").await, 0, "the page was live all the while");
    browser
        .wait_for(
            "the timeline",
            "return document.querySelector('.timeline').textContent.includes('is the master now')",
        )
        .await;
    let timeline = browser.text(".timeline").await;
    for told in
        [format!("{master} does not answer"), "enough sentinels agree".to_owned(), "leads the failover".to_owned()]
    {
        assert!(timeline.contains(&told), "no {told:?} in {timeline}");
    }
    browser.keep_picture("cluster-failed-over").await;
    assert_eq!(browser.console().await, Vec::<String>::new());
    assert_eq!(browser.axe().await, Vec::<String>::new());

    cluster.container(master).start().await;
    let well = "return document.querySelector('.headline.good') !== null";
    browser.wait_for("the killed master as a replica, and all well", well).await;
    assert!(browser.text(".timeline").await.contains(&format!("{master} answers again")));
    browser.close().await;
}

/// When the first sentinel named the new master, in milliseconds since 1970: its own word, from its log.
async fn elected(cluster: &InUse) -> i64 {
    let mut times = Vec::new();
    for sentinel in SENTINELS {
        let log = cluster.container(sentinel).timed_logs("60s").await;
        let lines = log.lines().filter(|line| line.contains("+switch-master"));
        times.extend(lines.filter_map(|line| line.split(' ').next()?.parse::<Timestamp>().ok()));
    }
    // Only the last failover is of this test; the one before it was longer ago than sentinels need to tell each other.
    let last = times.iter().max().expect("a sentinel has logged it").as_millisecond();
    times.iter().map(|time| time.as_millisecond()).filter(|time| last - time < 5_000).min().expect("at least the last")
}

async fn live(browser: &Chromium) {
    browser.wait_for("a live picture", "return document.querySelector('.connection.live') !== null").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dashboard_whose_node_stops_finds_the_other_and_tells_of_it() {
    let cluster = cluster::alone().await;
    let browser = Chromium::open(cluster.nginx()).await;
    browser.goto("/cluster").await;
    live(&browser).await;
    let seen_by = browser.run("return document.querySelector('.picture').dataset.seenBy").await;
    let (service, name) = NODES.into_iter().find(|(_, name)| seen_by == *name).expect("a node of that name");
    cluster.container(service).stop().await;
    let other = format!("return document.querySelector('.picture').dataset.seenBy !== '{name}'");
    browser.wait_for("the other node's picture", &other).await;
    let told = format!("Server {name} has stopped");
    let told = format!("return document.querySelector('.timeline')?.textContent.includes('{told}') ?? false");
    browser.wait_for("word of the node that stopped", &told).await;
    cluster.container(service).start().await;
    let back = format!("return document.querySelector('.timeline').textContent.includes('Server {name} is back')");
    browser.wait_for("the node back", &back).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_finds_no_server_says_so() {
    let cluster = cluster::alone().await;
    let browser = Chromium::open(cluster.nginx()).await;
    browser.goto("/cluster").await;
    live(&browser).await;
    cluster.container("nginx").pause().await;
    browser.wait_for("a lost connection", "return document.querySelector('.connection.lost') !== null").await;
    assert!(browser.text("#connection").await.contains("Connection lost"));
    browser.keep_picture("cluster-connection-lost").await;
    cluster.container("nginx").unpause().await;
    live(&browser).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_jumps_while_the_page_is_live() {
    let cluster = cluster::shared().await;
    let browser = Chromium::open(cluster.nginx()).await;
    browser.goto("/cluster").await;
    live(&browser).await;
    // The browser's own measure of what moved without anybody having asked for it.
    browser
        .run(
            "window.moved = 0; window.pictures = 0;
             new PerformanceObserver((list) => list.getEntries().forEach((shift) => { window.moved += shift.value; }))
                .observe({ type: 'layout-shift' });
             new MutationObserver(() => { window.pictures += 1; }).observe(document.getElementById('live'), { childList: true })",
        )
        .await;
    eventually("a dozen pictures", SOON, async || {
        let pictures = browser.run("return window.pictures").await;
        ensure(pictures.as_u64().is_some_and(|count| count >= 12), || pictures.to_string())
    })
    .await;
    let moved = browser.run("return window.moved").await.as_f64().expect("a number");
    assert!(moved < 0.1, "layout shift {moved}; 0.1 is what is called good");
    browser.close().await;
}
