//! The codecs that a thread lends to its connections.

use super::{Deflaters, Inflater};

/// One set of codecs, to be kept a thread and lent for a message at a time. It allocates nothing
/// until a compressed message is sent or received.
#[derive(Debug, Default)]
pub struct Codecs {
    /// Lent to whoever receives.
    pub inflater: Inflater,
    /// Lent to whoever sends.
    pub deflaters: Deflaters,
}

impl Codecs {
    /// Codecs that have allocated nothing yet.
    pub const fn new() -> Self {
        Self {
            inflater: Inflater::new(),
            deflaters: Deflaters::new(),
        }
    }
}
