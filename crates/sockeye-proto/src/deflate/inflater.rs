//! The decompressor (RFC 7692 §7.2.2).

mod parts;
mod turns;

use alloc::vec::Vec;
use core::{fmt, mem};

use zlib_rs::{Inflate, InflateFlush, Status};

use super::deflater::TAIL;
use super::distances;
use super::params::WindowBits;
use crate::ProtocolError;

pub(crate) use parts::Progress;
pub(crate) use turns::Turns;

/// Room for output is first made for this many bytes.
const FIRST_ROOM: usize = 4096;

/// Room for output beyond this is given back when the next message begins.
const KEPT_ROOM: usize = 256 * 1024;

/// Output of at least this many bytes is moved out rather than copied.
const MOVED: usize = 16 * 1024;

/// A decompressor of whole messages. It allocates 48 KB, and room for a message, when first used.
///
/// Where no context is kept between messages, keep one a thread and lend it to every connection;
/// a connection that keeps its context needs its own.
#[derive(Default)]
pub struct Inflater {
    codec: Option<Inflate>,
    /// Room for output, all of it initialized; reused, so that it is cleared once, not per message.
    room: Vec<u8>,
    /// How much of it the last message fills.
    len: usize,
    /// How many bytes were inflated since the context was last empty: no distance exceeds it.
    history: usize,
}

impl Inflater {
    /// A decompressor without context. Allocates nothing yet.
    pub const fn new() -> Self {
        Self {
            codec: None,
            room: Vec::new(),
            len: 0,
            history: 0,
        }
    }

    /// Inflates the payload of a whole message (RFC 7692 §7.2.2) and lends the result.
    ///
    /// `compressed` is the payload as it travelled: the four bytes that the sender cut off are
    /// supplied here. A result of exactly `limit` bytes passes; room for it grows with what has
    /// been inflated, by doubling, and never beyond the limit. `window` is what the peer agreed to
    /// use: a reference further back is an error even though it could be followed. With
    /// `keep_context` the next message may refer back to this one.
    ///
    /// No bytes are an empty message. As written in §7.2.3.6 that has one byte, and those four alone are no DEFLATE;
    /// but there are peers that send none, and browsers take it.
    ///
    /// # Errors
    /// After any of them the context is empty and the inflater serves the next message.
    /// - [`MessageTooLarge`](ProtocolError::MessageTooLarge): more than `limit` bytes.
    /// - [`CorruptDeflate`](ProtocolError::CorruptDeflate): not DEFLATE, ends within a block,
    ///   or refers back further than the window or the history.
    /// - [`DeflateTrailingData`](ProtocolError::DeflateTrailingData): what follows a block with
    ///   BFINAL set is not DEFLATE that ends with the message.
    pub fn inflate(
        &mut self,
        compressed: &[u8],
        limit: usize,
        window: WindowBits,
        keep_context: bool,
    ) -> Result<&[u8], ProtocolError> {
        self.trim(KEPT_ROOM);
        let result = self.message(compressed, limit, window);
        if result.is_err() || !keep_context {
            self.reset();
        }
        if let Err(error) = result {
            self.trim(KEPT_ROOM);
            return Err(error);
        }
        Ok(self.output())
    }

    /// As [`inflate`](Self::inflate), keeping the context, with the room and the result in `lent`: a connection that
    /// has its own context is not to hold what was made of its last message.
    pub(crate) fn inflate_into(
        &mut self,
        lent: &mut Self,
        compressed: &[u8],
        limit: usize,
        window: WindowBits,
    ) -> Result<(), ProtocolError> {
        self.take_room(lent);
        let result = self.inflate(compressed, limit, window, true).map(drop);
        lent.take_room(self);
        result
    }

    /// Takes over another's room, and the message in it.
    pub(crate) fn take_room(&mut self, other: &mut Self) {
        self.room = mem::take(&mut other.room);
        self.len = mem::take(&mut other.len);
    }

    /// The last message inflated.
    #[inline]
    pub(crate) fn output(&self) -> &[u8] {
        &self.room[..self.len]
    }

    /// Takes the last message inflated, without a copy where it is large, and leaves none.
    pub fn take_output(&mut self) -> Vec<u8> {
        let len = mem::take(&mut self.len);
        // What is moved keeps its spare room for as long as its new owner lives.
        if len >= MOVED && len >= self.room.capacity() / 2 {
            let mut output = mem::take(&mut self.room);
            output.truncate(len);
            output
        } else {
            self.room[..len].to_vec()
        }
    }

    /// Drops the last message, and the room for output where it is larger than `keep` bytes.
    pub fn trim(&mut self, keep: usize) {
        self.len = 0;
        if self.room.capacity() > keep {
            self.room = Vec::new();
        }
    }

    /// Forgets the messages inflated so far: the next one may refer to none of them.
    pub fn reset(&mut self) {
        self.history = 0;
        if let Some(codec) = &mut self.codec {
            codec.reset(false);
        }
    }

