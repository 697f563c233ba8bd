//! A connection that something drives while its user does anything but receive: pings and a Close are answered all the
//! same (RFC 6455 §5.5.1, §5.5.2), and that the peer is gone is noticed, as far as the next message. Time is paused.

use std::{
    future::{Future, pending, poll_fn},
    pin::pin,
    task::Poll,
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::Either, stream::FuturesUnordered};
use sockeye::{
    CloseCode, Ended, Error, Event, Handler, Limits, MessageRef, Result, Socket, WebSocket,
    server::{Excess, Rate},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::wire::*;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Runs a handler in a task, in which whatever it awaits goes on beside the peer of the test.
fn drive<F, Fut>(socket: WebSocket, work: F) -> JoinHandle<Result<Option<Ended>>>
where
    F: FnOnce(WebSocket) -> Fut + Send + 'static,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    tokio::spawn(socket.drive(work))
}

fn is_by_peer(ended: Option<Ended>, code: CloseCode) -> bool {
    matches!(ended, Some(Ended::ByPeer(Some(frame))) if frame.code == code)
}

fn text(message: Option<sockeye::Message>) -> String {
    message.unwrap().as_text().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn pings_are_answered() {
    for role in BOTH {
        let (socket, mut peer) = Setup::default().open(role).await;
        let driven = drive(socket, async |socket| {
            sleep(HOUR).await;
            drop(socket);
            Ok(())
        });
        for round in 0..10 {
            peer.send_frame(0x89, round.to_string()).await;
            assert_eq!(peer.expect(0x8A).await, round.to_string().as_bytes());
        }
        // In as many pieces as there are.
        for byte in peer.frame(0x89, "slow") {
            peer.send([byte]).await;
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(peer.expect(0x8A).await, b"slow");
        driven.abort();
    }
}

/// As one does that subscribes a client to something: it receives once, and sends from then on.
#[tokio::test(start_paused = true)]
async fn pings_behind_a_message_are_answered_while_it_is_worked_on() {
    for role in BOTH {
        for together in [true, false] {
            let (socket, mut peer) = Setup::default().open(role).await;
            let driven = drive(socket, async |mut socket| {
                assert_eq!(text(socket.recv().await?), "subscribe");
                sleep(HOUR).await;
                socket.send("news").await?;
                sleep(HOUR).await;
                Ok(())
            });
            let mut frames = peer.frame(0x81, "subscribe");
            if !together {
                peer.send(&frames).await;
                sleep(SECOND).await;
                frames.clear();
            }
            frames.extend(peer.frame(0x89, "there?"));
            peer.send(frames).await;
            assert_eq!(peer.expect(0x8A).await, b"there?");
            driven.abort();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_is_answered_and_what_is_sent_then_is_refused() {
    for role in BOTH {
        // Also where it has received something, and would receive more.
        for message in [false, true] {
            let (socket, mut peer) = Setup::default().open(role).await;
            let driven = drive(socket, async move |mut socket| {
                if message {
                    assert_eq!(text(socket.recv().await?), "hello");
                    assert!(socket.recv().now_or_never().is_none());
                }
                sleep(SECOND).await;
                assert!(!socket.is_open());
                assert!(is_by_peer(socket.ended(), CloseCode::GOING_AWAY));
                let refused = socket.send("news").await.unwrap_err();
                assert!(refused.is_closed(), "{refused}");
                // Told as ever, for all that it was answered before.
                let told = socket.recv_event().await?;
                assert!(matches!(told, Some(Event::Close(Some(_)))), "{told:?}");
                assert_eq!(socket.recv_event().await?, None);
                Ok(())
            });
            if message {
                peer.send_frame(0x81, "hello").await;
                sleep(SECOND / 2).await;
            }
            peer.send_close(1001, "").await;
            assert_eq!(peer.expect_close().await, (1001, String::new()));
            if role == Role::Server {
                peer.expect_end().await;
            }
            drop(peer);
            let ended = within(driven).await.unwrap().unwrap();
            assert!(is_by_peer(ended, CloseCode::GOING_AWAY), "{role:?}");
        }
    }
}

/// As where a server leaves: whoever sends a request and closes has its answer. Nobody is waited for for ever.
#[tokio::test(start_paused = true)]
async fn a_message_in_hand_is_answered_before_what_ends_the_connection() {
    for role in BOTH {
        for ends in [true, false] {
            for is_done in [true, false] {
                let (socket, mut peer) = Setup::default().open(role).await;
                let began = Instant::now();
                let driven = drive(socket, async move |mut socket| {
                    assert_eq!(text(socket.recv().await?), "question");
                    if is_done {
                        sleep(10 * SECOND).await;
                        socket.send("answer").await?;
                        assert_eq!(socket.recv().await.is_err(), ends);
                    } else {
                        while socket.is_open() {
                            sleep(SECOND).await;
                        }
                        // When a ping was not answered in time.
                        assert_eq!(began.elapsed().as_secs(), 51);
                    }
                    Ok(())
                });
                let mut frames = peer.frame(0x81, "question");
                frames.extend(peer.frame(0x89, "there?"));
                match ends {
                    // It ends its side alone.
                    true => {
                        peer.send(frames).await;
                        peer.stream.shutdown().await.unwrap();
                    }
                    false => {
                        frames.extend(peer.frame(0x88, 1000_u16.to_be_bytes()));
                        peer.send(frames).await;
                    }
                }
                assert_eq!(peer.expect(0x8A).await, b"there?");
                if is_done {
                    peer.expect_text("answer").await;
                }
                while let Some(frame) = peer.next_in_time(HOUR).await
                    && frame.first != 0x88
                {}
                drop(peer);
                let ended = within(driven).await.unwrap().unwrap();
                match ends {
                    true => assert!(matches!(ended, Some(Ended::Lost(_))), "{ended:?}"),
                    false => assert!(is_by_peer(ended, CloseCode::NORMAL), "{role:?}"),
                }
            }
        }
    }
}

/// Where this end has closed, nothing can be said about a message in hand any more.
#[tokio::test(start_paused = true)]
async fn what_answers_our_close_is_left_for_no_message() {
    for role in BOTH {
        for idle in [None, Some(10 * SECOND)] {
            let setup = Setup {
                idle_timeout: idle,
                ..Setup::default()
            };
            let (socket, mut peer) = setup.open(role).await;
            let sender = socket.sender();
            let driven = drive(socket, async |mut socket| {
                assert_eq!(text(socket.recv().await?), "subscribe");
                sleep(60 * SECOND).await;
                assert_eq!(socket.recv().await?, None);
                Ok(())
            });
            peer.send_frame(0x81, "subscribe").await;
            sleep(SECOND).await;
            if idle.is_none() {
                sender.close(CloseCode::GOING_AWAY, "").await.unwrap();
            }
            assert_eq!(peer.expect_close().await.0, 1001);
            peer.send_close(1001, "").await;
            sleep(20 * SECOND).await;
            drop(peer);
            let ended = driven.await.unwrap().unwrap();
            assert!(matches!(ended, Some(Ended::ByUs(_))), "{role:?} {ended:?}");
        }
    }
}

/// A write fails before the message in hand is answered, and so nothing that was left for that is left any longer.
#[tokio::test]
async fn an_end_that_was_left_is_told_once_nothing_can_be_written() {
    let (ours, theirs) = tcp_pair().await;
    let setup = Setup {
        keepalive: None,
        ..Setup::default()
    };
    let (socket, mut peer) = setup.open_over(Role::Server, ours, theirs).await;
    let sender = socket.sender();
    let (to, from) = oneshot::channel();
    let driven = drive(socket, async |mut socket| {
        assert_eq!(text(socket.recv().await?), "subscribe");
        to.send(()).unwrap();
        pending().await
    });
    peer.send_frame(0x81, "subscribe").await;
    within(from).await.unwrap();
    drop(peer);
    within(async {
        while sender.ended().is_none() {
            // The first finds out that there is nobody.
            let _ = sender.try_send("news");
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(matches!(sender.ended(), Some(Ended::Lost(_))));
    driven.abort();
}

/// Nothing is looked at behind it, and that it cannot be written is found once.
#[tokio::test(start_paused = true)]
async fn a_message_that_nobody_takes_of_a_peer_that_is_gone_wakes_nobody() {
    for wrote in [false, true] {
        let (socket, mut peer) = Setup::default().open(Role::Server).await;
        let sender = socket.sender();
        let mut driven = pin!(socket.drive(async |_socket| pending().await));
        let mut polls = 0;
        let counted = poll_fn(|cx| {
            polls += 1;
            assert!(polls < 50 && driven.as_mut().poll(cx).is_pending());
            Poll::<()>::Pending
        });
        let leaves = async {
            peer.send_frame(0x81, "never taken").await;
            sleep(SECOND).await;
            drop(peer);
            for _ in 0..3 {
                if wrote {
                    let _ = sender.try_send("news");
                }
                sleep(SECOND).await;
            }
        };
        assert!(
            timeout(20 * SECOND, async { tokio::join!(counted, leaves) })
                .await
                .is_err()
        );
        assert_eq!(sender.is_open(), !wrote);
    }
}

/// With another right behind it, of which nothing is looked at.
#[tokio::test(start_paused = true)]
async fn a_rate_that_is_broken_with_a_message_in_hand_ends_it() {
    let rate = Rate::per_second(1).burst(2);
    let acceptor = Setup::default().acceptor().message_rate(rate);
    let acceptor = acceptor.on_excess(Excess::Close);
    let (ours, theirs) = duplex(1 << 20);
    let (socket, peer) = tokio::join!(acceptor.accept(ours), Peer::client(theirs, "", &[]));
    let (socket, mut peer) = (socket.unwrap(), peer);
    let driven = drive(socket, async |mut socket| {
        assert_eq!(text(socket.recv().await?), "question");
        pending().await
    });
    peer.send_frame(0x81, "question").await;
    let mut frames = peer.frame(0x89, "one");
    frames.extend(peer.frame(0x89, "too many"));
    frames.extend(peer.frame(0x81, "behind"));
    peer.send(frames).await;
    assert_eq!(peer.expect(0x8A).await, b"one");
    // Once a ping was not answered in time.
    let ping = peer.next_in_time(HOUR).await.unwrap();
    assert_eq!(ping.first, 0x89);
    let closed = peer.next_in_time(HOUR).await.unwrap();
    assert_eq!(
        (closed.first, &closed.payload[..2]),
        (0x88, &1008_u16.to_be_bytes()[..])
    );
    driven.abort();
}

/// What others have sent by then goes out before the answer.
#[tokio::test(start_paused = true)]
async fn a_close_is_answered_behind_what_was_sent_before() {
    let (socket, mut peer) = Setup::default().open(Role::Server).await;
    let sender = socket.sender();
    let driven = drive(socket, async |_socket| pending().await);
    sleep(SECOND).await;
    // Both are there when the driver is polled.
    peer.send_close(1000, "").await;
    for number in 0..10 {
        sender.send(number.to_string()).await.unwrap();
    }
    for number in 0..10 {
        peer.expect_text(&number.to_string()).await;
    }
    assert_eq!(peer.expect_close().await.0, 1000);
    assert!(sender.send("late").await.unwrap_err().is_closed());
    driven.abort();
}

#[tokio::test(start_paused = true)]
async fn a_broken_rule_is_told_behind_what_was_sent_before() {
    let (socket, mut peer) = Setup::default().open(Role::Server).await;
    let sender = socket.sender();
    let (go, gone) = oneshot::channel();
    let driven = drive(socket, async move |_socket| {
        gone.await.unwrap();
        // From another thread, in this very poll.
        let sends = thread::spawn(move || sender.try_send("accepted"));
        sends.join().unwrap()?;
        pending().await
    });
    peer.send_frame(0x89, [0; 126]).await;
    go.send(()).unwrap();
    peer.expect_text("accepted").await;
    assert_eq!(peer.expect_close().await.0, 1002);
    driven.abort();
}

/// It uses up what tokio lets a task do in a poll, in each. Where it receives beside that, it is not let look.
#[tokio::test]
async fn whoever_always_has_something_to_do_is_no_exception() {
    for receives in [false, true] {
        let (ours, theirs) = tcp_pair().await;
        let setup = Setup::default();
        let (socket, mut peer) = setup.open_over(Role::Server, ours, theirs).await;
        let (to, mut from) = mpsc::channel(1024);
        let driven = drive(socket, async move |socket| {
            let (sender, mut receiver) = socket.split();
            let mut count = 0;
            loop {
                let next = pin!(from.recv());
                if receives {
                    let received = pin!(receiver.recv());
                    match futures_util::future::select(next, received).await {
                        Either::Left(_) => {}
                        Either::Right((received, _)) => return received.map(drop),
                    }
                } else {
                    next.await;
                }
                count += 1;
                if count % 1000 == 0 {
                    sender.send("news").await?;
                }
            }
        });
        let feeding = tokio::spawn(async move { while to.send(()).await.is_ok() {} });
        peer.expect_text("news").await;
        peer.send_frame(0x89, "there?").await;
        within(async { while peer.next().await.unwrap().first != 0x8A {} }).await;
        peer.send_close(1000, "").await;
        within(async { while peer.next().await.unwrap().first != 0x88 {} }).await;
        driven.abort();
        let _ = feeding.await;
    }
}

#[tokio::test(start_paused = true)]
async fn that_the_peer_has_gone_is_noticed() {
    for role in BOTH {
        let (socket, peer) = Setup::default().open(role).await;
        let driven = drive(socket, async |mut socket| {
            sleep(SECOND).await;
            assert!(matches!(socket.ended(), Some(Ended::Lost(_))));
            assert!(socket.send("news").await.unwrap_err().is_lost());
            // It is told once, to whoever receives.
            assert!(socket.recv().await.unwrap_err().is_lost());
            assert_eq!(socket.recv().await?, None);
            Ok(())
        });
        drop(peer);
        let ended = within(driven).await.unwrap().unwrap();
        assert!(matches!(ended, Some(Ended::Lost(_))), "{ended:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_rule_is_told_to_the_peer_and_to_whoever_receives_next() {
    for role in BOTH {
        let (socket, mut peer) = Setup::default().open(role).await;
        let driven = drive(socket, async |mut socket| {
            sleep(SECOND).await;
            assert!(matches!(socket.ended(), Some(Ended::Protocol(_))));
            let error = socket.recv().await.unwrap_err();
            assert!(error.is_protocol(), "{error}");
            assert_eq!(socket.recv().await?, None);
            Ok(())
        });
        // A ping of 126 bytes (§5.5).
        peer.send_frame(0x89, [0; 126]).await;
        assert_eq!(peer.expect_close().await.0, 1002);
        drop(peer);
        let ended = within(driven).await.unwrap().unwrap();
        assert!(matches!(ended, Some(Ended::Protocol(_))), "{ended:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_has_fallen_silent_is_given_up() {
    for role in BOTH {
        let (socket, mut peer) = Setup::default().open(role).await;
        let driven = drive(socket, async |mut socket| {
            for _ in 0..3 {
                sleep(29 * SECOND).await;
                socket.send("news").await?;
            }
            panic!("it was not given up");
        });
        // It takes what is sent, and says nothing.
        while peer.next_in_time(HOUR).await.is_some() {}
        let error = driven.await.unwrap().unwrap_err();
        assert!(error.is_lost(), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_answers_is_not_given_up_and_its_pongs_are_timed() {
    for role in BOTH {
        let (socket, mut peer) = Setup::default().open(role).await;
        let driven = drive(socket, async |socket| {
            sleep(HOUR).await;
            assert_eq!(socket.rtt(), Some(SECOND));
            assert!(socket.is_open());
            Ok(())
        });
        let mut pings = 0;
        while let Some(frame) = peer.next_in_time(HOUR).await
            && frame.first == 0x89
        {
            pings += 1;
            sleep(SECOND).await;
            peer.send_frame(0x8A, frame.payload).await;
        }
        assert!(pings > 100, "{pings}");
        peer.send_close(1000, "").await;
        within(driven).await.unwrap().unwrap();
    }
}

/// The application reads at its own pace: it is not judged by what stands behind a message that it has not taken.
#[tokio::test(start_paused = true)]
async fn nothing_is_taken_behind_a_message() {
    for role in BOTH {
        // Also of one whose frame has only begun to come.
        for beginning in [1, 2, 4, 9, 10] {
            let (socket, mut peer) = Setup::default().open(role).await;
            let driven = drive(socket, async |mut socket| {
                sleep(HOUR).await;
                assert!(socket.is_open());
                assert_eq!(text(socket.recv().await?), "later");
                pending().await
            });
            let message = peer.frame(0x81, "later");
            let beginning = beginning.min(message.len());
            peer.send_frame(0x89, "before").await;
            peer.send(&message[..beginning]).await;
            assert_eq!(peer.expect(0x8A).await, b"before");
            peer.send(&message[beginning..]).await;
            peer.send_frame(0x89, "behind").await;
            // Those of the keepalive, which nobody can tell the answers of.
            while let Some(frame) = peer.next_in_time(HOUR / 2).await {
                if frame.first == 0x8A {
                    assert_eq!(frame.payload, b"behind");
                    break;
                }
                assert_eq!(frame.first, 0x89, "{frame:?}");
            }
            driven.abort();
        }
    }
}

/// A message that is to be read as it comes need not fit into memory.
#[tokio::test(start_paused = true)]
async fn a_message_is_not_gathered_for_whoever_will_read_it_as_it_comes() {
    let setup = Setup {
        limits: Limits::default().message(10),
        ..Setup::default()
    };
    for role in BOTH {
        let (socket, mut peer) = setup.open(role).await;
        let driven = drive(socket, async |mut socket| {
            sleep(SECOND).await;
            let mut message = socket.recv_stream().await?.unwrap();
            let mut bytes = vec![0; 1000];
            message.read_exact(&mut bytes).await?;
            // In its middle.
            sleep(SECOND).await;
            message.read_to_end(&mut bytes).await?;
            assert_eq!(bytes.len(), 10_000);
            let mut message = socket.recv_stream().await?.unwrap();
            assert_eq!(message.read(&mut bytes).await?, 5);
            // Not to its end.
            sleep(SECOND).await;
            assert_eq!(text(socket.recv().await?), "the last");
            Ok(())
        });
        peer.send_frame(0x82, [0; 10_000]).await;
        peer.send_frame(0x01, "begun").await;
        peer.send_frame(0x00, " and ").await;
        sleep(5 * SECOND).await;
        peer.send_frame(0x80, "ended").await;
        peer.send_frame(0x81, "the last").await;
        assert_eq!(peer.expect_close().await.0, 1000);
        peer.send_close(1000, "").await;
        drop(peer);
        within(driven).await.unwrap().unwrap();
    }
}

mod events {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn are_told_in_their_order_to_whoever_receives_next() {
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let driven = drive(socket, async |mut socket| {
                sleep(SECOND).await;
                let pong = Event::Pong(Bytes::from_static(b"answers nothing"));
                assert_eq!(socket.recv_event().await?, Some(pong));
                let ping = Event::Ping(Bytes::from_static(b"there?"));
                assert_eq!(socket.recv_event().await?, Some(ping));
                let message = socket.recv_event().await?;
                assert!(matches!(message, Some(Event::Message(_))), "{message:?}");
                Ok(())
            });
            peer.send_frame(0x8A, "answers nothing").await;
            peer.send_frame(0x89, "there?").await;
            assert_eq!(peer.expect(0x8A).await, b"there?");
            peer.send_frame(0x81, "message").await;
            // Not answered once more.
            assert_eq!(peer.expect_close().await.0, 1000);
            driven.abort();
        }
    }

    /// Whoever waits for them there is polled only when its own waker was woken.
    #[tokio::test(start_paused = true)]
    async fn are_told_to_whoever_waits_in_a_set_of_futures() {
        let (socket, mut peer) = Setup::default().open(Role::Server).await;
        let (to, mut from) = mpsc::unbounded_channel();
        let driven = drive(socket, async move |socket| {
            let (sender, mut receiver) = socket.split();
            let mut set = FuturesUnordered::new();
            set.push(async {
                while let Ok(Some(event)) = receiver.recv_event().await {
                    to.send(event).unwrap();
                }
            });
            let mut ticks = tokio::time::interval(SECOND);
            sender.ping(b"rtt").await?;
            loop {
                tokio::select! {
                    Some(()) = set.next() => return Ok(()),
                    _ = ticks.tick() => {}
                }
            }
        });
        assert_eq!(peer.expect(0x89).await, b"rtt");
        sleep(5 * SECOND / 2).await;
        peer.send_frame(0x8A, "rtt").await;
        let told = timeout(SECOND, from.recv()).await.unwrap().unwrap();
        assert_eq!(told, Event::Pong(Bytes::from_static(b"rtt")));
        driven.abort();
    }

    /// They take memory for as long as nobody receives.
    #[tokio::test(start_paused = true)]
    async fn are_kept_for_that_as_far_as_they_are_the_newest() {
        let (socket, mut peer) = Setup::default().open(Role::Server).await;
        let driven = drive(socket, async |mut socket| {
            sleep(SECOND).await;
            for number in 996..1000_u32 {
                let ping = Event::Ping(number.to_string().into());
                assert_eq!(socket.recv_event().await?, Some(ping));
            }
            assert_eq!(text(socket.recv().await?), "message");
            Ok(())
        });
        for number in 0..1000_u32 {
            peer.send_frame(0x89, number.to_string()).await;
        }
        peer.send_frame(0x81, "message").await;
        // The pong for the newest of those that came together will do (§5.5.3).
        while peer.expect(0x8A).await != b"999" {}
        assert_eq!(peer.expect_close().await.0, 1000);
        driven.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn are_nothing_to_whoever_receives_messages() {
        for streams in [false, true] {
            let (socket, mut peer) = Setup::default().open(Role::Server).await;
            let driven = drive(socket, async move |mut socket| {
                sleep(SECOND).await;
                if streams {
                    let mut read = String::new();
                    let mut message = socket.recv_stream().await?.unwrap();
                    message.read_to_string(&mut read).await?;
                    assert_eq!(read, "message");
                    assert!(socket.recv_stream().await?.is_none());
                } else {
                    assert_eq!(text(socket.recv().await?), "message");
                    assert_eq!(socket.recv().await?, None);
                }
                Ok(())
            });
            peer.send_frame(0x89, "there?").await;
            peer.send_frame(0x8A, "answers nothing").await;
            sleep(SECOND / 2).await;
            peer.send_frame(0x81, "message").await;
            peer.send_close(1000, "").await;
            assert_eq!(peer.expect(0x8A).await, b"there?");
            assert_eq!(peer.expect_close().await.0, 1000);
            drop(peer);
            within(driven).await.unwrap().unwrap();
        }
    }
}

mod a_receiver {
    use super::*;

    /// Whatever has its own waker there, as each of a set of futures.
    #[tokio::test(start_paused = true)]
    async fn that_waits_in_a_set_of_futures_is_woken() {
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let driven = drive(socket, async |socket| {
                let (sender, mut receiver) = socket.split();
                let mut ticks = tokio::time::interval(SECOND);
                let mut set = FuturesUnordered::new();
                set.push(Either::Left(async { receiver.recv().await.map(Some) }));
                let mut sent = 0;
                loop {
                    tokio::select! {
                        received = set.next() => {
                            assert_eq!(text(received.unwrap()?.unwrap()), "here");
                            assert!(sent > 2);
                            return Ok(());
                        }
                        _ = ticks.tick() => {
                            // The set is not polled for what came while this was.
                            sent += 1;
                            sender.send("tick").await?;
                        }
                    }
                    if sent == 1 {
                        set.push(Either::Right(async { pending().await }));
                    }
                }
            });
            for _ in 0..5 {
                peer.expect_text("tick").await;
            }
            peer.send_frame(0x89, "there?").await;
            peer.send_frame(0x81, "here").await;
            while peer.next().await.unwrap().first != 0x8A {}
            while peer.next().await.unwrap().first != 0x88 {}
            driven.abort();
        }
    }

    /// Its waker is none that would have the driver look again.
    #[tokio::test(start_paused = true)]
    async fn that_was_asked_in_passing_is_not_waited_for() {
        let (socket, mut peer) = Setup::default().open(Role::Server).await;
        let driven = drive(socket, async |mut socket| {
            while let Some(message) = socket.recv().now_or_never() {
                message?;
            }
            pending().await
        });
        sleep(SECOND).await;
        peer.send_frame(0x89, "there?").await;
        let pong = peer.next_in_time(SECOND).await.unwrap();
        assert_eq!(pong.payload, b"there?");
        driven.abort();
    }

    /// The driver looks after the connection when a tick comes, and not the set.
    #[tokio::test(start_paused = true)]
    async fn that_waits_in_a_set_of_futures_until_its_peer_may_go_on_is_woken() {
        let rate = Rate::per_second(1).burst(1);
        let acceptor = Setup::default().acceptor().message_rate(rate);
        let (ours, theirs) = duplex(1 << 20);
        let (socket, peer) = tokio::join!(acceptor.accept(ours), Peer::client(theirs, "", &[]));
        let (socket, mut peer) = (socket.unwrap(), peer);
        let (to, mut from) = mpsc::unbounded_channel();
        let driven = drive(socket, async move |socket| {
            let (_sender, mut receiver) = socket.split();
            let mut set = FuturesUnordered::new();
            set.push(async {
                while let Ok(message) = receiver.recv().await {
                    to.send(text(message)).unwrap();
                }
            });
            let mut ticks = tokio::time::interval(SECOND * 3 / 10);
            loop {
                tokio::select! {
                    Some(()) = set.next() => return Ok(()),
                    _ = ticks.tick() => {}
                }
            }
        });
        for number in 0..3 {
            peer.send_frame(0x81, number.to_string()).await;
        }
        for number in 0..3 {
            let told = timeout(2 * SECOND, from.recv()).await.unwrap();
            assert_eq!(told.unwrap(), number.to_string());
        }
        driven.abort();
    }

    /// Once this end has closed, nobody is held back: the peer's Close is behind whatever comes.
    #[tokio::test(start_paused = true)]
    async fn whose_peer_is_held_back_has_its_close() {
        let rate = Rate::per_second(1).burst(1);
        let acceptor = Setup::default().acceptor().message_rate(rate);
        let (ours, theirs) = duplex(1 << 20);
        let (socket, peer) = tokio::join!(acceptor.accept(ours), Peer::client(theirs, "", &[]));
        let (socket, mut peer) = (socket.unwrap(), peer);
        let sender = socket.sender();
        let driven = drive(socket, async |_socket| {
            sleep(60 * SECOND).await;
            Ok(())
        });
        for number in 0..40 {
            peer.send_frame(0x89, number.to_string()).await;
        }
        sender.close(CloseCode::NORMAL, "").await.unwrap();
        while peer.next().await.unwrap().first != 0x88 {}
        peer.send_close(1000, "").await;
        sleep(20 * SECOND).await;
        let ended = sender.ended();
        assert!(matches!(ended, Some(Ended::ByUs(_))), "{ended:?}");
        driven.abort();
    }

    /// The one that drives is asked for what it was lent, and gives it back.
    #[tokio::test(start_paused = true)]
    async fn that_is_moved_to_another_task_receives_there() {
        for role in BOTH {
            for received_before in [false, true] {
                let (socket, mut peer) = Setup::default().open(role).await;
                let driven = drive(socket, async move |mut socket| {
                    if received_before {
                        assert_eq!(text(socket.recv().await?), "0");
                    }
                    let (sender, mut receiver) = socket.split();
                    let elsewhere = tokio::spawn(async move {
                        let mut all = Vec::new();
                        // Dropped as it asks, it asks again.
                        assert!(receiver.recv().now_or_never().is_none());
                        while let Some(message) = receiver.recv().await? {
                            all.push(message.as_text().unwrap().to_owned());
                            if all.len() == 3 {
                                break;
                            }
                        }
                        Ok::<_, Error>((receiver, all))
                    });
                    let (receiver, all) = elsewhere.await.unwrap()?;
                    let Ok(mut socket) = receiver.reunite(sender) else {
                        panic!("halves of two");
                    };
                    assert_eq!(all, ["1", "2", "3"]);
                    // And here again.
                    assert_eq!(text(socket.recv().await?), "4");
                    sleep(SECOND).await;
                    Ok(())
                });
                for number in usize::from(!received_before)..5 {
                    sleep(SECOND).await;
                    peer.send_frame(0x81, number.to_string()).await;
                }
                peer.send_frame(0x89, "there?").await;
                assert_eq!(peer.expect(0x8A).await, b"there?");
                driven.abort();
            }
        }
    }

    /// It has asked for what was given back since, and is polled where it was lent from.
    #[tokio::test(start_paused = true)]
    async fn that_comes_back_before_it_was_given_anything_receives() {
        let (socket, mut peer) = Setup::default().open(Role::Server).await;
        let driven = drive(socket, async |socket| {
            let (to, from) = oneshot::channel();
            tokio::spawn(async move {
                let mut socket = socket;
                assert!(socket.recv().now_or_never().is_none());
                let _ = to.send(socket);
            });
            let mut socket = from.await.unwrap();
            sleep(SECOND).await;
            assert_eq!(text(socket.recv().await?), "here");
            Ok(())
        });
        peer.send_frame(0x81, "here").await;
        assert_eq!(peer.expect_close().await.0, 1000);
        driven.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn in_another_task_that_outlives_the_driver_has_it_all() {
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let (to, mut from) = mpsc::unbounded_channel();
            let driven = drive(socket, async |socket| {
                tokio::spawn(async move {
                    let mut socket = socket;
                    sleep(SECOND).await;
                    while let Some(message) = socket.recv().await.unwrap() {
                        to.send(text(Some(message))).unwrap();
                    }
                });
                Ok(())
            });
            // It leaves the connection to the task.
            assert!(within(driven).await.unwrap().unwrap().is_none());
            peer.send_frame(0x81, "here").await;
            assert_eq!(within(from.recv()).await.unwrap(), "here");
            peer.send_close(1000, "").await;
            assert_eq!(peer.expect_close().await.0, 1000);
            drop(peer);
            assert_eq!(within(from.recv()).await, None);
        }
    }

    /// Wherever it is dropped, the driver answers until its user's work is done, and then closes.
    #[tokio::test(start_paused = true)]
    async fn that_is_dropped_leaves_it_to_the_driver() {
        for role in BOTH {
            for elsewhere in [false, true] {
                for asks in [false, true] {
                    let (socket, mut peer) = Setup::default().open(role).await;
                    let driven = drive(socket, async move |mut socket| {
                        let drops = async move {
                            if asks {
                                assert!(socket.recv().now_or_never().is_none());
                            }
                            sleep(SECOND).await;
                            drop(socket);
                        };
                        match elsewhere {
                            true => drop(tokio::spawn(drops)),
                            false => drops.await,
                        }
                        sleep(5 * SECOND).await;
                        Ok(())
                    });
                    sleep(2 * SECOND).await;
                    peer.send_frame(0x89, "there?").await;
                    assert_eq!(peer.expect(0x8A).await, b"there?");
                    assert_eq!(peer.expect_close().await.0, 1000);
                    peer.send_close(1000, "").await;
                    drop(peer);
                    let ended = within(driven).await.unwrap().unwrap();
                    assert!(matches!(ended, Some(Ended::ByUs(_))), "{ended:?}");
                }
            }
        }
    }

    /// One message that nobody would ever receive held up what came behind it.
    #[tokio::test(start_paused = true)]
    async fn that_is_dropped_holds_nothing_up() {
        let setup = Setup {
            limits: Limits::default().message(1000),
            ..Setup::default()
        };
        for role in BOTH {
            for (elsewhere, asks, late) in [
                (false, false, false),
                (false, false, true),
                (false, true, true),
                (true, false, true),
                (true, true, true),
            ] {
                let (socket, mut peer) = setup.open(role).await;
                let driven = drive(socket, async move |socket| {
                    let (sender, mut receiver) = socket.split();
                    let drops = async move {
                        if asks {
                            assert_eq!(text(receiver.recv().await.unwrap()), "hello");
                        }
                        if late {
                            sleep(SECOND).await;
                        }
                        drop(receiver);
                    };
                    match elsewhere {
                        true => drop(tokio::spawn(drops)),
                        false => drops.await,
                    }
                    sleep(HOUR).await;
                    assert!(is_by_peer(sender.ended(), CloseCode::GOING_AWAY));
                    assert!(sender.send("news").await.unwrap_err().is_closed());
                    Ok(())
                });
                let frames = [
                    peer.frame(0x81, "hello"),
                    peer.frame(0x81, "and"),
                    peer.frame(0x89, "there?"),
                    // More than may be received, were it to be.
                    peer.frame(0x02, [7; 5000]),
                    peer.frame(0x89, "still?"),
                ];
                peer.send(frames.concat()).await;
                assert_eq!(peer.expect(0x8A).await, b"there?");
                assert_eq!(peer.expect(0x8A).await, b"still?");
                peer.send_frame(0x80, "ts").await;
                peer.send_close(1001, "").await;
                assert_eq!(peer.expect_close().await.0, 1001);
                let ended = timeout(2 * HOUR, driven).await;
                ended.unwrap().unwrap().unwrap();
            }
        }
    }

    /// What is sent in the poll in which it was dropped elsewhere took its place among what the driver is to look at.
    #[tokio::test(start_paused = true)]
    async fn that_is_dropped_beside_a_send_holds_nothing_up() {
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let driven = drive(socket, async move |socket| {
                let (sender, mut receiver) = socket.split();
                let received = tokio::spawn(async move {
                    assert_eq!(text(receiver.recv().await.unwrap()), "hello");
                    receiver
                });
                let receiver = received.await.unwrap();
                thread::spawn(move || drop(receiver)).join().unwrap();
                sender.send("news").await?;
                sleep(HOUR).await;
                Ok(())
            });
            peer.send_frame(0x81, "hello").await;
            peer.expect_text("news").await;
            peer.send_frame(0x89, "there?").await;
            assert_eq!(peer.expect(0x8A).await, b"there?");
            driven.abort();
        }
    }

    /// Also where that is found only as it begins to wait, with a message in hand.
    #[tokio::test(start_paused = true)]
    async fn that_waits_for_the_end_is_told_of_a_transport_that_fails() {
        for role in BOTH {
            let setup = Setup {
                pipe: 1000,
                keepalive: None,
                ..Setup::default()
            };
            let (mut socket, mut peer) = setup.open(role).await;
            peer.send_frame(0x81, "hello").await;
            socket.try_send(vec![7; 100_000]).unwrap();
            drop(peer);
            // Whatever that wakes.
            sleep(SECOND).await;
            let ended = within(socket.closed()).await;
            assert!(matches!(ended, Ended::Lost(_)), "{ended:?}");
            assert_eq!(text(socket.recv().await.unwrap()), "hello");
        }
    }

    /// A Close waits for a message in hand, and of whoever will never wait for the next none is.
    #[tokio::test(start_paused = true)]
    async fn that_is_dropped_has_no_message_in_hand() {
        for role in BOTH {
            for elsewhere in [false, true] {
                let (socket, mut peer) = Setup::default().open(role).await;
                let driven = drive(socket, async move |socket| {
                    let (_sender, mut receiver) = socket.split();
                    let receives = async move {
                        assert_eq!(text(receiver.recv().await.unwrap()), "hello");
                    };
                    match elsewhere {
                        true => drop(tokio::spawn(receives)),
                        false => receives.await,
                    }
                    sleep(HOUR).await;
                    Ok(())
                });
                peer.send_frame(0x81, "hello").await;
                sleep(SECOND).await;
                peer.send_close(1001, "").await;
                assert_eq!(peer.expect_close().await.0, 1001);
                driven.abort();
            }
        }
    }

    /// Before the driver could give it anything: in another task, and within one poll.
    #[tokio::test(start_paused = true)]
    async fn that_has_asked_and_is_dropped_leaves_it_to_the_driver() {
        for at_once in [false, true] {
            let (socket, mut peer) = Setup::default().open(Role::Server).await;
            // As long as there is one, nobody else ends the connection.
            let sender = socket.sender();
            let driven = drive(socket, async move |mut socket| {
                let mut asks = move || assert!(socket.recv().now_or_never().is_none());
                match at_once {
                    true => thread::spawn(asks).join().unwrap(),
                    false => drop(tokio::spawn(async move { asks() })),
                }
                sleep(SECOND).await;
                Ok(())
            });
            assert_eq!(peer.expect_close().await.0, 1000);
            peer.send_close(1000, "").await;
            peer.expect_end().await;
            let ended = within(driven).await.unwrap().unwrap();
            assert!(matches!(ended, Some(Ended::ByUs(_))), "{ended:?}");
            assert!(!sender.is_open());
        }
    }

    /// What it was given back goes to the next that drives.
    #[tokio::test(start_paused = true)]
    async fn that_has_asked_and_is_driven_elsewhere_answers() {
        let (socket, mut peer) = Setup::default().open(Role::Server).await;
        let driven = drive(socket, async |socket| {
            tokio::spawn(async move {
                let mut socket = socket;
                assert!(socket.recv().now_or_never().is_none());
                socket.drive(async |_socket| pending().await).await
            });
            pending().await
        });
        sleep(SECOND).await;
        peer.send_frame(0x89, "there?").await;
        assert_eq!(peer.expect(0x8A).await, b"there?");
        driven.abort();
    }

    /// Within the driver's own task and in another: callbacks take over what was lent.
    #[tokio::test(start_paused = true)]
    async fn that_is_given_to_callbacks_calls_them() {
        struct Tell(mpsc::UnboundedSender<String>);
        impl Handler for Tell {
            fn on_ping(&mut self, _: &mut Socket, payload: &[u8]) {
                self.0
                    .send(String::from_utf8_lossy(payload).into())
                    .unwrap();
            }
            fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
                self.0.send(message.to_string()).unwrap();
                socket.send(message);
            }
            fn on_close(&mut self, _: &mut Socket, ended: &Ended) {
                self.0.send(ended.code().to_string()).unwrap();
            }
        }
        for role in BOTH {
            for elsewhere in [false, true] {
                let (socket, mut peer) = Setup::default().open(role).await;
                let (to, mut from) = mpsc::unbounded_channel();
                let driven = drive(socket, async move |socket| {
                    sleep(SECOND).await;
                    let handled = socket.handle(Tell(to));
                    match elsewhere {
                        true => drop(tokio::spawn(handled)),
                        false => drop(handled.await),
                    }
                    Ok(())
                });
                peer.send_frame(0x89, "there?").await;
                assert_eq!(peer.expect(0x8A).await, b"there?");
                peer.expect_echo("here").await;
                // Answered before, and told all the same.
                for told in ["there?", "here"] {
                    assert_eq!(within(from.recv()).await.unwrap(), told);
                }
                peer.send_close(1000, "").await;
                assert_eq!(peer.expect_close().await.0, 1000);
                drop(peer);
                assert_eq!(within(from.recv()).await.unwrap(), "1000");
                within(driven).await.unwrap().unwrap();
            }
        }
    }

    /// With what was left for a message in hand, which was the handler's before.
    #[tokio::test(start_paused = true)]
    async fn that_is_given_to_callbacks_behind_a_close_tells_of_it() {
        struct Tell(mpsc::UnboundedSender<Ended>);
        impl Handler for Tell {
            fn on_close(&mut self, _: &mut Socket, ended: &Ended) {
                self.0.send(ended.clone()).unwrap();
            }
        }
        for role in BOTH {
            for ends in [false, true] {
                let (socket, mut peer) = Setup::default().open(role).await;
                let (to, mut from) = mpsc::unbounded_channel();
                let driven = drive(socket, async move |mut socket| {
                    assert_eq!(text(socket.recv().await?), "login");
                    sleep(SECOND).await;
                    socket.handle(Tell(to)).await;
                    Ok(())
                });
                peer.send_frame(0x81, "login").await;
                if ends {
                    peer.stream.shutdown().await.unwrap();
                } else {
                    peer.send_close(1000, "").await;
                    assert_eq!(peer.expect_close().await.0, 1000);
                    drop(peer);
                }
                let ended = within(from.recv()).await;
                match ends {
                    true => assert!(matches!(ended, Some(Ended::Lost(_))), "{ended:?}"),
                    false => assert!(is_by_peer(ended, CloseCode::NORMAL), "{role:?}"),
                }
                driven.abort();
            }
        }
    }

    /// One driver within another: what was lent to the outer one goes with the connection.
    #[tokio::test(start_paused = true)]
    async fn of_a_driver_within_another_receives() {
        let (socket, mut peer) = Setup::default().open(Role::Server).await;
        let driven = drive(socket, async |socket| {
            sleep(SECOND).await;
            let inner = socket.drive(async |mut socket| {
                sleep(SECOND).await;
                assert_eq!(text(socket.recv().await?), "here");
                Ok(())
            });
            inner.await.map(drop)
        });
        for _ in 0..2 {
            peer.send_frame(0x89, "there?").await;
            assert_eq!(peer.expect(0x8A).await, b"there?");
            sleep(SECOND).await;
        }
        peer.send_frame(0x81, "here").await;
        assert_eq!(peer.expect_close().await.0, 1000);
        peer.send_close(1000, "").await;
        drop(peer);
        within(driven).await.unwrap().unwrap();
    }
}

/// What is read ahead wakes the handler, and what is not there does so not again and again.
#[tokio::test(start_paused = true)]
async fn waiting_for_nothing_wakes_nobody() {
    let (socket, mut peer) = Setup::default().open(Role::Server).await;
    let mut driven = pin!(socket.drive(async |_socket| pending().await));
    let mut polls = 0;
    let counted = poll_fn(|cx| {
        polls += 1;
        assert!(driven.as_mut().poll(cx).is_pending());
        Poll::<()>::Pending
    });
    let both = async {
        tokio::join!(counted, async {
            peer.send_frame(0x89, "there?").await;
            peer.expect(0x8A).await;
            peer.send_frame(0x81, "never taken").await;
            pending::<()>().await
        })
    };
    assert!(timeout(29 * SECOND, both).await.is_err());
    assert!(polls < 20, "{polls}");
}
