//! The event form: callbacks, as a browser's `WebSocket` has them, with messages lent from where
//! they were received. The fastest way to use a connection: no allocation a message.

#[cfg(feature = "server")]
use std::any::Any;
use std::{
    fmt,
    future::Future,
    mem,
    net::SocketAddr,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    thread,
    time::Duration,
};

use bytes::Bytes;
use sockeye_proto::{CloseCode, CloseFrame, Event, Message, MessageRef, OwnedEvent};
use tokio::task::coop::has_budget_remaining;

use crate::{
    Counters, Ended, Error, Outgoing, Receiver, Result, Sender, WebSocket, buffers,
    driver::Driver,
    established::OutputLimits,
    given,
    link::Command,
    reader::{Broken, Deliver, Read, Reader},
    shared::Shared,
};

/// What happens on a connection, one callback each. All have a default that does nothing.
///
/// ```
/// use sockeye::{Handler, MessageRef, Socket};
///
/// struct Greeter;
///
/// impl Handler for Greeter {
///     fn on_open(&mut self, socket: &mut Socket) {
///         socket.send("Добро пожаловать на сервер!");
///     }
///     fn on_message(&mut self, _socket: &mut Socket, message: MessageRef<'_>) {
///         println!("Получено сообщение: {message}");
///     }
/// }
/// ```
///
/// What a callback sends is written when all that was received has been handled. While more output
/// waits for the peer than the high-water mark, no messages are delivered: it has to read first.
pub trait Handler {
    /// The connection is open.
    fn on_open(&mut self, socket: &mut Socket) {
        let _ = socket;
    }

    /// A whole message has arrived. None comes after this end has closed.
    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        let _ = (socket, message);
    }

    /// A ping has arrived, and has been answered.
    fn on_ping(&mut self, socket: &mut Socket, payload: &[u8]) {
        let _ = (socket, payload);
    }

    /// A pong has arrived, other than those that keep the connection.
    fn on_pong(&mut self, socket: &mut Socket, payload: &[u8]) {
        let _ = (socket, payload);
    }

    /// The connection did not end cleanly. [`on_close`](Self::on_close) follows.
    fn on_error(&mut self, socket: &mut Socket, error: &Error) {
        let _ = (socket, error);
    }

    /// The connection has ended. The last callback, once for each connection that
    /// [`on_open`](Self::on_open) was called for, whatever has ended it: where the future that runs the
    /// handler was dropped, as by a server that waits no longer, or a callback has panicked, it comes while
    /// that is dropped: with [`Ended::Lost`], or [`Ended::TimedOut`] where it was dropped with a Close on its
    /// way. Only a panic in [`on_error`](Self::on_error) is followed by none.
    ///
    /// Nothing can be sent any more.
    fn on_close(&mut self, socket: &mut Socket, ended: &Ended) {
        let _ = (socket, ended);
    }
}

/// A connection, as its [`Handler`] sees it.
pub struct Socket {
    driver: Driver,
    /// The message that is being delivered, where it has a buffer of its own; in a box, as that is seldom
    /// so.
    delivering: Option<Box<Message>>,
}

/// From this size, sending the delivered message on is worth not copying it.
const LARGE: usize = 16 * 1024;

