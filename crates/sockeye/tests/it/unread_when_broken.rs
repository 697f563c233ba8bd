//! A bug: a task that had done so much that tokio had it yield was not let read, and took that for the end of what
//! a connection had received that could no longer be written. What had come was lost. In the event form it was lost
//! in any case.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use sockeye::{Handler, MessageRef, Socket, WebSocket};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex, join},
    sync::mpsc,
    task::{
        coop::{has_budget_remaining, poll_proceed},
        yield_now,
    },
};

use crate::wire::*;

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

/// Does so much in this poll that nothing of tokio's, or one thing, is let do anything more.
fn spend(left: usize) {
    let cx = &mut Context::from_waker(Waker::noop());
    while let Poll::Ready(turn) = poll_proceed(cx) {
        if left == 1 && !has_budget_remaining() {
            // Given back.
            return;
        }
        turn.made_progress();
    }
}

async fn answer(
    mut socket: WebSocket,
    form: Form,
    writer: Breaking,
    left: Option<usize>,
    told: &mpsc::UnboundedSender<String>,
) -> sockeye::Result<()> {
    while let Some(message) = socket.recv().await? {
        let text = message.as_text().unwrap().to_owned();
        told.send(text).unwrap();
        writer.break_off();
        let sent = socket.send("answer").await;
        if form == Form::Driven {
            // It is written when the task yields.
            yield_now().await;
        } else {
            assert!(sent.unwrap_err().is_lost());
        }
        if let Some(left) = left {
            spend(left);
        }
    }
    Ok(())
}

/// The same with callbacks.
struct Answering {
    writer: Breaking,
    told: mpsc::UnboundedSender<String>,
    left: Option<usize>,
}

impl Handler for Answering {
    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        self.told.send(message.to_string()).unwrap();
        self.writer.break_off();
        socket.send("answer");
        if let Some(left) = self.left {
            spend(left);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_come_is_received_by_a_task_that_has_to_yield() {
    for form in FORMS {
        for left in [0, 1] {
            let seen = seen(form, Some(left)).await;
            assert_eq!(seen, ["one", "two", "three"], "{form:?} {left}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn so_it_is_where_it_need_not() {
    for form in FORMS {
        assert_eq!(seen(form, None).await, ["one", "two", "three"], "{form:?}");
    }
}

/// What is received of three messages, in two pieces that are not read at once.
async fn seen(form: Form, left: Option<usize>) -> Vec<String> {
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
        match form {
            Form::Plain => drop(answer(socket, form, writer, left, &told).await),
            Form::Driven => {
                let work = async |socket| answer(socket, form, writer, left, &told).await;
                drop(socket.drive(work).await);
            }
            Form::Events => {
                let told = told.clone();
                let handler = Answering { writer, told, left };
                drop(socket.handle(handler).await);
            }
        }
    })
    .await;
    drop(told);
    let mut seen = Vec::new();
    while let Some(message) = messages.recv().await {
        seen.push(message);
    }
    seen
}
