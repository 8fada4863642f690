//! HTTP sessions for tower and axum.

mod signature;
mod transport;
mod id;
pub use id::*;
mod record;
mod delta;
mod commit;
mod attribute;
pub use attribute::*;
mod error;
pub use error::*;
pub mod store;
