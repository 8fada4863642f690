use std::time::Duration;

use cluster_tests::cluster::{self, NODES};
use cluster_tests::wait::{ensure, eventually};
use load::driver::{Load, Plan};
use load::visitors::Visitors;
use tokio::time::sleep;

use super::{CALM, short_or_long};

/// What a node gets of one processor, in percent, so that it is the nodes that have too much to do, and not this machine.
const SHARE: u32 = 15;
/// How long all may take to be well again: those who wait are served or told first.
const RECOVERY: Duration = Duration::from_secs(90);

/// Half of what the nodes can do all the time; for a while three times that much comes on top.
#[tokio::test(flavor = "multi_thread")]
async fn after_twice_as_much_as_the_nodes_can_do_all_is_well_by_itself() {
    let overload = Duration::from_secs(short_or_long(10, 60));
    let cluster = cluster::alone().await;
    let throttle = async || {
        let [one, two] = NODES.map(|(node, _)| cluster.container(node));
        [one.throttle(SHARE).await, two.throttle(SHARE).await]
    };
    let capacity = {
        // As many requests as visitors, all the time: each sends the next one when it has its answer. There must be enough of
        // them: a node that has had its share rests until the next tenth of a second, and they with it.
        let visitors = Visitors::arrive(cluster.nginx(), 30, 1).await.unwrap_or_else(|error| panic!("{error}"));
        let _throttled = throttle().await;
        let plan = Plan { rate: 1000, at_most: Duration::from_secs(5) };
        let report = Load::start(plan, visitors).finish().await;
        // Of so many logins at once some are turned away; what they can do is what they did well. Logins set the limit, since
        // hashing passwords has half of the cores at most; those who want something else go on while others wait for theirs.
        ((report.total_sent() - report.failed()) as f64 / report.lasted().as_secs_f64()) as u32
    };
    let visitors = Visitors::arrive(cluster.nginx(), capacity * 2, 2).await.unwrap_or_else(|error| panic!("{error}"));
    let _throttled = throttle().await;
    let hour = Duration::from_secs(3600);
    let base = Load::start(Plan { rate: (capacity / 2).max(1), at_most: hour }, visitors.clone());
    sleep(CALM).await;
    let before = base.progress();
    let more = Load::start(Plan { rate: (capacity * 3 / 2).max(1), at_most: overload }, visitors.clone());
    sleep(overload).await;
    let over = base.elapsed();
    eventually("those who waited have their answers", RECOVERY, async || {
        let in_flight = (base.progress().in_flight, more.progress().in_flight);
        ensure(in_flight.1 == 0 && in_flight.0 <= u64::from(capacity), || format!("{in_flight:?} wait"))
    })
    .await;
    let recovered = base.elapsed();
    sleep(CALM * 2).await;
    let stopped = base.elapsed();
    let (base, more) = (base.stop().await, more.finish().await);
    let findings = visitors.verify().await;
    let good = |from: Duration, to: Duration| {
        let samples = base.samples.iter().chain(&more.samples);
        let good = samples.filter(|sample| !sample.failed && (from..to).contains(&sample.done)).count();
        good as f64 / (to - from).as_secs_f64()
    };
    println!(
        "measured: overload: the nodes can do {capacity} requests a second; of twice that for {overload:.0?} they did {:.0} a second \
         well; {} of {} failed, the longest took {:.1?}; {:.1?} later nobody waited any more, and after that {:.0} of {} a second were done well\n\
         before: {before}\nthe usual:\n{base}on top:\n{more}{findings}",
        good(over - overload, over),
        base.failed() + more.failed(),
        base.total_sent() + more.total_sent(),
        base.longest().max(more.longest()),
        recovered - over,
        good(recovered, stopped),
        (capacity / 2).max(1),
    );
    assert_eq!(before.failed, 0);
    assert!(findings.are_good() && findings.lost.count == 0, "{findings}");
    let after: Vec<_> = base.samples.iter().filter(|sample| sample.due > recovered).collect();
    assert!(!after.is_empty());
    assert!(after.iter().all(|sample| !sample.failed), "{base}");
    cluster.no_node_panicked().await;
}
