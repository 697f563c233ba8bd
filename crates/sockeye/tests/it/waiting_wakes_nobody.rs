//! A task that waits for a peer that takes nothing is polled when something has happened, and not again and again
//! because it has woken itself.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use futures_util::{StreamExt, future::join, stream::FuturesUnordered};
use sockeye::{CloseCode, MessageKind, Result, Sender};
use tokio::{
    io::{AsyncWriteExt, DuplexStream, copy_bidirectional, duplex},
    sync::oneshot,
    time::timeout,
};

use crate::wire::*;

const BIG: usize = 1 << 16;

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

mod where_the_task_drives_too {
    use super::*;

    /// What waits for a peer that takes nothing.
    #[derive(Clone, Copy, Debug)]
    enum Wait {
        Send,
        Flush,
        Parts,
    }

    const ALL: [Wait; 3] = [Wait::Send, Wait::Flush, Wait::Parts];

    async fn wait(wait: Wait, sender: &Sender) -> Result<()> {
        sender.send(vec![0; BIG]).await?;
        match wait {
            Wait::Send => sender.send("waits").await,
            Wait::Flush => sender.flush().await,
            Wait::Parts => {
                let mut writer = sender.send_stream(MessageKind::Binary).await?;
                writer.write_all(&vec![0; BIG]).await?;
                writer.finish().await
            }
        }
    }

    /// In a set of futures, of which only those are polled that were woken.
    #[tokio::test(start_paused = true)]
    async fn until_another_handle_closes() {
        let (socket, _peer) = narrow().open(Role::Server).await;
        let driven = socket.drive(async |socket| {
            let sender = socket.sender();
            sender.send(vec![0; BIG]).await?;
            let mut waiting = FuturesUnordered::from_iter([sender.send("waits")]);
            let first = poll_fn(|cx| Poll::Ready(waiting.poll_next_unpin(cx).is_pending()));
            assert!(first.await);
            let _ = sender.close(CloseCode::NORMAL, "").await;
            let refused = timeout(Duration::from_secs(1), waiting.next()).await;
            refused.expect("nobody has told it").unwrap()
        });
        assert!(within(driven).await.unwrap_err().is_closed());
    }

    /// Within the handler of one connection, another is driven.
    #[tokio::test(start_paused = true)]
    async fn from_inside_another_driver() {
        for waits in ALL {
            let (socket, mut peer) = narrow().open(Role::Server).await;
            let (upstream, _server) = narrow().open(Role::Client).await;
            let sender = socket.sender();
            let mut driven = pin!(socket.drive(async |_socket| {
                upstream
                    .drive(async |_upstream| wait(waits, &sender).await)
                    .await?;
                Ok(())
            }));
            let polled = polls(driven.as_mut()).await;
            assert!(polled < MANY, "{waits:?}");
            // It is still woken once there is room.
            let (ended, ()) = within(join(driven, drain(&mut peer))).await;
            assert!(ended.unwrap().is_some());
        }
    }

    /// Beside its driver, as in a set of futures.
    #[tokio::test(start_paused = true)]
    async fn beside_its_driver() {
        for waits in ALL {
            let (socket, mut peer) = narrow().open(Role::Server).await;
            let sender = socket.sender();
            let (end, ended) = oneshot::channel::<()>();
            let driven = socket.drive(async |_socket| {
                let _ = ended.await;
                Ok(())
            });
            let waiting = async {
                let result = wait(waits, &sender).await;
                drop(end);
                result
            };
            let mut both = pin!(join(driven, waiting));
            let polled = polls(both.as_mut()).await;
            assert!(polled < MANY, "{waits:?}");
            let ((ended, waited), ()) = within(join(both, drain(&mut peer))).await;
            assert!(ended.unwrap().is_some());
            waited.unwrap();
        }
    }

    /// Takes everything, and answers the Close.
    async fn drain(peer: &mut Peer<DuplexStream>) {
        while peer.next().await.unwrap().first != 0x88 {}
        peer.send_close(1000, "").await;
    }
}
