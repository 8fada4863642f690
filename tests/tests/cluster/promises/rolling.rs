//! Two versions of an app side by side, as in a rolling deploy: neither drops what the other stored, none fails on it, and secrets
//! rotate without a logout.
//!
//! The next version adds an attribute (`theme`), renames one (`cart` becomes `basket`; the last version goes on writing `cart`), and
//! gives one another type (`prefs`: a text becomes an object).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use session_layer::{Attribute, Session, SessionError};

use super::{Answer, Browser, Node, Place, Shuffle, measured, times};

const OLD: [u8; 32] = [1; 32];
const NEW: [u8; 32] = [2; 32];

/// What both versions know.
const VISITS: Attribute<u64> = Attribute::new("visits");
/// What the last version knows.
const CART: Attribute<Vec<usize>> = Attribute::new("cart");
const PREFS_BEFORE: Attribute<String> = Attribute::new("prefs");
/// What the next version knows.
const BASKET: Attribute<Vec<usize>> = Attribute::new("basket");
const THEME: Attribute<String> = Attribute::new("theme");
const PREFS: Attribute<Prefs> = Attribute::new("prefs");

#[derive(Serialize, Deserialize)]
struct Prefs {
    language: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Last,
    Next,
}

/// A request of either app: counts a visit, puts an item into the cart, looks at the preferences, and now and then changes them.
/// Answers with the preferred language, or that it cannot read it.
async fn serve(version: Version, item: usize, change: bool, session: Session) -> Result<String, SessionError> {
    assert_eq!(session.principal().as_deref(), Some("alice"));
    session.increment(VISITS, 1)?;
    let push = |cart: &mut Option<Vec<usize>>| cart.get_or_insert_default().push(item);
    let language = match version {
        Version::Last => {
            session.update(CART, push).await?;
            if change {
                session.insert(PREFS_BEFORE, "en")?;
            }
            session.get(PREFS_BEFORE)
        }
        Version::Next => {
            session.update(BASKET, push).await?;
            session.insert(THEME, format!("dark{item}"))?;
            if change {
                session.insert(PREFS, Prefs { language: "en".to_owned() })?;
            }
            session.get(PREFS).map(|prefs| prefs.map(|prefs| prefs.language))
        }
    };
    match language {
        Ok(language) => Ok(language.unwrap_or_default()),
        // Of that one attribute alone; the handler goes on without it.
        Err(error) if error.is_unreadable() => Ok("unreadable".to_owned()),
        Err(error) => Err(error),
    }
}

/// A node as a deploy leaves it.
struct Deployed {
    node: Node,
    version: Version,
}

/// Which secrets a node signs with and accepts.
#[derive(Clone, Copy)]
enum Secrets {
    Old,
    OldAndAcceptsNew,
    NewAndAcceptsOld,
    New,
}

async fn deploy(place: &Place, version: Version, secrets: Secrets) -> Deployed {
    let node = Node::with(place, |layer| match secrets {
        Secrets::Old => layer.secret(OLD),
        Secrets::OldAndAcceptsNew => layer.secret(OLD).accepted_secrets([NEW]),
        Secrets::NewAndAcceptsOld => layer.secret(NEW).accepted_secrets([OLD]),
        Secrets::New => layer.secret(NEW),
    });
    Deployed { node: node.await, version }
}

/// Browsers, and what they have done so far.
struct Run {
    browsers: Vec<Browser>,
    /// Which items went into each browser's cart or basket.
    items: Vec<BTreeSet<usize>>,
    requests: usize,
    unreadable: usize,
    random: Shuffle,
}

impl Run {
    /// Requests in turn at both nodes, by all browsers.
    async fn requests(&mut self, nodes: &[Deployed; 2], n: usize) {
        for _ in 0..n {
            let Deployed { node, version } = &nodes[self.requests % 2];
            let browser = self.random.below(self.browsers.len());
            let (item, change, version) = (self.requests, self.random.below(10) == 0, *version);
            let act = async move |session: Session| serve(version, item, change, session).await;
            let answer = self.browsers[browser].ask(node, act).await;
            let Answer { body, .. } = answer.expect(200);
            assert!(["", "en", "unreadable"].contains(&&*body), "{body}");
            self.unreadable += usize::from(body == "unreadable");
            self.items[browser].insert(item);
            self.requests += 1;
        }
    }

