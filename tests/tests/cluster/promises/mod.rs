//! What the layer promises, kept by two nodes on a real Redis.
//!
//! A node is an app in this process with a store of its own, and its handlers are written where they are needed. Each test has a
//! part of Redis to itself. `LONG_TESTS=1` runs the numbers that `docs/measured.md` quotes; without it each test is a few seconds.

mod browser;
mod node;

mod clients; // who gives up waiting
mod counters; // one attribute, many writers
mod durable; // what a replica must have
mod lifetimes; // timeouts that were changed, requests that take long
mod once; // answers that are lost
mod principals; // who is logged in where
mod renewal; // late requests
mod rolling; // two versions side by side

use browser::{Answer, Browser};
use node::{Node, Place};

/// How often something is done: a few times, or as often as the promise says.
pub(crate) fn times(short: usize, long: usize) -> usize {
    if std::env::var_os("LONG_TESTS").is_some() { long } else { short }
}

/// A figure for `docs/measured.md`; shown with `--nocapture`.
fn measured(figure: impl std::fmt::Display) {
    println!("measured: {figure}");
}

/// Numbers in no order, and the same ones each time.
struct Shuffle(u64);

impl Shuffle {
    fn below(&mut self, bound: usize) -> usize {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}
