//! Compresses a message that stands by itself, at the fastest level: one candidate a place and the
//! fixed codes (RFC 1951 §3.2.6, RFC 7692 §7.2.1).
//!
//! The library clears a table of 128 KiB before each message that shares no context. At 1 KiB of JSON
//! that was more work than compressing it: a quarter of all that a server spent on an echo. The
//! table here is no larger than the message calls for, and the output is as short.

use alloc::{boxed::Box, vec::Vec};

use super::params::WindowBits;
use crate::wide::vectorize;

/// Compresses messages of at most [`MOST`](Self::MOST) bytes, each by itself.
#[derive(Debug, Default)]
pub(super) struct ShortDeflater {
    /// Where four bytes of a hash were last seen; 0, which is also a place, where they were not.
    seen: Option<Box<[u16; 1 << HASH_BITS]>>,
}

/// The largest table: 16 KiB.
const HASH_BITS: u32 = 13;

/// A shorter repetition costs as much as its bytes.
const SHORTEST: usize = 4;
/// RFC 1951 §3.2.5.
const LONGEST: usize = 258;

impl ShortDeflater {
    pub(super) const fn new() -> Self {
        Self { seen: None }
    }

    /// Places fit 16 bits, and a message of this size refers to no byte outside the largest window.
    pub(super) const MOST: usize = 32 * 1024;

    /// Appends the compressed message to `out`, without the four bytes that end every message.
    pub(super) fn compress(&mut self, message: &[u8], window: WindowBits, out: &mut Vec<u8>) {
        debug_assert!(message.len() <= Self::MOST);
        let seen = self
            .seen
            .get_or_insert_with(|| Box::new([0; 1 << HASH_BITS]));
        // Two places a byte: fewer collide than are worth a larger table to clear.
        let bits = (usize::BITS - message.len().leading_zeros() + 1).clamp(8, HASH_BITS);
        let seen = &mut seen[..1 << bits];
        seen.fill(0);
        let start = out.len();
        // Room for what compresses worst: 9 bits a byte.
        out.resize(start + message.len() + message.len() / 8 + 16, 0);
        let room = &mut out[start..];
        let len = vectorize(
            #[inline(always)]
            || compress(message, 1 << window.as_u8(), seen, room),
        );
        out.truncate(start + len);
    }
}

/// Writes a message in fixed codes: how many bytes that takes. `seen` is all zeros, and its length a power of two.
#[inline(always)]
fn compress(message: &[u8], window: usize, seen: &mut [u16], out: &mut [u8]) -> usize {
    let shift = u32::BITS - seen.len().trailing_zeros();
    let hash =
        |four: [u8; 4]| (u32::from_le_bytes(four).wrapping_mul(0x9E37_79B1) >> shift) as usize;

    let mut codes = Codes::new(out);
    codes.put(FIXED_BLOCK);
    // The first byte is what nothing comes before, so that a place that was not seen can stand for it.
    let mut at = message.len().min(1);
    for &byte in &message[..at] {
        codes.put(LITERALS[usize::from(byte)]);
    }
    while let Some(four) = message[at..].first_chunk::<4>() {
        let place = &mut seen[hash(*four)];
        let before = usize::from(*place);
        *place = at as u16;
        let distance = at - before;
        if message[before..].first_chunk() == Some(four) && distance <= window {
            let len = SHORTEST + common(&message[before + SHORTEST..], &message[at + SHORTEST..]);
            codes.put(LENGTHS[len].then(distance_code(distance)));
            at += len;
            // The end of a repetition is the likeliest beginning of the next.
            if let Some(four) = message[at - 2..].first_chunk::<4>() {
                seen[hash(*four)] = (at - 2) as u16;
            }
        } else {
            codes.put(LITERALS[usize::from(four[0])]);
            at += 1;
        }
    }
    for &byte in &message[at..] {
        codes.put(LITERALS[usize::from(byte)]);
    }
    codes.finish()
}

