//! Requests for something else than a WebSocket, handed to hyper with the bytes already read.

use std::{
    error::Error as StdError,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::{Request, Response, body, server::conn::http1, service::Service};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::PlainHttp;
use crate::stream::Stream;

/// Serves one request. What goes wrong with it is between the client and the service.
pub(super) async fn serve<S, B>(plain: PlainHttp, service: S)
where
    S: Service<Request<body::Incoming>, Response = Response<B>>,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    B: body::Body<Error: Into<Box<dyn StdError + Send + Sync>>> + 'static,
{
    let stream = Rewound {
        stream: plain.stream,
        bytes: plain.bytes,
        at: 0,
    };
    // One request a connection: a further one could be for a WebSocket, which is not hyper's.
    let _ = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// A stream that gives what was read from it once more.
struct Rewound {
    stream: Stream,
    bytes: Vec<u8>,
    at: usize,
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
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
