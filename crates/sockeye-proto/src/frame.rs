//! The header of a frame: 2 to 14 bytes (RFC 6455 §5.2).

use crate::ProtocolError;

/// What a frame carries (§5.2, §11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OpCode {
    /// The next part of a fragmented message.
    Continuation = 0,
    /// A text message, or the first part of one.
    Text = 1,
    /// A binary message, or the first part of one.
    Binary = 2,
    /// The start or the end of the closing handshake.
    Close = 8,
    /// A question whether the peer is there.
    Ping = 9,
    /// The answer to a ping, or an unasked sign of life.
    Pong = 10,
}

impl OpCode {
    /// The most bytes that a control frame carries (§5.5).
    pub const MAX_CONTROL: usize = 125;

    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    /// Whether this is a control frame, which may come between the fragments of a message (§5.5).
    pub const fn is_control(self) -> bool {
        Self::begins_control(self as u8)
    }

    /// Whether a frame with this first byte is one: the highest bit of its opcode says so, also of one that is reserved
    /// (§5.2, §5.5).
    #[inline]
    pub const fn begins_control(first: u8) -> bool {
        first & 0x08 != 0
    }
}

/// The header of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Whether this is the last frame of its message.
    pub fin: bool,
    /// The bit that permessage-deflate sets on the first frame of a compressed message
    /// (RFC 7692 §6).
    pub rsv1: bool,
    /// What the frame carries.
    pub opcode: OpCode,
    /// The masking key, on frames that a client sends.
    pub mask: Option<[u8; 4]>,
    /// The length of the payload in bytes; below 2^63.
    pub payload_len: u64,
}

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV2_AND_3: u8 = 0x30;
const OPCODE: u8 = 0x0F;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7F;

impl FrameHeader {
    /// The most bytes a header can have.
    pub const MAX_LEN: usize = 14;

    /// Reads a header from the front of `input`: the header and its length in bytes, or `None`
    /// where more bytes are needed.
    ///
    /// # Errors
    /// Every rule that a header alone can break: in its first two bytes as soon as they are there, else once it is whole.
    #[inline]
    pub fn parse(input: &[u8]) -> Result<Option<(Self, usize)>, ProtocolError> {
        let Some(&first) = input.first() else {
            return Ok(None);
        };
        let opcode =
            OpCode::from_bits(first & OPCODE).ok_or(ProtocolError::OpCode(first & OPCODE))?;
        let (fin, rsv1) = (first & FIN != 0, first & RSV1 != 0);
        if first & RSV2_AND_3 != 0 {
            return Err(ProtocolError::ReservedBits);
        }
        if opcode.is_control() && !fin {
            return Err(ProtocolError::ControlFragmented);
        }
        let Some(&second) = input.get(1) else {
            return Ok(None);
        };
        let (payload_len, mut len) = match second & LENGTH {
            126.. if opcode.is_control() => return Err(ProtocolError::ControlTooLong),
            126 => {
                let Some(&[.., a, b]) = input.first_chunk::<4>() else {
                    return Ok(None);
                };
                (u64::from(u16::from_be_bytes([a, b])), 4)
            }
            127 => {
                let Some(&[_, _, length @ ..]) = input.first_chunk::<10>() else {
                    return Ok(None);
                };
                (u64::from_be_bytes(length), 10)
            }
            length => (u64::from(length), 2),
        };
        if payload_len >> 63 != 0 {
            return Err(ProtocolError::LengthTopBit);
        }
        if (len == 4 && payload_len < 126) || (len == 10 && payload_len <= 0xFFFF) {
            return Err(ProtocolError::LengthNotMinimal);
        }
        let mut mask = None;
        if second & MASKED != 0 {
            let Some(key) = input.get(len..).and_then(<[u8]>::first_chunk::<4>) else {
                return Ok(None);
            };
            mask = Some(*key);
            len += 4;
        }
        Ok(Some((
            Self {
                fin,
                rsv1,
                opcode,
                mask,
                payload_len,
            },
            len,
        )))
    }