/// How many bytes two places have in common behind the [`SHORTEST`], at most what makes [`LONGEST`].
#[inline(always)]
fn common(before: &[u8], here: &[u8]) -> usize {
    let here = &here[..here.len().min(LONGEST - SHORTEST)];
    let mut len = 0;
    while let (Some(a), Some(b)) = (
        before[len..].first_chunk::<8>(),
        here[len..].first_chunk::<8>(),
    ) {
        let differing = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differing != 0 {
            return len + differing.trailing_zeros() as usize / 8;
        }
        len += 8;
    }
    let rest = before[len..].iter().zip(&here[len..]);
    len + rest.take_while(|(a, b)| a == b).count()
}

/// Bits to be written, the first lowest, and how many.
#[derive(Clone, Copy)]
struct Code {
    bits: u32,
    len: u32,
}

impl Code {
    const fn new(bits: u32, len: u32) -> Self {
        Self { bits, len }
    }

    /// A Huffman code, which is written from its highest bit (RFC 1951 §3.1.1).
    const fn huffman(bits: u32, len: u32) -> Self {
        Self::new(bits.reverse_bits() >> (u32::BITS - len), len)
    }

    #[inline(always)]
    const fn then(self, next: Self) -> Self {
        Self::new(self.bits | next.bits << self.len, self.len + next.len)
    }
}

/// Not the last block, and of the fixed codes (RFC 1951 §3.2.3).
const FIXED_BLOCK: Code = Code::new(0b010, 3);
/// The end of the block, and the header of an empty stored one.
const END: Code = fixed(256).then(Code::new(0b000, 3));

/// A symbol in the fixed code (RFC 1951 §3.2.6).
const fn fixed(symbol: u32) -> Code {
    match symbol {
        0..=143 => Code::huffman(0x30 + symbol, 8),
        144..=255 => Code::huffman(0x190 + symbol - 144, 9),
        256..=279 => Code::huffman(symbol - 256, 7),
        _ => Code::huffman(0xC0 + symbol - 280, 8),
    }
}

const LITERALS: [Code; 256] = {
    let mut codes = [Code::new(0, 0); 256];
    let mut byte = 0;
    while byte < 256 {
        codes[byte] = fixed(byte as u32);
        byte += 1;
    }
    codes
};

/// The code of each length from 3, with its extra bits (RFC 1951 §3.2.5).
const LENGTHS: [Code; LONGEST + 1] = {
    let mut codes = [Code::new(0, 0); LONGEST + 1];
    let mut len = 3;
    while len < LONGEST {
        let (class, extra, extra_bits) = classify(len as u32 - 3, 2);
        codes[len] = fixed(257 + class).then(Code::new(extra, extra_bits));
        len += 1;
    }
    codes[LONGEST] = fixed(285);
    codes
};

/// The code of a distance, with its extra bits (RFC 1951 §3.2.5).
#[inline(always)]
fn distance_code(distance: usize) -> Code {
    /// The class of a distance, which has five bits.
    const CLASSES: [Code; 32] = {
        let mut codes = [Code::new(0, 0); 32];
        let mut class = 0;
        while class < 32 {
            codes[class] = Code::huffman(class as u32, 5);
            class += 1;
        }
        codes
    };
    let (class, extra, extra_bits) = classify(distance as u32 - 1, 1);
    CLASSES[class as usize % 32].then(Code::new(extra, extra_bits))
}

/// The classes of §3.2.5 are powers of two cut into `1 << cut` parts each: the class of a value, its
/// place within, and how many bits that takes.
#[inline(always)]
const fn classify(value: u32, cut: u32) -> (u32, u32, u32) {
    if value < 2 << cut {
        return (value, 0, 0);
    }
    let extra_bits = value.ilog2() - cut;
    let class = (extra_bits << cut) + (value >> extra_bits);
    (class, value & ((1 << extra_bits) - 1), extra_bits)
}

/// Writes codes.
struct Codes<'a> {
    out: &'a mut [u8],
    /// Whole bytes before here are written; those after are overwritten.
    end: usize,
    /// Fewer than 8 bits between two calls.
    bits: u64,
    len: u32,
}

impl<'a> Codes<'a> {
    /// In `out` there has to be room for 8 bytes beyond the codes, since that many are written at a time.
    #[inline(always)]
    fn new(out: &'a mut [u8]) -> Self {
        Self {
            out,
            end: 0,
            bits: 0,
            len: 0,
        }
    }

