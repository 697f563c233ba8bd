//! A whole message inflated in turns, so that there is time for other things between them (RFC 7692 §7.2.2).

use alloc::vec::Vec;
use core::mem;

use super::{Inflater, KEPT_ROOM, Progress, grow};
use crate::{ProtocolError, deflate::WindowBits};

/// What is taken of a message in a turn: up to two and a half milliseconds of work where nothing comes of it. A block that
/// is empty can be ten bits, and one with codes of its own, of which tables are made, eleven bytes.
const TAKEN: usize = 16 * 1024;

/// What is made of it: about a millisecond.
const MADE: usize = 1 << 20;

/// How far a message has come that is inflated in turns.
#[derive(Debug)]
pub(crate) struct Turns {
    /// How many of its bytes were taken.
    pub(crate) taken: usize,
    pub(crate) progress: Progress,
}

impl Turns {
    /// The beginning of a message that may refer back within this window.
    pub(crate) fn new(window: WindowBits) -> Self {
        Self {
            taken: 0,
            progress: Progress::new(window),
        }
    }
}

impl Inflater {
    /// Goes on with a message, whole as it travelled, and tells whether it has come to its end: then it is the
    /// [`output`](Self::output). Nothing else may be inflated before that.
    ///
    /// # Errors
    /// As [`inflate`](Self::inflate).
    pub(crate) fn inflate_turn(
        &mut self,
        compressed: &[u8],
        limit: usize,
        keep_context: bool,
        turns: &mut Turns,
    ) -> Result<bool, ProtocolError> {
        if turns.taken == 0 {
            self.trim(KEPT_ROOM);
        }
        // Apart, since the codec writes into it.
        let mut room = mem::take(&mut self.room);
        let result = self.turn(compressed, &mut room, limit, keep_context, turns);
        self.room = room;
        if result.is_err() {
            self.reset();
            self.trim(KEPT_ROOM);
        }
        result
    }

    fn turn(
        &mut self,
        compressed: &[u8],
        room: &mut Vec<u8>,
        limit: usize,
        keep_context: bool,
        turns: &mut Turns,
    ) -> Result<bool, ProtocolError> {
        let until = turns.taken.saturating_add(TAKEN).min(compressed.len());
        let most = self.len.saturating_add(MADE);
        loop {
            if self.len == room.len() {
                grow(room, limit);
            }
            let mut beyond = [0];
            let end = room.len().min(limit);
            let at_limit = self.len == end;
            let to = if at_limit {
                beyond.as_mut_slice()
            } else {
                &mut room[self.len..end.min(most)]
            };
            let from = &compressed[turns.taken..until];
            let (taken, made) = self.inflate_part(from, to, &mut turns.progress)?;
            turns.taken += taken;
            if at_limit && made > 0 {
                return Err(ProtocolError::MessageTooLarge { limit });
            }
            self.len += made;
            let starved = turns.taken == until && !turns.progress.has_more();
            if starved && until == compressed.len() {
                self.finish_parts(&mut turns.progress, keep_context)?;
                return Ok(true);
            }
            if starved || self.len >= most {
                return Ok(false);
            }
        }
    }
}
