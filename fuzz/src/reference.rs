//! A second inflater to compare with: slow, plain, and written from the standards alone (RFC 1951,
//! RFC 7692 §7.2.2). It knows a place in bits and no state beside it, and remembers how far a message
//! refers back.

/// What the receiver of a message appends to it.
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// No reference goes back further.
const WINDOW: usize = 32 * 1024;

/// What outlives a message.
#[derive(Debug, Default)]
pub struct Reference {
    history: Vec<u8>,
    /// The last byte of the message before, and how many of its bits are still to come.
    held: (u8, usize),
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Inflated {
        message: Vec<u8>,
        /// The longest distance of a reference.
        farthest: usize,
    },
    /// More than the limit, whatever comes after that.
    TooLarge,
    Corrupt {
        /// Whether a block with BFINAL came before the fault.
        after_final: bool,
    },
}

#[derive(Debug)]
enum Fault {
    TooLarge,
    Corrupt,
}

impl Reference {
    /// Inflates a message; with `keep`, the next one may refer back to it.
    pub fn inflate(&mut self, compressed: &[u8], limit: usize, keep: bool) -> Verdict {
        // No DEFLATE, but there are peers that mean an empty message by it.
        if compressed.is_empty() {
            return Verdict::Inflated {
                message: Vec::new(),
                farthest: 0,
            };
        }
        let (byte, bits) = std::mem::take(&mut self.held);
        let input = [&[byte], compressed, &TAIL].concat();
        let start = self.history.len();
        let mut run = Run {
            input: &input,
            at: 8 - bits,
            tail: 8 * (1 + compressed.len()),
            output: std::mem::take(&mut self.history),
            start,
            base: 0,
            limit,
            farthest: 0,
            after_final: false,
        };
        match run.message() {
            Ok(()) => {
                if keep {
                    let oldest = run.base.max(run.output.len().saturating_sub(WINDOW));
                    self.history = run.output[oldest..].to_vec();
                    self.held = (TAIL[3], run.bits_left());
                }
                Verdict::Inflated {
                    message: run.output.split_off(start),
                    farthest: run.farthest,
                }
            }
            Err(Fault::TooLarge) => Verdict::TooLarge,
            Err(Fault::Corrupt) => Verdict::Corrupt {
                after_final: run.after_final,
            },
        }
    }
}

struct Run<'a> {
    input: &'a [u8],
    /// The place, in bits.
    at: usize,
    /// Where the appended bytes begin, in bits.
    tail: usize,
    /// The history, and the message behind it.
    output: Vec<u8>,
    /// Where the message begins in it.
    start: usize,
    /// What comes before cannot be referred to.
    base: usize,
    limit: usize,
    farthest: usize,
    after_final: bool,
}

