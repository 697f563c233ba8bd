//! Everything that a peer must not send, and what it is told then: for a server and a client within a
//! test, and for one that runs as a program.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    clippy::unwrap_used
)] // other programs have this file too, and take what they need of it

use sockeye::{
    ProtocolError,
    proto::deflate::{DeflateConfig, Deflater, Level, WindowBits},
};

use crate::wire::{KEY, NO_CONTEXT, frame};

/// "Hello", as RFC 7692 §7.2.3.1 compresses it.
pub const HELLO: [u8; 7] = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];

/// The largest message of the endpoint under test, in bytes.
pub const LIMIT: usize = 10_000;

/// The most frames that a message may have there.
pub const FRAGMENTS: usize = 100;

/// Something a peer must not do.
pub struct Wrong {
    pub name: &'static str,
    /// Whether compression was agreed on, and in which words.
    pub extensions: &'static str,
    /// What a peer sends that masks its frames, or does not.
    pub bytes: fn(mask: bool) -> Vec<u8>,
    pub code: u16,
    pub error: ProtocolError,
}

pub fn masked(first: u8, mask: bool, payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(first, mask, payload.as_ref())
}

pub fn deflated(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let config = DeflateConfig {
        level: Level::BALANCED,
        ..DeflateConfig::default()
    };
    let settings = config.deflater(WindowBits::MAX);
    Deflater::new(settings).compress(message, &mut out);
    out
}

/// A header that says any length in eight bytes.
pub fn long(mask: bool, len: u64) -> Vec<u8> {
    let mut bytes = vec![0x82, if mask { 0xFF } else { 0x7F }];
    bytes.extend(len.to_be_bytes());
    if mask {
        bytes.extend(KEY);
    }
    bytes
}

macro_rules! wrong {
    ($($name:literal, $extensions:expr, $bytes:expr, $code:literal, $error:expr;)*) => {
        &[$(Wrong {
            name: $name,
            extensions: $extensions,
            bytes: $bytes,
            code: $code,
            error: $error,
        }),*]
    };
}

pub const TOO_LARGE: ProtocolError = ProtocolError::MessageTooLarge { limit: LIMIT };