impl Socket {
    /// Queues a message; it is written when all that was received has been handled.
    ///
    /// As in a browser, a message sent after the connection has begun to close is discarded. Where
    /// more output would wait than the output limit (the peer does not read), the connection is given
    /// up: [`Ended::Overflow`], or what `close_on_overflow` says.
    #[inline]
    pub fn send<'a>(&mut self, message: impl Into<Outgoing<'a>>) {
        // Not kept whole beside its parts: to copy at once what was just written costs the
        // processor as much as sending 128 bytes.
        let short = match message.into() {
            Outgoing::Borrowed(short) => short,
            message => return self.send_any(message),
        };
        if !self.send_quick(short) {
            self.send_any(Outgoing::Borrowed(short));
        }
    }

    /// As [`send`](Self::send), of a short message where nothing is in its way. Says whether it was so;
    /// where not, nothing has happened.
    #[inline]
    fn send_quick(&mut self, message: MessageRef<'_>) -> bool {
        let limit = self.driver.shared.info.settings.output.limit;
        self.driver.link().is_some_and(|link| {
            link.sender.buffered() + message.len() <= limit && link.sender.send_quick(message)
        })
    }

    /// As [`send`](Self::send), however it has to be done.
    #[inline(never)]
    fn send_any(&mut self, mut message: Outgoing<'_>) {
        if let (Some(owned), Outgoing::Borrowed(lent)) = (&self.delivering, &message)
            && lent.len() >= LARGE
            && std::ptr::eq(owned.as_bytes(), lent.as_bytes())
            && owned.is_text() == lent.is_text()
        {
            message = Outgoing::Owned((**owned).clone());
        }
        let limit = self.driver.shared.info.settings.output.limit;
        let Some(link) = self.driver.link() else {
            return;
        };
        let waits = link.waiting();
        if waits + message.as_ref().len() > limit && link.sender.is_open() {
            self.overflow();
            return;
        }
        link.lend_buffer();
        // Refused only where the connection is closing.
        if link.send(message).is_err() {
            link.return_buffer();
        }
    }

    /// Gives up a peer that does not read.
    #[cold]
    fn overflow(&mut self) {
        let OutputLimits {
            limit, overflow, ..
        } = self.driver.shared.info.settings.output;
        let reason = Error::Overflow { limit }.to_string();
        if let Some(code) = overflow
            && self.close(code, &reason).is_ok()
        {
            return;
        }
        if let Some(link) = self.driver.link() {
            link.sender.peer_is_gone();
        }
        self.driver.shared.end(Ended::Overflow { limit });
    }

    /// Queues a message unless as much output waits already as the high-water mark: for what is worth
    /// less than its room, such as a position in a game of which the next will come soon.
    ///
    /// # Errors
    /// [`Error::is_full`], and the message was not queued; [`Error::is_closed`]; [`Error::is_lost`] where the transport has
    /// failed, and callbacks still hear what had come.
    pub fn try_send<'a>(&mut self, message: impl Into<Outgoing<'a>>) -> Result<()> {
        let high_water = self.driver.shared.info.settings.output.high_water;
        let waits = self.driver.link().map_or(0, |link| link.waiting());
        if waits >= high_water && self.is_open() {
            return Err(Error::Full { high_water });
        }
        self.apply(Command::Message(message.into()))
    }

    /// Sends a message that replaces the one before with the same key, where that still waits: see
    /// [`Sender::send_latest`].
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send).
    pub fn send_latest<'a>(&mut self, key: u64, message: impl Into<Outgoing<'a>>) -> Result<()> {
        let most = self.driver.shared.info.settings.output.latest();
        match self.driver.link() {
            Some(link) => link.send_latest(key, message.into(), most),
            None => Err(crate::SendError::Closed.into()),
        }
    }

    /// Queues a ping of at most 125 bytes.
    ///
    /// # Errors
    /// [`SendError::ControlTooLong`](crate::SendError::ControlTooLong); [`Error::is_closed`], [`Error::is_lost`].
    pub fn ping(&mut self, payload: &[u8]) -> Result<()> {
        self.apply(Command::Ping(payload.to_vec()))
    }

    /// Queues a pong that no ping asked for.
    ///
    /// # Errors
    /// As [`ping`](Self::ping).
    pub fn pong(&mut self, payload: &[u8]) -> Result<()> {
        self.apply(Command::Pong(payload.to_vec()))
    }

    /// Begins to close the connection. [`Handler::on_close`] follows when the peer has answered, or
    /// after the close timeout.
    ///
    /// # Errors
    /// [`Error::is_closed`] where a Close was sent or received before, [`Error::is_lost`] where the transport has failed; a
    /// reason of more than 123 bytes; 1010 from a server.
    pub fn close(&mut self, code: CloseCode, reason: &str) -> Result<()> {
        let close = CloseFrame::new(code, reason);
        self.driver.shared.note_close(&close)?;
        self.driver.take_posted();
        self.apply(Command::Close(Some(close)))
    }

    fn apply(&mut self, command: Command<'_>) -> Result<()> {
        match self.driver.link() {
            Some(link) => link.apply(command),
            None => Err(crate::SendError::Closed.into()),
        }
    }

    /// A handle that sends on this connection from other tasks, or later.
    pub fn sender(&self) -> Sender {
        Sender {
            shared: self.driver.shared.clone(),
        }
    }

    /// What the connection has carried so far: messages by kind, bytes, and how well they compressed.
    /// Asking takes a few loads from memory, and no lock: see [`Counters`].
    pub fn counters(&self) -> Counters {
        self.driver.shared.meter.counters()
    }

    /// How long ago the connection opened.
    pub fn age(&self) -> Duration {
        self.driver.shared.pulse.age()
    }

    /// How long the last ping that keeps the connection took there and back; `None` before the first
    /// pong.
    pub fn rtt(&self) -> Option<Duration> {
        self.driver.shared.pulse.rtt()
    }

    /// Whether messages can still be sent.
    pub fn is_open(&mut self) -> bool {
        self.driver.link().is_some_and(|link| link.sender.is_open())
    }

    /// How many bytes wait: to be written, or for the end of a message that another task sends in parts. What
    /// [`send_latest`](Self::send_latest) keeps is not counted.
    pub fn buffered_amount(&mut self) -> usize {
        self.driver.link().map_or(0, |link| link.waiting())
    }

    /// The same without what only waits for another message, which the peer need not read.
    #[inline]
    fn unread_amount(&mut self) -> usize {
        self.driver.link().map_or(0, |link| link.sender.buffered())
    }

    /// The subprotocol that was agreed (RFC 6455 §1.9).
    pub fn subprotocol(&self) -> Option<&str> {
        self.driver.shared.info.subprotocol()
    }

    /// The extensions that were agreed, as in the header of the handshake; empty where none were.
    pub fn extensions(&self) -> String {
        self.driver.shared.info.extensions()
    }

    /// The address of the peer: as [`WebSocket::peer_addr`].
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.driver.shared.info.peer_addr()
    }

    /// The request that opened the connection, at the server.
    #[cfg(feature = "server")]
    pub fn request(&self) -> Option<&crate::server::Request> {
        self.driver.shared.info.peer_head.request()
    }

    /// What the path of the request has at `{name}` in its [route](crate::server::Routes), with its percent
    /// signs decoded, at the server; `None` where the route has no such parameter.
    #[cfg(feature = "server")]
    pub fn param(&self, name: &str) -> Option<&str> {
        self.driver.shared.info.matched()?.param(name)
    }

    /// What [`Answer::state`](crate::server::Answer::state) has this connection remember, at the server;
    /// `None` where there is nothing of that type.
    #[cfg(feature = "server")]
    pub fn state<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.driver.shared.info.state()
    }

    /// The address of the proxy that has said who the client is, at the server: as
    /// [`WebSocket::proxy_addr`].
    #[cfg(feature = "server")]
    pub fn proxy_addr(&self) -> Option<SocketAddr> {
        self.driver.shared.info.proxy()
    }

    /// What TLS says of the client, at the server: as [`WebSocket::tls`].
    #[cfg(all(feature = "server", feature = "tls"))]
    pub fn tls(&self) -> Option<&crate::server::TlsIdentity> {
        self.driver.shared.info.tls()
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("peer", &self.peer_addr())
            .finish_non_exhaustive()
    }
}

