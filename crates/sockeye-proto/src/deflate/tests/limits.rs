//! Limits: the size of an inflated message, and the memory that it may take.

use alloc::vec;
use alloc::vec::Vec;

use super::codec::{UNLIMITED, compressed, noise, settings};
use crate::ProtocolError::MessageTooLarge;
use crate::deflate::{Deflater, Inflater, WindowBits};

#[test]
fn exactly_the_limit_passes_and_one_more_does_not() {
    for len in [0, 1, 2, 259, 260, 4095, 4096, 4097, 8192, 70_000, 1 << 20] {
        for message in [vec![b'x'; len], noise(len)] {
            let payload = compressed(settings(6, 8, 15), &message);
            let mut inflater = Inflater::new();
            // Room left over from a larger message must not lift the limit.
            for _ in 0..2 {
                for (limit, fits) in [(len.wrapping_sub(1), false), (len, true), (len + 1, true)] {
                    let result = inflater.inflate(&payload, limit, WindowBits::MAX, false);
                    if fits || len == 0 {
                        assert!(result == Ok(&message), "{len} within {limit}");
                    } else {
                        assert_eq!(result, Err(MessageTooLarge { limit }));
                    }
                }
            }
        }
    }
}

#[test]
fn the_limit_holds_for_each_message_of_a_context() {
    let mut deflater = Deflater::new(settings(6, 8, 15));
    let mut inflater = Inflater::new();
    for _ in 0..10 {
        let mut out = Vec::new();
        deflater.compress(&[b'x'; 100], &mut out);
        assert!(inflater.inflate(&out, 100, WindowBits::MAX, true).is_ok());
    }
}

/// A gigabyte of zeros, compressed to a megabyte: what is allocated follows the limit.
#[test]
fn a_bomb_takes_no_more_than_the_limit() {
    let mut deflater = Deflater::new(settings(1, 8, 15));
    let zeros = vec![0; 1 << 20];
    let mut piece = Vec::new();
    deflater.compress(&zeros, &mut piece);
    piece.clear();
    // From here on every piece is the same, as it refers to the one before.
    deflater.compress(&zeros, &mut piece);
    piece.extend([0x00, 0x00, 0xff, 0xff]);
    let mut bomb = compressed(settings(1, 8, 15), &zeros);
    bomb.extend([0x00, 0x00, 0xff, 0xff]);
    for _ in 0..1023 {
        bomb.extend_from_slice(&piece);
    }
    bomb.truncate(bomb.len() - 4);

    let mut inflater = Inflater::new();
    for limit in [1000, 1 << 16, 3_000_000] {
        let result = inflater.inflate(&bomb, limit, WindowBits::MAX, true);
        assert_eq!(result, Err(MessageTooLarge { limit }));
        assert!(inflater.room() <= limit.min(256 * 1024));
    }
}

#[test]
fn room_follows_what_was_inflated() {
    let mut inflater = Inflater::new();
    for (len, room) in [(10, 4096), (5000, 8192), (600_000, 1 << 20)] {
        let payload = compressed(settings(1, 8, 15), &noise(len));
        let result = inflater.inflate(&payload, UNLIMITED, WindowBits::MAX, false);
        assert_eq!(result.map(<[u8]>::len), Ok(len));
        assert_eq!(inflater.room(), room);
    }
    // One large message does not hold its room beyond the next.
    let payload = compressed(settings(1, 8, 15), b"small");
    assert!(
        inflater
            .inflate(&payload, UNLIMITED, WindowBits::MAX, false)
            .is_ok()
    );
    assert_eq!(inflater.room(), 4096);
    inflater.trim(0);
    assert_eq!(inflater.room(), 0);
}

#[test]
fn nothing_is_allocated_before_the_first_use() {
    let inflater = alloc::format!("{:?}", Inflater::new());
    assert!(inflater.contains("allocated: false") && inflater.contains("room: 0"));
    let deflater = alloc::format!("{:?}", Deflater::new(settings(1, 8, 15)));
    assert!(deflater.contains("allocated: false"));
}
