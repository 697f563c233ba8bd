//! What a thread does to other connections than the one it drives: who receives little may send very much for it.

use std::cell::Cell;

/// From so many on, the others of the thread come first: some milliseconds of work, and as much for them.
const MUCH: u32 = 16 * 1024;

thread_local! {
    /// How often one was reached since someone's turn has ended for that. Whoever did it: it is the thread that is to come
    /// to something else.
    static GIVEN: Cell<u32> = const { Cell::new(0) };
}

/// Counts that one is reached.
#[inline]
pub(crate) fn count() {
    GIVEN.set(GIVEN.get().saturating_add(1));
}

/// Whether that was so often that the others come first.
#[inline]
pub(crate) fn is_much() -> bool {
    GIVEN.get() >= MUCH
}

/// The same, and counts anew then.
#[inline]
pub(crate) fn take_much() -> bool {
    let is_much = is_much();
    if is_much {
        GIVEN.set(0);
    }
    is_much
}
