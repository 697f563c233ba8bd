//! A stream of the user's own that always has something to read, and knows nothing of tokio's turns, is bounded by the
//! same deadlines as any other.

use std::{
    io,
    pin::Pin,
    sync::mpsc,
    task::{Context, Poll},
    thread,
    time::Duration,
};

use sockeye::{CloseCode, Ended, Handler, MessageRef, Result, Socket, WebSocket};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::Builder,
};

use crate::wire::{Setup, frame};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// A client that has asked for a WebSocket and then says the same for ever, whatever it is told.
struct Endless {
    says: Vec<u8>,
    /// How much of the request and of what follows was read.
    at: usize,
}

impl Endless {
    fn new(says: Vec<u8>) -> Self {
        Self { says, at: 0 }
    }
}

impl AsyncRead for Endless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while buffer.remaining() > 0 {
            let rest = match self.at.checked_sub(REQUEST.len()) {
                None => &REQUEST.as_bytes()[self.at..],
                Some(behind) => &self.says[behind % self.says.len()..],
            };
            let count = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..count]);
            self.at += count;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// How a connection ends with such a client, in a thread that it may keep busy for ever.
fn ended<F>(says: Vec<u8>, user: impl FnOnce(WebSocket) -> F + Send + 'static) -> Ended
where
    F: Future<Output = ()>,
{
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let ended = runtime.block_on(async {
            let setup = Setup {
                close_timeout: Duration::from_millis(50),
                ..Setup::default()
            };
            let socket = setup.acceptor().accept(Endless::new(says)).await.unwrap();
            let sender = socket.sender();
            user(socket).await;
            sender.ended().unwrap()
        });
        tell.send(ended).unwrap();
    });
    told.recv_timeout(Duration::from_secs(20))
        .expect("it goes on")
}

/// Closes at the first message.
struct Closing;

impl Handler for Closing {
    fn on_message(&mut self, socket: &mut Socket, _: MessageRef<'_>) {
        let _ = socket.close(CloseCode::NORMAL, "");
    }
}

async fn first(mut socket: WebSocket) -> Result<()> {
    socket.recv().await.map(drop)
}

/// What still comes is discarded until the peer has read why.
#[test]
fn a_broken_protocol() {
    let broken = || frame(0x83, true, &[0; 1000]);
    let driven = ended(broken(), async |socket| {
        drop(socket.drive(first).await);
    });
    let events = ended(broken(), async |socket| drop(socket.handle(Closing).await));
    for ended in [driven, events] {
        assert!(matches!(ended, Ended::Protocol(_)), "{ended:?}");
    }
}

#[test]
fn a_close_that_is_not_answered() {
    let message = || frame(0x82, true, &[0; 60_000]);
    let free = ended(message(), async |mut socket| {
        let _ = socket.close(CloseCode::NORMAL, "").await;
    });
    let driven = ended(message(), async |socket| {
        drop(socket.drive(first).await);
    });
    let events = ended(message(), async |socket| drop(socket.handle(Closing).await));
    for ended in [free, driven, events] {
        assert!(matches!(ended, Ended::TimedOut), "{ended:?}");
    }
}
