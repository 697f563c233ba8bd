//! Messages read and written as they arrive, and a WebSocket as a stream of bytes.

use std::{
    future::{Future, poll_fn},
    io::{self, ErrorKind},
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use sockeye::{
    Ended, Error, Handler, Limits, Message, MessageKind, MessageRef, ProtocolError, Result,
    SendError, Sender, Socket, WebSocket,
};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, copy_bidirectional, duplex},
    sync::oneshot,
    task::yield_now,
};

use crate::wire::*;

/// Uses a socket in a task of its own, with and without a driver.
fn using<F, Fut, T>(socket: WebSocket, driven: bool, work: F) -> tokio::task::JoinHandle<T>
where
    F: FnOnce(WebSocket) -> Fut + Send + 'static,
    Fut: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    tokio::spawn(async move {
        if !driven {
            return work(socket).await;
        }
        let (tell, told) = oneshot::channel();
        let driving = socket.drive(|socket| async move {
            let _ = tell.send(work(socket).await);
            Ok(())
        });
        driving.await.unwrap();
        told.await.unwrap()
    })
}

/// Both ends, each a real one.
async fn pair(setup: &Setup) -> (WebSocket, WebSocket) {
    let (near, far) = duplex(setup.pipe);
    let (client, acceptor) = (setup.client("ws://peer/"), setup.acceptor());
    let (client, server) = tokio::join!(client.connect_over(near), acceptor.accept(far));
    (client.unwrap(), server.unwrap())
}

/// Whether a future is done at its first poll.
async fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// Bytes that compress somewhat, and repeat nowhere near.
fn bytes(len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|i| (i.wrapping_mul(i) >> 9) as u8 & 0x3F)
        .collect()
}

