//! What a peer may make this endpoint hold.

/// The limits of one connection. The defaults are safe on the open internet.
///
/// They bound what is held. Of a message received in parts nothing is: only `fragments` applies to
/// it, as the most frames in a row that bring nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Payload bytes of one message, once inflated. Default 16 MiB.
    pub message: usize,
    /// Payload bytes of one frame, as it travels. Default 18 MiB and 1 KiB: what 16 MiB can become
    /// when they are compressed as a whole and do not shrink.
    pub frame: usize,
    /// Frames of one message, empty ones counted. Default 131,072.
    pub fragments: usize,
    /// Payload bytes of one message as they arrive, before they are inflated: what is held for a
    /// peer that sends a message slowly. Default as for a frame.
    pub retained: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const MESSAGE: usize = 16 << 20;
        let travelling = travelling(MESSAGE);
        Self {
            message: MESSAGE,
            frame: travelling,
            fragments: 128 * 1024,
            retained: travelling,
        }
    }
}

/// The most bytes that a message can have on its way where it is sent whole: DEFLATE at its fastest spends nine bits on
/// a byte that it cannot compress. In parts that are flushed each, it can have more.
const fn travelling(message: usize) -> usize {
    message.saturating_add(message / 8).saturating_add(1024)
}

impl Limits {
    /// Sets the largest message in bytes, and the frame and what is retained to what such a message
    /// can become when it is compressed and does not shrink.
    #[must_use]
    pub fn message(mut self, bytes: usize) -> Self {
        self.message = bytes;
        (self.frame, self.retained) = (travelling(bytes), travelling(bytes));
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

    /// Sets the most bytes that a message may have as it arrives, before it is inflated.
    #[must_use]
    pub fn retained(mut self, bytes: usize) -> Self {
        self.retained = bytes;
        self
    }
}