    /// Writes the header in the fewest bytes: the array, and how many of its bytes count.
    #[inline]
    pub fn encode(&self) -> ([u8; Self::MAX_LEN], usize) {
        let mut bytes = [0; Self::MAX_LEN];
        bytes[0] = self.opcode as u8;
        bytes[0] |= if self.fin { FIN } else { 0 };
        bytes[0] |= if self.rsv1 { RSV1 } else { 0 };
        let mut len = match self.payload_len {
            length @ 0..=125 => {
                bytes[1] = length as u8;
                2
            }
            length @ 126..=0xFFFF => {
                bytes[1] = 126;
                bytes[2..4].copy_from_slice(&(length as u16).to_be_bytes());
                4
            }
            length => {
                bytes[1] = 127;
                bytes[2..10].copy_from_slice(&length.to_be_bytes());
                10
            }
        };
        if let Some(key) = self.mask {
            bytes[1] |= MASKED;
            bytes[len..len + 4].copy_from_slice(&key);
            len += 4;
        }
        (bytes, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(opcode: OpCode, payload_len: u64, mask: Option<[u8; 4]>) -> FrameHeader {
        FrameHeader {
            fin: true,
            rsv1: false,
            opcode,
            mask,
            payload_len,
        }
    }

    #[test]
    fn section_5_2_every_form_survives_the_round_trip_and_needs_all_its_bytes() {
        for mask in [None, Some([1, 2, 3, 4])] {
            for length in [0, 1, 125, 126, 127, 0xFFFF, 0x1_0000, (1 << 63) - 1] {
                let header = header(OpCode::Binary, length, mask);
                let (bytes, len) = header.encode();
                assert_eq!(FrameHeader::parse(&bytes), Ok(Some((header, len))));
                for cut in 0..len {
                    assert_eq!(
                        FrameHeader::parse(&bytes[..cut]),
                        Ok(None),
                        "{length} {cut}"
                    );
                }
            }
        }
    }

    #[test]
    fn section_5_2_lengths_use_the_fewest_bytes() {
        assert_eq!(header(OpCode::Text, 125, None).encode().1, 2);
        assert_eq!(header(OpCode::Text, 126, None).encode().1, 4);
        assert_eq!(header(OpCode::Text, 0xFFFF, None).encode().1, 4);
        assert_eq!(header(OpCode::Text, 0x1_0000, None).encode().1, 10);
        for bytes in [
            &[0x81, 126, 0, 125][..],
            &[0x81, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF],
        ] {
            assert_eq!(
                FrameHeader::parse(bytes),
                Err(ProtocolError::LengthNotMinimal)
            );
        }
        let top_bit = [0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(
            FrameHeader::parse(&top_bit),
            Err(ProtocolError::LengthTopBit)
        );
    }

    #[test]
    fn section_5_2_reserved_bits_and_opcodes_fail_on_the_first_byte() {
        for bits in 0..=15u8 {
            let known = matches!(bits, 0..=2 | 8..=10);
            assert_eq!(FrameHeader::parse(&[0x80 | bits]).is_ok(), known, "{bits}");
        }
        assert_eq!(
            FrameHeader::parse(&[0xA1]),
            Err(ProtocolError::ReservedBits)
        );
        assert_eq!(
            FrameHeader::parse(&[0x91]),
            Err(ProtocolError::ReservedBits)
        );
    }

    #[test]
    fn section_5_5_control_frames_are_whole_and_short() {
        assert_eq!(
            FrameHeader::parse(&[0x09]),
            Err(ProtocolError::ControlFragmented)
        );
        assert_eq!(
            FrameHeader::parse(&[0x89, 126]),
            Err(ProtocolError::ControlTooLong)
        );
        assert_eq!(
            FrameHeader::parse(&[0x88, 127]),
            Err(ProtocolError::ControlTooLong)
        );
    }
}
