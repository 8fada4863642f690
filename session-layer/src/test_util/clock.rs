//! The time of day, moved by a test.
//!
//! Tokens say at which second of the day they were given, and what follows from that depends on the clock of the machine. While a
//! [`Followed`] lives, code on its thread takes it from tokio's clock instead, which a test can stop and move.

use std::cell::Cell;
use std::marker::PhantomData;
use std::time::Duration;

use tokio::time::Instant;

thread_local! {
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The second at which a followed clock begins.
const FIRST: Duration = Duration::from_secs(1_000_000_000);

/// Makes the library's time of day follow tokio's clock on this thread until it is dropped.
#[must_use = "the time of day is the machine's again once it is dropped"]
pub struct Followed {
    before: Option<Instant>,
    // Belongs to the thread that made it.
    not_send: PhantomData<*const ()>,
}

impl Followed {
    /// From here on.
    #[allow(clippy::new_without_default, reason = "it does something")]
    pub fn new() -> Self {
        Self { before: BEGAN.replace(Some(Instant::now())), not_send: PhantomData }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        BEGAN.set(self.before);
    }
}

/// The time since 1970, if the clock of this thread is followed.
pub(crate) fn since_epoch() -> Option<Duration> {
    BEGAN.get().map(|began| FIRST + began.elapsed())
}
