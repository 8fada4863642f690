//! Looks at servers and sentinels from outside, for people to see: a dashboard, a log of failovers.
//!
//! Beside the store and apart from it: connections of its own, so that nobody's request waits for a look, and none before
//! somebody asks for an [`Observer`]. Nothing that the store decides depends on what is seen here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fred::types::{Resp3Frame as Frame, Value};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::client::{Client, Lost};
use super::connection::{CallError, within};
use super::url::{Address, Login, RedisUrl, Servers};

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

/// One picture of servers and sentinels. Addresses are `host:port`, as the sentinels spell them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observation {
    /// Who leads, by the newest word of the sentinels; without sentinels, the one server. It may be down.
    pub master: Option<String>,
    /// The servers, by address.
    pub servers: Vec<ObservedServer>,
    /// The sentinels, as the URL lists them.
    pub sentinels: Vec<ObservedSentinel>,
}

/// A Redis server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedServer {
    /// Its address.
    pub address: String,
    /// What it says of itself; `None` while it does not answer.
    pub replication: Option<Replication>,
}

/// A server's place in the replication, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replication {
    /// It takes writes.
    Master {
        /// How many bytes it has sent into the stream of replication.
        offset: u64,
        /// Who follows.
        replicas: Vec<Follower>,
    },
    /// It follows a master.
    Replica {
        /// Whom.
        of: String,
        /// Whether the link to it is up.
        link_up: bool,
        /// How many bytes of the stream it has.
        offset: u64,
    },
}

/// A replica, as its master sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follower {
    /// Its address.
    pub address: String,
    /// Whether it receives the stream (not while it is still copying everything).
    pub online: bool,
    /// How many bytes of the stream it has confirmed.
    pub offset: u64,
    /// How long ago it last confirmed any, in whole seconds.
    pub silent_for: Duration,
}

/// A sentinel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedSentinel {
    /// Its address.
    pub address: String,
    /// What it says; `None` while it does not answer.
    pub word: Option<Word>,
}

/// What a sentinel says of the master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Whom it names.
    pub master: String,
    /// Whether it thinks that the master is down.
    pub master_down: bool,
    /// Rises with each failover.
    pub epoch: u64,
}

/// What a sentinel published. Each sentinel reports by itself, so that the same thing comes up to three times from three.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentinelEvent {
    /// When it came here.
    pub at: SystemTime,
    /// From which sentinel.
    pub sentinel: String,
    /// The kind, as Redis' documentation lists them: `+sdown`, `+odown`, `+try-failover`, `+switch-master`, `-sdown`, …
    pub kind: String,
    /// What it is about: `master mymaster redis-1 6380`.
    pub details: String,
}

