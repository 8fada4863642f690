//! What a request does, and what becomes of it by the rules.

use std::collections::BTreeMap;

/// SplitMix64 (Steele, Lea and Flood 2014): small, and the same everywhere.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

// What a request does.

#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    Insert(&'static str, u64),
    Remove(&'static str),
    Increment(&'static str, i64),
    Clear,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Identity {
    Keep,
    Cycle,
    LogIn(&'static str),
    LogOut,
    LogOutAndIn(&'static str),
    Reset,
}

#[derive(Debug, Clone)]
pub struct Ops {
    pub lazy: bool,
    identity: Identity,
    ops: Vec<Op>,
}

impl Ops {
    pub fn random(random: &mut Random) -> Self {
        let lazy = random.one_in(4);
        let identity = match random.below(10) {
            // All that a lazy session can do to itself.
            0 if lazy && random.one_in(3) => Identity::Reset,
            _ if lazy => Identity::Keep,
            0 => Identity::Cycle,
            1 | 2 => Identity::LogIn(random.pick(&["alice", "alice", "bob"])),
            3 => Identity::LogOut,
            4 if random.one_in(2) => Identity::LogOutAndIn(random.pick(&["alice", "bob"])),
            5 if random.one_in(2) => Identity::Reset,
            _ => Identity::Keep,
        };
        let ops = (0..random.below(4))
            .map(|_| match random.below(if lazy { 6 } else { 7 }) {
                0 | 1 => Op::Insert(random.pick(&["a", "b", "c"]), random.next() % 100),
                2 | 3 => Op::Increment(random.pick(&["m", "n"]), random.below(5) as i64 - 1),
                4 | 5 => Op::Remove(random.pick(&["a", "b", "c", "m", "n"])),
                _ => Op::Clear,
            })
            .collect();
        Self { lazy, identity, ops }
    }

    pub fn nothing() -> Self {
        Self { lazy: false, identity: Identity::Keep, ops: Vec::new() }
    }

    pub fn text(&self) -> String {
        let mut text = match self.identity {
            Identity::Keep => String::new(),
            Identity::Cycle => "cycle; ".to_owned(),
            Identity::LogIn(principal) => format!("log_in {principal}; "),
            Identity::LogOut => "log_out; ".to_owned(),
            Identity::LogOutAndIn(principal) => format!("log_out; log_in {principal}; "),
            Identity::Reset => "reset; ".to_owned(),
        };
        for op in &self.ops {
            text.push_str(&match op {
                Op::Insert(name, value) => format!("insert {name} {value}; "),
                // Increments of one are all that a lazy session's test route knows.
                Op::Increment(name, _) if self.lazy => format!("increment {name}; "),
                Op::Increment(name, by) => format!("increment {name} {by}; "),
                Op::Remove(name) => format!("remove {name}; "),
                Op::Clear => "clear; ".to_owned(),
            });
        }
        text
    }

    fn is_empty(&self) -> bool {
        self.identity == Identity::Keep && self.ops.is_empty()
    }

    fn principal(&self) -> Option<&'static str> {
        match self.identity {
            Identity::LogIn(principal) | Identity::LogOutAndIn(principal) => Some(principal),
            _ => None,
        }
    }

    fn apply(&self, attributes: &mut Attributes) {
        for op in &self.ops {
            match op {
                Op::Insert(name, value) => drop(attributes.insert(name, *value as i64)),
                Op::Remove(name) => drop(attributes.remove(name)),
                Op::Increment(name, by) => *attributes.entry(name).or_default() += if self.lazy { 1 } else { *by },
                Op::Clear => attributes.clear(),
            }
        }
    }

    /// Whether nothing is left once the session has ended.
    fn only_ends(&self) -> bool {
        self.identity == Identity::LogOut && self.on_nothing().is_empty()
    }

    fn on_nothing(&self) -> Attributes {
        let mut attributes = Attributes::new();
        self.apply(&mut attributes);
        attributes
    }
}

// The model.

pub type Id = usize;
pub type Attributes = BTreeMap<&'static str, i64>;

#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    Alive {
        attributes: Attributes,
        principal: Option<&'static str>,
    },
    /// With its successor, and when it ended.
    Ended(Option<Id>, u64),
    Expired,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Cookie {
    None,
    Keep(Id),
    Forget,
}

/// A request that arrives more than so many seconds after its session's end was sent by a new visitor.
const LATE_WINDOW: u64 = 10;

#[derive(Default)]
pub struct Model {
    pub entries: Vec<Entry>,
    /// In seconds.
    pub now: u64,
}

impl Model {
    fn create(&mut self, attributes: Attributes, principal: Option<&'static str>) -> Id {
        self.entries.push(Entry::Alive { attributes, principal });
        self.entries.len() - 1
    }

    /// What a request that presents `id`, arrived at `arrived`, and had loaded `loaded` (nothing, if it is lazy), gets for its changes.
    pub fn commit(&mut self, id: Option<Id>, arrived: u64, loaded: Option<&Entry>, ops: &Ops) -> (u16, Cookie) {
        let Some(id) = id else { return self.visitor(ops) };
        let found = match loaded {
            // Blind, and without changes: nobody asked for the session.
            None if ops.is_empty() => return (200, Cookie::None),
            None => self.entries[id].clone(),
            Some(loaded) => loaded.clone(),
        };
        match found {
            Entry::Expired => self.visitor(ops),
            Entry::Ended(..) if ops.identity == Identity::Reset => self.visitor(ops),
            Entry::Ended(successor, _) if ops.principal().is_some() => self.follow(successor, ops),
            Entry::Ended(successor, ended) if arrived > ended + LATE_WINDOW => match self.visitor(ops) {
                (200, Cookie::None) if successor.is_none() => (200, Cookie::Forget),
                answer => answer,
            },
            Entry::Ended(..) if ops.is_empty() => (200, Cookie::None),
            Entry::Ended(None, _) if ops.only_ends() => (200, Cookie::None),
            Entry::Ended(..) => (409, Cookie::None),
            Entry::Alive { .. } if ops.is_empty() => (200, Cookie::None),
            Entry::Alive { principal, .. } => self.known(id, principal, ops),
        }
    }

    fn visitor(&mut self, ops: &Ops) -> (u16, Cookie) {
        let attributes = ops.on_nothing();
        if ops.principal().is_none() && attributes.is_empty() && ops.identity != Identity::Reset {
            return (200, Cookie::None);
        }
        (200, Cookie::Keep(self.create(attributes, ops.principal())))
    }

    /// The session was loaded alive, and belonged to `owner` then.
    fn known(&mut self, id: Id, owner: Option<&'static str>, ops: &Ops) -> (u16, Cookie) {
        let ends_anew = match ops.identity {
            Identity::LogIn(principal) => owner.is_some_and(|owner| owner != principal),
            Identity::LogOut | Identity::LogOutAndIn(_) | Identity::Reset => true,
            Identity::Keep | Identity::Cycle => false,
        };
        let only_ends = ops.only_ends();
        match self.entries[id].clone() {
            Entry::Alive { mut attributes, principal } => {
                if only_ends {
                    self.entries[id] = Entry::Ended(None, self.now);
                    return (200, Cookie::Forget);
                }
                if ends_anew {
                    let new = self.create(ops.on_nothing(), ops.principal());
                    self.entries[id] = Entry::Ended(ops.principal().map(|_| new), self.now);
                    return (200, Cookie::Keep(new));
                }
                ops.apply(&mut attributes);
                if ops.identity == Identity::Keep {
                    self.entries[id] = Entry::Alive { attributes, principal };
                    return (200, Cookie::None);
                }
                let new = self.create(attributes, ops.principal().or(principal));
                self.entries[id] = Entry::Ended(Some(new), self.now);
                (200, Cookie::Keep(new))
            }
            Entry::Expired | Entry::Ended(..) if ops.identity == Identity::Reset => self.visitor(ops),
            Entry::Expired | Entry::Ended(None, _) if only_ends => (200, Cookie::None),
            Entry::Ended(Some(successor), _) if ops.principal().is_some() => self.follow(Some(successor), ops),
            Entry::Expired | Entry::Ended(..) => (409, Cookie::None),
        }
    }

    /// A late login.
    fn follow(&mut self, successor: Option<Id>, ops: &Ops) -> (u16, Cookie) {
        let Some(successor) = successor else { return self.visitor(ops) };
        match &mut self.entries[successor] {
            Entry::Ended(next, _) => {
                let next = *next;
                self.follow(next, ops)
            }
            Entry::Alive { attributes, principal } if *principal == ops.principal() => {
                ops.apply(attributes);
                (200, Cookie::Keep(successor))
            }
            Entry::Alive { .. } | Entry::Expired => self.visitor(ops),
        }
    }

    pub fn expire(&mut self) {
        self.entries.fill(Entry::Expired);
    }

    /// What a page shows.
    pub fn page(&self, id: Option<Id>) -> String {
        let none = (Attributes::new(), None, false);
        let (attributes, principal, exists) = match id.map(|id| &self.entries[id]) {
            Some(Entry::Alive { attributes, principal }) => (attributes.clone(), *principal, true),
            _ => none,
        };
        let values: Vec<_> =
            NAMES.iter().map(|name| attributes.get(name).map_or("none".to_owned(), i64::to_string)).collect();
        format!("{exists} {} {}", principal.unwrap_or("nobody"), values.join(" "))
    }
}

pub const NAMES: [&str; 5] = ["a", "b", "c", "m", "n"];
