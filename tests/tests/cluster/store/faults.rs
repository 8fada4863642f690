//! One server that dies, freezes, forgets, refuses or changes its mind.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster_tests::redis::{Machine, Redis, Signal};
use cluster_tests::wait::{ensure, eventually};
use session_layer::SessionId;
use session_layer::store::{Action, Loaded, RedisStore, Reply, SessionStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::{add, applied, attributes, cause, commit, connected, create, patiently, set, start, touch};

/// How long after Redis' return a store may take; asserted with three times that.
const RECOVERY: Duration = Duration::from_secs(1);
const WHILE: Duration = Duration::from_secs(10);

/// Waits until the store has noticed that its server is gone.
async fn until_down(store: &RedisStore) {
    eventually("the store knows that Redis is gone", WHILE, async || ensure(!store.is_up(), || "it is up".into()))
        .await;
}

/// How long it takes until the store works again.
async fn recovery(store: &RedisStore, id: &SessionId, since: Instant) -> Duration {
    let answer = patiently(store, WHILE, || store.load(id)).await;
    assert!(answer.is_ok(), "{:?}", answer.map_err(|error| cause(&error)));
    since.elapsed()
}

#[tokio::test]
async fn a_store_that_starts_first_finds_redis_within_a_second() {
    let machine = Machine::start::<1>().await;
    let store = RedisStore::builder(&machine.url()).build().expect("the URL is good");
    let id = SessionId::random();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!store.is_up());
    let asked = Instant::now();
    assert!(store.load(&id).await.expect_err("there is no Redis").is_unavailable());
    assert!(store.commit(&add(id, "n", 1)).await.expect_err("there is no Redis").is_unavailable());
    assert!(store.touch(&touch(id)).await.expect_err("there is no Redis").is_unavailable());
    assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
    machine.start_redis(machine.port(0), &[]).await;
    let took = recovery(&store, &id, Instant::now()).await;
    println!("found {took:?} after Redis answered first");
    assert!(took < RECOVERY * 3, "{took:?}");
    assert!(store.is_up());
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_within_a_second() {
    let machine = Machine::with_redis(&["--appendonly yes --appendfsync always"]).await;
    let store = connected(&machine.url()).await;
    let id = create(&store).await;
    machine.signal(machine.port(0), Signal::Kill).await;
    until_down(&store).await;
    machine.start_redis(machine.port(0), &["--appendonly yes"]).await;
    let took = recovery(&store, &id, Instant::now()).await;
    println!("back {took:?} after Redis answered first");
    assert!(took < RECOVERY * 3, "{took:?}");
    applied(&store, &add(id, "n", 1)).await;
}

#[tokio::test]
async fn nothing_hangs_on_a_frozen_server_and_nothing_applies_late() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let id = create(&store).await;
    machine.signal(machine.port(0), Signal::Stop).await;
    let frozen = Instant::now();
    // They reach the server's socket, where they wait for it to wake.
    let mut late = add(id, "n", 1);
    late.deadline = frozen + Duration::from_millis(900);
    let create = commit(Action::Create(SessionId::random(), start()));
    let (load, change, begin) = tokio::join!(store.load(&id), store.commit(&late), store.commit(&create));
    println!("attempts on a frozen server end after {:?}", frozen.elapsed());
    // The promise is a second; a busy machine gets its time.
    assert!(frozen.elapsed() < Duration::from_secs(3), "{:?}", frozen.elapsed());
    assert!(load.expect_err("it is frozen").is_unavailable());
    assert!(change.expect_err("it is frozen").is_unavailable());
    assert!(begin.expect_err("it is frozen").is_unavailable());
    tokio::time::sleep_until(late.deadline + Duration::from_millis(300)).await;
    machine.signal(machine.port(0), Signal::Continue).await;
    let took = recovery(&store, &id, Instant::now()).await;
    println!("back {took:?} after the server woke");
    assert!(took < RECOVERY * 3, "{took:?}");
    assert_eq!(attributes(&store, &id).await.get("n"), None, "the request had given up");
    // One whose deadline is far off was applied when the server woke, or is now; in any case once.
    assert!(matches!(store.commit(&create).await, Ok(Reply::Applied { .. })));
    assert_eq!(applied(&store, &add(id, "n", 1)).await["n"], 1);
}