    #[inline(always)]
    fn put(&mut self, code: Code) {
        self.bits |= u64::from(code.bits) << self.len;
        self.len += code.len;
        // All of it, since that is one store; it is written again from the first unfinished byte.
        let room = self.out[self.end..].first_chunk_mut();
        debug_assert!(room.is_some(), "there is room for what compresses worst");
        if let Some(room) = room {
            *room = self.bits.to_le_bytes();
        }
        self.end += self.len as usize / 8;
        self.bits >>= self.len & !7;
        self.len &= 7;
    }

    /// Ends the block, padded to a byte (RFC 7692 §7.2.1): how many bytes were written.
    #[inline(always)]
    fn finish(mut self) -> usize {
        self.put(END);
        self.end + usize::from(self.len > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deflate::{Inflater, Level, MemLevel, params::DeflaterSettings};
    use proptest::prelude::*;

    fn compress(message: &[u8], window: u8) -> Vec<u8> {
        let mut out = Vec::new();
        let window = WindowBits::new(window).unwrap();
        ShortDeflater::default().compress(message, window, &mut out);
        out
    }

    /// Inflates with a window that is held to, so that a reference beyond it is an error.
    fn inflate(compressed: &[u8], window: u8) -> Vec<u8> {
        let mut inflater = Inflater::new();
        let window = WindowBits::new(window).unwrap();
        inflater
            .inflate(compressed, 1 << 20, window, false)
            .unwrap()
            .to_vec()
    }

    #[test]
    fn rfc_7692_section_7_2_3_1_hello() {
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        assert_eq!(compress(b"Hello", 15), hello);
    }

    #[test]
    fn every_length_and_distance_has_its_code() {
        for len in [
            4, 5, 10, 11, 12, 18, 19, 34, 35, 66, 67, 130, 131, 226, 227, 257, 258, 259, 600,
        ] {
            for distance in [
                1, 2, 3, 4, 5, 6, 8, 9, 255, 256, 257, 1025, 4096, 4097, 24_577, 32_000,
            ] {
                let mut message: Vec<u8> = (0..distance as u32)
                    .flat_map(|n| n.wrapping_mul(0x9E37_79B1).to_be_bytes())
                    .take(distance)
                    .collect();
                while message.len() < (distance + len).min(ShortDeflater::MOST) {
                    message.push(message[message.len() - distance]);
                }
                let compressed = compress(&message, 15);
                assert_eq!(inflate(&compressed, 15), message, "{len} at {distance}");
            }
        }
    }

    #[test]
    fn takes_as_few_bytes_as_the_library_at_its_fastest() {
        let mut message = Vec::new();
        for n in 0..30 {
            message.extend_from_slice(
                alloc::format!(
                    r#"{{"id":{n},"name":"user {n}","active":true,"score":{}}},"#,
                    n * 37
                )
                .as_bytes(),
            );
        }
        let mut library = Vec::new();
        crate::deflate::Deflater::new(DeflaterSettings {
            level: Level::FASTEST,
            mem_level: MemLevel::DEFAULT,
            window: WindowBits::MAX,
        })
        .compress(&message, &mut library);
        let own = compress(&message, 15);
        // Within a hundredth.
        assert!(
            own.len() * 100 <= library.len() * 101,
            "{} {}",
            own.len(),
            library.len()
        );
        assert!(own.len() * 3 < message.len(), "{}", own.len());
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_within_the_window(
            words in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..9), 1..9),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..600),
            window in 8u8..=15,
        ) {
            let words = order.iter().flat_map(|index| index.get(&words));
            let message: Vec<u8> = words.copied().collect();
            prop_assert_eq!(inflate(&compress(&message, window), window), message);
        }

        #[test]
        fn a_table_that_was_used_leaves_no_trace(
            messages in prop::collection::vec(prop::collection::vec(0u8..3, 0..600), 1..6),
        ) {
            let mut deflater = ShortDeflater::default();
            for message in messages {
                let mut out = Vec::new();
                deflater.compress(&message, WindowBits::MAX, &mut out);
                prop_assert_eq!(inflate(&out, 15), message);
            }
        }
    }
}