mod section_5_4_reading {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_come_as_they_arrive_and_pings_are_answered_between() {
        for role in BOTH {
            for driven in [false, true] {
                let (socket, mut peer) = Setup::default().open(role).await;
                let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
                let user = using(socket, driven, |mut socket| async move {
                    let mut message = socket.recv_stream().await.unwrap().unwrap();
                    assert_eq!(message.kind(), MessageKind::Binary);
                    let mut buffer = [0; 100];
                    loop {
                        let count = message.read(&mut buffer).await.unwrap();
                        tell.send(buffer[..count].to_vec()).unwrap();
                        if count == 0 {
                            break;
                        }
                    }
                    assert!(socket.recv_stream().await.unwrap().is_none());
                    socket.ended()
                });
                // Within a frame, between frames, and the end by itself.
                let frame = peer.frame(0x02, "Hello");
                let (first, second) = frame.split_at(frame.len() - 2);
                peer.send(first).await;
                assert_eq!(within(told.recv()).await.unwrap(), b"Hel");
                peer.send(second).await;
                assert_eq!(within(told.recv()).await.unwrap(), b"lo");
                peer.send_frame(0x89, "there?").await;
                assert_eq!(peer.expect(0x8A).await, b"there?");
                peer.send_frame(0x00, ", world").await;
                assert_eq!(within(told.recv()).await.unwrap(), b", world");
                peer.send_frame(0x80, "").await;
                assert_eq!(within(told.recv()).await.unwrap(), b"");
                peer.send_close(1000, "").await;
                assert!(matches!(
                    within(user).await.unwrap(),
                    Some(Ended::ByPeer(Some(_)))
                ));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn limits_on_what_is_held_do_not_apply_to_what_is_not() {
        for role in BOTH {
            let setup = Setup {
                limits: Limits::default().message(1000),
                pipe: 1000,
                ..Setup::default()
            };
            let (socket, mut peer) = setup.open(role).await;
            let user = using(socket, false, |mut socket| async move {
                let mut message = socket.recv_stream().await.unwrap().unwrap();
                let mut received = Vec::new();
                message.read_to_end(&mut received).await.unwrap();
                assert_eq!(received, bytes(300_000));
                socket.recv().await.unwrap_err()
            });
            peer.send_frame(0x82, bytes(300_000)).await;
            // The header alone is too much: the rest may find nobody.
            let large = peer.frame(0x82, bytes(3_000));
            let _ = peer.stream.write_all(&large).await;
            assert!(within(user).await.unwrap().is_protocol());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_read_is_not_mixed_up_with_what_follows() {
        for role in BOTH {
            for driven in [false, true] {
                let (socket, mut peer) = Setup::default().open(role).await;
                let user = using(socket, driven, |mut socket| async move {
                    for round in 0..3 {
                        let mut message = socket.recv_stream().await.unwrap().unwrap();
                        let mut some = vec![0; round * 100];
                        message.read_exact(&mut some).await.unwrap();
                        assert_eq!(some, vec![1; round * 100]);
                        let next = socket.recv().await.unwrap().unwrap();
                        assert_eq!(next.as_text(), Some("next"));
                        let mut next = socket.recv_stream().await.unwrap().unwrap();
                        let mut text = String::new();
                        next.read_to_string(&mut text).await.unwrap();
                        assert_eq!(text, "in parts");
                    }
                });
                for _ in 0..3 {
                    peer.send_frame(0x02, [1; 100_000]).await;
                    peer.send_frame(0x89, "p").await;
                    peer.send_frame(0x80, [1; 100_000]).await;
                    peer.send_frame(0x81, "next").await;
                    peer.send_frame(0x81, "in parts").await;
                    assert_eq!(peer.expect(0x8A).await, b"p");
                }
                within(user).await.unwrap();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_recv_had_begun_is_read_from_its_start() {
        let (mut socket, mut peer) = Setup::default().open(Role::Server).await;
        let frame = peer.frame(0x82, bytes(200_000));
        peer.send(&frame[..150_000]).await;
        for _ in 0..9 {
            assert!(poll_once(socket.recv()).await.is_pending());
        }
        peer.send(&frame[150_000..]).await;
        let mut message = within(socket.recv_stream()).await.unwrap().unwrap();
        let mut received = Vec::new();
        within(message.read_to_end(&mut received)).await.unwrap();
        assert_eq!(received, bytes(200_000));
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_within_a_message_is_an_error() {
        for role in BOTH {
            let (mut socket, mut peer) = Setup::default().open(role).await;
            peer.send_frame(0x02, "some").await;
            peer.send_close(1000, "").await;
            let mut message = socket.recv_stream().await.unwrap().unwrap();
            let mut received = Vec::new();
            let reading = tokio::join!(within(message.read_to_end(&mut received)), async {
                peer.expect_close().await;
                peer.stream.shutdown().await.unwrap();
            });
            let error = reading.0.unwrap_err();
            assert_eq!(received, b"some");
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
            assert!(matches!(Error::from(error), Error::Incomplete));
            // It stays one, and is none of the connection's.
            let again = message.read(&mut [0]).await.unwrap_err();
            assert_eq!(again.kind(), ErrorKind::UnexpectedEof);
            assert!(socket.recv().await.unwrap().is_none());

            let (mut socket, mut peer) = Setup::default().open(role).await;
            peer.send_frame(0x02, "some").await;
            drop(peer);
            let mut message = socket.recv_stream().await.unwrap().unwrap();
            let error = within(message.read_to_end(&mut received))
                .await
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
            assert!(Error::from(error).is_lost());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_without_end_that_bring_nothing_are_a_fault() {
        let setup = Setup {
            limits: Limits::default().fragments(10),
            ..Setup::default()
        };
        let (mut socket, mut peer) = setup.open(Role::Client).await;
        peer.send_frame(0x02, "").await;
        for _ in 0..100 {
            peer.send_frame(0x00, "").await;
        }
        let mut message = socket.recv_stream().await.unwrap().unwrap();
        let error = within(message.read(&mut [0; 9])).await.unwrap_err();
        assert!(matches!(
            error.into(),
            Error::Protocol(ProtocolError::TooManyFragments { limit: 10 })
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_does_not_read_holds_the_peer_back() {
        let setup = Setup {
            pipe: 1000,
            ..Setup::default()
        };
        let (mut socket, mut peer) = setup.open(Role::Server).await;
        let sending = tokio::spawn(async move {
            let frame = peer.frame(0x82, bytes(10_000_000));
            peer.stream.write_all(&frame).await.unwrap();
        });
        let mut message = socket.recv_stream().await.unwrap().unwrap();
        message.read_exact(&mut [0; 5000]).await.unwrap();
        assert!(!sending.is_finished());
        let mut sink = tokio::io::sink();
        let rest = copy(&mut message, &mut sink);
        assert_eq!(within(rest).await.unwrap(), 10_000_000 - 5000);
        sending.await.unwrap();
    }
}

mod section_8_1_text {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_character_may_be_cut_and_a_wrong_byte_ends_the_connection() {
        for role in BOTH {
            let (mut socket, mut peer) = Setup::default().open(role).await;
            peer.send_frame(0x01, b"\xF0\x9F").await;
            peer.send_frame(0x80, b"\x98\x80").await;
            let mut message = socket.recv_stream().await.unwrap().unwrap();
            assert!(message.is_text());
            let mut text = String::new();
            message.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "😀");

            peer.send_frame(0x01, b"fine ").await;
            peer.send_frame(0x00, b"\xFF").await;
            let user = tokio::spawn(async move {
                let mut message = socket.recv_stream().await.unwrap().unwrap();
                let error = message.read_to_end(&mut Vec::new()).await.unwrap_err();
                (error, socket.ended())
            });
            assert_eq!(peer.expect_close().await.0, 1007);
            drop(peer);
            let (error, ended) = within(user).await.unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidData);
            assert!(Error::from(error).is_protocol());
            assert!(matches!(
                ended,
                Some(Ended::Protocol(ProtocolError::InvalidUtf8))
            ));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_text_is_written_as_text() {
        for role in BOTH {
            for driven in [false, true] {
                let (socket, mut peer) = Setup::default().open(role).await;
                let user = using(socket, driven, |mut socket| async move {
                    let mut message = socket.send_stream(MessageKind::Text).await.unwrap();
                    message.write_all(b"\xD0").await.unwrap();
                    let error = message.write_all(b"a").await.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::InvalidInput);
                    message.write_all(b"\x9F").await.unwrap();
                    message.finish().await.unwrap();
                    let mut message = socket.send_stream(MessageKind::Text).await.unwrap();
                    message.write_all(b"\xD0").await.unwrap();
                    let error = message.finish().await.unwrap_err();
                    assert!(matches!(error, Error::Send(SendError::InvalidUtf8)));
                    assert!(socket.recv().await.unwrap().is_none());
                });
                assert_eq!(peer.expect(0x01).await, b"\xD0");
                assert_eq!(peer.expect(0x00).await, b"\x9F");
                assert_eq!(peer.expect(0x80).await, b"");
                assert_eq!(peer.expect(0x01).await, b"\xD0");
                assert_eq!(peer.expect_close().await.0, 1011);
                peer.send_close(1011, "").await;
                drop(peer);
                within(user).await.unwrap();
            }
        }
    }
}

mod section_5_4_writing {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_write_is_a_fragment_and_fin_comes_at_the_end() {
        for role in BOTH {
            for driven in [false, true] {
                for shutdown in [false, true] {
                    let (socket, mut peer) = Setup::default().open(role).await;
                    let user = using(socket, driven, move |mut socket| async move {
                        let mut message = socket.send_stream(MessageKind::Binary).await.unwrap();
                        message.write_all(b"Hello").await.unwrap();
                        message.write_all(&[7; 70_000]).await.unwrap();
                        if shutdown {
                            message.shutdown().await.unwrap();
                            message.shutdown().await.unwrap();
                            assert!(message.write(b"more").await.is_err());
                            drop(message);
                        } else {
                            message.finish().await.unwrap();
                        }
                        let empty = socket.send_stream(MessageKind::Text).await.unwrap();
                        empty.finish().await.unwrap();
                        socket.send("next").await.unwrap();
                        socket.recv().await.unwrap();
                    });
                    assert_eq!(peer.expect(0x02).await, b"Hello");
                    assert_eq!(peer.expect(0x00).await, [7; 65_536]);
                    assert_eq!(peer.expect(0x00).await, [7; 70_000 - 65_536]);
                    assert_eq!(peer.expect(0x80).await, b"");
                    assert_eq!(peer.expect(0x81).await, b"");
                    peer.expect_text("next").await;
                    peer.send_frame(0x82, "").await;
                    within(user).await.unwrap();
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn other_senders_wait_and_pings_and_pongs_do_not() {
        for role in BOTH {
            for driven in [false, true] {
                let (socket, mut peer) = Setup::default().open(role).await;
                let (go_on, gone_on) = oneshot::channel();
                let user = using(socket, driven, |socket| async move {
                    let (sender, mut receiver) = socket.split();
                    let mut message = sender.send_stream(MessageKind::Binary).await.unwrap();
                    message.write_all(b"a").await.unwrap();
                    message.flush().await.unwrap();
                    let others: Vec<_> = ["x", "y"]
                        .map(|text| {
                            let sender = sender.clone();
                            tokio::spawn(async move {
                                if text == "x" {
                                    sender.send(text).await.unwrap();
                                } else {
                                    let mut other =
                                        sender.send_stream(MessageKind::Text).await.unwrap();
                                    other.write_all(text.as_bytes()).await.unwrap();
                                    other.finish().await.unwrap();
                                }
                            })
                        })
                        .into();
                    tokio::spawn({
                        let sender = sender.clone();
                        async move { sender.ping(b"from us").await.unwrap() }
                    });
                    // A ping of the peer's is answered, and then tells it to go on.
                    let go_on = async {
                        gone_on.await.unwrap();
                        assert!(others.iter().all(|other| !other.is_finished()));
                        message.write_all(b"b").await.unwrap();
                        message.finish().await.unwrap();
                        for other in others {
                            other.await.unwrap();
                        }
                    };
                    let ((), ended) = tokio::join!(go_on, receiver.recv());
                    assert!(ended.unwrap().is_none());
                });
                assert_eq!(peer.expect(0x02).await, b"a");
                assert_eq!(peer.expect(0x89).await, b"from us");
                peer.send_frame(0x89, "from the peer").await;
                assert_eq!(peer.expect(0x8A).await, b"from the peer");
                go_on.send(()).unwrap();
                assert_eq!(peer.expect(0x00).await, b"b");
                assert_eq!(peer.expect(0x80).await, b"");
                let mut rest = Vec::new();
                while rest.len() < 3 {
                    rest.push(peer.next().await.unwrap());
                }
                let rest: Vec<_> = rest.iter().map(|f| (f.first, &f.payload[..])).collect();
                let (whole, parts) = ((0x81, &b"x"[..]), [(0x01, &b"y"[..]), (0x80, b"")]);
                let either = [
                    vec![whole, parts[0], parts[1]],
                    vec![parts[0], parts[1], whole],
                ];
                assert!(either.contains(&rest), "{rest:?}");
                peer.send_close(1000, "").await;
                peer.expect_close().await;
                drop(peer);
                within(user).await.unwrap();
            }
        }
    }

    /// Sends back what comes, and gives away a sender.
    struct Echo(Option<oneshot::Sender<Sender>>);
    impl Handler for Echo {
        fn on_open(&mut self, socket: &mut Socket) {
            let _ = self.0.take().unwrap().send(socket.sender());
        }
        fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
            socket.send(message);
        }
    }

    async fn echoing(
        setup: Setup,
        role: Role,
    ) -> (
        tokio::task::JoinHandle<Ended>,
        Sender,
        Peer<tokio::io::DuplexStream>,
    ) {
        let (socket, peer) = setup.open(role).await;
        let (tell, told) = oneshot::channel();
        let handling = tokio::spawn(socket.handle(Echo(Some(tell))));
        (handling, told.await.unwrap(), peer)
    }

    /// Callbacks cannot wait: what they send comes after the message in parts.
    #[tokio::test(start_paused = true)]
    async fn what_callbacks_send_is_queued_behind() {
        for role in BOTH {
            let setup = Setup {
                output_limit: 1000,
                ..Setup::default()
            };
            let (handling, sender, mut peer) = echoing(setup, role).await;
            let mut message = sender.send_stream(MessageKind::Binary).await.unwrap();
            message.write_all(b"a").await.unwrap();
            assert_eq!(peer.expect(0x02).await, b"a");
            peer.send_frame(0x81, "echo").await;
            peer.send_frame(0x89, "handled").await;
            assert_eq!(peer.expect(0x8A).await, b"handled");
            message.finish().await.unwrap();
            assert_eq!(peer.expect(0x80).await, b"");
            peer.expect_text("echo").await;

            // What waits so is bounded as all output is.
            let mut message = sender.send_stream(MessageKind::Binary).await.unwrap();
            message.write_all(b"a").await.unwrap();
            assert_eq!(peer.expect(0x02).await, b"a");
            for _ in 0..5 {
                peer.send_frame(0x82, [0; 300]).await;
            }
            let ended = within(handling).await.unwrap();
            assert!(
                matches!(ended, Ended::Overflow { limit: 1000 }),
                "{ended:?}"
            );
            assert!(message.write_all(b"b").await.is_err());
        }
    }

    /// They take memory of which nothing was counted.
    #[tokio::test(start_paused = true)]
    async fn what_callbacks_send_is_bounded_though_it_is_empty() {
        let setup = Setup {
            output_limit: 10_000,
            ..Setup::default()
        };
        let (handling, sender, mut peer) = echoing(setup, Role::Server).await;
        let mut message = sender.send_stream(MessageKind::Binary).await.unwrap();
        message.write_all(b"a").await.unwrap();
        assert_eq!(peer.expect(0x02).await, b"a");
        let frames: Vec<u8> = (0..500).flat_map(|_| peer.frame(0x81, "")).collect();
        peer.send(frames).await;
        let ended = within(handling).await.unwrap();
        assert!(matches!(ended, Ended::Overflow { .. }), "{ended:?}");
    }

    /// What cannot wait for the message in parts is held behind it, and is bounded as what waits to be written
    /// is, wherever it is sent.
    #[tokio::test(start_paused = true)]
    async fn what_is_held_behind_it_fills_the_output() {
        async fn until_full(sender: &Sender) -> usize {
            for count in 0..1000 {
                match sender.try_send(&[0; 100]) {
                    Ok(()) => yield_now().await,
                    Err(error) => {
                        assert!(error.is_full(), "{error:?}");
                        return count;
                    }
                }
            }
            panic!("{} bytes wait", sender.buffered_amount());
        }
        let setup = Setup {
            high_water: 5000,
            ..Setup::default()
        };
        for elsewhere in [false, true] {
            for driven in [false, true] {
                let (socket, mut peer) = setup.open(Role::Server).await;
                let user = using(socket, driven, async move |mut socket| {
                    let sender = socket.sender();
                    let mut message = socket.send_stream(MessageKind::Binary).await.unwrap();
                    message.write_all(b"a").await.unwrap();
                    let filling = async move { until_full(&sender).await };
                    let count = match elsewhere {
                        true => tokio::spawn(filling).await.unwrap(),
                        false => filling.await,
                    };
                    message.finish().await.unwrap();
                    (socket, count)
                });
                assert_eq!(peer.expect(0x02).await, b"a");
                assert_eq!(peer.expect(0x80).await, b"");
                for _ in 0..50 {
                    assert_eq!(peer.expect(0x82).await, [0; 100]);
                }
                let (_socket, count) = user.await.unwrap();
                assert_eq!(count, 50, "{elsewhere} {driven}");
            }
        }
    }

    /// Nor does it ask in every poll whether that was written.
    #[tokio::test(start_paused = true)]
    async fn flushing_does_not_wait_for_what_has_to_wait_for_it() {
        for driven in [false, true] {
            let (socket, mut peer) = Setup::default().open(Role::Server).await;
            let user = using(socket, driven, async move |mut socket| {
                let sender = socket.sender();
                let mut message = socket.send_stream(MessageKind::Binary).await.unwrap();
                message.write_all(b"a").await.unwrap();
                sender.send_latest(1, "newest").unwrap();
                let mut flushing = pin!(sender.flush());
                let mut polls = 0;
                poll_fn(|cx| {
                    polls += 1;
                    assert!(polls < 10, "{driven}");
                    flushing.as_mut().poll(cx)
                })
                .await
                .unwrap();
                message.finish().await.unwrap();
                socket
            });
            assert_eq!(peer.expect(0x02).await, b"a");
            assert_eq!(peer.expect(0x80).await, b"");
            peer.expect_text("newest").await;
            user.await.unwrap();
        }
    }

    /// Nobody receives, who would note the end.
    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_their_turn_learns_that_the_transport_failed() {
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let sender = socket.sender();
            let user = using(socket, true, |mut socket| async move {
                let mut message = socket.send_stream(MessageKind::Binary).await.unwrap();
                message.write_all(b"some").await.unwrap();
                std::future::pending::<()>().await;
            });
            assert_eq!(peer.expect(0x02).await, b"some");
            let (waiting, failing) = (sender.clone(), sender);
            let waiting = tokio::spawn(async move { waiting.send("waits").await });
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            drop(peer);
            let _ = failing.ping(b"").await;
            assert!(within(waiting).await.unwrap().unwrap_err().is_lost());
            user.abort();
        }
    }

    /// Nor is there an end to what is queued of those that are empty.
    #[tokio::test(start_paused = true)]
    async fn empty_messages_wait_for_room_too() {
        for role in BOTH {
            for elsewhere in [false, true] {
                let setup = Setup {
                    high_water: 1000,
                    pipe: 100,
                    ..Setup::default()
                };
                let (socket, peer) = setup.open(role).await;
                let sender = socket.sender();
                let flood = async move |sender: Sender| {
                    for _ in 0..100_000 {
                        let message = sender.send_stream(MessageKind::Text).await?;
                        message.finish().await?;
                    }
                    Ok::<_, Error>(())
                };
                let flooding = sender.clone();
                let driving = tokio::spawn(socket.drive(async move |mut socket| {
                    if elsewhere {
                        tokio::spawn(flood(flooding));
                        socket.recv().await?;
                    } else {
                        flood(flooding).await?;
                    }
                    Ok(())
                }));
                // When there is nothing else to do.
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                let buffered = sender.buffered_amount();
                assert!((1000..4000).contains(&buffered), "{role:?}: {buffered}");
                drop(peer);
                let _ = within(driving).await.unwrap();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_dropped_unfinished_does_not_look_complete() {
        for role in BOTH {
            for driven in [false, true] {
                let (socket, mut peer) = Setup::default().open(role).await;
                let user = using(socket, driven, |mut socket| async move {
                    // Nothing was written: nothing has happened.
                    drop(socket.send_stream(MessageKind::Text).await.unwrap());
                    socket.send("still here").await.unwrap();
                    let sender = socket.sender();
                    let mut message = socket.send_stream(MessageKind::Binary).await.unwrap();
                    message.write_all(b"some").await.unwrap();
                    let waiting = tokio::spawn(async move { sender.send("waits").await });
                    tokio::task::yield_now().await;
                    drop(message);
                    assert!(!socket.is_open());
                    assert!(socket.recv().await.unwrap().is_none());
                    assert!(waiting.await.unwrap().unwrap_err().is_closed());
                    socket.ended()
                });
                peer.expect_text("still here").await;
                assert_eq!(peer.expect(0x02).await, b"some");
                let (code, reason) = peer.expect_close().await;
                assert_eq!((code, &reason[..]), (1011, "a message was not finished"));
                peer.send_close(1011, "").await;
                drop(peer);
                let ended = within(user).await.unwrap();
                assert!(matches!(ended, Some(Ended::ByUs(_))), "{ended:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_waits_at_the_high_water_mark() {
        for role in BOTH {
            for driven in [false, true] {
                let setup = Setup {
                    high_water: 100_000,
                    pipe: 1000,
                    ..Setup::default()
                };
                let (socket, mut peer) = setup.open(role).await;
                let (tell, mut told) = oneshot::channel();
                let user = using(socket, driven, |mut socket| async move {
                    let sender = socket.sender();
                    let mut message = socket.send_stream(MessageKind::Binary).await.unwrap();
                    let all = bytes(1_000_000);
                    let mut rest = &all[..];
                    while !rest.is_empty() {
                        let Poll::Ready(count) = poll_once(message.write(rest)).await else {
                            break;
                        };
                        rest = &rest[count.unwrap()..];
                        assert!(sender.buffered_amount() < 100_000 + 70_000);
                    }
                    tell.send(rest.len()).unwrap();
                    message.write_all(rest).await.unwrap();
                    message.finish().await.unwrap();
                    let _ = socket.recv().await;
                });
                let left = within(&mut told).await.unwrap();
                assert!((800_000..900_000).contains(&left), "{left}");
                let mut received = Vec::new();
                loop {
                    let frame = peer.next().await.unwrap();
                    received.extend(frame.payload);
                    if frame.first == 0x80 {
                        break;
                    }
                }
                assert_eq!(received, bytes(1_000_000));
                drop(peer);
                within(user).await.unwrap();
            }
        }
    }

    /// Whoever waits for the end of the message learns at once that there is none, not when the peer is given up.
    #[tokio::test(start_paused = true)]
    async fn who_waits_behind_a_message_in_parts_hears_of_a_close() {
        for role in BOTH {
            for driven in [false, true] {
                let (socket, mut peer) = Setup::default().open(role).await;
                let began = tokio::time::Instant::now();
                let user = using(socket, driven, move |mut socket| async move {
                    let sender = socket.sender();
                    let mut message = sender.send_stream(MessageKind::Binary).await.unwrap();
                    message.write_all(b"some").await.unwrap();
                    let (whole, parts) = (sender.clone(), sender.clone());
                    let whole = tokio::spawn(async move { whole.send("waits").await });
                    let parts = tokio::spawn(async move {
                        let begun = parts.send_stream(MessageKind::Text).await;
                        begun.map(drop)
                    });
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    let closer = sender.clone();
                    let closer =
                        tokio::spawn(
                            async move { closer.close(sockeye::CloseCode::NORMAL, "").await },
                        );
                    for waiting in [whole, parts] {
                        assert!(waiting.await.unwrap().unwrap_err().is_closed());
                    }
                    // Nor has the clock moved on to the close timeout.
                    assert!(began.elapsed() < Duration::from_secs(1));
                    assert!(socket.recv().await.unwrap().is_none());
                    closer.await.unwrap().unwrap();
                });
                assert_eq!(peer.expect(0x02).await, b"some");
                assert_eq!(peer.expect_close().await.0, 1000);
                tokio::time::sleep(Duration::from_secs(2)).await;
                peer.send_close(1000, "").await;
                drop(peer);
                within(user).await.unwrap();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn writing_on_a_closed_connection_says_so() {
        let (mut socket, mut peer) = Setup::default().open(Role::Client).await;
        let sender = socket.sender();
        let mut message = sender.send_stream(MessageKind::Binary).await.unwrap();
        message.write_all(b"some").await.unwrap();
        peer.send_close(1000, "").await;
        let (end, ()) = tokio::join!(socket.recv(), async {
            assert_eq!(peer.expect(0x02).await, b"some");
            assert_eq!(peer.expect_close().await.0, 1000);
            drop(peer);
        });
        assert!(end.unwrap().is_none());
        let error = message.write(b"more").await.unwrap_err();
        assert!(matches!(
            error.kind(),
            ErrorKind::BrokenPipe | ErrorKind::NotConnected
        ));
        drop(message);
        assert!(sender.send_stream(MessageKind::Text).await.is_err());
    }
}

#[cfg(feature = "deflate")]
mod rfc7692 {
    use sockeye::{CloseCode, DeflateConfig};

    use super::*;

    fn setup(keep_context: bool) -> Setup {
        Setup {
            deflate: DeflateConfig::available().map(|config| DeflateConfig {
                own_no_context_takeover: !keep_context,
                peer_no_context_takeover: !keep_context,
                ..config
            }),
            pipe: 3000,
            ..Setup::default()
        }
    }

    /// There and back in parts, then whole, then part of one, with the context where it is kept.
    #[tokio::test(start_paused = true)]
    async fn there_and_back_with_and_without_context() {
        for keep_context in [false, true] {
            for driven in [false, true] {
                let (mut client, server) = pair(&setup(keep_context)).await;
                assert_eq!(
                    client.extensions().contains("no_context_takeover"),
                    !keep_context
                );
                let server = using(server, driven, |socket| async move {
                    let (sender, mut receiver) = socket.split();
                    for _ in 0..6 {
                        let mut message = receiver.recv_stream().await?.unwrap();
                        let mut echo = sender.send_stream(message.kind()).await?;
                        copy(&mut message, &mut echo).await?;
                        echo.finish().await?;
                    }
                    while receiver.recv().await?.is_some() {}
                    Ok::<_, Error>(())
                });
                let all = bytes(200_000);
                let sender = client.sender();
                for round in 0..3 {
                    let send = async {
                        let mut message = sender.send_stream(MessageKind::Binary).await.unwrap();
                        message.write_all(&all).await.unwrap();
                        message.finish().await.unwrap();
                        sender.send("whole ".repeat(100)).await.unwrap();
                    };
                    let receive = async {
                        let mut message = client.recv_stream().await.unwrap().unwrap();
                        let mut received = vec![0; [200_000, 1000, 0][round]];
                        message.read_exact(&mut received).await.unwrap();
                        assert_eq!(received, all[..received.len()]);
                        let whole = client.recv().await.unwrap().unwrap();
                        assert_eq!(whole.as_text(), Some(&*"whole ".repeat(100)));
                    };
                    within(async { tokio::join!(send, receive) }).await;
                }
                within(client.close(CloseCode::NORMAL, "")).await.unwrap();
                within(server).await.unwrap().unwrap();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_flushed_can_be_read() {
        let (mut client, mut server) = pair(&setup(true)).await;
        let mut message = client.send_stream(MessageKind::Text).await.unwrap();
        message.write_all(b"so far").await.unwrap();
        message.flush().await.unwrap();
        let mut reading = within(server.recv_stream()).await.unwrap().unwrap();
        let mut buffer = [0; 100];
        let count = within(reading.read(&mut buffer)).await.unwrap();
        assert_eq!(&buffer[..count], b"so far");
        message.flush().await.unwrap();
        message.finish().await.unwrap();
        assert_eq!(within(reading.read(&mut buffer)).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bomb_comes_only_as_far_as_it_is_read() {
        let mut deflaters = sockeye::proto::deflate::Deflaters::new();
        let config = DeflateConfig::available().unwrap();
        let settings = config.deflater(sockeye::proto::deflate::WindowBits::MAX);
        let mut bomb = Vec::new();
        let zeros = vec![0; 32 << 20];
        deflaters.lend(settings).compress(&zeros, &mut bomb);
        let setup = Setup {
            pipe: 1 << 20,
            ..Setup::deflate()
        };
        let (mut socket, mut peer) = setup.open(Role::Server).await;
        peer.send_frame(0xC2, &bomb).await;
        peer.send_frame(0x81, "after it").await;
        let mut message = socket.recv_stream().await.unwrap().unwrap();
        let mut some = [1; 5000];
        message.read_exact(&mut some).await.unwrap();
        assert_eq!(some, [0; 5000]);
        let after = within(socket.recv()).await.unwrap().unwrap();
        assert_eq!(after.as_text(), Some("after it"));
    }
}

mod byte_stream {
    use super::*;

    /// An echo of bytes behind a tunnel of two WebSockets.
    #[tokio::test(start_paused = true)]
    async fn a_tunnel_carries_bytes_both_ways_to_their_ends() {
        for setup in [Setup::default(), Setup::deflate()] {
            let setup = Setup {
                pipe: 5000,
                ..setup
            };
            let (client, server) = pair(&setup).await;
            let (mut user, mut entry) = duplex(4000);
            let (mut exit, mut service) = duplex(4000);
            let near = tokio::spawn(async move {
                let mut tunnel = client.into_byte_stream();
                copy_bidirectional(&mut entry, &mut tunnel).await
            });
            let far = tokio::spawn(async move {
                let mut tunnel = server.into_byte_stream();
                copy_bidirectional(&mut tunnel, &mut exit).await
            });
            let service = tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(&mut service);
                let count = copy(&mut (&mut read).take(1_000_000), &mut write).await?;
                write.shutdown().await?;
                Ok::<_, io::Error>(count)
            });
            let all = bytes(1_000_000);
            let (mut read, mut write) = tokio::io::split(&mut user);
            let mut received = Vec::new();
            let (sent, read) = within(async {
                tokio::join!(write.write_all(&all), read.read_to_end(&mut received))
            })
            .await;
            sent.unwrap();
            assert_eq!(read.unwrap(), all.len());
            assert_eq!(received, all);
            assert_eq!(service.await.unwrap().unwrap(), 1_000_000);
            drop(user);
            assert_eq!(within(far).await.unwrap().unwrap(), (1_000_000, 1_000_000));
            let (there, back) = within(near).await.unwrap().unwrap();
            assert_eq!((there, back), (1_000_000, 1_000_000));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_those_of_binary_messages_whole_and_in_fragments() {
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let mut stream = socket.into_byte_stream();
            peer.send_frame(0x82, "ab").await;
            peer.send_frame(0x82, "").await;
            peer.send_frame(0x02, "c").await;
            peer.send_frame(0x89, "ping").await;
            peer.send_frame(0x80, "d").await;
            let mut four = [0; 4];
            within(stream.read_exact(&mut four)).await.unwrap();
            assert_eq!(&four, b"abcd");
            assert_eq!(peer.expect(0x8A).await, b"ping");
            stream.write_all(b"ef").await.unwrap();
            stream.flush().await.unwrap();
            assert_eq!(peer.expect(0x82).await, b"ef");
            stream.shutdown().await.unwrap();
            assert_eq!(peer.expect_close().await.0, 1000);
            peer.send_frame(0x82, "what was under way").await;
            peer.send_close(1000, "").await;
            drop(peer);
            let mut rest = Vec::new();
            within(stream.read_to_end(&mut rest)).await.unwrap();
            assert_eq!(rest, b"what was under way");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_end_with_1000_or_no_code_is_a_clean_one() {
        for (code, clean) in [(1000, true), (1005, true), (1001, false), (1011, false)] {
            let (socket, mut peer) = Setup::default().open(Role::Server).await;
            let mut stream = socket.into_byte_stream();
            if code == 1005 {
                peer.send_frame(0x88, "").await;
            } else {
                peer.send_close(code, "").await;
            }
            let result = within(stream.read(&mut [0])).await;
            if clean {
                assert_eq!(result.unwrap(), 0);
            } else {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionAborted);
            }
        }
        // Without a Close, at once and ever after.
        let (socket, peer) = Setup::default().open(Role::Server).await;
        let mut stream = socket.into_byte_stream();
        drop(peer);
        for _ in 0..2 {
            let error = within(stream.read(&mut [0])).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        }
        // Within a message.
        let (socket, mut peer) = Setup::default().open(Role::Server).await;
        let mut stream = socket.into_byte_stream();
        peer.send_frame(0x02, "half").await;
        peer.send_close(1000, "").await;
        within(stream.read_exact(&mut [0; 4])).await.unwrap();
        for _ in 0..2 {
            let error = within(stream.read(&mut [0])).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        }
    }

    /// A bug: where this end closed by itself, as for being idle, what was cut off looked complete.
    #[tokio::test(start_paused = true)]
    async fn nor_is_one_that_this_end_makes_otherwise() {
        let setup = Setup {
            idle_timeout: Some(Duration::from_secs(10)),
            ..Setup::default()
        };
        for driven in [false, true] {
            let (socket, mut peer) = setup.open(Role::Server).await;
            let user = using(socket, driven, |socket| async move {
                let mut received = Vec::new();
                let mut stream = socket.into_byte_stream();
                let read = stream.read_to_end(&mut received).await;
                (received, read)
            });
            peer.send_frame(0x82, "some").await;
            assert_eq!(peer.expect_close().await.0, 1001);
            peer.send_close(1001, "").await;
            drop(peer);
            let (received, read) = within(user).await.unwrap();
            assert_eq!(received, b"some");
            let error = read.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_dropped_without_shutdown_is_told_apart() {
        let (client, server) = pair(&Setup::default()).await;
        let (mut near, mut far) = (client.into_byte_stream(), server.into_byte_stream());
        near.write_all(b"some").await.unwrap();
        drop(near);
        let mut received = Vec::new();
        let error = within(far.read_to_end(&mut received)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        assert_eq!(received, b"some");
    }

    /// A bug: it was `Ok`, as if all had been written.
    #[tokio::test(start_paused = true)]
    async fn shutting_down_tells_that_what_was_written_is_lost() {
        for role in BOTH {
            for peer_is_there in [true, false] {
                let setup = Setup {
                    pipe: 1000,
                    ..Setup::default()
                };
                let (socket, peer) = setup.open(role).await;
                let mut stream = socket.into_byte_stream();
                stream.write_all(&[7; 10_000]).await.unwrap();
                let peer = peer_is_there.then_some(peer);
                let error = within(stream.shutdown()).await.unwrap_err();
                assert!(Error::from(error).is_lost(), "{role:?}");
                drop(peer);
            }
        }
    }

    /// Only the Close was not taken.
    #[tokio::test(start_paused = true)]
    async fn shutting_down_is_no_error_where_the_peer_has_sent_all_and_is_gone() {
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let mut stream = socket.into_byte_stream();
            stream.write_all(b"question").await.unwrap();
            assert_eq!(peer.expect(0x82).await, b"question");
            peer.send_frame(0x82, "answer").await;
            peer.send_close(1000, "").await;
            drop(peer);
            within(stream.shutdown()).await.unwrap();
            let mut rest = Vec::new();
            within(stream.read_to_end(&mut rest)).await.unwrap();
            assert_eq!(rest, b"answer");
            within(stream.shutdown()).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn text_is_refused_with_1003() {
        let (socket, mut peer) = Setup::default().open(Role::Client).await;
        let mut stream = socket.into_byte_stream();
        peer.send_frame(0x81, "text").await;
        for _ in 0..2 {
            let error = within(stream.read(&mut [0; 9])).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData);
        }
        assert_eq!(peer.expect_close().await.0, 1003);
        assert!(stream.write(b"more").await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn goes_back_to_messages() {
        let (socket, mut peer) = Setup::default().open(Role::Server).await;
        let mut stream = socket.into_byte_stream();
        peer.send_frame(0x82, "abcd").await;
        peer.send_frame(0x81, "text").await;
        within(stream.read_exact(&mut [0; 2])).await.unwrap();
        let mut socket = stream.into_inner();
        let message = within(socket.recv()).await.unwrap().unwrap();
        assert_eq!(message, Message::from("text"));
    }
}

/// What users' tasks need of them.
#[test]
fn they_go_to_other_tasks() {
    fn goes<T: Send + Unpin>() {}
    goes::<sockeye::MessageReader<'static>>();
    goes::<sockeye::MessageWriter<'static>>();
    goes::<sockeye::ByteStream>();
    fn writes<T: AsyncWrite>() {}
    writes::<Pin<&mut sockeye::ByteStream>>();
    let _: fn(io::Error) -> Result<()> = |error| Err(error.into());
}
