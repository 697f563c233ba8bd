//! Messages that are there whole, in one frame and uncompressed: the common case, by a way of its own.

use core::ops::ControlFlow;

use bytes::Bytes;

use super::{Receiver, Stage, borrow, check, own, placement};
use crate::{
    Message, MessageKind, MessageRef, ProtocolError, Text,
    mask::{Mask, is_short_ascii},
};

impl Receiver {
    /// Takes a message of at most 65,535 bytes off the front of `input` that is there whole, in one frame and
    /// uncompressed, as most are: the quick half of [`receive`](Self::receive), without a codec. `None` says
    /// that what comes next, if anything, is something else, and is left there.
    ///
    /// # Errors
    /// Text that is not UTF-8.
    #[inline]
    pub fn receive_whole<'i>(
        &mut self,
        input: &mut &'i mut [u8],
    ) -> Option<Result<MessageRef<'i>, ProtocolError>> {
        let whole = self.whole()?.take(input)?;
        Some(match whole.lend() {
            Ok(message) => {
                let flow = self.meter.received();
                flow.message(message.is_text(), message.len());
                Ok(message)
            }
            Err(error) => Err(self.fail(input, error)),
        })
    }

    /// As [`receive_whole`](Self::receive_whole), for all such messages at the front of `input`,
    /// until `each` breaks it off: one loop with what it needs in registers, a third of the cost of
    /// as many calls.
    ///
    /// # Errors
    /// Text that is not UTF-8.
    #[inline]
    pub fn receive_each_whole<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        mut each: impl FnMut(MessageRef<'i>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ProtocolError> {
        let Some(wholes) = self.whole() else {
            return Ok(ControlFlow::Continue(()));
        };
        while let Some(whole) = wholes.take(input) {
            match whole.lend() {
                Ok(message) => {
                    let flow = self.meter.received();
                    flow.message(message.is_text(), message.len());
                    if each(message).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Err(error) => return Err(self.fail(input, error)),
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// As [`receive_whole`](Self::receive_whole), with the message owned.
    ///
    /// # Errors
    /// Text that is not UTF-8.
    #[inline(always)]
    pub fn receive_whole_owned(
        &mut self,
        input: &mut &mut [u8],
    ) -> Option<Result<Message, ProtocolError>> {
        let whole = self.whole()?.take(input)?;
        if whole.frame.len() >= placement::LARGE {
            let large = self.own_large(whole.text, whole.key(), &whole.frame[whole.start..]);
            return Some(large.map_err(|error| self.fail(input, error)));
        }
        // Known before: to ask the message is to read what was just written.
        let (text, len) = (whole.text, whole.frame.len() - whole.start);
        Some(match whole.into_owned() {
            Ok(message) => {
                self.meter.received().message(text, len);
                Ok(message)
            }
            Err(error) => Err(self.fail(input, error)),
        })
    }

    /// Begins a message as [`receive_whole`](Self::receive_whole) takes it: takes its header off the front of `input`, and
    /// unmasks what is behind. `None` where something else comes next.
    #[inline]
    pub(super) fn begin_whole(&mut self, input: &mut &mut [u8]) -> Option<MessageKind> {
        let mut ahead = &mut **input;
        let mut whole = self.whole()?.take(&mut ahead)?;
        let ascii = whole.unmask();
        let (text, start, len) = (whole.text, whole.start, whole.frame.len() - whole.start);
        *input = &mut core::mem::take(input)[start..];
        self.left = len as u16;
        let (stage, kind) = match (text, ascii) {
            (false, _) => (Stage::Binary, MessageKind::Binary),
            (true, false) => (Stage::Text, MessageKind::Text),
            (true, true) => (Stage::Ascii, MessageKind::Text),
        };
        self.stage = stage;
        Some(kind)
    }

    /// The message that has this payload, which travels masked with the key: as [`Whole::into_owned`], where it
    /// matters in which memory.
    #[cold]
    fn own_large(
        &self,
        text: bool,
        key: Option<[u8; 4]>,
        payload: &[u8],
    ) -> Result<Message, ProtocolError> {
        let (mut memory, before) = placement::memory(payload.len());
        let ascii = match key {
            Some(key) => Mask::append_once(key, payload, &mut memory),
            None => {
                memory.extend_from_slice(payload);
                false
            }
        };
        own(text, ascii, placement::payload(memory, before))
            .inspect(|message| self.meter.received().message(text, message.len()))
    }

    /// What takes whole messages off the front of the input; `None` where the input does not begin
    /// with a header.
    #[inline]
    fn whole(&self) -> Option<Wholes> {
        self.is_fresh().then_some(Wholes {
            mask: u8::from(self.peer_masks) << 7,
            most: self.most_whole.into(),
        })
    }
}

/// Takes messages that are there whole, in one frame, uncompressed: the common case, at a quarter of
/// the cost of [`advance`](Receiver::advance), which takes the rest. It judges nothing: what it does
/// not take, it leaves as it was.
#[derive(Clone, Copy)]
struct Wholes {
    /// The bit of the second byte that says whether the frame is masked, as it has to be.
    mask: u8,
    most: usize,
}

/// A frame that is a message, masked as it came.
struct Whole<'i> {
    text: bool,
    masked: bool,
    frame: &'i mut [u8],
    /// Where the payload begins.
    start: usize,
}

// Inlined all the way into `recv`: as calls of their own, these and what they call cost 70 instructions
// more, a tenth of receiving and sending 16 bytes.
impl Wholes {
    #[inline(always)]
    fn take<'i>(self, input: &mut &'i mut [u8]) -> Option<Whole<'i>> {
        let &[first, second, ..] = &**input else {
            return None;
        };
        let text = match first {
            0x81 => true,
            0x82 => false,
            _ => return None,
        };
        // Above 127 where the frame is masked and must not be, or the other way round.
        let (len, at) = match second ^ self.mask {
            126 => match input.get(2..4) {
                Some(&[a, b]) => (usize::from(u16::from_be_bytes([a, b])), 4),
                _ => return None,
            },
            127.. => return None,
            len => (usize::from(len), 2),
        };
        let start = at + if self.masked() { 4 } else { 0 };
        let minimal = at == 2 || len > 125;
        if !minimal || len > self.most || input.len() < start + len {
            return None;
        }
        let (frame, rest) = core::mem::take(input).split_at_mut(start + len);
        *input = rest;
        Some(Whole {
            text,
            masked: self.masked(),
            frame,
            start,
        })
    }

    #[inline(always)]
    fn masked(self) -> bool {
        self.mask != 0
    }
}

