//! Every async method dropped at every await point: nothing is lost, nothing comes twice, nothing
//! is torn. The transport gives and takes one byte at a time, and nothing every other time.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use sockeye::{
    CloseCode, Ended, Event, Handler, MessageKind, MessageRef, Result, Sender, Socket, WebSocket,
    client::{Reconnecting, Update},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    sync::mpsc,
    task::yield_now,
};

use crate::wire::*;

/// A stream that gives and takes a byte at a time, and every other time makes its caller wait.
struct Stutter {
    stream: DuplexStream,
    read_waits: bool,
    write_waits: bool,
    flush_waits: bool,
    /// A byte at a time, or as much as there is.
    bytewise: bool,
}

impl Stutter {
    fn new(stream: DuplexStream, bytewise: bool) -> Self {
        Self {
            stream,
            read_waits: true,
            write_waits: true,
            flush_waits: true,
            bytewise,
        }
    }
}

/// Whether to wait this time; the task is to come again.
fn waits(turn: &mut bool, cx: &mut Context<'_>) -> bool {
    let waits = *turn;
    *turn = !waits;
    if waits {
        cx.waker().wake_by_ref();
    }
    waits
}

impl AsyncRead for Stutter {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if waits(&mut self.read_waits, cx) {
            return Poll::Pending;
        }
        if !self.bytewise {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let mut byte = [0];
        let mut one = ReadBuf::new(&mut byte);
        let result = Pin::new(&mut self.stream).poll_read(cx, &mut one);
        buffer.put_slice(one.filled());
        result
    }
}

impl AsyncWrite for Stutter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if waits(&mut self.write_waits, cx) {
            return Poll::Pending;
        }
        let most = if self.bytewise { 1 } else { bytes.len() };
        let bytes = &bytes[..most.min(bytes.len())];
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if waits(&mut self.flush_waits, cx) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if waits(&mut self.flush_waits, cx) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn open(role: Role, setup: &Setup, bytewise: bool) -> (WebSocket, Peer<DuplexStream>) {
    let (near, far) = duplex(setup.pipe);
    let near = Stutter::new(near, bytewise);
    setup.open_over(role, near, far).await
}

/// Polls a future so many times, whether it was woken or not.
async fn poll_times<F: Future>(future: Pin<&mut F>, times: usize) -> Poll<F::Output> {
    // Else the runtime has a task wait that does so much in one poll.
    let mut future = pin!(tokio::task::unconstrained(future));
    poll_fn(|cx| {
        for _ in 0..times {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Poll::Ready(output));
            }
        }
        Poll::Ready(Poll::Pending)
    })
    .await
}

/// Calls again and again, drops the future each time after so many polls, until one is done.
macro_rules! dropping {
    ($times:expr, $call:expr) => {
        loop {
            let polled = {
                let future = pin!($call);
                poll_times(future, $times).await
            };
            match polled {
                Poll::Ready(output) => break output,
                Poll::Pending => yield_now().await,
            }
        }
    };
}

