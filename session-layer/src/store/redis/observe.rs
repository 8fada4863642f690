//! Looks at servers and sentinels from outside, for people to see: a dashboard, a log of failovers.
//!
//! Beside the store and apart from it: connections of its own, so that nobody's request waits for a look, and none before
//! somebody asks for an [`Observer`]. Nothing that the store decides depends on what is seen here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::client::{Client, Lost};
use super::connection::{CallError, within};
use super::resolve::Resolver;
use super::url::{Address, Login, RedisUrl, Servers};

mod seen; // what is seen, as values
use seen::newest;
pub use seen::{Follower, Observation, ObservedSentinel, ObservedServer, Replication, SentinelEvent, Word};

mod read; // asking, and reading the answers
use read::{ask_sentinel, ask_server};

/// How often each server and sentinel is asked; at once, too, when a sentinel reports something.
const INTERVAL: Duration = Duration::from_millis(250);
/// Who has not answered by then is shown as one that does not.
const TIMEOUT: Duration = Duration::from_millis(700);
/// The sentinels may name more servers than anybody wants to see.
const MOST_SERVERS: usize = 32;
/// Events that are kept for an observer which is slow to take them.
const KEPT_EVENTS: usize = 256;

/// What servers and sentinels look like from here, and what the sentinels report; from
/// [`RedisStore::observe`](super::RedisStore::observe).
///
/// It looks as long as it, or a clone of it, is kept. Each server is asked for its `INFO replication` and each sentinel for the
/// master and its replicas, four times a second over connections of their own; what the sentinels publish (`+sdown`,
/// `+switch-master` and so on) comes at once. Servers are found through the sentinels.
///
/// ```no_run
/// # async fn run(store: session_layer::store::RedisStore) {
/// use session_layer::store::Observed;
///
/// let mut observer = store.observe();
/// loop {
///     match observer.next().await {
///         Observed::Change(now) => println!("master: {:?}", now.master),
///         Observed::Event(event) => println!("{}: {} {}", event.sentinel, event.kind, event.details),
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Observer {
    now: watch::Receiver<Observation>,
    events: broadcast::Receiver<SentinelEvent>,
    task: Arc<Task>,
}

#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What an [`Observer`] has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// Something looks different now.
    Change(Observation),
    /// A sentinel reported something.
    Event(SentinelEvent),
}

impl Observer {
    pub(super) fn start(url: &RedisUrl, resolver: &Resolver) -> Self {
        let (events, received) = broadcast::channel(KEPT_EVENTS);
        let (discovered, found) = mpsc::unbounded_channel();
        let (sentinels, servers) = match &url.servers {
            Servers::Standalone(server) => (Vec::new(), vec![server.clone()]),
            Servers::Sentinel { sentinels, .. } => (sentinels.clone(), Vec::new()),
        };
        let silent = |address: &Address| ObservedSentinel { address: address.to_string(), word: None };
        let first = Observation {
            master: servers.first().map(ToString::to_string),
            servers: Vec::new(),
            sentinels: sentinels.iter().map(silent).collect(),
        };
        let now = watch::Sender::new(first);
        let seen = now.subscribe();
        let looker = Looker {
            now,
            events,
            discovered,
            wake: watch::Sender::new(()),
            resolver: resolver.clone(),
            login: url.login.clone(),
            master: name(url),
        };
        for server in servers {
            looker.discover(server);
        }
        let task = tokio::spawn(look(Arc::new(looker), sentinels, found));
        Self { now: seen, events: received, task: Arc::new(Task(task.abort_handle())) }
    }

    /// The picture now.
    pub fn now(&self) -> Observation {
        self.now.borrow().clone()
    }

    /// Waits for the next change or event. Pictures that were replaced before anybody asked are left out, and so are the oldest
    /// of several hundred events.
    pub async fn next(&mut self) -> Observed {
        loop {
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Ok(event) => return Observed::Event(event),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    // The task ends with the runtime, and then nobody waits.
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                },
                changed = self.now.changed() => match changed {
                    Ok(()) => return Observed::Change(self.now.borrow_and_update().clone()),
                    Err(_) => std::future::pending().await,
                },
            }
        }
    }
}

impl Clone for Observer {
    /// Another one that sees the same from now on.
    fn clone(&self) -> Self {
        Self { now: self.now.clone(), events: self.events.resubscribe(), task: Arc::clone(&self.task) }
    }
}

fn name(url: &RedisUrl) -> String {
    match &url.servers {
        Servers::Standalone(_) => String::new(),
        Servers::Sentinel { master, .. } => master.clone(),
    }
}