pub const WRONGS: &[Wrong] = wrong! {
    "a frame with the wrong kind of mask to a server", "",
        |mask| masked(0x81, !mask, "Hello"), 1002, ProtocolError::Unmasked;
    "RSV1 without an extension", "", |mask| masked(0xC1, mask, "Hello"), 1002, ProtocolError::ReservedBits;
    "RSV2", "", |mask| masked(0xA1, mask, "Hello"), 1002, ProtocolError::ReservedBits;
    "RSV3", "", |mask| masked(0x91, mask, "Hello"), 1002, ProtocolError::ReservedBits;
    "a reserved data opcode", "", |mask| masked(0x83, mask, ""), 1002, ProtocolError::OpCode(3);
    "a reserved control opcode", "", |mask| masked(0x8B, mask, ""), 1002, ProtocolError::OpCode(11);
    "a short length in two bytes", "", |mask| {
        let mut bytes = vec![0x82, if mask { 0xFE } else { 0x7E }, 0, 125];
        bytes.extend([0; 129]);
        bytes
    }, 1002, ProtocolError::LengthNotMinimal;
    "a short length in eight bytes", "", |mask| long(mask, 0xFFFF), 1002, ProtocolError::LengthNotMinimal;
    "a length with the top bit set", "", |mask| long(mask, 1 << 63), 1002, ProtocolError::LengthTopBit;
    "a frame that claims all there is", "", |mask| long(mask, u64::MAX >> 1), 1009,
        ProtocolError::FrameTooLarge { limit: LIMIT + LIMIT / 8 + 1024 };
    "a frame of one byte too many", "", |mask| long(mask, 0x10000), 1009,
        ProtocolError::FrameTooLarge { limit: LIMIT + LIMIT / 8 + 1024 };
    "a message of one byte too many", "", |mask| {
        let mut bytes = masked(0x02, mask, [0; LIMIT]);
        bytes.extend(masked(0x80, mask, [0]));
        bytes
    }, 1009, TOO_LARGE;
    "too many fragments", "", |mask| {
        let mut bytes = masked(0x02, mask, "");
        (0..FRAGMENTS).for_each(|_| bytes.extend(masked(0x00, mask, "")));
        bytes
    }, 1009, ProtocolError::TooManyFragments { limit: FRAGMENTS };
    "a fragmented ping", "", |mask| masked(0x09, mask, "Hello"), 1002, ProtocolError::ControlFragmented;
    "a long ping", "", |mask| masked(0x89, mask, [0; 126]), 1002, ProtocolError::ControlTooLong;
    "a continuation of nothing", "", |mask| masked(0x80, mask, "Hello"), 1002,
        ProtocolError::ContinuationUnexpected;
    "a message within a message", "", |mask| {
        let mut bytes = masked(0x01, mask, "Hel");
        bytes.extend(masked(0x81, mask, "lo"));
        bytes
    }, 1002, ProtocolError::ContinuationExpected;
    "text that is not UTF-8", "", |mask| masked(0x81, mask, b"Hell\xFF"), 1007, ProtocolError::InvalidUtf8;
    "text that is not UTF-8 in a frame without an end", "", |mask| {
        masked(0x81, mask, b"Hell\xFF and more")[..12].to_vec()
    }, 1007, ProtocolError::InvalidUtf8;
    "text that ends within a character", "", |mask| {
        let mut bytes = masked(0x01, mask, b"\xD0");
        bytes.extend(masked(0x80, mask, ""));
        bytes
    }, 1007, ProtocolError::InvalidUtf8;
    "a Close of one byte", "", |mask| masked(0x88, mask, [3]), 1002, ProtocolError::CloseOneByte;
    "a Close with 999", "", |mask| masked(0x88, mask, [3, 231]), 1002, ProtocolError::CloseCode(999);
    "a Close with 1004", "", |mask| masked(0x88, mask, [3, 236]), 1002, ProtocolError::CloseCode(1004);
    "a Close with 1005", "", |mask| masked(0x88, mask, [3, 237]), 1002, ProtocolError::CloseCode(1005);
    "a Close with 1006", "", |mask| masked(0x88, mask, [3, 238]), 1002, ProtocolError::CloseCode(1006);
    "a Close with 1015", "", |mask| masked(0x88, mask, [3, 247]), 1002, ProtocolError::CloseCode(1015);
    "a Close with 1016", "", |mask| masked(0x88, mask, [3, 248]), 1002, ProtocolError::CloseCode(1016);
    "a Close with 2999", "", |mask| masked(0x88, mask, [11, 183]), 1002, ProtocolError::CloseCode(2999);
    "a Close with 5000", "", |mask| masked(0x88, mask, [19, 136]), 1002, ProtocolError::CloseCode(5000);
    "a Close with a reason that is not UTF-8", "", |mask| masked(0x88, mask, b"\x03\xE8\xFF"), 1007,
        ProtocolError::CloseReasonUtf8;
    "RSV1 on a ping once deflate is agreed", NO_CONTEXT, |mask| masked(0xC9, mask, ""), 1002,
        ProtocolError::ReservedBits;
    "RSV1 on a continuation once deflate is agreed", NO_CONTEXT, |mask| {
        let mut bytes = masked(0x41, mask, &HELLO[..3]);
        bytes.extend(masked(0xC0, mask, &HELLO[3..]));
        bytes
    }, 1002, ProtocolError::ReservedBits;
    "corrupt deflate data", NO_CONTEXT, |mask| masked(0xC2, mask, [0xFF; 20]), 1007,
        ProtocolError::CorruptDeflate;
    "data past the end of a deflate message", NO_CONTEXT, |mask| {
        let mut payload = vec![0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];
        payload.extend([0xFF; 4]);
        masked(0xC2, mask, payload)
    }, 1007, ProtocolError::DeflateTrailingData;
    "compressed text that is not UTF-8", NO_CONTEXT, |mask| masked(0xC1, mask, deflated(b"Hell\xFF")), 1007,
        ProtocolError::InvalidUtf8;
    "a bomb of one byte too many", NO_CONTEXT, |mask| masked(0xC2, mask, deflated(&[0; LIMIT + 1])), 1009,
        TOO_LARGE;
    "a bomb of eight megabytes in fragments", NO_CONTEXT, |mask| {
        // Each fragment is far below every limit.
        let payload = deflated(&vec![0; 8 << 20]);
        assert!(payload.len() < LIMIT);
        let mut bytes = masked(0x42, mask, &payload[..4000]);
        bytes.extend(masked(0x80, mask, &payload[4000..]));
        bytes
    }, 1009, TOO_LARGE;
};
