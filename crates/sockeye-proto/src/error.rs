//! Who broke what: what a peer did wrong, and what a user asked for that cannot be.

use core::fmt;

use crate::{CloseCode, InvalidCloseCode};

/// A rule that the peer broke. The connection is failed with [`close_code`](Self::close_code).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
// A tag as wide as the pointers that stand in its place where there is no error: a tag of one byte has a
// message that was received taken apart and put together again, 11 instructions of the 630 of an echo.
#[repr(usize)]
pub enum ProtocolError {
    /// A reserved bit is set that no agreed extension gives a meaning to (§5.2).
    ReservedBits,
    /// An opcode from the reserved ranges (§5.2).
    OpCode(u8),
    /// A client's frame without a mask (§5.1).
    Unmasked,
    /// A server's frame with a mask (§5.1).
    Masked,
    /// A payload length that is not written in the fewest bytes (§5.2).
    LengthNotMinimal,
    /// A 64-bit payload length with its top bit set (§5.2).
    LengthTopBit,
    /// A control frame without FIN (§5.5).
    ControlFragmented,
    /// A control frame of more than 125 bytes (§5.5).
    ControlTooLong,
    /// A continuation frame with no message to continue (§5.4).
    ContinuationUnexpected,
    /// A new data frame before the message in progress has ended (§5.4).
    ContinuationExpected,
    /// Text that is not UTF-8 (§8.1).
    InvalidUtf8,
    /// A Close payload of a single byte (§5.5.1).
    CloseOneByte,
    /// A Close code that may not be sent (§7.4).
    CloseCode(u16),
    /// A Close reason that is not UTF-8 (§5.5.1).
    CloseReasonUtf8,
    /// A frame announced as larger than the limit.
    FrameTooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// A message larger than the limit, as sent or once inflated.
    MessageTooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// A message in more fragments than the limit.
    TooManyFragments {
        /// The limit.
        limit: usize,
    },
    /// More messages, pings and pongs a second than this end takes and is willing to wait for.
    TooManyMessages {
        /// The limit, a second.
        limit: u64,
    },
    /// More bytes a second than this end takes and is willing to wait for.
    TooManyBytes {
        /// The limit, a second.
        limit: u64,
    },
    /// Compressed data that is not DEFLATE, or uses a larger window than agreed (RFC 7692 §7.2.2).
    CorruptDeflate,
    /// Data after the end of a compressed message (RFC 7692 §7.2.2).
    DeflateTrailingData,
}

impl ProtocolError {
    /// The code of the Close frame that the peer gets for it (§7.4.1).
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::InvalidUtf8
            | Self::CloseReasonUtf8
            | Self::CorruptDeflate
            | Self::DeflateTrailingData => CloseCode::INVALID_PAYLOAD,
            Self::FrameTooLarge { .. }
            | Self::MessageTooLarge { .. }
            | Self::TooManyFragments { .. } => CloseCode::MESSAGE_TOO_BIG,
            Self::TooManyMessages { .. } | Self::TooManyBytes { .. } => CloseCode::POLICY_VIOLATION,
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }

    /// Whether it is a limit of this end that the peer went over, and no rule of the standard that it broke.
    pub fn is_limit(self) -> bool {
        matches!(
            self.close_code(),
            CloseCode::MESSAGE_TOO_BIG | CloseCode::POLICY_VIOLATION
        )
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReservedBits => "a reserved bit is set without an extension that uses it",
            Self::OpCode(code) => return write!(f, "the opcode {code:#x} is reserved"),
            Self::Unmasked => "a frame from a client must be masked",
            Self::Masked => "a frame from a server must not be masked",
            Self::LengthNotMinimal => "a length is not written in the fewest bytes",
            Self::LengthTopBit => "a 64-bit length has its top bit set",
            Self::ControlFragmented => "a control frame is fragmented",
            Self::ControlTooLong => "a control frame carries more than 125 bytes",
            Self::ContinuationUnexpected => "a continuation frame continues nothing",
            Self::ContinuationExpected => "a message began before the last one ended",
            Self::InvalidUtf8 => "a text message is not UTF-8",
            Self::CloseOneByte => "a Close frame carries one byte, which is no code",
            Self::CloseCode(code) => {
                return write!(
                    f,
                    "a Close frame carries the code {code}, which may not be sent"
                );
            }
            Self::CloseReasonUtf8 => "the reason in a Close frame is not UTF-8",
            Self::FrameTooLarge { limit } => {
                return write!(f, "a frame is larger than the limit of {limit} bytes");
            }
            Self::MessageTooLarge { limit } => {
                return write!(f, "a message is larger than the limit of {limit} bytes");
            }
            Self::TooManyFragments { limit } => {
                return write!(f, "a message has more than {limit} fragments");
            }
            Self::TooManyMessages { limit } => {
                return write!(f, "more than {limit} messages a second are not taken here");
            }
            Self::TooManyBytes { limit } => {
                return write!(f, "more than {limit} bytes a second are not taken here");
            }
            Self::CorruptDeflate => "compressed data is corrupt or outside the agreed window",
            Self::DeflateTrailingData => "data follows the end of a compressed message",
        })
    }
}

impl core::error::Error for ProtocolError {}

/// Something a user asked to send that cannot be sent. The connection is unharmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// A Close frame has been sent or received: nothing may follow it (§5.5.1).
    Closed,
    /// A ping or pong of more than 125 bytes (§5.5).
    ControlTooLong {
        /// How many bytes it has.
        len: usize,
    },
    /// A close reason of more than 123 bytes (§5.5.1).
    ReasonTooLong {
        /// How many bytes it has.
        len: usize,
    },
    /// A close code that only the other role may send: 1010 is a client's (§7.4.1).
    CodeNotForRole(CloseCode),
    /// A number that is no close code, or none that may be sent (§7.4).
    CloseCode(InvalidCloseCode),
    /// A message that is sent in parts has not been finished, and no other may come between (§5.4).
    Unfinished,
    /// A part of a message that was not begun.
    NotBegun,
    /// Bytes that no text can have there, in a message that was begun as text (§8.1).
    InvalidUtf8,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the connection is closing: nothing can be sent any more"),
            Self::ControlTooLong { len } => {
                write!(f, "a ping or pong carries at most 125 bytes, not {len}")
            }
            Self::ReasonTooLong { len } => {
                write!(f, "a close reason has at most 123 bytes, not {len}")
            }
            Self::CodeNotForRole(code) => {
                write!(f, "a server may not close with {code}: only a client may")
            }
            Self::CloseCode(invalid) => invalid.fmt(f),
            Self::Unfinished => {
                f.write_str("a message that is sent in parts has to be finished before the next")
            }
            Self::NotBegun => f.write_str("a part belongs to a message, and none was begun"),
            Self::InvalidUtf8 => f.write_str("what is sent as text must be UTF-8"),
        }
    }
}

impl core::error::Error for SendError {}

impl From<InvalidCloseCode> for SendError {
    fn from(invalid: InvalidCloseCode) -> Self {
        Self::CloseCode(invalid)
    }
}
