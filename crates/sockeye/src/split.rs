//! The halves of a WebSocket, owned: one receives, any number send.

#[cfg(feature = "server")]
use std::any::Any;
use std::{
    fmt,
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream;
use sockeye_proto::{CloseCode, CloseFrame, Message, OwnedEvent as Event, Part};

use crate::{
    Counters, Ended, MessageKind, MessageReader, MessageWriter, Outgoing, Result, WebSocket,
    driver::Driver,
    link::{Command, Link},
    message_reader::Incoming,
    reader::{Broken, Phase, Reader},
    shared::Shared,
};

/// The half that sends. Clones send on the same connection, from any task.
///
/// Messages sent at once from many tasks go out whole, one after another. The connection outlives
/// the clones for as long as its [`Receiver`] or [`WebSocket`] does.
#[derive(Clone)]
pub struct Sender {
    pub(crate) shared: Arc<Shared>,
}

impl Sender {
    /// Sends a message: waits while more output waits than the high-water mark, then queues it.
    /// Where a server's handler runs the connection, it is written when that task next yields; else
    /// this writes it and returns when that is done.
    ///
    /// # Errors
    /// [`Error::is_closed`](crate::Error::is_closed) once a Close was sent or received;
    /// [`Error::is_lost`](crate::Error::is_lost) where the transport has failed.
    ///
    /// # Cancel safety
    /// Dropped while it waits for room, the message has not been sent. Dropped later, it is queued
    /// whole: it goes out with whatever is sent or received next.
    pub fn send<'a>(&self, message: impl Into<Outgoing<'a>>) -> impl Future<Output = Result<()>> {
        self.shared.send(message.into())
    }

    /// Sends a message unless that would have to wait: where less output waits than the high-water
    /// mark, it is queued, and goes out as with [`send`](Self::send). Where the socket is not a
    /// server's and takes only a part at once, the rest goes out with whatever is sent or received
    /// next, so keep its [`Receiver`] receiving.
    ///
    /// For one message to many, so that a peer that reads slowly holds up no other:
    ///
    /// ```
    /// use sockeye::{Prepared, Sender};
    ///
    /// /// Gives a message to everyone, and forgets those who have left.
    /// fn publish(members: &mut Vec<Sender>, message: &Prepared) {
    ///     members.retain(|member| match member.try_send(message) {
    ///         Err(error) if error.is_full() => { println!("{member:?} misses a message"); true }
    ///         result => result.is_ok(),
    ///     });
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_full`](crate::Error::is_full), and the message was not sent; else as [`send`](Self::send).
    pub fn try_send<'a>(&self, message: impl Into<Outgoing<'a>>) -> Result<()> {
        self.shared.try_send(message.into())
    }

    /// Sends a message of which only the newest is worth having: a price, a position, a progress. It
    /// never waits: where the peer has not taken yet what was sent before, the message waits with its
    /// `key`, and replaces the one that waits with the same. So a peer that reads slowly gets fewer,
    /// always the newest, and never a backlog: of each key one message waits here, however many are
    /// sent. (The system's own buffer for the connection comes on top of it.)
    ///
    /// It goes out when nothing else waits, keys in the order in which they began to wait; a Close
    /// sends what waits before it. Where nothing drives the connection, keep its [`Receiver`] receiving for that. It is not part of [`buffered_amount`](Self::buffered_amount).
    ///
    /// What waits of all keys together is bounded by `output_limit` of the `Client` or `Acceptor`, 32 MiB by default, or
    /// for a moment twice that: where so much waits, a message is refused, be it of a key that waits. So keep the keys few.
    ///
    /// ```
    /// use sockeye::{Prepared, Sender};
    ///
    /// /// Tells everyone of a price. Those who left are forgotten.
    /// fn publish(members: &mut Vec<Sender>, symbol: u64, price: &Prepared) {
    ///     members.retain(|member| member.send_latest(symbol, price).is_ok());
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_full`](crate::Error::is_full), and the message was not sent; else as [`send`](Self::send).
    pub fn send_latest<'a>(&self, key: u64, message: impl Into<Outgoing<'a>>) -> Result<()> {
        self.shared.send_latest(key, message.into())
    }

    /// Begins a message whose length need not be known, and that is never whole in memory: see
    /// [`MessageWriter`]. Waits while another is being sent so.
    ///
    /// # Errors
    /// [`Error::is_closed`](crate::Error::is_closed) once a Close was sent or received, [`Error::is_lost`](crate::Error::is_lost)
    /// where the transport has failed.
    ///
    /// # Cancel safety
    /// Safe: nothing has been sent.
    pub async fn send_stream(&self, kind: MessageKind) -> Result<MessageWriter<'_>> {
        MessageWriter::begin(&self.shared, kind).await
    }

    /// Sends a ping of at most 125 bytes. The pong comes as an event of
    /// [`recv_event`](Receiver::recv_event).
    ///
    /// # Errors
    /// As [`send`](Self::send); [`SendError::ControlTooLong`](crate::SendError::ControlTooLong).
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn ping(&self, payload: &[u8]) -> Result<()> {
        self.shared
            .send_command(Command::Ping(payload.to_vec()))
            .await
    }

    /// Sends a pong that no ping asked for (RFC 6455 §5.5.3). Pings are answered without it.
    ///
    /// # Errors
    /// As [`ping`](Self::ping).
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn pong(&self, payload: &[u8]) -> Result<()> {
        self.shared
            .send_command(Command::Pong(payload.to_vec()))
            .await
    }

    /// Sends a Close and returns once it is on its way; the [`Receiver`] then ends when the peer has
    /// answered, or after the close timeout. Where the receiver was dropped, this waits for that, unless
    /// something drives the connection, as a server does: then that waits for it, once the handler is done. A receiver
    /// that is dropped later leaves it to a task of the runtime that it is dropped in, where there is one.
    ///
    /// # Errors
    /// [`Error::is_closed`](crate::Error::is_closed) where a Close was sent or received before,
    /// [`Error::is_lost`](crate::Error::is_lost) where the transport had failed; a reason of more than 123 bytes; 1010 from a
    /// server.
    ///
    /// # Cancel safety
    /// The Close is queued at the first poll, and goes out with whatever happens next.
    pub async fn close(&self, code: CloseCode, reason: &str) -> Result<()> {
        self.shared
            .queue_close(Some(CloseFrame::new(code, reason)))?;
        let abandoned = self.shared.has_reader();
        if abandoned {
            Driver::finish_left(&self.shared, code).await;
            return Ok(());
        }
        // A transport that fails now is noticed by whoever receives.
        let _ = poll_fn(|cx| self.shared.poll_flush(cx, false)).await;
        Ok(())
    }

    /// Waits until everything queued has been handed to the transport, but for messages behind one that is being sent in
    /// parts: those are not waited for.
    ///
    /// # Errors
    /// [`Error::is_lost`](crate::Error::is_lost).
    ///
    /// # Cancel safety
    /// Safe: what is queued stays queued.
    pub async fn flush(&self) -> Result<()> {
        self.shared.flush().await
    }

    /// What the connection has carried so far: messages by kind, bytes, and how well they compressed.
    /// Asking takes a few loads from memory, and no lock: see [`Counters`].
    pub fn counters(&self) -> Counters {
        self.shared.meter.counters()
    }

    /// How long ago the connection opened.
    pub fn age(&self) -> Duration {
        self.shared.pulse.age()
    }

    /// How long the last ping that keeps the connection took there and back; `None` before the first
    /// pong.
    pub fn rtt(&self) -> Option<Duration> {
        self.shared.pulse.rtt()
    }

    /// Whether messages can still be sent: no Close was sent or received, and the transport stands.
    pub fn is_open(&self) -> bool {
        self.shared.is_open()
    }

    /// The address of the peer: as [`WebSocket::peer_addr`].
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.shared.info.peer_addr()
    }

    /// What [`Answer::state`](crate::server::Answer::state) has this connection remember, at the server;
    /// `None` where there is nothing of that type.
    #[cfg(feature = "server")]
    pub fn state<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.shared.info.state()
    }

    /// How many bytes wait to be written.
    pub fn buffered_amount(&self) -> usize {
        self.shared.buffered()
    }

    /// Why the connection ended, once it has.
    pub fn ended(&self) -> Option<Ended> {
        self.shared.ended()
    }

    /// Waits until the connection has ended, and gives why: for a task that waits for what it is to send.
    ///
    /// The end is found by whoever receives, or drives the connection; where the receiving half was dropped, also by a `send`
    /// that fails.
    ///
    /// ```
    /// use sockeye::Sender;
    /// use tokio::sync::mpsc;
    ///
    /// /// Sends what comes of a channel, for as long as there is anyone to send it to.
    /// async fn forward(mut news: mpsc::Receiver<String>, sender: Sender) -> sockeye::Result<()> {
    ///     loop {
    ///         tokio::select! {
    ///             Some(news) = news.recv() => sender.send(news).await?,
    ///             _ = sender.closed() => return Ok(()),
    ///             else => return Ok(()),
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Cancel safety
    /// Safe: nothing is lost.
    pub fn closed(&self) -> impl Future<Output = Ended> {
        self.shared.until_ended()
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("peer", &self.shared.info.peer_addr())
            .finish_non_exhaustive()
    }
}