impl<'i> Whole<'i> {
    #[inline(always)]
    fn key(&self) -> Option<[u8; 4]> {
        let key = self.frame[..self.start].last_chunk::<4>();
        key.copied().filter(|_| self.masked)
    }

    /// Unmasks the payload. Tells whether it is known to be ASCII.
    #[inline(always)]
    fn unmask(&mut self) -> bool {
        /// From here on the validator is as fast.
        const SHORT: usize = 64;
        let key = self.key();
        let payload = &mut self.frame[self.start..];
        match key {
            Some(key) => Mask::apply_once(key, payload),
            None => self.text && payload.len() < SHORT && is_short_ascii(payload),
        }
    }

    #[inline(always)]
    fn lend(mut self) -> Result<MessageRef<'i>, ProtocolError> {
        let ascii = self.unmask();
        borrow(self.text, ascii, &self.frame[self.start..])
    }

    // The message is made where it goes, and not before: moved within it at once, its fields would be read
    // in vectors just after they were written one by one, for which the processor waits.
    #[inline(always)]
    fn into_owned(mut self) -> Result<Message, ProtocolError> {
        let key = self.key();
        if self.text {
            let payload = &self.frame[self.start..];
            if let Some((text, ascii)) = Text::unmask_short(key.unwrap_or_default(), payload) {
                check(ascii, text.as_bytes())?;
                return Ok(Message::Text(text));
            }
        }
        if let Some(key) = key {
            let (payload, ascii) = Mask::copy_once(key, &self.frame[self.start..]);
            return if self.text {
                check(ascii, &payload)?;
                Ok(Message::Text(Text::checked(payload.into())))
            } else {
                Ok(Message::Binary(payload.into()))
            };
        }
        let ascii = self.unmask();
        let payload = &self.frame[self.start..];
        if self.text {
            check(ascii, payload)?;
            Ok(Message::Text(Text::checked(Bytes::copy_from_slice(
                payload,
            ))))
        } else {
            Ok(Message::Binary(Bytes::copy_from_slice(payload)))
        }
    }
}
