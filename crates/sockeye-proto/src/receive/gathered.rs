//! The payload of a message that comes in pieces, gathered in memory of its own.

use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};

use bytes::Bytes;

use super::placement::{self, AHEAD, LARGE};

/// Bytes, all behind `start` in their memory.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    memory: Vec<u8>,
    start: usize,
}

impl Gathered {
    /// Nothing, which owns no memory.
    pub(super) const fn new() -> Self {
        Self {
            memory: Vec::new(),
            start: 0,
        }
    }

    pub(super) fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.memory.extend_from_slice(bytes);
    }

    /// Forgets the bytes, and keeps their memory.
    pub(super) fn clear(&mut self) {
        self.memory.truncate(self.start);
    }

    /// How many bytes the memory has room for.
    pub(super) fn capacity(&self) -> usize {
        self.memory.capacity() - self.start
    }

    /// How many more bytes there is room for.
    pub(super) fn spare(&self) -> usize {
        self.memory.capacity() - self.memory.len()
    }

    /// Makes room for so many more bytes and no others.
    pub(super) fn grow(&mut self, more: usize) {
        let room = self.len() + more;
        if self.start == 0 && room >= LARGE {
            self.move_to(Vec::with_capacity(Self::memory_for(room)));
        } else {
            self.memory.reserve_exact(more);
        }
    }

    /// The size of the memory that so many bytes can be moved to.
    pub(super) const fn memory_for(room: usize) -> usize {
        room.saturating_add(AHEAD)
    }

    /// Moves the bytes into other memory, whatever that holds.
    pub(super) fn move_to(&mut self, mut memory: Vec<u8>) {
        memory.clear();
        memory.resize(AHEAD, 0);
        memory.extend_from_slice(self);
        *self = Self {
            memory,
            start: AHEAD,
        };
    }

    /// The memory, to append to.
    pub(super) fn memory(&mut self) -> &mut Vec<u8> {
        &mut self.memory
    }

    /// The bytes, without a copy.
    pub(super) fn into_bytes(self) -> Bytes {
        placement::payload(self.memory, self.start)
    }
}

impl Deref for Gathered {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[self.start..]
    }
}

impl DerefMut for Gathered {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn large_payloads_begin_within_a_page_wherever_they_grow() {
        let mut gathered = Gathered::new();
        gathered.extend_from_slice(b"begins");
        gathered.grow(10);
        assert_eq!((gathered.start, gathered.spare() >= 10), (0, true));
        gathered.grow(LARGE);
        assert_eq!((gathered.start, &gathered[..]), (AHEAD, &b"begins"[..]));
        assert!(gathered.spare() >= LARGE);
        gathered.memory().extend_from_slice(b" and goes on");
        gathered.grow(4 * LARGE);
        assert_eq!((gathered.start, gathered.len()), (AHEAD, 18));
        assert_eq!(gathered.into_bytes(), &b"begins and goes on"[..]);
    }

    /// Where a peer may announce as much as there is memory.
    #[test]
    fn no_room_is_too_much_to_ask_for() {
        for room in [usize::MAX - AHEAD, usize::MAX - 1, usize::MAX] {
            assert_eq!(Gathered::memory_for(room), usize::MAX);
        }
    }

    #[test]
    fn whatever_memory_held_is_gone() {
        let mut gathered = Gathered::new();
        gathered.extend_from_slice(b"kept");
        gathered.move_to(vec![0xEE; Gathered::memory_for(9)]);
        assert_eq!((&gathered[..], gathered.spare()), (&b"kept"[..], 5));
        assert_eq!(gathered.capacity(), 9);
        gathered.clear();
        assert!(gathered.is_empty());
        assert_eq!(gathered.spare(), 9);
    }
}