impl Observer {
    pub(super) fn start(url: &RedisUrl) -> Self {
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
                let (connection, _) = Client::open(&address, &self.login).await?;
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
        let (connection, lost) = Client::open(address, &Login::default()).await?;
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
        let Ok((connection, _lost)) = Client::open(address, &Login::default()).await else {
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

fn newest(sentinels: &[ObservedSentinel]) -> Option<String> {
    let words = sentinels.iter().filter_map(|sentinel| sentinel.word.as_ref());
    words.max_by_key(|word| word.epoch).map(|word| word.master.clone())
}

async fn ask_server(connection: &Client) -> Result<Option<Replication>, CallError> {
    let info = connection.call("INFO", vec![Value::from_static_str("replication")]).await?;
    Ok(text(&info).and_then(read_info))
}

async fn ask_sentinel(connection: &Client, master: &str) -> Result<(Option<Word>, Vec<Address>), CallError> {
    let ask = |what| vec![Value::from_static_str(what), Value::from(master)];
    let (details, replicas) =
        tokio::join!(connection.call("SENTINEL", ask("MASTER")), connection.call("SENTINEL", ask("REPLICAS")));
    let (details, replicas) = (details?, replicas?);
    let details = Fields::of(&details);
    let leader = details.address();
    let mut servers: Vec<_> = leader.iter().cloned().collect();
    if let Frame::Array { data, .. } = &replicas {
        servers.extend(data.iter().filter_map(|replica| Fields::of(replica).address()));
    }
    let down = ["s_down", "o_down"].iter().any(|flag| details.get("flags").is_some_and(|flags| flags.contains(flag)));
    let epoch = details.get("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    Ok((leader.map(|master| Word { master: master.to_string(), master_down: down, epoch }), servers))
}

/// A list of names and values by turns.
struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Fields<'a> {
    fn of(frame: &'a Frame) -> Self {
        let Frame::Array { data, .. } = frame else { return Self(Vec::new()) };
        Self(data.chunks_exact(2).filter_map(|pair| Some((text(&pair[0])?, text(&pair[1])?))).collect())
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(field, _)| *field == name).map(|(_, value)| *value)
    }

    fn address(&self) -> Option<Address> {
        Some(Address { host: self.get("ip")?.to_owned(), port: self.get("port")?.parse().ok()? })
    }
}

/// `INFO replication`; nothing if it says something unheard of.
fn read_info(info: &str) -> Option<Replication> {
    let get = |name: &str| {
        info.lines().find_map(|line| line.split_once(':').filter(|field| field.0 == name)).map(|f| f.1.trim())
    };
    let number = |name: &str| get(name).and_then(|value| value.parse().ok());
    match get("role")? {
        "master" => Some(Replication::Master {
            offset: number("master_repl_offset")?,
            replicas: info.lines().filter_map(read_follower).collect(),
        }),
        "slave" => Some(Replication::Replica {
            of: format!("{}:{}", get("master_host")?, get("master_port")?),
            link_up: get("master_link_status")? == "up",
            offset: number("slave_repl_offset")?,
        }),
        _ => None,
    }
}

/// A line such as `slave0:ip=redis-2,port=6381,state=online,offset=42,lag=1`.
fn read_follower(line: &str) -> Option<Follower> {
    let (name, fields) = line.split_once(':')?;
    name.strip_prefix("slave")?.parse::<u32>().ok()?;
    let get = |name| {
        fields.trim().split(',').find_map(|field| field.split_once('=').filter(|field| field.0 == name)).map(|f| f.1)
    };
    Some(Follower {
        address: format!("{}:{}", get("ip")?, get("port")?),
        online: get("state")? == "online",
        offset: get("offset")?.parse().ok()?,
        silent_for: Duration::from_secs(get("lag")?.parse().ok()?),
    })
}

fn text(frame: &Frame) -> Option<&str> {
    match frame {
        Frame::BlobString { data, .. } | Frame::SimpleString { data, .. } | Frame::VerbatimString { data, .. } => {
            std::str::from_utf8(data).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_tells_who_follows_it() {
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:2\r\nmin_slaves_good_slaves:2\r\n\
                    slave0:ip=redis-2,port=6381,state=online,offset=40,lag=1\r\n\
                    slave1:ip=::1,port=6382,state=wait_bgsave,offset=0,lag=0\r\nmaster_repl_offset:42\r\n";
        let Some(Replication::Master { offset: 42, replicas }) = read_info(info) else { panic!("{info}") };
        let [first, second] = &replicas[..] else { panic!("{replicas:?}") };
        assert_eq!((first.address.as_str(), first.online, first.offset), ("redis-2:6381", true, 40));
        assert_eq!((second.address.as_str(), second.online, first.silent_for.as_secs()), ("::1:6382", false, 1));
    }

    #[test]
    fn a_replica_tells_whom_it_follows() {
        let info = "role:slave\r\nmaster_host:redis-1\r\nmaster_port:6380\r\nmaster_link_status:down\r\n\
                    slave_read_repl_offset:9\r\nslave_repl_offset:7\r\nslave_priority:100\r\n";
        let expected = Replication::Replica { of: "redis-1:6380".into(), link_up: false, offset: 7 };
        assert_eq!(read_info(info), Some(expected));
        for broken in ["", "role:poet", "role:master", "role:slave\r\nmaster_host:a", "slave0:ip=a,port=1"] {
            assert_eq!(read_info(broken), None, "{broken}");
        }
    }

    #[test]
    fn the_newest_word_counts_and_silence_is_none() {
        let say = |master: &str, epoch| ObservedSentinel {
            address: "s:1".into(),
            word: Some(Word { master: master.into(), master_down: false, epoch }),
        };
        let silent = ObservedSentinel { address: "s:1".into(), word: None };
        assert_eq!(newest(&[say("old", 3), say("new", 4), say("old", 3), silent.clone()]).as_deref(), Some("new"));
        assert_eq!(newest(&[silent]), None);
    }
}
