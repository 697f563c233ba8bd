//! Masking: XOR in place (RFC 6455 §5.3).

use alloc::vec::Vec;
use core::slice;

use crate::wide::vectorize;

/// A masking key, turned to the byte of the payload that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mask([u8; 4]);

impl Mask {
    pub(crate) const fn new(key: [u8; 4]) -> Self {
        Self(key)
    }

    /// Masks or unmasks a whole payload. Tells whether what comes out is ASCII, since one more `or`
    /// a word costs a tenth of looking again.
    #[inline(always)]
    pub(crate) fn apply_once(key: [u8; 4], bytes: &mut [u8]) -> bool {
        Self::apply_all::<true>(key, bytes)
    }

    /// As [`apply_once`](Self::apply_once), from where vectors are aligned.
    #[cold]
    fn apply_long(key: [u8; 4], bytes: &mut [u8]) -> bool {
        let (head, rest) = split_aligned(bytes);
        let head_ascii = Self::apply_all::<false>(key, head);
        Self::apply_all::<false>(turned(key, head.len()), rest) && head_ascii
    }

    /// As [`apply_once`](Self::apply_once). `ALIGN` has a [long](LONG) payload go by [`apply_long`](Self::apply_long),
    /// which asks for its two parts: within the branch that short ones do not take, since it cost them 5 instructions.
    #[inline(always)]
    fn apply_all<const ALIGN: bool>(key: [u8; 4], bytes: &mut [u8]) -> bool {
        let key64 = doubled(u32::from_ne_bytes(key));
        // Below 64 bytes what the vectors need set up costs more than they gain: 60 instructions
        // for 16 bytes, against 20.
        let seen = if bytes.len() >= 64 {
            if ALIGN && bytes.len() >= LONG {
                return Self::apply_long(key, bytes);
            }
            let (words, rest) = bytes.as_chunks_mut();
            xor(words, key64) | xor_rest(rest, key)
        } else if (8..=16).contains(&bytes.len()) {
            xor_short(bytes, key64)
        } else {
            // A loop that no vectors are made of.
            let mut words = bytes.chunks_exact_mut(8);
            let mut seen = 0;
            for word in &mut words {
                let word = word.first_chunk_mut().map(slice::from_mut);
                seen |= word.map_or(0, |word| xor_words(word, key64));
            }
            seen | xor_rest(words.into_remainder(), key)
        };
        seen & ASCII == 0
    }

    /// As [`apply_once`](Self::apply_once), into memory of its own, in one pass over both: half of what
    /// copying it and then masking the copy has to move. And what was just written in words is not
    /// read in vectors, for which the processor waits: a tenth of a message of 16 bytes.
    #[inline(always)]
    pub(crate) fn copy_once(key: [u8; 4], bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut copy = Vec::with_capacity(bytes.len());
        let ascii = Self::append_once(key, bytes, &mut copy);
        (copy, ascii)
    }

    /// As [`copy_once`](Self::copy_once), appended to `copy`.
    #[inline(always)]
    pub(crate) fn append_once(key: [u8; 4], bytes: &[u8], copy: &mut Vec<u8>) -> bool {
        let key32 = u32::from_ne_bytes(key);
        let key64 = doubled(key32);
        let mut seen = 0;
        let mut rest = bytes;
        if bytes.len() >= size_of::<Chunk>() {
            let (chunks, tail) = bytes.as_chunks();
            seen |= copy_xor(chunks, key64, copy);
            rest = tail;
        }
        while let Some((word, tail)) = rest.split_first_chunk::<8>() {
            let plain = u64::from_ne_bytes(*word) ^ key64;
            copy.extend_from_slice(&plain.to_ne_bytes());
            seen |= plain;
            rest = tail;
        }
        if let Some((word, tail)) = rest.split_first_chunk::<4>() {
            let plain = u32::from_ne_bytes(*word) ^ key32;
            copy.extend_from_slice(&plain.to_ne_bytes());
            seen |= u64::from(plain);
            rest = tail;
        }
        for (byte, key) in rest.iter().zip(key) {
            copy.push(byte ^ key);
            seen |= u64::from(byte ^ key);
        }
        seen & ASCII == 0
    }

    /// Masks or unmasks the next part of a payload.
    #[inline]
    pub(crate) fn apply(&mut self, bytes: &mut [u8]) {
        if bytes.len() < LONG {
            return self.apply_part(bytes);
        }
        let (head, rest) = split_aligned(bytes);
        self.apply_part(head);
        self.apply_part(rest);
    }

    /// As [`apply`](Self::apply), wherever vectors are aligned.
    #[inline]
    fn apply_part(&mut self, bytes: &mut [u8]) {
        let len = bytes.len();
        let (words, rest) = bytes.as_chunks_mut();
        xor(words, doubled(u32::from_ne_bytes(self.0)));
        xor_rest(rest, self.0);
        self.0 = turned(self.0, len);
    }
}

