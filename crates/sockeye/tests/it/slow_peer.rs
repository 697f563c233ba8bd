//! Peers that do not read, or have said all they will: what waits for them is bounded, nothing is
//! lost for those who come back, and nobody waits for ever.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use futures_util::SinkExt;
use sockeye::{CloseCode, Ended, Error, Handler, MessageKind, MessageRef, Server, Socket};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::yield_now,
    time::{sleep, timeout},
};

use crate::wire::*;

const MESSAGE: usize = 1000;

fn narrow() -> Setup {
    Setup {
        pipe: 1000,
        high_water: 10_000,
        output_limit: 50_000,
        // A peer that reads nothing answers no ping, and these come back after an hour.
        keepalive: None,
        ..Setup::default()
    }
}

fn numbered(number: usize) -> Vec<u8> {
    let mut message = vec![7; MESSAGE];
    message[..8].copy_from_slice(&(number as u64).to_be_bytes());
    message
}

#[tokio::test(start_paused = true)]
async fn send_waits_at_the_high_water_mark_and_loses_nothing() {
    for role in BOTH {
        for form in FORMS {
            let (socket, mut peer) = narrow().open(role).await;
            let sender = socket.sender();
            let seen = echo(form, socket);
            let count = Arc::new(AtomicUsize::new(0));
            let sent = count.clone();
            let sending = sender.clone();
            let sending = tokio::spawn(async move {
                for number in 0..200 {
                    sending.send(numbered(number)).await.unwrap();
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            });
            sleep(Duration::from_secs(3600)).await;
            let waiting = count.load(Ordering::SeqCst);
            // A connection that nobody drives waits for each to be written.
            let most = if form == Form::Plain { 2 } else { 13 };
            assert!(waiting <= most, "{form:?}: {waiting}");
            assert!(form == Form::Plain || waiting >= 10, "{form:?}: {waiting}");
            assert!(sender.buffered_amount() <= 12_000);
            for number in 0..200 {
                assert_eq!(peer.expect(0x82).await, numbered(number), "{form:?}");
            }
            within(sending).await.unwrap();
            sender.flush().await.unwrap();
            assert_eq!(sender.buffered_amount(), 0);
            peer.send_close(1000, "").await;
            assert_eq!(peer.expect_close().await.0, 1000);
            drop(peer);
            within(seen).await.unwrap().assert_ended(Ended::was_clean);
        }
    }
}

/// Whoever does not want to wait any longer leaves nothing behind, however often that happens; and who still
/// waits is served when there is room.
#[tokio::test(start_paused = true)]
async fn what_waits_to_be_sent_and_is_given_up_does_not_pile_up() {
    for form in FORMS {
        let (socket, mut peer) = narrow().open(Role::Server).await;
        let sender = socket.sender();
        let seen = echo(form, socket);
        peer.expect_echo("it runs by now").await;
        let mut count = 0;
        while sender.try_send(numbered(count)).is_ok() {
            count += 1;
            yield_now().await;
        }
        let patient = tokio::spawn({
            let sender = sender.clone();
            async move { sender.send(numbered(count)).await }
        });
        yield_now().await;
        let left = left_behind(|| sender.send("in vain")).await;
        assert!(left < 100, "{form:?}: {left}");
        let left = left_behind(|| sender.flush()).await;
        assert!(left < 100, "{form:?}: {left}");
        let left = left_behind(async || sender.clone().feed("in vain").await).await;
        assert!(left < 100, "{form:?}: {left}");
        let stream = sender.send_stream(MessageKind::Binary).await.unwrap();
        let left = left_behind(|| sender.send_stream(MessageKind::Binary)).await;
        assert!(left < 100, "{form:?}: {left}");
        drop(stream);
        for number in 0..=count {
            assert_eq!(peer.expect(0x82).await, numbered(number), "{form:?}");
        }
        within(patient).await.unwrap().unwrap();
        drop(seen);
    }
}

/// Waits a thousand times, and gives up each time; how many wakers of those are still kept somewhere.
async fn left_behind<T>(mut wait: impl AsyncFnMut() -> T) -> usize {
    struct Gone;
    impl Wake for Gone {
        fn wake(self: Arc<Self>) {}
    }
    let impatient: Vec<_> = (0..1000).map(|_| Arc::new(Gone)).collect();
    for task in &impatient {
        let waker = Waker::from(task.clone());
        let mut waiting = pin!(wait());
        let polled = waiting.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        yield_now().await;
    }
    let left = |task: &&Arc<Gone>| Arc::strong_count(task) > 1;
    impatient.iter().filter(left).count()
}

#[tokio::test(start_paused = true)]
async fn an_echo_takes_no_more_than_the_peer_reads() {
    for role in BOTH {
        for form in FORMS {
            let (socket, peer) = narrow().open(role).await;
            let sender = socket.sender();
            let seen = echo(form, socket);
            let frames: Vec<u8> = (0..500)
                .flat_map(|number| peer.frame(0x82, numbered(number)))
                .collect();
            let (mut read, mut write) = tokio::io::split(peer.stream);
            let writing = tokio::spawn(async move {
                write.write_all(&frames).await.unwrap();
                write
            });
            sleep(Duration::from_secs(3600)).await;
            assert!(!writing.is_finished(), "{form:?}: it took everything");
            assert!(sender.buffered_amount() <= 12_000);
            let header = if role == Role::Server { 4 } else { 8 };
            let mut echoes = vec![0; 500 * (header + MESSAGE)];
            within(read.read_exact(&mut echoes)).await.unwrap();
            if role == Role::Server {
                for (number, echo) in echoes.chunks(header + MESSAGE).enumerate() {
                    assert_eq!(echo[header..], numbered(number));
                }
            }
            drop((within(writing).await.unwrap(), read));
            let seen = within(seen).await.unwrap();
            assert_eq!(seen.messages.len(), 500);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn pings_without_end_cost_one_answer() {
    for role in BOTH {
        for form in FORMS {
            let setup = Setup {
                pipe: 1000,
                ..Setup::default()
            };
            let (socket, mut peer) = setup.open(role).await;
            let sender = socket.sender();
            let _seen = echo(form, socket);
            for _ in 0..5000 {
                peer.send_frame(0x89, [1; 100]).await;
            }
            peer.send_frame(0x89, "the last").await;
            sleep(Duration::from_secs(1)).await;
            assert!(sender.buffered_amount() <= 20_000, "{form:?}");
            while peer.expect(0x8A).await != b"the last" {}
        }
    }
}

mod in_the_event_form {
    use super::*;

    /// Answers each message with `answers` large ones.
    struct Answers {
        answers: usize,
        tell: mpsc::UnboundedSender<String>,
    }

    impl Handler for Answers {
        fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
            self.tell
                .send(format!("message {}", message.len()))
                .unwrap();
            for number in 0..self.answers {
                socket.send(numbered(number));
            }
        }

        fn on_error(&mut self, socket: &mut Socket, error: &Error) {
            assert!(
                matches!(error, Error::Overflow { limit: 50_000 }),
                "{error:?}"
            );
            assert!(!socket.is_open());
            self.tell.send("error".into()).unwrap();
        }

        fn on_close(&mut self, _: &mut Socket, ended: &Ended) {
            self.tell.send(ended.to_string()).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_the_output_limit_ends_the_connection() {
        for role in BOTH {
            let (socket, mut peer) = narrow().open(role).await;
            let (tell, mut told) = mpsc::unbounded_channel();
            let sender = socket.sender();
            let handling = tokio::spawn(socket.handle(Answers { answers: 100, tell }));
            let mut frames = peer.frame(0x81, "1");
            frames.extend(peer.frame(0x81, "never delivered"));
            peer.send(frames).await;
            let ended = within(handling).await.unwrap();
            assert!(
                matches!(ended, Ended::Overflow { limit: 50_000 }),
                "{ended:?}"
            );
            let mut log = Vec::new();
            while let Some(line) = told.recv().await {
                log.push(line);
            }
            let reason = "the peer does not read: more than 50000 bytes waited for it";
            assert_eq!(log, ["message 1", "error", reason]);
            assert!(sender.send("more").await.unwrap_err().is_closed());
            assert_eq!(sender.buffered_amount(), 0);
            // What was on its way, and then the end.
            let mut rest = Vec::new();
            within(peer.stream.read_to_end(&mut rest)).await.unwrap();
            assert!(rest.len() <= 1000);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn just_the_output_limit_does_not() {
        for role in BOTH {
            let (socket, mut peer) = narrow().open(role).await;
            let (tell, _told) = mpsc::unbounded_channel();
            tokio::spawn(socket.handle(Answers { answers: 49, tell }));
            peer.send_frame(0x81, "1").await;
            for number in 0..49 {
                assert_eq!(peer.expect(0x82).await, numbered(number));
            }
            peer.send_close(1000, "").await;
            assert_eq!(peer.expect_close().await.0, 1000);
        }
    }
}

mod half_closed_tcp {
    use super::*;

    struct Echo;
    impl Handler for Echo {
        fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
            socket.send(message);
        }
    }

    /// The peer ends its side behind a message: it still gets the answer, and then the end.
    #[tokio::test]
    async fn a_server_answers_and_ends() {
        for events in [false, true] {
            let (tell, mut errors) = mpsc::unbounded_channel();
            let server = Server::bind("127.0.0.1:0")
                .await
                .unwrap()
                .on_error(move |_, error| tell.send(error.clone()).unwrap());
            let address = server.local_addr().unwrap();
            if events {
                tokio::spawn(server.serve_handler(|| Echo));
            } else {
                tokio::spawn(server.serve(|mut socket| async move {
                    while let Some(message) = socket.recv().await? {
                        socket.send(message).await?;
                    }
                    Ok(())
                }));
            }
            for _ in 0..3 {
                let stream = TcpStream::connect(address).await.unwrap();
                let mut peer = Peer::client(stream, "", &[]).await;
                peer.send_frame(0x81, "one more thing").await;
                peer.stream.shutdown().await.unwrap();
                peer.expect_text("one more thing").await;
                peer.expect_end().await;
                assert!(within(errors.recv()).await.unwrap().is_lost());
            }
        }
    }

    #[tokio::test]
    async fn a_client_notices() {
        for form in FORMS {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("ws://{}/", listener.local_addr().unwrap());
            let client = Setup::default().client(&url);
            let (socket, mut peer) = tokio::join!(client.connect(), async {
                let (stream, _) = listener.accept().await.unwrap();
                Peer::server(stream, "", &[]).await
            });
            let seen = echo(form, socket.unwrap());
            peer.send_frame(0x81, "one more thing").await;
            peer.stream.shutdown().await.unwrap();
            peer.expect_text("one more thing").await;
            let seen = within(seen).await.unwrap();
            assert_eq!(seen.messages, ["one more thing"]);
            seen.assert_ended(|ended| matches!(ended, Ended::Lost(_)));
            peer.expect_end().await;
        }
    }
}

/// An answer waited until little else did, which whoever sends as fast as the peer reads never let it come to.
#[tokio::test(start_paused = true)]
async fn a_ping_is_answered_while_messages_wait_to_be_sent_all_the_time() {
    for form in [Form::Driven, Form::Events] {
        let setup = Setup {
            pipe: 4000,
            high_water: 1 << 20,
            output_limit: 1 << 24,
            keepalive: None,
            ..Setup::default()
        };
        let (socket, mut peer) = setup.open(Role::Server).await;
        let sender = socket.sender();
        let _seen = echo(form, socket);
        let sending = tokio::spawn({
            let sender = sender.clone();
            async move { while sender.send(vec![7; 10_000]).await.is_ok() {} }
        });
        for ping in 0..3 {
            sleep(Duration::from_secs(10)).await;
            assert!(sender.buffered_amount() > 500_000);
            peer.send_frame(0x89, [ping]).await;
            // All that waited, and as much once more.
            let mut messages = 0;
            while peer.next().await.unwrap().first != 0x8A {
                messages += 1;
                assert!(messages < 200, "{form:?}");
            }
        }
        sending.abort();
    }
}

/// Whoever waited to be written was woken by nothing any more, or knew of no close timeout.
#[tokio::test(start_paused = true)]
async fn a_close_that_nobody_waits_for_keeps_nobody_waiting() {
    for role in BOTH {
        for way in ["unfinished", "close", "sender's close"] {
            for reads in [true, false] {
                let setup = Setup {
                    pipe: 1000,
                    keepalive: None,
                    ..Setup::default()
                };
                let (mut socket, mut peer) = setup.open(role).await;
                let sender = socket.sender();
                let sending = tokio::spawn({
                    let sender = sender.clone();
                    async move { sender.send(vec![7; 50_000]).await }
                });
                sleep(Duration::from_millis(1)).await;
                let moment = Duration::from_millis(1);
                match way {
                    "unfinished" => {
                        let mut message = sender.send_stream(MessageKind::Text).await.unwrap();
                        assert_eq!(message.write(b"x").await.unwrap(), 1);
                        sleep(moment).await;
                    }
                    "close" => {
                        let closing = timeout(moment, socket.close(CloseCode::NORMAL, ""));
                        assert!(closing.await.is_err());
                    }
                    _ => {
                        let closing = timeout(moment, sender.close(CloseCode::NORMAL, ""));
                        assert!(closing.await.is_err());
                    }
                }
                if reads {
                    assert_eq!(peer.expect(0x82).await.len(), 50_000);
                }
                // Else the connection ends with the close timeout.
                let sent = within(sending).await.unwrap();
                assert_eq!(sent.is_ok(), reads, "{role:?} {way}: {sent:?}");
            }
        }
    }
}

/// RFC 6455 §5.5.3 permits to answer the newest ping alone. It waits for room, and is answered once there is.
#[tokio::test]
async fn the_newest_of_many_pings_is_answered_without_another() {
    for role in BOTH {
        for form in FORMS {
            let (ours, theirs) = tcp_pair().await;
            let (socket, mut peer) = Setup::default().open_over(role, ours, theirs).await;
            let _seen = echo(form, socket);
            let pings = (0..1000).flat_map(|n| peer.frame(0x89, format!("{n:<125}")));
            let pings: Vec<u8> = pings.collect();
            peer.send(pings).await;
            let newest = async { while !peer.expect(0x8A).await.starts_with(b"999 ") {} };
            within(newest).await;
        }
    }
}