/// The half that receives. It also answers pings and sends those that keep the connection, so keep it
/// receiving. In the task of a server's handler, or of [`WebSocket::drive`], that is done meanwhile, as [`WebSocket`] says.
/// Moved to another task, it begins to receive when that handler next yields.
pub struct Receiver {
    shared: Arc<Shared>,
    /// Not there while it is [lent](crate::link::Link::lent), and once the connection has ended.
    reader: Option<Box<Reader>>,
}

impl Receiver {
    pub(crate) fn new(shared: Arc<Shared>, reader: Box<Reader>) -> Self {
        Self {
            shared,
            reader: Some(reader),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Whether anything more may come.
    #[cfg(feature = "client")]
    pub(crate) fn is_receiving(&self) -> bool {
        let phase = self.reader.as_ref().map(|reader| reader.phase);
        phase.is_none_or(|phase| phase == Phase::Open)
    }

    /// Lends the receiving side to a driver that has the link.
    pub(crate) fn lend_to(&mut self, link: &mut Link) {
        let reader = self.reader.take();
        if let Some(reader) = reader.or_else(|| self.shared.take_returned()) {
            link.lent = Some(reader);
        }
    }

    /// What it receives with.
    pub(crate) fn reader(&mut self) -> Option<&mut Reader> {
        self.reader.as_deref_mut()
    }

    /// Gives up the receiving side to whoever takes it from here, unless it is lent, or gone with the connection.
    pub(crate) fn give_up(&mut self) -> Option<Box<Reader>> {
        let reader = self.reader.take()?;
        self.shared.receives_no_more();
        Some(reader)
    }

    /// The same, wherever it is; `None` where it is gone with the connection.
    pub(crate) fn poll_give_up(&mut self, cx: &mut Context<'_>) -> Poll<Option<Box<Reader>>> {
        ready!(self.poll_take_back(cx));
        Poll::Ready(self.give_up())
    }

    /// Takes back what is lent, wherever it is.
    fn poll_take_back(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.reader.is_none() {
            self.reader = ready!(self.shared.poll_lent(cx));
        }
        Poll::Ready(())
    }

    /// The next message, or `None` once the connection was closed cleanly by either side;
    /// [`ended`](Self::ended) then says how.
    ///
    /// # Errors
    /// How the connection ended, where not cleanly: [`Error::is_lost`](crate::Error::is_lost),
    /// [`Error::is_protocol`](crate::Error::is_protocol), [`Error::is_timeout`](crate::Error::is_timeout),
    /// [`Error::Overflow`](crate::Error::Overflow). It is told once; then comes `None`.
    /// Of a broken rule it is told when the peer has ended its side or the close timeout is over, where nobody drives
    /// the connection.
    ///
    /// # Cancel safety
    /// Safe: what has arrived is kept, and comes with the next call.
    #[inline]
    pub async fn recv(&mut self) -> Result<Option<Message>> {
        poll_fn(|cx| self.poll_message(cx)).await
    }

    /// As [`recv`](Self::recv), with pings, pongs and the Close of the peer as events too. Pings
    /// and the Close have been answered. Of pings and pongs that were taken while nobody received the newest four are told.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    ///
    /// # Cancel safety
    /// Safe, as [`recv`](Self::recv).
    pub async fn recv_event(&mut self) -> Result<Option<Event>> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// The next message, to be read as it arrives: it need not fit into memory, or into a limit. See
    /// [`MessageReader`]. `None` once the connection was closed cleanly, as from
    /// [`recv`](Self::recv). What was not read of the message before is discarded.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    ///
    /// # Cancel safety
    /// Safe, as [`recv`](Self::recv).
    pub async fn recv_stream(&mut self) -> Result<Option<MessageReader<'_>>> {
        MessageReader::next(self).await
    }

    /// The address of the peer: as [`WebSocket::peer_addr`].
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.shared.info.peer_addr()
    }

