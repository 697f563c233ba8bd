//! Messages that are only worth having while they are new: a peer that reads slowly gets the newest and
//! never a backlog, wherever the sending side is.

use std::time::Duration;

use sockeye::{CloseCode, Ended, Error, Handler, MessageRef, Prepared, Result, Socket};
use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    sync::mpsc,
    task::JoinHandle,
    time::sleep,
};

use crate::wire::*;

/// Bytes between the ends: what of a backlog the transport itself makes.
const PIPE: usize = 1000;

fn narrow() -> Setup {
    Setup {
        pipe: PIPE,
        high_water: 10_000,
        output_limit: 50_000,
        keepalive: None,
        ..Setup::default()
    }
}

fn price(symbol: u64, tick: usize) -> String {
    format!("{symbol}: {tick:090}")
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_gets_every_one_in_order() {
    for setup in [Setup::default(), Setup::deflate()] {
        for role in BOTH {
            for form in FORMS {
                let (sender, mut peer, _seen) = run(form, role, &setup).await;
                for tick in 0..20 {
                    sender.send_latest(1, price(1, tick)).unwrap();
                    if setup.deflate.is_some() {
                        assert!(!peer.next().await.unwrap().payload.is_empty());
                    } else {
                        peer.expect_text(&price(1, tick)).await;
                    }
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_gets_the_newest_of_each_key() {
    const TICKS: usize = 1500;
    for role in BOTH {
        for form in FORMS {
            let (sender, mut peer, _seen) = run(form, role, &narrow()).await;
            for tick in 0..TICKS {
                for symbol in 0..3 {
                    sender
                        .send_latest(symbol, Prepared::new(price(symbol, tick)))
                        .unwrap();
                }
                if tick % 7 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            let waits = sender.buffered_amount();
            assert!(waits <= 17_000, "{form:?} {role:?}: {waits} bytes wait");
            let flushed = tokio::spawn({
                let sender = sender.clone();
                async move { sender.flush().await }
            });
            let (mut last, mut received) = ([None; 3], 0);
            while last != [Some(TICKS - 1); 3] {
                let payload = peer.expect(0x81).await;
                let text = String::from_utf8(payload).unwrap();
                let (symbol, tick) = text.split_once(": ").unwrap();
                let (symbol, tick): (usize, usize) =
                    (symbol.parse().unwrap(), tick.parse().unwrap());
                assert!(last[symbol] < Some(tick), "{form:?}: {text} is older");
                last[symbol] = Some(tick);
                received += 1;
            }
            // What the pipe and one write hold, and the newest.
            assert!(received < 200, "{form:?} {role:?}: {received} were sent");
            within(flushed).await.unwrap().unwrap();
            // And nothing older comes behind it.
            sender.send("behind").await.unwrap();
            peer.expect_text("behind").await;
        }
    }
}

/// What replaces another takes no more room, wherever that one is.
#[tokio::test(start_paused = true)]
async fn keys_that_fit_into_the_output_limit_can_be_replaced_for_ever() {
    const KEYS: usize = 40;
    const ROUNDS: usize = 50;
    let message = |key: usize, round: usize| format!("{key} {round} {:01000}", 0);
    for role in BOTH {
        for form in FORMS {
            let (sender, mut peer, _seen) = run(form, role, &narrow()).await;
            for round in 0..ROUNDS {
                for key in 0..KEYS {
                    let sent = sender.send_latest(key as u64, message(key, round));
                    sent.unwrap_or_else(|error| panic!("{form:?} {role:?} {round}: {error}"));
                    if (key + round) % 9 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            }
            let flushed = tokio::spawn({
                let sender = sender.clone();
                async move { sender.flush().await }
            });
            let mut newest = 0;
            while newest < KEYS {
                let text = String::from_utf8(peer.expect(0x81).await).unwrap();
                newest += usize::from(text.split(' ').nth(1) == Some("49"));
            }
            within(flushed).await.unwrap().unwrap();
        }
    }
}

/// A bug: nobody had written what waited, so that it was refused for ever.
#[tokio::test(start_paused = true)]
async fn there_is_room_again_once_the_peer_has_read_though_nobody_receives() {
    for role in BOTH {
        let setup = Setup {
            output_limit: 5000,
            ..narrow()
        };
        let (mut socket, mut peer) = setup.open(role).await;
        for (key, size) in [(0, 2000), (1, 6000)] {
            socket.send_latest(key, vec![7; size]).unwrap();
        }
        assert!(socket.send_latest(2, "more").unwrap_err().is_full());
        let reading = tokio::spawn(async move {
            while let Some(frame) = peer.next().await {
                if frame.payload == b"more" {
                    return;
                }
            }
        });
        within(async {
            while socket.send_latest(2, "more").is_err() {
                sleep(Duration::from_millis(10)).await;
            }
            socket.flush().await.unwrap();
        })
        .await;
        within(reading).await.unwrap();
    }
}

/// Keys may be chosen by whoever sends, and so many of them are a backlog too.
#[tokio::test(start_paused = true)]
async fn no_more_wait_than_the_output_limit() {
    const KEYS: u64 = 1000;
    let message = |key: u64| format!("{key:01000}");
    for role in BOTH {
        for form in FORMS {
            let setup = narrow();
            let (sender, mut peer, _seen) = run(form, role, &setup).await;
            let mut taken = Vec::new();
            for key in 0..KEYS {
                match sender.send_latest(key, message(key)) {
                    Ok(()) => taken.push(key),
                    Err(error) => assert!(error.is_full(), "{form:?} {role:?}: {error}"),
                }
                tokio::task::yield_now().await;
            }
            // With a driver as many again, which it has taken over and has yet to count.
            let most = 2 * (setup.output_limit + setup.pipe) / message(0).len() + 20;
            assert!(
                (setup.output_limit / 2000..=most).contains(&taken.len()),
                "{form:?} {role:?}: {} wait",
                taken.len()
            );
            let flushed = tokio::spawn({
                let sender = sender.clone();
                async move { sender.flush().await }
            });
            for key in taken {
                peer.expect_text(&message(key)).await;
            }
            within(flushed).await.unwrap().unwrap();
            sender.send_latest(KEYS, "there is room again").unwrap();
            peer.expect_text("there is room again").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_goes_out_as_soon_as_the_peer_reads_though_nobody_sends() {
    for role in BOTH {
        // A socket that nobody drives writes with what is sent or received next.
        for form in [Form::Driven, Form::Events] {
            let (sender, mut peer, _seen) = run(form, role, &narrow()).await;
            let large = vec![7; 5000];
            sender.send(&large).await.unwrap();
            for tick in 0..10 {
                sender.send_latest(1, price(1, tick)).unwrap();
            }
            sleep(Duration::from_secs(60)).await;
            assert_eq!(peer.expect(0x82).await, large);
            peer.expect_text(&price(1, 9)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_comes_before_a_close_and_not_after() {
    for role in BOTH {
        for form in FORMS {
            let (sender, mut peer, _seen) = run(form, role, &narrow()).await;
            let large = vec![7; 5000];
            sender.try_send(&large).unwrap();
            for tick in 0..10 {
                sender.send_latest(1, price(1, tick)).unwrap();
            }
            let closing = tokio::spawn({
                let sender = sender.clone();
                async move { sender.close(CloseCode::NORMAL, "").await }
            });
            assert_eq!(peer.expect(0x82).await, large);
            peer.expect_text(&price(1, 9)).await;
            assert_eq!(peer.expect_close().await.0, 1000);
            within(closing).await.unwrap().unwrap();
            let error = sender.send_latest(1, "late").unwrap_err();
            assert!(error.is_closed(), "{form:?}: {error:?}");
        }
    }
}

/// Nothing may come within a message that is sent in parts (RFC 6455 §5.4), and of what waits for its
/// end only the newest is sent.
#[tokio::test(start_paused = true)]
async fn it_waits_for_the_end_of_a_message_in_parts() {
    for role in BOTH {
        for form in FORMS {
            let (sender, mut peer, _seen) = run(form, role, &Setup::default()).await;
            let mut writer = sender
                .send_stream(sockeye::MessageKind::Text)
                .await
                .unwrap();
            writer.write_all(b"begun, ").await.unwrap();
            for tick in 0..10 {
                sender.send_latest(1, price(1, tick)).unwrap();
            }
            writer.write_all(b"and ended").await.unwrap();
            writer.finish().await.unwrap();
            sender.flush().await.unwrap();
            let (mut whole, mut frame) = (Vec::new(), peer.next().await.unwrap());
            while frame.first & 0x80 == 0 {
                whole.extend(frame.payload);
                frame = peer.next().await.unwrap();
            }
            whole.extend(frame.payload);
            assert_eq!(whole, b"begun, and ended");
            peer.expect_text(&price(1, 9)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_says_that_the_connection_is_lost() {
    for form in FORMS {
        let (sender, peer, seen) = run(form, Role::Server, &narrow()).await;
        drop(peer);
        let _ = within(seen).await.unwrap();
        let error = sender.send_latest(1, "to nobody").unwrap_err();
        assert!(error.is_closed() || error.is_lost(), "{form:?}: {error:?}");
    }
}

/// A handler that sends as much as it is told to for each message, in one of the ways that never wait.
struct Flood {
    count: usize,
    way: Way,
    tell: mpsc::UnboundedSender<String>,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Send,
    TrySend,
    Latest,
}

impl Handler for Flood {
    fn on_message(&mut self, socket: &mut Socket, _: MessageRef<'_>) {
        let mut refused = 0;
        for tick in 0..self.count {
            let message = price(0, tick);
            let sent: Result<()> = match self.way {
                Way::Send => {
                    socket.send(message);
                    Ok(())
                }
                Way::TrySend => socket.try_send(message),
                Way::Latest => socket.send_latest(0, message),
            };
            if let Err(error) = sent {
                assert!(error.is_full() || error.is_closed(), "{error:?}");
                refused += 1;
            }
        }
        let open = socket.is_open();
        self.tell
            .send(format!("{refused} refused, open: {open}"))
            .unwrap();
    }

    fn on_error(&mut self, _: &mut Socket, error: &Error) {
        self.tell.send(format!("error: {error}")).unwrap();
    }

    fn on_close(&mut self, _: &mut Socket, ended: &Ended) {
        self.tell
            .send(format!("{} {}", ended.code(), ended.reason()))
            .unwrap();
    }
}

type Told = mpsc::UnboundedReceiver<String>;

async fn flood(
    setup: &Setup,
    role: Role,
    count: usize,
    way: Way,
) -> (Peer<DuplexStream>, Told, JoinHandle<Ended>) {
    let (socket, mut peer) = setup.open(role).await;
    let (tell, told) = mpsc::unbounded_channel();
    let handling = tokio::spawn(socket.handle(Flood { count, way, tell }));
    peer.send_frame(0x81, "go").await;
    (peer, told, handling)
}

mod in_callbacks {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn try_send_drops_the_newest_at_the_high_water_mark() {
        for role in BOTH {
            let (mut peer, mut told, _) = flood(&narrow(), role, 1000, Way::TrySend).await;
            // Of 93 bytes each; framed by a client, 99.
            let header = if role == Role::Server { 2 } else { 6 };
            let sent = 10_000_usize.div_ceil(93 + header);
            let line = within(told.recv()).await.unwrap();
            assert_eq!(line, format!("{} refused, open: true", 1000 - sent));
            for tick in 0..sent {
                peer.expect_text(&price(0, tick)).await;
            }
            peer.send_close(1000, "").await;
            assert_eq!(peer.expect_close().await.0, 1000);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn send_latest_keeps_the_newest() {
        for role in BOTH {
            let (mut peer, mut told, _) = flood(&narrow(), role, 1000, Way::Latest).await;
            let line = within(told.recv()).await.unwrap();
            assert_eq!(line, "0 refused, open: true");
            peer.expect_text(&price(0, 0)).await;
            peer.expect_text(&price(0, 999)).await;
            peer.send_close(1000, "").await;
            assert_eq!(peer.expect_close().await.0, 1000);
        }
    }

    fn closing(code: CloseCode) -> Setup {
        Setup {
            close_on_overflow: Some(code),
            ..narrow()
        }
    }

    const REASON: &str = "the peer does not read: more than 50000 bytes waited for it";

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_again_gets_what_waited_and_the_close() {
        for code in [CloseCode::POLICY_VIOLATION, CloseCode::TRY_AGAIN_LATER] {
            for role in BOTH {
                let (mut peer, mut told, handling) =
                    flood(&closing(code), role, 1000, Way::Send).await;
                let line = within(told.recv()).await.unwrap();
                assert_eq!(line, "0 refused, open: false");
                let mut messages = 0;
                let close = loop {
                    let frame = peer.next().await.unwrap();
                    if frame.first == 0x88 {
                        break frame.payload;
                    }
                    messages += 1;
                };
                assert!((500..550).contains(&messages), "{messages}");
                assert_eq!(close[..2], code.as_u16().to_be_bytes());
                assert_eq!(close[2..], *REASON.as_bytes());
                peer.send_close(code.as_u16(), "").await;
                drop(peer);
                let ended = within(handling).await.unwrap();
                assert_eq!(ended.code(), code.as_u16(), "{ended}");
                let line = within(told.recv()).await.unwrap();
                assert_eq!(line, format!("{} {REASON}", code.as_u16()));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_is_given_up_after_the_close_timeout() {
        let (_peer, mut told, handling) = flood(
            &closing(CloseCode::TRY_AGAIN_LATER),
            Role::Server,
            1000,
            Way::Send,
        )
        .await;
        let begin = tokio::time::Instant::now();
        let ended = within(handling).await.unwrap();
        assert!(matches!(ended, Ended::TimedOut), "{ended}");
        assert_eq!(begin.elapsed(), Duration::from_secs(5));
        within(told.recv()).await.unwrap();
        assert!(within(told.recv()).await.unwrap().starts_with("error: "));
    }

    /// 1010 is a client's (RFC 6455 §7.4.1).
    #[tokio::test(start_paused = true)]
    async fn a_code_that_may_not_be_sent_cuts_off() {
        let (_peer, _told, handling) = flood(
            &closing(CloseCode::MANDATORY_EXTENSION),
            Role::Server,
            1000,
            Way::Send,
        )
        .await;
        let ended = within(handling).await.unwrap();
        assert!(
            matches!(ended, Ended::Overflow { limit: 50_000 }),
            "{ended}"
        );
    }
}