    /// How much room for output is allocated, in bytes.
    #[cfg(test)]
    pub(crate) fn room(&self) -> usize {
        self.room.capacity()
    }

    fn message(
        &mut self,
        compressed: &[u8],
        limit: usize,
        window: WindowBits,
    ) -> Result<(), ProtocolError> {
        if compressed.is_empty() {
            return Ok(());
        }
        self.payload(compressed, limit)?;
        self.history = self.history.saturating_add(self.len);
        // zlib-rs keeps 32 KB whatever window it is asked for, so it cannot tell.
        if self.history > window.size() && window < WindowBits::MAX {
            distances::check(compressed, window.size())?;
        }
        Ok(())
    }

    /// Inflates a payload, which may consist of several DEFLATE streams: a block with BFINAL set
    /// ends one, padded to a byte, and whatever follows begins another (RFC 7692 §7.2.1), which
    /// does not refer back beyond its beginning (RFC 1951 §3.2.3: the last block of a data set).
    fn payload(&mut self, compressed: &[u8], limit: usize) -> Result<(), ProtocolError> {
        let mut rest = compressed;
        let mut wrong = ProtocolError::CorruptDeflate;
        loop {
            let (taken, ended) = self
                .advance(rest, limit)
                .map_err(|stop| stop.error(wrong))?;
            rest = &rest[taken..];
            if !ended {
                break;
            }
            if let Some(codec) = &mut self.codec {
                codec.reset(false);
            }
            if rest.is_empty() {
                // The empty block that must follow is missing (RFC 7692 §7.2.3.4).
                return Err(ProtocolError::CorruptDeflate);
            }
            if taken > 0 {
                wrong = ProtocolError::DeflateTrailingData;
            }
        }
        if self.tail() { Ok(()) } else { Err(wrong) }
    }

    /// Inflates until the input or the stream ends; tells how much was taken and whether it was
    /// the stream that ended.
    fn advance(&mut self, input: &[u8], limit: usize) -> Result<(usize, bool), Stop> {
        let codec = self.codec.get_or_insert_with(new_codec);
        let mut taken = 0;
        loop {
            if self.len == self.room.len() {
                grow(&mut self.room, limit);
            }
            let mut beyond = [0];
            let end = self.room.len().min(limit);
            let at_limit = self.len == end;
            let room = if at_limit {
                beyond.as_mut_slice()
            } else {
                &mut self.room[self.len..end]
            };
            let before = (codec.total_in(), codec.total_out());
            let status = codec
                .decompress(&input[taken..], room, InflateFlush::NoFlush)
                .map_err(|_| Stop::Corrupt)?;
            let took = (codec.total_in() - before.0) as usize;
            taken += took;
            let written = (codec.total_out() - before.1) as usize;
            let full = written == room.len();
            if at_limit && full {
                return Err(Stop::TooLarge { limit });
            }
            self.len += written;
            // Room left over is how zlib says that it has nothing more to write of what it looks at: 4 GiB at a time.
            let ended = status == Status::StreamEnd;
            let looked_at_all = taken == input.len() || took + written == 0;
            if ended || (!full && looked_at_all) {
                return Ok((taken, ended));
            }
        }
    }

    /// Supplies the four bytes that the sender cut off (§7.2.1) and tells whether a block, which
    /// must be an empty stored one, ended with them.
    ///
    /// The byte after them is a probe: asked to stop at the end of a block, zlib takes it only if
    /// the message ended within one.
    fn tail(&mut self) -> bool {
        const PROBED: [u8; 5] = [TAIL[0], TAIL[1], TAIL[2], TAIL[3], 0];
        let codec = self.codec.get_or_insert_with(new_codec);
        let before = (codec.total_in(), codec.total_out());
        let status = codec.decompress(&PROBED, &mut [0], InflateFlush::Block);
        status.is_ok()
            && codec.total_in() - before.0 == TAIL.len() as u64
            && codec.total_out() == before.1
    }
}

/// Why inflating stopped short.
enum Stop {
    Corrupt,
    TooLarge { limit: usize },
}

impl Stop {
    fn error(self, wrong: ProtocolError) -> ProtocolError {
        match self {
            Self::Corrupt => wrong,
            Self::TooLarge { limit } => ProtocolError::MessageTooLarge { limit },
        }
    }
}

/// Raw DEFLATE with the largest window, which reads all smaller ones.
fn new_codec() -> Inflate {
    Inflate::new(false, WindowBits::MAX.as_u8())
}

/// Doubles the room for output, up to the limit.
fn grow(room: &mut Vec<u8>, limit: usize) {
    let wanted = room.len().saturating_mul(2).max(FIRST_ROOM).min(limit);
    if let Some(more) = wanted.checked_sub(room.len()) {
        room.reserve_exact(more);
        room.resize(wanted, 0);
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater")
            .field("allocated", &self.codec.is_some())
            .field("room", &self.room.capacity())
            .field("len", &self.len)
            .field("history", &self.history)
            .finish()
    }
}
