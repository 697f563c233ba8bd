//! Messages become bytes (RFC 6455 §5, §6.1), and the sending side of the closing handshake (§7).

mod parts;

use alloc::{boxed::Box, string::ToString, sync::Arc, vec::Vec};
use core::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::{
    CloseCode, CloseFrame, Event, FrameHeader, Message, MessageRef, Meter, OpCode, Outgoing,
    Prepared, ProtocolError, Role, SendError,
    deflate::{DeflateConfig, Deflater, DeflaterSettings, Deflaters, Direction},
    mask::Mask,
    output::{self, Output, PONG_BACKLOG},
};

use parts::Parts;

/// The sending half of a connection: frames what it is given and keeps it until it is written.
#[derive(Debug)]
pub struct Sender {
    role: Role,
    output: Output,
    /// What most connections do not have.
    seldom: Option<Box<Seldom>>,
    /// How long the peer may take to answer a Close; once one was sent, the time by which it must have. In
    /// nanoseconds: that is half of a duration.
    close_time: u64,
    close_sent: bool,
    /// Whether the peer has closed, or broken the protocol so that nothing is expected from it.
    close_received: bool,
    /// Messages of fewer bytes go by [`send_quick`](Self::send_quick): none from a client, none while another is sent in
    /// parts, and none once a Close was sent or received.
    quick: u32,
    meter: Arc<Meter>,
}

#[derive(Debug, Default)]
struct Seldom {
    deflate: Option<Deflating>,
    /// The message that is being sent in parts. Meanwhile no other may come between (§5.4).
    parts: Option<Box<Parts>>,
}

/// permessage-deflate as agreed for the direction that is sent.
#[derive(Debug)]
struct Deflating {
    settings: DeflaterSettings,
    /// Messages of fewer bytes are sent as they are.
    threshold: usize,
    /// The codec of this connection, where the context outlives the message.
    own: Option<Box<Deflater>>,
}

/// More than centuries is that.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// From this size an owned payload is written from where it is: below it, the copy is cheaper than
/// one more piece in the write.
const LARGE: usize = 16 * 1024;

impl Sender {
    /// A sender for one end of a connection.
    ///
    /// `deflate` is what was agreed for the direction it sends, and how to compress. `close_timeout`
    /// is how long the peer may take to answer a Close.
    pub fn new(
        role: Role,
        deflate: Option<(Direction, DeflateConfig)>,
        close_timeout: Duration,
    ) -> Self {
        let meter = Arc::new(Meter::new(deflate.is_some()));
        let seldom = deflate.map(|(agreed, config)| {
            let settings = config.deflater(agreed.window);
            let own = agreed
                .keeps_context
                .then(|| Box::new(Deflater::new(settings)));
            Box::new(Seldom {
                deflate: Some(Deflating {
                    settings,
                    threshold: config.threshold,
                    own,
                }),
                parts: None,
            })
        });
        let mut sender = Self {
            role,
            output: Output::default(),
            seldom,
            close_time: nanos(close_timeout),
            close_sent: false,
            close_received: false,
            quick: 0,
            meter,
        };
        sender.quick = sender.quick_below();
        sender
    }

    /// Below how many bytes messages go by [`send_quick`](Self::send_quick), where none is being sent in parts.
    fn quick_below(&self) -> u32 {
        let below = match (self.role, self.deflate()) {
            (Role::Client { .. }, _) => 0,
            (Role::Server, None) => LARGE,
            (Role::Server, Some(deflate)) => deflate.threshold.min(LARGE),
        };
        below as u32
    }

    #[inline]
    fn deflate(&self) -> Option<&Deflating> {
        self.seldom.as_ref()?.deflate.as_ref()
    }

