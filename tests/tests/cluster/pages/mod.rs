//! The pages in a real browser, on the cluster that a user runs. Pictures of all of them are left in `tests/artefacts`.

use cluster_tests::cluster;

mod chromium; // the browser
use chromium::{Chromium, DESKTOP, PHONE};

mod cookies; // what a browser makes of the layer's cookies

mod dashboard; // the cluster while things happen to it

mod http; // the same pages without a browser

#[tokio::test(flavor = "multi_thread")]
async fn refreshing_flips_the_server_and_keeps_id_time_and_login() {
    // Others' requests would take turns as well.
    let cluster = cluster::alone().await;
    let browser = Chromium::open(cluster.nginx()).await;
    browser.goto("/").await;
    browser.log_in_as_alice().await;
    let mut seen = Vec::new();
    for _ in 0..6 {
        browser.follow("#refresh").await;
        assert_eq!(browser.text("#account-name").await, "alice");
        let same = (browser.text("#session-id").await, browser.text("#created-on").await);
        seen.push((browser.text("#server").await, same));
    }
    for pair in seen.windows(2) {
        assert_ne!(pair[0].0, pair[1].0, "the server changes: {seen:?}");
        assert_eq!(pair[0].1, pair[1].1, "ID and time stay: {seen:?}");
    }

    let visits = "return Number(document.getElementById('visits').textContent)";
    let before = browser.run(visits).await.as_i64().expect("a number");
    // What somebody is typing stays while the page keeps refreshing.
    browser.fill("form[action='/attributes'] [name=name]", "half-typ").await;
    browser.click("#keep-refreshing").await;
    browser.wait_for("three more visits", &format!("{visits} >= {}", before + 3)).await;
    assert_eq!(browser.run("return document.querySelector('[name=name]').value").await, "half-typ");
    browser.click("#keep-refreshing").await;
    assert_eq!(browser.run("return document.getElementById('keep-refreshing').ariaChecked").await, "false");
    assert_eq!(browser.console().await, Vec::<String>::new());
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_javascript_everything_but_live_updates_works() {
    let cluster = cluster::shared().await;
    let browser = Chromium::open(cluster.nginx()).await;
    browser.switch_javascript_off().await;
    browser.goto("/account/sessions").await;
    browser.log_in_as_alice().await;
    assert_eq!(browser.text("h1").await, "Where alice is logged in");
    browser.goto("/").await;
    browser.fill("form[action='/attributes'] [name=name]", "colour").await;
    browser.fill("form[action='/attributes'] [name=value]", "sea green").await;
    browser.follow("form[action='/attributes'] button").await;
    assert_eq!(browser.text(".attributes tbody th").await, "colour");
    assert_eq!(browser.text(".attributes tbody td").await, "\"sea green\"");
    browser.follow("[aria-label='Remove colour']").await;
    assert!(!browser.text("main").await.contains("sea green"));
    browser.goto("/compare").await;
    browser.follow("[data-scheme=shared] a").await;
    browser.follow("form[action='/compare/shared/login'] button").await;
    for _ in 0..3 {
        browser.follow("a.button").await;
        assert!(browser.text("#account-name").await.starts_with("guest-"));
    }
    browser.goto("/cluster").await;
    assert!(browser.text(".headline").await.starts_with("All is well"));
    browser.goto("/").await;
    browser.follow("form[action='/logout'] button").await;
    browser.find("form[action='/login']").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schemes_lose_a_login_or_keep_it_as_they_say() {
    let cluster = cluster::alone().await;
    let browser = Chromium::open(cluster.nginx()).await;
    browser.goto("/compare").await;
    let attempt = async |scheme: &str, button: &str| {
        let card = format!("[data-scheme={scheme}]");
        browser.click(&format!("{card} button.{button}")).await;
        let done = format!("return !document.querySelector('{card} button').disabled");
        browser.wait_for("ten refreshes", &done).await;
        let tries = format!(
            "return [...document.querySelectorAll('{card} .tries li')].map((li) => [li.firstChild.textContent, li.className.includes('in')])"
        );
        let tries = browser.run(&tries).await;
        let tries = tries.as_array().expect("a list").iter();
        let tries: Vec<_> = tries.map(|one| (one[0].as_str().unwrap().to_owned(), one[1] == true)).collect();
        assert_eq!(tries.len(), 10);
        tries
    };

    let none = attempt("none", "try").await;
    assert_eq!(none.iter().filter(|(_, there)| *there).count(), 5, "the login flips away: {none:?}");
    assert!(none.windows(2).all(|pair| pair[0].0 != pair[1].0), "by turns: {none:?}");
    let shared = attempt("shared", "try").await;
    assert!(shared.iter().all(|(_, there)| *there), "none is lost: {shared:?}");
    assert!(shared.windows(2).all(|pair| pair[0].0 != pair[1].0), "by turns: {shared:?}");
    let sticky = attempt("sticky", "try").await;
    assert!(sticky.iter().all(|one| *one == sticky[0]) && sticky[0].1, "one server, and logged in: {sticky:?}");
    browser.keep_picture("compare-tried").await;
    assert_eq!(browser.console().await, Vec::<String>::new());
    assert_eq!(browser.axe().await, Vec::<String>::new());

    let (service, _) = cluster::NODES.into_iter().find(|(_, name)| *name == sticky[0].0).expect("a node of that name");
    cluster.container(service).stop().await;
    let lost = attempt("sticky", "again").await;
    assert!(lost.iter().all(|(server, there)| *server != sticky[0].0 && !there), "with its server it goes: {lost:?}");
    let kept = attempt("shared", "again").await;
    assert!(kept.iter().all(|(server, there)| *server != sticky[0].0 && *there), "it does not: {kept:?}");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_ended_from_another() {
    // It ends whatever other tests have of alice's.
    let cluster = cluster::alone().await;
    let (phone, desk) = (Chromium::open(cluster.nginx()).await, Chromium::open(cluster.nginx()).await);
    for browser in [&phone, &desk] {
        browser.goto("/account/sessions").await;
        browser.log_in_as_alice().await;
    }
    let this = desk.text(".devices li:first-child").await;
    assert!(this.contains("Chrome on Linux") && this.contains("this one"), "{this}");
    desk.follow("form button:not(.quiet)").await;
    assert!(desk.text(".note").await.contains("ended"));
    assert_eq!(desk.text("h2").await, "One session");
    phone.goto("/").await;
    assert!(phone.text("main").await.contains("You were logged out, here or on another device"));
    phone.close().await;
    desk.close().await;
}

/// How many of the last visits a session's page shows.
const STRIP: usize = 20;

/// Looks at each page in light and dark, on a desktop and on a phone: no console errors, nothing that the policy refuses, nothing
/// that axe finds (labels, contrast, headings, landmarks, focus), nothing wider than the screen.
#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_clean_and_accessible_in_light_and_dark_on_desktop_and_phone() {
    let cluster = cluster::shared().await;
    let browser = Chromium::open(cluster.nginx()).await;
    browser.goto("/").await;
    browser.log_in_as_alice().await;
    browser.fill("form[action='/attributes'] [name=name]", "cart").await;
    browser.fill("form[action='/attributes'] [name=value]", r#"["tea", "milk"]"#).await;
    browser.follow("form[action='/attributes'] button").await;
    let pages = [
        ("session", "/"),
        ("devices", "/account/sessions"),
        ("compare", "/compare"),
        ("scheme", "/compare/shared/"),
        ("cluster", "/cluster"),
    ];
    let mut wrong = Vec::new();
    for screen in [DESKTOP, PHONE] {
        for colours in ["light", "dark"] {
            browser.look(colours, screen).await;
            for (name, path) in pages {
                // The strip is what refreshing shows, one after the other; what was looked at in between took turns, too.
                for _ in 0..if name == "session" { STRIP } else { 1 } {
                    browser.goto(path).await;
                }
                if name == "cluster" {
                    browser
                        .wait_for("a live picture", "return document.querySelector('.connection.live') !== null")
                        .await;
                }
                let page = format!("{name}-{colours}-{}", screen.name);
                browser.keep_picture(&page).await;
                wrong.extend(browser.console().await.into_iter().map(|line| format!("{page}: {line}")));
                wrong.extend(browser.axe().await.into_iter().map(|line| format!("{page}: {line}")));
                let overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
                let overflow = browser.run(overflow).await;
                if overflow.as_i64().is_none_or(|pixels| pixels > 0) {
                    wrong.push(format!("{page}: {overflow} pixels wider than the screen"));
                }
                // axe's own doing is not the page's.
                browser.console().await;
            }
        }
    }
    // A page for who is not logged in, and one for what went wrong; their status is in the console by right.
    browser.look("light", DESKTOP).await;
    browser.goto("/nowhere").await;
    wrong.extend(browser.axe().await);
    browser.keep_picture("nowhere-light-desktop").await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    browser.close().await;
}

/// Tab goes through the page as it reads.
#[tokio::test(flavor = "multi_thread")]
async fn the_focus_goes_through_the_page_in_the_order_in_which_it_reads() {
    let cluster = cluster::shared().await;
    let browser = Chromium::open(cluster.nginx()).await;
    for path in ["/", "/compare", "/cluster"] {
        browser.goto(path).await;
        let order = browser
            .run(
                "window.all = [...document.querySelectorAll('a[href], button, input, [tabindex=\"0\"]')]
                    .filter((element) => element.type !== 'hidden' && !element.hidden && element.offsetParent !== null);
                 return window.all.length",
            )
            .await;
        let count = order.as_u64().expect("a number");
        assert!(count >= 5, "{path}: {count} things to focus");
        for place in 0..count {
            browser.press_tab().await;
            let at = browser.run("return window.all.indexOf(document.activeElement)").await;
            assert_eq!(at, place, "{path}: Tab number {place}");
            let outline = browser.run("return getComputedStyle(document.activeElement).outlineStyle").await;
            assert_eq!(outline, "solid", "{path}: one sees where the focus is");
        }
    }
    browser.close().await;
}
