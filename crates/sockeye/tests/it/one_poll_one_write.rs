//! What is sent in one poll goes out in one write; no message waits for the next one; large payloads
//! are not copied.

use std::{
    future::pending,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    thread,
    time::Duration,
};

use sockeye::{Handler, MessageRef, Result, Sender, Socket, WebSocket};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream, ReadBuf, duplex};

use crate::wire::*;

/// What a stream was asked for.
#[derive(Default)]
struct Calls {
    /// How many reads gave something.
    reads: usize,
    /// The pieces of every write: where they are and how long.
    writes: Vec<Vec<(usize, usize)>>,
}

/// A stream that takes note of every call.
struct Counted {
    stream: DuplexStream,
    calls: Arc<Mutex<Calls>>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if result.is_ready() {
            self.calls.lock().unwrap().reads += 1;
        }
        result
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let piece = (bytes.as_ptr().addr(), bytes.len());
        self.calls.lock().unwrap().writes.push(vec![piece]);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let pieces = slices
            .iter()
            .map(|slice| (slice.as_ptr().addr(), slice.len()));
        self.calls.lock().unwrap().writes.push(pieces.collect());
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn open(role: Role) -> (WebSocket, Peer<DuplexStream>, Arc<Mutex<Calls>>) {
    let (near, far) = duplex(4 << 20);
    let calls = Arc::default();
    let near = Counted {
        stream: near,
        calls: Arc::clone(&calls),
    };
    let (socket, peer) = Setup::default().open_over(role, near, far).await;
    *calls.lock().unwrap() = Calls::default();
    (socket, peer, calls)
}

#[tokio::test(start_paused = true)]
async fn messages_of_one_poll_make_one_write() {
    for role in BOTH {
        let (socket, mut peer, calls) = open(role).await;
        tokio::spawn(socket.drive(|mut socket| async move {
            for number in 0..1000 {
                socket.send(number.to_string()).await?;
            }
            socket.ping(b"!").await?;
            pending().await
        }));
        for number in 0..1000 {
            peer.expect_text(&number.to_string()).await;
        }
        assert_eq!(peer.expect(0x89).await, b"!");
        assert_eq!(calls.lock().unwrap().writes.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_plain_loop_writes_once_a_read() {
    for role in BOTH {
        for form in [Form::Driven, Form::Events] {
            let (socket, mut peer, calls) = open(role).await;
            let _seen = echo(form, socket);
            let frames: Vec<u8> = (0..20_000)
                .flat_map(|number: u32| peer.frame(0x81, number.to_string()))
                .collect();
            peer.send(frames).await;
            for number in 0..20_000 {
                peer.expect_text(&number.to_string()).await;
            }
            let calls = calls.lock().unwrap();
            assert!(calls.reads <= 5, "{form:?}: {} reads", calls.reads);
            assert!(
                calls.writes.len() <= calls.reads,
                "{form:?}: {} reads, {} writes",
                calls.reads,
                calls.writes.len()
            );
        }
    }
}

/// Answers, while another thread sends much to another peer.
struct Beside(Sender);

impl Handler for Beside {
    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        socket.send(message);
        thread::scope(|scope| {
            scope.spawn(|| (0..10_000).for_each(|_| self.0.try_send("").unwrap()));
        });
    }
}

/// A bug: where another thread had sent much to others, callbacks had their turn ended for it.
#[tokio::test(start_paused = true)]
async fn what_another_thread_sends_ends_no_turn() {
    for role in BOTH {
        let (socket, mut peer, calls) = open(role).await;
        let (other, _others_peer, _) = open(role).await;
        tokio::spawn(socket.handle(Beside(other.sender())));
        peer.send(peer.frame(0x81, "!").repeat(3)).await;
        for _ in 0..3 {
            peer.expect_text("!").await;
        }
        assert_eq!(calls.lock().unwrap().writes.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn answers_to_pings_go_out_together() {
    for role in BOTH {
        for form in FORMS {
            let (socket, mut peer, calls) = open(role).await;
            let _seen = echo(form, socket);
            let pings: Vec<u8> = (0..100u8)
                .flat_map(|number| peer.frame(0x89, [number]))
                .collect();
            peer.send(pings).await;
            for number in 0..100 {
                assert_eq!(peer.expect(0x8A).await, [number]);
            }
            assert_eq!(calls.lock().unwrap().writes.len(), 1, "{form:?}");
            // And before the message that comes behind one is answered.
            peer.send([peer.frame(0x89, "?"), peer.frame(0x81, "!")].concat())
                .await;
            assert_eq!(peer.expect(0x8A).await, b"?");
            peer.expect_text("!").await;
        }
    }
}

/// Where nobody drives the connection, whoever has the message may not use it again for long.
#[tokio::test(start_paused = true)]
async fn a_ping_is_answered_before_the_message_behind_it_is_given_out() {
    for role in BOTH {
        let (mut socket, mut peer, calls) = open(role).await;
        let pings = [peer.frame(0x89, "?"), peer.frame(0x89, "??")].concat();
        peer.send([pings, peer.frame(0x81, "!")].concat()).await;
        assert_eq!(within(socket.recv()).await.unwrap(), Some("!".into()));
        assert_eq!(peer.expect(0x8A).await, b"?");
        assert_eq!(peer.expect(0x8A).await, b"??");
        assert_eq!(calls.lock().unwrap().writes.len(), 1);
    }
}

/// A bug: each pong was a write of its own, and a crowd of pings held the thread for a second.
#[tokio::test(start_paused = true)]
async fn answers_to_pings_go_out_together_where_messages_are_read_in_parts() {
    for role in BOTH {
        for as_bytes in [false, true] {
            let (mut socket, mut peer, calls) = open(role).await;
            let pings = peer.frame(0x89, "?").repeat(1000);
            peer.send([pings, peer.frame(0x82, "!")].concat()).await;
            let mut read = String::new();
            if as_bytes {
                let mut bytes = socket.into_byte_stream();
                let mut byte = [0];
                within(bytes.read_exact(&mut byte)).await.unwrap();
                read.push(byte[0].into());
            } else {
                let mut message = within(socket.recv_stream()).await.unwrap().unwrap();
                within(message.read_to_string(&mut read)).await.unwrap();
            }
            assert_eq!(read, "!");
            let writes = calls.lock().unwrap().writes.len();
            assert!(writes <= 3, "{role:?} {as_bytes}: {writes} writes");
            assert_eq!(peer.expect(0x8A).await, b"?");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn sends_from_another_task_go_out_together() {
    for role in BOTH {
        for form in [Form::Driven, Form::Events] {
            let (socket, mut peer, calls) = open(role).await;
            let sender = socket.sender();
            let _seen = echo(form, socket);
            peer.expect_echo("driven by now").await;
            *calls.lock().unwrap() = Calls::default();
            for number in 0..1000 {
                sender.send(number.to_string()).await.unwrap();
            }
            for number in 0..1000 {
                peer.expect_text(&number.to_string()).await;
            }
            assert_eq!(calls.lock().unwrap().writes.len(), 1, "{form:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_nobody_drives_writes_in_send() {
    for role in BOTH {
        let (mut socket, mut peer, calls) = open(role).await;
        for number in 1..=10 {
            socket.send("now").await.unwrap();
            assert_eq!(calls.lock().unwrap().writes.len(), number);
            assert_eq!(socket.buffered_amount(), 0);
        }
        for _ in 0..10 {
            peer.expect_text("now").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_message_waits_for_the_next_one() {
    type Wait = fn(WebSocket) -> Pin<Box<dyn Future<Output = Result<()>> + Send>>;
    let waits: [(&str, Wait); 4] = [
        ("for ever", |socket| {
            Box::pin(async move {
                let _held = socket;
                pending().await
            })
        }),
        ("for a message", |mut socket| {
            Box::pin(async move { socket.recv().await.map(drop) })
        }),
        ("for a timer", |socket| {
            Box::pin(async move {
                let _held = socket;
                tokio::time::sleep(Duration::from_secs(3600)).await;
                Ok(())
            })
        }),
        ("for another task", |socket| {
            Box::pin(async move {
                let _held = socket;
                tokio::spawn(pending()).await.unwrap()
            })
        }),
    ];
    for role in BOTH {
        for (what, wait) in waits {
            let (socket, mut peer, _) = open(role).await;
            tokio::spawn(socket.drive(move |mut socket| async move {
                socket.send(what).await?;
                wait(socket).await
            }));
            peer.expect_text(what).await;
        }
    }
}

struct Chatty;

impl Handler for Chatty {
    fn on_open(&mut self, socket: &mut Socket) {
        socket.send("open");
        socket.ping(b"1").unwrap();
        assert!(socket.buffered_amount() > 0);
    }

    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        socket.send(message);
        socket.send(message);
    }

    fn on_pong(&mut self, socket: &mut Socket, payload: &[u8]) {
        socket.send(payload);
    }
}

#[tokio::test(start_paused = true)]
async fn what_callbacks_send_goes_out_at_once() {
    for role in BOTH {
        let (socket, mut peer, calls) = open(role).await;
        tokio::spawn(socket.handle(Chatty));
        peer.expect_text("open").await;
        assert_eq!(peer.expect(0x89).await, b"1");
        assert_eq!(calls.lock().unwrap().writes.len(), 1);
        let mut frames = peer.frame(0x81, "a");
        frames.extend(peer.frame(0x8A, "1"));
        frames.extend(peer.frame(0x81, "b"));
        peer.send(frames).await;
        peer.expect_text("a").await;
        peer.expect_text("a").await;
        assert_eq!(peer.expect(0x82).await, b"1");
        peer.expect_text("b").await;
        peer.expect_text("b").await;
        assert_eq!(calls.lock().unwrap().writes.len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn flush_in_a_handler_waits_until_it_is_written() {
    for role in BOTH {
        let (socket, mut peer, calls) = open(role).await;
        let count = calls.clone();
        tokio::spawn(socket.drive(move |mut socket| async move {
            for number in 1..=3 {
                socket.send("flushed").await?;
                assert!(socket.buffered_amount() > 0);
                socket.flush().await?;
                assert_eq!(socket.buffered_amount(), 0);
                assert_eq!(count.lock().unwrap().writes.len(), number);
            }
            socket.send("all three").await?;
            socket.recv().await.map(drop)
        }));
        for _ in 0..3 {
            peer.expect_text("flushed").await;
        }
        peer.expect_text("all three").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_payload_is_written_from_where_it_is() {
    for role in BOTH {
        for form in [Form::Plain, Form::Driven] {
            let (socket, mut peer, calls) = open(role).await;
            let payload = vec![7; 500_000];
            let at = payload.as_ptr().addr();
            let send = move |mut socket: WebSocket| async move {
                socket.send(payload).await?;
                socket.send("and a small one").await?;
                pending().await
            };
            if form == Form::Driven {
                tokio::spawn(async move { socket.drive(send).await.map(drop) });
            } else {
                tokio::spawn(send(socket));
            }
            assert_eq!(peer.expect(0x82).await, vec![7; 500_000]);
            peer.expect_text("and a small one").await;
            let calls = calls.lock().unwrap();
            // Header and payload in one call; with what follows, where it is known by then.
            let pieces: Vec<usize> = calls.writes.iter().map(Vec::len).collect();
            let expected: &[usize] = if form == Form::Driven { &[3] } else { &[2, 1] };
            assert_eq!(pieces, expected);
            assert_eq!(calls.writes[0][1], (at, 500_000));
        }
    }
}
