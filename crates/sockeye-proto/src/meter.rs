//! What a connection has carried so far, counted as it goes.

use alloc::boxed::Box;
use core::{
    ops::AddAssign,
    sync::atomic::{
        AtomicBool, AtomicU32, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
};

use once_cell::race::OnceBox;

use crate::OpCode;

/// Counts what a connection carries. Its two halves share one, and anyone else may look.
///
/// Each half writes its own direction, and nobody else does: to count is an addition in memory, not
/// one that the processors have to agree on. What is written most of the two directions is kept apart
/// by what is written seldom, since they may be on different cores.
#[derive(Debug)]
#[repr(C)]
pub struct Meter {
    received: Often,
    received_seldom: Seldom,
    /// Received, then sent: there where compression was agreed, or messages of both kinds went in one direction.
    /// Most connections have neither.
    more: OnceBox<[More; 2]>,
    sent_seldom: Seldom,
    sent: Often,
}

#[derive(Debug, Default)]
struct Often {
    bytes: AtomicUsize,
    /// Messages of the kind that the first is of.
    first: Counting,
    /// Whether that is binary.
    binary_first: AtomicBool,
}

#[derive(Debug, Default)]
struct More {
    /// Messages of the other kind.
    other: Counting,
    compression: Compression,
}

/// Half as wide as what is counted often: a million pings a second take an hour to wrap it.
#[derive(Debug, Default)]
struct Seldom {
    pings: AtomicU32,
    pongs: AtomicU32,
}

#[derive(Debug, Default)]
struct Compression {
    compressed: AtomicUsize,
    uncompressed: AtomicUsize,
}

#[derive(Debug, Default)]
struct Counting {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

/// One direction, to be written by the half that it belongs to.
#[derive(Clone, Copy)]
pub(crate) struct Flow<'a> {
    // Not the parts of it, which would be at hand for each message and are needed for few.
    meter: &'a Meter,
    sent: bool,
}

/// What a connection has carried since it opened. Everything wraps where `usize` does, pings and pongs
/// where `u32` does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// From the peer.
    pub received: Traffic,
    /// To the peer.
    pub sent: Traffic,
}

/// What a connection has carried in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Bytes read from the transport, or written to it, the opening handshake not among them. Within
    /// TLS: what TLS adds is not counted.
    pub bytes: u64,
    /// Text messages.
    pub text: Count,
    /// Binary messages.
    pub binary: Count,
    /// Pings.
    pub pings: u64,
    /// Pongs.
    pub pongs: u64,
    /// Payload bytes of the compressed messages as they travelled.
    pub compressed: u64,
    /// Payload bytes of the same messages as they are; without what was skipped of one that is read in parts.
    pub uncompressed: u64,
}

/// Messages of one kind. Received ones are counted when they are handed over, sent ones when they are
/// queued; one in parts when it ends, and its bytes as they come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Count {
    /// How many.
    pub messages: u64,
    /// Their payloads together, uncompressed, in bytes.
    pub bytes: u64,
}

impl Meter {
    /// For a connection that `compresses`, or not.
    pub(crate) fn new(compresses: bool) -> Self {
        let more = OnceBox::new();
        if compresses {
            more.get_or_init(Box::default);
        }
        Self {
            received: Often::default(),
            received_seldom: Seldom::default(),
            more,
            sent_seldom: Seldom::default(),
            sent: Often::default(),
        }
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        Counters {
            received: self.received().read(),
            sent: self.sent().read(),
        }
    }

    /// Counts bytes that were read from the transport.
    #[inline]
    pub fn count_read(&self, count: usize) {
        add(&self.received.bytes, count);
    }

    /// Counts bytes that were written to the transport.
    #[inline]
    pub fn count_written(&self, count: usize) {
        add(&self.sent.bytes, count);
    }

    /// How many bytes were read from the transport.
    #[inline]
    pub fn read(&self) -> usize {
        self.received.bytes.load(Relaxed)
    }

    /// How many payload bytes of compressed messages were received, as they travelled.
    #[inline]
    pub fn read_compressed(&self) -> usize {
        let more = self.received().more();
        more.map_or(0, |more| more.compression.compressed.load(Relaxed))
    }

    /// How many bytes were written to the transport.
    #[inline]
    pub fn written(&self) -> usize {
        self.sent.bytes.load(Relaxed)
    }

    #[inline]
    pub(crate) fn received(&self) -> Flow<'_> {
        Flow {
            meter: self,
            sent: false,
        }
    }

    #[inline]
    pub(crate) fn sent(&self) -> Flow<'_> {
        Flow {
            meter: self,
            sent: true,
        }
    }
}

