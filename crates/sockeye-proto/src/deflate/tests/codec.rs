//! Compressing and inflating (RFC 7692 §7.2).

use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use crate::ProtocolError::{self, CorruptDeflate, DeflateTrailingData};
use crate::deflate::{
    Deflater, DeflaterSettings, Deflaters, Inflater, Level, MemLevel, WindowBits, distances,
};

pub(super) const UNLIMITED: usize = usize::MAX;

pub(super) fn settings(level: u8, mem_level: u8, window: u8) -> DeflaterSettings {
    DeflaterSettings {
        level: Level::new(level).unwrap(),
        mem_level: MemLevel::new(mem_level).unwrap(),
        window: WindowBits::new(window).unwrap(),
    }
}

pub(super) fn compressed(settings: DeflaterSettings, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Deflater::new(settings).compress(message, &mut out);
    out
}

pub(super) fn inflated(payload: &[u8]) -> Result<Vec<u8>, ProtocolError> {
    let mut inflater = Inflater::new();
    inflater.inflate(payload, UNLIMITED, WindowBits::MAX, false)?;
    Ok(inflater.take_output())
}

/// Bytes without repetition worth speaking of.
pub(super) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    core::iter::repeat_with(next).take(len).collect()
}

/// Text that repeats itself at every distance.
fn words(len: usize) -> Vec<u8> {
    let picks = noise(len);
    let word = |pick: &u8| [b'a' + pick % 7, b'e', b'a' + pick % 11, b' '];
    let mut text: Vec<u8> = picks.iter().flat_map(word).collect();
    text.truncate(len);
    text
}

mod section_7_2_1_compression {
    use super::*;

    #[test]
    fn the_tail_is_cut_off_and_nothing_before_is_touched() {
        let mut out = b"header".to_vec();
        Deflater::new(settings(6, 8, 15)).compress(b"Hello", &mut out);
        assert_eq!(out, b"header\xf2\x48\xcd\xc9\xc9\x07\x00");
    }

    #[test]
    fn every_setting_round_trips() {
        let message = words(10_000);
        for level in 0..=9 {
            for window in 8..=15 {
                for mem_level in [1, 5, 9] {
                    let settings = settings(level, mem_level, window);
                    let mut inflater = Inflater::new();
                    let payload = compressed(settings, &message);
                    // The window is checked: the compressor keeps to it, 8 bits included.
                    let result = inflater.inflate(&payload, UNLIMITED, settings.window, false);
                    assert!(result == Ok(&message), "{settings:?}");
                }
            }
        }
    }

    /// Output that ends where the room does must neither hang nor lose its end.
    #[test]
    fn incompressible_messages_of_every_length() {
        let noise = noise(300_000);
        let mut deflaters = Deflaters::new();
        for len in (1..600)
            .chain(65_000..65_100)
            .chain([100_000, 262_144, 300_000])
        {
            for level in [0, 1, 6] {
                let mut payload = Vec::new();
                let deflater = deflaters.lend(settings(level, 1, 15));
                deflater.compress(&noise[..len], &mut payload);
                assert_eq!(inflated(&payload).as_deref(), Ok(&noise[..len]));
            }
        }
    }

    #[test]
    fn context_is_kept_until_reset() {
        let mut deflater = Deflater::new(settings(1, 8, 15));
        let message = words(1000);
        let mut sizes = Vec::new();
        for reset in [true, false, true] {
            if reset {
                deflater.reset();
            }
            let mut out = Vec::new();
            deflater.compress(&message, &mut out);
            sizes.push(out.len());
        }
        assert!(sizes[1] < sizes[0] / 4);
        assert_eq!(sizes[2], sizes[0]);
    }

    #[test]
    fn what_is_lent_has_no_context_and_is_kept_for_its_settings() {
        let mut deflaters = Deflaters::new();
        let mut lend = |window| {
            let mut out = Vec::new();
            let deflater = deflaters.lend(settings(1, 8, window));
            deflater.compress(b"sockeye sockeye sockeye", &mut out);
            assert_eq!(
                inflated(&out).as_deref(),
                Ok(&b"sockeye sockeye sockeye"[..])
            );
            out
        };
        let alone = lend(15);
        for window in [15, 9, 10, 15, 11, 12, 13, 14, 15] {
            assert_eq!(lend(window), alone);
        }
    }
}

