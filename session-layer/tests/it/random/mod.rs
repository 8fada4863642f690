//! Two browsers with several requests each on the way, in random order, against a model that is nothing but the rules written down
//! once more. A run that fails prints its seed; `SEED=n` repeats that one alone, `RUNS=n` makes more of them.

mod model;

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::JoinHandle;

use self::model::{Cookie, Entry, Id, Model, NAMES, Ops, Random};
use crate::fixture::{Answer, App, Browser, Call, Fault, TestStore, layer, minutes};

const RUNS: u64 = 300;
const EVENTS: usize = 60;

struct Pending {
    tab: usize,
    gate: String,
    presented: Option<Id>,
    arrived: u64,
    loaded: Option<Entry>,
    ops: Ops,
    answer: JoinHandle<Answer>,
}

struct World {
    app: App,
    tabs: [Browser; 2],
    /// What each browser's cookie means in the model.
    jars: [Option<Id>; 2],
    model: Model,
    /// Cookies of the model's sessions: each has one.
    cookies: HashMap<Id, String>,
    pending: Vec<Pending>,
    /// Answers that are on their way back to a browser.
    answers: Vec<(usize, Answer, Cookie)>,
    log: Vec<String>,
    sent: usize,
}

/// What happened, if it went wrong.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.log.join("\n"));
        }
    }
}

impl World {
    fn new() -> Self {
        let app = App::new(layer(&TestStore::default()).build().unwrap());
        let tabs = [Browser::new(&app), Browser::new(&app)];
        Self {
            app,
            tabs,
            jars: [None, None],
            model: Model::default(),
            cookies: HashMap::new(),
            pending: Vec::new(),
            answers: Vec::new(),
            log: Vec::new(),
            sent: 0,
        }
    }

    /// A request goes out, and has loaded its session.
    async fn send(&mut self, tab: usize, ops: Ops) {
        self.sent += 1;
        let gate = format!("gate{}", self.sent);
        let text = format!("hold {gate}; {}", ops.text());
        let browser = &self.tabs[tab];
        let answer = if ops.lazy { browser.start_lazy(&text) } else { browser.start(&text) };
        self.app.gate(&gate).reached(1).await;
        let presented = self.jars[tab];
        let loaded = if ops.lazy { None } else { presented.map(|id| self.model.entries[id].clone()) };
        self.log.push(format!("browser {tab} sends {gate} with {presented:?}: {ops:?}"));
        self.pending.push(Pending { tab, gate, presented, arrived: self.model.now, loaded, ops, answer });
    }

    /// One of the requests goes on and is answered.
    async fn finish(&mut self, which: usize) {
        let Pending { tab, gate, presented, arrived, loaded, ops, answer } = self.pending.swap_remove(which);
        self.app.gate(&gate).open();
        let answer = answer.await.unwrap();
        let (status, cookie) = self.model.commit(presented, arrived, loaded.as_ref(), &ops);
        self.log.push(format!("{gate} is answered {} (expected {status}, {cookie:?})", answer.status));
        assert_eq!(answer.status.as_u16(), status);
        match (&cookie, answer.set_cookies().as_slice()) {
            (Cookie::None, []) => {}
            (Cookie::Forget, [value]) => assert!(value.contains("Max-Age=0")),
            (Cookie::Keep(id), [value]) => {
                let known = self.cookies.entry(*id).or_insert_with(|| (*value).to_owned());
                assert_eq!(known, value);
            }
            (expected, got) => panic!("{got:?} instead of {expected:?}"),
        }
        self.answers.push((tab, answer, cookie));
    }

    /// One of the answers reaches its browser.
    fn receive(&mut self, which: usize) {
        let (tab, answer, cookie) = self.answers.swap_remove(which);
        self.tabs[tab].receive(&answer);
        match cookie {
            Cookie::None => {}
            Cookie::Keep(id) => self.jars[tab] = Some(id),
            Cookie::Forget => self.jars[tab] = None,
        }
        self.log.push(format!("browser {tab} has {:?}", self.jars[tab]));
    }

    async fn expire(&mut self) {
        // Nothing survives this: neither sessions nor tombstones.
        tokio::time::advance(minutes(31)).await;
        self.model.expire();
        self.log.push("31 minutes pass".to_owned());
    }

