//! For tests of stores and of what is built on them (feature `test-util`).

pub mod history;
pub mod random;