mod section_7_2_2_decompression {
    use super::*;

    #[test]
    fn fragments_are_no_concern_but_every_byte_counts() {
        let message = words(5000);
        let payload = compressed(settings(6, 8, 15), &message);
        for len in 1..payload.len() {
            assert_eq!(inflated(&payload[..len]), Err(CorruptDeflate), "{len}");
        }
    }

    #[test]
    fn a_message_that_ends_within_a_block() {
        // A fixed block whose end the tail's zero bits would supply, a stored block that would
        // take the tail for its data, a length that it would complete.
        for payload in [
            &b"\xf2\x48\xcd"[..],
            b"\x00\x08\x00\xf7\xff1234",
            b"\x00\x05\x00",
        ] {
            assert_eq!(inflated(payload), Err(CorruptDeflate), "{payload:x?}");
        }
    }

    #[test]
    fn corrupt_data_leaves_the_inflater_usable() {
        let good = compressed(settings(6, 8, 15), b"Hello");
        let mut inflater = Inflater::new();
        for bad in [
            &b"\x06"[..],                        // a block of the reserved type
            b"\xff\xff\xff\xff",                 // the same, last
            b"\x00\x01\x00\x01\x00a",            // lengths that contradict each other
            b"\x04\xff\xff\xff\xff\xff\xff\xff", // tables that make no code
            b"\x02\x02\x00",                     // a distance with no history
            b"Hello",
        ] {
            let result = inflater.inflate(bad, UNLIMITED, WindowBits::MAX, true);
            assert_eq!(result, Err(CorruptDeflate), "{bad:x?}");
            assert_eq!(inflater.take_output(), b"");
            let result = inflater.inflate(&good, UNLIMITED, WindowBits::MAX, false);
            assert_eq!(result, Ok(&b"Hello"[..]));
        }
    }

    #[test]
    fn output_is_moved_when_large_and_copied_when_small() {
        let mut inflater = Inflater::new();
        for len in [1, 100, 20_000, 1_000_000, 10] {
            let message = words(len);
            let payload = compressed(settings(1, 8, 15), &message);
            let lent = inflater.inflate(&payload, UNLIMITED, WindowBits::MAX, true);
            assert_eq!(lent, Ok(&message[..]));
            let taken = inflater.take_output();
            assert_eq!(taken, message);
            assert!(taken.capacity() <= 2 * len);
            assert_eq!(inflater.take_output(), b"");
            inflater.reset();
        }
    }
}

mod section_7_2_3_examples {
    use super::*;

    #[test]
    fn one_compressed_block() {
        assert_eq!(inflated(b"\xf2\x48\xcd\xc9\xc9\x07\x00").unwrap(), b"Hello");
        assert_eq!(
            compressed(settings(6, 8, 15), b"Hello"),
            b"\xf2\x48\xcd\xc9\xc9\x07\x00"
        );
    }

    #[test]
    fn sharing_the_window() {
        let mut inflater = Inflater::new();
        for payload in [
            &b"\xf2\x48\xcd\xc9\xc9\x07\x00"[..],
            b"\xf2\x00\x11\x00\x00",
        ] {
            let result = inflater.inflate(payload, UNLIMITED, WindowBits::MIN, true);
            assert_eq!(result, Ok(&b"Hello"[..]));
        }
        // Without the context the second is nothing.
        let second = inflated(b"\xf2\x00\x11\x00\x00");
        assert_eq!(second, Err(CorruptDeflate));

        let mut deflater = Deflater::new(settings(6, 8, 15));
        let mut out = Vec::new();
        deflater.compress(b"Hello", &mut out);
        out.clear();
        deflater.compress(b"Hello", &mut out);
        assert_eq!(out, b"\xf2\x00\x11\x00\x00");
    }

