//! Both halves of a connection, the closing handshake between them, and its deadline (RFC 6455 §7).

use alloc::sync::Arc;
use core::time::Duration;

use crate::{
    CloseCode, Codecs, Counters, Event, Limits, MessageKind, Outgoing, Output, Part, ProtocolError,
    Receiver, Role, SendError, Sender,
    deflate::{DeflateConfig, DeflateParams},
};

/// What a connection is made with, once the opening handshake is done.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Which end this is.
    pub role: Role,
    /// What the peer may make this end hold.
    pub limits: Limits,
    /// How long the peer may take to answer a Close. Default 5 s.
    pub close_timeout: Duration,
    /// permessage-deflate, where it was agreed, and how to compress what is sent.
    pub deflate: Option<(DeflateParams, DeflateConfig)>,
}

impl Config {
    /// The defaults for one end of a connection, without compression.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            limits: Limits::default(),
            close_timeout: Duration::from_secs(5),
            deflate: None,
        }
    }

    /// Makes the two halves of a connection, for a driver that keeps them in different places.
    ///
    /// Such a driver gives every event to [`Sender::respond`], every error to [`Sender::fail`].
    pub fn halves(&self) -> (Receiver, Sender) {
        self.halves_within(Arc::new(self.limits))
    }

    /// As [`halves`](Self::halves), with limits that many connections have in common instead of its own:
    /// 32 bytes a connection.
    pub fn halves_within(&self, limits: Arc<Limits>) -> (Receiver, Sender) {
        let receive = self.deflate.map(|(agreed, _)| agreed.incoming(&self.role));
        let send = self
            .deflate
            .map(|(agreed, config)| (agreed.outgoing(&self.role), config));
        let sender = Sender::new(self.role, send, self.close_timeout);
        let meter = sender.meter().clone();
        let receiver = Receiver::counting(self.role, limits, receive, meter);
        (receiver, sender)
    }
}

/// One end of an open connection, without I/O.
///
/// Feed it what was read with [`receive`](Self::receive), write what [`output`](Self::output)
/// holds, and call [`handle_timeout`](Self::handle_timeout) at [`timeout`](Self::timeout). `now` is
/// the time since any fixed moment.
///
/// ```
/// use core::time::Duration;
/// use sockeye_proto::{Codecs, Config, Connection, Event, MessageRef, Role};
///
/// # fn masks() -> [u8; 4] { [1, 2, 3, 4] } // for the example; a real one is unpredictable
/// let (mut codecs, now) = (Codecs::new(), Duration::ZERO);
/// let mut client = Connection::new(&Config::new(Role::Client { masks }));
/// let mut server = Connection::new(&Config::new(Role::Server));
///
/// client.send("Привет", &mut codecs)?;
/// let mut bytes: Vec<u8> = client.output().chunks().flatten().copied().collect();
/// client.output().advance(bytes.len());
///
/// let mut input = &mut bytes[..];
/// let event = server.receive(&mut input, now, &mut codecs)?;
/// assert_eq!(event, Some(Event::Message(MessageRef::Text("Привет".into()))));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Connection {
    receiver: Receiver,
    sender: Sender,
    timed_out: bool,
    /// Whether the peer has ended its side of the transport.
    gone: bool,
}

impl Connection {
    /// An open connection.
    pub fn new(config: &Config) -> Self {
        let (receiver, sender) = config.halves();
        Self {
            receiver,
            sender,
            timed_out: false,
            gone: false,
        }
    }

