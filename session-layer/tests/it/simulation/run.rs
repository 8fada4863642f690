//! One run, from its seed to what is left when all is quiet again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use session_layer::store::{Lifetimes, Loaded, MemoryStore, SessionStore, Touch};
use session_layer::test_util::clock::Followed;
use session_layer::test_util::history::{self, Call, Operation};
use session_layer::test_util::random::Seeded;
use session_layer::{SessionError, SessionId};
use tokio::time::{Instant, sleep, sleep_until};

use super::browser::{Browser, Cluster, Node, REALMS};
use super::check::{Check, Violation};
use super::handler::number_of;
use super::ledger::Owner;
use super::network::Network;
use super::random::Random;
use super::script::{ALL, Account, NOTE, PAIR};
use super::settings::Settings;
use super::spans::Spans;
use super::world::{self, Seen, Shared, World, lock};
use crate::broken::BrokenStore;

pub struct Outcome {
    pub violations: Vec<Violation>,
    pub requests: usize,
    /// How often each situation came up that is hard to get right.
    pub met: BTreeMap<&'static str, u64>,
    pub trace: Vec<String>,
}

/// Runs a seed on the store that `make` makes, together with what ends the store's own trouble.
pub fn run<S, H>(seed: u64, traced: bool, make: impl FnOnce(&mut Random, &Settings) -> (S, H)) -> Outcome
where
    S: SessionStore + LosesLists + Clone,
    H: FnOnce(),
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without IO needs nothing");
    let _seeded = Seeded::new(seed);
    tracing::subscriber::with_default(Spans, || {
        runtime.block_on(async {
            let _followed = Followed::new();
            let mut random = Random::new(seed);
            // What happens to lists is drawn by itself, so that it leaves what else happens in a run as it was.
            let mut of_lists = Random::new(!seed);
            let settings = Arc::new(Settings::new(&mut random, &mut of_lists));
            let (store, heal) = make(&mut random, &settings);
            let world = World::new(&settings, traced);
            lock(&world).ledger.note(|| format!("seed {seed}: {settings:?}"));
            simulate(&world, &settings, store, heal, random, of_lists).await;
            let mut world = lock(&world);
            Outcome {
                violations: std::mem::take(&mut world.ledger.violations),
                requests: world.requests.len(),
                met: std::mem::take(&mut world.ledger.met),
                trace: world.ledger.trace.take().unwrap_or_default(),
            }
        })
    })
}

/// Somebody takes a list away.
pub trait LosesLists {
    fn lose_list(&self, realm: &str, principal: &str);
}

impl LosesLists for MemoryStore {
    fn lose_list(&self, realm: &str, principal: &str) {
        self.lose_list(realm, principal);
    }
}

impl LosesLists for BrokenStore {
    fn lose_list(&self, realm: &str, principal: &str) {
        self.lose_list(realm, principal);
    }
}

/// Lists of accounts that browsers use are lost while they do.
async fn lose_lists(world: Shared, settings: Arc<Settings>, store: impl LosesLists, mut random: Random) {
    for _ in 0..settings.lists_lost {
        sleep(Duration::from_millis(random.pick(&[5, 50, 500, 5_000, 30_000]))).await;
        let accounts = if settings.shared_accounts { 2 } else { 2 * settings.browsers };
        let realm = REALMS[if settings.two_realms { random.below(2) as usize } else { 0 }];
        let owner = Owner::new(realm, Account(random.below(accounts as u64) as usize).name());
        let ledger = &mut lock(&world).ledger;
        store.lose_list(&owner.realm, &owner.principal);
        ledger.loses(owner);
    }
}