/// What all tasks of one observer share.
struct Looker {
    now: watch::Sender<Observation>,
    events: broadcast::Sender<SentinelEvent>,
    discovered: mpsc::UnboundedSender<Address>,
    /// Changes when everybody is to be asked at once.
    wake: watch::Sender<()>,
    resolver: Resolver,
    login: Login,
    master: String,
}

/// Never ends; ends all its tasks when it is dropped.
async fn look(looker: Arc<Looker>, sentinels: Vec<Address>, mut found: mpsc::UnboundedReceiver<Address>) {
    let mut tasks = JoinSet::new();
    for (place, address) in sentinels.into_iter().enumerate() {
        tasks.spawn(Arc::clone(&looker).watch_sentinel(place, address));
    }
    let mut known = BTreeSet::new();
    // The sender is in `looker`, so this does not end by itself.
    while let Some(address) = found.recv().await {
        if known.len() < MOST_SERVERS && known.insert(address.to_string()) {
            tasks.spawn(Arc::clone(&looker).watch_server(address));
        }
    }
}

impl Looker {
    fn discover(&self, address: Address) {
        // The receiver lives as long as the tasks.
        let _ = self.discovered.send(address);
    }

    /// Waits for the next look.
    async fn pause(&self) {
        let mut wake = self.wake.subscribe();
        let _ = tokio::time::timeout(INTERVAL, wake.changed()).await;
    }

    async fn watch_server(self: Arc<Self>, address: Address) {
        self.show_server(&address, None);
        loop {
            // A connection that was cut says nothing yet: sentinels have a server cut all of them when its role changes. Who
            // cannot be asked on a new one either does not answer.
            let asked = async {
                let (connection, _) = Client::open(&address, &self.resolver, &self.login).await?;
                let first = within(TIMEOUT, ask_server(&connection)).await?;
                Ok::<_, CallError>((connection, first))
            };
            let Ok((connection, mut replication)) = asked.await else {
                self.show_server(&address, None);
                self.pause().await;
                continue;
            };
            loop {
                self.show_server(&address, replication);
                self.pause().await;
                match within(TIMEOUT, ask_server(&connection)).await {
                    Ok(answer) => replication = answer,
                    Err(_) => break,
                }
            }
        }
    }

    fn show_server(&self, address: &Address, replication: Option<Replication>) {
        let seen = ObservedServer { address: address.to_string(), replication };
        self.now.send_if_modified(|now| {
            match now.servers.binary_search_by(|server| server.address.cmp(&seen.address)) {
                Ok(place) if now.servers[place] == seen => return false,
                Ok(place) => now.servers[place] = seen,
                Err(place) => now.servers.insert(place, seen),
            }
            true
        });
    }

    async fn watch_sentinel(self: Arc<Self>, place: usize, address: Address) {
        loop {
            if let Ok((connection, mut lost)) = self.listen(&address).await {
                // Two tasks in one: what it publishes, and what it answers. Either one's end is the end of both.
                tokio::select! {
                    () = self.ask_on(place, &address) => {}
                    () = self.pass_on(&address, &connection) => {}
                    _ = lost.wait() => {}
                }
            }
            self.show_sentinel(place, None);
            self.pause().await;
        }
    }

    /// A connection that carries what the sentinel publishes; one on which others are asked cannot.
    async fn listen(&self, address: &Address) -> Result<(Client, Lost), CallError> {
        let (connection, lost) = Client::open(address, &self.resolver, &Login::default()).await?;
        within(TIMEOUT, connection.subscribe_to_all()).await?;
        Ok((connection, lost))
    }

    async fn pass_on(&self, address: &Address, connection: &Client) {
        let mut messages = connection.messages();
        loop {
            let (kind, details) = match messages.recv().await {
                Ok(message) => (message.channel.to_string(), message.value.into_string().unwrap_or_default()),
                Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => return,
            };
            // Nobody has to be listening.
            let _ =
                self.events.send(SentinelEvent { at: SystemTime::now(), sentinel: address.to_string(), kind, details });
            self.wake.send_replace(());
        }
    }

    async fn ask_on(&self, place: usize, address: &Address) {
        let Ok((connection, _lost)) = Client::open(address, &self.resolver, &Login::default()).await else {
            return;
        };
        while let Ok((word, servers)) = within(TIMEOUT, ask_sentinel(&connection, &self.master)).await {
            servers.into_iter().for_each(|server| self.discover(server));
            self.show_sentinel(place, word);
            self.pause().await;
        }
    }

    fn show_sentinel(&self, place: usize, word: Option<Word>) {
        self.now.send_if_modified(|now| {
            if now.sentinels[place].word == word {
                return false;
            }
            now.sentinels[place].word = word;
            // While none of them answers, the last word stands.
            now.master = newest(&now.sentinels).or(now.master.take());
            true
        });
    }
}
