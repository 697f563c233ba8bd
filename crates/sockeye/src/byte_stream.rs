//! A WebSocket as a stream of bytes, for tunnels.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use sockeye_proto::{CloseCode, CloseFrame, MessageKind, Part};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{Ended, Error, Receiver, WebSocket, link::Command, shared::Shared};

/// A WebSocket as a stream of bytes: the payloads of its binary messages, one after another.
///
/// ```no_run
/// # async fn example(socket: sockeye::WebSocket) -> sockeye::Result<()> {
/// let mut tunnel = socket.into_byte_stream();
/// let mut tcp = tokio::net::TcpStream::connect("127.0.0.1:22").await?;
/// tokio::io::copy_bidirectional(&mut tunnel, &mut tcp).await?;
/// # Ok(())
/// # }
/// ```
///
/// Each write is a binary message of at most 64 KiB, compressed where that was agreed; what comes is
/// given as it arrives, in messages of any size and number. The bounds of messages mean nothing
/// here. Reading and writing in one task, as above, or with [`tokio::io::split`] in two, answers
/// pings.
///
/// # The end
/// A read of no bytes is the end: either end has closed with 1000, or without a code. Any other end is
/// an error, so that what was cut off does not look complete: another code, such as 1001 where a
/// `ByteStream` was dropped without `shutdown`, or where this end has closed for being idle or because
/// its server ends, is [`io::ErrorKind::ConnectionAborted`], and one of
/// those that are no error, but within a message, [`Error::Incomplete`]. A text message is answered with 1003, and is [`io::ErrorKind::InvalidData`].
///
/// `shutdown` closes with 1000 behind what was written. It is an error where the transport fails with some of that
/// unwritten, unless something drives the connection, as a server does: then `shutdown` and `flush` wait for nothing. A
/// WebSocket has no half that stays open: what the peer had sent by then still comes, so read to the end, but it can
/// send nothing more once it sees the Close.
///
/// # Cancel safety
/// Nothing that has arrived is lost, and what a write has taken is queued.
pub struct ByteStream {
    receiver: Receiver,
    /// Whether a message has begun and not ended.
    within: bool,
    /// Whether text came, which ends it.
    refused: bool,
    /// Once it is shut down: whether something that was written waited then.
    closing: Option<bool>,
}

/// The most that one write takes, in bytes.
const MOST: usize = 64 * 1024;

impl ByteStream {
    pub(crate) fn new(receiver: Receiver) -> Self {
        Self {
            receiver,
            within: false,
            refused: false,
            closing: None,
        }
    }

    /// The WebSocket again. What was not read of a message is discarded.
    pub fn into_inner(self) -> WebSocket {
        WebSocket::from_receiver(self.receiver)
    }

    fn shared(&self) -> &Shared {
        self.receiver.shared()
    }

    fn refuse_text(&mut self, cx: &mut Context<'_>) -> io::Error {
        self.refused = true;
        let close = CloseFrame::new(
            CloseCode::UNSUPPORTED_DATA,
            "only binary messages are taken here",
        );
        // Refused only where the connection is closing.
        let _ = self.shared().apply(Command::Close(Some(close)));
        let _ = self.shared().poll_flush(cx, false);
        text_came()
    }
}

fn text_came() -> io::Error {
    let message = "the peer sent text, where only binary messages are taken";
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// What the end of the connection is to whoever reads bytes.
fn end(ended: Option<Ended>) -> io::Result<()> {
    let Some(ended) = ended else { return Ok(()) };
    match &ended {
        Ended::ByPeer(Some(frame)) | Ended::ByUs(frame) if frame.code != CloseCode::NORMAL => {
            let message = ended.to_string();
            Err(io::Error::new(io::ErrorKind::ConnectionAborted, message))
        }
        ended => ended.error().map_or(Ok(()), |error| Err(error.into())),
    }
}

impl AsyncRead for ByteStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.refused {
            return Poll::Ready(Err(text_came()));
        }
        while buffer.remaining() > 0 {
            let room = buffer.initialize_unfilled();
            let within = self.within;
            let part = self.receiver.poll_but_pings(cx, |reader, cx| {
                if !within {
                    // Of a message from before the rest is discarded.
                    reader.skip_message();
                }
                reader.poll_part(cx, room)
            });
            match ready!(part)? {
                // Of one from before, or of much of which nothing has come.
                Some(Part::Data(0)) => {}
                Some(Part::Data(count)) => {
                    buffer.advance(count);
                    break;
                }
                Some(Part::Begin(MessageKind::Text)) => {
                    return Poll::Ready(Err(self.refuse_text(cx)));
                }
                Some(Part::Begin(MessageKind::Binary)) => self.within = true,
                Some(Part::End) => self.within = false,
                Some(Part::Event(_)) => {}
                None => {
                    end(self.receiver.ended())?;
                    if self.within {
                        return Poll::Ready(Err(Error::Incomplete.into()));
                    }
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = &bytes[..bytes.len().min(MOST)];
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let shared = self.shared();
        let mut command = Some(Command::Message(bytes.into()));
        ready!(shared.poll_apply(cx, &mut command))?;
        // As much as the transport takes at once. An error is found again by the next write.
        let _ = shared.poll_flush(cx, false);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.shared().poll_flush(cx, false);
        flushed.map_err(|lost| Error::Lost(lost).into())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closing.is_none() {
            let waits = self.as_mut().poll_flush(cx)?.is_pending();
            self.closing = Some(waits);
            // Refused where it is closing already.
            let _ = self
                .shared()
                .queue_close(Some(CloseFrame::new(CloseCode::NORMAL, "")));
        }
        match ready!(self.shared().poll_flush(cx, false)) {
            Err(lost) if self.closing == Some(true) => Poll::Ready(Err(Error::Lost(lost).into())),
            // A peer that has sent all and is gone takes no Close, and what it has sent is still to be read.
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteStream")
            .field("receiver", &self.receiver)
            .finish_non_exhaustive()
    }
}
