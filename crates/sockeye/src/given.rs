//! What a thread does to other connections than the one it drives: who receives little may send very much for it.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU8, Ordering},
};

/// After so many times, the others of the thread come first: some milliseconds of work, and as much for them.
const MUCH: u32 = 8 * 1024;

/// Set in [`GIVEN`] once it was so often, until someone's turn ends for that.
const IS_MUCH: u32 = 1 << 31;

thread_local! {
    /// How often another connection was reached. Whoever did it: it is the thread that is to come to something else.
    static GIVEN: Cell<u32> = const { Cell::new(0) };
}

/// How often any thread has come to much. To ask the thread itself costs ten instructions, of the 400 that a message takes;
/// this one two.
static TIMES: AtomicU8 = AtomicU8::new(0);

/// Counts that another connection is reached.
#[inline]
pub(crate) fn count() {
    let given = GIVEN.get() + 1;
    if given & !IS_MUCH < MUCH {
        GIVEN.set(given);
    } else {
        GIVEN.set(IS_MUCH);
        TIMES.fetch_add(1, Ordering::Relaxed);
    }
}

/// Changes where it may be that this thread has given much.
#[inline]
pub(crate) fn times() -> u8 {
    TIMES.load(Ordering::Relaxed)
}

/// Whether it has, and nobody's turn has ended for that.
#[cold]
pub(crate) fn is_much() -> bool {
    GIVEN.get() & IS_MUCH != 0
}

/// The same, for the turn that ends now.
#[cold]
pub(crate) fn take_much() -> bool {
    let is_much = is_much();
    GIVEN.set(GIVEN.get() & !IS_MUCH);
    is_much
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_has_given_is_much_once() {
        for _ in 0..3 {
            let before = times();
            for _ in 1..MUCH {
                count();
            }
            assert!(!take_much());
            count();
            assert_ne!(times(), before);
            assert!(is_much() && take_much() && !is_much());
        }
    }
}
