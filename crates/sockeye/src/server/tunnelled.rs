//! A stream of HTTP/2 that has become a WebSocket's (RFC 8441 §5): its connection is in use for as long as it is there.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    runtime::Handle,
    time::timeout,
};

use super::idle::Tunnel;
use crate::stream::Stream;

/// The most that is written at once, in bytes: hyper copies what it is given, and holds three such pieces and h2 one
/// before anybody has to wait.
const PIECE: usize = 64 * 1024;

/// How long a client may take for the last bytes of a stream before that counts as waiting for it.
const SOON: Duration = Duration::from_secs(2);

/// The stream.
pub(crate) struct Tunnelled {
    stream: Stream,
    /// None where the connection is not this crate's, or once this has ended.
    tunnel: Option<Tunnel>,
}

impl Tunnelled {
    pub(crate) fn new(stream: Stream, tunnel: Option<Tunnel>) -> Self {
        Self { stream, tunnel }
    }
}

/// What hyper has of it goes out still; where the client does not take that soon, it is known of until it is gone, or the
/// connection.
impl Drop for Tunnelled {
    fn drop(&mut self) {
        if let (Some(tunnel), Ok(runtime)) = (self.tunnel.take(), Handle::try_current()) {
            let mut stream = self.stream.take_out();
            runtime.spawn(async move {
                if timeout(SOON, stream.shutdown()).await.is_err() {
                    let _leaving = tunnel.leave();
                    let _ = stream.shutdown().await;
                }
            });
        }
    }
}

impl AsyncRead for Tunnelled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Tunnelled {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let piece = &bytes[..bytes.len().min(PIECE)];
        Pin::new(&mut self.stream).poll_write(cx, piece)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        if shut.is_ready() {
            // hyper has nothing of it any more.
            self.tunnel = None;
        }
        shut
    }
}
