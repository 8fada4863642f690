//! Random numbers that repeat, so that a simulation can be run again from its seed.
//!
//! The library takes IDs and the pauses between two attempts from the operating system's generator. While a [`Seeded`] lives, code
//! on its thread takes them from a seed instead.

use std::cell::Cell;
use std::marker::PhantomData;

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Makes the library's random numbers repeatable on this thread until it is dropped.
///
/// ```
/// use session_layer::{SessionId, test_util::random::Seeded};
///
/// let first = { let _seeded = Seeded::new(7); SessionId::random() };
/// let again = { let _seeded = Seeded::new(7); SessionId::random() };
/// assert_eq!(first, again);
/// assert_ne!(first, SessionId::random());
/// ```
#[must_use = "random numbers are random again once it is dropped"]
pub struct Seeded {
    before: Option<u64>,
    // Belongs to the thread that made it.
    not_send: PhantomData<*const ()>,
}

impl Seeded {
    /// From here on, the same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self { before: STATE.replace(Some(seed)), not_send: PhantomData }
    }
}

impl Drop for Seeded {
    fn drop(&mut self) {
        STATE.set(self.before);
    }
}

/// Fills `bytes` if numbers repeat on this thread.
pub(crate) fn fill(bytes: &mut [u8]) -> bool {
    let Some(mut state) = STATE.get() else { return false };
    for chunk in bytes.chunks_mut(8) {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        chunk.copy_from_slice(&mixed.to_le_bytes()[..chunk.len()]);
    }
    STATE.set(Some(state));
    true
}