#[tokio::test]
async fn a_dropped_connection_is_replaced_at_once() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let id = create(&store).await;
    let mut admin = machine.admin().await;
    let mut slowest = Duration::ZERO;
    for n in 1..=20 {
        let dropped = Instant::now();
        // One, or two while the store looks where its name leads.
        let killed = admin.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        assert_ne!(killed, ":0\r\n");
        let commit = add(id, "n", 1);
        let answer = patiently(&store, WHILE, || store.commit(&commit)).await;
        assert!(matches!(answer, Ok(Reply::Applied { counters, .. }) if counters["n"] == n));
        // From the second one on there is a pause, or a server that throws everybody out would be hammered.
        slowest = slowest.max(dropped.elapsed());
    }
    println!("20 dropped connections: replaced after {slowest:?} at most");
    // The promise is a second; a busy machine gets its time.
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
}

/// A cut connection takes answers along; the same commit sent again takes effect once.
#[tokio::test]
async fn commits_under_dropping_connections_take_effect_once() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let id = create(&store).await;
    let dropped = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let (store, dropped) = (store.clone(), Arc::clone(&dropped));
            tokio::spawn(async move {
                let mut written = 0;
                // However fast they are, some connections are cut under them.
                while written < 50 || dropped.load(Ordering::Relaxed) < 5 {
                    let commit = add(id, "n", 1);
                    let answer = patiently(&store, WHILE, || store.commit(&commit)).await;
                    assert!(matches!(answer, Ok(Reply::Applied { .. })), "{:?}", answer.map_err(|error| cause(&error)));
                    written += 1;
                }
                written
            })
        })
        .collect();
    let mut admin = machine.admin().await;
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        store.available().await;
        // The writers come 20 ms after the connection, all at once.
        tokio::time::sleep(Duration::from_millis(20 + dropped.load(Ordering::Relaxed) % 8)).await;
        admin.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        dropped.fetch_add(1, Ordering::Relaxed);
    }
    let mut written = 0;
    for writer in writers {
        written += writer.await.expect("it wrote");
    }
    println!("{written} commits over {} connections", dropped.load(Ordering::Relaxed));
    assert_eq!(attributes(&store, &id).await["n"], written.to_string());
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_loaded_within_the_attempt() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let id = create(&store).await;
    let mut admin = machine.admin().await;
    admin.command(&["SCRIPT", "FLUSH"]).await;
    assert_eq!(applied(&store, &add(id, "n", 1)).await["n"], 1);
    admin.command(&["SCRIPT", "FLUSH"]).await;
    store.touch(&touch(id)).await.expect("the script is loaded again");
    admin.command(&["SCRIPT", "FLUSH"]).await;
    applied(&store, &commit(Action::Destroy(id))).await;
    assert!(store.is_up());
}

