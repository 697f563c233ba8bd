//! Bytes become events (RFC 6455 §5, §6.2).

mod gathered;
mod inflate;
mod parts;
mod placement;
mod whole;

use alloc::{boxed::Box, sync::Arc, vec::Vec};

use bytes::Bytes;

use crate::{
    CloseFrame, FrameHeader, Limits, Message, MessageRef, Meter, OpCode, ProtocolError, Role, Text,
    TextRef,
    deflate::{Direction, Inflater},
    mask::Mask,
    utf8::Utf8,
};

use gathered::Gathered;
use inflate::Inflating;
pub use parts::Part;
use parts::Parts;

/// What the peer said, borrowed from the bytes it came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole message.
    Message(MessageRef<'a>),
    /// A ping; the answer it is owed carries the same payload (§5.5.2).
    Ping(&'a [u8]),
    /// A pong (§5.5.3).
    Pong(&'a [u8]),
    /// A Close, with what it says (§5.5.1). Whatever follows it is discarded.
    Close(Option<CloseFrame>),
}

impl Event<'_> {
    /// The event to be kept, its payload copied.
    pub fn into_owned(self) -> OwnedEvent {
        match self {
            Self::Message(message) => OwnedEvent::Message(message.to_owned()),
            Self::Ping(payload) => OwnedEvent::Ping(Bytes::copy_from_slice(payload)),
            Self::Pong(payload) => OwnedEvent::Pong(Bytes::copy_from_slice(payload)),
            Self::Close(frame) => OwnedEvent::Close(frame),
        }
    }
}

/// What the peer said, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnedEvent {
    /// A whole message.
    Message(Message),
    /// A ping.
    Ping(Bytes),
    /// A pong.
    Pong(Bytes),
    /// A Close, with what it says.
    Close(Option<CloseFrame>),
}

impl OwnedEvent {
    /// Lends the event.
    pub fn as_event(&self) -> Event<'_> {
        match self {
            Self::Message(message) => Event::Message(message.as_ref()),
            Self::Ping(payload) => Event::Ping(payload),
            Self::Pong(payload) => Event::Pong(payload),
            Self::Close(frame) => Event::Close(frame.clone()),
        }
    }
}

/// The receiving half of a connection: consumes every byte it is given.
///
/// It keeps the part of a header and of a message that has arrived so far, and nothing else: the
/// buffer it reads from belongs to the caller. What it keeps grows with the bytes received, never
/// with the bytes announced.
#[derive(Debug)]
pub struct Receiver {
    /// Frames from a client are masked, frames from a server are not (§5.1).
    peer_masks: bool,
    stage: Stage,
    /// Whether long messages are inflated in turns.
    turns: bool,
    /// The window of the peer's compressor, and 0 where no compression was agreed: an `Option` would be twice as large, and
    /// what idle connections take with it.
    window: u8,
    /// The codec of this connection, where the context outlives the message.
    inflater: Option<Box<Inflater>>,
    /// The largest message that [`Wholes`](whole) may take: within every limit, and no more than they can.
    most_whole: u16,
    /// How many bytes of a message that has [begun](Stage::is_begun) are still to be taken.
    left: u16,
    /// Those of all connections of a server, which has them once.
    limits: Arc<Limits>,
    /// There while something is: of an idle connection, it would be most of what it takes in memory.
    unfinished: Option<Box<Unfinished>>,
    meter: Arc<Meter>,
}

/// What comes next. Of a message that is received in parts, and was there whole when it began, that is the rest of it:
/// nothing else is unfinished then. In one enum, since this is asked for each message: with its three cases in one of their
/// own that took three instructions more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A header: nothing is unfinished.
    Fresh,
    /// More of what is unfinished.
    Unfinished,
    /// The rest of such a message, binary.
    Binary,
    /// The rest of such a text, which is yet to be checked.
    Text,
    /// The rest of one that is known to be ASCII.
    Ascii,
    /// Nothing: a Close or an error has ended the stream of events (§7.1.7).
    Ended,
}

