//! Bytes on their way out: small ones gathered in one buffer, large payloads left where they are.

use alloc::{boxed::Box, collections::VecDeque, vec, vec::Vec};
use core::{iter, mem};

use bytes::Bytes;

/// What is to be written, in order.
///
/// An output that is empty owns no memory of its own once [`take_buffer`](Self::take_buffer) has
/// been called, and the buffer it is lent with [`lend_buffer`](Self::lend_buffer) can serve every
/// connection of a thread in turn. Where nobody takes it, it stays as large as it ever was, for as
/// long as the connection lives.
#[derive(Debug, Default)]
pub struct Output {
    /// There while anything waits. How much does, and where, is with the buffer, so that a connection
    /// in which nothing waits has a pointer for all that.
    buffer: Option<Box<OutputBuffer>>,
}

/// A buffer for an [`Output`] to gather small bytes in.
#[derive(Debug, Default)]
pub struct OutputBuffer {
    /// Room for small bytes; what waits in it is `bytes[written..end]`. All of it is initialized,
    /// so that appending is a copy and nothing more.
    bytes: Vec<u8>,
    end: usize,
    written: usize,
    /// There while something waits that is not in the buffer: most connections never have that.
    aside: Option<Box<Aside>>,
    len: usize,
}

/// What is not in the buffer: payloads that are not copied, and an answer to a ping that may be replaced.
#[derive(Debug, Default)]
struct Aside {
    queue: VecDeque<Large>,
    /// How many have been written whole, and are in the queue no longer.
    gone: usize,
    /// Which of them all answers a ping, where one does that has not been written whole.
    pong: Option<usize>,
}

/// While this much waits to be written, a further ping replaces the one whose answer waits: a peer
/// that sends pings and reads nothing costs one answer, not one a ping.
pub(crate) const PONG_BACKLOG: usize = 16 * 1024;

/// Bytes that are not copied into the buffer.
#[derive(Debug)]
struct Large {
    /// How many bytes of the buffer come before them.
    after: usize,
    bytes: Bytes,
    /// How many of them have been written.
    written: usize,
}

