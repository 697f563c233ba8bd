//! The scripted peer: sends exactly these bytes, expects exactly those, in either role.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    clippy::unwrap_used
)] // other programs have this file too, and take what they need of it

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use sockeye::{
    Acceptor, Client, CloseCode, DeflateConfig, Ended, Error, Handler, Limits, Message, MessageRef,
    Result, Sender, Socket, WebSocket, proto::handshake::Key,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

pub const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// Which end is under test; the scripted peer is the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

pub const BOTH: [Role; 2] = [Role::Client, Role::Server];

/// Two ends of a TCP connection.
pub async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap());
    let (theirs, accepted) = tokio::join!(theirs, listener.accept());
    (accepted.unwrap().0, theirs.unwrap())
}

/// A stream for which `before` says what comes of each write to it, where it says anything. Flushing and ending it are
/// nothing.
pub struct Gated<F> {
    stream: DuplexStream,
    before: F,
}

impl<F> Gated<F>
where
    F: FnMut(&mut Context<'_>) -> Option<Poll<io::Result<usize>>>,
{
    pub fn new(stream: DuplexStream, before: F) -> Self {
        Self { stream, before }
    }
}

impl<F: Unpin> AsyncRead for Gated<F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<F> AsyncWrite for Gated<F>
where
    F: FnMut(&mut Context<'_>) -> Option<Poll<io::Result<usize>>> + Unpin,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match (self.before)(cx) {
            Some(instead) => instead,
            None => Pin::new(&mut self.stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// No test waits longer than this for anything.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future)
        .await
        .expect("a deadline of the test has passed")
}

/// How both ends are set up.
#[derive(Clone)]
pub struct Setup {
    pub limits: Limits,
    pub deflate: Option<DeflateConfig>,
    /// What the peer offers or answers of extensions.
    pub extensions: &'static str,
    pub close_timeout: Duration,
    pub keepalive: Option<Duration>,
    pub keepalive_timeout: Duration,
    pub idle_timeout: Option<Duration>,
    pub high_water: usize,
    pub output_limit: usize,
    pub close_on_overflow: Option<CloseCode>,
    /// Bytes that the pipe between the ends holds.
    pub pipe: usize,
    /// What the peer sends in the same write as its head.
    pub early: Vec<u8>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            deflate: None,
            extensions: "",
            close_timeout: Duration::from_secs(5),
            keepalive: Some(Duration::from_secs(30)),
            keepalive_timeout: Duration::from_secs(20),
            idle_timeout: None,
            high_water: 1 << 20,
            output_limit: 32 << 20,
            close_on_overflow: None,
            pipe: 1 << 20,
            early: Vec::new(),
        }
    }
}

/// What both sides say to agree on compression without any context kept.
pub const NO_CONTEXT: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

impl Setup {
    pub fn deflate() -> Self {
        Self {
            deflate: DeflateConfig::available(),
            extensions: NO_CONTEXT,
            ..Self::default()
        }
    }

    pub fn acceptor(&self) -> Acceptor {
        let acceptor = Acceptor::new()
            .limits(self.limits)
            .deflate(self.deflate)
            .close_timeout(self.close_timeout)
            .keepalive(self.keepalive)
            .keepalive_timeout(self.keepalive_timeout)
            .idle_timeout(self.idle_timeout)
            .high_water(self.high_water)
            .output_limit(self.output_limit);
        match self.close_on_overflow {
            Some(code) => acceptor.close_on_overflow(code),
            None => acceptor,
        }
    }

    pub fn client(&self, url: &str) -> Client {
        let client = Client::new(url)
            .limits(self.limits)
            .deflate(self.deflate)
            .close_timeout(self.close_timeout)
            .keepalive(self.keepalive)
            .keepalive_timeout(self.keepalive_timeout)
            .idle_timeout(self.idle_timeout)
            .high_water(self.high_water)
            .output_limit(self.output_limit);
        match self.close_on_overflow {
            Some(code) => client.close_on_overflow(code),
            None => client,
        }
    }

    /// A socket of `role` and the peer it is connected to.
    pub async fn open(&self, role: Role) -> (WebSocket, Peer<DuplexStream>) {
        let (ours, theirs) = duplex(self.pipe);
        self.open_over(role, ours, theirs).await
    }

    pub async fn open_over<A, B>(&self, role: Role, ours: A, theirs: B) -> (WebSocket, Peer<B>)
    where
        A: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let (socket, peer) = match role {
            Role::Server => {
                let acceptor = self.acceptor();
                tokio::join!(
                    acceptor.accept(ours),
                    Peer::client(theirs, self.extensions, &self.early)
                )
            }
            Role::Client => {
                let client = self.client("ws://peer/");
                tokio::join!(
                    client.connect_over(ours),
                    Peer::server(theirs, self.extensions, &self.early)
                )
            }
        };
        (socket.unwrap(), peer)
    }
}

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub first: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn text(&self) -> &str {
        assert_eq!(self.first, 0x81, "{self:?}");
        std::str::from_utf8(&self.payload).unwrap()
    }
}

