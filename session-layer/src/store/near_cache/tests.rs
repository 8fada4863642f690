//! The races of the near cache, every one of them: `loom` runs each of these models under all interleavings of its threads.

use std::panic::{AssertUnwindSafe, catch_unwind};

use loom::sync::{Arc, Mutex as LoomMutex};
use loom::thread;

use super::*;
use crate::id::SessionId;
use crate::record::{Attributes, Version};

const KEY: u8 = 1;

/// One session on a server, and one part of a node's cache.
struct World {
    server: LoomMutex<Server>,
    part: LoomMutex<Part<u8, u64>>,
}

struct Server {
    version: u64,
    /// The node will be told of the next change.
    tracks: bool,
}

impl World {
    fn new() -> Arc<Self> {
        let server = Server { version: 1, tracks: false };
        Arc::new(Self { server: LoomMutex::new(server), part: LoomMutex::new(Part::new(4, 100)) })
    }

    fn ticket(&self) -> Ticket {
        self.part.lock().unwrap().ticket(&KEY)
    }

    /// What the server answers.
    fn read(&self) -> u64 {
        let mut server = self.server.lock().unwrap();
        server.tracks = true;
        server.version
    }

    fn keep(&self, ticket: Ticket, version: u64) {
        self.part.lock().unwrap().insert(KEY, ticket, version, 1);
    }

    /// A request that misses the cache.
    fn miss(&self) {
        let ticket = self.ticket();
        let version = self.read();
        self.keep(ticket, version);
    }

    /// A change, by whomever; tells whether the server says so to the node.
    fn write(&self) -> bool {
        let mut server = self.server.lock().unwrap();
        server.version += 1;
        std::mem::take(&mut server.tracks)
    }

    fn hear_of_it(&self) {
        self.part.lock().unwrap().invalidate(&KEY);
    }

    fn cached(&self) -> Option<u64> {
        self.part.lock().unwrap().get(&KEY).copied()
    }

    /// Once everything that was on its way has arrived, nothing in the cache is older than what the server has.
    fn check(&self) {
        let now = self.server.lock().unwrap().version;
        assert!(self.cached().is_none_or(|cached| cached == now), "stale for ever");
    }
}

fn spawn(world: &Arc<World>, act: impl FnOnce(&World) + 'static) -> thread::JoinHandle<()> {
    let world = Arc::clone(world);
    thread::spawn(move || act(&world))
}

fn finish(world: &Arc<World>, threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
    world.check();
}

#[test]
fn a_reply_that_a_change_overtook_is_never_kept() {
    loom::model(|| {
        let world = World::new();
        let change = spawn(&world, |world| {
            if world.write() {
                world.hear_of_it();
            }
        });
        let threads = [spawn(&world, World::miss), change];
        world.miss();
        finish(&world, threads);
    });
}

#[test]
fn changes_in_a_row_are_heard_of_in_their_order() {
    loom::model(|| {
        let world = World::new();
        let changes = spawn(&world, |world| {
            for _ in 0..2 {
                if world.write() {
                    world.hear_of_it();
                }
            }
        });
        world.miss();
        world.miss();
        finish(&world, [changes]);
    });
}

#[test]
fn what_was_on_its_way_when_the_connection_was_lost_is_never_kept() {
    loom::model(|| {
        let world = World::new();
        let change = spawn(&world, |world| {
            // Nobody hears of this one: the connection is gone, and that is noticed later.
            world.write();
            world.part.lock().unwrap().flush();
        });
        let threads = [spawn(&world, World::miss), change];
        finish(&world, threads);
    });
}

#[test]
fn a_node_that_committed_never_shows_what_was_before() {
    loom::model(|| {
        let world = World::new();
        let reads = spawn(&world, World::miss);
        let heard = Arc::new(LoomMutex::new(false));
        let told = Arc::clone(&heard);
        let commits = spawn(&world, move |world| {
            *told.lock().unwrap() = world.write();
            let mine = world.server.lock().unwrap().version;
            world.part.lock().unwrap().invalidate(&KEY);
            // Its answer is out: whoever comes next sees it.
            assert!(world.cached().is_none_or(|cached| cached >= mine));
        });
        reads.join().unwrap();
        commits.join().unwrap();
        if *heard.lock().unwrap() {
            world.hear_of_it();
        }
        world.check();
    });
}

/// Without it the tests above would prove nothing.
#[test]
fn these_models_find_a_ticket_that_is_taken_too_late() {
    let late = |world: &World| {
        let version = world.read();
        let ticket = world.ticket();
        world.keep(ticket, version);
    };
    let found = catch_unwind(AssertUnwindSafe(|| {
        loom::model(move || {
            let world = World::new();
            let change = spawn(&world, |world| {
                if world.write() {
                    world.hear_of_it();
                }
            });
            late(&world);
            finish(&world, [change]);
        });
    }));
    assert!(found.is_err(), "a stale entry was not found");
}

// The cache as such.

#[test]
fn it_never_holds_more_entries_or_bytes_than_it_may() {
    let mut part = Part::new(3, 100);
    for n in 0..1000_u32 {
        let ticket = part.ticket(&n);
        part.insert(n, ticket, n, (n as usize * 7) % 60);
        assert!(part.entries.len() <= 3 && part.bytes <= 100 && part.order.len() <= 2 * 3 + 17);
        assert_eq!(part.bytes, part.entries.values().map(|entry| entry.bytes).sum::<usize>());
    }
    let ticket = part.ticket(&5000);
    part.insert(5000, ticket, 0, 101);
    assert!(part.get(&5000).is_none(), "too large for any of them");
}

