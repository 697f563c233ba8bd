//! Peers that send faster than they may, and connections that grow old.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sockeye::{
    Acceptor, CloseCode, Ended, Handler, MessageRef, ProtocolError, Result, Sender, Socket,
    WebSocket,
    server::{Excess, Rate},
};
use tokio::{
    io::{DuplexStream, duplex},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use crate::wire::*;

const SECOND: Duration = Duration::from_secs(1);

async fn open(acceptor: &Acceptor) -> (WebSocket, Peer<DuplexStream>) {
    let (ours, theirs) = duplex(1 << 20);
    let (socket, peer) = tokio::join!(acceptor.accept(ours), Peer::client(theirs, "", &[]));
    (socket.unwrap(), peer)
}

async fn run(form: Form, acceptor: &Acceptor) -> (Sender, Peer<DuplexStream>, JoinHandle<Seen>) {
    let (socket, peer) = open(acceptor).await;
    let sender = socket.sender();
    (sender, peer, echo(form, socket))
}

fn acceptor() -> Acceptor {
    Acceptor::new().deflate(None)
}

mod slowed_down {
    use super::*;

    /// Bytes that came with the request were not counted. What is there is taken at once, and owed for behind it.
    #[tokio::test(start_paused = true)]
    async fn bytes_that_came_with_the_request() {
        let acceptor = acceptor().byte_rate(Rate::per_second(1000));
        for form in FORMS {
            let (ours, theirs) = duplex(1 << 20);
            let begin = Instant::now();
            let early = frame(0x82, true, &[7; 1992]);
            let accepting = acceptor.accept(ours);
            let (socket, mut peer) = tokio::join!(accepting, Peer::client(theirs, "", &early));
            let _seen = echo(form, socket.unwrap());
            assert_eq!(peer.expect(0x82).await.len(), 1992);
            assert!(begin.elapsed() < SECOND / 10, "{form:?}");
            peer.expect_echo("a byte that they are counted with").await;
            peer.expect_echo("late").await;
            let took = begin.elapsed();
            assert!(took >= SECOND && took < 2 * SECOND, "{form:?}: {took:?}");
        }
    }

    /// What is answered while nobody receives counts as what is received.
    #[tokio::test(start_paused = true)]
    async fn pings_while_nobody_receives() {
        let acceptor = acceptor().message_rate(Rate::per_second(10).burst(5));
        let (socket, mut peer) = open(&acceptor).await;
        let driven = tokio::spawn(socket.drive(async |mut socket| {
            sleep(60 * SECOND).await;
            assert_eq!(socket.recv().await?.unwrap().as_text(), Some("last"));
            Ok(())
        }));
        let begin = Instant::now();
        let mut frames: Vec<u8> = (0..25)
            .flat_map(|number| peer.frame(0x89, number.to_string()))
            .collect();
        frames.extend(peer.frame(0x81, "last"));
        peer.send(frames).await;
        while peer.expect(0x8A).await != b"24" {}
        let took = begin.elapsed();
        assert!(
            took >= 2 * SECOND && took <= 2 * SECOND + SECOND / 20,
            "{took:?}"
        );
        driven.abort();
    }

    /// The burst at once, then as the rate permits, and nothing is lost.
    #[tokio::test(start_paused = true)]
    async fn messages() {
        let acceptor = acceptor().message_rate(Rate::per_second(10).burst(5));
        for form in FORMS {
            let (_sender, mut peer, _seen) = run(form, &acceptor).await;
            let begin = Instant::now();
            let frames: Vec<u8> = (0..25)
                .flat_map(|number| peer.frame(0x81, number.to_string()))
                .collect();
            peer.send(frames).await;
            for number in 0..25_u32 {
                peer.expect_text(&number.to_string()).await;
                let earliest = SECOND / 10 * number.saturating_sub(4);
                let took = begin.elapsed();
                // The timer counts milliseconds.
                assert!(
                    took >= earliest && took <= earliest + SECOND / 20,
                    "{form:?}: {number} after {took:?}"
                );
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes() {
        let acceptor = acceptor().byte_rate(Rate::per_second(10_000).burst(1000));
        for form in FORMS {
            let (_sender, mut peer, _seen) = run(form, &acceptor).await;
            let begin = Instant::now();
            // With the header, 500 bytes each.
            for _ in 0..100 {
                peer.send_frame(0x82, [7; 492]).await;
            }
            for _ in 0..100 {
                assert_eq!(peer.expect(0x82).await, [7; 492]);
            }
            // What is read at once may be more than the burst, and is owed for then.
            peer.expect_echo("and one more").await;
            let took = begin.elapsed();
            assert!(
                (4 * SECOND..6 * SECOND).contains(&took),
                "{form:?}: {took:?}"
            );
        }
    }

    /// A Close, and whatever is no message that has come whole, waited for the bytes that it was read with itself.
    #[tokio::test(start_paused = true)]
    async fn nothing_waits_for_itself() {
        let acceptor = acceptor()
            .byte_rate(Rate::per_second(10).burst(10))
            .keepalive(None);
        let close = [&1000_u16.to_be_bytes(), &[b'a'; 98][..]].concat();
        let cases: [&[(u8, &[u8])]; 6] = [
            &[(0x82, &[7; 100])],
            &[(0x88, &close)],
            &[(0x89, &[7; 100])],
            &[(0x02, &[]), (0x80, &[7; 100])],
            &[(0x83, &[7; 100])],
            &[(0x81, &[0xFF; 100])],
        ];
        for frames in cases {
            for form in FORMS {
                let (_sender, mut peer, _seen) = run(form, &acceptor).await;
                let begin = Instant::now();
                let frames = frames
                    .iter()
                    .map(|(first, payload)| peer.frame(*first, payload));
                let frames: Vec<u8> = frames.flatten().collect();
                peer.send(frames).await;
                let answer = peer.next().await;
                assert!(answer.is_some(), "{form:?}");
                assert!(begin.elapsed() < SECOND / 10, "{form:?}: {answer:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_message_as_it_arrives() {
        let acceptor = acceptor().byte_rate(Rate::per_second(1 << 20));
        for form in FORMS {
            let (_sender, mut peer, _seen) = run(form, &acceptor).await;
            let begin = Instant::now();
            let large = "a".repeat(4 << 20);
            peer.send_frame(0x81, &large).await;
            peer.expect_text(&large).await;
            let took = begin.elapsed();
            assert!(
                (28 * SECOND / 10..34 * SECOND / 10).contains(&took),
                "{form:?}: {took:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pings_are_counted() {
        let acceptor = acceptor().message_rate(Rate::per_second(10).burst(5));
        for form in FORMS {
            let (_sender, mut peer, _seen) = run(form, &acceptor).await;
            let begin = Instant::now();
            for number in 0..15_u8 {
                peer.send_frame(0x89, [number]).await;
            }
            for number in 0..15_u8 {
                assert_eq!(peer.expect(0x8A).await, [number], "{form:?}");
            }
            let took = begin.elapsed();
            assert!((SECOND..SECOND * 11 / 10).contains(&took), "{took:?}");
        }
    }

    /// While nothing is read, nobody can say that the peer is silent.
    #[tokio::test(start_paused = true)]
    async fn is_not_silent() {
        let acceptor = acceptor()
            .message_rate(Rate::per_second(1))
            .keepalive(SECOND * 10)
            .keepalive_timeout(SECOND * 5);
        for form in FORMS {
            let (_sender, mut peer, _seen) = run(form, &acceptor).await;
            for number in 0..120 {
                peer.send_frame(0x81, number.to_string()).await;
            }
            let mut next = 0;
            while next < 120 {
                let frame = peer.next().await.expect("the connection has ended");
                if frame.first != 0x89 {
                    assert_eq!(frame.text(), next.to_string(), "{form:?}");
                    next += 1;
                }
            }
        }
    }

    /// Its Close is behind what it has sent, and is not waited for at that rate.
    #[tokio::test(start_paused = true)]
    async fn is_closed_cleanly() {
        let acceptor = acceptor().message_rate(Rate::per_second(1));
        for form in FORMS {
            let (sender, mut peer, seen) = run(form, &acceptor).await;
            for number in 0..1000 {
                peer.send_frame(0x81, number.to_string()).await;
            }
            peer.expect_text("0").await;
            let (closed, ()) = tokio::join!(sender.close(CloseCode::NORMAL, "enough"), async {
                while peer.next().await.unwrap().first != 0x88 {}
                peer.send_close(1000, "").await;
            });
            closed.unwrap();
            let ended = within(seen).await.unwrap().ended.unwrap();
            assert!(matches!(ended, Ended::ByUs(_)), "{form:?}: {ended}");
        }
    }

    async fn count(mut socket: WebSocket, count: &AtomicUsize) -> Result<()> {
        while socket.recv().await?.is_some() {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    struct Counting<'a>(&'a AtomicUsize);

    impl Handler for Counting<'_> {
        fn on_message(&mut self, _: &mut Socket, _: MessageRef<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts what comes in a task of its own.
    fn counting(form: Form, socket: WebSocket) -> Arc<AtomicUsize> {
        let counted = Arc::new(AtomicUsize::new(0));
        let counts = counted.clone();
        tokio::spawn(async move {
            match form {
                Form::Plain => drop(count(socket, &counts).await),
                Form::Driven => drop(socket.drive(|it| count(it, &counts)).await),
                Form::Events => drop(socket.handle(Counting(&counts)).await),
            }
        });
        counted
    }

    /// A bug: a ping that could not be written had the connection end before what had come was read.
    #[tokio::test(start_paused = true)]
    async fn is_heard_to_the_end_when_it_has_gone() {
        let acceptor = acceptor()
            .message_rate(Rate::per_second(1))
            .keepalive(SECOND * 2);
        for form in FORMS {
            let (socket, mut peer) = open(&acceptor).await;
            let sender = socket.sender();
            let counted = counting(form, socket);
            for number in 0..10 {
                peer.send_frame(0x81, number.to_string()).await;
            }
            drop(peer);
            let ended = within(sender.closed()).await;
            assert_eq!(counted.load(Ordering::Relaxed), 10, "{form:?}");
            assert!(matches!(ended, Ended::Lost(_)), "{form:?}: {ended}");
        }
    }

    /// All that had come was told at once then: whoever ended its connection went as fast as it liked.
    #[tokio::test(start_paused = true)]
    async fn goes_no_faster_when_it_has_gone() {
        let acceptor = acceptor()
            .message_rate(Rate::per_second(2))
            .keepalive(SECOND * 2);
        for form in FORMS {
            let (socket, mut peer) = open(&acceptor).await;
            let counted = counting(form, socket);
            for number in 0..40 {
                peer.send_frame(0x81, number.to_string()).await;
            }
            drop(peer);
            for second in 1..30 {
                sleep(SECOND).await;
                let counted = counted.load(Ordering::Relaxed);
                let may = 2 + 2 * second;
                assert!(
                    counted <= may && (counted + 2 >= may || counted == 40),
                    "{form:?}: {counted} in {second} s"
                );
            }
            assert_eq!(counted.load(Ordering::Relaxed), 40, "{form:?}");
        }
    }

    /// Nor when this end closes: what else comes is not told, nor where messages are read in parts.
    #[tokio::test(start_paused = true)]
    async fn goes_no_faster_when_it_is_closed() {
        let acceptor = acceptor().message_rate(Rate::per_second(2));
        for form in [
            None,
            Some(Form::Plain),
            Some(Form::Driven),
            Some(Form::Events),
        ] {
            let (mut socket, mut peer) = open(&acceptor).await;
            let sender = socket.sender();
            let counted = match form {
                Some(form) => counting(form, socket),
                None => {
                    let counted = Arc::new(AtomicUsize::new(0));
                    let counts = counted.clone();
                    tokio::spawn(async move {
                        while let Ok(Some(mut message)) = socket.recv_stream().await {
                            let mut text = Vec::new();
                            let _ =
                                tokio::io::AsyncReadExt::read_to_end(&mut message, &mut text).await;
                            counts.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                    counted
                }
            };
            for number in 0..40 {
                peer.send_frame(0x81, number.to_string()).await;
            }
            sleep(SECOND).await;
            let (closed, ()) = tokio::join!(sender.close(CloseCode::NORMAL, ""), async {
                assert_eq!(peer.expect_close().await.0, 1000);
                peer.send_close(1000, "").await;
            });
            closed.unwrap();
            sleep(SECOND).await;
            assert!(matches!(sender.ended(), Some(Ended::ByUs(_))), "{form:?}");
            let counted = counted.load(Ordering::Relaxed);
            assert!((2..=5).contains(&counted), "{form:?}: {counted}");
        }
    }

    /// A message that nobody reads on is one too.
    #[tokio::test(start_paused = true)]
    async fn goes_no_faster_where_its_messages_are_skipped() {
        let acceptor = acceptor().message_rate(Rate::per_second(1).burst(2));
        let (mut socket, mut peer) = open(&acceptor).await;
        let begin = Instant::now();
        for _ in 0..5 {
            peer.send_frame(0x81, "skipped").await;
        }
        for _ in 0..5 {
            assert!(socket.recv_stream().await.unwrap().is_some());
        }
        let took = begin.elapsed();
        assert!((2 * SECOND..4 * SECOND).contains(&took), "{took:?}");
    }

    /// It was closed as idle while its messages were told by and by, and with callbacks the rest was lost.
    #[tokio::test(start_paused = true)]
    async fn is_not_idle() {
        let acceptor = acceptor()
            .message_rate(Rate::per_second(1))
            .idle_timeout(SECOND / 2);
        for form in [
            None,
            Some(Form::Plain),
            Some(Form::Driven),
            Some(Form::Events),
        ] {
            let (socket, mut peer) = open(&acceptor).await;
            let counted = match form {
                Some(form) => counting(form, socket),
                // In another task than the driver's.
                None => {
                    let counted = Arc::new(AtomicUsize::new(0));
                    let counts = counted.clone();
                    tokio::spawn(socket.drive(async move |socket| {
                        let counting = tokio::spawn(async move { count(socket, &counts).await });
                        counting.await.unwrap()
                    }));
                    counted
                }
            };
            let begin = Instant::now();
            for number in 0..20 {
                peer.send_frame(0x81, number.to_string()).await;
            }
            let close = peer.next_in_time(SECOND * 100).await.unwrap();
            assert_eq!((close.first, &close.payload[2..]), (0x88, &b"idle"[..]));
            assert_eq!(counted.load(Ordering::Relaxed), 20, "{form:?}");
            let took = begin.elapsed();
            assert!(
                (SECOND * 19..SECOND * 21).contains(&took),
                "{form:?}: {took:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_read_in_parts() {
        let acceptor = acceptor().message_rate(Rate::per_second(1).burst(2));
        let (mut socket, mut peer) = open(&acceptor).await;
        let begin = Instant::now();
        for _ in 0..5 {
            peer.send_frame(0x01, "in ").await;
            peer.send_frame(0x80, "parts").await;
        }
        for _ in 0..5 {
            let mut message = socket.recv_stream().await.unwrap().unwrap();
            let mut text = String::new();
            tokio::io::AsyncReadExt::read_to_string(&mut message, &mut text)
                .await
                .unwrap();
            assert_eq!(text, "in parts");
        }
        let took = begin.elapsed();
        assert!((3 * SECOND..SECOND * 31 / 10).contains(&took), "{took:?}");
    }
}

mod closed {
    use super::*;

    /// As many as the burst are none too many, one more is.
    #[tokio::test(start_paused = true)]
    async fn for_one_message_more() {
        let rate = Rate::per_second(10).burst(5);
        let acceptor = acceptor().message_rate(rate).on_excess(Excess::Close);
        for form in FORMS {
            let (_sender, mut peer, seen) = run(form, &acceptor).await;
            for number in 0..5 {
                peer.expect_echo(&number.to_string()).await;
            }
            sleep(SECOND / 10).await;
            peer.expect_echo("one came back").await;
            peer.send_frame(0x89, "a ping is one too many").await;
            peer.send_frame(0x81, "never delivered").await;
            let reason = "more than 10 messages a second are not taken here".to_owned();
            let mut close = peer.next().await.unwrap();
            if close.first == 0x8A {
                close = peer.next().await.unwrap();
            }
            assert_eq!(close.first, 0x88);
            assert_eq!(close.payload[..2], 1008_u16.to_be_bytes());
            assert_eq!(close.payload[2..], *reason.as_bytes());
            drop(peer);
            let seen = within(seen).await.unwrap();
            assert_eq!(seen.messages.len(), 6, "{form:?}");
            let error = ProtocolError::TooManyMessages { limit: 10 };
            seen.assert_ended(|ended| matches!(ended, Ended::Protocol(e) if *e == error));
        }
    }

    /// Nothing else comes that would be too much as well.
    #[tokio::test(start_paused = true)]
    async fn for_one_that_came_together_with_as_many_as_may() {
        let rate = Rate::per_second(10).burst(5);
        let acceptor = acceptor().message_rate(rate).on_excess(Excess::Close);
        for form in FORMS {
            let (_sender, mut peer, seen) = run(form, &acceptor).await;
            let frames: Vec<u8> = (0..6).flat_map(|_| peer.frame(0x81, "echo")).collect();
            peer.send(frames).await;
            for _ in 0..5 {
                peer.expect_text("echo").await;
            }
            assert_eq!(peer.expect_close().await.0, 1008, "{form:?}");
            drop(peer);
            let seen = within(seen).await.unwrap();
            assert_eq!(seen.messages.len(), 5, "{form:?}");
            let error = ProtocolError::TooManyMessages { limit: 10 };
            seen.assert_ended(|ended| matches!(ended, Ended::Protocol(e) if *e == error));
        }
    }

    /// What came with the handshake was not counted.
    #[tokio::test(start_paused = true)]
    async fn for_bytes_that_came_with_the_request() {
        let rate = Rate::per_second(10).burst(1000);
        let acceptor = acceptor().byte_rate(rate).on_excess(Excess::Close);
        for form in FORMS {
            let (ours, theirs) = duplex(1 << 20);
            let early = frame(0x82, true, &[7; 1200]);
            let accepting = acceptor.accept(ours);
            let (socket, mut peer) = tokio::join!(accepting, Peer::client(theirs, "", &early));
            let _seen = echo(form, socket.unwrap());
            assert_eq!(peer.expect(0x82).await, [7; 1200]);
            peer.send_frame(0x81, "one byte is too many").await;
            assert_eq!(peer.expect_close().await.0, 1008, "{form:?}");
        }
    }

    /// A Close is no message: one behind as many as there may be is answered as any other.
    #[tokio::test(start_paused = true)]
    async fn not_for_a_close() {
        let rate = Rate::per_second(10).burst(5);
        let acceptor = acceptor().message_rate(rate).on_excess(Excess::Close);
        for form in FORMS {
            let (_sender, mut peer, seen) = run(form, &acceptor).await;
            let mut frames: Vec<u8> = (0..5).flat_map(|_| peer.frame(0x81, "echo")).collect();
            frames.extend(peer.frame(0x88, 1000_u16.to_be_bytes()));
            peer.send(frames).await;
            for _ in 0..5 {
                peer.expect_text("echo").await;
            }
            assert_eq!(peer.expect_close().await.0, 1000, "{form:?}");
            drop(peer);
            let seen = within(seen).await.unwrap();
            seen.assert_ended(|ended| matches!(ended, Ended::ByPeer(Some(_))));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nor_for_one_behind_a_message_in_parts() {
        let rate = Rate::per_second(10).burst(1);
        let acceptor = acceptor().message_rate(rate).on_excess(Excess::Close);
        let (mut socket, mut peer) = open(&acceptor).await;
        peer.send_frame(0x81, "one").await;
        peer.send_close(1000, "").await;
        while let Some(mut message) = socket.recv_stream().await.unwrap() {
            tokio::io::copy(&mut message, &mut tokio::io::sink())
                .await
                .unwrap();
        }
        assert_eq!(socket.ended().unwrap().code(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn for_one_byte_more() {
        let rate = Rate::per_second(100).burst(1000);
        let acceptor = acceptor().byte_rate(rate).on_excess(Excess::Close);
        for form in FORMS {
            for (more, fits) in [(0, true), (1, false)] {
                let (_sender, mut peer, seen) = run(form, &acceptor).await;
                peer.send_frame(0x82, [7; 492]).await;
                peer.expect(0x82).await;
                peer.send_frame(0x82, vec![7; 492 + more]).await;
                if fits {
                    peer.expect(0x82).await;
                    sleep(SECOND).await;
                    peer.expect_echo("after a second there is room").await;
                    continue;
                }
                let (code, reason) = peer.expect_close().await;
                assert_eq!(code, 1008);
                assert_eq!(reason, "more than 100 bytes a second are not taken here");
                drop(peer);
                let error = ProtocolError::TooManyBytes { limit: 100 };
                let seen = within(seen).await.unwrap();
                seen.assert_ended(|ended| matches!(ended, Ended::Protocol(e) if *e == error));
            }
        }
    }
}

/// A message in the smallest of frames: there is no rate for frames, as their headers are bytes too.
#[tokio::test(start_paused = true)]
async fn fragments_of_a_byte_count_with_their_headers() {
    let rate = Rate::per_second(100).burst(1000);
    let acceptor = acceptor().byte_rate(rate).on_excess(Excess::Close);
    for form in FORMS {
        // Of seven bytes each.
        for (count, fits) in [(142, true), (143, false)] {
            let (_sender, mut peer, seen) = run(form, &acceptor).await;
            let mut frames = peer.frame(0x02, "x");
            for _ in 0..count - 2 {
                frames.extend(peer.frame(0x00, "x"));
            }
            frames.extend(peer.frame(0x80, "x"));
            assert_eq!(frames.len(), count * 7);
            peer.send(frames).await;
            if fits {
                assert_eq!(peer.expect(0x82).await.len(), count);
                continue;
            }
            assert_eq!(peer.expect_close().await.0, 1008);
            drop(peer);
            let error = ProtocolError::TooManyBytes { limit: 100 };
            let seen = within(seen).await.unwrap();
            seen.assert_ended(|ended| matches!(ended, Ended::Protocol(e) if *e == error));
        }
    }
}

mod lifetime {
    use super::*;

    /// However busy it is, and the pings that keep it go on meanwhile.
    #[tokio::test(start_paused = true)]
    async fn ends_with_1001() {
        let acceptor = acceptor()
            .lifetime(SECOND * 100)
            .keepalive(SECOND * 7)
            .keepalive_timeout(SECOND * 3)
            .idle_timeout(SECOND * 20);
        for form in FORMS {
            let (_sender, mut peer, seen) = run(form, &acceptor).await;
            let (begin, mut pings) = (Instant::now(), 0);
            let mut next = begin + SECOND;
            let close = loop {
                tokio::select! {
                    frame = peer.next_in_time(SECOND * 1000) => {
                        let frame = frame.unwrap();
                        match frame.first {
                            0x88 => break frame.payload,
                            0x89 => {
                                pings += 1;
                                peer.send_frame(0x8A, frame.payload).await;
                            }
                            _ => {}
                        }
                    }
                    () = sleep_until(next) => {
                        next += SECOND;
                        peer.send_frame(0x81, "busy").await;
                    }
                }
            };
            assert_eq!(close[..2], 1001_u16.to_be_bytes());
            assert_eq!(close[2..], *b"lifetime");
            let took = begin.elapsed();
            assert!((SECOND * 90..=SECOND * 101).contains(&took), "{took:?}");
            assert!((12..=14).contains(&pings), "{pings}");
            peer.send_close(1001, "").await;
            let ended = within(seen).await.unwrap().ended.unwrap();
            assert!(matches!(ended, Ended::ByUs(_)), "{form:?}: {ended}");
        }
    }

    /// Nothing is read of a peer that is held back, and its answer to the Close is behind what it has sent.
    #[tokio::test(start_paused = true)]
    async fn is_answered_by_a_peer_that_is_held_back() {
        let lifetime = acceptor().lifetime(SECOND * 10);
        let idle = acceptor().idle_timeout(SECOND * 10);
        for acceptor in [lifetime, idle] {
            let acceptor = acceptor.byte_rate(Rate::per_second(1000));
            for form in FORMS {
                let (_sender, mut peer, seen) = run(form, &acceptor).await;
                peer.send_frame(0x82, vec![7; 100_000]).await;
                while peer.next().await.unwrap().first != 0x88 {}
                let begin = Instant::now();
                peer.send_close(1001, "").await;
                let ended = within(seen).await.unwrap().ended.unwrap();
                assert!(matches!(ended, Ended::ByUs(_)), "{form:?}: {ended}");
                assert!(begin.elapsed() < SECOND, "{form:?}: {:?}", begin.elapsed());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_came_together_do_not_end_together() {
        let acceptor = acceptor().lifetime(SECOND * 1000).keepalive(None);
        let mut ends = Vec::new();
        let begin = Instant::now();
        for _ in 0..100 {
            let (_sender, peer, _seen) = run(Form::Events, &acceptor).await;
            ends.push(tokio::spawn(async move {
                let mut peer = peer;
                let close = peer.next_in_time(SECOND * 2000).await.unwrap();
                assert_eq!(close.first, 0x88);
                begin.elapsed().as_secs()
            }));
        }
        let mut seconds = Vec::new();
        for end in ends {
            seconds.push(end.await.unwrap());
        }
        seconds.sort_unstable();
        assert!(seconds[0] >= 899 && seconds[99] <= 1001, "{seconds:?}");
        assert!(seconds[90] - seconds[10] >= 40, "{seconds:?}");
        seconds.dedup();
        assert!(seconds.len() >= 30, "{seconds:?}");
    }
}
