//! A bug: a connection that was sent without end had the runtime look at what came for the others of its thread only
//! after 61 times four reads in the form of events, and after 128 in the async one.
#![allow(clippy::unwrap_used, missing_docs)]

mod wire;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use sockeye::{Handler, MessageRef, Socket, WebSocket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::*;

const MESSAGES: usize = 20_000;
const PAYLOAD: [u8; 120] = [7; 120];
/// Four reads of 128 KiB hold as many, and one before them that did not fill the buffer.
const MOST: usize = 5 * 128 * 1024 / PAYLOAD.len() + 1;

struct Counting(Arc<AtomicUsize>);

impl Counting {
    fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Handler for Counting {
    fn on_message(&mut self, _: &mut Socket, _: MessageRef<'_>) {
        self.count();
    }
}

async fn receive(form: Form, socket: WebSocket, handler: Counting) {
    let count = async |mut socket: WebSocket| -> sockeye::Result<()> {
        while socket.recv().await?.is_some() {
            handler.count();
        }
        Ok(())
    };
    match form {
        Form::Plain => drop(count(socket).await),
        Form::Driven => drop(socket.drive(count).await),
        Form::Events => drop(socket.handle(handler).await),
    }
}

/// The test itself is what the runtime looks at as seldom as at what comes.
#[tokio::test]
async fn the_runtime_has_its_turn_after_four_reads() {
    for (role, form) in BOTH
        .into_iter()
        .flat_map(|role| FORMS.map(|form| (role, form)))
    {
        let setup = Setup {
            pipe: 4 << 20,
            ..Setup::default()
        };
        let (socket, mut peer) = setup.open(role).await;
        // All of it is there before anybody reads.
        peer.send(peer.frame(0x82, PAYLOAD).repeat(MESSAGES)).await;
        let handled = Arc::new(AtomicUsize::new(0));
        let seen = handled.clone();
        tokio::spawn(receive(form, socket, Counting(handled)));
        let most = most_in_a_turn(&seen, MESSAGES).await;
        assert!(most <= MOST, "{role:?} {form:?}: {most} messages in a turn");
    }
}

/// A bug: on a connection that nobody drives, who receives looked at the time, and wrote what was left, only where there
/// was nothing to read.
#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_whose_peer_never_pauses() {
    for role in BOTH {
        let setup = Setup {
            pipe: 8 << 20,
            ..Setup::default()
        };
        let (mut socket, mut peer) = setup.open(role).await;
        tokio::spawn(async move { while let Ok(Some(_)) = socket.recv().await {} });
        let frames = peer.frame(0x82, vec![7; 16 << 10]).repeat(64);
        // 33 seconds, and a ping is due after 30.
        for _ in 0..330 {
            peer.stream.write_all(&frames).await.unwrap();
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        let mut ping = [0; 1];
        let read = peer.stream.read(&mut ping).now_or_never();
        assert_eq!(read.map(Result::ok), Some(Some(1)), "{role:?}");
        assert_eq!(ping, [0x89]);
    }
}
