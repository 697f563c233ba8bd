//! A task that waits for a peer that takes nothing is polled when something has happened, and not again and again
//! because it has woken itself.
#![allow(clippy::unwrap_used, missing_docs)]

mod wire;

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use futures_util::future::join;
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional, duplex},
    time::timeout,
};
use wire::*;

const BIG: usize = 1 << 20;

/// Far more often than anything here needs to be polled.
const MANY: usize = 50;

/// A peer that takes 64 bytes.
fn narrow() -> Setup {
    Setup {
        pipe: 64,
        high_water: 1000,
        ..Setup::default()
    }
}

/// How often a future is polled that waits, in a second or until that is `MANY` times. Time is paused: it passes when
/// nobody is woken.
async fn polls<F: Future>(future: F) -> usize {
    let mut future = pin!(future);
    let mut count = 0;
    let counted = poll_fn(|cx| {
        count += 1;
        assert!(
            future.as_mut().poll(cx).is_pending(),
            "it waits for nothing"
        );
        if count < MANY {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    });
    let _ = timeout(Duration::from_secs(1), counted).await;
    count
}

mod where_nobody_drives {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn in_a_task_that_receives_too() {
        for role in BOTH {
            let (socket, _peer) = narrow().open(role).await;
            let (sender, mut receiver) = socket.split();
            let both = async { join(receiver.recv(), sender.send(vec![0; BIG])).await };
            let polled = polls(both).await;
            assert!(polled < MANY, "{role:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_tunnel() {
        for role in BOTH {
            let (socket, _peer) = narrow().open(role).await;
            let mut tunnel = socket.into_byte_stream();
            let (mut inside, mut outside) = duplex(BIG);
            outside.write_all(&vec![0; BIG]).await.unwrap();
            let polled = polls(copy_bidirectional(&mut tunnel, &mut inside)).await;
            assert!(polled < MANY, "{role:?}");
        }
    }
}