impl Run<'_> {
    fn message(&mut self) -> Result<(), Fault> {
        loop {
            let last = self.bits(1)? == 1;
            match self.bits(2)? {
                0 => self.stored()?,
                1 => {
                    let mut lengths = [8; 288];
                    lengths[144..256].fill(9);
                    lengths[256..280].fill(7);
                    self.block(&Code::new(&lengths)?, &Code::new(&[5; 30])?)?;
                }
                2 => self.dynamic()?,
                _ => return Err(Fault::Corrupt),
            }
            // RFC 7692 §7.2.2: the appended bytes end a block.
            let end = self.bits_left() < 8;
            if last {
                self.align();
                self.base = self.output.len();
                if self.at == self.tail {
                    // The empty block that must follow is missing.
                    return Err(Fault::Corrupt);
                }
                self.after_final = true;
            }
            if end {
                return Ok(());
            }
        }
    }

    fn bits_left(&self) -> usize {
        8 * self.input.len() - self.at
    }

    fn align(&mut self) {
        self.at = self.at.next_multiple_of(8);
    }

    /// The next bits, the first one lowest; zeroes behind the end.
    fn peek(&self) -> u32 {
        let mut word = [0; 4];
        let rest = &self.input[(self.at / 8).min(self.input.len())..];
        let len = rest.len().min(4);
        word[..len].copy_from_slice(&rest[..len]);
        u32::from_le_bytes(word) >> (self.at % 8)
    }

    fn skip(&mut self, count: usize) -> Result<(), Fault> {
        if count > self.bits_left() {
            return Err(Fault::Corrupt);
        }
        self.at += count;
        Ok(())
    }

    /// At most sixteen bits.
    fn bits(&mut self, count: u32) -> Result<usize, Fault> {
        let value = self.peek() & ((1 << count) - 1);
        self.skip(count as usize)?;
        Ok(value as usize)
    }

    fn symbol(&mut self, code: &Code) -> Result<usize, Fault> {
        // The first bit of a code is its highest (RFC 1951 §3.1.1).
        let value = (self.peek().reverse_bits() >> 17) as usize;
        let shorter = code.ends.iter().position(|end| value < *end);
        let len = 1 + shorter.ok_or(Fault::Corrupt)?;
        self.skip(len)?;
        let index = code.indices[len - 1] + (value >> (15 - len));
        Ok(code.symbols[index - code.firsts[len - 1]])
    }

    fn push(&mut self, byte: u8) -> Result<(), Fault> {
        // The appended bytes end the message; nothing can come out of them.
        if self.at > self.tail {
            return Err(Fault::Corrupt);
        }
        self.output.push(byte);
        if self.output.len() - self.start > self.limit {
            return Err(Fault::TooLarge);
        }
        Ok(())
    }

    fn stored(&mut self) -> Result<(), Fault> {
        self.align();
        let (len, complement) = (self.bits(16)?, self.bits(16)?);
        if len ^ complement != 0xFFFF {
            return Err(Fault::Corrupt);
        }
        (0..len).try_for_each(|_| {
            let byte = self.bits(8)?;
            self.push(byte as u8)
        })
    }

    fn dynamic(&mut self) -> Result<(), Fault> {
        const ORDER: [usize; 19] = [
            16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
        ];
        let (literals, distances) = (self.bits(5)? + 257, self.bits(5)? + 1);
        let count = self.bits(4)? + 4;
        if literals > 286 || distances > 30 {
            return Err(Fault::Corrupt);
        }
        let mut lengths = [0; 19];
        for &place in &ORDER[..count] {
            lengths[place] = self.bits(3)?;
        }
        let code = Code::new(&lengths)?;
        if !code.is_complete && code.counts[0] != 19 {
            return Err(Fault::Corrupt);
        }
        let mut lengths = Vec::new();
        while lengths.len() < literals + distances {
            let (length, times) = match self.symbol(&code)? {
                16 => (*lengths.last().ok_or(Fault::Corrupt)?, 3 + self.bits(2)?),
                17 => (0, 3 + self.bits(3)?),
                18 => (0, 11 + self.bits(7)?),
                length => (length, 1),
            };
            lengths.extend(std::iter::repeat_n(length, times));
        }
        if lengths.len() > literals + distances || lengths[256] == 0 {
            return Err(Fault::Corrupt);
        }
        let (literals, distances) = lengths.split_at(literals);
        let (literals, distances) = (Code::new(literals)?, Code::new(distances)?);
        // zlib allows a code of a single symbol, one bit long, and distances without any.
        for code in [&literals, &distances] {
            if !code.is_complete && code.counts[2..].iter().any(|count| *count > 0) {
                return Err(Fault::Corrupt);
            }
        }
        self.block(&literals, &distances)
    }

    fn block(&mut self, literals: &Code, distances: &Code) -> Result<(), Fault> {
        loop {
            match self.symbol(literals)? {
                literal @ 0..=255 => self.push(literal as u8)?,
                256 => return Ok(()),
                symbol @ 257..=285 => {
                    let len = self.length(symbol - 257)?;
                    let distance = match self.symbol(distances)? {
                        symbol @ 0..=3 => symbol + 1,
                        symbol @ 4..=29 => {
                            let extra = symbol as u32 / 2 - 1;
                            ((2 + symbol % 2) << extra) + self.bits(extra)? + 1
                        }
                        _ => return Err(Fault::Corrupt),
                    };
                    if distance > self.output.len() - self.base {
                        return Err(Fault::Corrupt);
                    }
                    self.farthest = self.farthest.max(distance);
                    for _ in 0..len {
                        let byte = self.output[self.output.len() - distance];
                        self.push(byte)?;
                    }
                }
                _ => return Err(Fault::Corrupt),
            }
        }
    }

    fn length(&mut self, symbol: usize) -> Result<usize, Fault> {
        Ok(match symbol {
            0..=7 => 3 + symbol,
            28 => 258,
            _ => {
                let extra = symbol as u32 / 4 - 1;
                ((4 + symbol % 4) << extra) + self.bits(extra)? + 3
            }
        })
    }
}

/// A canonical code (RFC 1951 §3.2.2).
struct Code {
    /// How many symbols there are of each length.
    counts: [usize; 16],
    /// For each length from 1, where its codes end, as numbers of fifteen bits.
    ends: [usize; 15],
    /// For each length from 1, its first code, and the place of that one's symbol.
    firsts: [usize; 15],
    indices: [usize; 15],
    /// The symbols in the order of their codes.
    symbols: Vec<usize>,
    is_complete: bool,
}

impl Code {
    fn new(lengths: &[usize]) -> Result<Self, Fault> {
        let mut counts = [0; 16];
        for &length in lengths {
            counts[length] += 1;
        }
        let (mut ends, mut firsts, mut indices) = ([0; 15], [0; 15], [0; 15]);
        let (mut code, mut index) = (0, 0);
        for len in 1..=15 {
            (firsts[len - 1], indices[len - 1]) = (code, index);
            code += counts[len];
            index += counts[len];
            if code > 1 << len {
                return Err(Fault::Corrupt);
            }
            ends[len - 1] = code << (15 - len);
            code <<= 1;
        }
        let mut symbols: Vec<usize> = (0..lengths.len())
            .filter(|symbol| lengths[*symbol] > 0)
            .collect();
        symbols.sort_by_key(|symbol| lengths[*symbol]);
        Ok(Self {
            counts,
            ends,
            firsts,
            indices,
            symbols,
            is_complete: ends[14] == 1 << 15,
        })
    }
}
