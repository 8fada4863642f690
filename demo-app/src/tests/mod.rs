//! What the app promises, through its routers: no sockets, no Docker. `tests/` runs the binary itself.

mod client;

pub(crate) mod redis; // pictures of it

mod drain; // the end that nobody notices

mod timing; // what must be longer than what, across the files of the cluster

mod config; // settings and their errors

mod origin; // who may send unsafe requests

mod page; // the page, its forms and its headers

mod login; // accounts

mod sessions; // where an account is logged in

mod compare; // the schemes side by side

mod cluster; // the dashboard

mod api; // the JSON routes

mod copies; // what is read from elsewhere than the master, and what a failover lost

mod failures; // no store, a stored session that is spoilt, health