    #[test]
    fn a_block_with_no_compression() {
        assert_eq!(
            inflated(b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00").unwrap(),
            b"Hello"
        );
        let stored = compressed(settings(0, 8, 15), b"Hello");
        assert_eq!(stored, b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00");
    }

    #[test]
    fn a_block_with_bfinal_set() {
        assert_eq!(
            inflated(b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00").unwrap(),
            b"Hello"
        );
    }

    #[test]
    fn two_blocks_in_one_message() {
        let payload = b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00";
        assert_eq!(inflated(payload).unwrap(), b"Hello");
    }

    #[test]
    fn an_empty_message() {
        let mut deflater = Deflater::new(settings(6, 8, 15));
        let mut inflater = Inflater::new();
        // A second empty one, and one after another message, under context takeover.
        for message in [&b""[..], b"", b"Hello", b"", b"", b"Hello"] {
            let mut out = Vec::new();
            deflater.compress(message, &mut out);
            if message.is_empty() {
                assert_eq!(out, [0x00]);
            }
            let result = inflater.inflate(&out, UNLIMITED, WindowBits::MAX, true);
            assert_eq!(result, Ok(message));
        }
        // zlib's own form of it.
        assert_eq!(inflated(b"\x02\x00").unwrap(), b"");
    }
}

mod section_7_2_3_4_bfinal {
    use super::*;

    const FINAL_HELLO: &[u8] = b"\xf3\x48\xcd\xc9\xc9\x07\x00";

    #[test]
    fn other_blocks_may_follow() {
        let ways: [&[u8]; 3] = [
            FINAL_HELLO,                                 // another last block
            b"\xf2\x48\xcd\xc9\xc9\x07",                 // one that is not
            b"\x01\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f", // a stored one
        ];
        for way in ways {
            let payload = [FINAL_HELLO, way, b"\x00"].concat();
            assert_eq!(inflated(&payload).unwrap(), b"HelloHello");
        }
    }

    #[test]
    fn the_empty_block_may_be_the_last() {
        let mut inflater = Inflater::new();
        for payload in [
            &b"\x01"[..],
            b"\xf2\x48\xcd\xc9\xc9\x07\x04",
            b"\x01",
            FINAL_HELLO,
        ] {
            let payload = if payload == FINAL_HELLO {
                [payload, b"\x00"].concat()
            } else {
                payload.to_vec()
            };
            let result = inflater.inflate(&payload, UNLIMITED, WindowBits::MAX, true);
            assert!(
                matches!(result, Ok(b"" | b"Hello")),
                "{payload:x?}: {result:?}"
            );
        }
    }

    #[test]
    fn the_block_after_it_must_be_there() {
        assert_eq!(inflated(FINAL_HELLO), Err(CorruptDeflate));
    }

    #[test]
    fn what_follows_must_be_deflate() {
        for garbage in [
            &b"garbage"[..],
            b"\x07",
            b"\xff\xff",
            b"\x00\x00",
            b"\xf2\x48",
        ] {
            let payload = [FINAL_HELLO, garbage].concat();
            assert_eq!(inflated(&payload), Err(DeflateTrailingData), "{garbage:x?}");
        }
    }

    #[test]
    fn references_do_not_cross_it() {
        let payload = [FINAL_HELLO, b"\xf2\x00\x11\x00\x00"].concat();
        assert_eq!(inflated(&payload), Err(DeflateTrailingData));
    }
}

mod section_7_1_2_window {
    use super::*;

    /// A message in which the only reference goes back exactly `distance` bytes.
    fn reaching_back(distance: usize) -> Vec<u8> {
        let mut message: Vec<u8> = noise(distance).iter().map(|byte| byte & 0x7f).collect();
        message.extend_from_within(..100);
        message
    }

    #[test]
    fn a_reference_outside_the_agreed_window_is_found() {
        for window in 8..15 {
            let size = 1 << window;
            for (distance, fits) in [(size - 1, true), (size, true), (size + 1, false)] {
                let message = reaching_back(distance);
                let payload = compressed(settings(9, 9, 15), &message);
                assert_eq!(distances::check(&payload, distance), Ok(()));
                assert_eq!(
                    distances::check(&payload, distance - 1),
                    Err(CorruptDeflate)
                );
                let window = WindowBits::new(window).unwrap();
                let mut inflater = Inflater::new();
                let result = inflater.inflate(&payload, UNLIMITED, window, false);
                let expected = if fits {
                    Ok(&message[..])
                } else {
                    Err(CorruptDeflate)
                };
                assert!(result == expected, "{window:?} {distance}");
                // The next connection is not made to suffer.
                let result = inflater.inflate(&payload, UNLIMITED, WindowBits::MAX, false);
                assert_eq!(result, Ok(&message[..]));
            }
        }
    }

    #[test]
    fn a_reference_to_an_earlier_message_counts() {
        for (between, expected) in [(10, Ok(())), (300, Err(CorruptDeflate))] {
            let mut deflater = Deflater::new(settings(9, 9, 15));
            let mut inflater = Inflater::new();
            let (greeting, filler) = (noise(50), &noise(400)[100..][..between]);
            let mut result = Ok(());
            for message in [&greeting[..], filler, &greeting] {
                assert_eq!(result, Ok(()));
                let mut out = Vec::new();
                deflater.compress(message, &mut out);
                result = inflater
                    .inflate(&out, UNLIMITED, WindowBits::MIN, true)
                    .map(|inflated| assert_eq!(inflated, message));
            }
            assert_eq!(result, expected);
        }
    }

    /// zlib refuses raw streams of 8 bits; its 9 bits stay within the 256 bytes of 8.
    #[test]
    fn eight_bits_are_honoured() {
        let message = words(20_000);
        for level in 1..=9 {
            for mem_level in [1, 9] {
                let payload = compressed(settings(level, mem_level, 8), &message);
                assert!(payload.len() < message.len() * 9 / 10);
                assert_eq!(distances::check(&payload, 250), Ok(()));
                assert_eq!(distances::check(&payload, 100), Err(CorruptDeflate));
            }
        }
    }

    /// RFC 1951 §3.2.4: BFINAL and BTYPE are three bits, and what is left of their byte is passed over.
    #[test]
    fn bits_before_a_stored_block_mean_nothing_where_the_window_is_checked() {
        let message = noise(600);
        let payload = [&[0xF8, 0x58, 0x02, 0xA7, 0xFD][..], &message, &[0xF8]].concat();
        let window = WindowBits::new(9).unwrap();
        let mut inflater = Inflater::new();
        let result = inflater.inflate(&payload, UNLIMITED, window, false);
        assert_eq!(result, Ok(&message[..]));
    }

    #[test]
    fn all_kinds_of_blocks_are_walked() {
        // Stored, fixed, dynamic, a last one and what follows it.
        let mut payload = compressed(settings(0, 8, 15), &noise(100_000));
        payload.truncate(payload.len() - 1);
        payload.extend(compressed(settings(9, 8, 9), &words(50_000)));
        payload.extend(b"\x00\x00\xff\xff\xf3\x48\xcd\xc9\xc9\x07\x00\x00");
        assert_eq!(inflated(&payload).unwrap().len(), 150_005);
        assert_eq!(distances::check(&payload, 512), Ok(()));
        assert_eq!(distances::check(&payload, 16), Err(CorruptDeflate));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_trip(
        level in 0..=9_u8,
        mem_level in 1..=9_u8,
        window in 8..=15_u8,
        keep in any::<bool>(),
        pieces in prop::collection::vec((0..4_usize, 0..3000_usize, 1..20_usize), 1..12),
    ) {
        let settings = settings(level, mem_level, window);
        let mut deflater = Deflater::new(settings);
        let mut inflater = Inflater::new();
        let (noise, words) = (noise(4000), words(60_000));
        for (kind, start, len) in pieces {
            let message = match kind {
                0 => noise[start..start + len].to_vec(),
                1 => words[start..start + len * 100].to_vec(),
                2 => words[..len * start].to_vec(),
                _ => vec![start as u8; len * start],
            };
            let mut out = Vec::new();
            if !keep {
                deflater.reset();
            }
            deflater.compress(&message, &mut out);
            let result = inflater.inflate(&out, message.len(), settings.window, keep);
            prop_assert_eq!(result, Ok(&message[..]));
        }
    }

    /// Whatever comes in, there is an answer, and the next message is served.
    #[test]
    fn arbitrary_bytes(payload in prop::collection::vec(any::<u8>(), 0..300), window in 8..=15_u8) {
        let mut inflater = Inflater::new();
        let window = WindowBits::new(window).unwrap();
        let len = inflater.inflate(&payload, 10_000, window, false).map(<[u8]>::len);
        prop_assert!(len.unwrap_or(0) <= 10_000);
        let hello = inflater.inflate(b"\xf2\x48\xcd\xc9\xc9\x07\x00", 5, window, false);
        prop_assert_eq!(hello, Ok(&b"Hello"[..]));
    }
}