impl Stage {
    /// Whether it is the rest of a message that was there whole when it began.
    fn is_begun(self) -> bool {
        matches!(self, Self::Binary | Self::Text | Self::Ascii)
    }
}

/// What has begun and not ended, and what still lends the last event.
#[derive(Debug, Default)]
struct Unfinished {
    /// The start of a header whose rest has not arrived.
    header: [u8; FrameHeader::MAX_LEN],
    header_len: u8,
    /// The frame whose payload is arriving.
    frame: Option<Frame>,
    /// The message that has begun and not ended. Its payload so far is in `payload`.
    message: Option<Partial>,
    payload: Gathered,
    /// How that message is received in parts, where it is.
    parts: Option<Box<Parts>>,
    /// The message that has come whole and is being inflated.
    inflating: Option<Box<Inflating>>,
    /// The payload so far of a control frame that did not arrive whole.
    control: Vec<u8>,
    /// Which of the two buffers above still lends the last event.
    lent: Option<Lent>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    header: FrameHeader,
    /// Payload bytes that have not arrived.
    remaining: u64,
    mask: Option<Mask>,
}

impl Frame {
    fn new(header: FrameHeader) -> Self {
        Self {
            header,
            remaining: header.payload_len,
            mask: header.mask.map(Mask::new),
        }
    }

    fn unmask(&mut self, bytes: &mut [u8]) {
        if let Some(mask) = &mut self.mask {
            mask.apply(bytes);
        }
        self.remaining -= bytes.len() as u64;
    }
}

#[derive(Clone, Copy, Debug)]
struct Partial {
    text: bool,
    compressed: bool,
    fragments: usize,
    utf8: Utf8,
}

#[derive(Clone, Copy, Debug)]
enum Lent {
    Payload,
    Control,
}

/// Where the payload of a finished message or control frame is.
enum Found<'i> {
    Message {
        text: bool,
        compressed: bool,
        place: Place<'i>,
    },
    Control {
        opcode: OpCode,
        place: Place<'i>,
    },
}

enum Place<'i> {
    /// Whole in the input.
    Input(&'i mut [u8]),
    /// Gathered in the receiver's own buffer.
    Own,
}

impl Receiver {
    /// A receiver for one end of a connection.
    ///
    /// `deflate` is what was agreed for the direction it receives, where anything was.
    pub fn new(role: Role, limits: impl Into<Arc<Limits>>, deflate: Option<Direction>) -> Self {
        let meter = Arc::new(Meter::new(deflate.is_some()));
        Self::counting(role, limits.into(), deflate, meter)
    }

    /// As [`new`](Self::new), for a connection whose other half counts too.
    pub(crate) fn counting(
        role: Role,
        limits: Arc<Limits>,
        deflate: Option<Direction>,
        meter: Arc<Meter>,
    ) -> Self {
        let keeps_context = deflate.as_ref().is_some_and(|agreed| agreed.keeps_context);
        Self {
            peer_masks: matches!(role, Role::Server),
            stage: Stage::Fresh,
            turns: false,
            window: deflate.map_or(0, |agreed| agreed.window.as_u8()),
            inflater: keeps_context.then(|| Box::new(Inflater::new())),
            most_whole: u16::try_from(limits.message.min(limits.frame).min(limits.retained))
                .unwrap_or(u16::MAX),
            left: 0,
            limits,
            unfinished: None,
            meter,
        }
    }

