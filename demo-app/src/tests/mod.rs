//! What the app promises, through its routers: no sockets, no Docker. `tests/` runs the binary itself.

mod client;

mod config; // settings and their errors

mod origin; // who may send unsafe requests

mod page; // the page, its forms and its headers

mod login; // accounts

mod sessions; // where an account is logged in

mod api; // the JSON routes

mod failures; // no store, a stored session that is spoilt, health