/// In whichever moment of an attempt that is: it is repeated, and never takes effect twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_keeps_forgetting_scripts_loses_no_commit() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let id = create(&store).await;
    let mut admin = machine.admin().await;
    let flusher = tokio::spawn(async move {
        loop {
            admin.command(&["SCRIPT", "FLUSH"]).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    for n in 1..=300 {
        let commit = add(id, "n", 1);
        let answer = patiently(&store, WHILE, || store.commit(&commit)).await;
        let answer = answer.unwrap_or_else(|error| panic!("commit {n}: {}", cause(&error)));
        assert!(matches!(&answer, Reply::Applied { counters, .. } if counters["n"] == n), "{answer:?}");
    }
    flusher.abort();
}

#[tokio::test]
async fn a_full_server_refuses_what_grows_and_still_logs_out() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let (id, other) = (create(&store).await, create(&store).await);
    let mut admin = machine.admin().await;
    admin.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    for commit in [set(id, "a", "1"), commit(Action::Create(SessionId::random(), start()))] {
        let error = store.commit(&commit).await.expect_err("there is no memory");
        assert!(!error.is_unavailable() && !error.is_corrupt(), "{}", cause(&error));
        assert!(cause(&error).contains("OOM"), "{}", cause(&error));
    }
    assert!(attributes(&store, &id).await.is_empty());
    store.touch(&touch(id)).await.expect("that needs no memory");
    let logout = commit(Action::Destroy(id));
    applied(&store, &logout).await;
    applied(&store, &logout).await;
    assert!(matches!(store.load(&id).await.expect("it answers"), Loaded::Ended { successor: None, .. }));
    assert!(store.is_up(), "a full server is no dead one");
    admin.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    applied(&store, &set(other, "a", "1")).await;
}

#[tokio::test]
async fn a_wrong_password_keeps_the_store_down_until_it_is_right() {
    let machine = Machine::with_redis(&["--requirepass right"]).await;
    let port = machine.port(0);
    let mut stores = Vec::new();
    for login in ["", ":wrong@", "nobody:right@"] {
        stores.push(RedisStore::builder(&format!("redis://{login}127.0.0.1:{port}")).build().expect("the URL is good"));
    }
    let right = connected(&format!("redis://:right@127.0.0.1:{port}")).await;
    let id = create(&right).await;
    for store in &stores {
        assert!(store.load(&id).await.expect_err("nobody may read").is_unavailable());
        assert!(!store.is_up());
    }
    let mut admin = machine.admin().await;
    assert_eq!(admin.command(&["AUTH", "right"]).await, "+OK\r\n");
    admin.command(&["CONFIG", "SET", "requirepass", "wrong"]).await;
    let took = recovery(&stores[1], &id, Instant::now()).await;
    assert!(took < RECOVERY * 3, "{took:?}");
}

#[tokio::test]
async fn a_percent_encoded_password_is_the_one_that_was_meant() {
    let machine = Machine::with_redis(&["--requirepass 'p@ss/w:rd%ü'"]).await;
    let url = format!("redis://:p%40ss%2Fw%3Ard%25%C3%BC@127.0.0.1:{}", machine.port(0));
    create(&connected(&url).await).await;
}

#[tokio::test]
async fn a_server_that_becomes_a_replica_is_left_until_it_leads_again() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let id = create(&store).await;
    let mut admin = machine.admin().await;
    admin.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    assert!(store.commit(&add(id, "n", 1)).await.expect_err("it is read-only").is_unavailable());
    until_down(&store).await;
    assert!(store.load(&id).await.expect_err("a replica may be behind").is_unavailable());
    admin.command(&["REPLICAOF", "NO", "ONE"]).await;
    let took = recovery(&store, &id, Instant::now()).await;
    assert!(took < RECOVERY * 3, "{took:?}");
}