async fn simulate<S: SessionStore + LosesLists + Clone>(
    world: &Shared,
    settings: &Arc<Settings>,
    store: S,
    heal: impl FnOnce(),
    mut random: Random,
    of_lists: Random,
) {
    let network =
        |random: &mut Random| Network::new(store.clone(), Arc::clone(world), Arc::clone(settings), random.fork());
    let quiet = network(&mut random).quiet();
    let looks_up = {
        let quiet = quiet.clone();
        Arc::new(move |id: SessionId| {
            let quiet = quiet.clone();
            tokio::spawn(async move {
                // The store of several steps has trouble of its own.
                loop {
                    if let Ok(loaded) = quiet.load(&id).await {
                        return matches!(loaded, Loaded::Alive(_));
                    }
                }
            })
        })
    };
    let start = |random: &mut Random| Arc::new(Node::start(world, settings, network(random)));
    let cluster: Cluster = Arc::new(Mutex::new(vec![start(&mut random), start(&mut random)]));
    let browsers: Vec<_> = (0..settings.browsers)
        .map(|number| Browser::new(number, world, &cluster, settings, random.fork(), looks_up.clone()))
        .collect();
    let browsing: Vec<_> = browsers.iter().map(|browser| tokio::spawn(browser.clone().browse())).collect();

    let losing = lose_lists(Arc::clone(world), Arc::clone(settings), store.clone(), of_lists);
    let losing = tokio::spawn(losing);

    if random.chance(settings.node_dies) {
        sleep(Duration::from_millis(random.below(300))).await;
        let dying = {
            let mut nodes = lock(&cluster);
            let at = random.below(nodes.len() as u64) as usize;
            std::mem::replace(&mut nodes[at], start(&mut random))
        };
        lock(world).ledger.note(|| "a node dies".to_owned());
        dying.kill();
        lock(world).ledger.meet("a node that died");
    }
    for browser in browsing {
        browser.await.expect("browsers do not fail");
    }
    for browser in &browsers {
        browser.look().await;
    }

    losing.abort();
    // What is still on its way arrives, and whoever waits gives up.
    sleep(settings.budget + Duration::from_secs(5)).await;
    heal();
    at_rest(world, &quiet).await;
    judge(&mut lock(world));
    long_after(world, &quiet).await;
}

/// When nothing is under way any more, the store has exactly what it should have.
async fn at_rest<S: SessionStore + Clone>(world: &Shared, quiet: &Network<S>) {
    let ids: Vec<_> = lock(world).ledger.idents.iter().map(|ident| ident.id).collect();
    let mut alive = BTreeMap::<(String, String), Vec<(usize, Instant)>>::new();
    for (ident, id) in ids.iter().enumerate() {
        let from = lock(world).ledger.now();
        let Ok(loaded) = quiet.load(id).await else { unreachable!("it has no trouble any more") };
        let Loaded::Alive(record) = loaded else { continue };
        if let Some(principal) = &record.principal {
            let (realm, is_listed, lifetimes) = {
                let world = lock(world);
                let Settings { idle_timeout, absolute_timeout, .. } = *world.settings;
                let is_listed = world.ledger.surely_listed(ident, from.tick, from.tick);
                (world.ledger.idents[ident].realm.clone(), is_listed, Lifetimes { idle_timeout, absolute_timeout })
            };
            if !is_listed {
                // What its list has lost is in it again after a touch.
                let Ok(()) = quiet.touch(&Touch::new(*id, &*realm, lifetimes)).await else {
                    unreachable!("it has no trouble any more")
                };
            }
            alive.entry((realm, principal.clone())).or_default().push((ident, from.at + record.ttl));
        }
        let world = &mut lock(world);
        let to = world.ledger.now().tick;
        // A last look that no client took; it belongs to nobody's request.
        world.last_looks.push(Seen { from: from.tick, to, id: *id, attributes: Some(record.attributes) });
    }
    for realm in REALMS {
        for account in (0..8).map(Account) {
            let owner = Owner::new(realm, account.name());
            let Ok(listed) = quiet.sessions_of(realm, account.name()).await else {
                unreachable!("no trouble any more")
            };
            let ledger = &mut lock(world).ledger;
            let listed: Vec<_> = listed.iter().filter_map(|listed| ledger.find_handle(&listed.handle)).collect();
            let alive = alive.remove(&(owner.realm.clone(), owner.principal.clone())).unwrap_or_default();
            // Some end between the two looks.
            let now = Instant::now();
            let is_missing = |(ident, until): &(usize, Instant)| *until > now && !listed.contains(ident);
            let is_dead = |ident: &usize| alive.iter().all(|(alive, _)| alive != ident);
            if alive.iter().any(is_missing) || listed.iter().any(is_dead) {
                let what = format!("{owner:?} has sessions {alive:?}, the list says {listed:?}");
                ledger.fail(Check::TheIndexIsExact, what);
            }
            let limit = ledger.limit.map_or(usize::MAX, |(most, _)| most);
            // A login counts those that are listed.
            if alive.len() > limit && !ledger.lost.contains_key(&owner) {
                let what = format!("{owner:?} has {} live sessions, not {limit}", alive.len());
                ledger.fail(Check::TheLimitIsKept, what);
            }
        }
    }
}

