//! A WebSocket, in the async form: one type for both roles.

#[cfg(feature = "server")]
use std::any::Any;
use std::{
    fmt,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use futures_sink::Sink;
use sockeye_proto::{CloseCode, CloseFrame, Config, Message, OwnedEvent as Event};

use crate::{
    ByteStream, Counters, Ended, Error, MessageKind, MessageReader, MessageWriter, Outgoing,
    Receiver, Result, Sender,
    address::Address,
    driver::{Driver, code_of},
    established::Established,
    link::{Command, Link},
    reader::Reader,
    shared::{Info, Shared},
    transport,
};

/// An open WebSocket, of a client or a server.
///
/// ```no_run
/// # async fn example() -> sockeye::Result<()> {
/// let mut socket = sockeye::connect("wss://example.com/socket").await?;
/// socket.send("Привет").await?;
/// while let Some(message) = socket.recv().await? {
///     println!("Получено сообщение: {message}");
/// }
/// println!("{}", socket.ended().unwrap());
/// # Ok(())
/// # }
/// ```
///
/// Pings are answered and the closing handshake is completed while [`recv`](Self::recv) is polled. In a server's handler, or
/// within [`drive`](Self::drive), that is done, and a peer that is gone is noticed, while anything else is awaited there too,
/// as far as the next message that was not received. Only a Close, or the end, is left until a message in hand is done with:
/// the last that was received, until the next is waited for, or by the [keepalive](crate::Client::keepalive) the peer counts as
/// silent.
///
/// A socket that is dropped without [`close`](Self::close), with all of its [`Sender`]s, sends a Close with 1001, and with 1011 where
/// a panic drops it. What waits to be written goes first, by a task of the runtime that it is dropped in; where there is
/// none, as much as needs no waiting. Dropped in a server's handler, or within [`drive`](Self::drive), it stays open until
/// that is done, and is then closed with 1000, or after an error with 1011.
pub struct WebSocket {
    receiver: Receiver,
}

impl WebSocket {
    pub(crate) fn new(established: Established) -> Self {
        let Established {
            stream,
            early,
            role,
            subprotocol,
            deflate,
            ..
        } = established;
        let config = Config {
            close_timeout: established.settings.close_timeout,
            deflate: deflate.map(|(config, agreed)| (agreed, config)),
            ..Config::new(role)
        };
        let (receiver, sender) = config.halves_within(established.limits);
        let has_descriptor = stream.has_descriptor();
        let (read, write) = transport::split(stream);
        let link = Link::new(sender, write);
        let mut admitted = established.admitted;
        if subprotocol.is_some() {
            admitted.get_or_insert_default().subprotocol = subprotocol;
        }
        let info = Info {
            client: matches!(role, sockeye_proto::Role::Client { .. }),
            deflate: deflate.map(|(_, agreed)| agreed),
            peer: established.peer_addr.map(Address::from),
            settings: established.settings,
            peer_head: established.peer_head,
            admitted,
            #[cfg(feature = "tracing")]
            url: established.url,
        };
        let has_early = !early.is_empty();
        let idle = info.settings.staying.idle;
        let reader = Reader::new(read, receiver, early).throttled(established.rates, idle);
        let reader = Box::new(reader);
        let shared = Shared::new(info, link, has_descriptor);
        shared.opened(
            #[cfg(feature = "metrics")]
            established.metrics.as_ref(),
        );
        if has_early {
            shared.attend();
        }
        Self {
            receiver: Receiver::new(shared, reader),
        }
    }

    pub(crate) fn from_receiver(receiver: Receiver) -> Self {
        Self { receiver }
    }

    #[cfg(feature = "client")]
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Event>>> {
        self.receiver.poll_event(cx)
    }

    /// Whether anything more may come.
    #[cfg(feature = "client")]
    pub(crate) fn is_receiving(&self) -> bool {
        self.receiver.is_receiving()
    }

    /// Lends the receiving side to a driver that has the link.
    pub(crate) fn lend_to(&mut self, link: &mut Link) {
        self.receiver.lend_to(link);
    }

    pub(crate) fn into_receiver(self) -> Receiver {
        self.receiver
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        self.receiver.shared()
    }

    /// The next message, or `None` once the connection was closed cleanly by either side;
    /// [`ended`](Self::ended) then says how.
    ///
    /// # Errors
    /// How the connection ended, where not cleanly: [`Error::is_lost`], [`Error::is_protocol`],
    /// [`Error::is_timeout`], [`Error::Overflow`]. It is told once; then comes `None`.
    /// Of a broken rule it is told when the peer has ended its side or the close timeout is over, where nobody drives
    /// the connection.
    ///
    /// # Cancel safety
    /// Safe: what has arrived is kept, and comes with the next call.
    #[inline]
    pub async fn recv(&mut self) -> Result<Option<Message>> {
        // Not by the receiver's own: a future within a future costs 20 instructions a message.
        poll_fn(|cx| self.receiver.poll_message(cx)).await
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
        self.receiver.recv_event().await
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
        self.receiver.recv_stream().await
    }

    /// Begins a message whose length need not be known, and that is never whole in memory: see
    /// [`MessageWriter`]. Waits while another is being sent so.
    ///
    /// This socket cannot receive while it writes: where a message takes long, send it with a [`sender`](Self::sender) and go
    /// on receiving. Unless something drives the connection, no ping is answered else.
    ///
    /// # Errors
    /// [`Error::is_closed`] once a Close was sent or received, [`Error::is_lost`] where the transport has failed.
    ///
    /// # Cancel safety
    /// Safe: nothing has been sent.
    pub async fn send_stream(&mut self, kind: MessageKind) -> Result<MessageWriter<'_>> {
        MessageWriter::begin(self.shared(), kind).await
    }

    /// The connection as a stream of bytes, for what tunnels through it.
    pub fn into_byte_stream(self) -> ByteStream {
        ByteStream::new(self.receiver)
    }

    /// Sends a message: waits while more output waits than the high-water mark, then queues it. In
    /// a server's handler, or under [`drive`](Self::drive), it is written when the task next
    /// yields; else this writes it and returns when that is done.
    ///
    /// Strings are sent as text and bytes as binary. Bytes with an owner of their own
    /// ([`Bytes::from_owner`](bytes::Bytes::from_owner)) are let go of while the connection is at work: what that owner does
    /// when it is dropped must not use it.
    ///
    /// # Errors
    /// [`Error::is_closed`] once a Close was sent or received; [`Error::is_lost`] where the
    /// transport has failed.
    ///
    /// # Cancel safety
    /// Dropped while it waits for room, the message has not been sent. Dropped later, it is queued
    /// whole: it goes out with whatever is sent or received next.
    #[inline]
    pub fn send<'a>(
        &mut self,
        message: impl Into<Outgoing<'a>>,
    ) -> impl Future<Output = Result<()>> {
        self.shared().send(message.into())
    }

    /// Sends a message unless that would have to wait: see [`Sender::try_send`].
    ///
    /// # Errors
    /// [`Error::is_full`], and the message was not sent; else as [`send`](Self::send).
    pub fn try_send<'a>(&mut self, message: impl Into<Outgoing<'a>>) -> Result<()> {
        self.shared().try_send(message.into())
    }

    /// Sends a message that replaces the one before with the same key, where that still waits: see
    /// [`Sender::send_latest`]. It never waits; what is left goes out while something drives the socket or
    /// [`recv`](Self::recv) is polled.
    ///
    /// # Errors
    /// [`Error::is_full`], and the message was not sent; else as [`send`](Self::send).
    pub fn send_latest<'a>(&mut self, key: u64, message: impl Into<Outgoing<'a>>) -> Result<()> {
        self.shared().send_latest(key, message.into())
    }

    /// Sends a ping of at most 125 bytes. The pong comes as an event of
    /// [`recv_event`](Self::recv_event).
    ///
    /// # Errors
    /// As [`send`](Self::send); [`SendError::ControlTooLong`](crate::SendError::ControlTooLong).
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn ping(&mut self, payload: &[u8]) -> Result<()> {
        self.shared()
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
    pub async fn pong(&mut self, payload: &[u8]) -> Result<()> {
        self.shared()
            .send_command(Command::Pong(payload.to_vec()))
            .await
    }

    /// Closes the connection and waits until the peer has done so too, at most for the close
    /// timeout (default 5 s). Messages that still arrive are discarded, and so are those that have arrived and were not
    /// received: to have them, send the Close from a [`Sender`] and go on receiving.
    ///
    /// # Errors
    /// [`Error::is_closed`] where a Close was sent or received before; a reason of more than 123
    /// bytes; 1010 from a server. As [`recv`](Self::recv) where the connection then ends otherwise:
    /// [`Error::is_timeout`] where the peer did not answer, [`Error::is_lost`] where it went away.
    ///
    /// # Cancel safety
    /// The Close is queued at the first poll; dropped after that, [`recv`](Self::recv) completes it, and begins behind the
    /// messages that this had discarded by then.
    pub async fn close(&mut self, code: CloseCode, reason: &str) -> Result<()> {
        let close = CloseFrame::new(code, reason);
        self.shared().close_without_waiting(close)?;
        while self.recv_event().await?.is_some() {}
        Ok(())
    }

    /// Waits until everything queued has been handed to the transport, but for messages behind one that is being sent in
    /// parts: those are not waited for.
    ///
    /// # Errors
    /// [`Error::is_lost`].
    ///
    /// # Cancel safety
    /// Safe: what is queued stays queued.
    pub async fn flush(&mut self) -> Result<()> {
        self.shared().flush().await
    }

    /// A handle that sends on this connection, for other tasks.
    pub fn sender(&self) -> Sender {
        self.receiver.sender()
    }

    /// Splits the socket into halves that can go to different tasks.
    /// [`Receiver::reunite`] puts them together again. Where the receiver is dropped, a server's handler, or
    /// [`drive`](Self::drive), discards what comes, and goes on to answer pings and a Close.
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender(), self.receiver)
    }

    /// Runs `work` with this socket as a server runs its handlers: what is sent while the task is
    /// polled goes out in one write when it yields, so that a plain loop needs no batching to be
    /// fast. When `work` is done the connection is closed, with 1000 or after an error with 1011.
    ///
    /// Gives how the connection ended, or `None` where `work` moved the socket to another task and
    /// left it open there.
    ///
    /// Within a handler, or another `drive`, it takes the connection over when that yields: such a task must not be blocked
    /// on it, as by `block_on`.
    ///
    /// # Errors
    /// The error of `work`.
    ///
    /// # Cancel safety
    /// Dropping the future drops `work` and, with it, the socket.
    pub async fn drive<F, Fut>(self, work: F) -> Result<Option<Ended>>
    where
        F: FnOnce(Self) -> Fut,
        Fut: Future<Output = Result<()>>,
    {
        let mut driver = Driver::waiting(self.shared().clone());
        // Behind it, so that this is dropped first: the driver then leaves the connection to the one that has it.
        let mut socket = self;
        // Within a handler, that one's driver gives it up.
        poll_fn(|cx| driver.poll_take_over(cx)).await;
        if let Some(link) = driver.link() {
            socket.lend_to(link);
        }
        let result = {
            // Dropped when it is done: the socket in it may be given back only then.
            let work = pin!(work(socket));
            driver.run(work).await
        };
        // Boxed: it is the last of the connection, and needs no room while that is open.
        let ended = Box::pin(driver.finish(code_of(&result))).await;
        result.map(|()| ended)
    }

    /// The subprotocol that was agreed (RFC 6455 §1.9).
    pub fn subprotocol(&self) -> Option<&str> {
        self.shared().info.subprotocol()
    }

    /// The extensions that were agreed, as in the header of the handshake; empty where none were.
    pub fn extensions(&self) -> String {
        self.shared().info.extensions()
    }

    /// The address of the peer, where the transport is a socket of the system. At a server behind a proxy that is
    /// believed it is the client's, or `None` where the proxy does not tell it; at a client it is the proxy's where
    /// there is one. Over HTTP/2 in an application on axum or hyper it is what the request has among its extensions, a
    /// [`SocketAddr`], or `None`.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.shared().info.peer_addr()
    }

    /// The request that opened the connection, at the server.
    #[cfg(feature = "server")]
    pub fn request(&self) -> Option<&crate::server::Request> {
        self.shared().info.peer_head.request()
    }

    /// What the path of the request has at `{name}` in its [route](crate::server::Routes), with its percent
    /// signs decoded, at the server; `None` where the route has no such parameter.
    #[cfg(feature = "server")]
    pub fn param(&self, name: &str) -> Option<&str> {
        self.shared().info.matched()?.param(name)
    }

    /// What [`Answer::state`](crate::server::Answer::state) has this connection remember, at the server;
    /// `None` where there is nothing of that type.
    #[cfg(feature = "server")]
    pub fn state<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.shared().info.state()
    }

    /// The address of the proxy that has said who the client is, at the server: by the PROXY protocol
    /// ([`Server::proxy_protocol`](crate::Server::proxy_protocol)) or in a header
    /// ([`Acceptor::forwarded`](crate::Acceptor::forwarded)). `None` where the client has connected
    /// itself.
    #[cfg(feature = "server")]
    pub fn proxy_addr(&self) -> Option<SocketAddr> {
        self.shared().info.proxy()
    }

    /// What TLS says of the client, at the server: its certificates, and what was agreed. Also where TLS
    /// is spoken by whoever accepted the connection, on a stream of tokio-rustls over TCP; over HTTP/2 in an
    /// application on axum or hyper, where the request has it among its extensions.
    #[cfg(all(feature = "server", feature = "tls"))]
    pub fn tls(&self) -> Option<&crate::server::TlsIdentity> {
        self.shared().info.tls()
    }

    /// The response that opened the connection, at the client.
    #[cfg(feature = "client")]
    pub fn response(&self) -> Option<&crate::client::Response> {
        self.shared().info.peer_head.response()
    }

    /// What the connection has carried so far: messages by kind, bytes, and how well they compressed.
    /// Asking takes a few loads from memory, and no lock: see [`Counters`].
    pub fn counters(&self) -> Counters {
        self.shared().meter.counters()
    }

    /// How long ago the connection opened.
    pub fn age(&self) -> Duration {
        self.shared().pulse.age()
    }

    /// How long the last ping that keeps the connection took there and back; `None` before the first
    /// pong.
    pub fn rtt(&self) -> Option<Duration> {
        self.shared().pulse.rtt()
    }

    /// Whether messages can still be sent: no Close was sent or received, and the transport stands.
    pub fn is_open(&self) -> bool {
        self.shared().is_open()
    }

    /// How many bytes wait to be written.
    pub fn buffered_amount(&self) -> usize {
        self.shared().buffered()
    }

    /// Why the connection ended, once it has.
    pub fn ended(&self) -> Option<Ended> {
        self.shared().ended()
    }

    /// Waits until the connection has ended, and gives why: for a task that waits for what it is to send, or works on what
    /// nobody wants any more then.
    ///
    /// Meanwhile pings and a Close are answered, and a peer that is gone is noticed, as far as the next message, or the rest
    /// of one that is read as it comes: where the peer may send one, [`recv`](Self::recv) instead. A Close of the peer is
    /// answered also where the message in hand is not: what is sent then is refused. A server that ends leaves that its time.
    /// Once this end has closed, messages are discarded, as by [`close`](Self::close).
    ///
    /// ```
    /// # async fn answer(_: &str) -> String { String::new() }
    /// # async fn handler(mut socket: sockeye::WebSocket) -> sockeye::Result<()> {
    /// while let Some(question) = socket.recv().await? {
    ///     tokio::select! {
    ///         answer = answer(question.as_text().unwrap_or_default()) => socket.send(answer).await?,
    ///         // Also where the peer has asked and closed, and would wait for the answer.
    ///         _ = socket.closed() => break,
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Safe: no message is lost but those that were discarded by then. Of pings and pongs that came meanwhile
    /// [`recv_event`](Self::recv_event) tells the newest four.
    pub async fn closed(&mut self) -> Ended {
        self.receiver.closed().await
    }
}

