//! Stores and sessions against models that are plain maps.

pub mod store; // what a store answers

mod session; // what a handler sees