/// Without sentinels there is nobody else to turn to: the connection stays, reads work, writes wait.
#[tokio::test]
async fn missing_replicas_stop_writes_and_nothing_else() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let id = create(&store).await;
    let mut admin = machine.admin().await;
    let before = admin.command(&["CLIENT", "LIST", "TYPE", "normal"]).await;
    admin.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    for commit in [add(id, "n", 1), commit(Action::Destroy(id))] {
        let error = store.commit(&commit).await.expect_err("no replica is there");
        assert!(error.is_unavailable() && cause(&error).contains("NOREPLICAS"), "{}", cause(&error));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(attributes(&store, &id).await.is_empty());
    // Those for sessions speak RESP3.
    let ids = |list: &str| {
        let lines = list.lines().filter(|line| line.contains(" resp=3"));
        lines.filter_map(|line| Some(line.split("id=").nth(1)?.split(' ').next()?.to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(ids(&before).len(), 1, "{before}");
    assert_eq!(ids(&before), ids(&admin.command(&["CLIENT", "LIST", "TYPE", "normal"]).await));
    admin.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    assert_eq!(applied(&store, &add(id, "n", 1)).await["n"], 1);
}

#[tokio::test]
async fn the_last_clone_takes_everything_with_it() {
    let machine = Machine::with_redis(&[]).await;
    let store = connected(&machine.url()).await;
    let clone = store.clone();
    drop(store);
    create(&clone).await;
    let mut admin = machine.admin().await;
    let clients = async |admin: &mut cluster_tests::redis::Redis| {
        admin.command(&["CLIENT", "LIST", "TYPE", "normal"]).await.lines().filter(|line| line.contains("addr=")).count()
    };
    assert!(clients(&mut admin).await >= 2, "this one and the store");
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert!(tasks > 0);
    drop(clone);
    eventually("only this connection", WHILE, async || {
        let clients = clients(&mut admin).await;
        ensure(clients == 1, || format!("{clients} clients"))
    })
    .await;
    eventually("no task of the store", WHILE, async || {
        let left = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        ensure(left + 2 <= tasks, || format!("{left} of {tasks} tasks"))
    })
    .await;
}

/// A store that never got through is given up as well.
#[tokio::test]
async fn a_store_that_is_dropped_stops_trying() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("some port is free");
    let url = format!("redis://{}", listener.local_addr().expect("it listens"));
    let store = RedisStore::builder(&url).build().expect("the URL is good");
    listener.accept().await.expect("it tries");
    listener.accept().await.expect("it tries again");
    drop(store);
    tokio::time::sleep(Duration::from_millis(50)).await;
    while tokio::time::timeout(Duration::from_millis(1), listener.accept()).await.is_ok() {}
    assert!(tokio::time::timeout(Duration::from_secs(1), listener.accept()).await.is_err(), "it still tries");
}

/// Scripts of older servers write although replicas are missing.
#[tokio::test]
async fn a_server_that_is_too_old_is_not_used() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("some port is free");
    let url = format!("redis://{}", listener.local_addr().expect("it listens"));
    let store = RedisStore::builder(&url).build().expect("the URL is good");
    let (asked, mut questions) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let asked = asked.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                while let Ok(read @ 1..) = client.read(&mut buffer).await {
                    let command = String::from_utf8_lossy(&buffer[..read]).to_uppercase();
                    let hello_of_6 = "%2\r\n$5\r\nproto\r\n:3\r\n$7\r\nversion\r\n$6\r\n6.2.14\r\n";
                    let answer = match &command {
                        hello if hello.contains("HELLO") => hello_of_6,
                        _ => "-ERR unexpected\r\n",
                    };
                    let _ = asked.send(command);
                    if client.write_all(answer.as_bytes()).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    let mut connections = 0;
    while connections < 3 {
        let question = questions.recv().await.expect("it asks");
        assert!(!question.contains("SCRIPT") && !question.contains("ROLE"), "{question}");
        connections += usize::from(question.contains("HELLO"));
        assert!(!store.is_up());
    }
}

/// Nobody logs in for a while, and the server closes what is idle, or something on the way forgets it: that must not cost the
/// next login, and all that is on its way beside it, the connections.
#[tokio::test]
async fn the_connection_for_logins_is_kept_although_nobody_logs_in() {
    let machine = Machine::with_redis(&["--timeout 4"]).await;
    let store = RedisStore::builder(&machine.url()).durable_replicas(1).build().expect("the URL is good");
    store.available().await;
    let mut admin = machine.admin().await;
    let listed = async |admin: &mut Redis| {
        let list = admin.command(&["CLIENT", "LIST"]).await;
        let of_store = list.lines().filter(|line| line.contains(" resp=3"));
        let field = |line: &str, name: &str| line.split(name).nth(1)?.split(' ').next()?.parse::<u64>().ok();
        of_store.filter_map(|line| Some((field(line, "id=")?, field(line, " age=")?))).collect::<Vec<_>>()
    };
    let first = eventually("two connections, one of them for logins", WHILE, async || {
        let ids: Vec<_> = listed(&mut admin).await.into_iter().map(|(id, _)| id).collect();
        ensure(ids.len() == 2, || format!("{ids:?}")).map(|()| ids)
    })
    .await;
    eventually("connections that are older than the server lets idle ones become", WHILE, async || {
        let now = listed(&mut admin).await;
        let ids: Vec<_> = now.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, first, "one was closed");
        ensure(now.iter().all(|(_, age)| *age > 6), || format!("{now:?}"))
    })
    .await;
    let mut log_in = commit(Action::Create(SessionId::random(), start()));
    (log_in.durable, log_in.deadline) = (true, Instant::now() + Duration::from_secs(1));
    assert!(matches!(store.commit(&log_in).await, Ok(Reply::Applied { confirmed: false, .. })), "there is no replica");
}
