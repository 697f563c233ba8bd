//! The compressor, and the set of them that a thread lends (RFC 7692 §7.2.1).

mod parts;

use alloc::vec::Vec;
use core::fmt;

use zlib_rs::{Deflate, DeflateFlush};

use super::{
    params::{DeflaterSettings, Level},
    short::ShortDeflater,
};

/// What every compressed message ends with, and what never travels (RFC 7692 §7.2.1).
pub(super) const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// An empty message: the header of an empty stored block, its tail cut off (§7.2.3.6).
const EMPTY: u8 = 0x00;

/// Room for the output of a large message is first made for this many bytes.
const LARGE_STEP: usize = 64 * 1024;

/// Compressors to lend: one for each of the settings in use, at most four.
///
/// Keep one set a thread. It allocates nothing until it lends.
#[derive(Debug, Default)]
pub struct Deflaters {
    /// The latest lent first.
    deflaters: Vec<Deflater>,
    short: ShortDeflater,
}

impl Deflaters {
    /// Endpoints of one process seldom differ in more than their role's window; a peer that asks
    /// for many windows in turn costs the making of a compressor, never more memory than this.
    const MOST: usize = 4;

    /// An empty set.
    pub const fn new() -> Self {
        Self {
            deflaters: Vec::new(),
            short: ShortDeflater::new(),
        }
    }

    /// Compresses a message by itself and appends it to `out`, as [`Deflater::compress`] does. A
    /// short one at the fastest level needs no compressor of the library's.
    pub fn compress(&mut self, settings: DeflaterSettings, message: &[u8], out: &mut Vec<u8>) {
        let short = (1..=ShortDeflater::MOST).contains(&message.len());
        if short && settings.level == Level::FASTEST {
            self.short.compress(message, settings.window, out);
        } else {
            self.lend(settings).compress(message, out);
        }
    }

    /// Lends a compressor with these settings and no context.
    pub fn lend(&mut self, settings: DeflaterSettings) -> &mut Deflater {
        let found = self.deflaters.iter().position(|d| d.settings == settings);
        match found {
            Some(place) => self.deflaters[..=place].rotate_right(1),
            None => {
                self.deflaters.truncate(Self::MOST - 1);
                self.deflaters.insert(0, Deflater::new(settings));
            }
        }
        let deflater = &mut self.deflaters[0];
        deflater.reset();
        deflater
    }
}

/// A compressor of whole messages. It allocates 137 to 495 KB when first used, by its window and
/// memory level: 380 KB with the defaults.
pub struct Deflater {
    settings: DeflaterSettings,
    codec: Option<Deflate>,
    /// Whether the codec remembers something.
    has_context: bool,
}

impl Deflater {
    /// A compressor without context. Allocates nothing yet.
    pub const fn new(settings: DeflaterSettings) -> Self {
        Self {
            settings,
            codec: None,
            has_context: false,
        }
    }

    /// Forgets the messages compressed so far: the next one refers to none of them.
    pub fn reset(&mut self) {
        if let Some(codec) = &mut self.codec
            && self.has_context
        {
            codec.reset();
        }
        self.has_context = false;
    }

    /// Compresses a whole message and appends it to `out`, without the four bytes that end every
    /// message (RFC 7692 §7.2.1).
    ///
    /// The message may refer back to those compressed since the last [`reset`](Self::reset).
    pub fn compress(&mut self, message: &[u8], out: &mut Vec<u8>) {
        if message.is_empty() {
            // zlib would refuse a second flush in a row with nothing between them.
            out.push(EMPTY);
            return;
        }
        let settings = self.settings;
        let codec = self.codec.get_or_insert_with(|| new_codec(settings));
        self.has_context = true;

        let start = out.len();
        let mut rest = message;
        let mut end = start;
        loop {
            // Enough for what compresses worst (9 bits a byte, at level 1), so that a message of
            // ordinary size takes one step; a large one doubles its room as it comes out.
            let worst = rest.len() + rest.len() / 8 + 64;
            out.resize(end + worst.min(LARGE_STEP.max(end - start)), 0);
            let before = (codec.total_in(), codec.total_out());
            codec
                .compress(rest, &mut out[end..], DeflateFlush::SyncFlush)
                .expect("zlib refuses only a stream that was finished, and this one never is");
            rest = &rest[(codec.total_in() - before.0) as usize..];
            end += (codec.total_out() - before.1) as usize;
            // Room left over is how zlib says that the flush is complete.
            if rest.is_empty() && end < out.len() {
                break;
            }
        }
        debug_assert!(out[..end].ends_with(&TAIL));
        out.truncate(end - TAIL.len());
    }
}

/// Raw DEFLATE. zlib has no window of 8 bits, but with 9 it never refers back more than 250 bytes
/// (512 less its lookahead of 262), which is within the 256 of 8 bits.
fn new_codec(settings: DeflaterSettings) -> Deflate {
    Deflate::new_with_config(zlib_rs::DeflateConfig {
        level: i32::from(settings.level.as_u8()),
        window_bits: -i32::from(settings.window.as_u8().max(9)),
        mem_level: i32::from(settings.mem_level.as_u8()),
        ..zlib_rs::DeflateConfig::default()
    })
}

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflater")
            .field("settings", &self.settings)
            .field("allocated", &self.codec.is_some())
            .field("has_context", &self.has_context)
            .finish()
    }
}

#[cfg(test)]
mod lending {
    use super::*;
    use crate::deflate::{Level, MemLevel, WindowBits};

    #[test]
    fn at_most_four_are_kept_and_the_longest_unused_goes() {
        let mut deflaters = Deflaters::new();
        for window in [8, 9, 10, 8, 11, 12] {
            deflaters.lend(DeflaterSettings {
                level: Level::FASTEST,
                mem_level: MemLevel::DEFAULT,
                window: WindowBits::new(window).unwrap(),
            });
        }
        let kept = deflaters.deflaters.iter();
        let kept: Vec<_> = kept.map(|d| d.settings.window.as_u8()).collect();
        assert_eq!(kept, [12, 11, 8, 10]);
    }
}