    async fn pass(&mut self, seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        self.model.now += seconds;
        self.log.push(format!("{seconds} seconds pass"));
    }

    async fn look(&mut self, tab: usize) {
        let gets: Vec<_> = NAMES.iter().map(|name| format!("get {name}")).collect();
        let loaded = self.jars[tab].map(|id| self.model.entries[id].clone());
        let page = self.tabs[tab].run(&format!("exists; principal; {}", gets.join("; "))).await;
        let expected = self.model.page(self.jars[tab]);
        self.log.push(format!("browser {tab} sees {} (expected {expected})", page.body));
        match self.model.commit(self.jars[tab], self.model.now, loaded.as_ref(), &Ops::nothing()).1 {
            Cookie::Forget => {
                page.with_removal().says(&expected);
                self.jars[tab] = None;
            }
            _ => drop(page.without_cookie().says(&expected)),
        }
    }

    async fn step(&mut self, random: &mut Random) {
        let tab = random.below(2);
        match random.below(20) {
            0..6 if self.pending.len() < 4 => self.send(tab, Ops::random(random)).await,
            6..12 if !self.pending.is_empty() => self.finish(random.below(self.pending.len())).await,
            12..16 if !self.answers.is_empty() => self.receive(random.below(self.answers.len())),
            // The other browser steals, or is given, this one's cookie.
            16 => {
                if let Some(cookie) = self.tabs[tab].cookie() {
                    self.tabs[1 - tab].set_cookie(crate::fixture::COOKIE, &cookie);
                    self.jars[1 - tab] = self.jars[tab];
                    self.log.push(format!("browser {} gets the cookie of {tab}", 1 - tab));
                }
            }
            17 if random.one_in(6) => self.expire().await,
            // Less than any timeout in all.
            17 => self.pass(random.pick(&[1, 5, 10, 11])).await,
            _ => self.look(tab).await,
        }
    }
}

async fn run(seed: u64) {
    let mut random = Random(seed);
    let mut world = World::new();
    for _ in 0..EVENTS {
        world.step(&mut random).await;
    }
    while !world.pending.is_empty() {
        world.finish(0).await;
    }
    while !world.answers.is_empty() {
        world.receive(0);
    }
    for tab in 0..2 {
        world.look(tab).await;
    }
}

#[test]
fn two_browsers_with_requests_in_any_order_see_what_the_rules_say() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("a number");
            seed..seed + 1
        }
        Err(_) => 0..std::env::var("RUNS").map_or(RUNS, |runs| runs.parse().expect("a number")),
    };
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        println!("SEED={seed}");
        runtime.block_on(run(seed));
    }
}

/// Every attempt may fail before or after it is done: an increment that was acknowledged counts once, one that was not at most
/// once.
#[tokio::test(start_paused = true)]
async fn acknowledged_increments_count_exactly_once_whatever_fails() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let store = TestStore::default();
        let app = App::new(layer(&store).build().unwrap());
        let browser = Browser::new(&app);
        browser.run("insert n 0").await.expect(200);
        let (mut acknowledged, mut unknown) = (0, 0);
        for _ in 0..30 {
            for _ in 0..random.below(8) {
                let call = random.pick(&[Call::Load, Call::Apply, Call::Apply]);
                store.next(
                    call,
                    random.pick(&[Fault::Fail, Fault::LoseAnswer, Fault::LoseAnswer, Fault::Hang, Fault::HangAfter]),
                );
            }
            let requests: Vec<_> = (0..random.below(6) + 1)
                .map(|_| {
                    let ops =
                        random.pick(&["increment n", "increment n; flush", "add n", "get n; increment n; flush n"]);
                    browser.start(ops)
                })
                .collect();
            for request in requests {
                match request.await.unwrap().status.as_u16() {
                    200 => acknowledged += 1,
                    503 => unknown += 1,
                    other => panic!("{other}"),
                }
            }
        }
        store.always(None);
        // What no call has met yet would meet this one.
        let n = loop {
            let answer = browser.run("get n").await;
            if answer.status == 200 {
                break answer.body.parse::<u32>().unwrap();
            }
        };
        println!("{acknowledged} acknowledged, {unknown} not, {n} counted");
        assert!(acknowledged > 20 && unknown > 5);
        assert!((acknowledged..=acknowledged + unknown).contains(&n));
    }
}