    /// Takes the next event off the front of `input`, and queues the answer it calls for. Call it
    /// until it gives `None`: then all of the input has been consumed.
    ///
    /// # Errors
    /// The rule that the peer broke. The Close it is owed is queued: write the output, and read and discard what still
    /// comes until the peer has gone, or for as long as a Close may take; then disconnect. TCP that is closed with
    /// something unread is reset, and the peer may never have the Close.
    #[inline]
    pub fn receive<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i mut [u8],
        now: Duration,
        codecs: &'a mut Codecs,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        match self.receiver.receive(input, &mut codecs.inflater) {
            Ok(Some(event)) => {
                self.sender.respond(&event, now);
                Ok(Some(event))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                self.sender.fail(error, now);
                Err(error)
            }
        }
    }

    /// Says that the peer has ended its side of the transport. Without a Close before it, that is
    /// an abnormal closure (§7.1.5).
    pub fn receive_end(&mut self) {
        self.gone = true;
        self.sender.peer_is_gone();
    }

    /// Queues a message.
    ///
    /// # Errors
    /// [`SendError::Closed`] once a Close has been sent or received.
    #[inline]
    pub fn send<'a>(
        &mut self,
        message: impl Into<Outgoing<'a>>,
        codecs: &mut Codecs,
    ) -> Result<(), SendError> {
        self.sender.send(message, &mut codecs.deflaters)
    }

    /// As [`receive`](Self::receive), with messages in parts: see [`Receiver::receive_part`].
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn receive_part(
        &mut self,
        input: &mut &mut [u8],
        room: &mut [u8],
        now: Duration,
    ) -> Result<Option<Part>, ProtocolError> {
        let part = self.receiver.receive_part(input, room);
        match &part {
            Ok(Some(Part::Event(event))) => self.sender.respond(&event.as_event(), now),
            Ok(_) => {}
            Err(error) => self.sender.fail(*error, now),
        }
        part
    }

    /// Says that nobody wants the rest of a message that is being received in parts, its
    /// [`Part::End`] neither: see [`Receiver::skip_message`].
    pub fn skip_message(&mut self) {
        self.receiver.skip_message();
    }

    /// Begins a message that is sent in parts: see [`Sender::begin_message`].
    ///
    /// # Errors
    /// As [`Sender::begin_message`].
    pub fn begin_message(&mut self, kind: MessageKind) -> Result<(), SendError> {
        self.sender.begin_message(kind)
    }

    /// Queues the next part of it.
    ///
    /// # Errors
    /// As [`Sender::send_part`].
    pub fn send_part(&mut self, part: &[u8]) -> Result<(), SendError> {
        self.sender.send_part(part)
    }

    /// Queues what the compressor keeps of the parts.
    ///
    /// # Errors
    /// As [`Sender::flush_parts`].
    pub fn flush_parts(&mut self) -> Result<(), SendError> {
        self.sender.flush_parts()
    }

    /// Ends it.
    ///
    /// # Errors
    /// As [`Sender::finish_message`].
    pub fn finish_message(&mut self, codecs: &mut Codecs) -> Result<(), SendError> {
        self.sender.finish_message(&mut codecs.deflaters)
    }

    /// Whether a message was begun and not finished.
    pub fn is_sending_parts(&self) -> bool {
        self.sender.is_sending_parts()
    }

    /// How many bytes of whole messages wait for one that is sent in parts: see [`Sender::held`]. They are not in
    /// [`output`](Self::output) until it is finished.
    pub fn held(&self) -> usize {
        self.sender.held()
    }

    /// Queues a ping.
    ///
    /// # Errors
    /// As [`Sender::ping`].
    pub fn ping(&mut self, payload: &[u8]) -> Result<(), SendError> {
        self.sender.ping(payload)
    }

    /// Queues an unasked pong. Pings are answered without it.
    ///
    /// # Errors
    /// As [`Sender::pong`].
    pub fn pong(&mut self, payload: &[u8]) -> Result<(), SendError> {
        self.sender.pong(payload)
    }

    /// Begins the closing handshake (§7.1.2).
    ///
    /// # Errors
    /// As [`Sender::close`].
    pub fn close(&mut self, code: CloseCode, reason: &str, now: Duration) -> Result<(), SendError> {
        self.sender.close(code, reason, now)
    }

    /// Begins the closing handshake with a Close that says nothing.
    ///
    /// # Errors
    /// As [`Sender::close_without_code`].
    pub fn close_without_code(&mut self, now: Duration) -> Result<(), SendError> {
        self.sender.close_without_code(now)
    }

    /// What waits to be written. Between looking at it and [`Output::advance`] nothing else may be called on the
    /// connection: see [`Output::chunks`].
    #[inline]
    pub fn output(&mut self) -> &mut Output {
        self.sender.output()
    }

    /// What the connection has carried so far. How many bytes were read and written only the driver
    /// knows: they are 0.
    pub fn counters(&self) -> Counters {
        self.sender.meter().counters()
    }

    /// Whether messages can still be sent.
    pub fn is_open(&self) -> bool {
        self.sender.is_open()
    }

    /// Whether the transport is to be shut down: both sides have closed and all is written, the peer has ended
    /// its side without a Close ([`receive_end`](Self::receive_end)) and this end has sent none, behind which what is
    /// queued is to be written still, or the deadline has passed. The server does so first; a client gives it until
    /// [`timeout`](Self::timeout) (§7.1.1).
    pub fn is_finished(&self) -> bool {
        let broken_off = self.gone && !self.sender.is_close_sent();
        self.timed_out || broken_off || self.sender.is_finished()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn timeout(&self) -> Option<Duration> {
        self.sender.deadline().filter(|_| !self.timed_out)
    }

    /// Gives up on a peer that has not answered a Close in time.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.timed_out |= self
            .sender
            .deadline()
            .is_some_and(|deadline| now >= deadline);
    }
}
