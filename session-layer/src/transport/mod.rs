//! How a session ID travels between browser and server.

mod cookie; // the name and attributes, and the headers made of them
pub use cookie::SameSite;
#[cfg(test)]
pub(crate) use cookie::tests;
pub(crate) use cookie::{Cookie, seconds};

mod check; // refuses what browsers would not keep or send back
pub(crate) use check::CookieFault;

mod domain; // what a `Domain` attribute may be

mod read; // finds our values in a request's headers
pub(crate) use read::Candidates;

mod former; // cookies that an earlier version of the app has set
pub use former::FormerCookie;

mod caches; // what caches are told
pub(crate) use caches::{forbid_storing, mark_as_read};

mod cross_site; // requests that another site started
pub(crate) use cross_site::is_withheld;
