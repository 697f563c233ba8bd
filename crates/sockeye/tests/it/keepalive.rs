//! Staying connected: pings that keep a connection, how long they take, peers that fall silent, and
//! connections on which nothing is said. Time is paused: it passes when everyone waits.

use std::{
    future::{Future, pending, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use sockeye::{
    CloseCode, Deadline, Ended, Error, Event, Handler, MessageKind, MessageRef, Socket, WebSocket,
    client::{Reconnecting, Update},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
    task::coop::has_budget_remaining,
    time::{Instant, advance, sleep, timeout},
};

use crate::wire::*;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Waits longer than anything here may take; then nothing more will happen.
async fn in_a_day<T>(future: impl Future<Output = T>) -> T {
    timeout(24 * HOUR, future)
        .await
        .expect("nothing has happened for a day")
}

fn is_silent(ended: &Ended) -> bool {
    matches!(ended, Ended::Silent) && ended.code() == 1006 && !ended.was_clean()
}

fn is_idle_close(ended: &Ended) -> bool {
    matches!(ended, Ended::ByUs(frame) if frame.code == CloseCode::GOING_AWAY && frame.reason == "idle")
}

/// Whole seconds, as the timer has a grain of a millisecond.
fn seconds_since(began: Instant) -> u64 {
    let elapsed = began.elapsed();
    assert!(elapsed.subsec_millis() <= 10, "{elapsed:?}");
    elapsed.as_secs()
}

/// Answers pings after a delay for so long, and nothing else; tells when they came, in seconds.
async fn answer_pings(peer: &mut Peer<DuplexStream>, delay: Duration, time: Duration) -> Vec<u64> {
    let began = Instant::now();
    let mut pings = Vec::new();
    // Frames are not torn by dropping this: what was read stays with the peer.
    let _ = timeout(time, async {
        loop {
            if let Some(payload) = ping(peer).await {
                pings.push(seconds_since(began));
                sleep(delay).await;
                peer.send_frame(0x8A, payload).await;
            }
        }
    })
    .await;
    pings
}

/// The payload of the next frame, if that is a ping.
async fn ping(peer: &mut Peer<DuplexStream>) -> Option<Vec<u8>> {
    let frame = peer.next_in_time(HOUR).await?;
    (frame.first == 0x89).then_some(frame.payload)
}

mod a_silent_peer {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_given_up_after_interval_and_timeout() {
        for role in BOTH {
            for form in FORMS {
                let (socket, mut peer) = Setup::default().open(role).await;
                let began = Instant::now();
                let sender = socket.sender();
                let seen = in_a_day(echo(form, socket)).await.unwrap();
                assert_eq!(seconds_since(began), 50, "{role:?} {form:?}");
                seen.assert_ended(is_silent);
                let error = seen.error.unwrap();
                assert!(error.is_timeout());
                assert!(
                    matches!(error, Error::Timeout(Deadline::Keepalive)),
                    "{error}"
                );
                // The transport is let go of, however long a handle is kept.
                assert_eq!(peer.expect(0x89).await.len(), 8);
                peer.expect_end().await;
                assert!(!sender.is_open());
                assert_eq!(sender.rtt(), None);
                assert!(sender.send("more").await.is_err());
                assert!(sender.flush().await.unwrap_err().is_timeout());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn is_given_up_that_long_after_it_last_said_something() {
        for role in BOTH {
            for form in FORMS {
                let (socket, mut peer) = Setup::default().open(role).await;
                let began = Instant::now();
                let seen = echo(form, socket);
                let pings = answer_pings(&mut peer, Duration::ZERO, HOUR).await;
                assert_eq!(pings, (1..120).map(|ping| ping * 30).collect::<Vec<_>>());
                in_a_day(seen).await.unwrap().assert_ended(is_silent);
                assert_eq!(seconds_since(began), 3600 + 20, "{role:?} {form:?}");
            }
        }
    }

    /// Where more than a turn's worth of a message had been read to where it stays, whoever received waited without having
    /// asked to be woken, for good.
    #[tokio::test(start_paused = true)]
    async fn is_given_up_however_much_of_a_large_message_has_come() {
        let setup = Setup {
            pipe: 4 << 20,
            ..Setup::default()
        };
        for role in BOTH {
            let frame = setup.open(role).await.1.frame(0x82, vec![7; 8 << 20]);
            for part in (1..8).map(|part| &frame[..part << 19]) {
                for form in FORMS {
                    let (socket, mut peer) = setup.open(role).await;
                    peer.send(part).await;
                    let began = Instant::now();
                    let seen = in_a_day(echo(form, socket)).await.unwrap();
                    assert_eq!(seconds_since(began), 50, "{role:?} {form:?}");
                    seen.assert_ended(is_silent);
                }
                let (socket, mut peer) = setup.open(role).await;
                peer.send(part).await;
                let elsewhere = socket.drive(async |mut socket| {
                    let receiving = tokio::spawn(async move { socket.recv().await });
                    receiving.await.unwrap().map(drop)
                });
                let ended = in_a_day(elsewhere).await;
                assert!(ended.is_err_and(|error| error.is_timeout()), "{role:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_in_another_task_hears_of_it_from_the_driver() {
        for role in BOTH {
            let (socket, _peer) = Setup::default().open(role).await;
            let began = Instant::now();
            let (tell, mut told) = mpsc::unbounded_channel();
            let ended = in_a_day(socket.drive(|mut socket| async move {
                let receiving = tokio::spawn(async move {
                    let error = socket.recv().await.unwrap_err();
                    tell.send((error, socket.ended())).unwrap();
                    assert!(socket.recv().await.unwrap().is_none());
                });
                receiving.await.unwrap();
                Ok(())
            }))
            .await
            .unwrap()
            .unwrap();
            assert!(is_silent(&ended), "{ended:?}");
            assert_eq!(seconds_since(began), 50);
            let (error, ended) = told.recv().await.unwrap();
            assert!(error.is_timeout());
            assert!(is_silent(&ended.unwrap()));
        }
    }

    /// The message in parts and the wait for it are as any other.
    #[tokio::test(start_paused = true)]
    async fn in_the_middle_of_a_message() {
        for role in BOTH {
            for streaming in [false, true] {
                let (mut socket, mut peer) = Setup::default().open(role).await;
                let began = Instant::now();
                peer.send_frame(0x01, "the first half").await;
                let error = if streaming {
                    let mut message = socket.recv_stream().await.unwrap().unwrap();
                    let mut text = Vec::new();
                    let error = in_a_day(message.read_to_end(&mut text)).await.unwrap_err();
                    assert_eq!(text, b"the first half");
                    Error::from(error)
                } else {
                    in_a_day(socket.recv()).await.unwrap_err()
                };
                assert!(
                    matches!(error, Error::Timeout(Deadline::Keepalive)),
                    "{error}"
                );
                assert_eq!(seconds_since(began), 50);
            }
        }
    }

    /// All that is sent goes nowhere: a network that was cut.
    #[tokio::test(start_paused = true)]
    async fn takes_nothing_either() {
        let setup = Setup {
            pipe: 300,
            high_water: 1000,
            ..Setup::default()
        };
        for role in BOTH {
            for form in [Form::Driven, Form::Events] {
                let (socket, mut peer) = setup.open(role).await;
                let began = Instant::now();
                let sender = socket.sender();
                let seen = echo(form, socket);
                // So much that it takes no more, and neither reads.
                let flood = async {
                    loop {
                        peer.send_frame(0x82, [0; 100]).await;
                    }
                };
                let flooded: Result<(), _> = timeout(SECOND, flood).await;
                assert!(flooded.is_err());
                assert!(sender.buffered_amount() >= 1000);
                in_a_day(seen).await.unwrap().assert_ended(is_silent);
                assert_eq!(seconds_since(began), 80, "{role:?} {form:?}");
            }
        }
    }
}

/// A bug: the driver had broken the connection off when it looked whether that was so, and told nobody. Nothing was
/// left to write. Nobody receives, so that it is the driver that finds it.
#[tokio::test(start_paused = true)]
async fn a_flush_beside_a_driver_is_an_error_once_the_peer_is_given_up() {
    let setup = Setup {
        pipe: 300,
        ..Setup::default()
    };
    for role in BOTH {
        let (socket, _peer) = setup.open(role).await;
        let (began, sender) = (Instant::now(), socket.sender());
        let driving = tokio::spawn(socket.drive(|mut socket| async move {
            socket.send(vec![0; 10_000]).await?;
            pending().await
        }));
        sleep(Duration::from_millis(1)).await;
        let flushed = in_a_day(sender.flush()).await;
        assert_eq!(seconds_since(began), 50, "{role:?}");
        assert!(flushed.unwrap_err().is_lost(), "{role:?}");
        driving.abort();
    }
}

/// Nobody drives the connection and nobody receives: a task waits for a peer that takes nothing.
mod a_send_that_nobody_receives_beside {
    use super::*;

    fn setup() -> Setup {
        Setup {
            pipe: 300,
            high_water: 1000,
            ..Setup::default()
        }
    }

    fn is_lost_to_silence(error: &Error) -> bool {
        error.is_lost() && error.to_string().contains("not even an answer to a ping")
    }

    #[tokio::test(start_paused = true)]
    async fn is_an_error_once_the_peer_is_given_up() {
        for role in BOTH {
            let (mut socket, _peer) = setup().open(role).await;
            let began = Instant::now();
            let error = in_a_day(socket.send(vec![0; 1000])).await.unwrap_err();
            assert!(is_lost_to_silence(&error), "{error}");
            assert_eq!(seconds_since(began), 80, "{role:?}");
            assert!(is_silent(&socket.ended().unwrap()));
            let error = in_a_day(socket.recv()).await.unwrap_err();
            assert!(error.is_timeout(), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn is_one_for_every_task_that_waits() {
        let (socket, _peer) = setup().open(Role::Client).await;
        let (sender, _receiver) = socket.split();
        let began = Instant::now();
        let sends: Vec<_> = (0..4)
            .map(|_| {
                let sender = sender.clone();
                tokio::spawn(async move { sender.send(vec![0; 1000]).await })
            })
            .collect();
        for send in sends {
            let error = in_a_day(send).await.unwrap().unwrap_err();
            assert!(is_lost_to_silence(&error), "{error}");
        }
        assert_eq!(seconds_since(began), 80);
    }

    /// Of those that wait, the one that set the timer last is gone.
    #[tokio::test(start_paused = true)]
    async fn is_one_for_whoever_is_left() {
        let (socket, _peer) = setup().open(Role::Client).await;
        let (sender, mut receiver) = socket.split();
        let began = Instant::now();
        let first = sender.clone();
        let first = tokio::spawn(async move { first.send(vec![0; 1000]).await });
        sleep(SECOND).await;
        assert!(timeout(SECOND, sender.send("more")).await.is_err());
        assert!(timeout(SECOND, receiver.recv()).await.is_err());
        let error = in_a_day(first).await.unwrap().unwrap_err();
        assert!(is_lost_to_silence(&error), "{error}");
        assert_eq!(seconds_since(began), 80);
    }

    /// Whoever receives keeps the connection as ever, after a task that waited to be written is gone.
    #[tokio::test(start_paused = true)]
    async fn leaves_the_timer_to_whoever_receives() {
        let (socket, mut peer) = setup().open(Role::Client).await;
        let (sender, mut receiver) = socket.split();
        let receiving = tokio::spawn(async move { receiver.recv().await });
        sleep(SECOND).await;
        let sent = timeout(SECOND, sender.send(vec![0; 1000])).await;
        assert!(sent.is_err());
        assert_eq!(in_a_day(peer.next()).await.unwrap().first, 0x82);
        let pings = answer_pings(&mut peer, SECOND, 301 * SECOND).await;
        assert_eq!(pings.len(), 10, "{pings:?}");
        peer.send_frame(0x81, "hello").await;
        let message = in_a_day(receiving).await.unwrap().unwrap();
        assert_eq!(message, Some("hello".into()));
    }

    /// A bug: where it had waited and was written in the same poll, the timer was left to those who wait to be
    /// written, and nobody did.
    #[tokio::test(start_paused = true)]
    async fn leaves_it_wherever_in_its_poll_it_is_written() {
        for hesitates in 1..8 {
            let (stream, far) = duplex(300);
            let times = Arc::new(AtomicUsize::new(0));
            // Takes nothing at first, a few times.
            let hesitant = Gated::new(stream, {
                let times = times.clone();
                move |cx| {
                    let left = times.load(Ordering::Relaxed).checked_sub(1)?;
                    times.store(left, Ordering::Relaxed);
                    cx.waker().wake_by_ref();
                    Some(Poll::Pending)
                }
            });
            let (socket, mut peer) = setup().open_over(Role::Client, hesitant, far).await;
            let (sender, mut receiver) = socket.split();
            let receiving = tokio::spawn(async move { receiver.recv().await });
            sleep(SECOND).await;
            times.store(hesitates, Ordering::Relaxed);
            in_a_day(sender.send("hello")).await.unwrap();
            peer.expect_text("hello").await;
            assert!(ping(&mut peer).await.is_some(), "{hesitates}");
            let error = in_a_day(receiving).await.unwrap().unwrap_err();
            assert!(error.is_timeout(), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_a_peer_that_takes_it_slowly() {
        let (mut socket, mut peer) = setup().open(Role::Client).await;
        let began = Instant::now();
        let taking = async {
            let mut bytes = [0; 50];
            loop {
                sleep(19 * SECOND).await;
                peer.stream.read_exact(&mut bytes).await.unwrap();
            }
        };
        tokio::select! {
            sent = in_a_day(socket.send(vec![0; 5000])) => sent.unwrap(),
            () = taking => {}
        }
        assert!(began.elapsed() > 1000 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn is_an_error_where_it_is_a_message_in_parts_or_a_stream_of_bytes() {
        let (mut socket, _peer) = setup().open(Role::Client).await;
        let mut message = socket.send_stream(MessageKind::Binary).await.unwrap();
        in_a_day(message.write_all(&[0; 5000])).await.unwrap();
        let error = in_a_day(message.write_all(&[0; 5000])).await.unwrap_err();
        assert!(is_lost_to_silence(&error.into()));
        drop(message);
        let (socket, _peer) = setup().open(Role::Client).await;
        let mut tunnel = socket.into_byte_stream();
        let writing = async {
            loop {
                tunnel.write_all(&[0; 500]).await?;
            }
        };
        let result: std::io::Result<()> = in_a_day(writing).await;
        assert!(is_lost_to_silence(&result.unwrap_err().into()));
    }

    #[tokio::test(start_paused = true)]
    async fn has_the_close_timeout_where_it_is_a_close() {
        for keepalive in [Some(30 * SECOND), None] {
            let setup = Setup {
                keepalive,
                ..setup()
            };
            let (socket, _peer) = setup.open(Role::Client).await;
            let (sender, _receiver) = socket.split();
            let began = Instant::now();
            assert!(sender.try_send(vec![0; 900]).is_ok());
            in_a_day(sender.close(CloseCode::NORMAL, "")).await.unwrap();
            assert_eq!(seconds_since(began), 5);
            assert!(matches!(sender.ended(), Some(Ended::TimedOut)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ends_with_the_idle_timeout_too() {
        let setup = Setup {
            keepalive: None,
            idle_timeout: Some(40 * SECOND),
            ..setup()
        };
        let (mut socket, _peer) = setup.open(Role::Client).await;
        let began = Instant::now();
        let error = in_a_day(socket.send(vec![0; 1000])).await.unwrap_err();
        assert!(error.is_lost(), "{error}");
        // As much as a quarter later, and the close timeout.
        let elapsed = seconds_since(began);
        assert!((45..=55).contains(&elapsed), "{elapsed}");
    }
}

mod a_peer_that_is_there {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stays_for_days_while_nobody_says_anything() {
        for role in BOTH {
            for form in FORMS {
                let (socket, mut peer) = Setup::default().open(role).await;
                let seen = echo(form, socket);
                let pings = answer_pings(&mut peer, SECOND, 30 * HOUR + 10 * SECOND).await;
                assert!((3500..=3600).contains(&pings.len()), "{}", pings.len());
                peer.expect_echo("still here").await;
                peer.send_close(1000, "").await;
                peer.expect_close().await;
                drop(peer);
                in_a_day(seen).await.unwrap().assert_ended(Ended::was_clean);
            }
        }
    }

    /// It answers no ping, which §5.5.2 asks of it, but it is there.
    #[tokio::test(start_paused = true)]
    async fn may_send_only_messages() {
        for role in BOTH {
            for form in FORMS {
                let (socket, mut peer) = Setup::default().open(role).await;
                let sender = socket.sender();
                let seen = echo(form, socket);
                let mut pings = 0;
                for _ in 0..1000 {
                    peer.send_frame(0x81, "tick").await;
                    sleep(19 * SECOND).await;
                    loop {
                        let frame = peer.next().await.unwrap();
                        if frame.first == 0x81 {
                            break;
                        }
                        assert_eq!(frame.first, 0x89);
                        pings += 1;
                    }
                }
                assert!(pings > 600, "{pings}");
                assert_eq!(sender.rtt(), None);
                assert!(sender.is_open());
                drop(peer);
                in_a_day(seen)
                    .await
                    .unwrap()
                    .assert_ended(|ended| matches!(ended, Ended::Lost(_)));
            }
        }
    }

    /// A pong to nothing is a pong nobody asked for (§5.5.3): an event, a sign of life, and no time.
    #[tokio::test(start_paused = true)]
    async fn may_send_pongs_that_answer_nothing() {
        for role in BOTH {
            for driven in [false, true] {
                let (socket, mut peer) = Setup::default().open(role).await;
                let peer = tokio::spawn(async move {
                    for _ in 0..100 {
                        let payload = ping(&mut peer).await.unwrap();
                        let other: Vec<u8> = payload.iter().map(|byte| !byte).collect();
                        peer.send_frame(0x8A, other).await;
                    }
                    peer
                });
                let using = async move |mut socket: WebSocket| {
                    for _ in 0..100 {
                        let event = socket.recv_event().await.unwrap().unwrap();
                        assert!(matches!(event, Event::Pong(payload) if payload.len() == 8));
                    }
                    assert_eq!(socket.rtt(), None);
                    Ok(())
                };
                if driven {
                    socket.drive(using).await.unwrap();
                } else {
                    using(socket).await.unwrap();
                }
                peer.await.unwrap();
            }
        }
    }

    /// A large message on a slow line: the ping stands behind it, and nothing comes until it is there.
    #[tokio::test(start_paused = true)]
    async fn may_take_long_to_take_a_message() {
        let setup = Setup {
            pipe: 1000,
            ..Setup::default()
        };
        for role in BOTH {
            for form in FORMS {
                let (socket, mut peer) = setup.open(role).await;
                let sender = socket.sender();
                let seen = echo(form, socket);
                let large = vec![7; 200_000];
                let sending = tokio::spawn({
                    let (sender, large) = (sender.clone(), large.clone());
                    async move { sender.send(large).await }
                });
                let began = Instant::now();
                let mut taken = Vec::<u8>::new();
                while taken.len() < large.len() {
                    sleep(SECOND).await;
                    let mut bytes = [0; 1000];
                    let count = within(peer.stream.read(&mut bytes)).await.unwrap();
                    assert!(count > 0, "given up after {:?}", began.elapsed());
                    taken.extend(&bytes[..count]);
                }
                assert!(began.elapsed() > 150 * SECOND);
                assert!(sender.is_open() && !seen.is_finished());
                sending.await.unwrap().unwrap();
                drop(peer);
                in_a_day(seen).await.unwrap();
            }
        }
    }

    /// Nobody receives, so nobody can tell that nothing comes: only the user is to blame.
    #[tokio::test(start_paused = true)]
    async fn is_not_given_up_while_nobody_receives() {
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let peer = tokio::spawn(async move {
                let pings = answer_pings(&mut peer, Duration::ZERO, HOUR).await;
                (peer, pings)
            });
            socket
                .drive(|mut socket| async move {
                    sleep(HOUR + SECOND).await;
                    assert_eq!(socket.ended().map(drop), None);
                    socket.send("still here").await?;
                    // What came meanwhile is read before anything is concluded from silence.
                    let result = timeout(SECOND, socket.recv()).await;
                    assert!(result.is_err(), "{result:?}");
                    socket.send("and again").await
                })
                .await
                .map(drop)
                .unwrap_or_else(|error| panic!("{error}"));
            let (mut peer, pings) = peer.await.unwrap();
            assert!(pings.len() > 100, "{}", pings.len());
            peer.expect_text("still here").await;
            peer.expect_text("and again").await;
        }
    }

    /// A task that has done much is not let read before it has yielded once: what it does not find may be
    /// there.
    #[tokio::test(start_paused = true)]
    async fn is_not_given_up_by_a_task_that_has_to_yield() {
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let handling = tokio::spawn(socket.drive(|mut socket| async move {
                // Until the deadline of the ping has passed it has other things to do.
                sleep(52 * SECOND).await;
                let (tell, mut told) = mpsc::unbounded_channel();
                while has_budget_remaining() {
                    tell.send(()).unwrap();
                    told.recv().await.unwrap();
                }
                let message = socket.recv().await?;
                assert_eq!(message.unwrap().as_text(), Some("here"));
                Ok(())
            }));
            let payload = ping(&mut peer).await.unwrap();
            peer.send_frame(0x8A, payload).await;
            peer.send_frame(0x81, "here").await;
            let closed = peer.next_in_time(HOUR).await.unwrap();
            assert_eq!(closed.first, 0x88, "{role:?} {closed:?}");
            drop(peer);
            in_a_day(handling).await.unwrap().unwrap();
        }
    }

    /// This process was stopped meanwhile, and the answer has come.
    #[tokio::test(start_paused = true)]
    async fn is_not_given_up_because_this_end_slept() {
        for role in BOTH {
            for form in FORMS {
                let (socket, mut peer) = Setup::default().open(role).await;
                let seen = echo(form, socket);
                let payload = ping(&mut peer).await.unwrap();
                advance(HOUR).await;
                peer.send_frame(0x8A, payload).await;
                peer.expect_echo("still here").await;
                drop(seen);
            }
        }
    }
}

mod the_round_trip {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_what_it_takes_there_and_back() {
        for role in BOTH {
            for form in FORMS {
                let (socket, mut peer) = Setup::default().open(role).await;
                let sender = socket.sender();
                assert_eq!((socket.rtt(), sender.rtt()), (None, None));
                let seen = echo(form, socket);
                for millis in [1, 250, 3000, 0] {
                    let delay = Duration::from_millis(millis);
                    answer_pings(&mut peer, delay, 32 * SECOND).await;
                    let rtt = sender.rtt().unwrap();
                    assert!(
                        rtt >= delay && rtt <= delay + Duration::from_millis(2),
                        "{rtt:?}"
                    );
                }
                drop(peer);
                in_a_day(seen).await.unwrap();
            }
        }
    }

    struct Ask(mpsc::UnboundedSender<Option<Duration>>);

    impl Handler for Ask {
        fn on_message(&mut self, socket: &mut Socket, _: MessageRef<'_>) {
            self.0.send(socket.rtt()).unwrap();
        }

        fn on_pong(&mut self, _: &mut Socket, payload: &[u8]) {
            assert_eq!(payload, b"of the user");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn is_known_to_callbacks_which_see_no_pong_but_their_own() {
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let (tell, mut told) = mpsc::unbounded_channel();
            let handling = tokio::spawn(socket.handle(Ask(tell)));
            answer_pings(&mut peer, SECOND, 33 * SECOND).await;
            peer.send_frame(0x8A, "of the user").await;
            peer.send_frame(0x81, "how long?").await;
            let rtt = within(told.recv()).await.unwrap().unwrap();
            assert_eq!(rtt.as_secs(), 1);
            drop(peer);
            in_a_day(handling).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_users_own_pings_are_events_and_ours_are_not() {
        for role in BOTH {
            for driven in [false, true] {
                let (socket, mut peer) = Setup::default().open(role).await;
                let peer = tokio::spawn(async move {
                    let pings = answer_pings(&mut peer, Duration::ZERO, 100 * SECOND).await;
                    assert_eq!(pings, [0, 30, 60, 90]);
                    peer.send_close(1000, "").await;
                    peer.expect_close().await;
                });
                let using = async move |mut socket: WebSocket| {
                    socket.ping(b"12345678").await?;
                    let mut events = Vec::new();
                    while let Some(event) = socket.recv_event().await? {
                        events.push(event);
                    }
                    assert!(
                        matches!(&events[..], [Event::Pong(pong), Event::Close(_)] if pong == "12345678"),
                        "{events:?}"
                    );
                    assert!(socket.rtt().is_some());
                    Ok(())
                };
                if driven {
                    socket.drive(using).await.unwrap();
                } else {
                    using(socket).await.unwrap();
                }
                peer.await.unwrap();
            }
        }
    }

    /// Slower than the interval: the answers to older pings count and are no events either.
    #[tokio::test(start_paused = true)]
    async fn longer_than_the_interval() {
        let setup = Setup {
            keepalive: Some(10 * SECOND),
            keepalive_timeout: 25 * SECOND,
            ..Setup::default()
        };
        for role in BOTH {
            let (socket, mut peer) = setup.open(role).await;
            let sender = socket.sender();
            let seen = echo(Form::Plain, socket);
            answer_pings(&mut peer, 22 * SECOND, 200 * SECOND).await;
            assert_eq!(sender.rtt().unwrap().as_secs(), 22);
            assert!(sender.is_open());
            drop((peer, seen));
        }
    }
}

mod closing {
    use super::*;

    /// From the Close on its own deadline counts, and no ping goes out.
    #[tokio::test(start_paused = true)]
    async fn while_a_ping_waits_for_its_pong() {
        for role in BOTH {
            for form in FORMS {
                for answers in [false, true] {
                    let (socket, mut peer) = Setup::default().open(role).await;
                    let sender = socket.sender();
                    let seen = echo(form, socket);
                    let payload = ping(&mut peer).await.unwrap();
                    sleep(18 * SECOND).await;
                    let began = Instant::now();
                    sender.close(CloseCode::NORMAL, "done").await.unwrap();
                    assert_eq!(peer.expect_close().await, (1000, "done".into()));
                    sleep(4 * SECOND).await;
                    if answers {
                        peer.send_frame(0x8A, payload).await;
                        peer.send_close(1000, "").await;
                    }
                    let seen = if answers {
                        drop(peer);
                        in_a_day(seen).await.unwrap()
                    } else {
                        in_a_day(seen).await.unwrap()
                    };
                    if answers {
                        seen.assert_ended(|ended| matches!(ended, Ended::ByUs(_)));
                    } else {
                        seen.assert_ended(|ended| matches!(ended, Ended::TimedOut));
                        assert_eq!(seconds_since(began), 5);
                    }
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_closes_its_transport_gets_no_ping() {
        for role in BOTH {
            for form in FORMS {
                let (socket, mut peer) = Setup::default().open(role).await;
                let seen = echo(form, socket);
                peer.send_close(1000, "").await;
                peer.expect_close().await;
                in_a_day(seen).await.unwrap().assert_ended(Ended::was_clean);
                peer.expect_end().await;
            }
        }
    }
}

mod off {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_ping_is_ever_sent() {
        for (role, off) in [
            (Role::Client, None),
            (Role::Server, None),
            (Role::Client, Some(Duration::ZERO)),
        ] {
            let setup = Setup {
                keepalive: off,
                ..Setup::default()
            };
            for form in FORMS {
                let (socket, mut peer) = setup.open(role).await;
                let seen = echo(form, socket);
                assert_eq!(peer.next_in_time(100 * HOUR).await, None);
                peer.expect_echo("still here").await;
                drop((peer, seen));
            }
        }
    }
}

mod an_idle_connection {
    use super::*;

    fn setup(keepalive: bool) -> Setup {
        Setup {
            keepalive: keepalive.then_some(30 * SECOND),
            idle_timeout: Some(400 * SECOND),
            ..Setup::default()
        }
    }

    /// Answers pings until a Close comes, and answers that.
    async fn until_close(peer: &mut Peer<DuplexStream>) -> (u16, String) {
        loop {
            let frame = peer.next_in_time(HOUR).await.unwrap();
            match frame.first {
                0x89 => peer.send_frame(0x8A, frame.payload).await,
                0x88 => {
                    peer.send_frame(0x88, &frame.payload).await;
                    let reason = String::from_utf8(frame.payload[2..].to_vec()).unwrap();
                    return (
                        u16::from_be_bytes([frame.payload[0], frame.payload[1]]),
                        reason,
                    );
                }
                _ => {}
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn is_closed_with_1001_however_many_pings_there_are() {
        for role in BOTH {
            for form in FORMS {
                for keepalive in [false, true] {
                    let (socket, mut peer) = setup(keepalive).open(role).await;
                    let began = Instant::now();
                    let sender = socket.sender();
                    let seen = echo(form, socket);
                    // Those of the user and of the peer are no messages either.
                    sender.ping(b"user").await.unwrap();
                    peer.send_frame(0x89, "peer").await;
                    let close = until_close(&mut peer).await;
                    assert_eq!(close, (1001, "idle".into()), "{role:?} {form:?}");
                    assert_eq!(seconds_since(began), 400);
                    drop(peer);
                    in_a_day(seen).await.unwrap().assert_ended(is_idle_close);
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn messages_in_either_direction_keep_it() {
        for role in BOTH {
            for form in FORMS {
                for from_peer in [false, true] {
                    let (socket, mut peer) = setup(false).open(role).await;
                    let sender = socket.sender();
                    let seen = echo(form, socket);
                    for _ in 0..20 {
                        sleep(390 * SECOND).await;
                        if from_peer {
                            peer.expect_echo("message").await;
                        } else {
                            sender.send("message").await.unwrap();
                            peer.expect_text("message").await;
                        }
                    }
                    let began = Instant::now();
                    until_close(&mut peer).await;
                    let at = began.elapsed().as_secs();
                    assert!((400..=500).contains(&at), "{at}");
                    drop(peer);
                    in_a_day(seen).await.unwrap().assert_ended(is_idle_close);
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_answer_that_close_has_the_close_timeout() {
        for role in BOTH {
            for form in FORMS {
                let (socket, _peer) = setup(false).open(role).await;
                let began = Instant::now();
                let seen = in_a_day(echo(form, socket)).await.unwrap();
                seen.assert_ended(|ended| matches!(ended, Ended::TimedOut));
                assert_eq!(seconds_since(began), 405);
            }
        }
    }
}

/// That one had asked for the connection, and is not there any more to be given it.
#[tokio::test(start_paused = true)]
async fn goes_on_where_a_handler_within_another_was_given_up() {
    struct Idle;
    impl Handler for Idle {}
    async fn polled_once(future: impl Future) {
        let mut future = pin!(future);
        poll_fn(|cx| {
            assert!(future.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
    }
    for (role, drives) in BOTH
        .into_iter()
        .flat_map(|role| [(role, false), (role, true)])
    {
        let (socket, mut peer) = Setup::default().open(role).await;
        let driving = tokio::spawn(socket.drive(move |socket| async move {
            let sender = socket.sender();
            match drives {
                true => polled_once(socket.drive(async |_| pending().await)).await,
                false => polled_once(socket.handle(Idle)).await,
            }
            sleep(100 * SECOND).await;
            sender.send("still here").await
        }));
        let pings = answer_pings(&mut peer, Duration::ZERO, 95 * SECOND).await;
        assert_eq!(pings, [30, 60, 90], "{role:?}");
        peer.expect_text("still here").await;
        peer.expect_close().await;
        drop(peer);
        let _ = in_a_day(driving).await.unwrap();
    }
}

/// Each `recv` is dropped after a moment: what is due is due nonetheless.
#[tokio::test(start_paused = true)]
async fn receiving_may_be_dropped_at_any_time() {
    for role in BOTH {
        for driven in [false, true] {
            for answers in [false, true] {
                let (socket, mut peer) = Setup::default().open(role).await;
                let peer = tokio::spawn(async move {
                    let time = if answers { HOUR } else { Duration::ZERO };
                    let pings = answer_pings(&mut peer, SECOND, time).await;
                    pending::<()>().await;
                    pings
                });
                let using = async move |mut socket: WebSocket| {
                    let began = Instant::now();
                    let ended = loop {
                        match timeout(Duration::from_millis(700), socket.recv()).await {
                            Err(_) => {}
                            Ok(result) => break result,
                        }
                    };
                    assert!(
                        matches!(ended, Err(Error::Timeout(Deadline::Keepalive))),
                        "{ended:?}"
                    );
                    let (last, at) = (if answers { HOUR } else { Duration::ZERO }, began.elapsed());
                    assert!(
                        at >= last + 20 * SECOND && at < last + 75 * SECOND,
                        "{at:?}"
                    );
                    assert!(socket.recv().await?.is_none());
                    Ok(())
                };
                if driven {
                    in_a_day(socket.drive(using)).await.unwrap();
                } else {
                    in_a_day(using(socket)).await.unwrap();
                }
                peer.abort();
            }
        }
    }
}

/// Polled once and dropped, again and again, while others send: no message is lost to a tick.
#[tokio::test(start_paused = true)]
async fn sending_and_receiving_go_on_beside_it() {
    for role in BOTH {
        let (mut socket, mut peer) = Setup::default().open(role).await;
        let peer = tokio::spawn(async move {
            for number in 0..2000 {
                peer.send_frame(0x81, number.to_string()).await;
                loop {
                    let frame = peer.next().await.unwrap();
                    if frame.first == 0x81 {
                        assert_eq!(frame.text(), number.to_string());
                        break;
                    }
                    assert_eq!(frame.first, 0x89);
                    peer.send_frame(0x8A, frame.payload).await;
                }
                sleep(SECOND).await;
            }
        });
        let mut number = 0;
        while number < 2000 {
            let polled = {
                let mut receiving = pin!(socket.recv());
                poll_fn(|cx| Poll::Ready(receiving.as_mut().poll(cx))).await
            };
            match polled {
                Poll::Ready(message) => {
                    let message = message.unwrap().unwrap();
                    assert_eq!(message.as_text(), Some(&number.to_string()[..]));
                    socket.send(message).await.unwrap();
                    number += 1;
                }
                Poll::Pending => sleep(Duration::from_millis(100)).await,
            }
        }
        assert!(socket.rtt().is_some());
        peer.await.unwrap();
    }
}

/// A client that reconnects does so when the server has fallen silent.
#[tokio::test(start_paused = true)]
async fn reconnecting_begins_anew_after_silence() {
    let (served, mut serve) = mpsc::unbounded_channel();
    let mut socket = Reconnecting::with(move || {
        let (ours, theirs) = duplex(1 << 16);
        served.send(theirs).unwrap();
        async move {
            let client = Setup::default().client("ws://peer/");
            client.connect_over(ours).await
        }
    });
    let server = tokio::spawn(async move {
        let first = Peer::server(serve.recv().await.unwrap(), "", b"").await;
        let mut second = Peer::server(serve.recv().await.unwrap(), "", b"").await;
        drop(first);
        second.send_frame(0x81, "again").await;
        second
    });
    let began = Instant::now();
    let mut causes = Vec::new();
    loop {
        match in_a_day(socket.recv_update()).await.unwrap().unwrap() {
            Update::Waiting { cause, .. } => causes.push(cause.to_string()),
            Update::Message(message) => {
                assert_eq!(message.as_text(), Some("again"));
                break;
            }
            _ => {}
        }
    }
    assert!(began.elapsed() >= 50 * SECOND && began.elapsed() < 60 * SECOND);
    assert_eq!(causes.len(), 1, "{causes:?}");
    assert!(
        causes[0].contains("nothing came from the peer"),
        "{causes:?}"
    );
    server.await.unwrap();
}
