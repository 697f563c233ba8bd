//! Stands for the codec in a build without the feature `deflate`.
//!
//! No [`DeflateConfig`](super::DeflateConfig) can be made in such a build, so nothing is agreed
//! and none of this runs; should it be called all the same, it does something true.

use alloc::vec::Vec;

use super::params::{DeflaterSettings, WindowBits};
use crate::ProtocolError;

/// Lends compressors (needs the feature `deflate`).
#[derive(Debug, Default)]
pub struct Deflaters(Deflater);

impl Deflaters {
    /// An empty set.
    pub const fn new() -> Self {
        Self(Deflater)
    }

    /// Compresses a message by itself and appends it to `out`.
    pub fn compress(&mut self, _: DeflaterSettings, message: &[u8], out: &mut Vec<u8>) {
        self.0.compress(message, out);
    }

    /// Lends a compressor.
    pub fn lend(&mut self, _: DeflaterSettings) -> &mut Deflater {
        &mut self.0
    }
}

/// A compressor (needs the feature `deflate`).
#[derive(Debug, Default)]
pub struct Deflater;

impl Deflater {
    /// A compressor.
    pub const fn new(_: DeflaterSettings) -> Self {
        Self
    }

    /// Forgets nothing, as nothing is remembered.
    pub fn reset(&mut self) {}

    /// Appends the message as stored blocks, which compress nothing (RFC 1951 §3.2.4).
    pub fn compress(&mut self, message: &[u8], out: &mut Vec<u8>) {
        for part in message.chunks(usize::from(u16::MAX)) {
            let len = part.len() as u16;
            out.push(0);
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(&(!len).to_le_bytes());
            out.extend_from_slice(part);
        }
        out.push(0);
    }
}

impl Deflater {
    pub(crate) fn compress_part(&mut self, part: &[u8], out: &mut Vec<u8>) {
        self.compress(part, out);
        // What ends a message stands between its parts as well, as an empty block.
        out.extend([0, 0, 0xff, 0xff]);
    }

    pub(crate) fn flush_parts(&mut self, _out: &mut Vec<u8>) {}

    pub(crate) fn finish_parts(&mut self, _flushed: bool, out: &mut Vec<u8>) {
        out.push(0);
    }
}

/// How far a message that is inflated in parts has come: nowhere.
#[derive(Debug, Default)]
pub(crate) struct Progress;

impl Progress {
    pub(crate) fn new(_: WindowBits) -> Self {
        Self
    }

    pub(crate) fn has_more(&self) -> bool {
        false
    }
}

/// How far a message that is inflated in turns has come: nowhere.
#[derive(Debug)]
pub(crate) struct Turns {
    pub(crate) taken: usize,
    pub(crate) progress: Progress,
}

impl Turns {
    pub(crate) fn new(_: WindowBits) -> Self {
        Self {
            taken: 0,
            progress: Progress,
        }
    }
}

impl Inflater {
    pub(crate) fn inflate_turn(
        &mut self,
        _compressed: &[u8],
        _limit: usize,
        _keep_context: bool,
        _turns: &mut Turns,
    ) -> Result<bool, ProtocolError> {
        Err(ProtocolError::ReservedBits)
    }

    pub(crate) fn inflate_part(
        &mut self,
        _compressed: &[u8],
        _room: &mut [u8],
        _progress: &mut Progress,
    ) -> Result<(usize, usize), ProtocolError> {
        Err(ProtocolError::ReservedBits)
    }

    pub(crate) fn finish_parts(&mut self, _: &mut Progress, _: bool) -> Result<(), ProtocolError> {
        Err(ProtocolError::ReservedBits)
    }
}

/// A decompressor (needs the feature `deflate`).
#[derive(Debug, Default)]
pub struct Inflater;

impl Inflater {
    /// A decompressor.
    pub const fn new() -> Self {
        Self
    }

    /// Fails: a compressed message was never agreed.
    ///
    /// # Errors
    /// Always [`ReservedBits`](ProtocolError::ReservedBits).
    pub fn inflate(
        &mut self,
        _compressed: &[u8],
        _limit: usize,
        _window: WindowBits,
        _keep_context: bool,
    ) -> Result<&[u8], ProtocolError> {
        Err(ProtocolError::ReservedBits)
    }

    pub(crate) fn inflate_into(
        &mut self,
        _lent: &mut Self,
        _compressed: &[u8],
        _limit: usize,
        _window: WindowBits,
    ) -> Result<(), ProtocolError> {
        Err(ProtocolError::ReservedBits)
    }

    pub(crate) fn take_room(&mut self, _other: &mut Self) {}

    pub(crate) fn output(&self) -> &[u8] {
        &[]
    }

    /// Nothing: nothing was inflated.
    pub fn take_output(&mut self) -> Vec<u8> {
        Vec::new()
    }

    /// Has nothing to give back.
    pub fn trim(&mut self, _keep: usize) {}

    /// Forgets nothing, as nothing is remembered.
    pub fn reset(&mut self) {}
}

#[cfg(test)]
mod without_the_feature {
    use super::*;
    use crate::deflate::{DeflateConfig, Level, MemLevel};

    #[test]
    fn nothing_can_be_agreed() {
        assert_eq!(DeflateConfig::available(), None);
        let mut inflater = Inflater::new();
        let result = inflater.inflate(b"\x00", 10, WindowBits::MAX, false);
        assert_eq!(result, Err(ProtocolError::ReservedBits));
    }

    #[test]
    fn messages_are_stored() {
        let settings = DeflaterSettings {
            level: Level::FASTEST,
            mem_level: MemLevel::DEFAULT,
            window: WindowBits::MAX,
        };
        let mut out = Vec::new();
        Deflaters::new().lend(settings).compress(b"Hello", &mut out);
        // RFC 7692 §7.2.3.3.
        assert_eq!(out, b"\x00\x05\x00\xfa\xffHello\x00");
        out.clear();
        let mut deflater = Deflater::new(settings);
        deflater.compress_part(b"Hello", &mut out);
        deflater.finish_parts(false, &mut out);
        assert_eq!(out, b"\x00\x05\x00\xfa\xffHello\x00\x00\x00\xff\xff\x00");
        out.clear();
        Deflater::new(settings).compress(b"", &mut out);
        assert_eq!(out, [0x00]);
    }
}