pub struct Peer<S> {
    pub stream: S,
    /// Which end the peer is.
    pub role: Role,
    /// Read and not taken.
    read: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// Opens a connection as a client.
    pub async fn client(stream: S, extensions: &str, early: &[u8]) -> Self {
        Self::client_at(stream, "/", extensions, early).await
    }

    /// The same at another path.
    pub async fn client_at(mut stream: S, path: &str, extensions: &str, early: &[u8]) -> Self {
        let mut request = format!(
            "GET {path} HTTP/1.1\r\nHost: peer\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 13\r\n"
        )
        .into_bytes();
        if !extensions.is_empty() {
            request.extend(format!("Sec-WebSocket-Extensions: {extensions}\r\n").bytes());
        }
        request.extend(b"\r\n");
        request.extend(early);
        stream.write_all(&request).await.unwrap();
        let mut peer = Self::opened(stream);
        let head = peer.head().await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert_eq!(
            head.contains("permessage-deflate"),
            !extensions.is_empty(),
            "{head}"
        );
        peer
    }

    /// The client of a connection that is open.
    pub fn opened(stream: S) -> Self {
        Self {
            stream,
            role: Role::Client,
            read: Vec::new(),
        }
    }

    /// Answers a client.
    pub async fn server(stream: S, extensions: &str, early: &[u8]) -> Self {
        let mut peer = Self {
            stream,
            role: Role::Server,
            read: Vec::new(),
        };
        let head = peer.head().await;
        let (_, key) = head.split_once("Sec-WebSocket-Key: ").unwrap();
        let key = Key::parse(key.split_once("\r\n").unwrap().0.as_bytes()).unwrap();
        let mut answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n",
            key.accept().as_str()
        )
        .into_bytes();
        if !extensions.is_empty() {
            answer.extend(format!("Sec-WebSocket-Extensions: {extensions}\r\n").bytes());
        }
        answer.extend(b"\r\n");
        answer.extend(early);
        peer.stream.write_all(&answer).await.unwrap();
        peer
    }

    /// Its stream, and what was read of that and not taken.
    pub fn into_parts(self) -> (S, Vec<u8>) {
        (self.stream, self.read)
    }

    async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = self.read.split_off(end + 4);
                let head = std::mem::replace(&mut self.read, rest);
                return String::from_utf8(head).unwrap();
            }
            assert!(self.more().await, "the head was cut off");
        }
    }

    /// Reads once; false at the end.
    async fn more(&mut self) -> bool {
        match self.stream.read_buf(&mut self.read).await {
            Ok(count) => count > 0,
            Err(_) => false,
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// The bytes of a frame as this end has to send it.
    pub fn frame(&self, first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
        frame(first, self.role == Role::Client, payload.as_ref())
    }

    pub async fn send_frame(&mut self, first: u8, payload: impl AsRef<[u8]>) {
        let bytes = self.frame(first, payload);
        self.send(bytes).await;
    }

    pub async fn send_close(&mut self, code: u16, reason: &str) {
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend(reason.bytes());
        self.send_frame(0x88, payload).await;
    }

    /// The next frame; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, len, masked)) = parse(&self.read) {
                assert_eq!(masked, self.role == Role::Server, "who masks");
                self.read.drain(..len);
                return Some(frame);
            }
            if !within(self.more()).await {
                assert!(self.read.is_empty(), "a torn frame: {:?}", self.read);
                return None;
            }
        }
    }

    /// As [`next`](Self::next), and `None` too where none has come after so long. A future that is
    /// dropped loses nothing.
    pub async fn next_in_time(&mut self, time: Duration) -> Option<Frame> {
        let whole = async { while parse(&self.read).is_none() && self.more().await {} };
        timeout(time, whole).await.ok()?;
        self.next().await
    }

    /// The payload of the next frame, which has to begin with the byte `first`.
    pub async fn expect(&mut self, first: u8) -> Vec<u8> {
        let frame = self.next().await.expect("the connection has ended");
        assert_eq!(frame.first, first, "{frame:?}");
        frame.payload
    }

    pub async fn expect_text(&mut self, text: &str) {
        assert_eq!(String::from_utf8(self.expect(0x81).await).unwrap(), text);
    }

    /// The code and the reason of the Close that has to come next.
    pub async fn expect_close(&mut self) -> (u16, String) {
        let payload = self.expect(0x88).await;
        match &payload[..] {
            [] => (1005, String::new()),
            [high, low, reason @ ..] => (
                u16::from_be_bytes([*high, *low]),
                String::from_utf8(reason.to_vec()).unwrap(),
            ),
            other => panic!("{other:?}"),
        }
    }

    pub async fn expect_end(&mut self) {
        assert_eq!(self.next().await, None);
    }

    /// A message there and back shows that the connection is in use.
    pub async fn expect_echo(&mut self, text: &str) {
        self.send_frame(0x81, text).await;
        self.expect_text(text).await;
    }
}