    /// Another handle that sends on this connection.
    pub fn sender(&self) -> Sender {
        Sender {
            shared: self.shared.clone(),
        }
    }

    /// Why the connection ended, once it has.
    pub fn ended(&self) -> Option<Ended> {
        self.shared.ended()
    }

    /// What the connection has carried so far: messages by kind, bytes, and how well they compressed.
    /// Asking takes a few loads from memory, and no lock: see [`Counters`].
    pub fn counters(&self) -> Counters {
        self.shared.meter.counters()
    }

    /// How long ago the connection opened.
    pub fn age(&self) -> Duration {
        self.shared.pulse.age()
    }

    /// How long the last ping that keeps the connection took there and back; `None` before the first
    /// pong.
    pub fn rtt(&self) -> Option<Duration> {
        self.shared.pulse.rtt()
    }

    /// Whether messages can still be sent: no Close was sent or received, and the transport stands.
    pub fn is_open(&self) -> bool {
        self.shared.is_open()
    }

    /// Waits until the connection has ended, and gives why: as [`WebSocket::closed`].
    ///
    /// # Cancel safety
    /// Safe, as that.
    pub async fn closed(&mut self) -> Ended {
        let shared = self.shared.clone();
        let mut ended = pin!(shared.until_ended());
        let mut ahead = Ahead {
            receiver: self,
            in_hand: false,
        };
        poll_fn(|cx| {
            if let Poll::Ready(ended) = ended.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            ahead.receive(cx);
            ended.as_mut().poll(cx)
        })
        .await
    }

