//! A bug: what was read in one go was also inflated in one go, and that may be a thousand times as much. One peer
//! could keep the others of its thread waiting for seconds; and what it sent to a group came to members who had no
//! time to read, and were closed for it. And only what was made was counted: a message of empty blocks, of which
//! nothing is made, took a thread as long as it pleased.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use sockeye::{CloseCode, DeflateConfig, Ended, Handler, MessageRef, Socket, WebSocket};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::Instant,
};

use crate::{
    wire::*,
    wrongs::{HELLO, deflated},
};

const MESSAGES: usize = 8;

#[derive(Clone, Default)]
struct Handled(Arc<AtomicUsize>);

impl Handler for Handled {
    fn on_message(&mut self, _: &mut Socket, message: MessageRef<'_>) {
        assert_eq!(message.len(), 1 << 20);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Tells of each message.
struct Told(mpsc::UnboundedSender<String>);

impl Handler for Told {
    fn on_message(&mut self, _: &mut Socket, message: MessageRef<'_>) {
        self.0.send(message.as_text().unwrap().into()).unwrap();
    }
}

async fn receive(mut socket: WebSocket, handled: Handled) -> sockeye::Result<()> {
    while let Some(message) = socket.recv().await? {
        assert_eq!(message.len(), 1 << 20);
        handled.0.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn receive_in_parts(mut socket: WebSocket, handled: Handled) -> sockeye::Result<()> {
    let mut room = vec![0; 64 << 10];
    while let Some(mut message) = socket.recv_stream().await? {
        let mut len = 0;
        loop {
            match message.read(&mut room).await.unwrap() {
                0 => break,
                count => len += count,
            }
        }
        assert_eq!(len, 1 << 20);
        handled.0.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Bombs that come in one go, and another task of the same thread, which has its turn between any two.
#[tokio::test]
async fn others_have_theirs_between_two_messages() {
    for role in BOTH {
        for form in ["plain", "driven", "parts", "events"] {
            let (socket, mut peer) = Setup::deflate().open(role).await;
            let handled = Handled::default();
            let seen = handled.clone();
            match form {
                "plain" => drop(tokio::spawn(receive(socket, handled))),
                "driven" => drop(tokio::spawn(
                    socket.drive(|socket| receive(socket, handled)),
                )),
                "parts" => drop(tokio::spawn(receive_in_parts(socket, handled))),
                _ => drop(tokio::spawn(socket.handle(handled))),
            }
            let one = peer.frame(0xC2, deflated(&vec![0; 1 << 20]));
            assert!(one.len() < 2000);
            peer.send(one.repeat(MESSAGES)).await;
            let most = most_in_a_turn(&seen.0, MESSAGES).await;
            assert!(most <= 2, "{role:?} {form}: {most} messages in a turn");
        }
    }
}

/// What is not wanted is inflated too where the next message may refer back to it.
#[tokio::test]
async fn others_have_theirs_while_a_message_is_discarded() {
    const MIB: usize = 1 << 20;
    let setup = Setup {
        deflate: Some(DeflateConfig {
            peer_no_context_takeover: false,
            ..DeflateConfig::default()
        }),
        extensions: "permessage-deflate",
        ..Setup::default()
    };
    for form in ["stream", "bytes", "recv", "events", "close"] {
        let (mut socket, mut peer) = setup.open(Role::Server).await;
        peer.send_frame(0xC2, deflated(&vec![0; 32 * MIB])).await;
        let kind = if form == "bytes" { 0x82 } else { 0x81 };
        peer.send_frame(kind, "next").await;
        peer.send_close(1000, "").await;
        assert!(socket.recv_stream().await.unwrap().is_some());
        let next = tokio::spawn(async move {
            let mut next = String::new();
            match form {
                "stream" => {
                    let mut message = socket.recv_stream().await.unwrap().unwrap();
                    message.read_to_string(&mut next).await.unwrap();
                }
                "bytes" => {
                    let mut stream = socket.into_byte_stream().take(4);
                    stream.read_to_string(&mut next).await.unwrap();
                }
                "recv" => {
                    let message = socket.recv().await.unwrap().unwrap();
                    next.push_str(message.as_text().unwrap());
                }
                "events" => {
                    let (told, mut messages) = mpsc::unbounded_channel();
                    tokio::spawn(socket.handle(Told(told)));
                    next.push_str(&messages.recv().await.unwrap());
                }
                _ => {
                    let ended = socket.drive(async |_| Ok(())).await.unwrap();
                    assert!(matches!(ended, Some(Ended::ByUs(_))), "{ended:?}");
                    next.push_str("next");
                }
            }
            next
        });
        let mut turns = 0;
        let counted = poll_fn(|cx| {
            if next.is_finished() {
                return Poll::Ready(());
            }
            turns += 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        within(counted).await;
        assert_eq!(next.await.unwrap(), "next");
        assert!(turns > 16, "{form}: {turns}");
    }
}

/// How often a future is polled until it is done, with what comes of it.
async fn polls<T>(future: impl Future<Output = T>) -> (usize, T) {
    let (mut future, mut polls) = (pin!(future), 0);
    let output = poll_fn(|cx| {
        polls += 1;
        future.as_mut().poll(cx)
    });
    let output = within(output).await;
    (polls, output)
}

/// More than is inflated in one go, of blocks in which there is nothing, and "Hello".
fn empty_blocks(block: [u8; 5]) -> Vec<u8> {
    let mut payload = block.repeat(256 << 10);
    payload.extend_from_slice(&HELLO);
    payload
}

/// In each turn 16 KiB are taken of it.
const TURNS: usize = (5 * (256 << 10)) / (16 << 10);

/// Of the fixed codes, four blocks of ten bits; and a stored one.
const EMPTY_BLOCKS: [[u8; 5]; 2] = [
    [0x02, 0x08, 0x20, 0x80, 0x00],
    [0x00, 0x00, 0x00, 0xFF, 0xFF],
];

#[tokio::test]
async fn a_message_of_empty_blocks_takes_its_turns() {
    let kept = Setup {
        deflate: Some(DeflateConfig {
            peer_no_context_takeover: false,
            ..DeflateConfig::default()
        }),
        extensions: "permessage-deflate",
        ..Setup::default()
    };
    for (block, keeps_context) in EMPTY_BLOCKS.into_iter().zip([false, true]) {
        for form in ["plain", "driven", "events", "parts", "given up", "skipped"] {
            let setup = if keeps_context {
                kept.clone()
            } else {
                Setup::deflate()
            };
            if form == "skipped" && !keeps_context {
                // Not even inflated.
                continue;
            }
            let setup = Setup {
                pipe: 2 << 20,
                ..setup
            };
            let (mut socket, mut peer) = setup.open(Role::Server).await;
            // All of it is there before any of it is read.
            peer.send_frame(0xC1, empty_blocks(block)).await;
            peer.send_frame(0x81, "next").await;
            peer.send_close(1000, "").await;
            let (told, mut messages) = mpsc::unbounded_channel();
            let (polls, ()) = match form {
                "plain" => polls(tell(&mut socket, &told)).await,
                "driven" => {
                    let driven = socket.drive(async |mut socket| {
                        tell(&mut socket, &told).await;
                        Ok(())
                    });
                    polls(async { drop(driven.await.unwrap()) }).await
                }
                "events" => polls(async { drop(socket.handle(Told(told.clone())).await) }).await,
                "parts" => polls(tell_in_parts(&mut socket, &told)).await,
                "given up" => {
                    let mut first = Box::pin(socket.recv());
                    let polled = poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx))).await;
                    assert!(polled.is_pending());
                    drop(first);
                    polls(tell_in_parts(&mut socket, &told)).await
                }
                _ => {
                    told.send("Hello".into()).unwrap();
                    assert!(socket.recv_stream().await.unwrap().is_some());
                    polls(tell(&mut socket, &told)).await
                }
            };
            for expected in ["Hello", "next"] {
                assert_eq!(messages.try_recv().unwrap(), expected, "{form}");
            }
            let least = if form == "given up" { TURNS - 1 } else { TURNS };
            assert!(polls >= least, "{form}: {polls} of {least}");
        }
    }
}

async fn tell(socket: &mut WebSocket, told: &mpsc::UnboundedSender<String>) {
    while let Some(message) = socket.recv().await.unwrap() {
        told.send(message.as_text().unwrap().into()).unwrap();
    }
}

async fn tell_in_parts(socket: &mut WebSocket, told: &mpsc::UnboundedSender<String>) {
    while let Some(mut message) = socket.recv_stream().await.unwrap() {
        let mut text = String::new();
        message.read_to_string(&mut text).await.unwrap();
        told.send(text).unwrap();
    }
}

/// A bug: who closed a connection that nobody drives looked at the time only where there was nothing to do, which never
/// came where each turn ended because much was inflated.
#[tokio::test(start_paused = true)]
async fn the_close_timeout_holds_against_a_peer_of_which_much_is_inflated_without_a_pause() {
    for role in BOTH {
        let setup = Setup {
            pipe: 128 << 10,
            ..Setup::deflate()
        };
        let (mut socket, mut peer) = setup.open(role).await;
        let frames = peer.frame(0xC2, deflated(&vec![0; 1 << 20])).repeat(16);
        let talking = tokio::spawn(async move {
            while peer.stream.write_all(&frames).await.is_ok() {
                tokio::time::advance(Duration::from_millis(200)).await;
            }
        });
        // Until the pipe is full.
        tokio::task::yield_now().await;
        let start = Instant::now();
        let closed = within(socket.close(CloseCode::NORMAL, "")).await;
        assert!(closed.unwrap_err().is_timeout(), "{role:?}");
        let took = start.elapsed().as_secs();
        assert!((5..10).contains(&took), "{role:?}: {took}");
        assert!(matches!(socket.ended(), Some(Ended::TimedOut)));
        within(talking).await.unwrap();
    }
}