    /// What counts the messages that this gives.
    #[inline]
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Takes the next event off the front of `input`, unmasking it in place.
    ///
    /// Call it until it gives `None`: then the input is empty, whatever was in it, and the next
    /// event needs more bytes. `inflater` is lent for this call: it inflates a message whose context is
    /// not kept, and what any compressed message comes to is made in its room. Lend the same one each
    /// time, so that the room need not be had anew.
    ///
    /// # Errors
    /// The first rule that the peer breaks: in a header no later than that is whole, in text at the byte. After an
    /// error, and after a Close, all further input is discarded (§7.1.7).
    #[inline]
    pub fn receive<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i mut [u8],
        inflater: &'a mut Inflater,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        match self.receive_whole(input) {
            Some(message) => message.map(|message| Some(Event::Message(message))),
            None => self.receive_any(input, inflater),
        }
    }

    /// As [`receive`](Self::receive), whatever comes.
    fn receive_any<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i mut [u8],
        inflater: &'a mut Inflater,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        let found = match self.advance(input) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(error) => return Err(self.fail(input, error)),
        };
        let stage = &mut self.stage;
        let flow = self.meter.received();
        let event = match found {
            Found::Message {
                text,
                compressed: false,
                place,
            } => {
                let checked = place.is_checked();
                let bytes = &*place.bytes(payload(&mut self.unfinished));
                borrow(text, checked, bytes)
                    .inspect(|message| flow.message(text, message.len()))
                    .map(Event::Message)
            }
            Found::Message {
                text,
                compressed: true,
                place,
            } => return self.lend_inflated(text, place, inflater),
            Found::Control { opcode, place } => {
                flow.control(opcode);
                if opcode == OpCode::Close {
                    *stage = Stage::Ended;
                }
                control_event(opcode, place.bytes(control(&mut self.unfinished)))
            }
        };
        event.map(Some).inspect_err(|_| *stage = Stage::Ended)
    }

    /// As [`receive`](Self::receive), with the event owned: a small payload is copied out of the
    /// input, a message gathered in a buffer of its own is moved out of it.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    #[inline]
    pub fn receive_owned(
        &mut self,
        input: &mut &mut [u8],
        inflater: &mut Inflater,
    ) -> Result<Option<OwnedEvent>, ProtocolError> {
        match self.receive_whole_owned(input) {
            Some(message) => message.map(|message| Some(OwnedEvent::Message(message))),
            None => self.receive_owned_any(input, inflater),
        }
    }

    fn receive_owned_any(
        &mut self,
        input: &mut &mut [u8],
        inflater: &mut Inflater,
    ) -> Result<Option<OwnedEvent>, ProtocolError> {
        let found = match self.advance(input) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(error) => return Err(self.fail(input, error)),
        };
        let flow = self.meter.received();
        let event = match found {
            Found::Message {
                text,
                compressed: false,
                place: Place::Input(bytes),
            } => borrow(text, false, bytes)
                .inspect(|message| flow.message(text, message.len()))
                .map(|message| OwnedEvent::Message(message.to_owned())),
            Found::Message {
                text,
                compressed: false,
                place: Place::Own,
            } => {
                self.stage = Stage::Fresh;
                let unfinished = self.unfinished.take().unwrap_or_default();
                own(text, true, unfinished.payload.into_bytes())
                    .inspect(|message| flow.message(text, message.len()))
                    .map(OwnedEvent::Message)
            }
            Found::Message {
                text,
                compressed: true,
                place,
            } => return self.own_inflated(text, place, inflater),
            Found::Control { opcode, place } => {
                flow.control(opcode);
                if opcode == OpCode::Close {
                    self.stage = Stage::Ended;
                }
                control_event(opcode, place.bytes(control(&mut self.unfinished)))
                    .map(Event::into_owned)
            }
        };
        event.map(Some).inspect_err(|_| self.stage = Stage::Ended)
    }

    /// Where to read the rest of a large message, and how many bytes of it at most.
    ///
    /// Offered while at least `worthwhile` bytes of a frame are still to come and nothing has ended
    /// the stream of events, with room in the buffer already reserved. Append what arrives (no more
    /// than the limit) and say so with [`received`](Self::received); anything else goes through
    /// [`receive`](Self::receive).
    pub fn payload_buffer(&mut self, worthwhile: usize) -> Option<(&mut Vec<u8>, usize)> {
        /// Large steps, so that a large message is moved few times while it grows; no larger than
        /// what has arrived already, so that a claim alone costs a peer's victim one step.
        const STEP: usize = 128 * 1024;
        let unfinished = self.unfinished.as_deref_mut()?;
        unfinished.release();
        if unfinished.parts.is_some() {
            return None;
        }
        let frame = unfinished
            .frame
            .filter(|frame| !frame.header.opcode.is_control())?;
        let remaining = usize::try_from(frame.remaining).ok()?;
        if remaining < worthwhile {
            return None;
        }
        let payload = &mut unfinished.payload;
        if payload.spare() < remaining.min(STEP / 2) {
            let step = payload.len().max(STEP);
            // Of a message in many frames this is not the last: as much again as has arrived.
            let wanted = match frame.header.fin {
                true => remaining,
                false => remaining.max(payload.len()),
            };
            payload.grow(wanted.min(step));
        }
        let limit = remaining.min(payload.spare());
        Some((payload.memory(), limit))
    }

    /// How large a buffer the message in progress would need for what its frame has announced, where
    /// it has none so large. One that is there anyway can be given to it with
    /// [`adopt`](Self::adopt).
    pub fn room_wanted(&self) -> Option<usize> {
        let unfinished = self.unfinished.as_ref()?;
        let frame = unfinished
            .frame
            .as_ref()
            .filter(|frame| !frame.header.opcode.is_control())?;
        let payload = &unfinished.payload;
        let remaining = usize::try_from(frame.remaining).ok()?;
        let room = payload.len().checked_add(remaining)?;
        let gathers = unfinished.lent.is_none() && unfinished.parts.is_none();
        let too_small = room > payload.capacity();
        (gathers && too_small).then(|| Gathered::memory_for(room))
    }

    /// Moves the message in progress into `buffer`, whatever that holds.
    pub fn adopt(&mut self, buffer: Vec<u8>) {
        if let Some(unfinished) = &mut self.unfinished {
            unfinished.payload.move_to(buffer);
        }
    }

    /// Says that the last `count` bytes of the [`payload_buffer`](Self::payload_buffer) are new.
    ///
    /// # Errors
    /// Text that is not UTF-8, as soon as the byte that breaks it is there.
    pub fn received(&mut self, count: usize) -> Result<(), ProtocolError> {
        let Some(Unfinished {
            frame: Some(frame),
            message: Some(message),
            payload,
            ..
        }) = self.unfinished.as_deref_mut()
        else {
            return Ok(());
        };
        let start = payload.len() - count;
        let bytes = &mut payload[start..];
        frame.unmask(bytes);
        if message.text && !message.compressed {
            let checked = message.utf8.push(bytes);
            return checked.inspect_err(|_| self.end());
        }
        Ok(())
    }

    /// Whether a Close or an error has ended the stream of events.
    pub fn is_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }

    /// Whether part of a message has been gathered in a buffer of its own, so that the message will
    /// be whole there: [`receive_owned`](Self::receive_owned) then gives it without a copy.
    #[inline]
    pub fn is_gathering(&self) -> bool {
        matches!(&self.unfinished, Some(unfinished)
            if !unfinished.payload.is_empty() && unfinished.lent.is_none())
    }

    /// Whether messages may come compressed.
    #[inline]
    pub fn inflates(&self) -> bool {
        self.window != 0
    }

    /// Whether the next byte begins a header, and nothing is lent or has ended: the state between
    /// messages.
    #[inline]
    pub fn is_fresh(&self) -> bool {
        matches!(self.stage, Stage::Fresh)
    }

    /// Whether what comes next is a message or more of one, as far as it can be told by what has come: `input` is what
    /// was not taken. If not, it is a control frame, or nothing has come of it yet.
    pub fn is_message_next(&self, input: &[u8]) -> bool {
        let is_data = |first: &u8| !OpCode::begins_control(*first);
        match (&self.stage, &self.unfinished) {
            (Stage::Ended, _) => false,
            (Stage::Unfinished, Some(unfinished)) if !unfinished.is_message() => {
                match (&unfinished.frame, unfinished.header_len) {
                    (Some(_), _) => false,
                    (None, 1..) => is_data(&unfinished.header[0]),
                    (None, 0) => input.first().is_some_and(is_data),
                }
            }
            (Stage::Fresh, _) => input.first().is_some_and(is_data),
            (Stage::Unfinished | Stage::Binary | Stage::Text | Stage::Ascii, _) => true,
        }
    }

    /// Whether nothing is held between two calls: no part of a header and no part of a message.
    pub fn is_idle(&self) -> bool {
        let unfinished = self.unfinished.as_ref();
        !self.stage.is_begun() && unfinished.is_none_or(|unfinished| unfinished.is_idle())
    }

    #[cold]
    fn fail(&mut self, input: &mut &mut [u8], error: ProtocolError) -> ProtocolError {
        *input = &mut [];
        self.end();
        error
    }

    /// Lets go of all that has arrived, since nothing will come of it.
    fn end(&mut self) {
        self.stage = Stage::Ended;
        self.unfinished = None;
    }

    /// Reads on to the end of the next message or control frame.
    fn advance<'i>(
        &mut self,
        input: &mut &'i mut [u8],
    ) -> Result<Option<Found<'i>>, ProtocolError> {
        if self.is_ended() {
            *input = &mut [];
            self.end();
            return Ok(None);
        }
        if self.is_fresh() {
            if let Some(single) = self.take_single(input)? {
                return Ok(Some(single));
            }
            if input.is_empty() {
                return Ok(None);
            }
        }
        let mut unfinished = self.take_unfinished();
        let found = self.advance_any(&mut unfinished, input);
        self.keep(unfinished);
        found
    }

    /// What is unfinished, to go on with it and [keep](Self::keep) it.
    fn take_unfinished(&mut self) -> Box<Unfinished> {
        self.unfold().take().unwrap_or_default()
    }

    /// Keeps what is unfinished, where anything is.
    fn keep(&mut self, unfinished: Box<Unfinished>) {
        let nothing = unfinished.is_idle() && unfinished.lent.is_none();
        self.stage = match nothing {
            true => Stage::Fresh,
            false => Stage::Unfinished,
        };
        self.unfinished = (!nothing).then_some(unfinished);
    }

    /// Takes a frame that is a message or a control frame, and there whole. Most of what comes this way
    /// is, such as compressed messages, and has no need of the memory for what is unfinished.
    fn take_single<'i>(
        &self,
        input: &mut &'i mut [u8],
    ) -> Result<Option<Found<'i>>, ProtocolError> {
        let Some((header, len)) = FrameHeader::parse(input)? else {
            return Ok(None);
        };
        let FrameHeader { opcode, fin, .. } = header;
        let whole = header.payload_len <= (input.len() - len) as u64;
        if !whole || !fin {
            return Ok(None);
        }
        let mut frame = self.begin(header, &mut Unfinished::default())?;
        let end = len + header.payload_len as usize;
        let (bytes, rest) = core::mem::take(input).split_at_mut(end);
        *input = rest;
        let bytes = &mut bytes[len..];
        frame.unmask(bytes);
        let place = Place::Input(bytes);
        Ok(Some(if opcode.is_control() {
            Found::Control { opcode, place }
        } else {
            Found::Message {
                text: opcode == OpCode::Text,
                compressed: header.rsv1,
                place,
            }
        }))
    }

    fn advance_any<'i>(
        &mut self,
        unfinished: &mut Unfinished,
        input: &mut &'i mut [u8],
    ) -> Result<Option<Found<'i>>, ProtocolError> {
        unfinished.release();
        if let Some(inflating) = &unfinished.inflating {
            return Ok(Some(Found::Message {
                text: inflating.text,
                compressed: true,
                place: Place::Own,
            }));
        }
        if unfinished.parts.is_some() {
            self.skip(unfinished, input, false)?;
        }
        loop {
            let mut frame = match unfinished.frame {
                Some(frame) => frame,
                None => match unfinished.take_header(input)? {
                    Some(header) => self.begin(header, unfinished)?,
                    None => return Ok(None),
                },
            };
            let take = usize::try_from(frame.remaining)
                .unwrap_or(usize::MAX)
                .min(input.len());
            let (bytes, rest) = core::mem::take(input).split_at_mut(take);
            *input = rest;
            frame.unmask(bytes);
            let whole = frame.remaining == 0;
            unfinished.frame = if whole { None } else { Some(frame) };
            let header = frame.header;

            if header.opcode.is_control() {
                if whole && unfinished.control.is_empty() {
                    let place = Place::Input(bytes);
                    return Ok(Some(Found::Control {
                        opcode: header.opcode,
                        place,
                    }));
                }
                unfinished.control.extend_from_slice(bytes);
                if !whole {
                    return Ok(None);
                }
                unfinished.lent = Some(Lent::Control);
                return Ok(Some(Found::Control {
                    opcode: header.opcode,
                    place: Place::Own,
                }));
            }

            let Some(message) = &mut unfinished.message else {
                // `begin` has opened a message for every data frame.
                return Err(ProtocolError::ContinuationUnexpected);
            };
            let (text, compressed) = (message.text, message.compressed);
            if whole && header.fin && unfinished.payload.is_empty() {
                unfinished.message = None;
                return Ok(Some(Found::Message {
                    text,
                    compressed,
                    place: Place::Input(bytes),
                }));
            }
            if text && !compressed {
                message.utf8.push(bytes)?;
            }
            unfinished.payload.extend_from_slice(bytes);
            if !whole {
                return Ok(None);
            }
            if header.fin {
                message.utf8.finish()?;
                unfinished.message = None;
                unfinished.lent = Some(Lent::Payload);
                return Ok(Some(Found::Message {
                    text,
                    compressed,
                    place: Place::Own,
                }));
            }
        }
    }

    /// Checks a header against what has come before it, and begins its message.
    #[inline]
    fn begin(
        &self,
        header: FrameHeader,
        unfinished: &mut Unfinished,
    ) -> Result<Frame, ProtocolError> {
        if header.mask.is_some() != self.peer_masks {
            return Err(if self.peer_masks {
                ProtocolError::Unmasked
            } else {
                ProtocolError::Masked
            });
        }
        // RFC 7692 §6: RSV1 marks the first frame of a compressed message, and no other.
        let starts_message = matches!(header.opcode, OpCode::Text | OpCode::Binary);
        if header.rsv1 && !(starts_message && self.window != 0) {
            return Err(ProtocolError::ReservedBits);
        }
        if !header.opcode.is_control() {
            let compressed = match (&mut unfinished.message, starts_message) {
                (None, true) => {
                    unfinished.message = Some(Partial {
                        text: header.opcode == OpCode::Text,
                        compressed: header.rsv1,
                        fragments: 1,
                        utf8: Utf8::default(),
                    });
                    header.rsv1
                }
                (Some(message), false) => {
                    message.fragments += 1;
                    let limit = self.limits.fragments;
                    // In parts those that bring nothing are counted: whether this one does is yet to be seen.
                    let may_bring = || unfinished.parts.is_some() && header.payload_len > 0;
                    if message.fragments > limit && !(message.fragments - 1 == limit && may_bring())
                    {
                        return Err(ProtocolError::TooManyFragments { limit });
                    }
                    message.compressed
                }
                (None, false) => return Err(ProtocolError::ContinuationUnexpected),
                (Some(_), true) => return Err(ProtocolError::ContinuationExpected),
            };
            if unfinished.parts.is_some() {
                return Ok(Frame::new(header));
            }
            let limit = self.limits.frame;
            if header.payload_len > limit as u64 {
                return Err(ProtocolError::FrameTooLarge { limit });
            }
            // What a compressed message inflates to is checked when it is inflated.
            let limit = if compressed {
                self.limits.retained
            } else {
                self.limits.message.min(self.limits.retained)
            };
            // Neither term reaches 2^63: the sum cannot overflow.
            if unfinished.payload.len() as u64 + header.payload_len > limit as u64 {
                return Err(ProtocolError::MessageTooLarge { limit });
            }
        }
        Ok(Frame::new(header))
    }
}

