//! Walks DEFLATE data without inflating it, to find references outside an agreed window
//! (RFC 7692 §7.1.2, RFC 1951 §3.2).
//!
//! zlib-rs follows any reference up to 32 KB whatever window it was made with, so a peer that
//! breaks its promise would go unnoticed. Only connections that agreed on less than 15 bits pay
//! for this walk, and of whole messages only for those that are long enough for a reference to be
//! too long.

use alloc::{boxed::Box, vec::Vec};

use crate::ProtocolError;

use super::deflater::TAIL;

/// Checks that a message which has been inflated without error refers back at most `window` bytes.
pub(super) fn check(compressed: &[u8], window: usize) -> Result<(), ProtocolError> {
    let mut walk = Walk::new(window);
    walk.push(compressed)?;
    walk.push(&TAIL)?;
    if walk.is_between_blocks() {
        Ok(())
    } else {
        Err(ProtocolError::CorruptDeflate)
    }
}

/// A walk that takes its data in parts, cut anywhere.
#[derive(Debug)]
pub(super) struct Walk {
    window: usize,
    /// Bytes of which no whole step could be made: less than the header of a block with its codes,
    /// which is at most 300 bytes. And such as [wait](Self::push_later).
    rest: Vec<u8>,
    /// Bits of the byte before those.
    held: u32,
    count: u32,
    block: Block,
    /// The codes of fixed blocks, made once: such a block takes ten bits, so there may be a great
    /// many.
    fixed: Option<Box<(Code, Code)>>,
    /// Whether the block has BFINAL set.
    last: bool,
}

/// Where in the data the walk is.
#[derive(Debug)]
enum Block {
    Between,
    /// Bytes left of a stored block.
    Stored(u32),
    Fixed,
    /// With its codes of lengths and of distances.
    Dynamic(Box<(Code, Code)>),
}

/// Why a step cannot be made.
enum Stop {
    /// The input ends within it.
    Starved,
    /// The data is not DEFLATE, or refers back too far.
    Wrong,
}

impl Walk {
    /// A walk at the beginning of a message that may refer back at most `window` bytes.
    pub(super) fn new(window: usize) -> Self {
        Self {
            window,
            rest: Vec::new(),
            held: 0,
            count: 0,
            block: Block::Between,
            fixed: None,
            last: false,
        }
    }

    /// As [`push`](Self::push), of bytes of which nothing was made or something: the first may wait for more, as nothing is
    /// given out. In frames of a byte, the header of a block would be walked over anew for each.
    pub(super) fn push_later(&mut self, part: &[u8], made: bool) -> Result<(), ProtocolError> {
        const WAITING: usize = 512;
        if !made && self.rest.len() + part.len() <= WAITING {
            self.rest.extend_from_slice(part);
            return Ok(());
        }
        self.push(part)
    }

    /// Walks on over the next part.
    pub(super) fn push(&mut self, part: &[u8]) -> Result<(), ProtocolError> {
        let mut rest = core::mem::take(&mut self.rest);
        let bytes = if rest.is_empty() {
            part
        } else {
            rest.extend_from_slice(part);
            &rest
        };
        let mut bits = Bits {
            bytes: bytes.iter(),
            held: self.held,
            count: self.count,
        };
        loop {
            let before = bits.clone();
            match self.step(&mut bits) {
                Ok(()) => {}
                Err(Stop::Starved) => {
                    // Once more from here, when there is more.
                    (self.held, self.count) = (before.held, before.count);
                    self.rest = before.bytes.as_slice().to_vec();
                    return Ok(());
                }
                Err(Stop::Wrong) => return Err(ProtocolError::CorruptDeflate),
            }
        }
    }

    /// Whether what was walked over ends with a block and a byte.
    fn is_between_blocks(&self) -> bool {
        matches!(self.block, Block::Between) && self.count == 0 && self.rest.is_empty()
    }

    /// Takes what cannot be taken in parts: the header of a block, a stored byte, a symbol.
    fn step(&mut self, bits: &mut Bits<'_>) -> Result<(), Stop> {
        let ended = match &mut self.block {
            Block::Between => {
                let last = bits.take(1)? == 1;
                self.block = match bits.take(2)? {
                    0 => Block::Stored(stored(bits)?),
                    1 => Block::Fixed,
                    2 => Block::Dynamic(Box::new(dynamic_codes(bits)?)),
                    _ => return Err(Stop::Wrong),
                };
                self.last = last;
                matches!(self.block, Block::Stored(0))
            }
            Block::Stored(left) => {
                bits.take(8)?;
                *left -= 1;
                *left == 0
            }
            Block::Fixed => {
                let codes = self.fixed.get_or_insert_with(|| Box::new(fixed_codes()));
                symbol(bits, codes, self.window)?
            }
            Block::Dynamic(codes) => symbol(bits, codes, self.window)?,
        };
        if ended {
            self.block = Block::Between;
            if self.last {
                // RFC 7692 §7.2.1: padded to a byte, and another block may follow.
                bits.align();
            }
        }
        Ok(())
    }
}