    /// Nothing is lost, for whoever looks.
    async fn check(&self, node: &Node) {
        for (browser, items) in self.browsers.iter().zip(&self.items) {
            let look = async |session: Session| {
                let all = (session.get(VISITS)?, session.get(CART)?, session.get(BASKET)?, session.get(THEME)?);
                Ok(serde_json::to_string(&all).expect("JSON"))
            };
            let seen = browser.ask(node, look).await.expect(200).body;
            type Seen = (usize, Option<Vec<usize>>, Option<Vec<usize>>, Option<String>);
            let (visits, cart, basket, theme): Seen = serde_json::from_str(&seen).expect("JSON");
            let basket = basket.unwrap_or_default();
            assert_eq!(visits, items.len());
            assert_eq!(theme, basket.last().map(|item| format!("dark{item}")));
            let all: Vec<usize> = [cart.unwrap_or_default(), basket].concat();
            assert_eq!(all.len(), items.len(), "no item is there twice");
            assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), *items);
        }
    }

    async fn enter(&mut self, node: &Node) {
        let browser = Browser::default();
        browser.log_in(node, "alice").await.expect(200).with_cookie();
        self.browsers.push(browser);
        self.items.push(BTreeSet::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_versions_side_by_side_lose_nothing_answer_no_500_and_log_nobody_out_while_secrets_rotate() {
    use Secrets::{NewAndAcceptsOld, OldAndAcceptsNew};
    use Version::{Last, Next};
    let place = Place::shared().await;
    let n = times(1_000, 10_000) / 12;
    let mut nodes = [deploy(&place, Last, Secrets::Old).await, deploy(&place, Last, Secrets::Old).await];
    let mut run = Run { browsers: vec![], items: vec![], requests: 0, unreadable: 0, random: Shuffle(4) };
    for i in 0..4 {
        run.enter(&nodes[i % 2].node).await;
    }
    // To the next version and back, one node after the other; each deploy is one of the three that rotate the secrets.
    for (version, secrets) in [(Next, OldAndAcceptsNew), (Last, NewAndAcceptsOld)] {
        for i in 0..2 {
            run.requests(&nodes, n).await;
            nodes[i] = deploy(&place, version, secrets).await;
            run.requests(&nodes, n).await;
            run.enter(&nodes[i].node).await;
            run.requests(&nodes, n).await;
        }
        run.check(&nodes[0].node).await;
    }
    // What the old secret signed must have ended, or been renewed, before it is dropped.
    for (i, browser) in run.browsers.iter().enumerate() {
        let cycle = async |session: Session| session.cycle_id().map(|()| String::new());
        browser.ask(&nodes[i % 2].node, cycle).await.expect(200).with_cookie();
    }
    for i in 0..2 {
        nodes[i] = deploy(&place, Last, Secrets::New).await;
        run.requests(&nodes, n).await;
    }
    run.check(&nodes[1].node).await;
    assert_eq!(place.audit().await, [("alice".to_owned(), run.browsers.len())].into());
    assert!(run.unreadable > 0, "no version met what the other wrote");
    let (requests, unreadable) = (run.requests, run.unreadable);
    measured(format!(
        "{requests} requests at two versions: nothing lost, no 500; {unreadable} met a value of the other's type"
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_version_cannot_read_keeps_its_bytes_and_stops_nothing_else() {
    let nodes = Node::pair(&Place::shared().await).await;
    let browser = Browser::default();
    // Written by the next version.
    const BYTES: &str = "{\"language\":\"en\",\"new\":[1e0,null]}";
    let next = async |session: Session| session.insert_json(PREFS, BYTES).map(|()| String::new());
    browser.ask(&nodes[0], next).await.expect(200);

    let last = async |session: Session| {
        let error = session.get(PREFS_BEFORE).expect_err("it is no text");
        assert!(error.is_unreadable());
        session.insert("other", 1)?;
        session.increment(VISITS, 1)?;
        // Not even with a condition on what it was.
        let touched = session.update(PREFS_BEFORE, |prefs| *prefs = Some("fr".to_owned())).await;
        assert!(touched.expect_err("it is no text").is_unreadable());
        Ok(session.get(VISITS)?.unwrap_or_default().to_string())
    };
    assert_eq!(browser.ask(&nodes[1], last).await.expect(200).body, "1");
    let cycle = async |session: Session| session.log_in("alice").map(|()| String::new());
    browser.ask(&nodes[1], cycle).await.expect(200);
    assert_eq!(browser.read(&nodes[0], "prefs").await, BYTES);
    assert_eq!(browser.read(&nodes[0], "other").await, "1");
    assert_eq!(browser.read(&nodes[0], "visits").await, "1");
    let next = async |session: Session| Ok(session.get(PREFS)?.expect("it is there").language);
    assert_eq!(browser.ask(&nodes[0], next).await.expect(200).body, "en");
}
