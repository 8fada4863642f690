//! What the handler of a request does, decided before the request is sent.

use super::random::Random;
use super::settings::{Settings, Theme};

/// Attributes whose values are numbers. `hits` is only ever counted up.
pub const NUMBERS: [&str; 4] = ["a", "b", "c", "hits"];
/// Sometimes text, sometimes counted.
pub const NOTE: &str = "note";
/// Always set together, to the same value.
pub const PAIR: [&str; 2] = ["left", "right"];
pub const ALL: [&str; 7] = ["a", "b", "c", "hits", NOTE, "left", "right"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Set(&'static str),
    Remove(&'static str),
    Increment(&'static str),
    /// Text into `note`.
    Text,
    Pair,
    Clear,
    Flush,
    Update(&'static str),
    Reload,
    LogIn(Account),
    LogOut,
    Cycle,
    Destroy,
    Reset,
    RevokeAll(Account),
    RevokeOthers(Account),
    RevokeFirst(Account),
    List(Account),
    Sleep(u64),
}

/// Who: a browser has two accounts of its own, or all share two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account(pub usize);

impl Account {
    pub fn name(self) -> &'static str {
        ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"][self.0]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Ok,
    ClientError,
    ServerError,
    RequestTimeout,
    Panic,
}

#[derive(Debug, Clone)]
pub struct Script {
    /// Changes without reading.
    pub lazy: bool,
    pub ops: Vec<Op>,
    pub end: End,
    /// Whether the handler tells its client when a flush failed, or goes on as if nothing had happened.
    pub minds_errors: bool,
}

impl Script {
    /// Anything.
    pub fn any(random: &mut Random, settings: &Settings, accounts: &[Account]) -> Self {
        let lazy = random.chance(150);
        let count = random.weighted(&[(2, 0), (4, 1), (4, 2), (2, 3), (1, 5)]);
        let mut ops: Vec<_> = (0..count)
            .map(|_| if lazy { blind(random, settings) } else { change(random, settings, accounts) })
            .collect();
        if lazy && random.chance(60) {
            ops.insert(0, Op::Reset);
        }
        if !lazy && random.chance(250) {
            ops.push(identity(random, accounts));
            if random.chance(300) {
                ops.push(blind(random, settings));
            }
        }
        let end = if random.chance(settings.handler_fails) {
            random.pick(&[End::ServerError, End::RequestTimeout, End::Panic, End::ClientError])
        } else {
            End::Ok
        };
        Self { lazy, ops, end, minds_errors: random.chance(700) }
    }

    /// Anything but what changes or ends the session as such.
    pub fn harmless(random: &mut Random, settings: &Settings) -> Self {
        let lazy = random.chance(300);
        let count = random.between(0, 2);
        let ops = (0..count).map(|_| blind(random, settings)).collect();
        Self { lazy, ops, end: End::Ok, minds_errors: true }
    }

    pub fn log_in(random: &mut Random, settings: &Settings, account: Account) -> Self {
        let mut ops = Vec::new();
        if random.chance(500) {
            ops.push(blind(random, settings));
        }
        if random.chance(300) {
            ops.push(Op::Sleep(random.between(1, 8)));
        }
        ops.push(Op::LogIn(account));
        if random.chance(300) {
            ops.push(blind(random, settings));
        }
        Self { lazy: false, ops, end: End::Ok, minds_errors: true }
    }

    pub fn one(op: Op) -> Self {
        Self { lazy: false, ops: vec![op], end: End::Ok, minds_errors: true }
    }
}

fn number(random: &mut Random, settings: &Settings) -> &'static str {
    if settings.theme == Theme::Anything { random.pick(&NUMBERS[..3]) } else { random.pick(&NUMBERS[..2]) }
}

fn blind(random: &mut Random, settings: &Settings) -> Op {
    let name = number(random, settings);
    if settings.theme == Theme::Notes && random.chance(800) {
        return random.weighted(&[(3, Op::Text), (4, Op::Increment(NOTE)), (2, Op::Remove(NOTE))]);
    }
    random.weighted(&[
        (6, Op::Set(name)),
        (3, Op::Remove(name)),
        (4, Op::Increment(name)),
        (4, Op::Increment("hits")),
        (2, Op::Text),
        (3, Op::Increment(NOTE)),
        (1, Op::Remove(NOTE)),
        (2, Op::Pair),
    ])
}

fn change(random: &mut Random, settings: &Settings, accounts: &[Account]) -> Op {
    let name = number(random, settings);
    let account = random.pick(accounts);
    let sleep = random.between(1, 12);
    let blind = blind(random, settings);
    random.weighted(&[
        (12, blind),
        (4, Op::Flush),
        (2, Op::Update(name)),
        (2, Op::Update("hits")),
        (2, Op::Reload),
        (4, Op::Sleep(sleep)),
        (1, Op::Clear),
        (1, Op::List(account)),
    ])
}

fn identity(random: &mut Random, accounts: &[Account]) -> Op {
    let account = random.pick(accounts);
    random.weighted(&[
        (8, Op::LogIn(account)),
        (4, Op::LogOut),
        (4, Op::Cycle),
        (2, Op::Destroy),
        (2, Op::Reset),
        (2, Op::RevokeAll(account)),
        (1, Op::RevokeOthers(account)),
        (1, Op::RevokeFirst(account)),
    ])
}