/// RFC 1951 §3.2.4.
fn stored(bits: &mut Bits<'_>) -> Result<u32, Stop> {
    bits.align();
    let len = bits.take(16)?;
    let _complement = bits.take(16)?;
    Ok(len)
}

/// One symbol of a block (RFC 1951 §3.2.3): whether it ends the block.
fn symbol(
    bits: &mut Bits<'_>,
    (lengths, distances): &(Code, Code),
    window: usize,
) -> Result<bool, Stop> {
    match lengths.next(bits)? {
        0..=255 => Ok(false),
        256 => Ok(true),
        symbol => {
            let extra = LENGTH_EXTRA.get(usize::from(symbol) - 257);
            bits.take(u32::from(*extra.ok_or(Stop::Wrong)?))?;
            let symbol = usize::from(distances.next(bits)?);
            let extra = DISTANCE_EXTRA.get(symbol).ok_or(Stop::Wrong)?;
            let extra = bits.take(u32::from(*extra))?;
            let base = DISTANCE_BASE.get(symbol).ok_or(Stop::Wrong)?;
            if usize::from(*base) + extra as usize > window {
                return Err(Stop::Wrong);
            }
            Ok(false)
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
fn dynamic_codes(bits: &mut Bits<'_>) -> Result<(Code, Code), Stop> {
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
    let all = lengths.get_mut(..literals + distances).ok_or(Stop::Wrong)?;
    let mut at = 0;
    while at < all.len() {
        let (value, times) = match code.next(bits)? {
            length @ 0..=15 => (length as u8, 1),
            16 => {
                let before = at.checked_sub(1).and_then(|before| all.get(before));
                (*before.ok_or(Stop::Wrong)?, 3 + bits.take(2)? as usize)
            }
            17 => (0, 3 + bits.take(3)? as usize),
            _ => (0, 11 + bits.take(7)? as usize),
        };
        all.get_mut(at..at + times).ok_or(Stop::Wrong)?.fill(value);
        at += times;
    }
    Ok((Code::new(&all[..literals]), Code::new(&all[literals..])))
}

/// A canonical Huffman code (RFC 1951 §3.2.2): how many symbols each length has, and the symbols
/// in the order of their codes.
#[derive(Debug)]
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

    fn next(&self, bits: &mut Bits<'_>) -> Result<u16, Stop> {
        let (mut code, mut first, mut index) = (0, 0, 0);
        for &count in &self.counts[1..] {
            code |= bits.take(1)?;
            let count = u32::from(count);
            if code < first + count {
                let symbol = self.symbols.get((index + code - first) as usize);
                return symbol.copied().ok_or(Stop::Wrong);
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        Err(Stop::Wrong)
    }
}

/// The bits of a message, from the least significant of each byte.
#[derive(Clone)]
struct Bits<'a> {
    bytes: core::slice::Iter<'a, u8>,
    held: u32,
    count: u32,
}

impl Bits<'_> {
    /// Takes up to 16 bits.
    fn take(&mut self, count: u32) -> Result<u32, Stop> {
        while self.count < count {
            self.held |= u32::from(*self.bytes.next().ok_or(Stop::Starved)?) << self.count;
            self.count += 8;
        }
        let taken = self.held & ((1 << count) - 1);
        self.held >>= count;
        self.count -= count;
        Ok(taken)
    }

    /// Skips to the next byte.
    fn align(&mut self) {
        self.held >>= self.count % 8;
        self.count -= self.count % 8;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of a block with its codes, cut into single bytes, is walked over once.
    #[test]
    fn bytes_of_which_nothing_is_made_wait() {
        let window = 256;
        let mut walk = Walk::new(window);
        // BFINAL is not set, the codes follow; what they are is not looked at yet.
        for byte in core::iter::once(0b100).chain(core::iter::repeat_n(0xFF, 299)) {
            walk.push_later(&[byte], false).unwrap();
        }
        assert_eq!(walk.rest.len(), 300);
        assert!(walk.push(&[]).is_err());
        // As soon as there is something of them, it is.
        let mut walk = Walk::new(window);
        let stored = [0, 3, 0, 0xFC, 0xFF, 1, 2, 3];
        for (at, byte) in stored.iter().enumerate() {
            walk.push_later(&[*byte], at >= 5).unwrap();
            assert_eq!(walk.rest.len(), if at < 5 { at + 1 } else { 0 });
        }
        // And no more waits than is good: there is no such kind of block.
        let mut walk = Walk::new(window);
        walk.push_later(&[0b110; 512], false).unwrap();
        walk.push_later(&[0b110], false).unwrap_err();
    }
}