    /// Puts the halves together again.
    ///
    /// # Errors
    /// Gives both back where they are of different connections.
    #[allow(
        clippy::result_large_err,
        reason = "the error is both halves, given back"
    )]
    pub fn reunite(self, sender: Sender) -> Result<WebSocket, (Self, Sender)> {
        if Arc::ptr_eq(&self.shared, &sender.shared) {
            Ok(WebSocket::from_receiver(self))
        } else {
            Err((self, sender))
        }
    }

    #[inline]
    pub(crate) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Message>>> {
        if self.reader.is_none() {
            self.reader = self.shared.take_lent();
        }
        // Most have nothing else to see to. By way of an event it would be 200 instructions more a wake-up.
        if let Some(reader) = &mut self.reader
            && reader.phase == Phase::Open
            && !reader.may_have_given_much()
        {
            match reader.poll_whole(cx) {
                Some(Poll::Ready(message)) if !self.shared.has_left() => {
                    // Where a message is next, a driver could do nothing with it.
                    if !reader.wants_more {
                        self.shared.lend(&mut self.reader);
                    }
                    return Poll::Ready(Ok(Some(message)));
                }
                Some(Poll::Pending) if self.shared.park_quick(cx, &mut self.reader) => {
                    return Poll::Pending;
                }
                _ => {}
            }
        }
        loop {
            match ready!(self.poll_but_pings(cx, Reader::poll_event))? {
                Some(Event::Message(message)) => return Poll::Ready(Ok(Some(message))),
                Some(_) => {}
                None => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// The next part of a message, put into `room`, or an event that is no ping.
    #[inline]
    pub(crate) fn poll_part(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<Result<Option<Part>>> {
        self.poll_but_pings(cx, |reader, cx| reader.poll_part(cx, room))
    }

    /// The next of what `take` takes off the reader, but for pings.
    #[inline]
    pub(crate) fn poll_but_pings<T: Incoming>(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(&mut Reader, &mut Context<'_>) -> Poll<Result<T, Broken>>,
    ) -> Poll<Result<Option<T>>> {
        let next = self.poll_all_but_pings(cx, &mut take);
        self.lend(cx, &next);
        next
    }

    #[inline]
    fn poll_all_but_pings<T: Incoming>(
        &mut self,
        cx: &mut Context<'_>,
        take: &mut impl FnMut(&mut Reader, &mut Context<'_>) -> Poll<Result<T, Broken>>,
    ) -> Poll<Result<Option<T>>> {
        // Where they come in crowds, one pong for all goes out, before anything else happens: a write for each would hold
        // the thread for a second.
        let mut is_owed_pong = false;
        loop {
            let next = self.poll_answering(cx, &mut *take, Reader::has_input);
            if let Poll::Ready(Ok(Some(taken))) = &next
                && let Some(Event::Ping(_)) = taken.event()
            {
                is_owed_pong = true;
                continue;
            }
            if is_owed_pong {
                let _ = self.shared.poll_flush(cx, false);
            }
            return next;
        }
    }

    #[inline]
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Event>>> {
        self.poll_next_with(cx, Reader::poll_event)
    }

    /// Says that nobody wants the rest of a message that is being received in parts.
    #[cfg(feature = "client")]
    pub(crate) fn skip_message(&mut self) {
        match &mut self.reader {
            Some(reader) => reader.skip_message(),
            None => self.shared.with_lent(Reader::skip_message),
        }
    }

    /// The next of what `take` takes off the reader, with the peer given what it is owed.
    #[inline]
    pub(crate) fn poll_next_with<T: Incoming>(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnMut(&mut Reader, &mut Context<'_>) -> Poll<Result<T, Broken>>,
    ) -> Poll<Result<Option<T>>> {
        let next = self.poll_answering(cx, take, |_| false);
        self.lend(cx, &next);
        next
    }

    /// Lends the receiving side to the driver whose poll this is, behind what has come of it.
    #[inline(never)]
    fn lend<T: Incoming>(&mut self, cx: &Context<'_>, next: &Poll<Result<Option<T>>>) {
        match next {
            Poll::Pending => self.shared.lend_awaited(cx, &mut self.reader),
            Poll::Ready(next) => {
                if let (Ok(Some(next)), Some(reader)) = (next, &mut self.reader) {
                    reader.wants_more = !next.is_message();
                }
                self.shared.lend(&mut self.reader);
            }
        }
    }

    /// The same, but that pongs may be written `later`, by the caller, where it takes more before it lets go of the thread.
    #[inline]
    fn poll_answering<T: Incoming>(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(&mut Reader, &mut Context<'_>) -> Poll<Result<T, Broken>>,
        later: impl Fn(&Reader) -> bool,
    ) -> Poll<Result<Option<T>>> {
        ready!(self.poll_take_back(cx));
        loop {
            let Some(reader) = &mut self.reader else {
                return Poll::Ready(Ok(None));
            };
            if let Some(event) = reader.take_answered() {
                return Poll::Ready(Ok(Some(T::of(event))));
            }
            match reader.phase {
                Phase::Open => {}
                Phase::Ending => {
                    ready!(self.poll_ending(cx));
                    if self.shared.let_go() {
                        self.receive_no_more();
                    } else if let Some(reader) = &mut self.reader {
                        reader.phase = Phase::Done;
                    }
                    let error = self.shared.ended().and_then(|ended| ended.error());
                    return Poll::Ready(error.map_or(Ok(None), Err));
                }
                Phase::Done => {
                    // What a driver has left of the last, where the socket was moved out of it.
                    ready!(self.poll_ending(cx));
                    if self.shared.let_go() {
                        self.receive_no_more();
                    }
                    return Poll::Ready(Ok(None));
                }
            }
            let polled = match reader.poll_turn(cx) {
                Poll::Ready(()) => take(reader, cx),
                Poll::Pending => Poll::Pending,
            };
            match polled {
                Poll::Ready(Ok(taken)) => {
                    if taken.is_message() && self.shared.has_left() {
                        continue;
                    }
                    let later = later(reader);
                    if let Some(event) = taken.event()
                        && !self.answers(cx, event, later)
                    {
                        continue;
                    }
                    return Poll::Ready(Ok(Some(taken)));
                }
                Poll::Ready(Err(broken)) => self.fail(broken),
                Poll::Pending => ready!(self.poll_more(cx, true)),
            }
        }
    }

    /// Gives the peer what it is owed for an event, where a pong may be written `later` by the caller. Says whether it is
    /// told to whoever receives.
    // Out of the way of messages, as the next two: inlined, they take 8 instructions more for each.
    #[inline(never)]
    fn answers(&mut self, cx: &mut Context<'_>, event: &Event, later: bool) -> bool {
        match event {
            Event::Message(_) => {}
            Event::Pong(payload) => return !self.shared.is_own(payload, true),
            Event::Ping(payload) => {
                self.shared.is_own(payload, false);
                let _ = self.shared.apply(Command::AnswerPing(payload.clone()));
                if !later {
                    let _ = self.shared.poll_flush(cx, false);
                }
            }
            Event::Close(frame) => {
                // First, so that a Close sent by another task is not taken for the
                // one that this answers.
                self.shared.end_by_close(frame.clone());
                let _ = self.shared.apply(Command::AnswerClose(frame.clone()));
                let _ = self.shared.poll_flush(cx, false);
                self.ends();
            }
        }
        true
    }

    /// Ends the connection for what the peer has done, or as that has ended it.
    #[cold]
    fn fail(&mut self, broken: Broken) {
        let (command, ended) = broken.consequence();
        let _ = self.shared.apply(command);
        self.shared.end(ended);
        self.ends();
    }

    /// Nothing more will come.
    fn ends(&mut self) {
        if let Some(reader) = &mut self.reader {
            reader.phase = Phase::Ending;
        }
    }

    /// Waits for more, where nothing is there: until there may be, or that was the end. A server that ends closes then, where
    /// whoever waits `leaves` it no message to be answered.
    #[inline(never)]
    fn poll_more(&mut self, cx: &mut Context<'_>, leaves: bool) -> Poll<()> {
        let Some(reader) = &mut self.reader else {
            return Poll::Ready(());
        };
        if reader.is_held_back() && self.shared.lock().has_close() {
            // Our Close was sent: the peer's is waited for, behind whatever comes.
            reader.let_run();
        } else if reader.is_between_turns() && !reader.is_held_back() {
            // Its turn is over, and what it has read is to be gone through in the next: it will be woken for that. It may be so
            // in every turn, and what comes with waiting would never come.
            if !self.shared.is_over_between_turns(cx) {
                return Poll::Pending;
            }
            let _ = self.shared.apply(Command::PeerGone);
            self.ends();
        } else {
            let held_back = reader.is_held_back();
            if held_back {
                self.shared.pulse.hold_back(reader.holds_something());
            }
            match self.shared.park(cx, held_back, leaves) {
                Err(()) => self.ends(),
                Ok(None) => return Poll::Pending,
                Ok(Some(deadline)) => {
                    ready!(self.shared.poll_until(cx, deadline));
                    let _ = self.shared.apply(Command::PeerGone);
                    self.shared.end(Ended::TimedOut);
                }
            }
        }
        Poll::Ready(())
    }

    /// Ends the transport with the connection, however long this is kept.
    fn receive_no_more(&mut self) {
        self.shared.receives_no_more();
        self.reader = None;
    }

    /// Writes the last of what the peer is owed, until the deadline. A client then lets the server
    /// end the transport (RFC 6455 §7.1.1), and either lets a peer that has broken a rule: bytes that nobody reads
    /// would reset the connection before it has read why.
    fn poll_ending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let ended = self.shared.ended();
        let clean = ended.as_ref().is_some_and(Ended::was_clean);
        if !clean && !matches!(ended, Some(Ended::Protocol(_))) {
            return Poll::Ready(());
        }
        let Some((written, deadline)) = self.shared.poll_last_words(cx, clean) else {
            return Poll::Ready(());
        };
        if self.shared.poll_until(cx, deadline).is_ready() {
            return Poll::Ready(());
        }
        ready!(written);
        match &mut self.reader {
            Some(reader) if self.shared.info.client || !clean => reader.poll_discard(cx),
            _ => Poll::Ready(()),
        }
    }
}

/// A receiving side of which only the end is waited for.
struct Ahead<'a> {
    receiver: &'a mut Receiver,
    /// Whether a message was in hand when that began.
    in_hand: bool,
}

impl Ahead<'_> {
    /// Takes what comes that is no message, as far as the next that is one, and keeps it to be told. Once this end has
    /// closed, messages are discarded.
    fn receive(&mut self, cx: &mut Context<'_>) {
        let Self { receiver, in_hand } = self;
        if receiver.poll_take_back(cx).is_pending() {
            return;
        }
        let shared = receiver.shared.clone();
        while shared.ended().is_none()
            && let Some(reader) = receiver
                .reader
                .as_mut()
                .filter(|it| it.phase == Phase::Open)
        {
            // A Close is answered, whatever is in hand.
            *in_hand |= !std::mem::replace(&mut reader.wants_more, true);
            let next = match shared.has_closed() {
                false => reader.poll_ahead(cx),
                true if reader.poll_turn(cx).is_pending() => Poll::Pending,
                true => reader.poll_event(cx).map_ok(Some),
            };
            match next {
                Poll::Ready(Ok(Some(event))) => {
                    // Pongs go out with what comes of waiting.
                    if receiver.answers(cx, &event, true)
                        && !matches!(event, Event::Message(_))
                        && let Some(reader) = &mut receiver.reader
                    {
                        reader.tell_later(event);
                    }
                }
                Poll::Ready(Ok(None)) => {
                    // Nobody can say that nothing has come behind it. Where nothing can be written any more, that is the end;
                    // the message can still be received.
                    let leaves = !*in_hand;
                    let waits = shared.park(cx, shared.is_open(), leaves);
                    // Behind having registered, as another task may close at any time: then it is discarded. Or the
                    // transport was found to have failed right there.
                    if waits.is_ok() && (!shared.is_open() || leaves && shared.is_leaving()) {
                        cx.waker().wake_by_ref();
                    }
                    break;
                }
                Poll::Ready(Err(broken)) => {
                    receiver.fail(broken);
                    let _ = shared.poll_flush(cx, false);
                }
                Poll::Pending if receiver.poll_more(cx, !*in_hand).is_pending() => break,
                Poll::Pending => {}
            }
        }
        shared.lend_awaited(cx, &mut receiver.reader);
    }
}

/// Whoever gives up waiting still has the message in hand.
impl Drop for Ahead<'_> {
    fn drop(&mut self) {
        if self.in_hand {
            let Receiver { shared, reader } = &mut *self.receiver;
            match reader {
                Some(reader) => reader.wants_more = false,
                None => shared.with_lent(|reader| reader.wants_more = false),
            }
        }
    }
}

/// Messages, as from [`recv`](Receiver::recv).
impl Stream for Receiver {
    type Item = Result<Message>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_message(cx).map(Result::transpose)
    }
}

/// Goes back to the connection, so that whoever closes that can complete the closing handshake. Where it is closing
/// already a task of its own does: whoever keeps a [`Sender`] would keep the transport.
impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.lend(&mut self.reader);
        match self.reader.take() {
            Some(reader) => self.shared.put_reader(reader),
            None if self.shared.has_given_up() => return,
            None => self.shared.leave_lent(),
        }
        if Arc::strong_count(&self.shared) > 1 {
            Driver::finish_unattended(&self.shared);
        }
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver")
            .field("peer", &self.shared.info.peer_addr())
            .field("phase", &self.reader.as_ref().map(|reader| reader.phase))
            .finish_non_exhaustive()
    }
}