    /// What counts the messages that this is given.
    #[inline]
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Queues a message in one frame. `deflaters` are lent for this call.
    ///
    /// # Errors
    /// [`SendError::Closed`] once a Close has been sent or received.
    #[inline]
    pub fn send<'a>(
        &mut self,
        message: impl Into<Outgoing<'a>>,
        deflaters: &mut Deflaters,
    ) -> Result<(), SendError> {
        let message = message.into();
        if self.compresses(message.as_ref().len()) {
            return self.send_compressed(message, deflaters);
        }
        self.send_plain(message)
    }

    /// Queues a message in the room that the output has, where nothing stands in the way: from a
    /// server, not to be compressed, and short. Says whether it did; where not, nothing has happened
    /// and [`send`](Self::send) has to do it.
    ///
    /// The way of most messages, at a third of the instructions.
    #[inline]
    pub fn send_quick(&mut self, message: MessageRef<'_>) -> bool {
        let (opcode, payload) = opcode_and_payload(message);
        if payload.len() >= self.quick as usize {
            return false;
        }
        // The header of §5.2 for a server: FIN, and the length in one byte or three.
        let first = 0x80 | opcode as u8;
        let sent = if payload.len() < 126 {
            self.output
                .append_short([first, payload.len() as u8], payload)
        } else {
            let [a, b] = (payload.len() as u16).to_be_bytes();
            self.output.append_short([first, 126, a, b], payload)
        };
        if sent {
            self.meter
                .sent()
                .message(opcode == OpCode::Text, payload.len());
        }
        sent
    }

    /// Queues a message as it is, even where compression was agreed: that needs no compressor.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    #[inline(always)]
    pub fn send_plain<'a>(&mut self, message: impl Into<Outgoing<'a>>) -> Result<(), SendError> {
        if !self.is_open() {
            return Err(SendError::Closed);
        }
        if let Some(parts) = self.parts_mut() {
            parts.hold(message.into(), false);
            return Ok(());
        }
        // A way for each, so that none asks again what it is when it is dropped; and inlined, where
        // most callers know which it is: 22 instructions of 177 for an owned message of 16 bytes.
        match message.into() {
            Outgoing::Borrowed(message) => {
                if !self.send_quick(message) {
                    let (opcode, payload) = opcode_and_payload(message);
                    self.frame_message(opcode, payload);
                }
            }
            Outgoing::Owned(message) => {
                let (opcode, payload) = opcode_and_payload(message.as_ref());
                if payload.len() >= LARGE {
                    self.frame_large(opcode, message);
                } else if !self.send_quick(message.as_ref()) {
                    self.frame_message(opcode, payload);
                }
            }
            Outgoing::Prepared(prepared) => self.send_shared(prepared.message()),
        }
        Ok(())
    }

    /// Queues a ping (§5.5.2).
    ///
    /// # Errors
    /// [`SendError::ControlTooLong`] for more than 125 bytes, [`SendError::Closed`].
    pub fn ping(&mut self, payload: &[u8]) -> Result<(), SendError> {
        self.control(OpCode::Ping, payload)
    }

    /// Queues an unasked pong (§5.5.3). The answers to pings are sent by themselves, and this
    /// displaces none of them.
    ///
    /// # Errors
    /// As [`ping`](Self::ping).
    pub fn pong(&mut self, payload: &[u8]) -> Result<(), SendError> {
        self.control(OpCode::Pong, payload)
    }

    /// Queues a Close (§7.1.2): the last frame of this side. The peer has until
    /// [`deadline`](Self::deadline) to answer.
    ///
    /// # Errors
    /// [`SendError::ReasonTooLong`], [`SendError::CodeNotForRole`] for 1010 from a server, and
    /// [`SendError::Closed`] where a Close has been sent already.
    pub fn close(&mut self, code: CloseCode, reason: &str, now: Duration) -> Result<(), SendError> {
        if self.close_sent {
            return Err(SendError::Closed);
        }
        let frame = CloseFrame::new(code, reason);
        frame.check(matches!(self.role, Role::Client { .. }))?;
        self.queue_close(&frame.to_payload(), now);
        Ok(())
    }

    /// As [`close`](Self::close), with a Close that says nothing (§5.5.1): whoever asks is told 1005
    /// (§7.1.5).
    ///
    /// # Errors
    /// [`SendError::Closed`] where a Close has been sent already.
    pub fn close_without_code(&mut self, now: Duration) -> Result<(), SendError> {
        if self.close_sent {
            return Err(SendError::Closed);
        }
        self.queue_close(&[], now);
        Ok(())
    }

    /// Gives the peer what it is owed for an event: a pong for a ping (§5.5.2), a Close for a Close
    /// (§5.5.1). What cannot have been received is answered as far as it can be: no ping of more than 125
    /// bytes, and of a Close with a reason of more than 123 the code.
    #[inline]
    pub fn respond(&mut self, event: &Event<'_>, now: Duration) {
        match event {
            Event::Message(_) | Event::Pong(_) => {}
            Event::Ping(payload) => self.answer_ping(payload),
            Event::Close(frame) => self.answer_close(frame.as_ref(), now),
        }
    }

    /// Queues the Close that a broken rule calls for (§7.1.7). Nothing more is expected of the
    /// peer.
    pub fn fail(&mut self, error: ProtocolError, now: Duration) {
        if !self.close_sent {
            // A test holds every reason to the length that fits.
            let frame = CloseFrame::new(error.close_code(), error.to_string());
            self.queue_close(&frame.to_payload(), now);
        }
        self.close_received = true;
    }

    /// Says that nothing more will come from the peer, though it sent no Close.
    pub fn peer_is_gone(&mut self) {
        self.close_received = true;
        self.end_messages();
    }

    /// Lets go of what messages are sent with, as none can be any more: a compressor of the connection's own
    /// has hundreds of KB, and what waits behind a message in parts is the user's.
    fn end_messages(&mut self) {
        self.quick = 0;
        self.seldom = None;
    }

    /// Whether messages can still be sent.
    #[inline]
    pub fn is_open(&self) -> bool {
        !(self.close_sent || self.close_received)
    }

    /// Whether [`send`](Self::send) compresses a message of this size. Where it does not,
    /// [`send_plain`](Self::send_plain) does the same.
    #[inline]
    pub fn compresses(&self, len: usize) -> bool {
        self.deflate()
            .is_some_and(|deflate| len >= deflate.threshold)
    }

    /// Whether a Close has been queued from this side.
    pub fn is_close_sent(&self) -> bool {
        self.close_sent
    }

    /// Whether both sides have closed and all is written: the transport can be shut down (§7.1.1).
    pub fn is_finished(&self) -> bool {
        self.close_sent && self.close_received && self.output.is_empty()
    }

    /// The time by which the connection must have ended, once a Close was sent.
    pub fn deadline(&self) -> Option<Duration> {
        self.close_sent
            .then_some(Duration::from_nanos(self.close_time))
    }

    /// What waits to be written. The answer to a ping behind 16 KiB of it is replaced where it waits by that to a newer
    /// one (§5.5.3), which may be longer or shorter: between looking at what waits and [`Output::advance`] nothing else
    /// may be called on the sender.
    #[inline]
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// How many bytes wait to be written.
    #[inline]
    pub fn buffered(&self) -> usize {
        self.output.len()
    }

    fn control(&mut self, opcode: OpCode, payload: &[u8]) -> Result<(), SendError> {
        if !self.is_open() {
            return Err(SendError::Closed);
        }
        if payload.len() > OpCode::MAX_CONTROL {
            return Err(SendError::ControlTooLong { len: payload.len() });
        }
        self.frame_control(opcode, payload);
        Ok(())
    }

    fn answer_ping(&mut self, payload: &[u8]) {
        if self.close_sent || payload.len() > OpCode::MAX_CONTROL {
            return;
        }
        // None goes behind one that may be replaced: a newer answer would overtake it.
        if self.output.len() >= PONG_BACKLOG || self.output.has_pong() {
            self.replace_pong(payload);
        } else {
            self.frame_control(OpCode::Pong, payload);
        }
    }

    /// Queues an answer to a ping that a newer one may replace where it waits. One that waited answers an older ping: this
    /// one answers both (§5.5.3), and they count as one.
    #[cold]
    fn replace_pong(&mut self, payload: &[u8]) {
        let header = header(self.role, OpCode::Pong, false, payload.len());
        let (bytes, len) = header.encode();
        let mut frame = [&bytes[..len], payload].concat();
        if let Some(key) = header.mask {
            Mask::apply_once(key, &mut frame[len..]);
        }
        if !self.output.replace_pong(frame.into()) {
            self.meter.sent().control(OpCode::Pong);
        }
    }

    /// Echoes the Close, as §5.5.1 says is typical: the code, and the reason too, which a browser
    /// then shows to whoever gave it.
    fn answer_close(&mut self, frame: Option<&CloseFrame>, now: Duration) {
        self.close_received = true;
        if !self.close_sent {
            let mut payload = frame.map_or_else(Vec::new, CloseFrame::to_payload);
            if payload.len() > OpCode::MAX_CONTROL {
                payload.truncate(size_of::<u16>());
            }
            self.queue_close(&payload, now);
        }
    }

    fn queue_close(&mut self, payload: &[u8], now: Duration) {
        self.frame_control(OpCode::Close, payload);
        self.close_sent = true;
        self.end_messages();
        self.close_time = self.close_time.saturating_add(nanos(now));
    }

    /// Queues one frame that is a whole message, its payload copied.
    #[inline]
    fn frame_message(&mut self, opcode: OpCode, payload: &[u8]) {
        self.meter
            .sent()
            .message(opcode == OpCode::Text, payload.len());
        self.frame(opcode, payload);
    }

    /// Queues a control frame.
    fn frame_control(&mut self, opcode: OpCode, payload: &[u8]) {
        self.meter.sent().control(opcode);
        self.frame(opcode, payload);
    }

    /// Queues one frame, its payload copied.
    fn frame(&mut self, opcode: OpCode, payload: &[u8]) {
        let header = header(self.role, opcode, false, payload.len());
        let (bytes, len) = header.encode();
        let out = self.output.append(len + payload.len());
        let (head, body) = out.split_at_mut(len);
        head.copy_from_slice(&bytes[..len]);
        output::copy(payload, body);
        if let Some(key) = header.mask {
            Mask::apply_once(key, body);
        }
    }

    /// Queues a message that others send too.
    #[inline(never)]
    fn send_shared(&mut self, message: &Message) {
        let (opcode, payload) = opcode_and_payload(message.as_ref());
        if payload.len() >= LARGE {
            self.frame_large(opcode, message.clone());
        } else if !self.send_quick(message.as_ref()) {
            self.frame_message(opcode, payload);
        }
    }

    /// Queues one frame, its payload moved. Masking needs the payload to itself: it is copied only
    /// where someone else holds it too.
    #[inline(never)]
    fn frame_large(&mut self, opcode: OpCode, message: Message) {
        let mut payload = message.into_bytes();
        self.meter
            .sent()
            .message(opcode == OpCode::Text, payload.len());
        let header = header(self.role, opcode, false, payload.len());
        let (bytes, len) = header.encode();
        if let Some(key) = header.mask {
            let mut owned = payload
                .try_into_mut()
                .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
            Mask::new(key).apply(&mut owned);
            payload = Bytes::from(owned);
        }
        self.output.append(len).copy_from_slice(&bytes[..len]);
        self.output.append_large(payload);
    }

    /// Queues a message compressed, where that is worth it (RFC 7692 §7.2.1). What that takes is there only while
    /// messages can be sent.
    fn send_compressed(
        &mut self,
        message: Outgoing<'_>,
        deflaters: &mut Deflaters,
    ) -> Result<(), SendError> {
        if self.is_open()
            && let Some(parts) = self.parts_mut()
        {
            parts.hold(message, true);
            return Ok(());
        }
        if let Outgoing::Prepared(prepared) = &message
            && self.send_prepared(prepared, deflaters)
        {
            return Ok(());
        }
        let (opcode, payload) = opcode_and_payload(message.as_ref());
        if self.compress(opcode, payload, deflaters) {
            return Ok(());
        }
        self.send_plain(message)
    }

    /// Queues what others have compressed, or compresses it for them. Tells whether it did: masks
    /// and contexts make the bytes this connection's own.
    #[cfg(feature = "deflate")]
    #[inline(never)]
    fn send_prepared(&mut self, prepared: &Prepared, deflaters: &mut Deflaters) -> bool {
        let settings = match (self.role, self.deflate()) {
            (Role::Server, Some(deflate)) if deflate.own.is_none() => deflate.settings,
            _ => return false,
        };
        let frame = match prepared.compressed(settings, deflaters) {
            None => return false,
            Some(Some(frame)) => frame,
            Some(None) => {
                self.send_shared(prepared.message());
                return true;
            }
        };
        if frame.len() >= LARGE {
            self.output.append_large(frame.clone());
        } else {
            self.output.append(frame.len()).copy_from_slice(frame);
        }
        // The length of the header, as a server's are.
        let header = match frame.len() {
            ..128 => 2,
            128..0x1_0004 => 4,
            _ => 10,
        };
        let (opcode, payload) = opcode_and_payload(prepared.message().as_ref());
        let flow = self.meter.sent();
        flow.message(opcode == OpCode::Text, payload.len());
        flow.compressed(frame.len() - header, payload.len());
        true
    }

    /// Without a codec nothing was agreed.
    #[cfg(not(feature = "deflate"))]
    fn send_prepared(&mut self, _: &Prepared, _: &mut Deflaters) -> bool {
        false
    }

    fn compress(&mut self, opcode: OpCode, payload: &[u8], deflaters: &mut Deflaters) -> bool {
        let deflate = self.seldom.as_mut().and_then(|it| it.deflate.as_mut());
        let Some(Deflating { settings, own, .. }) = deflate else {
            return false;
        };
        let keep_context = own.is_some();
        let role = self.role;
        let flow = self.meter.sent();
        let mut worth_it = true;
        self.output.append_with(|out| {
            // The header's length is known only afterwards: leave room for the longest, then close
            // the gap.
            let start = out.len();
            let body = start + FrameHeader::MAX_LEN;
            out.resize(body, 0);
            match own {
                Some(deflater) => deflater.compress(payload, out),
                None => deflaters.compress(*settings, payload, out),
            }
            // Where a context is kept, the peer's must see every message that went into ours.
            worth_it = keep_context || out.len() - body < payload.len();
            if !worth_it {
                out.truncate(start);
                return;
            }
            flow.message(opcode == OpCode::Text, payload.len());
            flow.compressed(out.len() - body, payload.len());
            let header = header(role, opcode, true, out.len() - body);
            let (bytes, len) = header.encode();
            if let Some(key) = header.mask {
                Mask::new(key).apply(&mut out[body..]);
            }
            out[start..start + len].copy_from_slice(&bytes[..len]);
            let gap = start + len..body;
            let rest = out.len() - gap.len();
            out.copy_within(gap.end.., gap.start);
            out.truncate(rest);
        });
        worth_it
    }
}

#[inline]
fn opcode_and_payload(message: MessageRef<'_>) -> (OpCode, &[u8]) {
    match message {
        MessageRef::Text(text) => (OpCode::Text, text.as_bytes()),
        MessageRef::Binary(bytes) => (OpCode::Binary, bytes),
    }
}

/// The header of a frame that is a whole message or control frame: masked where a client sends it.
#[inline]
fn header(role: Role, opcode: OpCode, rsv1: bool, len: usize) -> FrameHeader {
    let mask = match role {
        Role::Client { masks } => Some(masks()),
        Role::Server => None,
    };
    FrameHeader {
        fin: true,
        rsv1,
        opcode,
        mask,
        payload_len: len as u64,
    }
}
