//! What can be seen of servers and sentinels from outside.

use std::time::Duration;

use cluster_tests::redis::Signal;
use cluster_tests::wait::{ensure, eventually};
use cluster_tests::watched::{FAILOVER, Watched as Cluster};
use session_layer::store::{Observation, Observed, Observer, RedisStore, Replication, SentinelEvent};
use tokio::time::{Instant, timeout};

const WHILE: Duration = FAILOVER;

async fn seen(observer: &Observer, what: &str, check: impl Fn(&Observation) -> bool) -> Observation {
    eventually(what, WHILE, async || {
        let now = observer.now();
        ensure(check(&now), || format!("{now:#?}")).map(|()| now)
    })
    .await
}

fn replication<'a>(now: &'a Observation, address: &str) -> Option<&'a Replication> {
    now.servers.iter().find(|server| server.address == address)?.replication.as_ref()
}

/// A master with two replicas that are online, three servers in all, and what all sentinels say.
fn is_whole(now: &Observation) -> bool {
    let Some(master) = &now.master else { return false };
    let Some(Replication::Master { replicas, .. }) = replication(now, master) else { return false };
    let follow = |server: &&session_layer::store::ObservedServer| matches!(&server.replication, Some(Replication::Replica { of, link_up: true, .. }) if of == master);
    now.servers.len() == 3
        && now.servers.iter().filter(follow).count() == 2
        && replicas.iter().filter(|replica| replica.online).count() == 2
        && now.sentinels.iter().all(|sentinel| sentinel.word.as_ref().is_some_and(|word| word.master == *master))
}

async fn event(observer: &mut Observer, kind: &str) -> SentinelEvent {
    let found = timeout(WHILE, async {
        loop {
            if let Observed::Event(event) = observer.next().await
                && event.kind == kind
            {
                return event;
            }
        }
    });
    found.await.unwrap_or_else(|_| panic!("no {kind} within {WHILE:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_sees_a_failover_while_it_happens_and_leaves_nothing_behind() {
    let cluster = Cluster::start().await;
    let address = |server: usize| format!("127.0.0.1:{}", cluster.machine.port(server));
    let store = RedisStore::builder(&cluster.url()).build().expect("the URL is good");
    let observer = store.observe();
    let now = seen(&observer, "a whole cluster", is_whole).await;
    assert_eq!(now.master, Some(address(0)));

    let mut events = observer.clone();
    cluster.signal(0, Signal::Kill).await;
    let killed = Instant::now();
    let down = event(&mut events, "+sdown").await;
    assert!(down.details.contains(&cluster.machine.port(0).to_string()), "{down:?}");
    let switched = event(&mut events, "+switch-master").await;
    let elected = killed.elapsed();
    let now = seen(&observer, "another master", |now| {
        let master = now.master.as_ref().filter(|master| **master != address(0));
        master.is_some_and(|master| matches!(replication(now, master), Some(Replication::Master { .. })))
    })
    .await;
    println!("elected {elected:.1?} after the kill, seen {:.0?} later", killed.elapsed() - elected);
    let master = now.master.clone().expect("it was looked for");
    assert!(switched.details.ends_with(master.rsplit(':').next().expect("a port")), "{switched:?}, {master}");
    assert_eq!(replication(&now, &address(0)), None, "a dead server says nothing");

    cluster.start_server(0, cluster.machine.port(0)).await;
    seen(&observer, "the killed master as a replica", is_whole).await;

    // Sentinels subscribe to each other's servers, but only an observer to everything that one says.
    let listeners = async || {
        let list = cluster.ask(Cluster::SENTINELS[0], &["CLIENT", "LIST"]).await?;
        Ok::<_, String>(list.matches(" psub=1").count())
    };
    assert_eq!(listeners().await, Ok(1), "clones share what they look with");
    drop(observer);
    assert_eq!(listeners().await, Ok(1), "one is left");
    drop(events);
    eventually("nobody listens", WHILE, async || {
        let count = listeners().await?;
        ensure(count == 0, || format!("{count} listen"))
    })
    .await;
}