/// Messages, as from [`recv`](WebSocket::recv).
impl Stream for WebSocket {
    type Item = Result<Message>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_message(cx).map(Result::transpose)
    }
}

/// Writes a `Sink` for a type with a way to the shared state.
macro_rules! sink {
    ($type:ty, $self:ident => $shared:expr) => {
        /// Messages, as by `send`.
        ///
        /// To flush waits until all is handed to the transport, unless something drives the connection, as a server
        /// does: then all that was sent goes out in one write when the task yields, and to wait for each message would
        /// undo that. Its own `flush` waits there too. To close sends a Close with 1000 behind all that waits, and returns
        /// once that is on its way; where the transport fails before, it says so.
        impl<T: Into<Outgoing<'static>>> Sink<T> for $type {
            type Error = Error;

            fn poll_ready($self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
                $shared.poll_apply(cx, &mut None)
            }

            fn start_send($self: Pin<&mut Self>, message: T) -> Result<()> {
                $shared.apply(Command::Message(message.into()))
            }

            fn poll_flush($self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
                $shared.poll_flush(cx, false).map_err(Error::Lost)
            }

            fn poll_close($self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
                $shared.poll_close(cx)
            }
        }
    };
}

sink!(WebSocket, self => self.shared());
sink!(Sender, self => self.shared);

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket")
            .field("peer", &self.peer_addr())
            .field("subprotocol", &self.subprotocol())
            .finish_non_exhaustive()
    }
}
