//! How a session ID travels between browser and server.

mod cookie;
pub use cookie::SameSite;
pub(crate) use cookie::{Cookie, CookieFault};
