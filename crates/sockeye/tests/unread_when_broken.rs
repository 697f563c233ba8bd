//! A bug: a task that had done so much that tokio had it yield was not let read, and took that for the end of what
//! a connection had received that could no longer be written. What had come was lost.
#![allow(clippy::unwrap_used, missing_docs)]

mod wire;

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::FutureExt;
use sockeye::WebSocket;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex, join},
    sync::mpsc,
    task::{coop::has_budget_remaining, yield_now},
};
use wire::*;

/// Takes everything until it is broken.
#[derive(Clone, Default)]
struct Breaking(Arc<AtomicBool>);

impl Breaking {
    fn break_off(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl AsyncWrite for Breaking {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(match self.0.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => Ok(bytes.len()),
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Does so much in this poll that nothing of tokio's is let do anything more.
fn spend() {
    let (tell, mut told) = mpsc::unbounded_channel();
    while has_budget_remaining() {
        tell.send(()).unwrap();
        told.recv().now_or_never().unwrap();
    }
}

async fn answer(
    mut socket: WebSocket,
    driven: bool,
    writer: Breaking,
    told: &mpsc::UnboundedSender<String>,
) -> sockeye::Result<()> {
    while let Some(message) = socket.recv().await? {
        let text = message.as_text().unwrap().to_owned();
        told.send(text).unwrap();
        writer.break_off();
        let sent = socket.send("answer").await;
        if driven {
            // It is written when the task yields.
            yield_now().await;
        } else {
            assert!(sent.unwrap_err().is_lost());
        }
        spend();
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_has_come_is_received_by_a_task_that_has_to_yield() {
    for driven in [false, true] {
        // Two pieces, which are not read at once.
        let (mut early, begin) = duplex(1 << 10);
        let (mut late, rest) = duplex(1 << 10);
        early
            .write_all(
                b"GET / HTTP/1.1\r\nHost: peer\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            )
            .await
            .unwrap();
        let writer = Breaking::default();
        let stream = join(begin.chain(rest), writer.clone());
        let socket = Setup::default().acceptor().accept(stream).await.unwrap();
        early.write_all(&frame(0x81, true, b"one")).await.unwrap();
        drop(early);
        for text in ["two", "three"] {
            late.write_all(&frame(0x81, true, text.as_bytes()))
                .await
                .unwrap();
        }
        drop(late);
        let (told, mut messages) = mpsc::unbounded_channel();
        within(async {
            if driven {
                let work = async |socket| answer(socket, driven, writer, &told).await;
                drop(socket.drive(work).await);
            } else {
                drop(answer(socket, driven, writer, &told).await);
            }
        })
        .await;
        drop(told);
        let mut seen = Vec::new();
        while let Some(message) = messages.recv().await {
            seen.push(message);
        }
        assert_eq!(seen, ["one", "two", "three"], "{driven}");
    }
}