impl Output {
    /// How many bytes wait to be written.
    #[inline]
    pub fn len(&self) -> usize {
        match &self.buffer {
            Some(buffer) => buffer.len,
            None => 0,
        }
    }

    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What waits, in order, in as few pieces as there are.
    ///
    /// Nothing else may be called on the connection between looking at it and [`advance`](Self::advance): an answer to a
    /// ping that waits may give way to a newer one, of another length. A writer that lets go of the connection in
    /// between copies what waits and calls `advance` at once; then the copy is its own to write, as
    /// [the guide](crate::guide#a-writer-of-its-own) shows.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.buffer.iter().flat_map(|buffer| buffer.chunks())
    }

    /// What is to be written next, in one piece; `None` where nothing waits. For whoever writes piece by
    /// piece, though not with `write_all`: where that fails, nobody knows how much of the piece has gone.
    /// As with [`chunks`](Self::chunks), nothing else may be called before `advance`.
    ///
    /// ```
    /// # use std::io::{self, Write};
    /// fn write(output: &mut sockeye_proto::Output, to: &mut impl Write) -> io::Result<()> {
    ///     while let Some(chunk) = output.next_chunk() {
    ///         match to.write(chunk)? {
    ///             0 => return Err(io::ErrorKind::WriteZero.into()),
    ///             written => output.advance(written),
    ///         }
    ///     }
    ///     Ok(())
    /// }
    /// # use sockeye_proto::{Codecs, Config, Connection, Role};
    /// # let mut server = Connection::new(&Config::new(Role::Server));
    /// # server.send("Hello", &mut Codecs::new()).unwrap();
    /// # let (mut room, mut rest) = ([0; 3], Vec::new());
    /// # assert!(write(server.output(), &mut &mut room[..]).is_err());
    /// # write(server.output(), &mut rest).unwrap();
    /// # assert_eq!([&room[..], &rest].concat(), b"\x81\x05Hello");
    /// ```
    pub fn next_chunk(&self) -> Option<&[u8]> {
        self.chunks().next()
    }

    /// What waits, where it is in one piece.
    #[inline]
    pub fn only_chunk(&self) -> Option<&[u8]> {
        match &self.buffer {
            Some(buffer) if buffer.has_aside() => None,
            Some(buffer) => Some(&buffer.bytes[buffer.written..buffer.end]),
            None => Some(&[]),
        }
    }

    /// Says that the first `count` bytes of what waits now have been written, or are someone else's to write: see
    /// [`chunks`](Self::chunks). More than wait count as all of them.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        self.advance_taking(count);
    }

    /// As [`advance`](Self::advance), for whoever can use memory again: gives the last large payload that has been
    /// written whole with it.
    #[inline]
    pub fn advance_taking(&mut self, count: usize) -> Option<Bytes> {
        self.buffer.as_mut()?.advance(count)
    }

    /// Whether there is a buffer to gather in.
    #[inline]
    pub fn has_buffer(&self) -> bool {
        self.buffer.is_some()
    }

    /// Bytes of the buffer's memory in which nothing waits.
    pub fn spare(&self) -> usize {
        let spare = |buffer: &OutputBuffer| buffer.room() - (buffer.end - buffer.written);
        self.buffer.as_deref().map_or(0, spare)
    }

    /// Lends a buffer to gather in, for an output that has none. What it holds is overwritten.
    #[inline]
    pub fn lend_buffer(&mut self, buffer: Box<OutputBuffer>) {
        if self.buffer.is_none() {
            self.buffer = Some(buffer);
        }
    }

    /// Takes the buffer back, where nothing waits in it.
    #[inline]
    pub fn take_buffer(&mut self) -> Option<Box<OutputBuffer>> {
        self.buffer.take_if(|buffer| buffer.len == 0)
    }

    /// Moves what waits into memory of just its size, so that a lent buffer can be taken back from
    /// a peer that does not read.
    pub fn trade_buffer(&mut self) -> Option<Box<OutputBuffer>> {
        let buffer = self.buffer.as_mut()?;
        let bytes = buffer.bytes[buffer.written..buffer.end].to_vec();
        buffer.move_down();
        let rest = OutputBuffer {
            end: bytes.len(),
            written: 0,
            bytes,
            aside: buffer.aside.take(),
            len: buffer.len,
        };
        let mut lent = mem::replace(buffer, Box::new(rest));
        lent.clear();
        Some(lent)
    }

    /// Lets go of all that waits: none of it will be written.
    pub fn clear(&mut self) {
        if let Some(buffer) = &mut self.buffer {
            buffer.aside = None;
            buffer.clear();
        }
    }

    /// Whether an answer to a ping waits that [`replace_pong`](Self::replace_pong) would replace.
    pub(crate) fn has_pong(&mut self) -> bool {
        let aside = self.buffer.as_mut().and_then(|it| it.aside.as_mut());
        aside.is_some_and(|aside| aside.unwritten_pong().is_some())
    }

    /// Appends an answer to a ping, framed; or puts it in the place of an older one, where one waits that was appended in
    /// this way and of which nothing has been written. Says whether it did.
    #[cold]
    pub(crate) fn replace_pong(&mut self, frame: Bytes) -> bool {
        let buffer = self.buffer.get_or_insert_default();
        let aside = buffer.aside.get_or_insert_default();
        if let Some(older) = aside.unwritten_pong() {
            buffer.len = buffer.len - older.bytes.len() + frame.len();
            older.bytes = frame;
            return true;
        }
        aside.pong = Some(aside.gone + aside.queue.len());
        self.append_large(frame);
        false
    }

    /// Appends `count` bytes, to be overwritten.
    #[inline]
    pub(crate) fn append(&mut self, count: usize) -> &mut [u8] {
        self.buffer.get_or_insert_default().append(count)
    }

    /// Appends a header and its payload, where the buffer has room for them. Says whether it had.
    #[inline]
    pub(crate) fn append_short<const N: usize>(&mut self, header: [u8; N], payload: &[u8]) -> bool {
        match &mut self.buffer {
            Some(buffer) => buffer.append_short(header, payload),
            None => false,
        }
    }

    /// Appends bytes by extending the buffer.
    pub(crate) fn append_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let buffer = self.buffer.get_or_insert_default();
        buffer.compact();
        let before = buffer.end;
        buffer.bytes.truncate(before);
        write(&mut buffer.bytes);
        buffer.end = buffer.bytes.len();
        buffer.len += buffer.end - before;
    }

    /// Appends a payload without copying it.
    pub(crate) fn append_large(&mut self, bytes: Bytes) {
        let buffer = self.buffer.get_or_insert_default();
        buffer.len += bytes.len();
        buffer.aside.get_or_insert_default().queue.push_back(Large {
            after: buffer.end,
            bytes,
            written: 0,
        });
    }
}

