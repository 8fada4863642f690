//! What a browser was told, on real servers: nothing that it was told goes unnoticed when it is lost, and what it reads is never older.

mod node;

mod frozen; // replication that stands still while its link is up
mod near_cache; // reads from the node's own memory
mod one_server; // a name that leads to several servers
mod random; // all of it, and trouble
mod replicas; // reads from elsewhere than the master
mod rollback; // a failover that takes an acknowledged write along

use node::{Browser, Node};
