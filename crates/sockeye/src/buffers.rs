//! Per-thread pools: read buffers, output buffers and codecs, lent to whichever connection is at
//! work. An idle connection owns none of them.

use std::{
    cell::{Cell, RefCell},
    mem,
    sync::{
        LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, LocalKey},
};

use bytes::Bytes;
use sockeye_proto::{
    OutputBuffer,
    deflate::{Deflaters, Inflater},
};

/// The size of a read buffer in bytes: what one `recv` can take at most.
pub(crate) const READ: usize = 128 * 1024;

/// Where in a read buffer is read to. As with [large payloads](sockeye_proto::Receiver::adopt), half a
/// page from where the system has what it gives: copying it can take 4.5 times as long else.
pub(crate) const READ_AT: usize = 2048;

/// Buffers kept a thread, besides the one at hand. More are in use only while more sockets hold bytes nobody has taken.
const KEPT: usize = 3;

/// How many read buffers there are in the process, and whether those are many: more than threads keep for themselves. Then
/// connections hold them, whose tasks take long over what has come.
static READ_BUFFERS: AtomicUsize = AtomicUsize::new(0);
static MANY_READ_BUFFERS: AtomicBool = AtomicBool::new(false);
static MANY: LazyLock<usize> = LazyLock::new(|| {
    let threads = thread::available_parallelism().map_or(1, Into::into);
    2 * (KEPT + 1) * threads.max(4)
});

/// An output buffer that has grown beyond this is not kept.
const OUTPUT_MOST: usize = 512 * 1024;

/// How much room for what was inflated is kept, in bytes.
const INFLATED_KEPT: usize = 256 * 1024;

/// Buffers of large messages that are kept a thread, and their sizes in bytes. Asking the system
/// for a megabyte anew costs a page fault for every 4 KiB of it: more than to receive and send it.
const LARGE_KEPT: usize = 8;
const LARGE: std::ops::RangeInclusive<usize> = 128 * 1024..=2 * 1024 * 1024 + 4096;

/// A buffer to read into, and what of that was not taken: with the buffer, so that a connection for which
/// nothing has come has a pointer for all that.
#[derive(Debug)]
pub(crate) struct ReadBuffer {
    bytes: Vec<u8>,
    /// Bytes read and not taken are `bytes[start..end]`.
    start: usize,
    end: usize,
    /// Whether it is one to read to, and not what followed a handshake, or was traded.
    is_for_reading: bool,
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        if self.is_for_reading {
            let before = READ_BUFFERS.fetch_sub(1, Ordering::Relaxed);
            MANY_READ_BUFFERS.store(before - 1 > *MANY, Ordering::Relaxed);
        }
    }
}

impl ReadBuffer {
    /// One to read to, with nothing in it.
    #[cold]
    fn new() -> Self {
        let before = READ_BUFFERS.fetch_add(1, Ordering::Relaxed);
        MANY_READ_BUFFERS.store(before + 1 > *MANY, Ordering::Relaxed);
        Self {
            is_for_reading: true,
            bytes: vec![0; READ_AT + READ],
            start: 0,
            end: 0,
        }
    }

    /// One in which nothing of that was taken.
    pub(crate) fn full(bytes: Vec<u8>) -> Self {
        Self {
            start: 0,
            end: bytes.len(),
            bytes,
            is_for_reading: false,
        }
    }

    /// Where to read to: [`READ`] bytes.
    #[inline]
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[READ_AT..]
    }

    /// Says how many bytes were read to there.
    #[inline]
    pub(crate) fn filled(&mut self, count: usize) {
        (self.start, self.end) = (READ_AT, READ_AT + count);
    }

    /// What was not taken.
    #[inline]
    pub(crate) fn unread(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// How much memory it takes.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// Says how many bytes of that still were not.
    #[inline]
    pub(crate) fn leave(&mut self, left: usize) {
        self.start = self.end - left;
    }
}

#[derive(Default)]
#[allow(clippy::vec_box, reason = "they come and go in their boxes")]
struct Pool {
    large: Vec<Vec<u8>>,
    read: Vec<Box<ReadBuffer>>,
    output: Vec<Box<OutputBuffer>>,
    inflater: Option<Box<Inflater>>,
    deflaters: Option<Box<Deflaters>>,
}

/// The buffer that was given back last.
type Hand<T> = LocalKey<Cell<Option<Box<T>>>>;

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
    /// The buffers that were given back last, at hand for whoever is next: mostly all there are. A
    /// third of the instructions of asking the pool, which every message alone would pay twice for each.
    static READ_AT_HAND: Cell<Option<Box<ReadBuffer>>> = const { Cell::new(None) };
    static OUTPUT_AT_HAND: Cell<Option<Box<OutputBuffer>>> = const { Cell::new(None) };
}

/// What is at hand.
#[inline]
fn take_at_hand<T>(hand: &'static Hand<T>) -> Option<Box<T>> {
    hand.try_with(Cell::take).ok().flatten()
}

/// Puts a buffer at hand, and the one that is there into the pool.
#[inline]
fn put_at_hand<T>(hand: &'static Hand<T>, buffer: Box<T>, kept: fn(&mut Pool) -> &mut Vec<Box<T>>) {
    let before = hand.try_with(|hand| hand.replace(Some(buffer)));
    if let Ok(Some(before)) = before {
        put_in_pool(before, kept);
    }
}

#[cold]
fn put_in_pool<T>(buffer: Box<T>, kept: fn(&mut Pool) -> &mut Vec<Box<T>>) {
    pool(|pool| {
        let kept = kept(pool);
        (kept.len() < KEPT).then(|| kept.push(buffer))
    });
}

