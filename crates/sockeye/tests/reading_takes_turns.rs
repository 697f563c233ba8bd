//! A bug: a handler of events that was sent without end gave the others of its thread their turn after four reads, but
//! only those that were known to have one: what came for the rest was looked at after 61 times as much.
#![allow(clippy::unwrap_used, missing_docs)]

mod wire;

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use sockeye::{Handler, MessageRef, Socket};
use wire::*;

const MESSAGES: usize = 20_000;
const PAYLOAD: [u8; 120] = [7; 120];
/// Four reads of 128 KiB hold as many, and one that was begun before them.
const MOST: usize = 4 * 128 * 1024 / PAYLOAD.len() + 1;

struct Counting(Arc<AtomicUsize>);

impl Handler for Counting {
    fn on_message(&mut self, _: &mut Socket, _: MessageRef<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The test itself is what the runtime looks at as seldom as at what comes.
#[tokio::test]
async fn the_runtime_has_its_turn_after_four_reads() {
    for role in BOTH {
        let setup = Setup {
            pipe: 4 << 20,
            ..Setup::default()
        };
        let (socket, mut peer) = setup.open(role).await;
        // All of it is there before anybody reads.
        peer.send(peer.frame(0x82, PAYLOAD).repeat(MESSAGES)).await;
        let handled = Arc::new(AtomicUsize::new(0));
        let seen = handled.clone();
        tokio::spawn(socket.handle(Counting(handled)));
        let (mut before, mut most) = (0, 0);
        let turns = poll_fn(|cx| {
            let now = seen.load(Ordering::Relaxed);
            most = most.max(now - before);
            before = now;
            if now == MESSAGES {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        within(turns).await;
        assert!(most <= MOST, "{role:?}: {most} messages in a turn");
    }
}