impl Unfinished {
    fn is_idle(&self) -> bool {
        self.header_len == 0
            && self.frame.is_none()
            && self.message.is_none()
            && self.inflating.is_none()
    }

    /// Whether it is a message, in whatever state, or the frame of one.
    fn is_message(&self) -> bool {
        let frame = self.frame.as_ref();
        self.message.is_some()
            || self.parts.is_some()
            || self.inflating.is_some()
            || frame.is_some_and(|frame| !frame.header.opcode.is_control())
    }

    /// Lets go of the buffers that lent the last event.
    fn release(&mut self) {
        match self.lent.take() {
            Some(Lent::Payload) => self.payload = Gathered::new(),
            Some(Lent::Control) => self.control = Vec::new(),
            None => {}
        }
    }

    /// Takes a header off the front of the input, or keeps the part of it that is there.
    #[inline]
    fn take_header(&mut self, input: &mut &mut [u8]) -> Result<Option<FrameHeader>, ProtocolError> {
        if self.header_len == 0
            && let Some((header, len)) = FrameHeader::parse(input)?
        {
            *input = &mut core::mem::take(input)[len..];
            return Ok(Some(header));
        }
        let had = usize::from(self.header_len);
        let take = (FrameHeader::MAX_LEN - had).min(input.len());
        self.header[had..had + take].copy_from_slice(&input[..take]);
        let Some((header, len)) = FrameHeader::parse(&self.header[..had + take])? else {
            self.header_len = (had + take) as u8;
            *input = &mut [];
            return Ok(None);
        };
        self.header_len = 0;
        // A header that was whole before these bytes would have been taken then: len > had.
        *input = &mut core::mem::take(input)[len - had..];
        Ok(Some(header))
    }
}

