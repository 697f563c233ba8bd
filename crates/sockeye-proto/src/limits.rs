//! What a peer may make this endpoint hold.

/// The limits of one connection. The defaults are safe on the open internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Payload bytes of one message, once inflated. Default 16 MiB.
    pub message: usize,
    /// Payload bytes of one frame, as they arrive. Default 17 MiB: a message that does not shrink
    /// grows where it is compressed all the same, by 4 % with the least memory for it.
    pub frame: usize,
    /// Frames of one message, empty ones counted. Default 131,072.
    pub fragments: usize,
    /// Payload bytes of one message as they arrive, before they are inflated: what is held for a
    /// peer that sends a message slowly. Default 17 MiB, as a frame.
    pub retained: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: usize = 1 << 20;
        Self {
            message: 16 * MIB,
            frame: 17 * MIB,
            fragments: 128 * 1024,
            retained: 17 * MIB,
        }
    }
}

impl Limits {
    /// Sets the largest message in bytes, and with it the frame and what is retained.
    #[must_use]
    pub fn message(mut self, bytes: usize) -> Self {
        (self.message, self.frame, self.retained) = (bytes, bytes, bytes);
        self
    }

    /// Sets the largest frame in bytes.
    #[must_use]
    pub fn frame(mut self, bytes: usize) -> Self {
        self.frame = bytes;
        self
    }

    /// Sets the most frames a message may have.
    #[must_use]
    pub fn fragments(mut self, frames: usize) -> Self {
        self.fragments = frames;
        self
    }

    /// Sets the most bytes held of a message that has not arrived whole.
    #[must_use]
    pub fn retained(mut self, bytes: usize) -> Self {
        self.retained = bytes;
        self
    }
}
