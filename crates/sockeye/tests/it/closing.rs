//! How connections end: the closing handshake from either side, deadlines, handlers that return,
//! fail, panic or hang, and servers that stop (RFC 6455 §7).

use std::{
    future::{Future, pending, poll_fn},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use sockeye::{
    CloseCode, Ended, Error, Event, Groups, Handler, MessageRef, Result, Sender, Server, Socket,
    WebSocket,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufStream, DuplexStream, duplex},
    net::TcpStream,
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};

use crate::wire::*;

fn by_us(code: CloseCode, reason: &str) -> impl Fn(&Ended) -> bool {
    move |ended| matches!(ended, Ended::ByUs(f) if f.code == code && f.reason == reason)
}

fn by_peer(code: CloseCode, reason: &str) -> impl Fn(&Ended) -> bool {
    move |ended| matches!(ended, Ended::ByPeer(Some(f)) if f.code == code && f.reason == reason)
}

/// Answers a Close as the peer, and ends the stream where that is its part.
async fn answer_close<S>(peer: &mut Peer<S>, code: u16, reason: &str)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    assert_eq!(peer.expect_close().await, (code, reason.into()));
    peer.send_close(code, "").await;
}

mod section_7_1_2_begun_by_this_end {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn close_waits_for_the_answer() {
        for role in BOTH {
            let (mut socket, mut peer) = Setup::default().open(role).await;
            let closing = tokio::spawn(async move {
                let result = socket.close(CloseCode::NORMAL, "Завершаю соединение").await;
                (socket, result)
            });
            assert_eq!(
                peer.expect_close().await,
                (1000, "Завершаю соединение".into())
            );
            // Discarded: whoever wants these sends the Close from a `Sender`.
            peer.send_frame(0x81, "late").await;
            peer.send_close(1000, "Завершаю соединение").await;
            if role == Role::Server {
                // The server ends the transport first.
                peer.expect_end().await;
            }
            drop(peer);
            let (mut socket, result) = within(closing).await.unwrap();
            result.unwrap();
            let ended = socket.ended().unwrap();
            assert!(by_us(CloseCode::NORMAL, "Завершаю соединение")(
                &ended
            ));
            assert!(!socket.is_open());
            assert!(socket.send("more").await.unwrap_err().is_closed());
            assert!(socket.recv().await.unwrap().is_none());
            let again = socket.close(CloseCode::NORMAL, "").await;
            assert!(again.unwrap_err().is_closed());
        }
    }

