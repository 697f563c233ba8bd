//! Huffman's code for strings in fields (RFC 7541 §5.2, which RFC 9204 §4.1.2 refers to).
//!
//! It is canonical: of two symbols the one with the shorter code has the smaller one, and of two with codes of the same
//! length the smaller symbol has. So the lengths say everything.

/// How many bits the code of each symbol has (RFC 7541, appendix B).
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// What ends a string, and may not stand in one.
const EOS: u16 = 256;

const LONGEST: usize = 30;

/// How many symbols have a code of each length.
const COUNTS: [u32; LONGEST + 1] = {
    let (mut counts, mut symbol) = ([0; LONGEST + 1], 0);
    while symbol < LENGTHS.len() {
        counts[LENGTHS[symbol] as usize] += 1;
        symbol += 1;
    }
    counts
};

/// The symbols in the order of their codes.
const SYMBOLS: [u16; 257] = {
    let (mut symbols, mut at, mut length) = ([0; 257], 0, 1);
    while length <= LONGEST {
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                symbols[at] = symbol as u16;
                at += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    symbols
};

/// Decodes a string; nothing where it is none. It has at most 8 bytes for each 5 of the code.
pub(super) fn decode(code: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::new();
    // The bits of a symbol so far; the first code of their length, and which symbol that is.
    let (mut bits, mut len, mut first, mut symbol) = (0, 0, 0, 0);
    for at in 0..8 * code.len() {
        bits = bits << 1 | u32::from(code[at / 8] >> (7 - at % 8) & 1);
        len += 1;
        let count = *COUNTS.get(len)?;
        first <<= 1;
        if bits - first < count {
            match SYMBOLS[symbol + (bits - first) as usize] {
                EOS => return None,
                byte => decoded.push(byte as u8),
            }
            (bits, len, first, symbol) = (0, 0, 0, 0);
        } else {
            first += count;
            symbol += count as usize;
        }
    }
    // What is left is the beginning of the code of `EOS`, and shorter than a byte.
    let is_padding = len < 8 && bits == (1 << len) - 1;
    is_padding.then_some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7541 §C.4 and §C.6.
    #[test]
    fn strings_of_the_standard_are_decoded() {
        for (code, text) in [
            (
                &b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"[..],
                "www.example.com",
            ),
            (b"\xa8\xeb\x10\x64\x9c\xbf", "no-cache"),
            (b"\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f", "custom-key"),
            (b"\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf", "custom-value"),
            (b"\x64\x02", "302"),
            (b"\x64\x0e\xff", "307"),
            (b"", ""),
        ] {
            assert_eq!(decode(code).as_deref(), Some(text.as_bytes()), "{text}");
        }
    }

    /// The code is complete: no bits are left without a symbol.
    #[test]
    fn every_symbol_is_decoded() {
        let (mut code, mut before) = (0u32, 0);
        for (at, symbol) in SYMBOLS.into_iter().enumerate() {
            let length = LENGTHS[usize::from(symbol)];
            code = (code + u32::from(at > 0)) << (length - before);
            before = length;
            // The code, and ones up to the end of a byte.
            let padding = (8 - length % 8) % 8;
            let bits = (u64::from(code) << padding) | ((1 << padding) - 1);
            let len = usize::from(length).div_ceil(8);
            let bytes = &bits.to_be_bytes()[8 - len..];
            let expected = u8::try_from(symbol).ok().map(|byte| vec![byte]);
            assert_eq!(decode(bytes), expected, "{symbol}");
        }
        assert_eq!(code, (1 << 30) - 1);
    }

    /// RFC 7541 §5.2.
    #[test]
    fn padding_is_ones_and_less_than_a_byte() {
        // `a` has the code 00011.
        assert_eq!(decode(&[0b0001_1111]).as_deref(), Some(&b"a"[..]));
        assert_eq!(decode(&[0b0001_1110]), None);
        assert_eq!(decode(&[0b0001_1111, 0xFF]), None);
        assert_eq!(decode(&[0xFF]), None);
        assert_eq!(decode(&[0xFF, 0xFF, 0xFF, 0xFF]), None);
    }
}
