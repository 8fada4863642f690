//! What each kind of trouble means to the connection: to leave the server, to ask the sentinels, or to go on.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster_tests::lossy::Lossy;
use cluster_tests::redis::{self, MASTER_NAME, Machine};
use cluster_tests::resp;
use cluster_tests::wait::{ensure, eventually};
use session_layer::store::{RedisStore, Reply, SessionStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{add, applied, cause, connected, create, patiently};

const WHILE: Duration = Duration::from_secs(10);
/// How soon a server is given up that one should not wait for; asserted with three times that.
const GIVEN_UP: Duration = Duration::from_secs(1);

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A sentinel as far as a client sees one: says whom it is told to say, and counts how often it was asked.
struct Sentinel {
    address: SocketAddr,
    master: watch::Sender<u16>,
    asked: Arc<AtomicU64>,
    _task: JoinSet<()>,
}

impl Sentinel {
    async fn start(master: u16) -> Self {
        let listener = TcpListener::bind(local(0)).await.expect("some port is free");
        let address = listener.local_addr().expect("it listens");
        let (master, named) = watch::channel(master);
        let asked = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&asked);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                clients.spawn(Self::talk(client, named.clone(), Arc::clone(&counter)));
            }
        });
        Self { address, master, asked, _task: task }
    }

    async fn talk(mut client: TcpStream, named: watch::Receiver<u16>, asked: Arc<AtomicU64>) {
        let mut said = Vec::new();
        while let Ok(1..) = client.read_buf(&mut said).await {
            let mut answer = String::new();
            while let Some(length) = resp::length(&said) {
                let command = String::from_utf8_lossy(&said[..length]).to_uppercase();
                said.drain(..length);
                let port = named.borrow().to_string();
                answer += &match &command {
                    address if address.contains("GET-MASTER-ADDR-BY-NAME") => {
                        asked.fetch_add(1, Ordering::SeqCst);
                        format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len())
                    }
                    master if master.contains("SENTINEL") => "*2\r\n$12\r\nconfig-epoch\r\n$1\r\n7\r\n".to_owned(),
                    client if client.contains("CLIENT") => ":1\r\n".to_owned(),
                    _ => "+OK\r\n".to_owned(),
                };
            }
            if client.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn url(&self) -> String {
        format!("redis-sentinel://{}@{}/{MASTER_NAME}", redis::login(), self.address)
    }
}

/// The IDs of the connections that stores have to a server.
async fn connections(machine: &Machine, port: u16) -> BTreeSet<String> {
    let list = machine.redis(port).await.expect("it runs").command(&["CLIENT", "LIST", "TYPE", "normal"]).await;
    let stores = list.lines().filter(|line| line.contains(" resp=3"));
    stores.filter_map(|line| line.split("id=").nth(1)?.split(' ').next().map(str::to_owned)).collect()
}

