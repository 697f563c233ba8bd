//! A stream that gives what was read from it once more, and gives up on a client that takes nothing.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{PlainHttp, admission::Place};
use crate::stream::Stream;

/// How long a write of an HTTP response may wait for a client to take anything of it.
pub(super) const STALLED: Duration = Duration::from_secs(60);

/// What hyper reads from and writes to.
pub(crate) struct Rewound {
    stream: Stream,
    bytes: Vec<u8>,
    at: usize,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
    /// There while HTTP is spoken. What comes after it may take its time.
    http: Weak<()>,
    /// Whoever upgrades the connection to something of their own has this, and nothing else of the server's.
    _place: Option<Arc<Place>>,
}

impl Rewound {
    pub(super) fn new(plain: PlainHttp, http: &Arc<()>) -> Self {
        Self {
            stream: plain.stream,
            bytes: plain.bytes,
            at: 0,
            stalled: None,
            http: Arc::downgrade(http),
            _place: plain.peer.place.upgrade(),
        }
    }

    /// The stream, and what it would have given once more.
    pub(crate) fn into_parts(mut self) -> (Stream, Vec<u8>) {
        self.bytes.drain(..self.at);
        (self.stream, self.bytes)
    }

    fn in_time<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() || self.http.strong_count() == 0 {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALLED)));
        stalled
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = &self.bytes[self.at..];
        if rest.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        self.at += count;
        if self.at == self.bytes.len() {
            (self.bytes, self.at) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.in_time(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.in_time(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.in_time(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    fn rewound(room: usize, bytes: &[u8], http: &Arc<()>) -> (tokio::io::DuplexStream, Rewound) {
        let (client, server) = duplex(room);
        let plain = PlainHttp {
            stream: Stream::new(server),
            bytes: bytes.to_vec(),
            request: None,
            peer: crate::server::Peer::default(),
        };
        (client, Rewound::new(plain, http))
    }

    #[tokio::test]
    async fn what_was_read_comes_first_and_what_was_not_is_kept() {
        let (mut client, mut stream) = rewound(64, b"abcd", &Arc::default());
        client.write_all(b"ef").await.unwrap();
        let mut two = [0; 2];
        stream.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"ab");
        let (mut rest, bytes) = stream.into_parts();
        assert_eq!(bytes, b"cd");
        rest.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"ef");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let http = Arc::default();
        let (_client, mut stream) = rewound(8, b"", &http);
        let begin = tokio::time::Instant::now();
        let error = stream.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begin.elapsed(), STALLED);
    }

    /// A tunnel was given up too.
    #[tokio::test(start_paused = true)]
    async fn what_comes_after_http_may_wait() {
        let http = Arc::default();
        let (mut client, mut stream) = rewound(8, b"", &http);
        let writing = tokio::spawn(async move { stream.write_all(&[7; 100]).await });
        sleep(STALLED / 2).await;
        drop(http);
        sleep(STALLED * 10).await;
        let mut all = [0; 100];
        client.read_exact(&mut all).await.unwrap();
        writing.await.unwrap().unwrap();
    }
}