/// As `dropping`, while the paused clock goes on: whoever yields only keeps it where it is.
macro_rules! dropping_in_time {
    ($times:expr, $call:expr) => {
        loop {
            let polled = {
                let future = pin!($call);
                poll_times(future, $times).await
            };
            match polled {
                Poll::Ready(output) => break output,
                Poll::Pending => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    };
}

/// Uses a socket with and without a driver.
async fn with_and_without_driver<F, Fut>(socket: WebSocket, driven: bool, work: F)
where
    F: FnOnce(WebSocket) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    if driven {
        socket.drive(work).await.unwrap();
    } else {
        work(socket).await.unwrap();
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Receive {
    Recv,
    RecvEvent,
    Next,
}

/// What a peer says in the tests of receiving, and which messages that makes.
fn script<S: AsyncRead + AsyncWrite + Unpin>(peer: &Peer<S>) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut bytes = Vec::new();
    let mut messages = Vec::new();
    for len in [0, 1, 125, 126, 300] {
        let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
        bytes.extend(peer.frame(0x82, &payload));
        bytes.extend(peer.frame(0x89, [len as u8]));
        messages.push(payload);
    }
    bytes.extend(peer.frame(0x01, "При"));
    bytes.extend(peer.frame(0x8A, "in between"));
    bytes.extend(peer.frame(0x80, "вет"));
    messages.push("Привет".into());
    (bytes, messages)
}

#[tokio::test(start_paused = true)]
async fn receiving() {
    for role in BOTH {
        for driven in [false, true] {
            for receive in [Receive::Recv, Receive::RecvEvent, Receive::Next] {
                for times in [1, 2, 3, 7] {
                    let (socket, mut peer) = open(role, &Setup::default(), true).await;
                    let (bytes, messages) = script(&peer);
                    peer.send(bytes).await;
                    peer.send_close(1000, "bye").await;
                    let peer = tokio::spawn(async move {
                        for len in [0, 1, 125, 126, 44] {
                            assert_eq!(peer.expect(0x8A).await, [len]);
                        }
                        assert_eq!(peer.expect_close().await, (1000, "bye".into()));
                    });
                    let mut received = Vec::new();
                    let mut others = 0;
                    let log = (&mut received, &mut others);
                    let using = with_and_without_driver(socket, driven, |mut socket| async move {
                        loop {
                            let message = match receive {
                                Receive::Recv => dropping!(times, socket.recv())?,
                                Receive::Next => dropping!(times, socket.next()).transpose()?,
                                Receive::RecvEvent => {
                                    match dropping!(times, socket.recv_event())? {
                                        Some(Event::Message(message)) => Some(message),
                                        Some(_) => {
                                            *log.1 += 1;
                                            continue;
                                        }
                                        None => None,
                                    }
                                }
                            };
                            let Some(message) = message else { break };
                            log.0.push(message.as_bytes().to_vec());
                        }
                        assert!(matches!(socket.ended(), Some(Ended::ByPeer(Some(_)))));
                        Ok(())
                    });
                    within(using).await;
                    assert_eq!(received, messages, "{role:?} {receive:?} {times}");
                    // Five pings, a pong and the Close.
                    let expected = if receive == Receive::RecvEvent { 7 } else { 0 };
                    assert_eq!(others, expected);
                    within(peer).await.unwrap();
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn receiving_a_large_message() {
    for role in BOTH {
        for driven in [false, true] {
            for times in [1, 3] {
                let setup = Setup {
                    pipe: 5000,
                    ..Setup::default()
                };
                let (socket, mut peer) = open(role, &setup, false).await;
                let payload: Vec<u8> = (0..300_000u32).map(|i| (i ^ (i >> 8)) as u8).collect();
                let expected = payload.clone();
                tokio::spawn(async move {
                    for _ in 0..2 {
                        peer.send_frame(0x02, &payload[..100_000]).await;
                        peer.send_frame(0x89, "").await;
                        peer.send_frame(0x80, &payload[100_000..]).await;
                    }
                    peer.send_close(1000, "").await;
                    while peer.next().await.unwrap().first != 0x88 {}
                });
                let using = with_and_without_driver(socket, driven, |mut socket| async move {
                    for _ in 0..2 {
                        let message = dropping!(times, socket.recv())?.unwrap();
                        assert_eq!(message.as_bytes(), expected);
                    }
                    assert!(dropping!(times, socket.recv())?.is_none());
                    Ok(())
                });
                within(using).await;
            }
        }
    }
}

/// What is sent, in the ways there are.
#[derive(Clone, Copy, Debug)]
enum Send {
    Socket,
    Sender,
    Sink,
    Ping,
    Pong,
}

/// Sends once, drops the future after so many polls, and tells whether it had queued anything.
async fn send_dropping(
    socket: &mut WebSocket,
    sender: &Sender,
    send: Send,
    text: &str,
    times: usize,
) -> bool {
    let before = sender.buffered_amount();
    let polled = match send {
        Send::Socket => poll_times(pin!(socket.send(text)), times).await,
        Send::Sender => poll_times(pin!(sender.send(text)), times).await,
        Send::Sink => poll_times(pin!(SinkExt::send(socket, text.to_owned())), times).await,
        Send::Ping => poll_times(pin!(socket.ping(text.as_bytes())), times).await,
        Send::Pong => poll_times(pin!(sender.pong(text.as_bytes())), times).await,
    };
    match polled {
        Poll::Ready(result) => {
            result.unwrap();
            true
        }
        // In so few polls, less than a message has been written.
        Poll::Pending => sender.buffered_amount() > before,
    }
}

#[tokio::test(start_paused = true)]
async fn sending() {
    for role in BOTH {
        for driven in [false, true] {
            for send in [
                Send::Socket,
                Send::Sender,
                Send::Sink,
                Send::Ping,
                Send::Pong,
            ] {
                for times in [1, 2, 3, 8] {
                    let setup = Setup {
                        high_water: 100,
                        ..Setup::default()
                    };
                    let (socket, mut peer) = open(role, &setup, true).await;
                    let peer = tokio::spawn(async move {
                        let mut received = Vec::new();
                        loop {
                            let frame = peer.next().await.unwrap();
                            if frame.first == 0x88 {
                                peer.send_close(1000, "").await;
                                return received;
                            }
                            received.push(String::from_utf8(frame.payload).unwrap());
                        }
                    });
                    let mut queued = Vec::new();
                    let mut refused = 0;
                    let log = (&mut queued, &mut refused);
                    let using = with_and_without_driver(socket, driven, |mut socket| async move {
                        let sender = socket.sender();
                        for number in 0..100 {
                            let text = format!("message number {number:04}");
                            if send_dropping(&mut socket, &sender, send, &text, times).await {
                                log.0.push(text);
                            } else {
                                *log.1 += 1;
                            }
                            if number % 5 == 0 {
                                yield_now().await;
                            }
                        }
                        dropping!(times, socket.flush())?;
                        assert_eq!(socket.buffered_amount(), 0);
                        socket.close(CloseCode::NORMAL, "").await
                    });
                    within(using).await;
                    // It met the high-water mark too.
                    assert!(refused > 0 || times > 1, "{send:?} {times}");
                    assert!(queued.len() >= 4);
                    assert_eq!(within(peer).await.unwrap(), queued, "{send:?} {times}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn closing() {
    for role in BOTH {
        for driven in [false, true] {
            for from_sender in [false, true] {
                for times in 1..40 {
                    let (socket, mut peer) = open(role, &Setup::default(), true).await;
                    let peer = tokio::spawn(async move {
                        peer.expect_text("before").await;
                        assert_eq!(peer.expect_close().await, (1000, "reason".into()));
                        peer.send_close(1000, "reason").await;
                    });
                    let using = with_and_without_driver(socket, driven, |mut socket| async move {
                        socket.send("before").await?;
                        let sender = socket.sender();
                        if from_sender {
                            let close = pin!(sender.close(CloseCode::NORMAL, "reason"));
                            let _ = poll_times(close, times).await;
                        } else {
                            let close = pin!(socket.close(CloseCode::NORMAL, "reason"));
                            let _ = poll_times(close, times).await;
                        }
                        // Dropped, it is queued: receiving completes it.
                        assert!(sender.close(CloseCode::NORMAL, "").await.is_err());
                        assert!(socket.recv().await?.is_none());
                        assert!(matches!(socket.ended(), Some(Ended::ByUs(_))));
                        Ok(())
                    });
                    within(using).await;
                    within(peer).await.unwrap();
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn closing_after_the_receiver_was_dropped() {
    for role in BOTH {
        for times in 1..40 {
            let (socket, mut peer) = open(role, &Setup::default(), true).await;
            let (sender, receiver) = socket.split();
            drop(receiver);
            let _ = poll_times(pin!(sender.close(CloseCode::NORMAL, "reason")), times).await;
            // Refused, as the Close is queued; what uses the connection next writes it.
            assert!(sender.close(CloseCode::NORMAL, "").await.is_err());
            sender.flush().await.unwrap();
            assert_eq!(peer.expect_close().await, (1000, "reason".into()));
        }
    }
}

/// The opening handshake cannot go on: what is dropped ends the transport, whole.
#[tokio::test(start_paused = true)]
async fn opening() {
    let setup = Setup::default();
    for role in BOTH {
        for times in (1..).step_by(3) {
            let (near, mut far) = duplex(10_000);
            let near = Stutter::new(near, true);
            if role == Role::Server {
                let request = b"GET / HTTP/1.1\r\nHost: peer\r\nUpgrade: websocket\r\n\
                    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                    Sec-WebSocket-Version: 13\r\n\r\n";
                tokio::io::AsyncWriteExt::write_all(&mut far, request)
                    .await
                    .unwrap();
            }
            let done = match role {
                Role::Client => {
                    let client = setup.client("ws://peer/");
                    let polled = poll_times(pin!(client.connect_over(near)), times).await;
                    assert!(polled.is_pending());
                    times >= 800
                }
                Role::Server => {
                    let acceptor = setup.acceptor();
                    poll_times(pin!(acceptor.accept(near)), times)
                        .await
                        .is_ready()
                }
            };
            let mut rest = Vec::new();
            within(far.read_to_end(&mut rest)).await.unwrap();
            if done {
                break;
            }
        }
    }
}

struct EchoHandler;

impl Handler for EchoHandler {
    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        socket.send(message);
    }
}

/// A handler that is dropped loses its connection, but tears no frame that it can finish.
#[tokio::test(start_paused = true)]
async fn handling() {
    for role in BOTH {
        for events in [false, true] {
            for times in 1..60 {
                let (socket, mut peer) = Setup::default().open(role).await;
                for number in 0..times {
                    peer.send_frame(0x81, number.to_string()).await;
                }
                if events {
                    let _ = poll_times(pin!(socket.handle(EchoHandler)), times).await;
                } else {
                    let driving = socket.drive(|mut socket| async move {
                        while let Some(message) = socket.recv().await? {
                            socket.send(message).await?;
                            yield_now().await;
                        }
                        Ok(())
                    });
                    let _ = poll_times(pin!(driving), times).await;
                }
                let mut next = 0;
                while let Some(frame) = peer.next().await {
                    if frame.first == 0x88 {
                        assert_eq!(frame.payload, 1001u16.to_be_bytes());
                        break;
                    }
                    assert_eq!(frame.text(), next.to_string());
                    next += 1;
                }
                assert!(next > 0);
                peer.expect_end().await;
            }
        }
    }
}

/// The usual way to cancel: a loop that waits for several things.
#[tokio::test(start_paused = true)]
async fn select_in_a_loop() {
    for role in BOTH {
        for driven in [false, true] {
            let (socket, mut peer) = open(role, &Setup::default(), true).await;
            let (bytes, messages) = script(&peer);
            peer.send(bytes).await;
            let peer = tokio::spawn(async move {
                let mut ticks = 0;
                let mut pongs = 0;
                loop {
                    let frame = peer.next().await.unwrap();
                    match frame.first {
                        0x81 => {
                            assert_eq!(frame.text(), format!("tick {ticks}"));
                            ticks += 1;
                        }
                        0x8A => pongs += 1,
                        _ => break,
                    }
                }
                assert_eq!(pongs, 5);
                peer.send_close(1000, "").await;
                ticks
            });
            let mut sent = 0;
            let count = &mut sent;
            let using = with_and_without_driver(socket, driven, |mut socket| async move {
                let sender = socket.sender();
                let mut received = Vec::new();
                while received.len() < messages.len() {
                    tokio::select! {
                        biased;
                        message = socket.recv() => {
                            received.push(message?.unwrap().as_bytes().to_vec());
                        }
                        () = yield_now() => {
                            sender.send(format!("tick {count}")).await?;
                            *count += 1;
                        }
                    }
                }
                assert_eq!(received, messages);
                socket.close(CloseCode::NORMAL, "").await
            });
            within(using).await;
            assert_eq!(within(peer).await.unwrap(), sent);
            assert!(sent > 10);
        }
    }
}

/// The future of every method can be sent to another thread, or a task could not use it.
#[test]
fn every_future_is_send() {
    fn is_send<T: std::marker::Send>(_: T) {}
    fn all(mut socket: WebSocket, sender: Sender, mut receiver: sockeye::Receiver) {
        is_send(socket.recv());
        is_send(socket.recv_event());
        is_send(socket.send("x"));
        is_send(socket.ping(b"x"));
        is_send(socket.pong(b"x"));
        is_send(socket.flush());
        is_send(socket.close(CloseCode::NORMAL, ""));
        is_send(sender.send("x"));
        is_send(sender.ping(b"x"));
        is_send(sender.pong(b"x"));
        is_send(sender.flush());
        is_send(sender.close(CloseCode::NORMAL, ""));
        is_send(receiver.recv());
        is_send(receiver.recv_event());
        is_send(tokio::time::timeout(
            Duration::ZERO,
            socket.handle(EchoHandler),
        ));
    }
    let _ = all;
}

#[tokio::test(start_paused = true)]
async fn reading_in_parts() {
    for role in BOTH {
        for driven in [false, true] {
            for (times, bytewise) in [(1, true), (2, true), (3, true), (7, true), (1, false)] {
                let (socket, mut peer) = open(role, &Setup::default(), bytewise).await;
                let (bytes, messages) = script(&peer);
                peer.send(bytes).await;
                peer.send_close(1000, "bye").await;
                let peer = tokio::spawn(async move {
                    for len in [0, 1, 125, 126, 44] {
                        assert_eq!(peer.expect(0x8A).await, [len]);
                    }
                    assert_eq!(peer.expect_close().await, (1000, "bye".into()));
                });
                let mut received = Vec::new();
                let log = &mut received;
                let using = with_and_without_driver(socket, driven, |mut socket| async move {
                    loop {
                        match poll_times(pin!(socket.recv_stream()), times).await {
                            Poll::Ready(Ok(Some(mut message))) => {
                                let (mut whole, mut room) = (Vec::new(), [0; 40]);
                                loop {
                                    let count = dropping!(times, message.read(&mut room))?;
                                    if count == 0 {
                                        break;
                                    }
                                    whole.extend_from_slice(&room[..count]);
                                }
                                log.push(whole);
                            }
                            Poll::Ready(end) => return end.map(|_| ()),
                            Poll::Pending => yield_now().await,
                        }
                    }
                });
                within(using).await;
                assert_eq!(received, messages, "{role:?} {times}");
                within(peer).await.unwrap();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn writing_in_parts() {
    for role in BOTH {
        for driven in [false, true] {
            for times in [1, 2, 3, 8] {
                let setup = Setup {
                    high_water: 100,
                    ..Setup::default()
                };
                let (socket, mut peer) = open(role, &setup, true).await;
                let peer = tokio::spawn(async move {
                    let (mut received, mut message) = (Vec::new(), Vec::new());
                    loop {
                        let frame = peer.next().await.unwrap();
                        if frame.first == 0x88 {
                            peer.send_close(1000, "").await;
                            return received;
                        }
                        assert_eq!(frame.first & 0x0F == 0, !message.is_empty(), "{frame:?}");
                        message.extend(frame.payload);
                        if frame.first & 0x80 != 0 {
                            received.push(std::mem::take(&mut message));
                        }
                    }
                });
                let payload: Vec<u8> = (0..1000).map(|i| i as u8).collect();
                let all = payload.clone();
                let using = with_and_without_driver(socket, driven, |mut socket| async move {
                    for _ in 0..2 {
                        // Begun again and again, and dropped: nothing has been sent.
                        let polled = {
                            let future = pin!(socket.send_stream(MessageKind::Binary));
                            poll_times(future, times).await
                        };
                        assert!(polled.is_ready());
                        drop(polled);
                        let mut message = socket.send_stream(MessageKind::Binary).await?;
                        let mut rest = &all[..];
                        while !rest.is_empty() {
                            let count =
                                dropping!(times, message.write(&rest[..rest.len().min(70)]))?;
                            rest = &rest[count..];
                            dropping!(times, message.flush())?;
                        }
                        // Its end is queued by the first poll.
                        let _ = poll_times(pin!(message.finish()), times).await;
                    }
                    socket.close(CloseCode::NORMAL, "").await
                });
                within(using).await;
                assert_eq!(within(peer).await.unwrap(), [&payload[..], &payload[..]]);
            }
        }
    }
}

/// Over several connections, every future dropped at every await point: no attempt, no delay, no
/// message and no change of state is lost or comes twice.
#[tokio::test(start_paused = true)]
async fn receiving_over_several_connections() {
    for times in [1, 2, 3, 7] {
        let (tell, mut attempts) = mpsc::unbounded_channel();
        let client = Setup::default().client("ws://peer/");
        let mut socket = Reconnecting::with(move || {
            let client = client.clone();
            let (near, far) = duplex(1 << 16);
            tell.send(far).unwrap();
            async move { client.connect_over(Stutter::new(near, true)).await }
        })
        .on_open(|mut socket| async move {
            socket.send("subscribe").await?;
            Ok(socket)
        });
        let peers = tokio::spawn(async move {
            for round in 0..3 {
                // One attempt that fails, one that does not.
                drop(attempts.recv().await.unwrap());
                let mut peer = Peer::server(attempts.recv().await.unwrap(), "", &[]).await;
                peer.expect_text("subscribe").await;
                for number in 0..5 {
                    peer.send_frame(0x81, format!("{round}.{number}")).await;
                }
                let code = if round < 2 { 1012 } else { 1000 };
                peer.send_close(code, "").await;
                assert_eq!(peer.expect_close().await.0, code);
            }
            // Nobody comes again.
            assert!(attempts.recv().await.is_none());
        });
        let mut seen = Vec::new();
        let using = async {
            while let Some(update) = dropping_in_time!(times, socket.recv_update()).unwrap() {
                seen.push(match update {
                    Update::Connecting { attempt } => format!("connecting {attempt}"),
                    Update::Open => "open".into(),
                    Update::Message(message) => message.to_string(),
                    Update::Waiting { attempt, .. } => format!("waiting for {attempt}"),
                    other => panic!("{other:?}"),
                });
            }
            drop(socket);
        };
        within(using).await;
        within(peers).await.unwrap();
        let mut expected = Vec::new();
        // None lasts, so attempts are counted on.
        for round in 0..3 {
            let attempt = 2 * round + 1;
            expected.extend([
                format!("connecting {attempt}"),
                format!("waiting for {}", attempt + 1),
                format!("connecting {}", attempt + 1),
                "open".into(),
            ]);
            expected.extend((0..5).map(|number| format!("{round}.{number}")));
            if round < 2 {
                expected.push(format!("waiting for {}", attempt + 2));
            }
        }
        assert_eq!(seen, expected, "{times}");
    }
}

/// A message whose sending was dropped is sent whole or not at all, whatever the connection did.
#[tokio::test(start_paused = true)]
async fn sending_over_several_connections() {
    for times in [1, 2, 3, 8] {
        let (tell, mut attempts) = mpsc::unbounded_channel();
        let client = Setup::default().client("ws://peer/");
        let mut socket = Reconnecting::with(move || {
            let client = client.clone();
            let (near, far) = duplex(1 << 16);
            tell.send(far).unwrap();
            async move { client.connect_over(Stutter::new(near, true)).await }
        })
        .max_delay(Duration::from_millis(100));
        let peers = tokio::spawn(async move {
            let mut received = Vec::new();
            for round in 0..3 {
                drop(attempts.recv().await.unwrap());
                let mut peer = Peer::server(attempts.recv().await.unwrap(), "", &[]).await;
                loop {
                    let frame = peer.next().await.unwrap();
                    if frame.first == 0x88 {
                        peer.send_close(1000, "").await;
                        return received;
                    }
                    received.push(String::from_utf8(frame.payload).unwrap());
                    // In the middle of a frame, most likely.
                    if round < 2 && received.len() >= 5 * (round + 1) {
                        break;
                    }
                }
            }
            received
        });
        let using = async {
            let waiting =
                |socket: &Reconnecting| socket.socket().map_or(0, |s| s.buffered_amount());
            for number in 0..40 {
                let text = format!("message number {number:04}");
                loop {
                    let before = waiting(&socket);
                    let polled = poll_times(pin!(socket.send(&text)), times).await;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    // Queued, or still to be sent.
                    if polled.is_ready() || waiting(&socket) > before {
                        break;
                    }
                }
            }
            socket.send("message number 0040").await.unwrap();
            dropping_in_time!(times, socket.close(CloseCode::NORMAL, "")).ok();
            while socket.recv().await.unwrap().is_some() {}
        };
        within(using).await;
        let mut received = within(peers).await.unwrap();
        received.dedup();
        assert!(received.is_sorted(), "{received:?}");
        let whole = |text: &String| {
            text.strip_prefix("message number ")
                .is_some_and(|number| number.len() == 4)
        };
        assert!(received.iter().all(whole), "{received:?}");
        // The last one was sent on a connection that did not break.
        assert_eq!(received.last().unwrap(), "message number 0040");
        assert!(received.len() > 5, "{received:?}");
    }
}