/// Judges what clients were told.
fn judge(world: &mut World) {
    let mut failed: Vec<(Check, String)> = Vec::new();
    let mut histories = BTreeMap::<(usize, &'static str), Vec<Operation>>::new();
    let lineage_of =
        |world: &World, id: &SessionId| world.ledger.find(id).map(|ident| world.ledger.idents[ident].lineage);

    for (number, request) in world.requests.iter().enumerate() {
        for segment in &request.segments {
            let sent = || segment.commits.iter().filter_map(|id| world.ledger.sent.get(id));
            let applied = sent().filter(|sent| sent.applied).count();
            let took_effect = match segment.outcome {
                world::Outcome::Applied => {
                    let leaves = segment.calls.values().any(|call| !matches!(call, Call::Remove(_)));
                    if leaves && applied == 0 {
                        failed
                            .push((Check::AnswersAreHonest, format!("request {number}: 2xx, and nothing was applied")));
                    }
                    segment.to
                }
                world::Outcome::Unknown => None,
                world::Outcome::Refused | world::Outcome::Withdrawn => {
                    if applied > 0 {
                        let what = format!("request {number}: {:?}, and yet it was applied", segment.outcome);
                        failed.push((Check::AnswersAreHonest, what));
                    }
                    continue;
                }
            };
            if applied > 1 {
                let what = format!("request {number}: {applied} commits for one set of changes");
                failed.push((Check::AnswersAreHonest, what));
            }
            for sent in sent().filter(|sent| sent.applied || sent.unknown) {
                let Some(lineage) = sent.lineage else { continue };
                // An acknowledged one was applied by this commit or by another of the same segment.
                let answered = took_effect.filter(|_| sent.applied);
                for (name, call) in &segment.calls {
                    let operation = Operation { call: *call, invoked: segment.from, answered };
                    histories.entry((lineage, *name)).or_default().push(operation);
                }
            }
        }
    }

    let looks = world
        .requests
        .iter()
        .flat_map(|request| request.seen.iter().map(move |seen| (Some(request.browser), seen)))
        .chain(world.last_looks.iter().map(|seen| (None, seen)));
    for (browser, Seen { from, to, id, attributes }) in looks {
        let Some(attributes) = attributes else { continue };
        let Some(lineage) = lineage_of(world, id) else { continue };
        if attributes.get(PAIR[0]) != attributes.get(PAIR[1]) {
            failed.push((Check::NothingIsHalfWritten, format!("{} without {}", PAIR[0], PAIR[1])));
        }
        for name in ALL {
            let value = attributes.get(name).and_then(number_of);
            let owner = value.map(|value| value.abs() / 1_000_000_000).filter(|owner| *owner > 0);
            if let (Some(owner), Some(browser)) = (owner, browser)
                && owner != browser as i64 + 1
            {
                let what = format!("browser {browser} saw {name} = {value:?} of browser {}", owner - 1);
                failed.push((Check::NobodySeesWhatIsNotTheirs, what));
            }
            let operation = Operation { call: Call::Read(value), invoked: *from, answered: Some(*to) };
            histories.entry((lineage, name)).or_default().push(operation);
        }
    }

    for ((lineage, name), history) in &histories {
        // One with nothing but reads of nothing says nothing.
        if history.iter().all(|operation| operation.call == Call::Read(None)) {
            continue;
        }
        if let Err(anomaly) = history::check(None, history) {
            let what = format!("session of lineage {lineage}, {name}: {:?} of {history:#?}", anomaly.operation);
            failed.push((Check::Linearizable, what));
        }
        if *name == "hits" || *name == NOTE {
            failed.extend(count(*lineage, name, history));
        }
    }
    failed.extend(late_requests(world));
    for (check, what) in failed {
        world.ledger.fail(check, what);
    }
}

/// The counter that is only ever counted up, by plain arithmetic.
fn count(lineage: usize, name: &str, history: &[Operation]) -> Option<(Check, String)> {
    let only_counted = history.iter().all(|operation| matches!(operation.call, Call::Increment(_) | Call::Read(_)));
    if !only_counted {
        return None;
    }
    let increments = || history.iter().filter(|operation| matches!(operation.call, Call::Increment(_)));
    let known = increments().filter(|operation| operation.answered.is_some()).count() as i64;
    let all = increments().count() as i64;
    // Only who asked after all had been answered can tell.
    let last = history.iter().max_by_key(|operation| operation.invoked)?;
    let Call::Read(value) = last.call else { return None };
    if increments().any(|operation| operation.answered.is_some_and(|answered| answered >= last.invoked)) {
        return None;
    }
    let last = value.unwrap_or(0);
    let what = format!("lineage {lineage}: {name} is {last}, of {known} acknowledged and {all} sent increments");
    (last < known || last > all).then_some((Check::CountersAreExact, what))
}

/// Once the end of a session was acknowledged, no request that comes later is served from it.
fn late_requests(world: &World) -> Vec<(Check, String)> {
    let mut failed = Vec::new();
    for (number, request) in world.requests.iter().enumerate() {
        let ended = request.ends_presented
            && request
                .answer
                .as_ref()
                .is_some_and(|answer| answer.error.as_ref().is_none_or(SessionError::is_not_durable));
        let (true, Some(id), Some(answer)) = (ended, request.presented, &request.answer) else { continue };
        for (late, other) in world.requests.iter().enumerate() {
            for seen in &other.seen {
                if seen.id == id && seen.from > answer.at.tick && seen.attributes.is_some() {
                    let what = format!("request {number} ended the session that request {late} was served from");
                    failed.push((Check::WhatEndedStaysEnded, what));
                }
            }
        }
    }
    failed
}

/// Tombstones go in time, and nothing is left of sessions that nobody uses.
async fn long_after<S: SessionStore + Clone>(world: &Shared, quiet: &Network<S>) {
    let graves = lock(world).ledger.graves();
    for (until, id) in graves {
        sleep_until(until).await;
        let Ok(loaded) = quiet.load(&id).await else { unreachable!("no trouble any more") };
        if loaded != Loaded::Absent {
            let ledger = &mut lock(world).ledger;
            let name = ledger.name(&id);
            ledger.fail(Check::TombstonesLastFiveMinutes, format!("{name} still has its tombstone"));
        }
    }
    let idle_timeout = lock(world).settings.idle_timeout;
    sleep(idle_timeout + Duration::from_secs(1)).await;
    let ids: Vec<_> = lock(world).ledger.idents.iter().map(|ident| ident.id).collect();
    for id in ids {
        let Ok(loaded) = quiet.load(&id).await else { unreachable!("no trouble any more") };
        if matches!(loaded, Loaded::Alive(_)) {
            let ledger = &mut lock(world).ledger;
            let name = ledger.name(&id);
            ledger.fail(Check::SessionsExpireInTime, format!("{name} is alive, and nobody used it"));
        }
    }
}
