//! What a program may want to know of its sessions while they are served.

use crate::id::SessionHandle;
use crate::record::Version;

/// Something that happened to a session; see [`SessionLayerBuilder::on_event`](crate::SessionLayerBuilder::on_event).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// A change that was acknowledged to this session's browser is gone: Redis replicates asynchronously, and a failover took it. The
    /// request goes on with what is there. Needs
    /// [`rollback_detection`](crate::SessionLayerBuilder::rollback_detection).
    #[non_exhaustive]
    RolledBack {
        /// The session.
        session: SessionHandle,
        /// The version that the browser had been told of.
        lost: Version,
        /// The version that the store has.
        found: Version,
    },
}
