//! Load for the demo: requests that are due at a fixed rate whatever becomes of those before, and browsers that know what
//! they were told and check every answer against it.
//!
//! The commands that take a server away, the end-to-end tests and the benchmark share it. It speaks HTTP only, and knows
//! nothing of Docker.

pub mod browser; // requests with a cookie jar

pub mod driver; // when requests are due, and who begins them

pub mod report; // what became of them

mod model; // what a visitor knows of its session, and what an answer must therefore say

mod answers; // what an answer says of it

mod findings; // what comes of comparing the two

pub mod visitors; // many of them, as the driver's workload

#[cfg(test)]
mod stall; // the driver against a server that stalls

#[cfg(test)]
mod stub; // the visitors against a server that makes mistakes
