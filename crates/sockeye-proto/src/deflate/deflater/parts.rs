//! A message compressed in parts (RFC 7692 §7.2.1).

use alloc::vec::Vec;

use zlib_rs::DeflateFlush;

use super::{Deflater, EMPTY, TAIL, new_codec};

/// Room is made for this many bytes of output at a time.
const STEP: usize = 16 * 1024;

impl Deflater {
    /// Compresses the next part of a message and appends what comes of it to `out`. That may be
    /// nothing: zlib gathers up to a block.
    pub(crate) fn compress_part(&mut self, part: &[u8], out: &mut Vec<u8>) {
        self.run(part, DeflateFlush::NoFlush, out);
    }

    /// Appends what is left of the parts compressed since the last flush, so that the peer can
    /// inflate them. There must have been one that was not empty: zlib refuses a second flush in a
    /// row.
    pub(crate) fn flush_parts(&mut self, out: &mut Vec<u8>) {
        self.run(&[], DeflateFlush::SyncFlush, out);
        debug_assert!(out.ends_with(&TAIL));
    }

    /// Appends the end of a message; `flushed` says that no part came since the last flush.
    pub(crate) fn finish_parts(&mut self, flushed: bool, out: &mut Vec<u8>) {
        if flushed {
            out.push(EMPTY);
        } else {
            self.flush_parts(out);
            out.truncate(out.len() - TAIL.len());
        }
    }

    fn run(&mut self, mut rest: &[u8], flush: DeflateFlush, out: &mut Vec<u8>) {
        let settings = self.settings;
        let codec = self.codec.get_or_insert_with(|| new_codec(settings));
        self.has_context = true;
        let mut end = out.len();
        loop {
            out.resize(end + STEP, 0);
            let before = (codec.total_in(), codec.total_out());
            codec
                .compress(rest, &mut out[end..], flush)
                .expect("zlib refuses only a stream that was finished, and this one never is");
            rest = &rest[(codec.total_in() - before.0) as usize..];
            end += (codec.total_out() - before.1) as usize;
            // Room left over is how zlib says that it has nothing more to write.
            if rest.is_empty() && end < out.len() {
                break;
            }
        }
        out.truncate(end);
    }
}
