//! Loops compiled for the processor that this turns out to be, beside any of its kind.

/// Runs `work`, an `#[inline(always)]` closure, with the widest vectors and the newest instructions there are.
#[inline(always)]
pub(crate) fn vectorize<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(not(feature = "std"))]
    return work();
    #[cfg(feature = "std")]
    return here::vectorize(work);
}

#[cfg(feature = "std")]
mod here {
    use std::sync::OnceLock;

    use fearless_simd::{Level, Simd, dispatch};

    fn level() -> Level {
        static LEVEL: OnceLock<Level> = OnceLock::new();
        *LEVEL.get_or_init(Level::new)
    }

    #[inline(always)]
    pub(super) fn vectorize<R>(work: impl FnOnce() -> R) -> R {
        dispatch!(level(), simd => simd.vectorize(work))
    }
}