/// Applies a key to 8 to 16 bytes, as the first 8 and the last 8, and gives the bits that any of what comes out has: 20
/// instructions fewer than a loop and what that leaves over, of the 130 that it took to receive 16 bytes.
#[inline(always)]
fn xor_short(bytes: &mut [u8], key: u64) -> u64 {
    let key = u64::from_le(key);
    let turned = key.rotate_right(8 * bytes.len() as u32);
    // Both are read before either is written: they may have bytes in common.
    let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) else {
        return 0;
    };
    let first = u64::from_le_bytes(*first) ^ key;
    let last = u64::from_le_bytes(*last) ^ turned;
    if let Some(to) = bytes.first_chunk_mut() {
        *to = first.to_le_bytes();
    }
    if let Some(to) = bytes.last_chunk_mut() {
        *to = last.to_le_bytes();
    }
    first | last
}

/// Applies a key to what is left of whole words, and gives the bits that any of what comes out has.
#[inline(always)]
fn xor_rest(rest: &mut [u8], key: [u8; 4]) -> u64 {
    let mut seen = 0;
    let (half, tail) = rest.as_chunks_mut::<4>();
    for word in half {
        let plain = u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(key);
        *word = plain.to_ne_bytes();
        seen |= u64::from(plain);
    }
    for (byte, key) in tail.iter_mut().zip(key) {
        *byte ^= key;
        seen |= u64::from(*byte);
    }
    seen
}

/// From this size on a payload is masked from where vectors are aligned: where they are not, every second one lies in
/// two lines of the cache, and 16 KiB take half as long again. For less, getting there costs what it gains.
const LONG: usize = 4096;

/// The bytes before the first that is at the beginning of a vector, and the rest.
#[inline]
fn split_aligned(bytes: &mut [u8]) -> (&mut [u8], &mut [u8]) {
    const VECTOR: usize = 32;
    let head = bytes.as_ptr().addr().wrapping_neg() % VECTOR;
    bytes.split_at_mut(head.min(bytes.len()))
}

/// A key as it is after so many bytes.
#[inline]
fn turned(mut key: [u8; 4], bytes: usize) -> [u8; 4] {
    key.rotate_left(bytes % 4);
    key
}

/// A key for a word of twice its size. Of words and not of bytes, which would be put together one by one: 25
/// instructions a message.
#[inline(always)]
pub(crate) fn doubled(key: u32) -> u64 {
    u64::from(key) << 32 | u64::from(key)
}

/// Applies a key to words, and gives the bits that any of what comes out has.
#[inline]
fn xor(words: &mut [[u8; 8]], key: u64) -> u64 {
    /// Below this, choosing costs more than it gains.
    const WORTHWHILE: usize = 512 / 8;
    match words.len() {
        WORTHWHILE.. => xor_wide(words, key),
        _ => xor_words(words, key),
    }
}

/// As [`xor_words`]: two thirds of the time, 16 KiB in 196 ns instead of 307.
fn xor_wide(words: &mut [[u8; 8]], key: u64) -> u64 {
    vectorize(
        #[inline(always)]
        || xor_words(words, key),
    )
}

/// The compiler makes vectors of it, as wide as it may take the processor's to be.
#[inline(always)]
fn xor_words(words: &mut [[u8; 8]], key: u64) -> u64 {
    let mut seen = 0;
    for word in words {
        let plain = u64::from_ne_bytes(*word) ^ key;
        *word = plain.to_ne_bytes();
        seen |= plain;
    }
    seen
}

/// A piece that is copied in registers, as vectors: from one on, a payload is.
type Chunk = [u8; 64];

/// Appends chunks to `copy`, each with a key applied, and gives the bits that any of what comes out has.
fn copy_xor(chunks: &[Chunk], key: u64, copy: &mut Vec<u8>) -> u64 {
    vectorize(
        #[inline(always)]
        || copy_xor_chunks(chunks, key, copy),
    )
}

/// As [`xor_words`], the compiler makes vectors of it.
#[inline(always)]
fn copy_xor_chunks(chunks: &[Chunk], key: u64, copy: &mut Vec<u8>) -> u64 {
    // One for each word of a chunk, which are put together only at the end: a vector, too.
    let mut seen = [0; size_of::<Chunk>() / 8];
    // Four together ask for room once, and still are in registers all: two thirds of the time for 16 KiB.
    let (fours, rest) = chunks.as_chunks::<4>();
    append_xor(fours, key, copy, &mut seen);
    append_xor(rest.as_chunks::<1>().0, key, copy, &mut seen);
    seen.into_iter().fold(0, |all, seen| all | seen)
}