impl WebSocket {
    /// Hands the connection to a handler, and runs it until it has ended.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection with 1001, without waiting, and calls
    /// [`on_close`](Handler::on_close) if `on_open` was called.
    pub fn handle<H: Handler>(self, handler: H) -> impl Future<Output = Ended> {
        Handled::new(self, handler)
    }
}

/// A connection in the hands of a handler, until it has ended.
///
/// Written out: this is there for as long as the connection, and an async block that does the same was
/// four times as large.
pub(crate) struct Handled<H: Handler> {
    state: State<H>,
    /// Beside the one that the session has, which is lent to it.
    shared: Arc<Shared>,
}

/// How far it is. In boxes: what holds this need not be as large.
enum State<H> {
    /// The driver that had the connection is yet to give back the receiving side.
    Asking(Box<(Receiver, H)>),
    /// It is yet to give back the sending side.
    Waiting(Box<Session<H>>),
    /// The handler has been told that it is open, and not yet that it has ended.
    Open(Box<Session<H>>),
    Ended,
}

impl<H: Handler> Handled<H> {
    pub(crate) fn new(socket: WebSocket, handler: H) -> Self {
        // The socket is not left with the connection meanwhile: a driver that is done would take it
        // for dropped.
        let mut receiver = socket.into_receiver();
        let shared = receiver.shared().clone();
        let state = match receiver.give_up() {
            Some(reader) => State::Waiting(Box::new(Session::new(&shared, reader, handler))),
            None => State::Asking(Box::new((receiver, handler))),
        };
        Self { state, shared }
    }
}

