//! For tests of stores and of what is built on them (feature `test-util`).

pub mod clock;
pub mod history;
pub mod random;