impl<'a> Flow<'a> {
    /// Counts a whole message of `len` bytes.
    #[inline(always)]
    pub(crate) fn message(self, text: bool, len: usize) {
        let counting = self.of(text);
        add(&counting.messages, 1);
        add(&counting.bytes, len);
    }

    /// Counts the end of a message in parts.
    pub(crate) fn end(self, text: bool) {
        add(&self.of(text).messages, 1);
    }

    /// Counts a part of a message.
    pub(crate) fn part(self, text: bool, len: usize) {
        add(&self.of(text).bytes, len);
    }

    /// Counts what a compressed message, or a part of one, is on its way, and as it is.
    pub(crate) fn compressed(self, compressed: usize, uncompressed: usize) {
        // Where nothing was agreed, nothing is compressed.
        if let Some(More { compression, .. }) = self.more() {
            add(&compression.compressed, compressed);
            add(&compression.uncompressed, uncompressed);
        }
    }

    /// Counts a ping or a pong; a Close is nothing to count.
    pub(crate) fn control(self, opcode: OpCode) {
        let count = match opcode {
            OpCode::Ping => &self.seldom().pings,
            OpCode::Pong => &self.seldom().pongs,
            _ => return,
        };
        count.store(count.load(Relaxed).wrapping_add(1), Relaxed);
    }

    #[inline]
    fn of(self, text: bool) -> &'a Counting {
        let often = self.often();
        if text != often.binary_first.load(Relaxed) {
            &often.first
        } else {
            self.of_other(text)
        }
    }

    #[cold]
    fn of_other(self, text: bool) -> &'a Counting {
        let often = self.often();
        if often.first.read() == Count::default() {
            often.binary_first.store(!text, Relaxed);
            // Whoever sees what is counted then sees this too.
            fence(Release);
            return &often.first;
        }
        let more = self.meter.more.get_or_init(Box::default);
        &more[usize::from(self.sent)].other
    }

    #[inline]
    fn often(self) -> &'a Often {
        if self.sent {
            &self.meter.sent
        } else {
            &self.meter.received
        }
    }

    fn seldom(self) -> &'a Seldom {
        if self.sent {
            &self.meter.sent_seldom
        } else {
            &self.meter.received_seldom
        }
    }

    fn more(self) -> Option<&'a More> {
        let more = self.meter.more.get();
        more.map(|more| &more[usize::from(self.sent)])
    }

    fn read(self) -> Traffic {
        let (often, seldom, more) = (self.often(), self.seldom(), self.more());
        let load = |count: &AtomicUsize| count.load(Relaxed) as u64;
        let first = often.first.read();
        let other = more.map_or_else(Count::default, |more| more.other.read());
        fence(Acquire);
        let (text, binary) = match often.binary_first.load(Relaxed) {
            false => (first, other),
            true => (other, first),
        };
        Traffic {
            bytes: load(&often.bytes),
            text,
            binary,
            pings: seldom.pings.load(Relaxed).into(),
            pongs: seldom.pongs.load(Relaxed).into(),
            compressed: more.map_or(0, |more| load(&more.compression.compressed)),
            uncompressed: more.map_or(0, |more| load(&more.compression.uncompressed)),
        }
    }
}

impl Counting {
    fn read(&self) -> Count {
        Count {
            messages: self.messages.load(Relaxed) as u64,
            bytes: self.bytes.load(Relaxed) as u64,
        }
    }
}

/// Adds, where nobody else writes: one instruction, and no locked one.
#[inline]
fn add(to: &AtomicUsize, count: usize) {
    to.store(to.load(Relaxed).wrapping_add(count), Relaxed);
}

impl Traffic {
    /// Messages of both kinds together.
    pub fn messages(&self) -> Count {
        Count {
            messages: self.text.messages + self.binary.messages,
            bytes: self.text.bytes + self.binary.bytes,
        }
    }

    /// How many bytes one byte of a compressed message stands for, on average; `None` where none was
    /// compressed.
    pub fn compression_ratio(&self) -> Option<f64> {
        (self.compressed > 0).then(|| self.uncompressed as f64 / self.compressed as f64)
    }
}

/// Several connections together.
impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.sent += other.sent;
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.text += other.text;
        self.binary += other.binary;
        self.pings += other.pings;
        self.pongs += other.pongs;
        self.compressed += other.compressed;
        self.uncompressed += other.uncompressed;
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }
}