/// The payload that has been gathered.
fn payload(unfinished: &mut Option<Box<Unfinished>>) -> &mut [u8] {
    match unfinished {
        Some(unfinished) => &mut unfinished.payload,
        None => &mut [],
    }
}

/// The payload of a control frame that has been gathered.
fn control(unfinished: &mut Option<Box<Unfinished>>) -> &mut [u8] {
    match unfinished {
        Some(unfinished) => &mut unfinished.control,
        None => &mut [],
    }
}

impl<'i> Place<'i> {
    fn bytes<'a>(self, own: &'a mut [u8]) -> &'a mut [u8]
    where
        'i: 'a,
    {
        match self {
            Place::Input(bytes) => bytes,
            Place::Own => own,
        }
    }

    /// Whether text that is uncompressed has been checked as it came.
    fn is_checked(&self) -> bool {
        matches!(self, Place::Own)
    }
}

/// A message, of which the text is checked unless it was before.
#[inline]
fn borrow(text: bool, checked: bool, bytes: &[u8]) -> Result<MessageRef<'_>, ProtocolError> {
    if !text {
        return Ok(MessageRef::Binary(bytes));
    }
    check(checked, bytes)?;
    Ok(MessageRef::Text(TextRef::checked(bytes)))
}

/// As [`borrow`], in memory of its own.
fn own(text: bool, checked: bool, bytes: Bytes) -> Result<Message, ProtocolError> {
    if !text {
        return Ok(Message::Binary(bytes));
    }
    check(checked, &bytes)?;
    Ok(Message::Text(Text::checked(bytes)))
}

#[inline]
fn check(checked: bool, bytes: &[u8]) -> Result<(), ProtocolError> {
    if !checked && simdutf8::basic::from_utf8(bytes).is_err() {
        return Err(ProtocolError::InvalidUtf8);
    }
    Ok(())
}

/// What a control frame says (§5.5).
fn control_event(opcode: OpCode, payload: &[u8]) -> Result<Event<'_>, ProtocolError> {
    match opcode {
        OpCode::Ping => Ok(Event::Ping(payload)),
        OpCode::Pong => Ok(Event::Pong(payload)),
        _ => CloseFrame::parse(payload).map(Event::Close),
    }
}