#[test]
fn what_is_used_stays_longer() {
    let mut part = Part::new(3, 100);
    for n in 0..3 {
        part.insert(n, part.ticket(&n), n, 1);
    }
    part.get(&0);
    for n in 3..5 {
        part.insert(n, part.ticket(&n), n, 1);
    }
    assert!(part.get(&0).is_some() && part.get(&1).is_none() && part.get(&2).is_none());
}

#[test]
fn entries_that_come_and_go_leave_nothing_behind() {
    let mut part = Part::new(3, 100);
    for n in 0..1000_u32 {
        part.insert(n % 2, part.ticket(&(n % 2)), n, 1);
        part.invalidate(&(n % 2));
        assert!(part.order.len() <= 2 * 3 + 17);
    }
    assert_eq!((part.entries.len(), part.bytes), (0, 0));
}

#[test]
fn a_change_keeps_out_replies_of_its_lane_alone() {
    let mut part = Part::new(10, 100);
    let other = (1..1000_u32).find(|key| part.lane(key) != part.lane(&0)).expect("there is more than one lane");
    let ticket = part.ticket(&0);
    part.invalidate(&other);
    part.insert(0, ticket, "as it was", 1);
    assert_eq!(part.get(&0), Some(&"as it was"));
    let tickets = [part.ticket(&0), part.ticket(&other)];
    part.invalidate(&0);
    part.insert(0, tickets[0], "as it was", 1);
    assert_eq!(part.get(&0), None, "it changed");
    part.flush();
    part.insert(other, tickets[1], "as it was", 1);
    assert_eq!(part.get(&other), None, "anything may have changed");
}

fn record(principal: Option<&str>) -> Record {
    Record {
        attributes: Attributes::from([("a".to_owned(), "1".into())]),
        created_on: std::time::SystemTime::UNIX_EPOCH,
        idle_timeout: Duration::from_secs(60),
        absolute_timeout: None,
        expires_on: None,
        ttl: Duration::from_secs(10),
        version: Version(1),
        principal: principal.map(str::to_owned),
        history: Vec::new(),
    }
}

const LONG: Duration = Duration::from_secs(100);

fn cache() -> NearCache {
    let cache = NearCache::new(NearCacheLimits::default());
    cache.told_up_to(Instant::now());
    cache
}

fn put(cache: &NearCache, principal: Option<&str>) -> SessionHandle {
    let session = SessionId::random().handle();
    cache.keep(session, cache.ticket(&session), &mut record(principal));
    session
}

#[tokio::test(start_paused = true)]
async fn nothing_is_believed_while_the_server_is_silent() {
    let cache = cache();
    let session = put(&cache, None);
    assert_eq!(cache.get(&session, LONG), Some(record(None)));
    tokio::time::advance(MAX_SILENCE + Duration::from_millis(1)).await;
    assert_eq!(cache.get(&session, LONG), None);
    cache.told_up_to(Instant::now());
    assert!(cache.get(&session, LONG).is_some(), "it was only silent");
    cache.flush();
    cache.told_up_to(Instant::now());
    assert_eq!(cache.get(&session, LONG), None);
}

#[tokio::test(start_paused = true)]
async fn time_to_live_goes_on_and_ends_in_here_too() {
    let cache = cache();
    let (session, old) = (put(&cache, None), put(&cache, None));
    tokio::time::advance(Duration::from_secs(4)).await;
    cache.told_up_to(Instant::now());
    assert_eq!(cache.get(&session, LONG).unwrap().ttl, Duration::from_secs(6));
    assert_eq!(cache.get(&old, Duration::from_secs(3)), None, "it is older than wanted");
    assert_eq!(cache.get(&old, LONG), None, "and gone");
    tokio::time::advance(Duration::from_secs(6)).await;
    cache.told_up_to(Instant::now());
    assert_eq!(cache.get(&session, LONG), None);
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_keeps_no_packet_in_memory() {
    let (cache, session, packet) = (cache(), SessionId::random().handle(), Bytes::from(vec![b'1'; 8]));
    let values = [("a", packet.slice(..3)), ("b", Bytes::new()), ("c", packet.slice(3..7))];
    let mut read = Record { attributes: values.map(|(name, value)| (name.to_owned(), value)).into(), ..record(None) };
    cache.keep(session, cache.ticket(&session), &mut read);
    let kept = cache.get(&session, LONG).unwrap();
    assert_eq!(kept, read);
    assert_eq!([&kept.attributes["a"], &kept.attributes["b"], &kept.attributes["c"]], ["111", "", "1111"]);
    assert!(packet.is_unique(), "neither the cache nor the request holds it");
}

#[tokio::test]
async fn a_principals_sessions_are_dropped_together_and_what_is_on_its_way_is_not_kept() {
    let cache = cache();
    let (hers, his) = (put(&cache, Some("alice")), put(&cache, Some("bob")));
    let on_its_way = cache.ticket(&hers);
    cache.drop_principal("alice");
    cache.keep(hers, on_its_way, &mut record(Some("alice")));
    assert_eq!(cache.get(&hers, LONG), None);
    assert!(cache.get(&his, LONG).is_some());
}