impl Aside {
    /// The answer to a ping that may be replaced.
    fn unwritten_pong(&mut self) -> Option<&mut Large> {
        let pong = self.queue.get_mut(self.pong? - self.gone)?;
        (pong.written == 0).then_some(pong)
    }
}

impl OutputBuffer {
    /// A buffer with room for so many bytes. It grows as needed.
    pub fn with_room(bytes: usize) -> Box<Self> {
        Box::new(Self {
            bytes: vec![0; bytes],
            ..Self::default()
        })
    }

    /// How many bytes it has room for.
    #[inline]
    pub fn room(&self) -> usize {
        self.bytes.capacity()
    }

    fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = self.written;
        let queue = self.aside.as_ref().map(|aside| &aside.queue);
        let pairs = queue.into_iter().flatten().flat_map(move |large| {
            let before = &self.bytes[at..large.after];
            at = large.after;
            [before, &large.bytes[large.written..]]
        });
        let last = queue.and_then(VecDeque::back);
        let last = last.map_or(self.written, |large| large.after);
        pairs
            .chain(iter::once(&self.bytes[last..self.end]))
            .filter(|chunk| !chunk.is_empty())
    }

    #[inline]
    fn has_aside(&self) -> bool {
        self.aside.is_some()
    }

    fn clear(&mut self) {
        (self.end, self.written, self.len) = (0, 0, 0);
    }

    #[inline]
    fn advance(&mut self, count: usize) -> Option<Bytes> {
        if count >= self.len && !self.has_aside() {
            self.clear();
            None
        } else {
            self.advance_part(count)
        }
    }

    fn advance_part(&mut self, count: usize) -> Option<Bytes> {
        let count = count.min(self.len);
        self.len -= count;
        let spent = self.pass(count);
        if self.len == 0 {
            (self.end, self.written) = (0, 0);
        }
        spent
    }

    /// Passes over bytes that have been written; gives the last large payload of which nothing is left.
    fn pass(&mut self, mut count: usize) -> Option<Bytes> {
        let mut spent = None;
        if let Some(aside) = self.aside.as_deref_mut() {
            while let Some(large) = aside.queue.front_mut() {
                let before = large.after - self.written;
                if count < before {
                    break;
                }
                self.written = large.after;
                count -= before;
                if count < large.bytes.len() - large.written {
                    large.written += count;
                    return spent;
                }
                count -= large.bytes.len() - large.written;
                let written = aside.queue.pop_front().map(|large| large.bytes);
                if aside.pong.take_if(|at| *at == aside.gone).is_none() {
                    spent = written;
                }
                aside.gone += 1;
            }
            self.aside.take_if(|aside| aside.queue.is_empty());
        }
        self.written += count;
        spent
    }

    /// Counts the places of the large payloads from what has not been written.
    fn move_down(&mut self) {
        for large in self.aside.iter_mut().flat_map(|aside| &mut aside.queue) {
            large.after -= self.written;
        }
    }

    #[inline]
    fn append(&mut self, count: usize) -> &mut [u8] {
        if self.bytes.len() - self.end < count {
            self.make_room(count);
        }
        let start = self.end;
        self.end += count;
        self.len += count;
        &mut self.bytes[start..start + count]
    }

    #[inline]
    fn append_short<const N: usize>(&mut self, header: [u8; N], payload: &[u8]) -> bool {
        let Some((head, body)) = self.bytes[self.end..].split_first_chunk_mut::<N>() else {
            return false;
        };
        let Some(body) = body.get_mut(..payload.len()) else {
            return false;
        };
        *head = header;
        copy(payload, body);
        self.end += N + payload.len();
        self.len += N + payload.len();
        true
    }

    #[cold]
    fn make_room(&mut self, count: usize) {
        /// Initialized at once, beyond what is asked for.
        const STEP: usize = 4096;
        self.compact();
        let wanted = self.end + count;
        self.bytes.reserve(wanted.saturating_sub(self.bytes.len()));
        let room = self.bytes.capacity().min(wanted + STEP);
        self.bytes.resize(room.max(self.bytes.len()), 0);
    }

    /// Keeps written bytes from piling up under a peer that never lets the output run empty.
    #[inline]
    fn compact(&mut self) {
        const WORTHWHILE: usize = 64 * 1024;
        if self.written >= WORTHWHILE && self.written * 2 >= self.end {
            self.bytes.copy_within(self.written..self.end, 0);
            self.move_down();
            (self.end, self.written) = (self.end - self.written, 0);
        }
    }
}