impl<H: Handler> Future for Handled<H> {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let Self { state, shared } = &mut *self;
        if let State::Asking(asking) = state {
            let reader = ready!(asking.0.poll_give_up(cx));
            if let State::Asking(asking) = mem::replace(state, State::Ended)
                && let Some(reader) = reader
            {
                let (_, handler) = *asking;
                *state = State::Waiting(Box::new(Session::new(shared, reader, handler)));
            }
        }
        if let State::Waiting(session) = state {
            ready!(session.poll_take_over(cx, shared));
            if let State::Waiting(session) = mem::replace(state, State::Ended) {
                *state = State::Open(session);
            }
            // It is, also where this panics.
            if let State::Open(session) = state {
                shared.within(|| session.opened());
            }
        }
        let State::Open(session) = state else {
            return Poll::Ready(shared.ended().unwrap_or_else(Ended::gone));
        };
        ready!(shared.within(|| session.poll(cx, shared)));
        let mut ended = Ended::gone();
        if let State::Open(mut session) = mem::replace(state, State::Ended) {
            ended = shared.within(|| session.end(shared));
        }
        Poll::Ready(ended)
    }
}

/// Dropped before its end, nobody receives any more: whoever holds a [`Sender`] cannot send either.
impl<H: Handler> Drop for Handled<H> {
    fn drop(&mut self) {
        let mut session = match mem::replace(&mut self.state, State::Ended) {
            State::Asking(_) | State::Ended => return,
            State::Waiting(session) => {
                // It has not taken over: the socket is dropped, and the driver here stops early.
                self.shared.put_reader(session.reader);
                return;
            }
            State::Open(session) => session,
        };
        session.socket.driver.abandon();
        let mut tell = || self.shared.within(|| session.end(&self.shared));
        if thread::panicking() {
            // Another panic that left here would end the process. It has been reported as the first was.
            let _ = catch_unwind(AssertUnwindSafe(tell));
        } else {
            tell();
        }
    }
}

struct Session<H> {
    socket: Socket,
    /// In the box that it came in.
    reader: Box<Reader>,
    handler: H,
}

impl<H: Handler> Session<H> {
    fn new(shared: &Arc<Shared>, reader: Box<Reader>, handler: H) -> Self {
        Self {
            socket: Socket {
                driver: Driver::waiting(shared.clone()),
                delivering: None,
            },
            reader,
            handler,
        }
    }