#[tokio::test]
async fn what_each_error_of_the_server_means() {
    enum Means {
        /// Not a master to talk to: another connection, and the attempt is repeated.
        Leave,
        /// The attempt is repeated, on the same connection.
        Repeat,
        /// The attempt has failed.
        Fail,
    }
    use Means::*;
    let machine = Machine::with_redis(&[]).await;
    let proxy = Lossy::start(local(machine.port(0))).await;
    let store = connected(&redis::url(proxy.port())).await;
    let id = create(&store).await;
    for (error, means) in [
        ("READONLY You can't write against a read only replica.", Leave),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", Leave),
        ("LOADING Redis is loading the dataset in memory", Leave),
        ("NOAUTH Authentication required.", Leave),
        ("NOREPLICAS Not enough good replicas to write.", Repeat),
        ("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", Repeat),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Repeat),
        ("CLUSTERDOWN The cluster is down", Repeat),
        ("OOM command not allowed when used memory > 'maxmemory'.", Fail),
        ("MISCONF Errors writing to the AOF file: No space left on device", Fail),
        ("NOPERM User nobody has no permissions to run the 'evalsha' command", Fail),
        ("ERR something that nobody has thought of", Fail),
    ] {
        let before = connections(&machine, machine.port(0)).await;
        proxy.fail_next(error);
        let answer = store.commit(&add(id, "n", 1)).await.expect_err(error);
        assert!(cause(&answer).contains(error), "{}", cause(&answer));
        assert_eq!(answer.is_unavailable(), !matches!(means, Fail), "{error}");
        assert!(!answer.is_corrupt(), "{error}");
        if let Leave = means {
            eventually("another connection", WHILE, async || {
                let now = connections(&machine, machine.port(0)).await;
                ensure(!now.is_empty() && now.is_disjoint(&before), || format!("{error}: still {now:?}"))
            })
            .await;
        }
        let commit = add(id, "n", 1);
        let repeated = patiently(&store, WHILE, || store.commit(&commit)).await;
        assert!(matches!(repeated, Ok(Reply::Applied { .. })), "{error}");
        if !matches!(means, Leave) {
            assert_eq!(connections(&machine, machine.port(0)).await, before, "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_speaks_against_a_master_the_sentinels_are_asked_and_followed() {
    let machine = Machine::start::<2>().await;
    let mut proxies = Vec::new();
    for server in [0, 1] {
        machine.start_redis(machine.port(server), &[]).await;
        proxies.push(Lossy::start(local(machine.port(server))).await);
    }
    let sentinel = Sentinel::start(proxies[0].port()).await;
    let store = connected(&sentinel.url()).await;
    // In each, so that every commit meets a session wherever it goes.
    let id = create(&store).await;
    let other = connected(&machine.url().replace(&machine.port(0).to_string(), &machine.port(1).to_string())).await;
    let start = session_layer::store::Action::Create(id, super::start());
    applied(&other, &super::commit(start)).await;

    let mut now = 0;
    for trouble in ["READONLY no", "MASTERDOWN no", "LOADING no", "NOREPLICAS no", "closed", "silent"] {
        let next = 1 - now;
        let commit = add(id, "n", 1);
        match trouble {
            "closed" => {
                let ids = connections(&machine, machine.port(now)).await;
                let mut admin = machine.redis(machine.port(now)).await.expect("it runs");
                for id in ids {
                    admin.command(&["CLIENT", "KILL", "ID", &id]).await;
                }
            }
            // For good, so it comes last.
            "silent" => proxies[now].go_dark_after(0),
            error => proxies[now].fail_next(error),
        }
        let asked = sentinel.asked.load(Ordering::SeqCst);
        sentinel.master.send_replace(proxies[next].port());
        let since = Instant::now();
        let answer = patiently(&store, WHILE, || store.commit(&commit)).await;
        assert!(matches!(answer, Ok(Reply::Applied { .. })), "{trouble}: {:?}", answer.map_err(|error| cause(&error)));
        // What the old one may still have taken is no matter here: it is whom the sentinels name that counts from now on.
        eventually("the store is with the master that the sentinels name", WHILE, async || {
            let found = connections(&machine, machine.port(next)).await;
            ensure(found.len() > usize::from(next == 1), || format!("{trouble}: {found:?}"))
        })
        .await;
        println!("{trouble}: followed after {:?}", since.elapsed());
        assert!(sentinel.asked.load(Ordering::SeqCst) > asked, "{trouble}");
        assert!(since.elapsed() < GIVEN_UP * 3, "{trouble}: {:?}", since.elapsed());
        now = next;
    }
}

/// A partition: the connection stays open, and nothing comes on it. Attempts to connect go the same way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partitioned_master_is_given_up_within_a_second_and_so_are_those_who_asked_it() {
    let machine = Machine::with_redis(&[]).await;
    let proxy = Lossy::start(local(machine.port(0))).await;
    let store = connected(&redis::url(proxy.port())).await;
    let id = create(&store).await;
    proxy.go_dark_after(0);
    let since = Instant::now();
    let commit = add(id, "n", 1);
    let (load, write) = tokio::join!(store.load(&id), store.commit(&commit));
    let took = since.elapsed();
    println!("a partitioned master was given up after {took:?}");
    assert!(load.expect_err("nothing comes").is_unavailable());
    assert!(write.expect_err("nothing comes").is_unavailable());
    assert!(took < GIVEN_UP * 3, "{took:?}");
    // From then on nobody waits at all.
    for _ in 0..5 {
        let asked = Instant::now();
        assert!(store.load(&id).await.expect_err("there is no master").is_unavailable());
        assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
    }
}

/// Counts who comes, and when, for this long.
async fn arrivals(listener: &TcpListener, time: Duration, keep_open: bool) -> Vec<Instant> {
    let mut arrivals = Vec::new();
    let mut open = Vec::new();
    let end = Instant::now() + time;
    while let Ok(Ok((client, _))) = tokio::time::timeout_at(end, listener.accept()).await {
        arrivals.push(Instant::now());
        if keep_open {
            open.push(client);
        }
    }
    arrivals
}

/// However long an outage lasts, the next attempt is a moment away, and there are not many of them.
#[tokio::test]
async fn an_outage_costs_few_attempts_to_connect_at_random_intervals_however_long_it_lasts() {
    let time = Duration::from_secs(if std::env::var_os("LONG_TESTS").is_some() { 120 } else { 4 });
    let listener = || async { TcpListener::bind(local(0)).await.expect("some port is free") };
    let (closing, silent, sentinel) = tokio::join!(listener(), listener(), listener());
    let at = |listener: &TcpListener| listener.local_addr().expect("it listens");
    let urls = [
        format!("redis://{}", at(&closing)),
        format!("redis://{}", at(&silent)),
        format!("redis-sentinel://{}/{MASTER_NAME}", at(&sentinel)),
    ];
    let stores = urls.map(|url| RedisStore::builder(&url).build().expect("the URL is good"));
    let [closing, silent, sentinel] = {
        let (a, b, c) = tokio::join!(
            arrivals(&closing, time, false),
            arrivals(&silent, time, true),
            arrivals(&sentinel, time, false)
        );
        [a, b, c]
    };
    assert!(stores.iter().all(|store| !store.is_up()));
    for (what, arrivals, most) in [("closes", closing, 20.0), ("is silent", silent, 2.0), ("sentinel", sentinel, 20.0)]
    {
        let a_second = arrivals.len() as f64 / time.as_secs_f64();
        let gaps: Vec<Duration> = arrivals.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let (least, longest) = (*gaps.iter().min().expect("gaps"), *gaps.iter().max().expect("gaps"));
        println!("{what}: {a_second:.1} attempts a second, {least:.0?} to {longest:.0?} apart");
        assert!(a_second <= most, "{what}: {a_second}");
        // Later gaps are as short as the first: no growing pauses, after which a long outage would be noticed to be over late. The
        // middle one of them, since a busy machine may stretch any.
        let mut later = gaps[gaps.len() / 2..].to_vec();
        later.sort();
        let usual = later[later.len() / 2];
        assert!(usual < Duration::from_secs(1) && longest < Duration::from_secs(3), "{what}: {gaps:?}");
        let different: BTreeSet<u128> = gaps.iter().map(|gap| gap.as_millis()).collect();
        assert!(different.len() > 2, "{what}: nodes would come in step: {gaps:?}");
    }
}

/// Nobody waits for the answer: who comes while there is no master is told so, and the next to come after its return is served.
#[tokio::test]
async fn after_an_outage_redis_is_used_within_a_second() {
    let time = Duration::from_secs(if std::env::var_os("LONG_TESTS").is_some() { 600 } else { 3 });
    let machine = Machine::start::<1>().await;
    let store = RedisStore::builder(&machine.url()).build().expect("the URL is good");
    sleep(time).await;
    assert!(!store.is_up());
    machine.launch_redis(machine.port(0), &[]).await;
    eventually("Redis", WHILE, async || machine.redis(machine.port(0)).await?.try_command(&["PING"]).await).await;
    let since = Instant::now();
    timeout(WHILE, store.available()).await.expect("it is found");
    println!("after {time:?} without Redis it was found {:?} after its first answer", since.elapsed());
    assert!(since.elapsed() < GIVEN_UP * 3, "{:?}", since.elapsed());
    create(&store).await;
}
