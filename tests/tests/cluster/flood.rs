//! What one address can do to the cluster: nginx bounds it, and everybody else is served.
//!
//! nginx runs on the repository's configuration, in which this machine's address counts as private and has no limits; here it
//! has the limits of any other.

use std::time::Duration;

use bytes::Bytes;
use cluster_tests::browser::{Answer, Browser};
use cluster_tests::door::Door;
use cluster_tests::node::Node;
use cluster_tests::ports;
use cluster_tests::raw::RawRequest;
use cluster_tests::wait::{ensure, eventually};
use http::{Method, StatusCode};

const LIMITED: (&str, &str) = ("127.0.0.0/8 1;", "127.0.0.0/8 0;");

/// Two nodes that keep sessions in their memory; what is under test is in front of them.
async fn flooded(changes: &[(&str, &str)]) -> (Door, [Node; 2]) {
    let [one, two]: [u16; 2] = ports::free();
    let nodes = [Node::launch(one, "1111", "memory:").await, Node::launch(two, "2222", "memory:").await];
    let door = Door::start_with([nodes[0].site, nodes[1].site], &[&[LIMITED], changes].concat()).await;
    (door, nodes)
}

async fn put(door: &Door) -> Answer {
    let path = "/api/session/attributes/a";
    Browser::new().send(door.site, Method::PUT, path, &[], Bytes::from_static(b"1")).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_writes_from_one_address_is_answered_429() {
    let (door, _nodes) = flooded(&[]).await;
    let floods: Vec<_> = (0..4)
        .map(|_| {
            let site = door.site;
            tokio::spawn(async move {
                let mut answers = Vec::new();
                for _ in 0..250 {
                    let path = "/api/session/attributes/a";
                    let body = Bytes::from_static(b"1");
                    answers.push(Browser::new().send(site, Method::PUT, path, &[], body).await.expect("an answer"));
                }
                answers
            })
        })
        .collect();
    let started = std::time::Instant::now();
    let mut answers = Vec::new();
    for flood in floods {
        answers.extend(flood.await.expect("it ends"));
    }
    // The burst, and what the rate allows meanwhile; with room for a clock that is read late.
    let allowed = 100 + (started.elapsed().as_secs_f64() * 50.0).ceil() as usize + 10;
    let stored = answers.iter().filter(|answer| answer.status == StatusCode::NO_CONTENT).count();
    let slowed: Vec<_> = answers.iter().filter(|answer| answer.status == StatusCode::TOO_MANY_REQUESTS).collect();
    println!("{stored} of {} writes were let through, {allowed} at most", answers.len());
    assert_eq!(stored + slowed.len(), answers.len());
    assert!(stored >= 100 && stored <= allowed, "{stored} of {allowed}");
    for header in ["content-security-policy", "x-content-type-options", "referrer-policy"] {
        assert!(slowed.iter().all(|answer| answer.header(header).is_some()), "no {header}: {:?}", slowed.first());
    }
    assert!(slowed.iter().all(|answer| answer.header("strict-transport-security").is_none()), "this is plain HTTP");
    // Reading is not limited by it, and the next write is let through a moment later.
    assert_eq!(Browser::new().get(door.site, "/api/session").await.status, StatusCode::OK);
    eventually("writes are let through again", Duration::from_secs(10), async || {
        let answer = put(&door).await;
        ensure(answer.status == StatusCode::NO_CONTENT, || format!("{answer:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_a_bounded_number_of_event_streams() {
    let (door, _nodes) = flooded(&[]).await;
    let mut streams = Vec::new();
    let head = "GET /api/cluster/events HTTP/1.1\r\nHost: a\r\n\r\n";
    for _ in 0..20 {
        let mut stream = RawRequest::start(door.site.port, head).await;
        let text = stream.read_until(|text| text.contains("\r\n\r\n")).await;
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        streams.push(stream);
    }
    let mut next = RawRequest::start(door.site.port, head).await;
    let text = next.read_until(|text| text.contains("\r\n\r\n")).await;
    assert!(text.starts_with("HTTP/1.1 429"), "{text}");
    assert_eq!(Browser::new().get(door.site, "/").await.status, StatusCode::OK);
}

/// 8,300 such sockets took up all connections that nginx had.
#[tokio::test(flavor = "multi_thread")]
async fn sockets_with_half_a_request_head_shut_nobody_out_and_are_reset() {
    let (door, _nodes) = flooded(&[]).await;
    let mut halves = Vec::new();
    for _ in 0..9_000 {
        halves.push(RawRequest::start(door.site.port, "GET / HTTP/1.1\r\nHost: a\r\nCoo").await);
    }
    assert_eq!(Browser::new().get(door.site, "/").await.status, StatusCode::OK);
    for half in halves {
        // 408, or closed without an answer.
        let answer = half.answer().await;
        assert!(answer.as_ref().is_none_or(|answer| answer.status == StatusCode::REQUEST_TIMEOUT), "{answer:?}");
    }
}
