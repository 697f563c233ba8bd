//! An echo by the library, whose instructions are counted by `run.py`, like those of the core: all between the bytes that
//! come and those that go.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use sockeye::{
    Acceptor, Handler, MessageRef, Socket,
    proto::{
        Role, Sender,
        handshake::{Key, UpgradeRequest},
    },
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How often so many messages come together, and how many those are. The connection ends in what is counted, which is to
/// be lost in the rest.
const READS: usize = 64;
const TOGETHER: usize = 16;

/// What valgrind is told to count.
#[inline(never)]
fn measured<T>(work: impl FnOnce() -> T) -> T {
    work()
}

fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    match *name.split(' ').collect::<Vec<_>>() {
        ["list"] => {
            for form in ["events", "async"] {
                for size in [16, 1024] {
                    println!("{} echo {form} {size}", READS * TOGETHER);
                }
            }
        }
        ["echo", form, size] => echo(form, size.parse().expect("a size in bytes")),
        _ => panic!("{name:?} is no workload"),
    }
}

/// So many texts, as a client sends them.
fn messages(size: usize) -> Vec<u8> {
    let masks = || [0x37, 0xFA, 0x21, 0x3D];
    let mut sender = Sender::new(Role::Client { masks }, None, Duration::from_secs(5));
    let text: String = ('a'..='z').cycle().take(size).collect();
    for _ in 0..TOGETHER {
        sender.send_plain(&*text).expect("it is open");
    }
    sender.output().chunks().collect::<Vec<_>>().concat()
}

/// A connection whose client sends the same again and again, and then goes.
struct Repeating {
    request: Vec<u8>,
    messages: Vec<u8>,
    left: usize,
    answered: usize,
}

impl AsyncRead for Repeating {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.request.is_empty() {
            buffer.put_slice(&std::mem::take(&mut self.request));
        } else if self.left > 0 {
            self.left -= 1;
            buffer.put_slice(&self.messages);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Repeating {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.answered += bytes.len();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Repeating {
    fn drop(&mut self) {
        // Without its mask, each is four bytes shorter.
        let messages = self.messages.len() - 4 * TOGETHER;
        assert!(self.answered > READS * messages, "{}", self.answered);
    }
}

struct Echo;

impl Handler for Echo {
    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        socket.send(message);
    }
}

/// A connection to an echo server of the library.
async fn served(form: &str, size: usize) -> Pin<Box<dyn Future<Output = ()>>> {
    let request = UpgradeRequest::new("example.com", "/", Key::new([7; 16]));
    let stream = Repeating {
        request: request.to_bytes().expect("it can travel"),
        messages: messages(size),
        left: READS,
        answered: 0,
    };
    let accepted = Acceptor::new().accept(stream).await;
    let socket = accepted.expect("it asks for a WebSocket");
    if form == "events" {
        return Box::pin(async { drop(socket.handle(Echo).await) });
    }
    let driven = socket.drive(async |mut socket| {
        while let Some(message) = socket.recv().await? {
            socket.send(message).await?;
        }
        Ok(())
    });
    // The client is gone at the end, without a Close.
    Box::pin(async { drop(driven.await.expect_err("it is lost")) })
}

fn echo(form: &str, size: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = runtime.expect("a runtime");
    // Before, so that the thread has its buffers.
    runtime.block_on(async { served(form, size).await.await });
    let served = runtime.block_on(served(form, size));
    measured(|| runtime.block_on(served));
}
