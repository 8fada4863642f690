//! HTTP sessions for [tower] and [axum], kept in Redis: several app nodes behind a load balancer that is not sticky share them, a
//! deploy logs nobody out, and a logged-out session stays logged out.
//!
//! One idea carries it: a session is a versioned set of attributes, and a request commits a *delta*, what it changed, in one
//! guarded atomic step. So requests that change different attributes at the same time all take effect, and one that comes late
//! cannot bring an ended session back.
//!
//! ```
//! use axum::{Router, routing::get};
//! use session_layer::{Session, SessionError, SessionLayer, store::MemoryStore};
//!
//! async fn visit(session: Session) -> Result<String, SessionError> {
//!     session.increment("visits", 1)?;
//!     Ok(format!("visits: {:?}", session.get::<u64>("visits")?))
//! }
//!
//! let sessions = SessionLayer::builder(MemoryStore::new()) // or RedisStore, shared by all nodes
//!     .secret(b"32 random bytes or more, the same on every node")
//!     .build()?;
//! let app: Router = Router::new().route("/", get(visit)).layer(sessions);
//! # Ok::<(), session_layer::ConfigError>(())
//! ```
//!
//! # Features
//!
//! - `axum` (default): [`Session`] and [`LazySession`] are extractors, [`SessionError`] is a response.
//! - `redis` (default): [`store::RedisStore`].
//! - `test-util`: the suite that every store passes, for authors of stores.
//!
//! [tower]: https://docs.rs/tower
//! [axum]: https://docs.rs/axum

// In the order in which a request meets them. The blank lines keep rustfmt from sorting.

mod layer; // what a program sets once
pub use layer::{ConfigError, SessionLayer, SessionLayerBuilder};

mod service; // gives each request a slot for its session
pub use service::SessionService;

mod slot; // what everything in a request shares, and the IO

mod state; // what a request knows of its session and has changed so far

mod transport; // in: the ID that the browser presented; out: the ID that it should keep
pub use transport::{FormerCookie, SameSite};

mod signature; // what makes a cookie ours

mod id; // names a session
pub use id::{InvalidSessionId, SessionHandle, SessionId};

mod extract; // how a handler gets at the session
pub use extract::Strict;

mod session; // what a handler does with it
pub use session::{DefaultSession, Flushed, LazySession, Session};

mod principals; // who is logged in where, and how that ends from elsewhere
pub use commit::AboveLimit;
pub use principals::{PrincipalSession, Sessions};

mod attribute; // names and types of attributes
pub use attribute::{Attribute, Fits, Named, Reads, Takes};

mod value; // what is stored of a value, and which values are refused
pub use value::InvalidValue;

mod error; // what can go wrong, with questions to ask it
pub use error::{Limit, SessionError};

mod record; // what a store keeps

mod delta; // what a request changed

mod commit; // what the store must do about it, and what its reply means

mod freshness; // how new what a request reads must be, and what a browser was told

mod budget; // how long a request waits for the store

mod event; // what a program may want to know
pub use event::SessionEvent;

mod future; // from the handler's response to the one that is sent
pub use future::ResponseFuture;

mod telemetry; // what the layer says about itself

mod debug; // what values show of themselves: nothing secret

pub mod store; // where sessions are kept

#[cfg(any(test, feature = "test-util"))]
pub mod test_util; // for tests of stores

// What the front page shows compiles.
#[cfg(all(doctest, feature = "axum", feature = "redis"))]
#[doc = include_str!("../../README.md")]
struct Readme;