    fn poll_take_over(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Poll<()> {
        ready!(self.socket.driver.poll_take_over(cx));
        shared.attend();
        Poll::Ready(())
    }

    /// Tells the handler that it is open, and what was answered before; and acts on an end that was left until then.
    fn opened(&mut self) {
        self.handler.on_open(&mut self.socket);
        while let Some(event) = self.reader.take_answered() {
            match event {
                OwnedEvent::Ping(payload) => self.handler.on_ping(&mut self.socket, &payload),
                OwnedEvent::Pong(payload) => self.handler.on_pong(&mut self.socket, &payload),
                // How it ends is told at its end.
                OwnedEvent::Message(_) | OwnedEvent::Close(_) => {}
            }
        }
        if let Some(last) = self.reader.take_last() {
            self.socket.driver.answer(last.map(OwnedEvent::Close));
        }
    }

    fn end(&mut self, shared: &Shared) -> Ended {
        let ended = shared.ended().unwrap_or_else(Ended::gone);
        self.socket.driver.let_go();
        if let Some(error) = ended.error() {
            self.handler.on_error(&mut self.socket, &error);
        }
        self.handler.on_close(&mut self.socket, &ended);
        ended
    }

    /// Runs the connection until its transport has ended.
    fn poll(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Poll<()> {
        loop {
            self.socket.driver.collect(cx);
            let written = self.socket.driver.poll_write(cx);
            if self.is_ending(shared) {
                return self.socket.driver.poll_finish(cx, &mut self.reader);
            }
            // Once this end has closed nothing comes of what is read, and the peer's Close is behind it.
            let waits = written.is_pending()
                && self.socket.unread_amount() >= shared.info.settings.output.high_water
                && self.socket.is_open();
            let received = if waits {
                Poll::Pending
            } else {
                self.poll_receive(cx, shared)
            };
            match received {
                Poll::Ready(()) => {}
                // Asked here and not in every turn: a timer that is due has woken the task.
                Poll::Pending if self.socket.driver.keep(cx) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Reads and delivers. A buffer that came full is read again until its [turn](Reader::poll_turn) is over, so
    /// that what has come together is answered in one write.
    #[inline]
    fn poll_receive(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Poll<()> {
        ready!(self.reader.poll_turn(cx));
        let mut delivered = false;
        loop {
            let mut full = false;
            if self.reader.is_held_back() && self.poll_hold_back(cx, shared).is_pending() {
                return match delivered {
                    false => Poll::Pending,
                    // Answered first.
                    true => Poll::Ready(()),
                };
            }
            if !self.reader.has_input() {
                match self.reader.poll_read(cx) {
                    Poll::Ready(Ok(Read::Some { full: filled })) => {
                        full = filled;
                    }
                    Poll::Ready(Ok(Read::End)) => self.broken(shared, Broken::End),
                    Poll::Ready(Err(broken)) => self.broken(shared, broken),
                    // What was delivered before is answered first.
                    Poll::Pending if delivered => return Poll::Ready(()),
                    Poll::Pending => match self.socket.driver.link().and_then(|l| l.broken()) {
                        // All that has come is handled.
                        None if shared.is_leaving() && has_budget_remaining() => {
                            self.close_now(shared);
                            return Poll::Ready(());
                        }
                        None if !shared.is_silent() => return Poll::Pending,
                        None => {
                            shared.end(Ended::Silent);
                            let _ = self.socket.apply(Command::GiveUp);
                            return Poll::Ready(());
                        }
                        Some(lost) if has_budget_remaining() => {
                            shared.end(Ended::Lost(lost.clone()));
                            return Poll::Ready(());
                        }
                        // It was not let look for what has come, and nothing else need wake it.
                        Some(_) => {
                            cx.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                    },
                }
            }
            self.deliver(shared);
            if !full || self.reader.has_input() || self.reader.has_had_its_turn() {
                return Poll::Ready(());
            }
            delivered = true;
        }
    }

    /// Waits until the peer may go on, which has sent more than it may. Once this end has closed, its
    /// Close is waited for, behind whatever comes.
    #[cold]
    fn poll_hold_back(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Poll<()> {
        if shared.is_leaving() {
            self.close_now(shared);
        }
        if shared.lock().has_close() {
            self.reader.let_run();
        }
        shared.pulse.hold_back(self.reader.holds_something());
        self.reader.poll_ready(cx)
    }

    /// Sends the Close that was asked for from elsewhere.
    #[cold]
    fn close_now(&mut self, shared: &Shared) {
        if let Some(close) = shared.take_leave() {
            self.socket.driver.close(close);
        }
    }

    /// Whether no more events are to be delivered.
    #[inline]
    fn is_ending(&mut self, shared: &Shared) -> bool {
        !self.socket.is_open() && shared.ended().is_some()
    }

    #[cold]
    fn broken(&mut self, shared: &Shared, broken: Broken) {
        let (command, ended) = broken.consequence();
        let _ = self.socket.apply(command);
        shared.end(ended);
    }

    /// Delivers what was read, for as long as there is room for answers.
    fn deliver(&mut self, shared: &Shared) {
        // At hand for the first answer. What is not used is given back after the poll.
        if self.reader.has_input()
            && let Some(link) = self.socket.driver.link()
        {
            link.lend_buffer();
        }
        let mut delivery = Delivery {
            shared,
            high_water: shared.info.settings.output.high_water,
            given: given::times(),
            socket: &mut self.socket,
            handler: &mut self.handler,
        };
        if let Err(error) = self.reader.deliver(&mut delivery) {
            self.broken(shared, Broken::Protocol(error));
        }
    }
}

/// Gives the peer what it is owed for an event, and the handler the event.
struct Delivery<'a, H> {
    shared: &'a Shared,
    high_water: usize,
    /// The [times](given::times) before it began.
    given: u8,
    socket: &'a mut Socket,
    handler: &'a mut H,
}

impl<H> Delivery<'_, H> {
    /// Whether what has come is still told, where nothing can be sent any more: so it is where the transport has
    /// failed, and not once this end has closed.
    #[cold]
    fn is_heard(&self) -> bool {
        !self.shared.lock().has_close()
    }

    #[inline]
    fn go_on(&mut self) -> ControlFlow<()> {
        if given::times() != self.given && given::is_much() {
            return ControlFlow::Break(());
        }
        if self.socket.unread_amount() < self.high_water || !self.socket.is_open() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }
}

impl<H: Handler> Deliver for Delivery<'_, H> {
    #[inline]
    fn message(&mut self, message: MessageRef<'_>) -> ControlFlow<()> {
        if self.socket.is_open() || self.is_heard() {
            self.handler.on_message(self.socket, message);
        }
        self.go_on()
    }

    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        match event {
            Event::Message(message) => return self.message(message),
            Event::Ping(payload) => {
                let answer = Command::AnswerPing(Bytes::copy_from_slice(payload));
                let _ = self.socket.apply(answer);
                self.shared.is_own(payload, false);
                self.handler.on_ping(self.socket, payload);
            }
            Event::Pong(payload) if self.shared.is_own(payload, true) => {}
            Event::Pong(payload) => self.handler.on_pong(self.socket, payload),
            Event::Close(frame) => {
                self.shared.end_by_close(frame.clone());
                // Or is the answer, where it is a Close.
                self.socket.driver.take_posted();
                let _ = self.socket.apply(Command::AnswerClose(frame));
            }
        }
        self.go_on()
    }

    fn owned(&mut self, event: OwnedEvent) -> ControlFlow<()> {
        if let OwnedEvent::Message(message) = &event {
            self.socket.delivering = Some(Box::new(message.clone()));
        }
        let flow = self.event(event.as_event());
        self.socket.delivering = None;
        if let OwnedEvent::Message(message) = event {
            buffers::reclaim(message.into_bytes());
        }
        flow
    }
}
