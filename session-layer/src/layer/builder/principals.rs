//! Settings of the lists of principals.

use super::SessionLayerBuilder;
use crate::commit::{AboveLimit, SessionLimit};

impl<K> SessionLayerBuilder<K> {
    /// Whose lists of principals the sessions of this layer are in. Default: the cookie's name without a prefix such as `__Host-`, so
    /// that each layer has its own lists: two layers over one store neither show nor end nor count each other's sessions, also where
    /// their principals have the same name.
    ///
    /// Layers given the same realm share their lists on purpose: [`sessions`](crate::SessionLayer::sessions) of each shows and ends the
    /// sessions of all, and a [limit](Self::max_sessions_per_principal) counts them together.
    ///
    /// A changed realm logs nobody out. Each session enters the new list at its next commit or touch; until its ID is renewed or it ends,
    /// the old list has it too, which nodes with the old setting still use during a deploy.
    ///
    /// ```
    /// use session_layer::{SessionLayer, store::MemoryStore};
    ///
    /// struct Mobile;
    ///
    /// let store = MemoryStore::new();
    /// let web = SessionLayer::builder(store.clone()).secret([7; 32]).realm("customers").build()?;
    /// let mobile: SessionLayer<Mobile> = SessionLayer::builder(store)
    ///     .secret([7; 32])
    ///     .cookie_name("__Host-mobile")
    ///     .realm("customers")
    ///     .kind::<Mobile>()
    ///     .build()?;
    /// # Ok::<(), session_layer::ConfigError>(())
    /// ```
    pub fn realm(mut self, realm: impl Into<String>) -> Self {
        self.settings.realm = Some(realm.into());
        self
    }

    /// How many sessions one principal may have at a time, and what a login above that does. Default: as many as they like. Exact
    /// however many logins come at once. A login counts the sessions that are listed: where Redis has evicted a list, those that are back
    /// in it later may be more than that, until the next login.
    pub fn max_sessions_per_principal(mut self, most: usize, above: AboveLimit) -> Self {
        self.settings.session_limit = Some(SessionLimit { most, above });
        self
    }
}
