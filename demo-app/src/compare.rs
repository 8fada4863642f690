//! The ways to share sessions between nodes, each as a session layer of its own with its own cookie.
//!
//! What differs is only where they keep sessions, and how the proxy in front picks a node for them (`nginx.conf`, and
//! [`crate::embedded`] for the cluster in one process).

use std::time::Duration;

use session_layer::store::{MemoryStore, SessionStore};
use session_layer::{SessionLayer, SessionLayerBuilder};

use crate::config::{ConfigError, SessionSettings};

/// How long a session of these pages lasts unused. Two of the stores are in the node's memory, which is not to fill up.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// A way to share sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Each node keeps its own sessions, and the nodes take turns.
    None,
    /// Each node keeps its own sessions, and the proxy sends a visitor to the same node each time.
    Sticky,
    /// All nodes keep their sessions in one place.
    Shared,
}

impl Scheme {
    /// In addresses.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scheme::None => "none",
            Scheme::Sticky => "sticky",
            Scheme::Shared => "shared",
        }
    }

    /// In headings.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Scheme::None => "Not shared",
            Scheme::Sticky => "Sticky",
            Scheme::Shared => "Shared",
        }
    }

    /// Where it lives.
    pub(crate) fn path(self) -> String {
        format!("/compare/{}/", self.name())
    }
}

/// The layers of the schemes.
pub(crate) struct Schemes(pub(crate) [(Scheme, SessionLayer); 3]);

impl Schemes {
    /// `shared` is where all nodes keep their sessions.
    pub(crate) fn new(shared: impl SessionStore, settings: &SessionSettings) -> Result<Self, ConfigError> {
        let none = layer(Scheme::None, SessionLayer::builder(MemoryStore::new()), settings)?;
        let sticky = layer(Scheme::Sticky, SessionLayer::builder(MemoryStore::new()), settings)?;
        let shared = layer(Scheme::Shared, SessionLayer::builder(shared), settings)?;
        Ok(Self([(Scheme::None, none), (Scheme::Sticky, sticky), (Scheme::Shared, shared)]))
    }
}

fn layer(
    scheme: Scheme,
    builder: SessionLayerBuilder,
    settings: &SessionSettings,
) -> Result<SessionLayer, ConfigError> {
    builder
        .secret(&settings.secret)
        .accepted_secrets(&settings.accepted)
        .development(settings.development)
        .cookie_name(format!("compare_{}", scheme.name()))
        // Sent with the requests of its own scheme only: the other pages have nothing to do with it.
        .cookie_path(scheme.path())
        .idle_timeout(IDLE_TIMEOUT)
        .absolute_timeout(None)
        .build()
        .map_err(|error| ConfigError::new("SESSION_SECRET", error))
}
