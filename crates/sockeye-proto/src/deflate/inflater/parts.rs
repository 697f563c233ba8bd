//! A message inflated in parts, never more of it than there is room for (RFC 7692 §7.2.2).

use zlib_rs::{InflateFlush, Status};

use super::{
    super::{deflater::TAIL, distances::Walk},
    Inflater, new_codec,
};
use crate::{ProtocolError, deflate::WindowBits};

/// How far a message that is inflated in parts has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Looks for references outside the agreed window, where that is smaller than zlib-rs can tell.
    walk: Option<Walk>,
    /// Whether anything was taken: a message of no bytes is empty.
    begun: bool,
    /// Whether the room was filled, so that more may come without more input.
    full: bool,
    /// Whether a block with BFINAL set was the last thing taken.
    ended: bool,
    /// Whether there has been such a block.
    trailing: bool,
}

impl Progress {
    /// The beginning of a message that may refer back within this window.
    pub(crate) fn new(window: WindowBits) -> Self {
        Self {
            walk: (window < WindowBits::MAX).then(|| Walk::new(window.size())),
            ..Self::default()
        }
    }

    /// Whether more may come without more input.
    pub(crate) fn has_more(&self) -> bool {
        self.full
    }

    /// What is wrong with data that is not DEFLATE.
    fn wrong(&self) -> ProtocolError {
        if self.trailing {
            ProtocolError::DeflateTrailingData
        } else {
            ProtocolError::CorruptDeflate
        }
    }
}

impl Inflater {
    /// Inflates the next part of a message: how many bytes of it were taken, and how many written
    /// to the front of `room`. Nothing is kept but what zlib keeps, its window of 32 KB.
    ///
    /// # Errors
    /// As [`inflate`](Self::inflate), but for the limit. Of a part with a reference beyond the agreed
    /// window, nothing is given.
    pub(crate) fn inflate_part(
        &mut self,
        compressed: &[u8],
        room: &mut [u8],
        progress: &mut Progress,
    ) -> Result<(usize, usize), ProtocolError> {
        let codec = self.codec.get_or_insert_with(new_codec);
        let (mut taken, mut written) = (0, 0);
        while written < room.len() && (taken < compressed.len() || progress.full) {
            let before = (codec.total_in(), codec.total_out());
            let status = codec
                .decompress(
                    &compressed[taken..],
                    &mut room[written..],
                    InflateFlush::NoFlush,
                )
                .map_err(|_| progress.wrong())?;
            let took = (codec.total_in() - before.0) as usize;
            let wrote = (codec.total_out() - before.1) as usize;
            (taken, written) = (taken + took, written + wrote);
            progress.full = written == room.len();
            progress.ended &= took == 0;
            progress.begun |= took > 0;
            if status == Status::StreamEnd {
                // RFC 7692 §7.2.1: whatever follows begins another stream.
                codec.reset(false);
                (progress.full, progress.ended, progress.trailing) = (false, true, true);
            } else if took == 0 && wrote == 0 {
                break;
            }
        }
        if let Some(walk) = &mut progress.walk {
            walk.push_later(&compressed[..taken], written > 0)?;
        }
        self.history = self.history.saturating_add(written);
        Ok((taken, written))
    }

    /// Ends a message whose parts have all been inflated.
    ///
    /// # Errors
    /// As [`inflate`](Self::inflate), where the message ends within a block.
    pub(crate) fn finish_parts(
        &mut self,
        progress: &mut Progress,
        keep_context: bool,
    ) -> Result<(), ProtocolError> {
        let result = if !progress.begun {
            Ok(())
        } else if progress.ended {
            // The empty block that must follow is missing (RFC 7692 §7.2.3.4).
            Err(ProtocolError::CorruptDeflate)
        } else if self.tail() {
            match &mut progress.walk {
                Some(walk) => walk.push(&TAIL),
                None => Ok(()),
            }
        } else {
            Err(progress.wrong())
        };
        if result.is_err() || !keep_context {
            self.reset();
        }
        result
    }
}