/// A frame as it stands on the wire, whatever its bits mean.
pub fn frame(first: u8, mask: bool, payload: &[u8]) -> Vec<u8> {
    let bit = if mask { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(bit | len as u8),
        len @ 126..=0xFFFF => {
            bytes.push(bit | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(bit | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    if mask {
        bytes.extend(KEY);
        bytes.extend(payload.iter().zip(KEY.iter().cycle()).map(|(b, k)| b ^ k));
    } else {
        bytes.extend(payload);
    }
    bytes
}

/// The frame at the beginning, its length on the wire and whether it was masked.
pub fn parse(bytes: &[u8]) -> Option<(Frame, usize, bool)> {
    let [first, second, ..] = *bytes else {
        return None;
    };
    let masked = second & 0x80 != 0;
    let (len, mut at) = match second & 0x7F {
        126 => (
            u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap()) as usize,
            4,
        ),
        127 => (
            u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap()) as usize,
            10,
        ),
        len => (len as usize, 2),
    };
    let mut key = [0; 4];
    if masked {
        key = bytes.get(at..at + 4)?.try_into().unwrap();
        at += 4;
    }
    let payload = bytes.get(at..at + len)?;
    let payload = payload
        .iter()
        .zip(key.iter().cycle())
        .map(|(b, k)| b ^ k)
        .collect();
    Some((Frame { first, payload }, at + len, masked))
}

/// The ways to use a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `recv` and `send`, and nobody drives the connection.
    Plain,
    /// `recv` and `send` in a handler.
    Driven,
    Events,
}

pub const FORMS: [Form; 3] = [Form::Plain, Form::Driven, Form::Events];

/// What the user of a socket saw of it.
#[derive(Debug)]
pub struct Seen {
    pub messages: Vec<Message>,
    pub error: Option<Error>,
    pub ended: Option<Ended>,
}

impl Seen {
    /// That the user saw an error like `ended`, or none where that was a clean end.
    pub fn assert_ended(&self, ended: impl Fn(&Ended) -> bool) {
        let Some(saw) = &self.ended else {
            panic!("the connection has not ended: {self:?}");
        };
        assert!(ended(saw), "{saw:?}");
        assert_eq!(self.error.is_none(), saw.was_clean(), "{self:?}");
        if let (Ended::Protocol(ended), Some(error)) = (saw, &self.error) {
            assert!(
                matches!(error, Error::Protocol(error) if error == ended),
                "{error:?}"
            );
        }
    }
}

/// Echoes on the socket in a task of its own, until it ends.
pub fn echo(form: Form, socket: WebSocket) -> JoinHandle<Seen> {
    tokio::spawn(async move {
        let (log, mut messages) = mpsc::unbounded_channel();
        let (error, ended) = match form {
            Form::Plain => {
                let mut socket = socket;
                let result = echo_loop(&mut socket, &log).await;
                (result.err(), socket.ended())
            }
            Form::Driven => {
                let sender = socket.sender();
                let log = &log;
                let result = socket
                    .drive(|mut socket| async move { echo_loop(&mut socket, log).await })
                    .await;
                let ended = sender.ended();
                (result.err(), ended)
            }
            Form::Events => {
                let (tell, mut error) = mpsc::unbounded_channel();
                let log = log.clone();
                let ended = socket.handle(Echo { log, error: tell }).await;
                (error.recv().await, Some(ended))
            }
        };
        drop(log);
        let mut seen = Seen {
            messages: Vec::new(),
            error,
            ended,
        };
        while let Some(message) = messages.recv().await {
            seen.messages.push(message);
        }
        seen
    })
}

/// Runs a socket in one of its forms, and gives a handle to send on it from elsewhere.
pub async fn run(
    form: Form,
    role: Role,
    setup: &Setup,
) -> (Sender, Peer<DuplexStream>, JoinHandle<Seen>) {
    let (socket, mut peer) = setup.open(role).await;
    let sender = socket.sender();
    let seen = echo(form, socket);
    peer.expect_echo("it runs by now").await;
    (sender, peer, seen)
}

async fn echo_loop(socket: &mut WebSocket, log: &mpsc::UnboundedSender<Message>) -> Result<()> {
    while let Some(message) = socket.recv().await? {
        log.send(message.clone()).unwrap();
        match socket.send(message).await {
            // A Close has crossed it: what `recv` says next is the end.
            Err(error) if error.is_closed() => {}
            result => result?,
        }
    }
    Ok(())
}

struct Echo {
    log: mpsc::UnboundedSender<Message>,
    error: mpsc::UnboundedSender<Error>,
}

impl Handler for Echo {
    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        self.log.send(message.to_owned()).unwrap();
        socket.send(message);
    }

    fn on_error(&mut self, _: &mut Socket, error: &Error) {
        self.error.send(error.clone()).unwrap();
    }
}

/// The most by which a count grows, until it is `all`, before another task of the same thread has its turn.
pub async fn most_in_a_turn(count: &AtomicUsize, all: usize) -> usize {
    let (mut before, mut most) = (0, 0);
    let turns = poll_fn(|cx| {
        let now = count.load(Ordering::Relaxed);
        most = most.max(now - before);
        before = now;
        if now == all {
            return Poll::Ready(());
        }
        // As soon as it is its turn again, which is not what tokio's `yield_now` asks for.
        cx.waker().wake_by_ref();
        Poll::Pending
    });
    within(turns).await;
    most
}