/// Works on the pool, unless the thread is ending and it is gone.
fn pool<R>(work: impl FnOnce(&mut Pool) -> Option<R>) -> Option<R> {
    POOL.try_with(|pool| work(&mut pool.borrow_mut()))
        .ok()
        .flatten()
}

/// A buffer with [`READ`] bytes to read into, from [`READ_AT`] on.
#[inline]
pub(crate) fn take_read() -> Box<ReadBuffer> {
    take_at_hand(&READ_AT_HAND)
        .or_else(|| pool(|pool| pool.read.pop()))
        .unwrap_or_else(|| Box::new(ReadBuffer::new()))
}

/// Gives a read buffer back. One that is not for reading is dropped.
#[inline]
pub(crate) fn put_read(buffer: Box<ReadBuffer>) {
    if buffer.is_for_reading {
        put_at_hand(&READ_AT_HAND, buffer, |pool| &mut pool.read);
    }
}

/// As [`trade_read`], where many connections have not taken what they have read: as where their handlers ask a database
/// for each message. While few do, it costs a load.
#[inline]
pub(crate) fn trade_read_of_many(buffer: &mut Box<ReadBuffer>) {
    if MANY_READ_BUFFERS.load(Ordering::Relaxed) {
        trade_read_where_many(buffer);
    }
}

#[cold]
fn trade_read_where_many(buffer: &mut Box<ReadBuffer>) {
    // Threads may have said how many there are in another order than they have counted them.
    let are_many = READ_BUFFERS.load(Ordering::Relaxed) > *MANY;
    if are_many {
        trade_read(buffer);
    } else {
        MANY_READ_BUFFERS.store(false, Ordering::Relaxed);
    }
}

/// Moves what was not taken into memory of just its size where that is much less, and gives the buffer
/// back: for a connection that will not take it for a while, as many others may not.
#[cold]
pub(crate) fn trade_read(buffer: &mut Box<ReadBuffer>) {
    let is_for_reading = buffer.is_for_reading;
    let rest = buffer.unread();
    if is_for_reading && rest.len() < READ / 4 {
        let rest = Box::new(ReadBuffer::full(rest.to_vec()));
        put_read(mem::replace(buffer, rest));
    }
}

/// A buffer to gather output in.
#[inline]
pub(crate) fn take_output() -> Box<OutputBuffer> {
    take_at_hand(&OUTPUT_AT_HAND)
        .or_else(|| pool(|pool| pool.output.pop()))
        .unwrap_or_else(|| OutputBuffer::with_room(READ))
}

/// Gives an output buffer back.
#[inline]
pub(crate) fn put_output(buffer: Box<OutputBuffer>) {
    if (READ..=OUTPUT_MOST).contains(&buffer.room()) {
        put_at_hand(&OUTPUT_AT_HAND, buffer, |pool| &mut pool.output);
    }
}

/// An empty buffer for a large message, with at least this much room, where one is there.
pub(crate) fn take_large(room: usize) -> Option<Vec<u8>> {
    pool(|pool| {
        let found = pool
            .large
            .iter()
            .rposition(|buffer| buffer.capacity() >= room)?;
        Some(pool.large.swap_remove(found))
    })
}

/// Takes back the buffer of a large message, where nobody else holds it.
pub(crate) fn reclaim(mut payload: Bytes) {
    if !LARGE.contains(&payload.len()) || !payload.is_unique() {
        return;
    }
    // Else all of it would be moved to the front; with nothing left, the memory would be gone.
    payload.truncate(1);
    let buffer = Vec::from(payload);
    if LARGE.contains(&buffer.capacity()) {
        pool(|pool| (pool.large.len() < LARGE_KEPT).then(|| pool.large.push(buffer)));
    }
}

/// Lends the thread's inflater. While it is lent, another call gets one of its own.
pub(crate) fn with_inflater<R>(work: impl FnOnce(&mut Inflater) -> R) -> R {
    let mut inflater =
        pool(|pool| pool.inflater.take()).unwrap_or_else(|| Box::new(Inflater::new()));
    let result = work(&mut inflater);
    inflater.trim(INFLATED_KEPT);
    pool(|pool| pool.inflater.replace(inflater));
    result
}

/// Lends the thread's compressors. While they are lent, another call gets ones of its own.
pub(crate) fn with_deflaters<R>(work: impl FnOnce(&mut Deflaters) -> R) -> R {
    let mut deflaters =
        pool(|pool| pool.deflaters.take()).unwrap_or_else(|| Box::new(Deflaters::new()));
    let result = work(&mut deflaters);
    pool(|pool| pool.deflaters.replace(deflaters));
    result
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// Of connections whose tasks take long over what has come, each holds a buffer; of very many, what was not taken.
    #[test]
    fn many_connections_hold_no_more_than_what_they_have_not_taken() {
        let hold = || {
            let mut buffer = take_read();
            buffer.filled(100);
            buffer.leave(1);
            trade_read_of_many(&mut buffer);
            assert_eq!(buffer.unread(), [0]);
            buffer
        };
        let held: Vec<_> = (0..10_000).map(|_| hold()).collect();
        let memory: usize = held.iter().map(|buffer| buffer.memory()).sum();
        // Others of this process have theirs at the same time.
        assert!(
            memory <= (*MANY + 1) * (READ_AT + READ) + held.len(),
            "{memory}"
        );
        drop(held);
        // Others may hold many for a while.
        let begin = Instant::now();
        while hold().memory() != READ_AT + READ {
            assert!(begin.elapsed() < Duration::from_secs(20));
            thread::yield_now();
        }
    }
}
