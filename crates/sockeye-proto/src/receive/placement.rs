//! Where in its page the memory of a large payload begins.
//!
//! Allocators place large memory at the beginning of a page, and the system does so with what travels.
//! The instruction that Linux copies between the two with, `rep movsb`, was measured to be 4.5 times
//! slower on AMD's Zen 4 where the target stands 1 to 15 bytes further into its page than the source:
//! and it is 2 to 14 bytes that a header puts between a payload and the beginning. Half a page away
//! from there it takes a coincidence. Of 1 MiB in and out again, that was a quarter; of 16 KiB, a twentieth.

use alloc::vec::Vec;

use bytes::{Buf, Bytes};

/// How far into memory that is at the beginning of a page for sure.
pub(super) const AHEAD: usize = PAGE / 2;

/// From this size on it matters. What is smaller is copied into the output before it is written.
pub(super) const LARGE: usize = 16 * 1024;

/// The smallest page.
const PAGE: usize = 4096;

/// What begins so far into its page is well placed: the system puts what many connections write one behind the other.
const WELL: usize = PAGE / 4;

/// Memory to append a large payload of this size to, and how many bytes are in it already, before the payload.
pub(super) fn memory(len: usize) -> (Vec<u8>, usize) {
    let memory = Vec::<u8>::with_capacity(len);
    if missing(memory.as_ptr()) == 0 {
        return (memory, 0);
    }
    drop(memory);
    let mut memory = Vec::<u8>::with_capacity(len.saturating_add(WELL));
    memory.resize(missing(memory.as_ptr()), 0);
    let before = memory.len();
    (memory, before)
}

/// How far from here a payload is well placed.
fn missing(from: *const u8) -> usize {
    WELL.saturating_sub(from.addr() % PAGE)
}

/// The payload in its memory, of which so many bytes are before it.
pub(super) fn payload(memory: Vec<u8>, before: usize) -> Bytes {
    let mut bytes = Bytes::from(memory);
    bytes.advance(before);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_payloads_begin_well_within_a_page_wherever_the_memory_is() {
        let mut held = Vec::new();
        for len in (LARGE..LARGE + 4000).step_by(37).chain([1 << 17, 1 << 20]) {
            let (mut memory, before) = memory(len);
            assert!(memory.capacity() >= before + len, "{len}");
            assert_eq!(memory.len(), before);
            memory.resize(before + len, 7);
            let payload = payload(memory, before);
            assert_eq!(payload, alloc::vec![7; len]);
            let address = payload.as_ptr().addr();
            assert!(address % PAGE >= WELL, "{address:x}, {len}");
            held.push(payload);
        }
    }
}