    /// A Close in a callback overtook what had been sent there by other means than its socket.
    #[tokio::test(start_paused = true)]
    async fn from_a_callback_behind_what_it_has_sent_in_any_way() {
        struct Parting(Groups);
        impl Handler for Parting {
            fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
                match message.as_text() {
                    Some("group") => assert_eq!(self.0.send_to("room", "bye"), 1),
                    Some("sender") => socket.sender().try_send("bye").unwrap(),
                    _ => socket.sender().send_latest(1, "bye").unwrap(),
                }
                socket.close(CloseCode::NORMAL, "").unwrap();
            }
        }
        for role in BOTH {
            for way in ["group", "sender", "latest"] {
                let (socket, mut peer) = Setup::default().open(role).await;
                let groups = Groups::new();
                let member = groups.member(socket.sender());
                member.join("room").unwrap();
                let handling = tokio::spawn(socket.handle(Parting(groups)));
                peer.send_frame(0x81, way).await;
                peer.expect_text("bye").await;
                answer_close(&mut peer, 1000, "").await;
                drop(peer);
                let ended = within(handling).await.unwrap();
                assert!(by_us(CloseCode::NORMAL, "")(&ended), "{ended:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_not_be_sent_leaves_the_connection_unharmed() {
        for role in BOTH {
            let (mut socket, mut peer) = Setup::default().open(role).await;
            let long = "x".repeat(124);
            assert!(socket.close(CloseCode::NORMAL, &long).await.is_err());
            if role == Role::Server {
                let code = CloseCode::MANDATORY_EXTENSION;
                assert!(socket.close(code, "").await.is_err());
            }
            assert!(socket.ping(&[0; 126]).await.is_err());
            let sender = socket.sender();
            assert!(sender.close(CloseCode::NORMAL, &long).await.is_err());
            let seen = echo(Form::Plain, socket);
            peer.expect_echo("still here").await;
            sender.close(CloseCode::NORMAL, &long[1..]).await.unwrap();
            answer_close(&mut peer, 1000, &long[1..]).await;
            drop(peer);
            let seen = within(seen).await.unwrap();
            seen.assert_ended(by_us(CloseCode::NORMAL, &long[1..]));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn from_a_sender_while_the_receiver_is_parked() {
        for role in BOTH {
            for form in FORMS {
                let (socket, mut peer) = Setup::default().open(role).await;
                let sender = socket.sender();
                let seen = echo(form, socket);
                peer.expect_echo("parked again").await;
                let code = CloseCode::new(3456).unwrap();
                sender.close(code, "enough").await.unwrap();
                assert!(!sender.is_open());
                assert!(sender.send("more").await.unwrap_err().is_closed());
                assert_eq!(peer.expect_close().await, (3456, "enough".into()));
                // Unlike `WebSocket::close`, this goes on receiving.
                peer.send_frame(0x81, "late").await;
                peer.send_close(3456, "enough").await;
                drop(peer);
                let seen = within(seen).await.unwrap();
                let expected = if form == Form::Events { 1 } else { 2 };
                assert_eq!(seen.messages.len(), expected, "{form:?}");
                seen.assert_ended(by_us(code, "enough"));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn from_both_ends_at_once() {
        for form in FORMS {
            for other in FORMS {
                let (near, far) = tokio::io::duplex(1 << 16);
                let setup = Setup::default();
                let (client, acceptor) = (setup.client("ws://peer/"), setup.acceptor());
                let (client, server) =
                    tokio::join!(client.connect_over(near), acceptor.accept(far));
                let (client, server) = (client.unwrap(), server.unwrap());
                let senders = [client.sender(), server.sender()];
                let seen = [echo(form, client), echo(other, server)];
                tokio::task::yield_now().await;
                let codes = [CloseCode::NORMAL, CloseCode::GOING_AWAY];
                let [a, b] = &senders;
                let (a, b) = tokio::join!(a.close(codes[0], "a"), b.close(codes[1], "b"));
                let first = [
                    (a.is_ok(), by_us(codes[0], "a")),
                    (b.is_ok(), by_us(codes[1], "b")),
                ];
                assert!(first[0].0 || first[1].0);
                for (seen, (first, by_us)) in seen.into_iter().zip(first) {
                    let seen = within(seen).await.unwrap();
                    seen.assert_ended(|ended| ended.was_clean() && first == by_us(ended));
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_receiver_was_dropped_the_sender_waits_for_the_answer() {
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let (sender, receiver) = socket.split();
            drop(receiver);
            sender.send("still sent").await.unwrap();
            peer.expect_text("still sent").await;
            let closing = sender.clone();
            let closing = tokio::spawn(async move { closing.close(CloseCode::NORMAL, "").await });
            assert_eq!(peer.expect_close().await.0, 1000);
            assert!(!closing.is_finished());
            peer.send_frame(0x81, "nobody wants this").await;
            peer.send_close(1000, "").await;
            if role == Role::Server {
                peer.expect_end().await;
            }
            drop(peer);
            within(closing).await.unwrap().unwrap();
            assert!(by_us(CloseCode::NORMAL, "")(&sender.ended().unwrap()));
        }
    }
}

mod section_7_1_5_begun_by_the_peer {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn code_and_reason_are_seen() {
        for role in BOTH {
            for form in FORMS {
                let (socket, mut peer) = Setup::default().open(role).await;
                let seen = echo(form, socket);
                peer.expect_echo("before").await;
                peer.send_close(1001, "going").await;
                assert_eq!(peer.expect_close().await, (1001, "going".into()));
                if role == Role::Server {
                    peer.expect_end().await;
                }
                drop(peer);
                let seen = within(seen).await.unwrap();
                seen.assert_ended(by_peer(CloseCode::GOING_AWAY, "going"));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_event_is_answered_before_it_is_told() {
        for role in BOTH {
            let (mut socket, mut peer) = Setup::default().open(role).await;
            peer.send_close(1000, "").await;
            let event = socket.recv_event().await.unwrap();
            assert!(matches!(event, Some(Event::Close(Some(_)))));
            // Nothing is polled any more.
            assert_eq!(peer.expect_close().await.0, 1000);
            drop(socket);
            peer.expect_end().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_before_still_goes_out() {
        for role in BOTH {
            for form in [Form::Plain, Form::Driven] {
                let setup = Setup {
                    pipe: 1000,
                    ..Setup::default()
                };
                let (socket, mut peer) = setup.open(role).await;
                let sender = socket.sender();
                let seen = echo(form, socket);
                let sending = tokio::spawn(async move { sender.send(vec![7; 100_000]).await });
                tokio::time::sleep(Duration::from_millis(1)).await;
                peer.send_close(1000, "").await;
                tokio::time::sleep(Duration::from_millis(1)).await;
                assert_eq!(peer.expect(0x82).await, vec![7; 100_000]);
                assert_eq!(peer.expect_close().await.0, 1000);
                drop(peer);
                within(sending).await.unwrap().unwrap();
                within(seen).await.unwrap().assert_ended(Ended::was_clean);
            }
        }
    }

    /// It was said to have been closed by this end, whose Close was never sent, and neither was what came before it.
    #[tokio::test(start_paused = true)]
    async fn an_end_from_elsewhere_that_came_before_is_sent() {
        struct Leaves(Sender);
        impl Handler for Leaves {
            fn on_message(&mut self, _: &mut Socket, _: MessageRef<'_>) {
                let sent = self.0.send("bye").now_or_never();
                sent.expect("it is queued").unwrap();
                let closed = self
                    .0
                    .close(CloseCode::INTERNAL_ERROR, "mine")
                    .now_or_never();
                closed.expect("it is queued").unwrap();
            }
        }
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let both = [peer.frame(0x81, "go"), peer.frame(0x88, [0x03, 0xF4])].concat();
            peer.send(both).await;
            let handler = Leaves(socket.sender());
            let handling = tokio::spawn(socket.handle(handler));
            peer.expect_text("bye").await;
            assert_eq!(peer.expect_close().await, (1011, "mine".into()));
            drop(peer);
            let ended = within(handling).await.unwrap();
            assert!(
                by_us(CloseCode::INTERNAL_ERROR, "mine")(&ended),
                "{ended:?}"
            );
        }
    }

    /// What waited for its turn was dropped.
    #[tokio::test(start_paused = true)]
    async fn the_newest_that_waits_goes_out_before_the_answer() {
        for role in BOTH {
            for form in [Form::Plain, Form::Driven] {
                let setup = Setup {
                    pipe: 1000,
                    ..Setup::default()
                };
                let (socket, mut peer) = setup.open(role).await;
                let sender = socket.sender();
                let seen = echo(form, socket);
                tokio::time::sleep(Duration::from_millis(1)).await;
                sender.try_send(vec![7; 5000]).unwrap();
                sender.send_latest(1, "newest").unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
                peer.send_close(1000, "").await;
                assert_eq!(peer.expect(0x82).await.len(), 5000);
                peer.expect_text("newest").await;
                assert_eq!(peer.expect_close().await.0, 1000);
                drop(peer);
                within(seen).await.unwrap().assert_ended(Ended::was_clean);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_without_a_close_is_an_error() {
        for role in BOTH {
            for form in FORMS {
                let (socket, mut peer) = Setup::default().open(role).await;
                let seen = echo(form, socket);
                peer.expect_echo("before").await;
                // In the middle of a frame.
                let bytes = peer.frame(0x81, "cut off");
                peer.send(&bytes[..8]).await;
                drop(peer);
                let seen = within(seen).await.unwrap();
                seen.assert_ended(|ended| {
                    matches!(ended, Ended::Lost(error)
                        if error.kind() == std::io::ErrorKind::UnexpectedEof)
                });
                assert!(seen.error.unwrap().is_lost());
                assert_eq!(seen.ended.unwrap().code(), 1006);
            }
        }
    }
}

/// The peer ends its side and reads nothing, while a task waits for what it has sent to be written, and another
/// receives.
/// A Close was noted, and so nothing more accepted, only after what had been sent from elsewhere was taken.
#[tokio::test]
async fn what_another_thread_was_told_is_sent_comes_before_any_close() {
    #[derive(Clone)]
    struct Closes(Arc<AtomicUsize>, bool);
    impl Closes {
        fn wait(&self) {
            while self.0.load(Ordering::Relaxed) < 20 {
                std::thread::yield_now();
            }
        }
    }
    impl Handler for Closes {
        fn on_message(&mut self, socket: &mut Socket, _: MessageRef<'_>) {
            self.wait();
            if self.1 {
                socket.close(CloseCode::NORMAL, "").unwrap();
            }
        }
    }
    for way in ["callback", "peer", "returns"] {
        for _ in 0..20 {
            let setup = Setup {
                high_water: 32 << 20,
                pipe: 8 << 20,
                ..Setup::default()
            };
            let (socket, mut peer) = setup.open(Role::Server).await;
            let (sender, sent) = (socket.sender(), Arc::new(AtomicUsize::new(0)));
            let handler = Closes(sent.clone(), way == "callback");
            let running = match way {
                "returns" => tokio::spawn(async move {
                    let work = socket.drive(async |mut socket| {
                        socket.recv().await?;
                        handler.wait();
                        Ok(())
                    });
                    drop(work.await.unwrap());
                }),
                _ => tokio::spawn(async move { drop(socket.handle(handler).await) }),
            };
            let counted = sent.clone();
            let sending = std::thread::spawn(move || {
                while sender.try_send("x").is_ok() {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            });
            let mut frames = peer.frame(0x81, "go");
            if way == "peer" {
                frames.extend(peer.frame(0x88, [0x03, 0xE8]));
            }
            peer.send(frames).await;
            let mut came = 0;
            while within(peer.next()).await.unwrap().first == 0x81 {
                came += 1;
            }
            tokio::task::spawn_blocking(|| sending.join().unwrap())
                .await
                .unwrap();
            assert_eq!(came, sent.load(Ordering::Relaxed), "{way}");
            if way != "peer" {
                peer.send_close(1000, "").await;
            }
            drop(peer);
            within(running).await.unwrap();
        }
    }
}

mod what_is_thrown_away_at_the_end {
    use super::*;

    async fn lost(role: Role, form: Form) -> (Result<()>, Result<()>) {
        let setup = Setup {
            pipe: 200,
            ..Setup::default()
        };
        let (socket, mut peer) = setup.open(role).await;
        let sender = socket.sender();
        let seen = echo(form, socket);
        let sending = tokio::spawn(async move {
            let sent = sender.send(vec![0; 10_000]).await;
            (sent, sender.flush().await)
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(!sending.is_finished(), "{form:?}");
        peer.stream.shutdown().await.unwrap();
        let seen = within(seen).await.unwrap();
        seen.assert_ended(|ended| matches!(ended, Ended::Lost(_)));
        within(sending).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn is_an_error_of_the_send() {
        for role in BOTH {
            let (sent, _) = lost(role, Form::Plain).await;
            assert!(sent.unwrap_err().is_lost());
        }
    }

    /// A bug: a stream with a buffer of its own, as TLS has one, had taken all of it and passed on a part.
    #[tokio::test(start_paused = true)]
    async fn and_where_the_stream_holds_it_back() {
        for role in BOTH {
            let open = async || {
                let (ours, theirs) = duplex(200);
                let ours = BufStream::new(ours);
                Setup::default().open_over(role, ours, theirs).await
            };
            let (socket, mut peer) = open().await;
            let sender = socket.sender();
            let seen = echo(Form::Plain, socket);
            let sending = tokio::spawn(async move { sender.send(vec![0; 4000]).await });
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(!sending.is_finished());
            peer.stream.shutdown().await.unwrap();
            within(seen).await.unwrap();
            assert!(within(sending).await.unwrap().unwrap_err().is_lost());
            // So for whoever asks once a handler has ended.
            let (socket, mut peer) = open().await;
            let sender = socket.sender();
            peer.stream.shutdown().await.unwrap();
            let handler = socket.drive(|mut socket| async move {
                socket.send(vec![0; 4000]).await?;
                socket.recv().await.map(drop)
            });
            assert!(within(handler).await.unwrap_err().is_lost());
            assert!(sender.flush().await.unwrap_err().is_lost());
        }
    }

    /// The handler itself waits for it, when it knows that nobody is there.
    #[tokio::test(start_paused = true)]
    async fn and_of_a_flush_in_a_handler() {
        for role in BOTH {
            let setup = Setup {
                pipe: 200,
                ..Setup::default()
            };
            let (socket, mut peer) = setup.open(role).await;
            peer.stream.shutdown().await.unwrap();
            let handler = socket.drive(|mut socket| async move {
                socket.send(vec![0; 10_000]).await?;
                assert!(socket.recv().await.is_err());
                socket.flush().await
            });
            assert!(within(handler).await.unwrap_err().is_lost());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn and_of_a_flush() {
        for role in BOTH {
            for form in FORMS {
                let (_, flushed) = lost(role, form).await;
                assert!(flushed.is_err_and(|error| error.is_lost()), "{form:?}");
            }
        }
    }
}

mod the_close_timeout {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_five_seconds_or_what_was_set() {
        for role in BOTH {
            for form in FORMS {
                for seconds in [5, 60] {
                    println!("{role:?} {form:?} {seconds}");
                    let setup = Setup {
                        close_timeout: Duration::from_secs(seconds),
                        ..Setup::default()
                    };
                    let setup = if seconds == 5 {
                        Setup::default()
                    } else {
                        setup
                    };
                    let (socket, mut peer) = setup.open(role).await;
                    let sender = socket.sender();
                    let seen = echo(form, socket);
                    peer.expect_echo("before").await;
                    let start = Instant::now();
                    sender.close(CloseCode::NORMAL, "").await.unwrap();
                    assert_eq!(peer.expect_close().await.0, 1000);
                    let seen = tokio::time::timeout(Duration::from_secs(100), seen).await;
                    let seen = seen.unwrap().unwrap();
                    assert_eq!(start.elapsed().as_secs(), seconds);
                    seen.assert_ended(|ended| matches!(ended, Ended::TimedOut));
                    assert!(seen.error.unwrap().is_timeout());
                    peer.expect_end().await;
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn holds_against_a_peer_that_goes_on_talking() {
        for role in BOTH {
            for form in FORMS {
                let (socket, peer) = Setup::default().open(role).await;
                let sender = socket.sender();
                let seen = echo(form, socket);
                let mut peer = peer;
                let talking = tokio::spawn(async move {
                    let frame = peer.frame(0x81, "and another thing");
                    let (mut read, mut write) = tokio::io::split(&mut peer.stream);
                    let mut nowhere = tokio::io::sink();
                    let reading = tokio::io::copy(&mut read, &mut nowhere);
                    let writing = async {
                        while tokio::io::AsyncWriteExt::write_all(&mut write, &frame)
                            .await
                            .is_ok()
                        {
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                    };
                    tokio::select! { _ = reading => (), _ = writing => () }
                });
                let start = Instant::now();
                sender.close(CloseCode::NORMAL, "").await.unwrap();
                let seen = within(seen).await.unwrap();
                assert_eq!(start.elapsed().as_secs(), 5);
                seen.assert_ended(|ended| matches!(ended, Ended::TimedOut));
                within(talking).await.unwrap();
            }
        }
    }

    struct Closing;
    impl Handler for Closing {
        fn on_open(&mut self, socket: &mut Socket) {
            socket.close(CloseCode::NORMAL, "").unwrap();
        }
    }

    /// There is more to read than a task may read before it is to yield: so it never finds that there is nothing.
    #[tokio::test(start_paused = true)]
    async fn holds_against_a_peer_that_never_pauses() {
        let setup = Setup {
            pipe: 64 << 20,
            ..Setup::default()
        };
        for role in BOTH {
            for form in FORMS {
                let (socket, mut peer) = setup.open(role).await;
                let sender = socket.sender();
                let frames = peer.frame(0x82, vec![7; 16 << 10]).repeat(64);
                let talking = tokio::spawn(async move {
                    loop {
                        for _ in 0..40 {
                            if peer.stream.write_all(&frames).await.is_err() {
                                return;
                            }
                        }
                        tokio::time::advance(Duration::from_millis(500)).await;
                    }
                });
                // Until the pipe is full.
                tokio::time::sleep(Duration::from_secs(2)).await;
                let start = Instant::now();
                let close = async |mut socket: WebSocket| socket.close(CloseCode::NORMAL, "").await;
                let closed = within(async {
                    match form {
                        Form::Plain => drop(close(socket).await),
                        Form::Driven => drop(socket.drive(close).await),
                        Form::Events => drop(socket.handle(Closing).await),
                    }
                });
                closed.await;
                let took = start.elapsed().as_secs();
                assert!((5..10).contains(&took), "{role:?} {form:?}: {took}");
                assert!(matches!(sender.ended(), Some(Ended::TimedOut)));
                drop(sender);
                within(talking).await.unwrap();
            }
        }
    }

    /// A connection on which 10,000 bytes wait for the peer, of which 200 have gone.
    async fn filled(role: Role, form: Form) -> (Sender, JoinHandle<Seen>, Peer<DuplexStream>) {
        let setup = Setup {
            pipe: 200,
            ..Setup::default()
        };
        let (socket, peer) = setup.open(role).await;
        let sender = socket.sender();
        let seen = echo(form, socket);
        let filling = sender.clone();
        tokio::spawn(async move { filling.send(vec![0; 10_000]).await });
        tokio::time::sleep(Duration::from_millis(1)).await;
        (sender, seen, peer)
    }

    #[tokio::test(start_paused = true)]
    async fn holds_against_a_peer_that_does_not_read_the_close() {
        for role in BOTH {
            for form in FORMS {
                let (sender, seen, mut peer) = filled(role, form).await;
                let start = Instant::now();
                let closing = tokio::spawn(async move {
                    let _ = sender.close(CloseCode::NORMAL, "").await;
                });
                let seen = within(seen).await.unwrap();
                assert_eq!(start.elapsed().as_secs(), 5);
                seen.assert_ended(|ended| matches!(ended, Ended::TimedOut));
                within(closing).await.unwrap();
                // What the pipe held, and then the end.
                let mut rest = Vec::new();
                let read = tokio::io::AsyncReadExt::read_to_end(&mut peer.stream, &mut rest);
                within(read).await.unwrap();
                assert!(rest.len() <= 200);
            }
        }
    }

    /// A peer that takes some of what waits, and of the Close behind it, every four seconds.
    async fn slowly(role: Role, form: Form, at_once: usize) -> (u64, Vec<u8>, Seen) {
        let (sender, seen, mut peer) = filled(role, form).await;
        let start = Instant::now();
        let closing = tokio::spawn(async move { sender.close(CloseCode::NORMAL, "").await });
        let reading = async {
            let mut taken = Vec::new();
            let mut some = vec![0; at_once];
            while let count @ 1.. = peer.stream.read(&mut some).await.unwrap() {
                taken.extend_from_slice(&some[..count]);
                tokio::time::sleep(Duration::from_secs(4)).await;
            }
            taken
        };
        let ended = async { (seen.await.unwrap(), start.elapsed().as_secs()) };
        let (taken, (seen, took)) = tokio::join!(reading, ended);
        let _ = closing.await.unwrap();
        (took, taken, seen)
    }

    /// It was counted from the call, and what stood before the Close was thrown away with it.
    #[tokio::test(start_paused = true)]
    async fn is_counted_from_what_the_peer_has_last_taken() {
        for role in BOTH {
            for form in FORMS {
                let (took, taken, seen) = slowly(role, form, 200).await;
                let frame = if role == Role::Client { 8 } else { 4 };
                assert_eq!(taken.len(), frame + 10_000 + frame, "{role:?} {form:?}");
                assert!((200..220).contains(&took), "{role:?} {form:?}: {took}");
                seen.assert_ended(|ended| matches!(ended, Ended::TimedOut));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn passes_at_the_sixtieth_whatever_the_peer_takes() {
        for role in BOTH {
            for form in FORMS {
                let (took, taken, seen) = slowly(role, form, 20).await;
                assert_eq!(took, 300, "{role:?} {form:?}");
                assert!(taken.len() < 2000, "{role:?} {form:?}: {}", taken.len());
                seen.assert_ended(|ended| matches!(ended, Ended::TimedOut));
            }
        }
    }

    /// The system has room long before it says so: once a third of its buffer is free.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn is_counted_from_what_the_system_takes_unasked() {
        const SENT: usize = 600_000;
        let closes = async |form: Form| {
            let setup = Setup {
                close_timeout: Duration::from_secs(3),
                ..Setup::default()
            };
            let (ours, theirs) = tcp_pair().await;
            let small = socket2::SockRef::from(&ours);
            small.set_send_buffer_size(200 << 10).unwrap();
            let small = socket2::SockRef::from(&theirs);
            small.set_recv_buffer_size(16 << 10).unwrap();
            let (socket, mut peer) = setup.open_over(Role::Server, ours, theirs).await;
            let numbered: Vec<u8> = (0..SENT as u32 / 4).flat_map(u32::to_be_bytes).collect();
            let sent = numbered.clone();
            let work = async |mut socket: WebSocket| {
                socket.try_send(sent)?;
                socket.close(CloseCode::NORMAL, "").await
            };
            let closing = tokio::spawn(async move {
                match form {
                    Form::Driven => socket.drive(work).await.map(drop),
                    _ => work(socket).await,
                }
            });
            // A third of its buffer in more than three seconds, but 64 KiB, which it frees at once, in half of that.
            let mut taken = Vec::new();
            let mut some = [0; 2000];
            let mut pace = tokio::time::interval(Duration::from_millis(50));
            while taken.len() < SENT + 14 {
                pace.tick().await;
                let count = within(peer.stream.read(&mut some)).await.unwrap();
                assert!(count > 0, "{form:?}: {}", taken.len());
                taken.extend_from_slice(&some[..count]);
            }
            // The header has 10 bytes, and the Close 4.
            assert!(taken[10..].starts_with(&numbered), "{form:?}");
            closing.abort();
        };
        tokio::join!(closes(Form::Plain), closes(Form::Driven));
    }

    #[tokio::test(start_paused = true)]
    async fn bounds_the_answer_to_a_close_that_the_peer_does_not_read() {
        for role in BOTH {
            for form in FORMS {
                let (_sender, seen, mut peer) = filled(role, form).await;
                let start = Instant::now();
                peer.send_close(1000, "").await;
                let seen = within(seen).await.unwrap();
                assert_eq!(start.elapsed().as_secs(), 5);
                seen.assert_ended(|ended| ended.code() == 1000);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bounds_the_wait_of_a_client_for_the_end_of_the_transport() {
        for form in FORMS {
            let (socket, mut peer) = Setup::default().open(Role::Client).await;
            let seen = echo(form, socket);
            let start = Instant::now();
            peer.send_close(1000, "").await;
            assert_eq!(peer.expect_close().await.0, 1000);
            let seen = within(seen).await.unwrap();
            assert_eq!(start.elapsed().as_secs(), 5);
            seen.assert_ended(by_peer(CloseCode::NORMAL, ""));
            peer.expect_end().await;
        }
    }

    /// Whoever has closed: the peer before the handler waits, or this end meanwhile.
    #[tokio::test(start_paused = true)]
    async fn ends_a_flush_in_a_handler() {
        for role in BOTH {
            for by_peer in [true, false] {
                let setup = Setup {
                    pipe: 200,
                    ..Setup::default()
                };
                let (socket, mut peer) = setup.open(role).await;
                let sender = socket.sender();
                let handler = tokio::spawn(socket.drive(move |mut socket| async move {
                    socket.send(vec![0; 10_000]).await?;
                    while by_peer && socket.recv().await?.is_some() {}
                    socket.flush().await
                }));
                tokio::time::sleep(Duration::from_millis(1)).await;
                let elsewhere = sender.clone();
                let elsewhere = tokio::spawn(async move { elsewhere.flush().await });
                let start = Instant::now();
                match by_peer {
                    true => peer.send_close(1000, "").await,
                    false => sender.close(CloseCode::NORMAL, "").await.unwrap(),
                }
                let result = within(handler).await.unwrap();
                assert_eq!(start.elapsed().as_secs(), 5);
                assert!(result.unwrap_err().is_lost());
                let elsewhere = within(elsewhere).await.unwrap();
                assert!(elsewhere.unwrap_err().is_lost());
                let ended = sender.ended().unwrap();
                assert_eq!(matches!(ended, Ended::TimedOut), !by_peer, "{ended}");
            }
        }
    }

    /// A future in a set is polled only where its own waker was woken.
    #[tokio::test(start_paused = true)]
    async fn wakes_a_receiver_in_a_set_of_futures() {
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let handler = tokio::spawn(socket.drive(|socket| async move {
                let (sender, mut receiver) = socket.split();
                let mut set = FuturesUnordered::new();
                set.push(async move { receiver.recv().await }.boxed());
                set.push(
                    async move {
                        sender.close(CloseCode::NORMAL, "").await?;
                        pending().await
                    }
                    .boxed(),
                );
                set.next().await.unwrap().map(drop)
            }));
            assert_eq!(peer.expect_close().await.0, 1000);
            let result = within(handler).await.unwrap();
            assert!(result.unwrap_err().is_timeout());
        }
    }
}

mod a_handler_that_is_done {
    use super::*;

    async fn driven<F, Fut>(role: Role, work: F) -> (u16, bool, Peer<tokio::io::DuplexStream>)
    where
        F: FnOnce(WebSocket) -> Fut + Send + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let (socket, mut peer) = Setup::default().open(role).await;
        let driving = tokio::spawn(socket.drive(work));
        let (code, _) = peer.expect_close().await;
        peer.send_close(code, "").await;
        if role == Role::Client {
            tokio::io::AsyncWriteExt::shutdown(&mut peer.stream)
                .await
                .unwrap();
        }
        let ok = match within(driving).await {
            Ok(result) => {
                assert!(
                    matches!(&result, Ok(Some(Ended::ByUs(_))) | Err(_)),
                    "{result:?}"
                );
                result.is_ok()
            }
            Err(panic) => {
                assert!(panic.is_panic());
                false
            }
        };
        (code, ok, peer)
    }

    #[tokio::test(start_paused = true)]
    async fn closes_with_1000() {
        for role in BOTH {
            let (code, ok, _) = driven(role, |socket| async move {
                drop(socket);
                Ok(())
            })
            .await;
            assert_eq!((code, ok), (1000, true));
        }
    }

    /// What another thread had sent was refused behind the Close, without a word.
    #[tokio::test(start_paused = true)]
    async fn closes_behind_what_was_sent_for_it_elsewhere() {
        for role in BOTH {
            for latest in [false, true] {
                let (socket, mut peer) = Setup::default().open(role).await;
                let driving = tokio::spawn(socket.drive(move |socket| async move {
                    let sender = socket.sender();
                    let elsewhere = std::thread::spawn(move || match latest {
                        true => sender.send_latest(1, "the result"),
                        false => sender.try_send("the result"),
                    });
                    elsewhere.join().unwrap()
                }));
                peer.expect_text("the result").await;
                answer_close(&mut peer, 1000, "").await;
                drop(peer);
                assert!(matches!(
                    within(driving).await,
                    Ok(Ok(Some(Ended::ByUs(_))))
                ));
            }
        }
    }

    /// With what another thread had sent and closed with, where that had not been taken.
    #[tokio::test(start_paused = true)]
    async fn after_a_panic_says_goodbye_as_was_asked_elsewhere() {
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let driving = tokio::spawn(socket.drive(async |socket| {
                let sender = socket.sender();
                let elsewhere = std::thread::spawn(move || {
                    sender.try_send("bye").unwrap();
                    let closed = sender.close(CloseCode::NORMAL, "mine").now_or_never();
                    closed.expect("it is queued").unwrap();
                });
                elsewhere.join().unwrap();
                panic!("as the test wants it")
            }));
            assert!(within(driving).await.unwrap_err().is_panic());
            peer.expect_text("bye").await;
            assert_eq!(peer.expect_close().await, (1000, "mine".into()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_error_closes_with_1011() {
        for role in BOTH {
            let (code, ok, _) = driven(role, |socket| async move {
                drop(socket);
                Err(Error::other("no such room"))
            })
            .await;
            assert_eq!((code, ok), (1011, false));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_panic_closes_with_1011() {
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let driving = tokio::spawn(socket.drive(|mut socket| async move {
                socket.recv().await?;
                socket.send("about to").await?;
                panic!("as the test wants it");
            }));
            peer.send_frame(0x81, "panic").await;
            peer.expect_text("about to").await;
            assert_eq!(peer.expect_close().await.0, 1011);
            peer.expect_end().await;
            assert!(within(driving).await.unwrap_err().is_panic());
        }
    }

    struct Panics;

    impl Handler for Panics {
        fn on_message(&mut self, socket: &mut Socket, _: MessageRef<'_>) {
            socket.send("about to");
            panic!("as the test wants it");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_panic_in_a_callback_closes_with_1011() {
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let sender = socket.sender();
            let handling = tokio::spawn(socket.handle(Panics));
            peer.send_frame(0x81, "panic").await;
            peer.expect_text("about to").await;
            assert_eq!(peer.expect_close().await.0, 1011);
            peer.expect_end().await;
            assert!(within(handling).await.unwrap_err().is_panic());
            assert!(!sender.is_open());
        }
    }

    /// Done, but still holding the socket: not every future is an async block.
    struct Holding(#[allow(dead_code, reason = "held")] WebSocket);

    impl Future for Holding {
        type Output = Result<()>;
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn closes_with_1000_though_its_future_holds_the_socket() {
        for role in BOTH {
            let (code, ok, _) = driven(role, Holding).await;
            assert_eq!((code, ok), (1000, true));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn leaves_open_a_socket_that_was_moved_to_another_task() {
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let (tell, seen) = oneshot::channel();
            let driven = socket
                .drive(|socket| async move {
                    let _ = tell.send(echo(Form::Plain, socket));
                    Ok(())
                })
                .await;
            assert!(driven.unwrap().is_none());
            peer.expect_echo("still open").await;
            peer.send_close(1000, "").await;
            assert_eq!(peer.expect_close().await.0, 1000);
            drop(peer);
            let seen = within(seen.await.unwrap()).await.unwrap();
            seen.assert_ended(Ended::was_clean);
        }
    }

    /// Drives a socket that waits for a message in another task when its driver ends, just after
    /// `before`.
    async fn moved_then_done(
        setup: Setup,
        role: Role,
        before: impl AsyncFnOnce(&Sender),
    ) -> (tokio::task::JoinHandle<Seen>, Peer<tokio::io::DuplexStream>) {
        let (socket, peer) = setup.open(role).await;
        let sender = socket.sender();
        let (tell, seen) = oneshot::channel();
        let driven = socket
            .drive(|socket| async move {
                let _ = tell.send(echo(Form::Plain, socket));
                tokio::time::sleep(Duration::from_millis(1)).await;
                before(&sender).await;
                Ok(())
            })
            .await;
        assert!(driven.unwrap().is_none());
        (seen.await.unwrap(), peer)
    }

    #[tokio::test(start_paused = true)]
    async fn leaves_the_close_deadline_to_the_receiver() {
        for role in BOTH {
            let close = async |sender: &Sender| sender.close(CloseCode::NORMAL, "").await.unwrap();
            let (seen, mut peer) = moved_then_done(Setup::default(), role, close).await;
            assert_eq!(peer.expect_close().await.0, 1000);
            let seen = within(seen).await.unwrap();
            seen.assert_ended(|ended| matches!(ended, Ended::TimedOut));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn leaves_what_waits_to_be_written_to_the_receiver() {
        for role in BOTH {
            let setup = Setup {
                pipe: 1000,
                ..Setup::default()
            };
            let send = async |sender: &Sender| sender.send(vec![7; 100_000]).await.unwrap();
            let (seen, mut peer) = moved_then_done(setup, role, send).await;
            assert_eq!(peer.expect(0x82).await, vec![7; 100_000]);
            drop(peer);
            within(seen).await.unwrap();
        }
    }
}

mod a_socket_that_is_dropped {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn closes_with_1001() {
        for role in BOTH {
            let (mut socket, mut peer) = Setup::default().open(role).await;
            socket.send("last words").await.unwrap();
            drop(socket);
            peer.expect_text("last words").await;
            assert_eq!(peer.expect_close().await.0, 1001);
            peer.expect_end().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn says_so_when_the_last_sender_goes() {
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let (sender, receiver) = socket.split();
            drop(receiver);
            sender.send("alone").await.unwrap();
            drop(sender);
            peer.expect_text("alone").await;
            assert_eq!(peer.expect_close().await.0, 1001);
            peer.expect_end().await;
        }
    }

    /// It was thrown away with what was accepted, and a Close that was told to be on its way, where the receiving half was the last
    /// to go: as where a handler has a task for each half, and aborts the other when one is done.
    #[tokio::test(start_paused = true)]
    async fn writes_what_was_accepted_first() {
        for role in BOTH {
            for closes in [true, false] {
                let setup = Setup {
                    pipe: 1000,
                    ..Setup::default()
                };
                let (socket, mut peer) = setup.open(role).await;
                let (stop, stopped) = oneshot::channel::<()>();
                let driven = socket.drive(|socket| async move {
                    let (sender, mut receiver) = socket.split();
                    tokio::spawn(async move {
                        tokio::select! { _ = receiver.recv() => (), _ = stopped => () }
                    });
                    sender.send(vec![7; 100_000]).await?;
                    match closes {
                        true => sender.close(CloseCode::NORMAL, "").await,
                        false => Ok(()),
                    }
                });
                assert!(driven.await.unwrap().is_none());
                drop(stop);
                tokio::task::yield_now().await;
                assert_eq!(peer.expect(0x82).await, vec![7; 100_000]);
                let code = if closes { 1000 } else { 1001 };
                assert_eq!(peer.expect_close().await.0, code);
                peer.send_close(code, "").await;
            }
        }
    }

    /// Whichever of its halves goes last, where nobody drives it.
    #[tokio::test(start_paused = true)]
    async fn writes_what_waits_first() {
        for role in BOTH {
            for closes in [true, false] {
                for sender_first in [true, false] {
                    let setup = Setup {
                        pipe: 1000,
                        ..Setup::default()
                    };
                    let (socket, mut peer) = setup.open(role).await;
                    let (sender, receiver) = socket.split();
                    sender.try_send(vec![7; 100_000]).unwrap();
                    if closes {
                        let closing = sender.close(CloseCode::NORMAL, "");
                        assert!(closing.now_or_never().is_none());
                    }
                    match sender_first {
                        true => drop((sender, receiver)),
                        false => drop((receiver, sender)),
                    }
                    // It says something that nobody reads, and ends.
                    peer.send_frame(0x82, vec![1; 500]).await;
                    assert_eq!(peer.expect(0x82).await, vec![7; 100_000]);
                    let code = if closes { 1000 } else { 1001 };
                    assert_eq!(peer.expect_close().await.0, code);
                    peer.send_close(code, "").await;
                    peer.expect_end().await;
                }
            }
        }
    }

    /// A socket that has sent more than its peer takes.
    async fn with_more_than_fits(role: Role) -> (WebSocket, Peer<DuplexStream>) {
        let setup = Setup {
            pipe: 1000,
            ..Setup::default()
        };
        let (mut socket, peer) = setup.open(role).await;
        socket.try_send(vec![7; 100_000]).unwrap();
        (socket, peer)
    }

    /// And a peer that takes nothing is given up, as after any Close.
    #[tokio::test(start_paused = true)]
    async fn waits_no_longer_for_a_peer_that_takes_nothing() {
        for role in BOTH {
            let (socket, mut peer) = with_more_than_fits(role).await;
            drop(socket);
            tokio::time::sleep(Duration::from_secs(6)).await;
            let mut rest = Vec::new();
            peer.stream.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest.len(), 1000);
        }
    }

    /// Nor for one that has ended its side without a Close, which is owed none.
    #[tokio::test(start_paused = true)]
    async fn waits_not_at_all_for_one_that_has_gone() {
        for role in BOTH {
            let (mut socket, mut peer) = with_more_than_fits(role).await;
            peer.stream.shutdown().await.unwrap();
            let ended = within(socket.closed()).await;
            assert!(matches!(ended, Ended::Lost(_)), "{ended:?}");
            drop(socket);
            let mut rest = Vec::new();
            within(peer.stream.read_to_end(&mut rest)).await.unwrap();
            assert_eq!(rest.len(), 1000);
        }
    }

    struct Silent;
    impl Handler for Silent {}

    #[tokio::test(start_paused = true)]
    async fn in_a_handler_too_and_whoever_holds_a_sender() {
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let sender = socket.sender();
            let mut handling = Box::pin(socket.handle(Silent));
            poll_fn(|cx| {
                assert!(handling.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            sender.send("queued").await.unwrap();
            drop(handling);
            peer.expect_text("queued").await;
            assert_eq!(peer.expect_close().await.0, 1001);
            peer.expect_end().await;
            assert!(!sender.is_open());
            assert!(sender.send("more").await.unwrap_err().is_closed());
            assert!(matches!(sender.ended(), Some(Ended::Lost(_))));
        }
    }

    /// Whoever keeps a list of senders must not keep the descriptors of connections that are over.
    #[tokio::test(start_paused = true)]
    async fn or_has_ended_lets_go_of_its_transport_whoever_holds_a_sender() {
        for role in BOTH {
            for form in FORMS {
                let (socket, mut peer) = Setup::default().open(role).await;
                let sender = socket.sender();
                let seen = echo(form, socket);
                peer.send_close(1000, "").await;
                assert_eq!(peer.expect_close().await.0, 1000);
                if role == Role::Client {
                    tokio::io::AsyncWriteExt::shutdown(&mut peer.stream)
                        .await
                        .unwrap();
                }
                within(seen).await.unwrap().assert_ended(Ended::was_clean);
                peer.expect_end().await;
                // The other direction is gone as well.
                assert!(
                    tokio::io::AsyncWriteExt::write_all(&mut peer.stream, b"x")
                        .await
                        .is_err()
                );
                assert!(sender.send("more").await.unwrap_err().is_closed());
                assert_eq!(sender.buffered_amount(), 0);
                sender.flush().await.unwrap();
            }
        }
    }
}

mod a_server {
    use super::*;

    struct Running {
        address: SocketAddr,
        stop: Arc<Notify>,
        serving: tokio::task::JoinHandle<Result<()>>,
        errors: mpsc::UnboundedReceiver<Error>,
    }

    async fn run<F, Fut>(setup: Setup, work: F) -> Running
    where
        F: Fn(WebSocket) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let stop = Arc::new(Notify::new());
        let stopped = stop.clone();
        let (tell, errors) = mpsc::unbounded_channel();
        let server = Server::bind("127.0.0.1:0")
            .await
            .unwrap()
            .acceptor(setup.acceptor())
            .on_error(move |_, error| tell.send(error.clone()).unwrap())
            .shutdown_on(async move { stopped.notified().await });
        Running {
            address: server.local_addr().unwrap(),
            stop,
            serving: tokio::spawn(server.serve(work)),
            errors,
        }
    }

    impl Running {
        async fn connect(&self) -> Peer<TcpStream> {
            Peer::client(TcpStream::connect(self.address).await.unwrap(), "", &[]).await
        }
    }

    async fn echo_socket(mut socket: WebSocket) -> Result<()> {
        while let Some(message) = socket.recv().await? {
            match message.as_text() {
                Some("fail") => return Err(Error::other("as asked")),
                Some("panic") => panic!("as asked"),
                _ => socket.send(message).await?,
            }
        }
        Ok(())
    }

    #[tokio::test]
    async fn goes_on_when_handlers_fail_and_panic() {
        let mut running = run(Setup::default(), echo_socket).await;
        let mut bystander = running.connect().await;
        for word in ["fail", "panic"] {
            let mut peer = running.connect().await;
            peer.send_frame(0x81, word).await;
            assert_eq!(peer.expect_close().await.0, 1011);
            if word == "fail" {
                peer.send_close(1011, "").await;
                let error = within(running.errors.recv()).await.unwrap();
                assert_eq!(error.to_string(), "as asked");
            }
            peer.expect_end().await;
            bystander.expect_echo("still here").await;
        }
        let mut healthy = running.connect().await;
        healthy.expect_echo("me too").await;
    }

    #[tokio::test]
    async fn that_shuts_down_closes_every_connection_with_1001() {
        let running = run(Setup::default(), echo_socket).await;
        let mut peers = Vec::new();
        for _ in 0..20 {
            let mut peer = running.connect().await;
            peer.expect_echo("hello").await;
            peers.push(peer);
        }
        // Not even a request has come on this one.
        let mut silent = TcpStream::connect(running.address).await.unwrap();
        peers[0].expect_echo("accepted by now").await;
        running.stop.notify_one();
        for peer in &mut peers {
            assert_eq!(peer.expect_close().await.0, 1001);
            assert!(!running.serving.is_finished());
            peer.send_close(1001, "").await;
            peer.expect_end().await;
        }
        within(running.serving).await.unwrap().unwrap();
        let mut rest = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut rest);
        let _ = within(read).await;
        assert!(rest.is_empty());
        assert!(TcpStream::connect(running.address).await.is_err());
    }

    #[tokio::test]
    async fn that_shuts_down_drops_handlers_that_hang() {
        struct Dropped(Arc<AtomicUsize>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let dropped = Arc::new(AtomicUsize::new(0));
        let count = dropped.clone();
        let setup = Setup {
            close_timeout: Duration::from_millis(50),
            ..Setup::default()
        };
        let running = run(setup, move |socket| {
            let (guard, socket) = (Dropped(count.clone()), socket);
            async move {
                let _held = (guard, socket);
                pending().await
            }
        })
        .await;
        let mut peer = running.connect().await;
        let start = std::time::Instant::now();
        running.stop.notify_one();
        assert_eq!(peer.expect_close().await.0, 1001);
        // Answered, but nobody looks.
        peer.send_close(1001, "").await;
        within(running.serving).await.unwrap().unwrap();
        assert!(start.elapsed() >= Duration::from_millis(1050));
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
        peer.expect_end().await;
    }

    #[tokio::test]
    async fn that_is_dropped_drops_its_connections() {
        let running = run(Setup::default(), echo_socket).await;
        let mut peer = running.connect().await;
        peer.expect_echo("hello").await;
        running.serving.abort();
        assert_eq!(peer.expect_close().await.0, 1001);
        peer.expect_end().await;
        assert!(within(running.serving).await.unwrap_err().is_cancelled());
        assert!(TcpStream::connect(running.address).await.is_err());
    }

    struct EchoHandler;
    impl Handler for EchoHandler {
        fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
            socket.send(message);
        }
    }

    /// The event form chosen by an async handler: by the path of the request, for example.
    #[tokio::test]
    async fn may_hand_a_socket_to_a_handler_within_a_handler() {
        let running = run(Setup::default(), |mut socket| async move {
            socket.send("welcome").await?;
            let ended = if socket.request().unwrap().path() == "/" {
                socket.handle(EchoHandler).await
            } else {
                unreachable!()
            };
            assert!(ended.was_clean(), "{ended:?}");
            Ok(())
        })
        .await;
        let spawned = run(Setup::default(), |socket| async move {
            let ended = tokio::spawn(socket.handle(EchoHandler)).await.unwrap();
            assert!(ended.was_clean(), "{ended:?}");
            Err(Error::other("it got here"))
        })
        .await;
        // Without a word to the handler that is done meanwhile.
        let moved = run(Setup::default(), |socket| async move {
            let (tell, seen) = oneshot::channel();
            tokio::spawn(async move {
                let mut handling = Box::pin(socket.handle(EchoHandler));
                let mut tell = Some(tell);
                poll_fn(|cx| {
                    let polled = handling.as_mut().poll(cx);
                    tell.take().map(|tell| tell.send(()));
                    polled
                })
                .await
            });
            // It waits for the connection now.
            seen.await.map_err(Error::other)
        })
        .await;
        let mut peer = moved.connect().await;
        peer.expect_echo("moved").await;
        peer.send_close(1000, "").await;
        assert_eq!(peer.expect_close().await.0, 1000);
        peer.expect_end().await;

        let mut peer = running.connect().await;
        peer.expect_text("welcome").await;
        peer.expect_echo("within").await;
        peer.expect_echo("within again").await;
        peer.send_close(1000, "").await;
        assert_eq!(peer.expect_close().await.0, 1000);
        peer.expect_end().await;

        let mut peer = spawned.connect().await;
        peer.expect_echo("in another task").await;
        peer.send_close(1000, "").await;
        assert_eq!(peer.expect_close().await.0, 1000);
        peer.expect_end().await;
        let mut errors = spawned.errors;
        let error = within(errors.recv()).await.unwrap();
        assert_eq!(error.to_string(), "it got here");
    }

    /// The one that drives the connection sends after it was asked for it, in the same poll: as it may where
    /// the other is on another thread.
    #[tokio::test]
    async fn may_send_while_another_waits_to_drive() {
        let running = run(Setup::default(), |socket| async move {
            let sender = socket.sender();
            // Of its futures it polls only those that were woken.
            let mut handling = FuturesUnordered::from_iter([socket.handle(EchoHandler)]);
            poll_fn(|cx| {
                assert!(handling.poll_next_unpin(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            sender.send("meanwhile").await?;
            handling.next().await;
            Ok(())
        })
        .await;
        let mut peer = running.connect().await;
        peer.expect_text("meanwhile").await;
        peer.expect_echo("and then").await;
    }
}

/// A stream whose writing side has failed while nothing comes to read.
mod a_transport_that_fails_one_way {
    use super::*;
    use std::io;
    use tokio::io::DuplexStream;

    /// A socket that can be muted, and its peer.
    async fn muting(role: Role) -> (WebSocket, Peer<DuplexStream>, Arc<AtomicBool>) {
        let (stream, far) = tokio::io::duplex(1 << 16);
        let muted = Arc::<AtomicBool>::default();
        let mute = Gated::new(stream, {
            let muted = muted.clone();
            move |_| {
                let broken = || Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                muted.load(Ordering::SeqCst).then(broken)
            }
        });
        let (socket, peer) = Setup::default().open_over(role, mute, far).await;
        (socket, peer, muted)
    }

    #[tokio::test(start_paused = true)]
    async fn ends_the_connection() {
        for role in BOTH {
            for form in FORMS {
                let (socket, mut peer, muted) = muting(role).await;
                let sender = socket.sender();
                let seen = echo(form, socket);
                peer.expect_echo("heard").await;
                muted.store(true, Ordering::SeqCst);
                // Driven, it is queued; else the failure is seen at once.
                let result = sender.send("unheard").await;
                assert_eq!(result.is_err(), form == Form::Plain, "{result:?}");
                let seen = within(seen).await.unwrap();
                seen.assert_ended(|ended| {
                    matches!(ended, Ended::Lost(e) if e.kind() == io::ErrorKind::BrokenPipe)
                });
                assert!(sender.send("more").await.is_err());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ends_a_handler_that_is_done() {
        for role in BOTH {
            let (socket, _peer, muted) = muting(role).await;
            let driven = within(socket.drive(|mut socket| async move {
                muted.store(true, Ordering::SeqCst);
                socket.send("unheard").await?;
                socket.flush().await?;
                Ok(())
            }))
            .await;
            assert!(driven.unwrap_err().is_lost());
        }
    }

    /// A handler then reads what would have been answered: without an answer there is no deadline for the peer to
    /// end its side.
    #[tokio::test(start_paused = true)]
    async fn waits_for_nobody_who_was_told_nothing() {
        for role in BOTH {
            // A Close, and an opcode that is reserved.
            for (first, payload) in [(0x88, 1000_u16.to_be_bytes()), (0x83, [0; 2])] {
                let (socket, mut peer, muted) = muting(role).await;
                let sender = socket.sender();
                peer.send_frame(first, payload).await;
                let driven = within(socket.drive(|mut socket| async move {
                    muted.store(true, Ordering::SeqCst);
                    socket.send("unheard").await?;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    socket.recv().await.map(drop)
                }))
                .await;
                assert_eq!(driven.is_ok(), first == 0x88, "{driven:?}");
                assert_ne!(sender.ended().unwrap().code(), 1006);
            }
        }
    }
}
