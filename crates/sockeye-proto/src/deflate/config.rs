//! What an endpoint wants of compression (RFC 7692 §7.1): the user's settings.

use super::params::{DeflaterSettings, Level, MemLevel, WindowBits};

/// What this endpoint wants of permessage-deflate.
///
/// A value of it can be had only in builds with the feature `deflate`: without it, `available` gives nothing.
///
/// ```
/// use sockeye_proto::deflate::{DeflateConfig, Level};
/// if let Some(mut config) = DeflateConfig::available() {
///     config.level = Level::BALANCED;
///     config.threshold = 1024;
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflateConfig {
    /// How hard to look for repetitions. Default: [`Level::FASTEST`].
    ///
    /// The fastest compresses 1 KiB of JSON in about a third of the time that
    /// [`Level::BALANCED`] takes, into about a third more bytes (half of the message instead of
    /// 36 %). A server is more often short of time than of bandwidth.
    pub level: Level,

    /// How much memory the compressor takes beside its window. Default: [`MemLevel::DEFAULT`].
    ///
    /// Together that is 380 KB with the defaults, 251 KB with the smallest window; 137 to 266 KB at
    /// level 1, by the window, and 366 to 495 KB at level 9.
    pub mem_level: MemLevel,

    /// Messages shorter than this many bytes are sent as they are. Default: 256.
    ///
    /// Without context, a JSON message of 128 bytes shrinks by 3 % and one of 256 by a quarter.
    /// Where the context is kept, messages
    /// as short as 64 bytes shrink to a quarter: set this to 32 or so there.
    pub threshold: usize,

    /// Forget the context after every message sent. Default: true.
    ///
    /// Keeping it makes similar small messages several times smaller, and costs this connection a
    /// compressor of its own for as long as it lives: 380 KB with the defaults.
    pub own_no_context_takeover: bool,

    /// Have the peer forget its context after every message it sends. Default: true.
    ///
    /// Letting it keep its context costs this connection a decompressor of its own, 48 KB. A client
    /// asks for it; a server that does not agree keeps its context all the same.
    pub peer_no_context_takeover: bool,

    /// The largest window to send with. Default: [`WindowBits::MAX`]. A peer may ask for less.
    pub own_max_window_bits: WindowBits,

    /// The largest window to receive with. Default: [`WindowBits::MAX`].
    ///
    /// A smaller one saves the peer memory, and this side none: this decompressor takes the same
    /// for any, and checks every long message for references outside the window, at two to three
    /// times the cost of inflating it. A server that does not agree is refused; a client that
    /// cannot be limited gets no compression.
    pub peer_max_window_bits: WindowBits,

    /// Shows that this build has a codec. Public so that `..Default::default()` may be written.
    #[doc(hidden)]
    pub codec: Codec,
}

/// The presence of a codec in this build: without the feature it has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg(feature = "deflate")]
pub struct Codec;

/// The presence of a codec in this build: without the feature it has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg(not(feature = "deflate"))]
pub enum Codec {}

impl DeflateConfig {
    /// The defaults, or nothing in a build without the feature `deflate`.
    pub fn available() -> Option<Self> {
        #[cfg(feature = "deflate")]
        return Some(Self::default());
        #[cfg(not(feature = "deflate"))]
        None
    }

    /// What a compressor is made with, once a window has been agreed.
    pub const fn deflater(&self, window: WindowBits) -> DeflaterSettings {
        DeflaterSettings {
            level: self.level,
            mem_level: self.mem_level,
            window,
        }
    }
}

#[cfg(feature = "deflate")]
impl Default for DeflateConfig {
    fn default() -> Self {
        Self {
            level: Level::FASTEST,
            mem_level: MemLevel::DEFAULT,
            threshold: 256,
            own_no_context_takeover: true,
            peer_no_context_takeover: true,
            own_max_window_bits: WindowBits::MAX,
            peer_max_window_bits: WindowBits::MAX,
            codec: Codec,
        }
    }
}
