//! A message received in parts, none of it kept (RFC 6455 §5.4).

use alloc::boxed::Box;

use bytes::{Buf, Bytes};

use super::{
    Frame, OwnedEvent, Partial, Receiver, Stage, Unfinished, check, gathered::Gathered,
    inflate::Inflating,
};
use crate::{
    FrameHeader, MessageKind, OpCode, ProtocolError,
    deflate::{Inflater, Progress, WindowBits},
    utf8::Utf8,
};

/// What comes next where messages are received in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A message begins.
    Begin(MessageKind),
    /// The next bytes of the message: this many, at the front of the room that was given.
    Data(usize),
    /// The message has ended: one that was [skipped](Receiver::skip_message) has none.
    End,
    /// A ping, a pong or a Close, which may come between two parts (§5.4).
    Event(OwnedEvent),
}

/// How the message in progress is received in parts.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// How much of what waits in the receiver's `payload` has been used. That is a compressed
    /// message's next few bytes, or what had been gathered before the message was asked for in
    /// parts.
    used: usize,
    /// What had been made of a compressed message before it was asked for in parts.
    made: Bytes,
    /// The codec of a compressed message whose context is not kept.
    inflater: Option<Box<Inflater>>,
    progress: Progress,
    /// Whether the last frame has been taken whole.
    complete: bool,
    /// Whether nobody wants the rest of it.
    skipped: bool,
    /// Whether it is text, also once nobody wants the rest.
    text: bool,
}

/// What came of looking for the next part.
enum Step {
    Begin(MessageKind),
    Data(usize),
    End,
    /// The header of a control frame was taken.
    Control,
    /// The input is empty, and nothing more can be made of what is kept.
    Starved,
}

/// How many bytes of a message that nobody wants are discarded in a turn. A compressed one can be a thousand
/// times what came, and where the context is kept it is inflated all the same.
const SKIPPED: usize = 1 << 20;

/// How many bytes of a compressed message may come to nothing at once: as many as are taken in a turn of a whole one, which
/// is up to two and a half milliseconds of work.
const WASTED: usize = 16 * 1024;

/// How many bytes of a compressed message are unmasked and kept for the inflater at a time.
const STAGE: usize = 8 * 1024;

impl Receiver {
    /// Takes the next part of a message off the front of `input`, and puts it, unmasked and
    /// inflated, into `room`.
    ///
    /// Call it until it gives `None`: then the input is empty, and what comes next needs more bytes. What a call leaves in
    /// `input` is what the next one begins with, as it was left: more may be unmasked than was taken.
    /// It gives [`Part::Data`] only between [`Part::Begin`] and [`Part::End`]; only then is `room`
    /// needed, and it must not be empty. `Part::Data(0)` says that there is more to do, so that whoever has other
    /// things to do can do them first: of a message that is [skipped](Self::skip_message) a mebibyte has been
    /// discarded, or 16 KiB of a compressed one have come to nothing. Part of a message that [`receive`](Self::receive) has
    /// gathered before comes first.
    ///
    /// Nothing is held of a message received so, but 8 KiB and an inflater where it is compressed,
    /// so only one of the limits applies to it, in another way: no more frames than
    /// [`fragments`](crate::Limits::fragments) in a row may bring nothing, and one more that has bytes of which
    /// it is only then seen that they bring nothing. Text is checked as it
    /// comes. Any other way of receiving takes no notice of the rest of a message that was begun
    /// here; call [`skip_message`](Self::skip_message) before: without it the message goes on where a control frame
    /// is all that comes in that way. A message that is skipped has no [`Part::End`].
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn receive_part(
        &mut self,
        input: &mut &mut [u8],
        room: &mut [u8],
    ) -> Result<Option<Part>, ProtocolError> {
        match self.stage {
            Stage::Fresh if input.is_empty() => return Ok(None),
            Stage::Fresh => {
                if let Some(kind) = self.begin_whole(input) {
                    return Ok(Some(Part::Begin(kind)));
                }
            }
            Stage::Binary | Stage::Text | Stage::Ascii => {
                if let Some(part) = self.take_begun(input, room) {
                    return Ok(Some(part));
                }
            }
            Stage::Unfinished => {}
            Stage::Ended => {
                *input = &mut [];
                self.end();
                return Ok(None);
            }
        }
        self.receive_any_part(input, room)
    }

