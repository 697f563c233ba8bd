//! What two ends agree on, as numbers already in range (RFC 7692 §7.1).

use crate::Role;

/// What both ends agreed on (RFC 7692 §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflateParams {
    /// The server forgets its context after every message (§7.1.1.1).
    pub server_no_context_takeover: bool,
    /// The client forgets its context after every message (§7.1.1.2).
    pub client_no_context_takeover: bool,
    /// The largest window the server compresses with (§7.1.2.1).
    pub server_max_window_bits: WindowBits,
    /// The largest window the client compresses with (§7.1.2.2).
    pub client_max_window_bits: WindowBits,
}

impl DeflateParams {
    /// How the messages sent by an endpoint of this role are compressed.
    pub const fn outgoing(&self, role: &Role) -> Direction {
        match role {
            Role::Server => self.by_server(),
            Role::Client { .. } => self.by_client(),
        }
    }

    /// How the messages received by an endpoint of this role are compressed.
    pub const fn incoming(&self, role: &Role) -> Direction {
        match role {
            Role::Server => self.by_client(),
            Role::Client { .. } => self.by_server(),
        }
    }

    const fn by_server(&self) -> Direction {
        Direction {
            keeps_context: !self.server_no_context_takeover,
            window: self.server_max_window_bits,
        }
    }

    const fn by_client(&self) -> Direction {
        Direction {
            keeps_context: !self.client_no_context_takeover,
            window: self.client_max_window_bits,
        }
    }
}

/// What was agreed for the messages of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direction {
    /// Whether a message may refer back to the messages before it ("context takeover").
    pub keeps_context: bool,
    /// The largest window of the messages.
    pub window: WindowBits,
}

/// What a compressor is made with. Compressors with equal settings can stand in for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeflaterSettings {
    /// How hard it looks for repetitions.
    pub level: Level,
    /// How much memory it takes for that.
    pub mem_level: MemLevel,
    /// How far back it may refer.
    pub window: WindowBits,
}

/// A number within fixed bounds: the type, its bounds, and its parse.
macro_rules! bounded {
    ($(#[$doc:meta])* $name:ident, $min:literal..=$max:literal, $($(#[$const_doc:meta])* $const:ident = $value:literal),+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u8);

        impl $name {
            $($(#[$const_doc])* pub const $const: Self = Self($value);)+

            #[doc = concat!("Nothing outside ", $min, " to ", $max, ".")]
            pub const fn new(value: u8) -> Option<Self> {
                match value {
                    $min..=$max => Some(Self(value)),
                    _ => None,
                }
            }

            /// The number.
            pub const fn as_u8(self) -> u8 {
                self.0
            }
        }
    };
}

bounded! {
    /// The base-2 logarithm of a window size in bytes, 8 to 15 (RFC 7692 §7.1.2).
    ///
    /// ```
    /// use sockeye_proto::deflate::WindowBits;
    /// assert_eq!(WindowBits::new(15), Some(WindowBits::MAX));
    /// assert_eq!(WindowBits::MAX.size(), 32_768);
    /// assert_eq!(WindowBits::new(16), None);
    /// ```
    WindowBits, 8..=15,
    /// A window of 256 bytes.
    MIN = 8,
    /// A window of 32,768 bytes, which DEFLATE never exceeds.
    MAX = 15
}

impl WindowBits {
    /// The window in bytes, 256 to 32,768.
    pub const fn size(self) -> usize {
        1 << self.0
    }

    /// Reads a parameter's value: a decimal integer from 8 to 15 without leading zeroes (§7.1.2).
    pub(super) fn parse(value: &str) -> Option<Self> {
        match value.as_bytes() {
            [digit @ b'8'..=b'9'] => Some(Self(digit - b'0')),
            [b'1', digit @ b'0'..=b'5'] => Some(Self(10 + digit - b'0')),
            _ => None,
        }
    }
}

bounded! {
    /// How hard a compressor looks for repetitions, 0 to 9.
    Level, 0..=9,
    /// Nothing is compressed: DEFLATE's stored blocks, some five bytes more for every 64 KB that are sent at a time.
    STORED = 0,
    /// The fastest that compresses.
    FASTEST = 1,
    /// zlib's own default: three to four times the work of the fastest.
    BALANCED = 6,
    /// The smallest output.
    SMALLEST = 9
}

bounded! {
    /// How much memory a compressor takes beside its window, 1 to 9.
    MemLevel, 1..=9,
    /// zlib's own default.
    DEFAULT = 8
}

impl Default for MemLevel {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod section_7_1_2_window_bits {
    use super::*;

    #[test]
    fn eight_to_fifteen_without_leading_zeroes() {
        for bits in 8..=15 {
            let text = alloc::string::ToString::to_string(&bits);
            assert_eq!(WindowBits::parse(&text), WindowBits::new(bits));
            assert_eq!(WindowBits::parse(&text).unwrap().size(), 1 << bits);
        }
        for refused in [
            "", "0", "7", "16", "08", "015", "+8", "-8", "8.0", " 8", "8 ", "0x8", "1", "150",
        ] {
            assert_eq!(WindowBits::parse(refused), None, "{refused:?}");
        }
    }

    #[test]
    fn bounds_of_the_settings() {
        assert!(WindowBits::new(7).is_none() && WindowBits::new(16).is_none());
        assert!(Level::new(10).is_none() && Level::new(0).is_some());
        assert!(MemLevel::new(0).is_none() && MemLevel::new(10).is_none());
    }
}

#[cfg(test)]
mod directions {
    use super::*;

    #[test]
    fn each_role_sends_what_the_other_receives() {
        let params = DeflateParams {
            server_no_context_takeover: true,
            client_no_context_takeover: false,
            server_max_window_bits: WindowBits(9),
            client_max_window_bits: WindowBits(12),
        };
        let client = Role::Client { masks: || [0; 4] };
        assert_eq!(params.outgoing(&Role::Server), params.incoming(&client));
        assert_eq!(params.outgoing(&client), params.incoming(&Role::Server));
        let sent = params.outgoing(&Role::Server);
        assert!(!sent.keeps_context && sent.window.as_u8() == 9);
    }
}