#[inline(always)]
fn append_xor<const N: usize>(
    groups: &[[Chunk; N]],
    key: u64,
    copy: &mut Vec<u8>,
    seen: &mut [u64; size_of::<Chunk>() / 8],
) {
    for group in groups {
        let mut group = *group;
        for chunk in &mut group {
            for (word, seen) in chunk.as_chunks_mut().0.iter_mut().zip(&mut *seen) {
                *seen |= xor_words(slice::from_mut(word), key);
            }
        }
        copy.extend_from_slice(group.as_flattened());
    }
}

/// The bits that no byte of ASCII has.
pub(crate) const ASCII: u64 = 0x8080_8080_8080_8080;

/// Whether all of this is ASCII. For short text: from 64 bytes on the validator is as fast.
#[inline]
pub(crate) fn is_short_ascii(bytes: &[u8]) -> bool {
    let (mut seen, mut rest) = (0, bytes);
    while let Some((word, tail)) = rest.split_first_chunk::<8>() {
        seen |= u64::from_ne_bytes(*word);
        rest = tail;
    }
    for byte in rest {
        seen |= u64::from(*byte);
    }
    seen & ASCII == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    #[test]
    fn section_5_7_the_masked_hello() {
        let mut payload = [0x7F, 0x9F, 0x4D, 0x51, 0x58];
        Mask::new([0x37, 0xFA, 0x21, 0x3D]).apply(&mut payload);
        assert_eq!(&payload, b"Hello");
    }

    #[test]
    fn section_5_3_a_whole_payload_of_any_short_length() {
        let key = [0x37, 0xFA, 0x21, 0x3D];
        for len in 0..700 {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let (mut once, mut parts) = (payload.clone(), payload);
            let (copy, ascii) = Mask::copy_once(key, &once);
            assert_eq!(Mask::apply_once(key, &mut once), ascii, "{len}");
            Mask::new(key).apply(&mut parts);
            assert_eq!(once, parts, "{len}");
            assert_eq!(copy, parts, "{len}");
            assert_eq!(copy.capacity(), len);
        }
    }

    #[test]
    fn what_comes_out_is_ascii_or_not_wherever_the_high_bit_is() {
        let key = [0xB7, 0xFA, 0x21, 0xBD];
        for len in (0..150).chain(250..330) {
            for high in 0..=len {
                let mut payload = alloc::vec![b'a'; len];
                if high < len {
                    payload[high] = 0x80;
                }
                assert_eq!(is_short_ascii(&payload), high == len, "{high} of {len}");
                Mask::new(key).apply(&mut payload);
                assert_eq!(
                    Mask::copy_once(key, &payload).1,
                    high == len,
                    "{high} of {len}"
                );
                assert_eq!(
                    Mask::apply_once(key, &mut payload),
                    high == len,
                    "{high} of {len}"
                );
            }
        }
    }

    #[test]
    fn section_5_3_a_long_payload_wherever_it_lies() {
        let key = [0x37, 0x7A, 0x21, 0x3D];
        let plain: Vec<u8> = (0..LONG + 200).map(|i| i as u8 & 0x7F).collect();
        let masked = |from: usize, len: usize| -> Vec<u8> {
            let turned = (from..from + len).map(|i| plain[i] ^ key[(i - from) % 4]);
            turned.collect()
        };
        for from in 0..40 {
            for len in [LONG - 1, LONG, LONG + 1, LONG + 63, LONG + 150] {
                let mut payload = plain.clone();
                payload[from..from + len].copy_from_slice(&masked(from, len));
                let mut parts = payload.clone();
                assert!(Mask::apply_once(key, &mut payload[from..from + len]));
                assert_eq!(payload, plain, "{len} from {from}");
                let mut mask = Mask::new(key);
                let (first, rest) = parts[from..from + len].split_at_mut(13);
                mask.apply(first);
                mask.apply(rest);
                assert_eq!(parts, plain, "{len} from {from}");
            }
            for high in [0, 5, 31, 32, LONG - 1] {
                let mut payload = plain.clone();
                payload[from..from + LONG].copy_from_slice(&masked(from, LONG));
                payload[from + high] ^= 0x80;
                assert!(!Mask::apply_once(key, &mut payload[from..from + LONG]));
            }
        }
    }

    proptest! {
        #[test]
        fn section_5_3_any_cut_gives_what_byte_by_byte_gives(
            key: [u8; 4],
            payload: Vec<u8>,
            cuts in prop::collection::vec(0usize..40, 0..20),
        ) {
            let expected: Vec<u8> =
                payload.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect();
            let (mut masked, mut mask) = (payload, Mask::new(key));
            let mut rest = &mut masked[..];
            for cut in cuts {
                let (part, after) = rest.split_at_mut(cut.min(rest.len()));
                mask.apply(part);
                rest = after;
            }
            mask.apply(rest);
            prop_assert_eq!(masked, expected);
        }
    }
}