    /// As [`receive_part`](Self::receive_part), whatever comes.
    fn receive_any_part(
        &mut self,
        input: &mut &mut [u8],
        room: &mut [u8],
    ) -> Result<Option<Part>, ProtocolError> {
        let mut unfinished = self.take_unfinished();
        let step = self.step(&mut unfinished, input, room);
        self.keep(unfinished);
        match step.map_err(|error| self.fail(input, error))? {
            Step::Begin(kind) => Ok(Some(Part::Begin(kind))),
            Step::Data(count) => Ok(Some(Part::Data(count))),
            Step::End => Ok(Some(Part::End)),
            Step::Control => {
                // No codec is needed for it.
                let event = self.receive_owned_any(input, &mut Inflater::new())?;
                Ok(event.map(Part::Event))
            }
            Step::Starved => Ok(None),
        }
    }

    /// Takes all of a message that was there whole when it began, and then its end, with nothing allocated. `None` where there
    /// is no room for it, or it is not there in one any more, or is no text: then it is received as if it had come in pieces,
    /// by [`receive_any_part`](Self::receive_any_part).
    #[inline]
    fn take_begun(&mut self, input: &mut &mut [u8], room: &mut [u8]) -> Option<Part> {
        let (text, len) = (self.stage != Stage::Binary, usize::from(self.left));
        if len == 0 {
            self.stage = Stage::Fresh;
            self.meter.received().end(text);
            return Some(Part::End);
        }
        let (payload, room) = (input.get(..len)?, room.get_mut(..len)?);
        if self.stage == Stage::Text {
            check(false, payload).ok()?;
        }
        room.copy_from_slice(payload);
        *input = &mut core::mem::take(input)[len..];
        self.left = 0;
        self.meter.received().part(text, len);
        Some(Part::Data(len))
    }

    /// What is unfinished; of a message that was there whole when it began, what is left, as if it had come in pieces.
    pub(super) fn unfold(&mut self) -> &mut Option<Box<Unfinished>> {
        if self.stage.is_begun() {
            self.unfinished = Some(self.unfold_begun());
        }
        &mut self.unfinished
    }

    #[cold]
    fn unfold_begun(&mut self) -> Box<Unfinished> {
        let (text, left) = (self.stage != Stage::Binary, self.left);
        self.stage = Stage::Unfinished;
        // Unmasked when it began.
        let frame = FrameHeader {
            fin: true,
            rsv1: false,
            opcode: if text { OpCode::Text } else { OpCode::Binary },
            mask: None,
            payload_len: left.into(),
        };
        Box::new(Unfinished {
            frame: (left > 0).then(|| Frame::new(frame)),
            message: Some(Partial {
                text,
                compressed: false,
                fragments: 1,
                utf8: Utf8::default(),
            }),
            parts: Some(Box::new(Parts {
                complete: left == 0,
                text,
                ..Parts::default()
            })),
            ..Unfinished::default()
        })
    }

    /// Says that nobody wants the rest of a message that is being received in parts: it is
    /// discarded as it comes, and is inflated only where the next message may refer back to it. No
    /// [`Part::End`] tells of its end: what is behind it comes next.
    pub fn skip_message(&mut self) {
        if let Some(unfinished) = self.unfold() {
            unfinished.skip_message();
        }
    }

    /// Discards what `input` has of a message that is [skipped](Self::skip_message), or that was received in
    /// parts until now and is not to be any more; but only a mebibyte of it, or 16 KiB of what it is compressed. Tells whether that was all. Any
    /// way of receiving does so too, those of whole messages in one go: for whoever calls this before them
    /// and has other things to do meanwhile.
    ///
    /// # Errors
    /// As [`receive_part`](Self::receive_part).
    pub fn discard_part(&mut self, input: &mut &mut [u8]) -> Result<bool, ProtocolError> {
        if self.is_ended() {
            *input = &mut [];
            self.end();
            return Ok(true);
        }
        let Some(mut unfinished) = self.unfold().take_if(|it| it.parts.is_some()) else {
            return Ok(true);
        };
        unfinished.release();
        let all = self.skip(&mut unfinished, input, true);
        self.keep(unfinished);
        all.map_err(|error| self.fail(input, error))
    }

