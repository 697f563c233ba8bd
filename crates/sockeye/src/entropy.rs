//! Keys and masks nobody can foresee (RFC 6455 §4.1, §5.3, §10.3).

use std::{
    cell::RefCell,
    hash::{BuildHasher, RandomState},
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{Error, Result};

/// How much is asked of the system at once: one call for a thousand masks.
const POOL: usize = 4096;

thread_local! {
    static RANDOM: RefCell<Pool> = const { RefCell::new(Pool::empty()) };
}

/// Asks the system's generator for random bytes, so that a client whose system has none fails
/// before it connects.
///
/// # Errors
/// [`Error::Random`].
pub(crate) fn probe() -> Result<()> {
    // Keyed while the generator is known to work; see `substitute`.
    RANDOM
        .with_borrow_mut(|pool| if pool.left == 0 { pool.fill() } else { Ok(()) })
        .map_err(|error| Error::Random(Arc::new(error)))?;
    let _: [u8; 8] = substitute();
    Ok(())
}

/// A masking key: fresh, and unpredictable to whoever chooses the payload (§5.3).
pub(crate) fn mask() -> [u8; 4] {
    take()
}

/// The sixteen bytes of a `Sec-WebSocket-Key` (§4.1, 7).
pub(crate) fn key() -> [u8; 16] {
    take()
}

/// A number from 0 up to but not including 1, for what shall not happen to everyone at once.
pub(crate) fn fraction() -> f64 {
    f64::from(u32::from_ne_bytes(take())) / (f64::from(u32::MAX) + 1.0)
}

fn take<const N: usize>() -> [u8; N] {
    RANDOM.with_borrow_mut(|pool| {
        if pool.left < N && pool.fill().is_err() {
            return substitute();
        }
        pool.take()
    })
}

/// Random bytes where the system's generator, which worked when the connection was opened, fails
/// in the middle of it.
///
/// Every frame needs a mask and none may be predictable. This one is SipHash, keyed once from the
/// system's generator, of a number that never comes again: without the key nobody foretells it.
fn substitute<const N: usize>() -> [u8; N] {
    static KEYED: OnceLock<RandomState> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let keyed = KEYED.get_or_init(RandomState::new);
    let mut bytes = [0; N];
    for chunk in bytes.chunks_mut(8) {
        let number = keyed.hash_one(COUNT.fetch_add(1, Ordering::Relaxed));
        chunk.copy_from_slice(&number.to_ne_bytes()[..chunk.len()]);
    }
    bytes
}

/// Random bytes in store; the last `left` of them are unused.
struct Pool {
    bytes: [u8; POOL],
    left: usize,
}

impl Pool {
    const fn empty() -> Self {
        Self {
            bytes: [0; POOL],
            left: 0,
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.left = 0;
        getrandom::fill(&mut self.bytes).map_err(io::Error::other)?;
        self.left = POOL;
        Ok(())
    }

    /// Takes bytes that are there, each once.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let start = POOL - self.left;
        let mut taken = [0; N];
        taken.copy_from_slice(&self.bytes[start..start + N]);
        self.left -= N;
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_key_comes_twice_over_several_pools() {
        probe().unwrap();
        let keys: HashSet<_> = (0..POOL).map(|_| key()).collect();
        assert_eq!(keys.len(), POOL);
        let masks: HashSet<_> = (0..1000).map(|_| mask()).collect();
        // Two of a thousand are alike once in eight thousand runs; twenty never are.
        assert!(masks.len() > 980);
    }

    #[test]
    fn the_substitute_does_not_repeat_itself() {
        let bytes: HashSet<[u8; 16]> = (0..1000).map(|_| substitute()).collect();
        assert_eq!(bytes.len(), 1000);
        assert_ne!(substitute::<4>(), [0; 4]);
    }
}