/// Copies, as `copy_from_slice` does, without a call for the shortest: two words that overlap, where
/// the length is no constant, cost 8 instructions, and the call 25.
#[inline]
pub(crate) fn copy(from: &[u8], to: &mut [u8]) {
    match from.len() {
        8..=16 => overlapping::<8>(from, to),
        17..=32 => overlapping::<16>(from, to),
        4..=7 => overlapping::<4>(from, to),
        len if len >= LONG => copy_long(from, to),
        _ => to.copy_from_slice(from),
    }
}

/// From somewhat more on, glibc copies with `rep movsb`.
const LONG: usize = 2048;

/// Copies, in pieces where `rep movsb` would be slow: on AMD's Zen 4, 16 KiB in 4.6 us instead of 0.2 where the target
/// stands 1 to 15 bytes further into its page than the source (glibc's bug 30994, of which later releases steer clear). A
/// header before it puts a payload's copy there, where both memories are at the beginning of a page, as large ones mostly are.
#[inline(never)]
fn copy_long(from: &[u8], to: &mut [u8]) {
    const PAGE: usize = 4096;
    let ahead = to.as_ptr().addr().wrapping_sub(from.as_ptr().addr()) % PAGE;
    if !(1..16).contains(&ahead) {
        return to.copy_from_slice(from);
    }
    for (from, to) in from.chunks(LONG).zip(to.chunks_mut(LONG)) {
        to.copy_from_slice(from);
    }
}

