use bytes::Bytes;
use cluster_tests::browser::{Answer, Browser, Site};
use cluster_tests::cluster;
use http::Method;

#[tokio::test(flavor = "multi_thread")]
async fn static_files_are_served_by_nginx_and_by_nobody_else() {
    let cluster = cluster::shared().await;
    for (path, kind) in
        [("/static/style.css", "text/css"), ("/static/refresh.js", "javascript"), ("/static/icon.svg", "svg")]
    {
        let answer = Browser::new().get(cluster.nginx(), path).await;
        assert_eq!((answer.status.as_u16(), answer.node()), (200, None), "{path}");
        assert!(answer.header("content-type").is_some_and(|found| found.contains(kind)), "{path}: {answer:?}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert!(answer.header("cache-control").is_some_and(|found| found.contains("max-age")), "{path}");
        assert_eq!(answer.set_cookie(), None);
        // A node on its own, without nginx, has the same file.
        let own = Browser::new().get(cluster.nodes()[0], path).await;
        assert_eq!((own.status.as_u16(), own.node()), (200, Some("1111")), "{path}");
        assert_eq!(own.body, answer.body, "{path}");
    }
    assert_eq!(Browser::new().get(cluster.nginx(), "/static/../.env").await.status, 404);
    assert_eq!(Browser::new().get(cluster.nginx(), "/static/nothing").await.status, 404);
}

/// Debian's nginx, which stands in where no registry answers, is the oldest that the configuration is for.
#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_good_for_nginx_1_22_and_later() {
    let cluster = cluster::shared().await;
    let said = cluster.container("nginx").shell("nginx -v 2>&1 && nginx -t 2>&1").await.expect("nginx takes it");
    println!("{said}");
    assert!(said.contains("test is successful") && !said.contains("[warn]"), "{said}");
    let version = said.split("nginx/").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("a version");
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().expect("a number"));
    let version = (numbers.next(), numbers.next());
    assert!(version >= (Some(1), Some(22)), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_alive_ready_and_measured() {
    let cluster = cluster::shared().await;
    for (site, name) in cluster.nodes().into_iter().zip(["1111", "2222"]) {
        let browser = Browser::new();
        assert_eq!(browser.get(site, "/livez").await.status, 200);
        let ready = browser.get(site, "/readyz").await;
        assert_eq!((ready.status.as_u16(), ready.json()["store"].as_str()), (200, Some("up")));
        browser.session(site).await;
        let metrics = browser.get(site, "/metrics").await;
        assert!(metrics.header("content-type").is_some_and(|found| found.starts_with("text/plain")), "{metrics:?}");
        let text = metrics.text();
        assert!(text.contains(&format!(r#"demo_node_info{{server="{name}""#)), "{text}");
        assert!(text.contains("demo_store_up 1"), "{text}");
        assert!(text.contains(r#"demo_requests_total{route="/api/session",method="GET",status="200"}"#), "{text}");
    }
}

/// A login, with these headers beside it.
async fn log_in(site: Site, headers: &[(&str, &str)]) -> Answer {
    let headers = [&[("content-type", "application/x-www-form-urlencoded")], headers].concat();
    let form = Bytes::from_static(b"username=alice&password=wonderland");
    Browser::new().send(site, Method::POST, "/login", &headers, form).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn only_pages_of_the_address_that_the_browser_shows_may_change_something() {
    let cluster = cluster::shared().await;
    let nginx = cluster.nginx();
    let own = format!("http://127.0.0.1:{}", nginx.port);
    let [node_port, nginx_port] = [cluster.nodes()[0].port, nginx.port];
    for passes in [
        &[][..],
        &[("sec-fetch-site", "same-origin")],
        &[("sec-fetch-site", "none")],
        &[("origin", &own)],
        &[("origin", &own), ("sec-fetch-site", "same-origin")],
    ] {
        assert_eq!(log_in(nginx, passes).await.status, 303, "{passes:?}");
    }
    for refused in [
        &[("sec-fetch-site", "cross-site")][..],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "null")],
        &[("origin", "http://evil.example")],
        // Another port of the same machine is another origin, and so is another scheme.
        &[("origin", &format!("http://127.0.0.1:{node_port}"))],
        &[("origin", &format!("https://127.0.0.1:{nginx_port}"))],
        &[("origin", "http://127.0.0.1")],
    ] {
        let answer = log_in(nginx, refused).await;
        assert_eq!((answer.status.as_u16(), answer.set_cookie()), (403, None), "{refused:?}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_visitor_says_about_forwarding_is_overwritten() {
    let cluster = cluster::shared().await;
    // With these believed, the page of evil.example would be an own one.
    let lies = [
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "http"),
        ("forwarded", "host=evil.example;proto=http"),
        ("origin", "http://evil.example"),
    ];
    assert_eq!(log_in(cluster.nginx(), &lies).await.status, 403);
    // With this believed, the answer would tell browsers to use HTTPS from now on.
    let lie = [("x-forwarded-proto", "https")];
    let answer = Browser::new().send(cluster.nginx(), Method::GET, "/", &lie, Bytes::new()).await.expect("an answer");
    assert_eq!((answer.status.as_u16(), answer.header("strict-transport-security")), (200, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_of_a_node_has_its_security_headers_and_an_id() {
    let cluster = cluster::shared().await;
    for path in ["/", "/api/session", "/livez", "/nowhere"] {
        let answer = Browser::new().get(cluster.nginx(), path).await;
        for header in
            ["content-security-policy", "x-content-type-options", "referrer-policy", "x-request-id", "x-served-by"]
        {
            assert!(answer.header(header).is_some(), "{path} has no {header}: {answer:?}");
        }
    }
}
