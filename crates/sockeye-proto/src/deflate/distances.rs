//! Walks DEFLATE data without inflating it, to find references outside an agreed window
//! (RFC 7692 §7.1.2, RFC 1951 §3.2).
//!
//! zlib-rs follows any reference up to 32 KB whatever window it was made with, so a peer that
//! breaks its promise would go unnoticed. Only connections that agreed on less than 15 bits pay
//! for this walk, and only for messages that are long enough for a reference to be too long.

use crate::ProtocolError;

use super::deflater::TAIL;

/// Checks that a message which has been inflated without error refers back at most `window` bytes.
pub(super) fn check(compressed: &[u8], window: usize) -> Result<(), ProtocolError> {
    match walk(compressed, window) {
        Some(()) => Ok(()),
        None => Err(ProtocolError::CorruptDeflate),
    }
}

/// Nothing where a reference is too long or the data is not DEFLATE.
fn walk(compressed: &[u8], window: usize) -> Option<()> {
    let mut bits = Bits::new(compressed);
    // Made once: a fixed block takes ten bits, so a message may hold a great many.
    let mut fixed = None;
    while !bits.is_at_end() {
        let last = bits.take(1)? == 1;
        match bits.take(2)? {
            0 => stored(&mut bits)?,
            1 => {
                let (lengths, distances) = fixed.get_or_insert_with(fixed_codes);
                block(&mut bits, lengths, distances, window)?;
            }
            2 => {
                let (lengths, distances) = dynamic_codes(&mut bits)?;
                block(&mut bits, &lengths, &distances, window)?;
            }
            _ => return None,
        }
        if last {
            // RFC 7692 §7.2.1: padded to a byte, and another block may follow.
            bits.align();
        }
    }
    Some(())
}

/// RFC 1951 §3.2.4.
fn stored(bits: &mut Bits<'_>) -> Option<()> {
    bits.align();
    let len = bits.take(16)?;
    let _complement = bits.take(16)?;
    for _ in 0..len {
        bits.take(8)?;
    }
    Some(())
}

/// The symbols of one block (RFC 1951 §3.2.3).
fn block(bits: &mut Bits<'_>, lengths: &Code, distances: &Code, window: usize) -> Option<()> {
    loop {
        match lengths.next(bits)? {
            0..=255 => {}
            256 => return Some(()),
            symbol => {
                bits.take(u32::from(*LENGTH_EXTRA.get(usize::from(symbol) - 257)?))?;
                let symbol = usize::from(distances.next(bits)?);
                let extra = bits.take(u32::from(*DISTANCE_EXTRA.get(symbol)?))?;
                let distance = usize::from(*DISTANCE_BASE.get(symbol)?) + extra as usize;
                if distance > window {
                    return None;
                }
            }
        }
    }
}

/// RFC 1951 §3.2.6.
fn fixed_codes() -> (Code, Code) {
    let mut lengths = [8; 288];
    lengths[144..256].fill(9);
    lengths[256..280].fill(7);
    (Code::new(&lengths), Code::new(&[5; 30]))
}

/// RFC 1951 §3.2.7.
fn dynamic_codes(bits: &mut Bits<'_>) -> Option<(Code, Code)> {
    const ORDER: [usize; 19] = [
        16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
    ];
    let literals = bits.take(5)? as usize + 257;
    let distances = bits.take(5)? as usize + 1;
    let code_lengths = bits.take(4)? as usize + 4;

    let mut of_code_lengths = [0; 19];
    for &place in &ORDER[..code_lengths] {
        of_code_lengths[place] = bits.take(3)? as u8;
    }
    let code = Code::new(&of_code_lengths);

    let mut lengths = [0; 286 + 32];
    let all = lengths.get_mut(..literals + distances)?;
    let mut at = 0;
    while at < all.len() {
        let (value, times) = match code.next(bits)? {
            length @ 0..=15 => (length as u8, 1),
            16 => (*all.get(at.checked_sub(1)?)?, 3 + bits.take(2)? as usize),
            17 => (0, 3 + bits.take(3)? as usize),
            _ => (0, 11 + bits.take(7)? as usize),
        };
        all.get_mut(at..at + times)?.fill(value);
        at += times;
    }
    Some((Code::new(&all[..literals]), Code::new(&all[literals..])))
}

/// A canonical Huffman code (RFC 1951 §3.2.2): how many symbols each length has, and the symbols
/// in the order of their codes.
struct Code {
    counts: [u16; 16],
    symbols: [u16; 288],
}

impl Code {
    /// `lengths` has at most 288 entries of 0 to 15.
    fn new(lengths: &[u8]) -> Self {
        let mut counts = [0; 16];
        for &length in lengths {
            counts[usize::from(length)] += 1;
        }
        counts[0] = 0;
        let mut next = [0; 16];
        for length in 1..16 {
            next[length] = next[length - 1] + counts[length - 1];
        }
        let mut symbols = [0; 288];
        for (symbol, &length) in (0..).zip(lengths) {
            if length > 0 {
                let place = &mut next[usize::from(length)];
                symbols[usize::from(*place)] = symbol;
                *place += 1;
            }
        }
        Self { counts, symbols }
    }

    fn next(&self, bits: &mut Bits<'_>) -> Option<u16> {
        let (mut code, mut first, mut index) = (0, 0, 0);
        for &count in &self.counts[1..] {
            code |= bits.take(1)?;
            let count = u32::from(count);
            if code < first + count {
                return self.symbols.get((index + code - first) as usize).copied();
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }
}

/// The bits of a message, from the least significant of each byte, with its tail.
struct Bits<'a> {
    bytes: core::iter::Chain<core::slice::Iter<'a, u8>, core::slice::Iter<'a, u8>>,
    held: u32,
    count: u32,
}

impl<'a> Bits<'a> {
    fn new(compressed: &'a [u8]) -> Self {
        Self {
            bytes: compressed.iter().chain(&TAIL),
            held: 0,
            count: 0,
        }
    }

    /// Takes up to 16 bits.
    fn take(&mut self, count: u32) -> Option<u32> {
        while self.count < count {
            self.held |= u32::from(*self.bytes.next()?) << self.count;
            self.count += 8;
        }
        let taken = self.held & ((1 << count) - 1);
        self.held >>= count;
        self.count -= count;
        Some(taken)
    }

    /// Skips to the next byte.
    fn align(&mut self) {
        self.held >>= self.count % 8;
        self.count -= self.count % 8;
    }

    fn is_at_end(&self) -> bool {
        self.count == 0 && self.bytes.clone().next().is_none()
    }
}

/// Extra bits of the length symbols from 257 on (RFC 1951 §3.2.5).
const LENGTH_EXTRA: [u8; 29] = [
    0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0,
];

/// The smallest distance of each distance symbol (RFC 1951 §3.2.5).
const DISTANCE_BASE: [u16; 30] = [
    1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537,
    2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577,
];

/// Extra bits of each distance symbol (RFC 1951 §3.2.5).
const DISTANCE_EXTRA: [u8; 30] = [
    0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13,
    13,
];