/// Copies between `N` and `2 * N` bytes as the first `N` and the last `N`.
#[inline]
fn overlapping<const N: usize>(from: &[u8], to: &mut [u8]) {
    if let (Some(from), Some(to)) = (from.first_chunk::<N>(), to.first_chunk_mut::<N>()) {
        *to = *from;
    }
    if let (Some(from), Some(to)) = (from.last_chunk::<N>(), to.last_chunk_mut::<N>()) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_copy_is_the_same_wherever_both_lie() {
        const PAGE: usize = 4096;
        let from: Vec<u8> = (0..10_000).map(|i| i as u8 ^ (i >> 8) as u8).collect();
        let mut to = vec![0; from.len() + PAGE];
        for len in (0..70).chain([LONG - 1, LONG, LONG + 1, 2 * LONG, 10_000]) {
            for ahead in 0..20 {
                let wanted = from.as_ptr().addr() + ahead;
                let at = wanted.wrapping_sub(to.as_ptr().addr()) % PAGE;
                to.fill(0);
                copy(&from[..len], &mut to[at..at + len]);
                assert_eq!(to[at..at + len], from[..len], "{len}, {ahead}");
                assert!(to[at + len..].iter().all(|byte| *byte == 0));
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Small(Vec<u8>),
        Large(Vec<u8>),
        Write(usize),
        Trade,
    }

    fn step() -> impl Strategy<Value = Step> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..30);
        prop_oneof![
            bytes().prop_map(Step::Small),
            bytes().prop_map(Step::Large),
            (0usize..50).prop_map(Step::Write),
            Just(Step::Trade),
        ]
    }

    /// It was held until the next large one, or for as long as the connection was open.
    #[test]
    fn a_large_payload_goes_with_its_last_byte() {
        let payload = Bytes::from(vec![7; 100]);
        let mut output = Output::default();
        output.append(2).copy_from_slice(b"ab");
        output.append_large(payload.clone());
        output.advance(50);
        assert!(!payload.is_unique());
        output.advance(52);
        assert!(output.is_empty() && payload.is_unique());
        output.append_large(payload.clone());
        assert_eq!(output.advance_taking(100), Some(payload));
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order(steps in prop::collection::vec(step(), 0..40)) {
            let (mut output, mut model, mut written) = (Output::default(), Vec::new(), 0);
            for step in steps {
                match step {
                    Step::Small(bytes) => {
                        output.append(bytes.len()).copy_from_slice(&bytes);
                        model.extend(bytes);
                    }
                    Step::Large(bytes) => {
                        model.extend_from_slice(&bytes);
                        output.append_large(bytes.into());
                    }
                    Step::Write(count) => {
                        output.advance(count);
                        written = model.len().min(written + count);
                    }
                    Step::Trade => drop(output.trade_buffer()),
                }
                prop_assert_eq!(output.len(), model.len() - written);
                let chunks: Vec<_> = output.chunks().collect();
                prop_assert_eq!(chunks.concat(), &model[written..]);
                prop_assert_eq!(output.next_chunk(), chunks.first().copied());
                prop_assert!(output.next_chunk() != Some(&[]));
            }
        }
    }

    #[test]
    fn short_payloads_of_any_length_are_copied_whole() {
        let mut output = Output::default();
        output.lend_buffer(OutputBuffer::with_room(2 * 100));
        let payload: Vec<u8> = (0..100).collect();
        for len in 0..=98 {
            assert!(output.append_short([1, 2], &payload[..len]), "{len}");
            assert_eq!(
                output.chunks().collect::<Vec<_>>().concat(),
                [&[1, 2], &payload[..len]].concat()
            );
            output.advance(usize::MAX);
        }
    }

    #[test]
    fn what_does_not_fit_is_not_begun() {
        let mut output = Output::default();
        assert!(!output.append_short([1, 2], &[]));
        output.lend_buffer(OutputBuffer::with_room(4));
        assert!(!output.append_short([1, 2], &[3, 4, 5]));
        assert!(output.is_empty());
        assert!(output.append_short([1, 2], &[3, 4]));
        assert_eq!(output.len(), 4);
    }

    #[test]
    fn written_bytes_do_not_pile_up() {
        let mut output = Output::default();
        for _ in 0..1000 {
            output.append(1000).fill(0);
            output.advance(999);
        }
        assert!(output.spare() < 300_000, "{}", output.spare());
    }

    #[test]
    fn a_pong_is_replaced_where_it_waits_until_it_is_being_written() {
        let mut output = Output::default();
        let replace = |output: &mut Output, pong| output.replace_pong(Bytes::from_static(pong));
        output.append(2).fill(b'-');
        output.append_large(vec![b'+'; 3].into());
        assert!(!replace(&mut output, b"one"));
        output.append(2).fill(b'-');
        output.append_large(vec![b'+'; 3].into());
        assert!(replace(&mut output, b"second"));
        drop(output.trade_buffer());
        assert_eq!(output.advance_taking(4), None);
        assert!(replace(&mut output, b"third"));
        let all = |output: &Output| output.chunks().collect::<Vec<_>>().concat();
        assert_eq!(all(&output), b"+third--+++");
        assert_eq!(output.len(), 11);
        // The payload before it is whole: that is what can be used again, and not the pong.
        assert_eq!(output.advance_taking(2).as_deref(), Some(&b"+++"[..]));
        assert!(!replace(&mut output, b"4th"));
        assert!(replace(&mut output, b"fifth"));
        assert_eq!(all(&output), b"hird--+++fifth");
        assert_eq!(output.advance_taking(14).as_deref(), Some(&b"+++"[..]));
        assert!(output.take_buffer().is_some());
        assert!(!replace(&mut output, b"last"));
        output.clear();
        assert!(output.is_empty() && output.next_chunk().is_none());
        assert!(output.take_buffer().is_some());
    }

    #[test]
    fn an_empty_output_gives_its_buffer_back() {
        let mut output = Output::default();
        output.lend_buffer(OutputBuffer::with_room(100));
        output.append(1).fill(1);
        assert!(output.take_buffer().is_none());
        output.advance(1);
        assert_eq!(output.take_buffer().map(|buffer| buffer.room()), Some(100));
        assert!(!output.has_buffer());
    }

    #[test]
    fn a_buffer_that_was_traded_is_empty_for_whoever_has_it_next() {
        let mut output = Output::default();
        output.lend_buffer(OutputBuffer::with_room(100));
        output.append(3).copy_from_slice(b"one");
        output.advance(1);
        let lent = output.trade_buffer().unwrap();
        let mut other = Output::default();
        other.lend_buffer(lent);
        assert!(other.is_empty() && other.next_chunk().is_none());
        assert_eq!((other.only_chunk(), other.spare()), (Some(&[][..]), 100));
        other.append(3).copy_from_slice(b"two");
        assert_eq!(other.only_chunk(), Some(&b"two"[..]));
        assert_eq!(output.only_chunk(), Some(&b"ne"[..]));
    }

    #[test]
    fn what_waits_is_in_one_piece_only_without_a_large_payload() {
        let mut output = Output::default();
        output.append(2).copy_from_slice(b"ab");
        assert_eq!(output.only_chunk(), Some(&b"ab"[..]));
        output.append_large(Bytes::from_static(b"large"));
        assert_eq!(output.only_chunk(), None);
        output.advance(7);
        assert_eq!(output.only_chunk(), Some(&[][..]));
    }

    #[test]
    fn what_waits_behind_written_bytes_is_whole_once_it_was_moved_down() {
        for with in [false, true] {
            let mut output = Output::default();
            for at in 0..100 {
                output.append(1000).fill(at);
            }
            output.append_large(Bytes::from_static(b"large"));
            output.append(3).copy_from_slice(b"end");
            output.advance(99_500);
            let room = output.spare();
            if with {
                output.append_with(|out| out.extend_from_slice(b"with"));
            } else {
                output.append(room).fill(b'x');
            }
            let all: Vec<u8> = output.chunks().flatten().copied().collect();
            assert_eq!(all.len(), output.len());
            let (front, rest) = all.split_at(500);
            assert!(front.iter().all(|byte| *byte == 99));
            let expected = if with {
                b"largeendwith"
            } else {
                b"largeendxxxx"
            };
            assert!(rest.starts_with(expected));
        }
    }

    #[test]
    fn spare_is_what_no_waiting_byte_takes() {
        let mut output = Output::default();
        assert_eq!(output.spare(), 0);
        output.lend_buffer(OutputBuffer::with_room(100));
        output.append(30).fill(1);
        output.advance(10);
        assert_eq!(output.spare(), 80);
    }
}
