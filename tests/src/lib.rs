//! What the end-to-end tests stand on: the cluster that a user runs, browsers that visit it, and a look at what passes between
//! a node and Redis.
//!
//! Tests wait for states ([`wait::eventually`]), never for times, and fail where they cannot run.

pub mod cluster; // the repository's docker-compose.yml, under a project and ports of its own

mod compose; // what makes them of that file

pub mod docker; // its containers: find, kill, start, pause, look inside

mod reaper; // takes the cluster down, however the tests end

pub mod ports; // free ones

pub mod redis; // servers and sentinels for tests of the store alone

pub mod watched; // a master that sentinels watch

pub use load::browser; // requests with a cookie jar

pub mod raw; // requests whose bytes arrive when the test says so

pub mod traffic; // many requests over a while, and what became of them

pub mod node; // the demo as a process of this machine, for tests that count what it sends

pub mod door; // nginx, in front of such processes

pub mod proxy; // stands between a node and Redis, and counts

pub mod lossy; // stands there too, and is slow, loses answers, or speaks for Redis

mod relay; // what both are made of

pub mod service; // one address of several servers

pub mod valve; // stands between a replica and its master, and can be shut

pub mod resp; // where one command or reply ends and the next begins

pub mod wait; // for a state