    /// Discards what the input has of the rest of a message received in parts, up to a control
    /// frame, and where that is to be done in turns no more than in one. Tells whether that was all.
    #[cold]
    pub(super) fn skip(
        &mut self,
        unfinished: &mut Unfinished,
        input: &mut &mut [u8],
        in_turns: bool,
    ) -> Result<bool, ProtocolError> {
        if unfinished.is_at_control() {
            return Ok(true);
        }
        unfinished.skip_message();
        let mut scratch = [0; 4096];
        let mut skipped = 0;
        while let Step::Data(count) = self.take_part(unfinished, input, &mut scratch)? {
            if in_turns {
                skipped += count;
                if count == 0 || skipped >= SKIPPED {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn step(
        &mut self,
        unfinished: &mut Unfinished,
        input: &mut &mut [u8],
        room: &mut [u8],
    ) -> Result<Step, ProtocolError> {
        unfinished.release();
        if unfinished.parts.as_ref().is_some_and(|parts| parts.skipped)
            && !self.skip(unfinished, input, true)?
        {
            return Ok(Step::Data(0));
        }
        if unfinished.is_at_control() {
            return Ok(Step::Control);
        }
        match &unfinished.parts {
            Some(parts) if parts.skipped => Ok(Step::Starved),
            Some(_) if room.is_empty() => Ok(Step::Data(0)),
            Some(_) => self.take_part(unfinished, input, room),
            None => self.begin_parts(unfinished, input),
        }
    }

    /// Begins a message, or goes on with one that has been gathered in part.
    fn begin_parts(
        &mut self,
        unfinished: &mut Unfinished,
        input: &mut &mut [u8],
    ) -> Result<Step, ProtocolError> {
        if let Some(inflating) = unfinished.inflating.take() {
            self.inflate_in_parts(unfinished, *inflating);
        } else if unfinished.message.is_none() {
            let Some(header) = unfinished.take_header(input)? else {
                return Ok(Step::Starved);
            };
            if !header.opcode.is_control() {
                // There before the frame is judged: the limits on its size are for what is kept.
                unfinished.parts = Some(Box::default());
            }
            unfinished.frame = Some(self.begin(header, unfinished)?);
        }
        let Some(message) = &unfinished.message else {
            return Ok(Step::Control);
        };
        let parts = unfinished.parts.get_or_insert_default();
        parts.text = message.text;
        if message.compressed {
            // What had been gathered before.
            let gathered = unfinished.payload.len();
            self.meter.received().compressed(gathered, 0);
        }
        if message.compressed
            && !parts.complete
            && let Some(window) = WindowBits::new(self.window)
        {
            parts.progress = Progress::new(window);
            if self.inflater.is_none() {
                parts.inflater = Some(Box::new(Inflater::new()));
            }
        }
        Ok(Step::Begin(if message.text {
            MessageKind::Text
        } else {
            MessageKind::Binary
        }))
    }

    /// Goes on in parts with a message that has come whole, and of which part has been made in turns.
    fn inflate_in_parts(&mut self, unfinished: &mut Unfinished, inflating: Inflating) {
        let mut inflater = inflating.inflater.map(Box::new);
        let made = match inflater.as_deref_mut().or(self.inflater.as_deref_mut()) {
            Some(inflater) => Bytes::from(inflater.take_output()),
            None => Bytes::new(),
        };
        self.meter.received().compressed(0, made.len());
        unfinished.message = Some(Partial {
            text: inflating.text,
            compressed: true,
            fragments: 0,
            utf8: Utf8::default(),
        });
        unfinished.parts = Some(Box::new(Parts {
            used: inflating.turns.taken,
            made,
            inflater,
            progress: inflating.turns.progress,
            complete: true,
            ..Parts::default()
        }));
    }

    /// Takes the next part of a message that has begun into `room`, which is not empty.
    fn take_part(
        &mut self,
        unfinished: &mut Unfinished,
        input: &mut &mut [u8],
        room: &mut [u8],
    ) -> Result<Step, ProtocolError> {
        let mut wasted = 0;
        loop {
            let (taken, count) = self.take_kept(unfinished, room)?;
            if count > 0 {
                return Ok(self.data(unfinished, count));
            }
            wasted += taken;
            if wasted >= WASTED {
                return Ok(Step::Data(0));
            }
            if taken > 0 {
                continue;
            }
            let (Some(parts), Some(message)) = (&mut unfinished.parts, &unfinished.message) else {
                return Ok(Step::Starved);
            };
            if parts.complete {
                message.utf8.finish()?;
                if message.compressed {
                    let mut progress = core::mem::take(&mut parts.progress);
                    let (codec, keep_context) = codec(parts, &mut self.inflater)?;
                    codec.finish_parts(&mut progress, keep_context)?;
                }
                self.meter.received().end(parts.text);
                (unfinished.message, unfinished.parts) = (None, None);
                unfinished.payload = Gathered::new();
                return Ok(Step::End);
            }
            let mut frame = match unfinished.frame {
                Some(frame) => frame,
                None => {
                    let Some(header) = unfinished.take_header(input)? else {
                        return Ok(Step::Starved);
                    };
                    let frame = self.begin(header, unfinished)?;
                    unfinished.frame = Some(frame);
                    if header.opcode.is_control() {
                        return Ok(Step::Control);
                    }
                    frame
                }
            };
            let (Some(parts), Some(message)) = (&mut unfinished.parts, &mut unfinished.message)
            else {
                return Ok(Step::Starved);
            };
            let most = if message.compressed {
                STAGE
            } else {
                room.len()
            };
            let take = usize::try_from(frame.remaining)
                .unwrap_or(usize::MAX)
                .min(input.len())
                .min(most);
            let (bytes, rest) = core::mem::take(input).split_at_mut(take);
            *input = rest;
            frame.unmask(bytes);
            let whole = frame.remaining == 0;
            unfinished.frame = if whole { None } else { Some(frame) };
            parts.complete = whole && frame.header.fin;
            if take == 0 && !whole {
                return Ok(Step::Starved);
            }
            if message.compressed {
                self.meter.received().compressed(take, 0);
                unfinished.payload.extend_from_slice(bytes);
            } else if take > 0 {
                if message.text {
                    message.utf8.push(bytes)?;
                }
                room[..take].copy_from_slice(bytes);
                return Ok(self.data(unfinished, take));
            }
        }
    }

    /// Makes what it can of the next of the bytes that are kept: how many were taken, and how many bytes of the
    /// message they made.
    fn take_kept(
        &mut self,
        unfinished: &mut Unfinished,
        room: &mut [u8],
    ) -> Result<(usize, usize), ProtocolError> {
        let Unfinished { payload, .. } = unfinished;
        let (Some(parts), Some(message)) = (&mut unfinished.parts, &mut unfinished.message) else {
            return Ok((0, 0));
        };
        let kept = &payload[parts.used..];
        let (taken, written) = if !parts.made.is_empty() {
            let count = parts.made.len().min(room.len());
            parts.made.copy_to_slice(&mut room[..count]);
            if message.text {
                message.utf8.push(&room[..count])?;
            }
            (0, count)
        } else if !message.compressed {
            // Checked when it was gathered.
            let count = kept.len().min(room.len());
            room[..count].copy_from_slice(&kept[..count]);
            (count, count)
        } else if kept.is_empty() && !parts.progress.has_more() {
            (0, 0)
        } else {
            let mut progress = core::mem::take(&mut parts.progress);
            let (codec, _) = codec(parts, &mut self.inflater)?;
            // More only of a message that has been gathered before.
            let kept = &kept[..kept.len().min(STAGE)];
            let result = codec.inflate_part(kept, room, &mut progress)?;
            parts.progress = progress;
            self.meter.received().compressed(0, result.1);
            if message.text {
                message.utf8.push(&room[..result.1])?;
            }
            result
        };
        parts.used += taken;
        if parts.used == payload.len() {
            parts.used = 0;
            payload.clear();
            if payload.capacity() > STAGE {
                *payload = Gathered::new();
            }
        }
        Ok((taken, written))
    }

    /// Notes that frames have brought something.
    fn data(&self, unfinished: &mut Unfinished, count: usize) -> Step {
        if let Some(message) = &mut unfinished.message {
            message.fragments = 0;
        }
        if let Some(parts) = unfinished.parts.as_ref().filter(|parts| !parts.skipped) {
            self.meter.received().part(parts.text, count);
        }
        Step::Data(count)
    }
}

impl Unfinished {
    fn skip_message(&mut self) {
        let (Some(parts), Some(message)) = (&mut self.parts, &mut self.message) else {
            return;
        };
        if core::mem::replace(&mut parts.skipped, true) {
            return;
        }
        (message.text, message.utf8) = (false, Utf8::default());
        parts.made = Bytes::new();
        if message.compressed && parts.inflater.take().is_some() {
            message.compressed = false;
            parts.used = self.payload.len();
        }
    }

    fn is_at_control(&self) -> bool {
        self.frame
            .as_ref()
            .is_some_and(|frame| frame.header.opcode.is_control())
    }
}

/// The codec for a message in parts, and whether it keeps its context.
fn codec<'a>(
    parts: &'a mut Parts,
    own: &'a mut Option<Box<Inflater>>,
) -> Result<(&'a mut Inflater, bool), ProtocolError> {
    if let Some(inflater) = &mut parts.inflater {
        return Ok((inflater, false));
    }
    // RSV1 is refused where nothing was agreed, so there is always an agreement here.
    own.as_deref_mut()
        .map(|own| (own, true))
        .ok_or(ProtocolError::ReservedBits)
}
