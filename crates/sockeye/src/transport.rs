//! A stream in two halves, read and written by different owners.

use std::{
    io::{self, IoSlice},
    mem,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::BufMut;
use sockeye_proto::Output;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::tcp,
};

use crate::stream::Stream;

/// The half that is read.
#[derive(Debug)]
pub(crate) enum ReadHalf {
    /// Without a lock: TCP reads and writes independently.
    Tcp(tcp::OwnedReadHalf),
    Other(tokio::io::ReadHalf<Stream>),
}

/// The half that is written.
#[derive(Debug)]
pub(crate) enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    Other(tokio::io::WriteHalf<Stream>),
    /// May hold back something that was written, as TLS does. TCP never does.
    Unflushed(tokio::io::WriteHalf<Stream>),
    /// The connection has ended.
    Gone,
}

pub(crate) fn split(stream: Stream) -> (ReadHalf, WriteHalf) {
    match stream {
        Stream::Tcp(stream) => {
            let (read, write) = stream.into_split();
            (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
        }
        stream => {
            let (read, write) = tokio::io::split(stream);
            (ReadHalf::Other(read), WriteHalf::Other(write))
        }
    }
}

impl ReadHalf {
    /// Reads once into `buffer`: how many bytes, 0 at the end of the stream.
    #[inline]
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(match self {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, &mut buffer),
            Self::Other(half) => Pin::new(half).poll_read(cx, &mut buffer),
        })?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Whether it is known that there is nothing to read now; the task is then woken for more. Only
    /// TCP knows before it is read.
    #[inline]
    pub(crate) fn is_dry(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Tcp(half) => half.as_ref().poll_read_ready(cx).is_pending(),
            Self::Other(_) => false,
        }
    }

    /// Reads once into the room that `buffer` has behind its end, at most `limit` bytes.
    pub(crate) fn poll_append(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Vec<u8>,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        let mut buffer = buffer.limit(limit);
        // `read_buf` keeps nothing between polls: a new future a poll loses nothing.
        match self {
            Self::Tcp(half) => {
                let future = pin!(half.read_buf(&mut buffer));
                future.poll(cx)
            }
            Self::Other(half) => {
                let future = pin!(half.read_buf(&mut buffer));
                future.poll(cx)
            }
        }
    }
}

impl WriteHalf {
    /// Writes what waits, in one call where the transport takes it: how many bytes it took.
    #[inline]
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        output: &Output,
    ) -> Poll<io::Result<usize>> {
        let Some(only) = output.only_chunk() else {
            return self.poll_write_pieces(cx, output);
        };
        // Without a waker first, which most writes do not need.
        if let Some(count) = self.try_write(only)? {
            return Poll::Ready(Ok(count));
        }
        match self {
            Self::Tcp(half) => Pin::new(half).poll_write(cx, only),
            Self::Other(half) | Self::Unflushed(half) => {
                let written = Pin::new(half).poll_write(cx, only);
                self.note(&written);
                written
            }
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Writes without waiting, and without a waker: how many bytes it took; `None` where that has to be
    /// [polled](Self::poll_write).
    #[inline]
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        match self {
            Self::Tcp(half) => match half.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                written => written.map(Some),
            },
            _ => Ok(None),
        }
    }

    /// Writes though the system has not said that there is room: how many bytes it took, where it took any. Known of TCP
    /// on Linux, which has room long before it says so.
    #[cfg(all(target_os = "linux", any(feature = "client", feature = "server")))]
    pub(crate) fn push(&self, bytes: &[u8]) -> Option<usize> {
        /// Without SIGPIPE, as the standard library and tokio write.
        const MSG_NOSIGNAL: i32 = 0x4000;
        let Self::Tcp(half) = self else {
            return None;
        };
        let socket = socket2::SockRef::from(half.as_ref());
        socket.send_with_flags(bytes, MSG_NOSIGNAL).ok()
    }

    #[cfg(not(all(target_os = "linux", any(feature = "client", feature = "server"))))]
    pub(crate) fn push(&self, _: &[u8]) -> Option<usize> {
        None
    }

    fn poll_write_pieces(
        &mut self,
        cx: &mut Context<'_>,
        output: &Output,
    ) -> Poll<io::Result<usize>> {
        /// More pieces than this go out in the next call.
        const PIECES: usize = 32;
        let mut pieces = [IoSlice::new(&[]); PIECES];
        let mut count = 0;
        for (piece, chunk) in pieces.iter_mut().zip(output.chunks()) {
            *piece = IoSlice::new(chunk);
            count += 1;
        }
        match self {
            Self::Tcp(half) => Pin::new(half).poll_write_vectored(cx, &pieces[..count]),
            Self::Other(half) | Self::Unflushed(half) => {
                let written = Pin::new(half).poll_write_vectored(cx, &pieces[..count]);
                self.note(&written);
                written
            }
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Notes that something was written which the transport may hold back.
    fn note(&mut self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(_))) {
            *self = match mem::replace(self, Self::Gone) {
                Self::Other(half) => Self::Unflushed(half),
                other => other,
            };
        }
    }

    /// Pushes out what the transport itself holds back.
    #[inline]
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Self::Unflushed(half) = self {
            ready!(Pin::new(half).poll_flush(cx))?;
            *self = match mem::replace(self, Self::Gone) {
                Self::Unflushed(half) => Self::Other(half),
                other => other,
            };
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the transport holds nothing back.
    #[inline]
    pub(crate) fn is_flushed(&self) -> bool {
        !matches!(self, Self::Unflushed(_))
    }

    /// Goes without ending this direction of the transport, where the other half goes too: closing the
    /// socket ends both. Dropped as it is, it would be shut down before: a system call for nothing.
    pub(crate) fn leave_to_close(&mut self) {
        if let Self::Tcp(half) = mem::replace(self, Self::Gone) {
            half.forget();
        }
    }

    /// Ends this direction of the transport.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(half) => Pin::new(half).poll_shutdown(cx),
            Self::Other(half) | Self::Unflushed(half) => Pin::new(half).poll_shutdown(cx),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }
}
