//! End to end: what a visitor of the cluster sees, on the `docker-compose.yml` that a user runs; and what
//! RedisStore does on a real Redis.

mod page; // the test page, read as a visitor reads it

mod sharing; // one session on both nodes; logging in and out

mod door; // nginx: what it serves itself, what it tells the nodes; health and metrics

mod flood; // what one address can do to everybody else

mod concurrency; // many writers of one session

mod history; // what many clients were told, held against every order of what they did

mod pages; // the pages in a real browser, and what they tell scripts

mod late; // a request that is still on its way when its session ends

mod bad_input; // cookies, bodies and stored values that nobody should send or store

mod cost; // round trips and commands

mod failover; // the master is killed, or frozen

mod switches; // replica reads, near cache and rollback detection, all on

mod under_load; // upgrades, failovers and a node that dies, under load whose every answer is checked

mod outage; // no Redis at all

mod faults; // whatever else can go wrong, under load whose every answer is checked

mod restart; // of nodes, and of everything

mod promises; // what the layer promises, with two nodes on one Redis

mod fresh; // what a browser was told, and copies of sessions

mod store; // RedisStore on servers of its own
